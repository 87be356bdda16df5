//! Inbox: every record is in the ledger once, or in the dead letters with its reason; nothing is stuck, nothing lost.

use crate::inboxes::{PATIENCE, Sent, letters, send, send_by, send_to, text, told, told_count};
use crate::nodes::{CATALOG, Database, PRODUCT, Running, embedded_topics, real_topics, unique};
use quota_kafka::{Publisher, PublisherOptions, Record};
use quota_server::config::Role;
use quota_server::publishing::publish_catalog;
use std::sync::Arc;
use std::time::Duration;

/// A subject's records keep their order, whichever mode they come in; what comes twice is recorded once; the next start
/// takes none again.
///
/// Failed when commands were submitted one by one beside each other, and when a duplicate's answer was taken for a
/// refusal.
#[tokio::test(flavor = "multi_thread")]
async fn records_get_into_the_ledger_once_and_in_order() {
    let Some(topics) = real_topics().await else {
        return;
    };
    let database = Database::fresh().await;
    let ledger = database.ledger().await;
    topics.ensure_inboxes(&[PRODUCT.into()]).await.unwrap();
    let mut records = Vec::new();
    for n in 0..3_000 {
        let (id, subject) = (format!("u{n}"), format!("s{}", n % 30));
        records.push(if n % 2 == 0 {
            Sent::usage(&id, &subject, 2)
        } else {
            Sent::structured(&id, &subject, r#"{"feature":"units","amount":2}"#)
        });
    }
    records.extend_from_within(1_000..2_000);
    send(&topics, &records).await;
    let running = Running::start(&database, &topics, &[Role::Inbox]).await;
    told_count(&ledger, 3_000).await;
    send(&topics, &[Sent::usage("last", "s0", 1)]).await;
    told_count(&ledger, 3_001).await;
    running.stop().await;

    let rows = told(&ledger).await;
    assert_eq!(rows.len(), 3_001);
    for subject in 0..30 {
        let of_subject = rows
            .iter()
            .filter(|row| *row.subject == format!("s{subject}"));
        let ids: Vec<String> = of_subject
            .map(|row| row.id.to_string())
            .filter(|id| id != "last")
            .collect();
        let expected: Vec<String> = (0..3_000)
            .filter(|n| n % 30 == subject)
            .map(|n| format!("u{n}"))
            .collect();
        assert_eq!(ids, expected);
    }
    let running = Running::start(&database, &topics, &[Role::Inbox]).await;
    send(&topics, &[Sent::usage("after", "s0", 1)]).await;
    told_count(&ledger, 3_002).await;
    running.stop().await;
    assert!(letters(&topics, 1).await.is_empty());
}

/// What does not get in is in the dead letters, untouched, with the code that the doors give; what comes after it gets
/// in.
///
/// Failed when refusals of the lane were dropped (the conflict had no letter), when null values were skipped, and when
/// a letter carried no key.
#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_get_in_is_a_dead_letter() {
    let Some(topics) = real_topics().await else {
        return;
    };
    let database = Database::fresh().await;
    let ledger = database.ledger().await;
    topics.ensure_inboxes(&[PRODUCT.into()]).await.unwrap();
    let good = |id: &str| Sent::usage(id, "s1", 1);
    let noise: Vec<u8> = (0..2_000_u32)
        .map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8)
        .collect();
    let wrong = [
        ("idempotency_conflict", Sent::usage("first", "s1", 7)),
        (
            "malformed",
            Sent {
                value: Some(noise.clone()),
                ..Sent::default()
            },
        ),
        (
            "malformed",
            Sent {
                key: Some(noise.clone()),
                value: Some(Vec::new()),
                ..Sent::default()
            },
        ),
        ("malformed", good("x1").data("{\"feature\":\"units\",")),
        (
            "malformed",
            good("x2").data("{\"feature\":\"units\",\"feature\":\"units\"}"),
        ),
        (
            "malformed",
            good("x3")
                .with("content-type", "application/cloudevents-batch+json")
                .data("[]"),
        ),
        (
            "invalid_event",
            Sent {
                value: None,
                ..good("x4")
            },
        ),
        (
            "invalid_event",
            good("x5").data("{\"feature\":\"units\",\"email\":\"a@b.c\"}"),
        ),
        (
            "invalid_event",
            good("x6").with("ce_type", "quota.usage.denied.v1"),
        ),
        (
            "invalid_event",
            good("x7").with("ce_source", "quota:consume"),
        ),
        (
            "invalid_event",
            good("x8").data("{\"feature\":\"units\",\"amount\":-1}"),
        ),
        ("wrong_product", good("x9").with("ce_product", "applyx")),
        (
            "unknown_feature",
            good("x10").data("{\"feature\":\"wings\"}"),
        ),
        (
            "in_future",
            good("x11").with("ce_time", "2099-01-01T00:00:00Z"),
        ),
        (
            "event_too_large",
            good("x12").data(&format!("{{\"feature\":\"{}\"}}", "u".repeat(70_000))),
        ),
        // At the broker's own limit: no room for the reason's headers.
        (
            "malformed",
            Sent {
                value: Some(vec![b'x'; 999_700]),
                ..good("x13")
            },
        ),
    ];
    send(&topics, &[good("first")]).await;
    let running = Running::start(&database, &topics, &[Role::Inbox]).await;
    told_count(&ledger, 1).await;
    for (n, (_, record)) in wrong.iter().enumerate() {
        send(&topics, &[record.clone(), good(&format!("good{n}"))]).await;
    }
    told_count(&ledger, 1 + wrong.len()).await;
    let found = letters(&topics, wrong.len()).await;
    running.stop().await;

    assert_eq!(found.len(), wrong.len());
    for (reason, sent) in &wrong {
        let mine = |record: &&Record| {
            let untouched = sent
                .headers
                .iter()
                .all(|(name, value)| record.header(name) == value.as_deref());
            untouched
                && record.key() == sent.key.as_deref()
                && text(record, "quota_reason") == *reason
        };
        let letters: Vec<&Record> = found.iter().filter(mine).collect();
        let letter = letters
            .iter()
            .find(|letter| letter.payload() == sent.value.as_deref());
        if sent
            .value
            .as_ref()
            .is_some_and(|value| value.len() > 900_000)
        {
            assert!(letter.is_none(), "there is no room for all of it");
            assert!(
                letters
                    .iter()
                    .any(|letter| text(letter, "quota_detail").contains("see the inbox"))
            );
            continue;
        }
        let letter = letter.unwrap_or_else(|| panic!("{reason}: no letter of {sent:?}"));
        assert_eq!(text(letter, "quota_topic"), topics.inbox(PRODUCT));
        assert!(text(letter, "quota_partition").parse::<i32>().is_ok());
        assert!(text(letter, "quota_offset").parse::<i64>().is_ok());
        assert!(!text(letter, "quota_detail").is_empty());
    }
    // Nobody else's: all of it is settled, and the next start finds nothing.
    let running = Running::start(&database, &topics, &[Role::Inbox]).await;
    send(&topics, &[good("end")]).await;
    told_count(&ledger, 2 + wrong.len()).await;
    running.stop().await;
    assert_eq!(letters(&topics, wrong.len() + 1).await.len(), wrong.len());
}

