//! The follower: where it joins, what it gives out, how it holds back.

use std::time::{Duration, Instant};

use quota_kafka::Follower;

use crate::support::{Broker, assert_numbers, brokers, follow, on_each, publish_numbers, until};

const SHORT: Duration = Duration::from_millis(300);

#[tokio::test]
async fn it_joins_at_the_end_of_its_partitions() -> anyhow::Result<()> {
    for broker in brokers()? {
        let topic = broker.topic(3).await?;
        let publisher = broker.publisher()?;
        publish_numbers(&publisher, &topic, 3, 0..300).await?;
        let mut all = Follower::open(&broker.settings(), &topic, &[0, 1, 2]).await?;
        let mut one = Follower::open(&broker.settings(), &topic, &[1]).await?;
        assert!(all.is_connected() && one.is_connected());
        publish_numbers(&publisher, &topic, 3, 300..600).await?;
        assert_numbers(&follow(&mut all, 300).await?, 300..600)?;
        let records = follow(&mut one, 100).await?;
        assert!(
            records
                .iter()
                .all(|record| record.partition == 1 && record.offset >= 100)
        );
        assert_eq!(records.len(), 100);
        assert!(all.next_batch(10, SHORT).await?.is_empty());
        assert!(one.next_batch(10, SHORT).await?.is_empty());
    }
    Ok(())
}

#[tokio::test]
async fn a_batch_is_bounded_in_size_and_time() -> anyhow::Result<()> {
    for broker in brokers()? {
        let topic = broker.topic(1).await?;
        let publisher = broker.publisher()?;
        let mut follower = Follower::open(&broker.settings(), &topic, &[0]).await?;
        let start = Instant::now();
        assert!(follower.next_batch(10, SHORT).await?.is_empty());
        assert!(start.elapsed() >= SHORT && start.elapsed() < SHORT * 3);
        publish_numbers(&publisher, &topic, 1, 0..25).await?;
        let mut records = Vec::new();
        while records.len() < 25 {
            let batch = follower.next_batch(10, Duration::from_secs(5)).await?;
            assert!(!batch.is_empty() && batch.len() <= 10);
            records.extend(batch);
        }
        assert_numbers(&records, 0..25)?;
    }
    Ok(())
}

#[tokio::test]
async fn a_new_record_is_given_out_soon() -> anyhow::Result<()> {
    for broker in brokers()? {
        let topic = broker.topic(4).await?;
        let publisher = broker.publisher()?;
        let mut follower = Follower::open(&broker.settings(), &topic, &[0, 1, 2, 3]).await?;
        let mut times = Vec::new();
        for number in 0..20 {
            publish_numbers(&publisher, &topic, 4, number..number + 1).await?;
            let start = Instant::now();
            assert_eq!(follow(&mut follower, 1).await?.len(), 1);
            times.push(start.elapsed());
        }
        times.sort_unstable();
        assert!(times[10] < Duration::from_millis(100), "{times:?}");
    }
    Ok(())
}

#[tokio::test]
async fn cancelling_loses_nothing() -> anyhow::Result<()> {
    for broker in brokers()? {
        let topic = broker.topic(2).await?;
        let publisher = broker.publisher()?;
        let mut follower = Follower::open(&broker.settings(), &topic, &[0, 1]).await?;
        let sending = tokio::spawn({
            let topic = topic.clone();
            async move {
                for number in 0..200 {
                    publish_numbers(&publisher, &topic, 2, number..number + 1).await?;
                }
                anyhow::Ok(())
            }
        });
        let mut records = Vec::new();
        while !sending.is_finished() {
            let batch = follower.next_batch(10, SHORT);
            if let Ok(batch) = tokio::time::timeout(Duration::from_millis(1), batch).await {
                records.extend(batch?);
            }
        }
        sending.await??;
        let left = 200 - records.len();
        records.extend(follow(&mut follower, left).await?);
        assert_numbers(&records, 0..200)?;
    }
    Ok(())
}

/// Long enough without a reader for the partitions to be paused, with more than the buffer holds.
#[tokio::test]
async fn a_reader_that_pauses_finds_everything() -> anyhow::Result<()> {
    on_each(async |broker| {
        let topic = broker.topic(4).await?;
        let publisher = broker.publisher()?;
        let mut follower = Follower::open(&broker.settings(), &topic, &[0, 1, 2, 3]).await?;
        for first in (0..60_000).step_by(10_000) {
            publish_numbers(&publisher, &topic, 4, first..first + 10_000).await?;
        }
        tokio::time::sleep(Duration::from_secs(4)).await;
        publish_numbers(&publisher, &topic, 4, 60_000..61_000).await?;
        let records = follow(&mut follower, 61_000).await?;
        assert_numbers(&records, 0..61_000)?;
        assert!(follower.next_batch(1, SHORT).await?.is_empty());
        Ok(())
    })
    .await
}

#[tokio::test]
async fn it_goes_on_after_an_outage() -> anyhow::Result<()> {
    for broker in brokers()? {
        let Broker::Embedded(embedded) = &broker else {
            continue;
        };
        let topic = broker.topic(2).await?;
        let publisher = broker.publisher()?;
        let mut follower = Follower::open(&broker.settings(), &topic, &[0, 1]).await?;
        publish_numbers(&publisher, &topic, 2, 0..10).await?;
        let mut records = follow(&mut follower, 10).await?;
        embedded.set_reachable(false)?;
        until(|| !follower.is_connected()).await?;
        assert!(follower.next_batch(10, SHORT).await?.is_empty());
        embedded.set_reachable(true)?;
        until(|| follower.is_connected()).await?;
        publish_numbers(&publisher, &topic, 2, 10..20).await?;
        records.extend(follow(&mut follower, 10).await?);
        assert_numbers(&records, 0..20)?;
    }
    Ok(())
}

/// Opened while the broker is away, it joins later.
#[tokio::test]
async fn it_opens_without_a_broker() -> anyhow::Result<()> {
    for broker in brokers()? {
        let Broker::Embedded(embedded) = &broker else {
            continue;
        };
        let topic = broker.topic(1).await?;
        embedded.set_reachable(false)?;
        let start = Instant::now();
        let mut follower = Follower::open(&broker.settings(), &topic, &[0]).await?;
        assert!(start.elapsed() < Duration::from_secs(8));
        assert!(!follower.is_connected());
        embedded.set_reachable(true)?;
        until(|| follower.is_connected()).await?;
        publish_numbers(&broker.publisher()?, &topic, 1, 0..5).await?;
        assert_numbers(&follow(&mut follower, 5).await?, 0..5)?;
    }
    Ok(())
}
