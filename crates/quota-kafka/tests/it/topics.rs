//! Making topics, checking them, and their last records.

use std::time::{Duration, Instant};

use quota_kafka::{EmbeddedBroker, Settings, TopicError, TopicSpec, topic};
use rdkafka::ClientConfig;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};

use crate::support::{Broker, brokers, outgoing, publish_numbers, real, unique};

#[tokio::test]
async fn ensure_creates_once_and_never_resizes() -> anyhow::Result<()> {
    let Some(broker) = real()? else { return Ok(()) };
    let (settings, name) = (broker.settings(), unique("ensured"));
    let spec = TopicSpec::new(&name, 3).kept_forever();
    let other = TopicSpec::new(unique("ensured"), 1);
    topic::ensure(&settings, &[spec.clone(), other.clone()]).await?;
    topic::ensure(&settings, &[spec.clone(), other.clone()]).await?;
    let again = [spec];
    tokio::try_join!(
        topic::ensure(&settings, &again),
        topic::ensure(&settings, &again)
    )?;
    let larger = TopicSpec::new(&name, 4);
    let error = topic::ensure(&settings, &[other, larger]).await.err();
    assert!(
        matches!(&error, Some(TopicError::PartitionCount { topic, expected: 4, found: 3 }) if *topic == name),
        "{error:?}"
    );
    let settings_of = topic_config(&broker, &name).await?;
    assert_eq!(
        settings_of,
        [
            ("cleanup.policy", "delete"),
            ("message.timestamp.type", "LogAppendTime"),
            ("retention.ms", "-1")
        ]
        .map(|(a, b)| (a.to_owned(), Some(b.to_owned())))
    );
    let illegal = topic::ensure(&settings, &[TopicSpec::new("with space", 1)]).await;
    assert!(matches!(illegal, Err(TopicError::Broker { .. })));
    Ok(())
}

async fn topic_config(
    broker: &Broker,
    name: &str,
) -> anyhow::Result<Vec<(String, Option<String>)>> {
    use rdkafka::admin::{AdminClient, AdminOptions, ResourceSpecifier};
    use rdkafka::client::DefaultClientContext;
    let admin: AdminClient<DefaultClientContext> = ClientConfig::new()
        .set("bootstrap.servers", broker.settings().brokers())
        .create()?;
    let resources = admin
        .describe_configs(&[ResourceSpecifier::Topic(name)], &AdminOptions::new())
        .await?;
    let mut found = Vec::new();
    for resource in resources {
        let resource = resource.map_err(|code| anyhow::anyhow!("{code}"))?;
        let entries = resource.entries.into_iter();
        found.extend(entries.map(|entry| (entry.name, entry.value)));
    }
    let set = ["cleanup.policy", "message.timestamp.type", "retention.ms"];
    found.retain(|(name, _)| set.contains(&name.as_str()));
    found.sort();
    Ok(found)
}

#[tokio::test]
async fn tails_are_the_last_records() -> anyhow::Result<()> {
    for broker in brokers()? {
        let topic = broker.topic(16).await?;
        let empty = topic::tails(&broker.settings(), &topic, 16).await?;
        assert_eq!((empty.len(), empty.iter().flatten().count()), (16, 0));
        let publisher = broker.publisher()?;
        publish_numbers(&publisher, &topic, 15, 0..3_000).await?;
        let tails = topic::tails(&broker.settings(), &topic, 16).await?;
        assert!(tails[15].is_none());
        for (partition, tail) in tails.iter().enumerate().take(15) {
            let tail = tail
                .as_ref()
                .map(|record| (record.partition, record.offset, record.payload()));
            let last = (2_985 + partition).to_string();
            assert_eq!(
                tail,
                Some((i32::try_from(partition)?, 199, Some(last.as_bytes())))
            );
        }
    }
    Ok(())
}

