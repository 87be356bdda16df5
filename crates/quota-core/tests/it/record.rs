//! A row goes through Kafka and comes back.

use proptest::prelude::*;
use quota_core::digest::{event_key, partition_of, subject_key};
use quota_core::record::{HEADERS, RecordError, from_record, peek, to_record};
use quota_core::row::Row;
use quota_core::time::Timestamp;

const LEDGER: [u8; 16] = [7; 16];

fn row(subject: &str, id: &str, offset: i64, micros: i64, payload: &[u8]) -> Row {
    let (product, source) = (if subject.is_empty() { "" } else { "acme" }, "/resume-api");
    let key = subject_key(product, subject);
    let mut row = Row {
        partition: partition_of(&key, 64),
        offset,
        subject_key: key,
        subject_seq: offset / 2 + 1,
        subject_prev: (offset >= 2).then_some(offset / 2),
        event_key: event_key(product, subject, source, id),
        product: product.into(),
        subject: subject.into(),
        source: source.into(),
        id: id.into(),
        event_type: "usage.recorded".into(),
        type_version: 1,
        occurred_at: Timestamp::from_micros(micros),
        recorded_at: Timestamp::from_micros(micros + 1_234_567),
        catalog_version: 3,
        payload: payload.into(),
        hash: [0; 32],
    };
    row.hash = row.expected_hash(&[9; 32]);
    row
}

#[test]
fn the_headers_are_those_that_are_promised() {
    let row = row(
        "u1",
        "e1",
        1042,
        1_763_640_000_123_456,
        br#"{"feature":"edits","amount":1}"#,
    );
    let record = to_record(&row, &LEDGER, 2);
    let text: Vec<String> = record
        .headers()
        .map(|(name, value)| format!("{name}: {}", str::from_utf8(value).unwrap()))
        .collect();
    let expected = [
        "ce_specversion: 1.0",
        "ce_id: e1",
        "ce_source: /resume-api",
        "ce_type: quota.usage.recorded.v1",
        "ce_subject: u1",
        "ce_time: 2025-11-20T12:00:00.123456Z",
        "content-type: application/json",
        "ce_product: acme",
        "ce_ledgerid: 07070707-0707-0707-0707-070707070707",
        "ce_epoch: 2",
        &format!("ce_partition: {}", row.partition),
        "ce_offset: 1042",
        "ce_subjectseq: 522",
        &format!("ce_hash: {}", hex(&row.hash)),
        "ce_catalogversion: 3",
        "ce_recordedtime: 2025-11-20T12:00:01.358023Z",
    ];
    assert_eq!(text, expected);
    assert_eq!(text.len(), HEADERS);
    assert_eq!(record.key(), b"acme/u1");
    assert_eq!(record.value(), &*row.payload);
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn a_missing_or_broken_header_is_named() {
    let row = row("u1", "e1", 0, 0, b"{}");
    let record = to_record(&row, &LEDGER, 0);
    let whole: Vec<(&str, Option<&[u8]>)> = record
        .headers()
        .map(|(name, value)| (name, Some(value)))
        .collect();
    let unread = ["ce_specversion", "content-type", "ce_product", "ce_subject"];
    for index in 0..whole.len() {
        let name = whole[index].0;
        let without = whole.iter().copied().filter(|(other, _)| *other != name);
        let broken = whole.iter().map(|(other, value)| {
            (
                *other,
                if *other == name {
                    Some(&b"\xff"[..])
                } else {
                    *value
                },
            )
        });
        if unread.contains(&name) {
            // Readable, but not the row that its hash says: an empty product or subject is the ledger's own.
            assert!(from_record(without, Some(b"{}")).is_ok());
        } else {
            assert_eq!(
                from_record(without, Some(b"{}")).unwrap_err(),
                RecordError::Missing(name)
            );
            assert_eq!(
                from_record(broken, Some(b"{}")).unwrap_err(),
                RecordError::Unreadable(name)
            );
        }
    }
    // No row has these empty, and its record would have no header for it.
    for name in ["ce_id", "ce_source"] {
        let empty = whole.iter().map(|(header, value)| {
            (
                *header,
                if *header == name {
                    Some(&b""[..])
                } else {
                    *value
                },
            )
        });
        assert_eq!(
            from_record(empty, Some(b"{}")).unwrap_err(),
            RecordError::Unreadable(name)
        );
    }
    assert_eq!(from_record(whole, None).unwrap_err(), RecordError::NoValue);
    assert_eq!(peek([("ce_offset", Some(&b"+1"[..]))]), None);
}

proptest! {
    #[test]
    fn a_row_comes_back_whole(
        subject in "|\\PC{1,40}",
        id in "\\PC{1,40}",
        offset in 0..i64::MAX / 4,
        micros in 0..253_402_300_000_000_000_i64,
        payload in proptest::collection::vec(any::<u8>(), 0..100),
        epoch in any::<u32>(),
    ) {
        let row = row(&subject, &id, offset, micros, &payload);
        let record = to_record(&row, &LEDGER, epoch);
        let headers = || record.headers().map(|(name, value)| (name, Some(value)));
        let peek = peek(headers()).unwrap();
        prop_assert_eq!((peek.epoch, peek.offset, peek.subject_seq), (epoch, offset, row.subject_seq));
        let received = from_record(headers(), Some(record.value())).unwrap();
        prop_assert_eq!((received.ledger_id, received.epoch, received.offset()), (LEDGER, epoch, offset));
        let back = received.into_row(row.subject_prev);
        prop_assert_eq!(back.expected_hash(&[9; 32]), back.hash);
        prop_assert_eq!(back, row);
    }
}
