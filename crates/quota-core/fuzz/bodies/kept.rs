//! What was written by this service, or says that it was: payloads, records, positions, checkpoints, stored states.

use super::events::message;
use quota_core::checkpoint::Signed;
use quota_core::event::{DecodeError, Event, types};
use quota_core::position::Position;
use quota_core::record::{Peek, from_record, peek, to_record};
use quota_core::state::{RowKey, State};
use std::sync::LazyLock;

/// A row's payload, as each type would have it.
pub fn event(bytes: &[u8]) -> bool {
    static NAMES: LazyLock<Vec<&str>> =
        LazyLock::new(|| types().into_iter().map(|(name, ..)| name).collect());
    let mut taken = false;
    for name in NAMES.iter() {
        let unknown = Event::decode(name, 2, bytes);
        assert!(matches!(unknown, Err(DecodeError::UnknownType { .. })));
        let Ok(event) = Event::decode(name, 1, bytes) else {
            continue;
        };
        taken = true;
        assert_eq!(event.type_name(), *name);
        let written = event.encode();
        let again = Event::decode(name, 1, &written).expect("what was written can be read");
        assert_eq!(again, event);
        assert_eq!(again.encode(), written);
    }
    taken
}

/// A record of the ledger's topic, written as [`message`] says.
pub fn record(bytes: &[u8]) -> bool {
    let (headers, value) = message(bytes);
    let seen = peek(headers.iter().copied());
    let Ok(received) = from_record(headers, Some(value)) else {
        return false;
    };
    let expected = Peek {
        epoch: received.epoch,
        offset: received.offset(),
        subject_seq: received.as_row().subject_seq,
    };
    assert_eq!(seen, Some(expected));
    let row = received.clone().into_unchained();
    let written = to_record(&row, &received.ledger_id, received.epoch);
    let headers = written.headers().map(|(name, value)| (name, Some(value)));
    let again = from_record(headers, Some(written.value()));
    assert_eq!(again, Ok(received));
    true
}

/// A position, as clients send it back.
pub fn position(bytes: &[u8]) -> bool {
    let text = std::str::from_utf8(bytes).unwrap_or_default();
    let Ok(position) = text.parse::<Position>() else {
        return false;
    };
    assert!(position.offset >= -1);
    assert_eq!(position.to_string().parse(), Ok(position));
    true
}

/// A line of the checkpoints' file or topic.
pub fn checkpoint(bytes: &[u8]) -> bool {
    let Ok(signed) = Signed::parse(bytes) else {
        return false;
    };
    let line = signed.to_line();
    assert!(!line.contains('\n'));
    assert_eq!(Signed::parse(line.as_bytes()), Ok(signed));
    true
}

/// A stored state: what it is in the first line (`subject`, `resource`, `payment`, `session`), and its bytes.
pub fn state(bytes: &[u8]) -> bool {
    let end = bytes.iter().position(|byte| *byte == b'\n');
    let (kind, body) = bytes.split_at(end.unwrap_or(bytes.len()));
    let body = body.get(1..).unwrap_or_default();
    let key = match kind {
        b"subject" => {
            let Ok(state) = State::from_stored(body, &[]) else {
                return false;
            };
            let written = state.subject_bytes();
            let again = State::from_stored(&written, &[]).expect("what was written can be read");
            assert_eq!(again, state);
            assert_eq!(again.subject_bytes(), written);
            return true;
        }
        b"resource" => RowKey::resource("id"),
        b"payment" => RowKey::payment("id"),
        b"session" => RowKey::session("id"),
        _ => return false,
    };
    let mut state = State::default();
    if state.add_stored(key.clone(), Some(body)).is_err() {
        return false;
    }
    let written = state.thing_bytes(&key).expect("it was added");
    let mut again = State::default();
    again
        .add_stored(key.clone(), Some(&written))
        .expect("what was written can be read");
    assert_eq!(again, state);
    assert_eq!(again.thing_bytes(&key), Some(written));
    true
}
