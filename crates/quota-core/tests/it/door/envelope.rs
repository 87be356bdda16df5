//! How events are read, in every mode of both bindings.

use super::{catalog, event, fact, let_in, now, refused, with};
use quota_core::command::Fact;
use quota_core::door::{
    Envelope, MAX_EVENT_BYTES, Rejection, admit, parse_batch, parse_http, parse_kafka,
    parse_structured,
};
use serde_json::json;

#[test]
fn base64_data_is_data() {
    let mut sent = event("usage.recorded", json!({}));
    sent["data_base64"] = json!("eyJmZWF0dXJlIjoiZWRpdHMifQ==");
    assert_eq!(
        refused(&sent),
        ("invalid_event", "data_base64".into()),
        "not beside data"
    );
    sent.as_object_mut().unwrap().remove("data");
    assert_eq!(
        let_in(&sent).unwrap().1.event,
        fact("usage.recorded", json!({"feature": "edits"}))
    );
    for bad in ["eyJ", "bm90IGpzb24=", "eyJhIjoxLCJhIjoxfQ=="] {
        assert_eq!(
            refused(&with(sent.clone(), "data_base64", json!(bad))).1,
            "data_base64",
            "{bad}"
        );
    }
}

#[test]
fn what_cannot_be_read_is_malformed() {
    let malformed = |bytes: &[u8]| parse_structured(bytes).unwrap_err();
    let cases: [&[u8]; 7] = [
        b"",
        b"{",
        b"[]",
        b"\"x\"",
        b"{}",
        br#"{"hello": 1}"#,
        br#"{"id":"a","data":{"a":1,"a":2}}"#,
    ];
    for bytes in cases {
        let rejection = malformed(bytes);
        assert_eq!((rejection.code, rejection.malformed), ("malformed", true));
    }
    let readable = parse_structured(br#"{"id": "x"}"#).unwrap();
    assert_eq!(readable.id(), Some("x"));
    let rejection = admit(&readable, "acme", catalog(), now()).unwrap_err();
    assert_eq!(
        (rejection.code, rejection.malformed),
        ("invalid_event", false)
    );
}

#[test]
fn an_event_has_at_most_64_kib() {
    let of_size = |size: usize| {
        let event = event("subject.registered", json!({})).to_string();
        let padded = event.replace("{}", &format!("{{{}}}", " ".repeat(size - event.len())));
        assert_eq!(padded.len(), size);
        padded
    };
    let judge = |envelope: &Envelope| admit(envelope, "acme", catalog(), now());
    let fits = parse_structured(format!(" {}\n", of_size(MAX_EVENT_BYTES)).as_bytes()).unwrap();
    assert!(judge(&fits).is_ok(), "space around it is not the event's");
    let batch = format!(
        "[{}, {}]",
        of_size(MAX_EVENT_BYTES),
        of_size(MAX_EVENT_BYTES + 1)
    );
    let batch = parse_batch(batch.as_bytes()).unwrap();
    assert!(judge(batch[0].as_ref().unwrap()).is_ok());
    let large = batch[1].as_ref().unwrap();
    assert_eq!(judge(large).unwrap_err().code, "event_too_large");
    assert_eq!(large.id(), Some("e1"), "its id can still be told");
}

#[test]
fn a_batch_is_read_event_by_event() {
    let good = event("subject.registered", json!({})).to_string();
    let batch =
        parse_batch(format!(r#"[{good}, 7, {{"id":"a","id":"a"}}, {{"id":"b"}}]"#).as_bytes())
            .unwrap();
    let codes: Vec<_> = batch
        .iter()
        .map(|event| event.as_ref().err().map(|rejection| rejection.code))
        .collect();
    assert_eq!(codes, [None, Some("malformed"), Some("malformed"), None]);
    assert!(parse_batch(b"[]").unwrap().is_empty());
    for bytes in [&b"{}"[..], b"", b"[{]", b"[1]]", b"[\"\xff\"]"] {
        assert_eq!(parse_batch(bytes).unwrap_err().code, "malformed");
    }
    let many = |count: usize| format!("[{}]", vec!["1"; count].join(","));
    assert_eq!(parse_batch(many(1_000).as_bytes()).unwrap().len(), 1_000);
    let rejection = parse_batch(many(1_001).as_bytes()).unwrap_err();
    assert_eq!(
        (rejection.code, rejection.malformed),
        ("batch_too_large", false)
    );
}

const BODY: &[u8] = br#"{"feature":"edits"}"#;

fn http(extra: &[(&str, &str)], body: &[u8]) -> Result<(String, Fact), Rejection> {
    let mut headers = vec![
        ("Ce-Specversion", "1.0"),
        ("CE-ID", "e%201"),
        ("ce-source", "/a%2520b"),
        ("ce-type", "quota.usage.recorded.v1"),
        ("host", "x"),
    ];
    headers.extend(extra);
    let headers = headers
        .into_iter()
        .map(|(name, value)| (name, value.as_bytes()));
    admit(&parse_http(headers, body)?, "acme", catalog(), now())
}

#[test]
fn http_binary_mode_is_percent_decoded_once() {
    let subject = ("ce-subject", "J%C3%BCrgen");
    let (subject_read, fact) =
        http(&[subject, ("Content-Type", "application/json")], BODY).unwrap();
    assert_eq!((subject_read.as_str(), fact.id.as_str()), ("Jürgen", "e 1"));
    assert_eq!(fact.source, "/a%20b");
    assert!(http(&[subject], BODY).is_ok(), "no content type is JSON");
    let field = |extra: &[(&str, &str)], body: &[u8]| http(extra, body).unwrap_err();
    assert_eq!(
        field(&[subject, ("content-type", "text/plain")], BODY)
            .field
            .unwrap(),
        "datacontenttype"
    );
    assert_eq!(field(&[subject], b"").field.unwrap(), "data");
    assert_eq!(field(&[subject], b"edits").code, "malformed");
    assert_eq!(
        field(&[subject, subject], BODY).code,
        "malformed",
        "a header twice"
    );
    assert_eq!(
        field(&[("ce-subject", "%C0%A0")], BODY).code,
        "malformed",
        "an overlong encoding"
    );
    let large = format!(r#"{{"feature":"edits"{}}}"#, " ".repeat(MAX_EVENT_BYTES));
    assert_eq!(field(&[subject], large.as_bytes()).code, "event_too_large");
    assert_eq!(
        parse_http([("content-type", &b"text/html"[..])], b"<p>")
            .unwrap_err()
            .code,
        "malformed"
    );
}

#[test]
fn kafka_takes_binary_and_structured_events() {
    let judge = |headers: &[(&str, Option<&str>)], value: Option<&[u8]>| {
        let headers = headers
            .iter()
            .map(|(name, value)| (*name, value.map(str::as_bytes)));
        admit(&parse_kafka(headers, value)?, "acme", catalog(), now())
    };
    let binary = [
        ("ce_specversion", Some("1.0")),
        ("ce_id", Some("100%25")),
        ("ce_source", Some("/a")),
        ("ce_type", Some("quota.usage.recorded.v1")),
        ("ce_subject", Some("Jürgen")),
        ("ce_time", None),
        ("content-type", Some("application/json")),
        ("x", Some("y")),
    ];
    let (subject, fact) = judge(&binary, Some(BODY)).unwrap();
    assert_eq!(
        (subject.as_str(), fact.id.as_str()),
        ("Jürgen", "100%25"),
        "no percent-decoding on Kafka"
    );
    let null = judge(&binary, None).unwrap_err();
    assert_eq!(
        (null.code, null.field.as_deref()),
        ("invalid_event", Some("data"))
    );
    let whole = event("subject.registered", json!({})).to_string();
    let structured = [(
        "content-type",
        Some("application/cloudevents+json; charset=UTF-8"),
    )];
    assert!(judge(&structured, Some(whole.as_bytes())).is_ok());
    let batch = [("content-type", Some("application/cloudevents-batch+json"))];
    assert_eq!(judge(&batch, Some(b"[]")).unwrap_err().code, "malformed");
    assert_eq!(judge(&[], Some(b"junk")).unwrap_err().code, "malformed");
}
