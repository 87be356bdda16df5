//! What must hold of every decoder, whatever bytes it is given.
//!
//! `scripts/fuzz` calls these with bytes that libFuzzer makes up; a test of this crate, with the corpus and with mutations of
//! it. Each says whether the bytes were taken for what it decodes: by that the test knows that its corpus gets past the
//! first refusal.

pub mod events;
pub mod kept;
pub mod others;

use quota_core::catalog::{Catalog, shipped};
use quota_core::command::Fact;
use quota_core::door::{MAX_AHEAD, Rejection, admit, parse_structured};
use quota_core::event::Event;
use quota_core::time::Timestamp;
use serde_json::{Value, json};
use std::sync::LazyLock;

/// Asserts what must hold of some bytes; whether they were taken.
pub type Body = fn(&[u8]) -> bool;

/// Every decoder's, by the name of its fuzz target and of its corpus.
pub const ALL: [(&str, Body); 15] = [
    ("batch", events::batch),
    ("catalog", others::catalog),
    ("checkpoint", kept::checkpoint),
    ("event", kept::event),
    ("http_event", events::http),
    ("import_line", others::import_line),
    ("json", others::json),
    ("kafka_event", events::kafka),
    ("notice", others::notice),
    ("position", kept::position),
    ("record", kept::record),
    ("route", others::route),
    ("state", kept::state),
    ("story", events::story),
    ("structured_event", events::structured),
];

/// The clock that everything is judged at.
pub fn now() -> Timestamp {
    // 2026-11-20T12:00:00Z.
    Timestamp::from_micros(1_795_176_000_000_000)
}

/// The catalogs that are shipped: between them they have every switch that a catalog has.
pub fn catalogs() -> &'static [Catalog] {
    static CATALOGS: LazyLock<Vec<Catalog>> = LazyLock::new(|| {
        let texts = shipped().into_iter();
        texts
            .map(|(_, text)| Catalog::parse(text).expect("what is shipped is valid"))
            .collect()
    });
    &CATALOGS
}

/// What must hold of a refusal: it is told to strangers, and stands in a Kafka header.
pub fn refused(rejection: &Rejection) {
    let Rejection {
        code,
        field,
        message,
        malformed,
    } = rejection;
    assert!(!message.is_empty() && message.len() < 8192, "{rejection:?}");
    assert!(!message.chars().any(char::is_control), "{rejection:?}");
    assert_eq!(*malformed, *code == "malformed", "{rejection:?}");
    let of_the_whole = ["malformed", "event_too_large", "batch_too_large"].contains(code);
    assert_eq!(field.is_none(), of_the_whole, "{rejection:?}");
    let plain = |field: &str| !field.chars().any(char::is_control);
    assert!(field.as_deref().is_none_or(plain), "{rejection:?}");
}

/// What must hold of every fact: it is not from the future, and its payload says all of it.
pub fn sound(fact: &Fact) {
    assert!(
        fact.time.is_none_or(|time| time <= now().plus(MAX_AHEAD)),
        "{fact:?}"
    );
    let bytes = fact.event.encode();
    let read = Event::decode(fact.event.type_name(), 1, &bytes);
    assert_eq!(read.as_ref().ok(), Some(&fact.event));
    assert_eq!(read.map(|event| event.encode()).ok(), Some(bytes));
}

/// What must hold of what a door let in: told again in our own words, it is the same.
pub fn told_again(subject: &str, fact: &Fact, catalog: &Catalog) {
    sound(fact);
    assert!(!fact.source.to_ascii_lowercase().starts_with("quota:"));
    let data: Value = serde_json::from_slice(&fact.event.encode()).expect("a payload is JSON");
    let mut event = json!({
        "specversion": "1.0", "id": fact.id, "source": fact.source, "subject": subject,
        "type": format!("quota.{}.v1", fact.event.type_name()), "data": data,
    });
    if let (Some(time), Some(members)) = (fact.time, event.as_object_mut()) {
        members.insert("time".to_owned(), json!(time));
    }
    let envelope = parse_structured(event.to_string().as_bytes()).expect("it is an event");
    let again = admit(&envelope, catalog.product(), catalog, now());
    assert_eq!(again, Ok((subject.to_owned(), fact.clone())));
}