/// While the ledger cannot be written, records wait; afterwards each is recorded once, in order, and none is refused.
///
/// Failed when 503 was treated like any other refusal (records in the dead letters).
#[tokio::test(flavor = "multi_thread")]
async fn records_wait_for_the_ledger() {
    let Some(topics) = real_topics().await else {
        return;
    };
    let database = Database::fresh().await;
    let ledger = database.ledger().await;
    topics.ensure_inboxes(&[PRODUCT.into()]).await.unwrap();
    let running = Running::start(&database, &topics, &[Role::Inbox]).await;
    let records = |from: usize, to: usize| -> Vec<Sent> {
        (from..to)
            .map(|n| Sent::usage(&format!("u{n}"), &format!("s{}", n % 7), 1))
            .collect()
    };
    send(&topics, &records(0, 500)).await;
    told_count(&ledger, 500).await;
    database.set_reachable(false);
    send(&topics, &records(500, 2_500)).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    database.set_reachable(true);
    told_count(&ledger, 2_500).await;
    running.stop().await;
    let rows = told(&ledger).await;
    assert_eq!(rows.len(), 2_500);
    for subject in 0..7 {
        let ids = rows
            .iter()
            .filter(|row| *row.subject == format!("s{subject}"))
            .map(|row| row.id.to_string());
        let expected = (0..2_500)
            .filter(|n| n % 7 == subject)
            .map(|n| format!("u{n}"));
        assert!(ids.eq(expected), "subject {subject}");
    }
    assert!(letters(&topics, 1).await.is_empty());
}

