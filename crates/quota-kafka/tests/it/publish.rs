//! The publisher: what is sent comes back, in order; acknowledgements, refusals, cuts.

use std::time::{Duration, Instant};

use quota_kafka::{Follower, Headers, Outgoing, PublishError, topic};
use tokio::time::timeout;

use crate::support::{Broker, assert_numbers, brokers, follow, on_each, outgoing, publish_numbers};

#[tokio::test]
async fn a_record_comes_back_as_it_was_sent() -> anyhow::Result<()> {
    for broker in brokers()? {
        let topic = broker.topic(3).await?;
        let mut follower = Follower::open(&broker.settings(), &topic, &[0, 1, 2]).await?;
        let publisher = broker.publisher()?;
        let headers = Headers::with_capacity(4)
            .add("ce_id", b"one")
            .add("empty", b"")
            .add_nullable("null", None)
            .add("ce_id", "zwei ü".as_bytes());
        let full = Outgoing {
            topic: &topic,
            partition: Some(2),
            key: Some(b"product/subject"),
            payload: Some(b"{}"),
            headers: Some(headers),
        };
        let bare = Outgoing {
            topic: &topic,
            partition: Some(2),
            key: None,
            payload: None,
            headers: None,
        };
        publisher.send(vec![full, bare]).await?;
        let records = follow(&mut follower, 2).await?;
        let full = &records[0];
        assert_eq!((&*full.topic, full.partition, full.offset), (&*topic, 2, 0));
        assert_eq!(full.key(), Some(&b"product/subject"[..]));
        assert_eq!(full.payload(), Some(&b"{}"[..]));
        assert!(full.timestamp_ms.is_some_and(|at| at > 1_600_000_000_000));
        let headers: Vec<_> = full.headers().collect();
        let expected: [(&str, Option<&[u8]>); 4] = [
            ("ce_id", Some(b"one")),
            ("empty", Some(b"")),
            ("null", None),
            ("ce_id", Some("zwei ü".as_bytes())),
        ];
        assert_eq!(headers, expected);
        assert_eq!(full.header("ce_id"), Some("zwei ü".as_bytes()));
        assert_eq!((full.header("null"), full.header("absent")), (None, None));
        let bare = &records[1];
        assert_eq!((bare.offset, bare.key(), bare.payload()), (1, None, None));
        assert_eq!(bare.headers().count(), 0);
    }
    Ok(())
}

