//! The doors of events: structured, in batches, as headers of HTTP and of Kafka, and whole stories of them.

use super::{catalogs, now, refused, told_again};
use quota_core::command::{Answer, Consume, Fact, Wish};
use quota_core::desk::Desk;
use quota_core::door::{
    Envelope, MAX_BATCH, Rejection, admit, parse_batch, parse_http, parse_json, parse_kafka,
    parse_structured,
};
use quota_core::entitlements::entitlements;
use quota_core::fold::fold;
use quota_core::judge::Question;
use quota_core::row::Row;
use quota_core::state::State;
use quota_core::time::SECOND;
use serde_json::Value;

/// An event as the body of a request, or the value of a record.
pub fn structured(bytes: &[u8]) -> bool {
    let read = parse_structured(bytes);
    // Nothing hangs on how it was sent.
    if let Ok(batch) = parse_batch(&[b"[", bytes, b"]"].concat())
        && let [one] = batch.as_slice()
    {
        assert_eq!(fates(&read), fates(one));
    }
    judged(&read)
}

/// Several events as the body of a request.
pub fn batch(bytes: &[u8]) -> bool {
    match parse_batch(bytes) {
        Err(rejection) => {
            refused(&rejection);
            false
        }
        Ok(events) => {
            assert!(events.len() <= MAX_BATCH);
            events.iter().filter(|event| judged(event)).count() > 0
        }
    }
}

/// An event in HTTP's binary mode.
pub fn http(bytes: &[u8]) -> bool {
    let (headers, body) = message(bytes);
    let headers = headers
        .into_iter()
        .filter_map(|(name, value)| Some((name, value?)));
    judged(&parse_http(headers, body))
}

/// An event in a Kafka record, in either mode.
pub fn kafka(bytes: &[u8]) -> bool {
    let (headers, value) = message(bytes);
    let none = parse_kafka(headers.iter().copied(), None);
    assert_eq!(none.map(drop).unwrap_err().code, "invalid_event");
    judged(&parse_kafka(headers, Some(value)))
}

/// Headers, which may have no value, and a body.
pub type Message<'a> = (Vec<(&'a str, Option<&'a [u8]>)>, &'a [u8]);

/// Reads headers, `name: value` a line and `name` for one without a value, an empty line, and the rest.
pub fn message(bytes: &[u8]) -> Message<'_> {
    let end = bytes.windows(2).position(|pair| pair == b"\n\n");
    let (head, body) = bytes.split_at(end.unwrap_or(bytes.len()));
    let headers = head.split(|byte| *byte == b'\n').filter_map(|line| {
        let colon = line.windows(2).position(|pair| pair == b": ");
        let (name, value) = match colon {
            Some(colon) => (&line[..colon], Some(&line[colon + 2..])),
            None => (line, None),
        };
        Some((std::str::from_utf8(name).ok()?, value))
    });
    (headers.collect(), body.get(2..).unwrap_or_default())
}

type Fate = Result<(String, Fact), Rejection>;

/// What each product makes of it.
fn fates(read: &Result<Envelope, Rejection>) -> Vec<Fate> {
    let of_each = catalogs().iter().map(|catalog| match read {
        Ok(envelope) => admit(envelope, catalog.product(), catalog, now()),
        Err(rejection) => Err(rejection.clone()),
    });
    of_each.collect()
}

/// Asserts what must hold of it; whether any product took it.
fn judged(read: &Result<Envelope, Rejection>) -> bool {
    let mut taken = false;
    for (fate, catalog) in fates(read).iter().zip(catalogs()) {
        match fate {
            Ok((subject, fact)) => {
                told_again(subject, fact, catalog);
                taken = true;
            }
            Err(rejection) => refused(rejection),
        }
    }
    taken
}

/// A subject's whole story: its product in the first line, and in each other an event or, as `{"consume": FEATURE}` with
/// `amount` and `resource`, a use. Whatever it is, deciding and folding go on, and the view is the fold.
pub fn story(bytes: &[u8]) -> bool {
    let mut lines = bytes.split(|byte| *byte == b'\n');
    let product = lines.next().unwrap_or_default();
    let mut found = catalogs().iter();
    let Some(catalog) = found.find(|catalog| catalog.product().as_bytes() == product) else {
        return false;
    };
    let mut clock = now();
    let mut desk = Desk::new(catalog.clone(), "u1", clock);
    let mut recorded = false;
    for (number, line) in lines.take(50).enumerate() {
        clock = clock.plus(60 * SECOND);
        let wish = match parse_json(line) {
            Ok(Value::Object(members)) if members.contains_key("consume") => {
                let text = |name: &str| members.get(name)?.as_str().map(str::to_owned);
                let amount = members.get("amount").and_then(Value::as_i64).unwrap_or(1);
                Wish::Consume(Consume {
                    feature: text("consume").unwrap_or_default(),
                    amount: amount.clamp(1, 1_000_000_000),
                    resource: text("resource"),
                    hold_seconds: None,
                    key: text("key"),
                    fresh_id: format!("fresh-{number}"),
                })
            }
            _ => match parse_structured(line)
                .and_then(|event| admit(&event, catalog.product(), catalog, clock))
            {
                Ok((_, fact)) => Wish::Record(fact),
                Err(_) => continue,
            },
        };
        let answer = desk.submit(wish, clock);
        recorded |= matches!(answer, Answer::Recorded { .. } | Answer::Decided(_));
    }
    view_is_fold(&desk);
    for feature in catalog.feature_ids() {
        for resource in [None, Some("r1".to_owned())] {
            let question = Question {
                feature: feature.to_owned(),
                amount: 1,
                resource,
            };
            if let Ok(decision) = desk.check(&question, clock) {
                let (used, held) = (decision.outcome.used, decision.outcome.held);
                assert!(used >= 0 && held >= 0, "{decision:?}");
            }
        }
    }
    let page = entitlements(desk.state(), catalog, 1, catalog.product(), "u1", clock);
    assert!(page.contains_key("features"));
    recorded
}

/// The state is what its rows come to, and so are its stored bytes.
fn view_is_fold(desk: &Desk) {
    let mut folded = State::default();
    let rows = desk.rows().iter();
    let rows: Vec<&Row> = rows
        .map(|row| &**row)
        .filter(|row| !row.subject.is_empty())
        .collect();
    for row in rows {
        let catalog = desk.catalog(row.catalog_version).expect("it was published");
        fold(&mut folded, catalog, row).expect("what was decided can be read");
    }
    assert_eq!(folded.subject_bytes(), desk.state().subject_bytes());
    let things = |state: &State| -> Vec<_> {
        let things = state.things();
        things
            .map(|(key, _)| (key.clone(), state.thing_bytes(key)))
            .collect()
    };
    assert_eq!(things(&folded), things(desk.state()));
}