/// A node that ends in the middle, without a word, leaves nothing out and nothing twice.
///
/// Failed when offsets were committed before the lane had answered.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_cut_off_loses_nothing() {
    let Some(topics) = real_topics().await else {
        return;
    };
    let database = Database::fresh().await;
    let ledger = database.ledger().await;
    topics.ensure_inboxes(&[PRODUCT.into()]).await.unwrap();
    let records: Vec<Sent> = (0..10_000)
        .map(|n| Sent::usage(&format!("u{n}"), &format!("s{}", n % 100), 1))
        .collect();
    send(&topics, &records).await;
    let mut least = 1;
    for _ in 0..4 {
        let running = Running::start(&database, &topics, &[Role::Inbox]).await;
        told_count(&ledger, least).await;
        running.cut_off().await;
        least = (told(&ledger).await.len() + 1_000).min(10_000);
    }
    let running = Running::start(&database, &topics, &[Role::Inbox]).await;
    told_count(&ledger, 10_000).await;
    running.stop().await;
    assert_eq!(told(&ledger).await.len(), 10_000);
    assert!(letters(&topics, 1).await.is_empty());
}

/// The inbox of a product that is published later is made and joined.
///
/// Failed when only the products of the start were joined.
#[tokio::test(flavor = "multi_thread")]
async fn products_published_later_have_an_inbox() {
    let Some(topics) = real_topics().await else {
        return;
    };
    let database = Database::fresh().await;
    let ledger = database.ledger().await;
    let running = Running::start(&database, &topics, &[Role::Inbox]).await;
    let text = CATALOG.replace("product = \"shop\"", "product = \"later\"");
    publish_catalog(&ledger, "later", &text, None)
        .await
        .unwrap();
    // The library gives a topic ten seconds to appear.
    let first = [Sent::usage("first", "s1", 1)];
    let sending = send_to(&topics, "later", &first);
    tokio::time::timeout(PATIENCE, sending).await.unwrap();
    told_count(&ledger, 1).await;
    running.stop().await;
    let rows = told(&ledger).await;
    assert_eq!(rows.len(), 1);
    assert_eq!(&*rows[0].product, "later");
}

/// The broker in this process forgets: a graceful stop records all that was published to it.
///
/// Failed when the stop left at once.
#[tokio::test(flavor = "multi_thread")]
async fn a_graceful_stop_drains_the_broker_that_forgets() {
    let database = Database::fresh().await;
    let ledger = database.ledger().await;
    let (topics, broker) = embedded_topics().await;
    topics.ensure_inboxes(&[Arc::from(PRODUCT)]).await.unwrap();
    let running = Running::start(&database, &topics, &[Role::Inbox]).await;
    let id = unique("first");
    send(&topics, &[Sent::usage(&id, "s1", 1)]).await;
    told_count(&ledger, 1).await;
    let records: Vec<Sent> = (0..3_000)
        .map(|n| Sent::usage(&format!("u{n}"), &format!("s{}", n % 50), 1))
        .collect();
    send(&topics, &records).await;
    running.stop().await;
    assert_eq!(told(&ledger).await.len(), 3_001);
    drop(broker);
}

/// Records of features that another node published a moment ago get in.
///
/// Failed when records were judged by the catalogs at hand alone (it is a dead letter).
#[tokio::test(flavor = "multi_thread")]
async fn a_feature_published_a_moment_ago_is_known() {
    let Some(topics) = real_topics().await else {
        return;
    };
    let database = Database::fresh().await;
    let ledger = database.ledger().await;
    topics.ensure_inboxes(&[PRODUCT.into()]).await.unwrap();
    let running = Running::start(&database, &topics, &[Role::Inbox]).await;
    let publisher = Publisher::open(topics.settings(), &PublisherOptions::default()).unwrap();
    let mut catalog = CATALOG.to_owned();
    for n in 1..=5 {
        // It reads along, once a second: so that it cannot have seen all of them in time.
        let first = Sent::usage(&format!("first-{n}"), "s1", 1);
        send_by(&publisher, &topics, PRODUCT, &[first]).await;
        told_count(&ledger, 2 * n - 1).await;
        let late = format!("[features.late-{n}]\nmessage = \"no more\"\n[features.units]");
        catalog = catalog.replace("[features.units]", &late);
        publish_catalog(&ledger, PRODUCT, &catalog, None)
            .await
            .unwrap();
        let data = format!(r#"{{"feature":"late-{n}"}}"#);
        let late = Sent::structured(&format!("late-{n}"), "s1", &data);
        send_by(&publisher, &topics, PRODUCT, &[late]).await;
        told_count(&ledger, 2 * n).await;
    }
    running.stop().await;
    assert!(letters(&topics, 0).await.is_empty());
}