#[tokio::test]
async fn send_returns_when_the_records_are_in_the_topic() -> anyhow::Result<()> {
    for broker in brokers()? {
        let topic = broker.topic(4).await?;
        let publisher = broker.publisher()?;
        publisher.send(Vec::new()).await?;
        for round in 0..10 {
            let text = round.to_string();
            publisher
                .send(vec![outgoing(&topic, 1, "x"), outgoing(&topic, 1, &text)])
                .await?;
            let tails = topic::tails(&broker.settings(), &topic, 4).await?;
            let last = tails[1].as_ref().and_then(|record| record.payload());
            assert_eq!(last, Some(text.as_bytes()));
            assert!(tails[0].is_none() && tails[2].is_none() && tails[3].is_none());
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_partition_keeps_the_order_sent() -> anyhow::Result<()> {
    for broker in brokers()? {
        let topic = broker.topic(8).await?;
        let partitions: Vec<i32> = (0..8).collect();
        let mut follower = Follower::open(&broker.settings(), &topic, &partitions).await?;
        let publisher = broker.publisher()?;
        for first in (0..20_000).step_by(2_500) {
            publish_numbers(&publisher, &topic, 8, first..first + 2_500).await?;
        }
        let records = follow(&mut follower, 20_000).await?;
        assert_numbers(&records, 0..20_000)?;
    }
    Ok(())
}

/// Two sends at once share the queue; each partition is in the order in which they began.
#[tokio::test]
async fn more_records_than_the_queue_holds_wait_for_room() -> anyhow::Result<()> {
    for broker in brokers()? {
        let topic = broker.topic(8).await?;
        let publisher = broker.publisher()?;
        let key = [b'k'; 10];
        let batch = |count: i32| -> Vec<Outgoing<'_>> {
            let record = |number: i32| Outgoing {
                topic: &topic,
                partition: Some(number % 8),
                key: Some(&key),
                payload: None,
                headers: None,
            };
            (0..count).map(record).collect()
        };
        let (first, second) =
            tokio::join!(publisher.send(batch(120_000)), publisher.send(batch(8)));
        first?;
        second?;
        let tails = topic::tails(&broker.settings(), &topic, 8).await?;
        let offsets: Vec<_> = tails.iter().flatten().map(|record| record.offset).collect();
        assert_eq!(offsets, [15_000; 8]);
    }
    Ok(())
}

#[tokio::test]
async fn a_record_too_large_is_refused_alone() -> anyhow::Result<()> {
    for broker in brokers()? {
        let topic = broker.topic(1).await?;
        let publisher = broker.publisher()?;
        let large = "x".repeat(3_000_000);
        let batch = vec![
            outgoing(&topic, 0, "before"),
            outgoing(&topic, 0, &large),
            outgoing(&topic, 0, "after"),
        ];
        let error = publisher.send(batch).await.err();
        let Some(
            error @ PublishError::Refused {
                index: 1,
                too_large: true,
                ..
            },
        ) = error
        else {
            anyhow::bail!("{error:?}");
        };
        assert!(!error.is_fatal());
        let tails = topic::tails(&broker.settings(), &topic, 1).await?;
        let last = tails[0].as_ref().and_then(|record| record.payload());
        assert_eq!(last, Some(&b"before"[..]));
        publisher.send(vec![outgoing(&topic, 0, "next")]).await?;
        let illegal = publisher.send(vec![outgoing("nul\0", 0, "next")]).await;
        assert!(matches!(
            illegal,
            Err(PublishError::Refused {
                index: 0,
                too_large: false,
                ..
            })
        ));
    }
    Ok(())
}

#[tokio::test]
async fn a_record_for_a_missing_partition_is_an_error() -> anyhow::Result<()> {
    for broker in brokers()? {
        let topic = broker.topic(2).await?;
        // Not known before it is queued: the line is cut.
        let publisher = broker.publisher()?;
        let error = publisher.send(vec![outgoing(&topic, 2, "bad")]).await.err();
        assert!(
            matches!(&error, Some(PublishError::Cut { topic: name, partition: 2, .. }) if *name == topic),
            "{error:?}"
        );
        assert!(error.is_some_and(|error| error.is_fatal()));
        let again = publisher.send(vec![outgoing(&topic, 1, "good")]).await;
        assert!(again.is_err_and(|error| error.is_fatal()));
        // Known: refused.
        let publisher = broker.publisher()?;
        publisher.send(vec![outgoing(&topic, 1, "good")]).await?;
        let error = publisher.send(vec![outgoing(&topic, 2, "bad")]).await.err();
        assert!(matches!(
            error,
            Some(PublishError::Refused {
                index: 0,
                too_large: false,
                ..
            })
        ));
        publisher.send(vec![outgoing(&topic, 1, "good")]).await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_record_for_a_missing_topic_is_reported_within_a_time() -> anyhow::Result<()> {
    on_each(async |broker| {
        let publisher = broker.publisher()?;
        let missing = crate::support::unique("missing");
        let sent = publisher.send(vec![outgoing(&missing, 0, "lost")]);
        let error = timeout(Duration::from_secs(20), sent).await?.err();
        assert!(error.is_some_and(|error| error.is_fatal()));
        Ok(())
    })
    .await
}

/// While the broker is away `send` waits, and gets through when it is back.
#[tokio::test]
async fn send_waits_through_an_outage() -> anyhow::Result<()> {
    for broker in brokers()? {
        let Broker::Embedded(embedded) = &broker else {
            continue;
        };
        let topic = broker.topic(2).await?;
        let publisher = broker.publisher()?;
        publish_numbers(&publisher, &topic, 2, 0..10).await?;
        assert!(publisher.is_connected());
        embedded.set_reachable(false)?;
        let sending = publish_numbers(&publisher, &topic, 2, 10..20);
        tokio::pin!(sending);
        assert!(timeout(Duration::from_secs(2), &mut sending).await.is_err());
        embedded.set_reachable(true)?;
        timeout(Duration::from_secs(20), sending).await??;
        let tails = topic::tails(&broker.settings(), &topic, 2).await?;
        let offsets: Vec<_> = tails.iter().flatten().map(|record| record.offset).collect();
        assert_eq!(offsets, [9, 9]);
    }
    Ok(())
}

#[tokio::test]
async fn a_publisher_given_up_is_dropped_at_once() -> anyhow::Result<()> {
    for broker in brokers()? {
        let Broker::Embedded(embedded) = &broker else {
            continue;
        };
        let topic = broker.topic(1).await?;
        let publisher = broker.publisher()?;
        publisher.send(vec![outgoing(&topic, 0, "first")]).await?;
        embedded.set_reachable(false)?;
        let sent = publisher.send(vec![outgoing(&topic, 0, "given up")]);
        assert!(timeout(Duration::from_millis(300), sent).await.is_err());
        let start = Instant::now();
        drop(publisher);
        assert!(
            start.elapsed() < Duration::from_millis(50),
            "{:?}",
            start.elapsed()
        );
        embedded.set_reachable(true)?;
        // Longer than a client takes to reconnect.
        tokio::time::sleep(Duration::from_secs(3)).await;
        let publisher = broker.publisher()?;
        publisher.send(vec![outgoing(&topic, 0, "last")]).await?;
        let tails = topic::tails(&broker.settings(), &topic, 1).await?;
        let last = tails[0]
            .as_ref()
            .map(|record| (record.offset, record.payload()));
        assert_eq!(
            last,
            Some((1, Some(&b"last"[..]))),
            "what was given up must not come later"
        );
    }
    Ok(())
}