#[tokio::test]
async fn tails_of_a_missing_topic_or_partition_are_an_error() -> anyhow::Result<()> {
    let Some(broker) = real()? else { return Ok(()) };
    let (settings, topic) = (broker.settings(), broker.topic(2).await?);
    for (name, partitions) in [(unique("missing"), 1), (topic, 3)] {
        let error = topic::tails(&settings, &name, partitions).await.err();
        assert!(
            matches!(&error, Some(TopicError::Missing { topic, .. }) if *topic == name),
            "{error:?}"
        );
    }
    Ok(())
}

/// An aborted transaction leaves offsets without a record at the end: 50 records and a marker.
#[tokio::test]
async fn tails_step_back_over_aborted_transactions() -> anyhow::Result<()> {
    let Some(broker) = real()? else { return Ok(()) };
    let topic = broker.topic(2).await?;
    publish_numbers(&broker.publisher()?, &topic, 2, 0..10).await?;
    let brokers = broker.settings().brokers().to_owned();
    let name = topic.clone();
    tokio::task::spawn_blocking(move || {
        let producer: BaseProducer = ClientConfig::new()
            .set("bootstrap.servers", brokers)
            .set("transactional.id", unique("transaction"))
            .create()?;
        producer.init_transactions(Duration::from_secs(30))?;
        producer.begin_transaction()?;
        for _ in 0..50 {
            let record = BaseRecord::to(&name)
                .partition(1)
                .key("k")
                .payload("aborted");
            producer.send(record).map_err(|(error, _)| error)?;
        }
        producer.flush(Duration::from_secs(30))?;
        producer.abort_transaction(Duration::from_secs(30))?;
        anyhow::Ok(())
    })
    .await??;
    let tails = topic::tails(&broker.settings(), &topic, 2).await?;
    let last: Vec<_> = tails
        .iter()
        .flatten()
        .map(|record| (record.offset, record.payload()))
        .collect();
    assert_eq!(last, [(4, Some(&b"8"[..])), (4, Some(&b"9"[..]))]);
    Ok(())
}

#[tokio::test]
async fn a_broker_that_is_away_costs_a_bounded_time() -> anyhow::Result<()> {
    let broker = EmbeddedBroker::start(&[TopicSpec::new("known", 1)])?;
    broker.set_reachable(false)?;
    let (cut, nobody) = (
        broker.settings("test"),
        Settings::new("127.0.0.1:9", "test"),
    );
    let (start, spec) = (Instant::now(), [TopicSpec::new("known", 1)]);
    let outcomes = tokio::join!(
        topic::tails(&cut, "known", 1),
        topic::tails(&nobody, "known", 1),
        topic::ensure(&cut, &spec),
        topic::ensure(&nobody, &spec),
    );
    for outcome in [
        outcomes.0.map(drop),
        outcomes.1.map(drop),
        outcomes.2,
        outcomes.3,
    ] {
        assert!(
            matches!(outcome, Err(TopicError::Timeout { .. })),
            "{outcome:?}"
        );
    }
    assert!(
        start.elapsed() < Duration::from_secs(20),
        "{:?}",
        start.elapsed()
    );
    Ok(())
}

#[tokio::test]
async fn the_embedded_broker_serves_what_it_was_given() -> anyhow::Result<()> {
    let broker = EmbeddedBroker::start(&[TopicSpec::new("a", 2), TopicSpec::new("b", 1)])?;
    assert!(
        broker.brokers().starts_with("127.0.0.1:"),
        "{}",
        broker.brokers()
    );
    broker.create_topic(&TopicSpec::new("c", 1))?;
    assert!(broker.create_topic(&TopicSpec::new("c", 1)).is_err());
    assert!(
        broker
            .create_topic(&TopicSpec::new("with\0nul", 1))
            .is_err()
    );
    let broker = Broker::Embedded(broker);
    let publisher = broker.publisher()?;
    publisher
        .send(vec![outgoing("a", 1, "x"), outgoing("c", 0, "y")])
        .await?;
    let tails = topic::tails(&broker.settings(), "a", 2).await?;
    assert_eq!(
        tails.iter().map(Option::is_some).collect::<Vec<_>>(),
        [false, true]
    );
    Ok(())
}
