//! A real broker that stops, is killed, or forgets a topic.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use quota_kafka::{Follower, GroupMember, GroupOptions, Record, StartAt, topic};
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions};
use rdkafka::client::DefaultClientContext;

use tokio::time::timeout;

use crate::support::{
    OwnKafka, assert_numbers, follow, publish_numbers, read, real, unique, until,
};

/// Far more than an outage and what follows it take here.
const LIMIT: Duration = Duration::from_secs(120);

#[tokio::test]
async fn everything_goes_on_when_the_broker_is_back() -> anyhow::Result<()> {
    let Some((kafka, broker)) = OwnKafka::start()? else {
        return Ok(());
    };
    let (settings, topic) = (broker.settings(), broker.topic(4).await?);
    let publisher = broker.publisher()?;
    let mut follower = Follower::open(&settings, &topic, &[0, 1, 2, 3]).await?;
    let options = GroupOptions {
        group: unique("group"),
        topics: vec![topic.clone()],
        start: StartAt::Committed { or_beginning: true },
    };
    let mut member = GroupMember::open(&settings, &options)?;
    publish_numbers(&publisher, &topic, 4, 0..100).await?;
    let mut followed = follow(&mut follower, 100).await?;
    let place = |record: &Record| (record.partition, record.offset);
    let mut shared: BTreeSet<_> = read(&mut member, 100).await?.iter().map(place).collect();
    let mut next = 100;
    for verb in ["stop", "kill"] {
        kafka.run(verb)?;
        let start = Instant::now();
        until(|| !follower.is_connected() && !member.is_connected()).await?;
        let sending = publish_numbers(&publisher, &topic, 4, next..next + 100);
        tokio::pin!(sending);
        assert!(timeout(Duration::from_secs(1), &mut sending).await.is_err());
        assert!(
            follower
                .next_batch(1, Duration::from_millis(100))
                .await?
                .is_empty()
        );
        assert!(member.commit(&[(&topic, 0, 1)]).await.is_err());
        assert!(
            start.elapsed() < Duration::from_secs(15),
            "{:?}",
            start.elapsed()
        );
        // The second is longer than a session: the member loses its partitions, and yet goes on showing what
        // it was last given until it is given others.
        let outage = if verb == "kill" {
            Duration::from_secs(11)
        } else {
            Duration::ZERO
        };
        tokio::time::sleep(outage.saturating_sub(start.elapsed())).await;
        kafka.run("start")?;
        timeout(Duration::from_secs(60), sending).await??;
        next += 100;
        followed.extend(follow(&mut follower, 100).await?);
        assert_numbers(&followed, 0..next)?;
        // The group begins anew, from what was committed: nothing.
        let all = usize::try_from(next)?;
        while shared.len() < all {
            assert_eq!(member.assignment().len(), 4);
            let batch = member.next_batch(1_000, Duration::from_millis(50)).await?;
            shared.extend(batch.iter().map(place));
            anyhow::ensure!(start.elapsed() < LIMIT, "{} of {all}", shared.len());
        }
        until(|| follower.is_connected() && member.is_connected()).await?;
    }
    let tails = topic::tails(&settings, &topic, 4).await?;
    assert!(tails.iter().flatten().all(|record| record.offset == 74));
    Ok(())
}

/// The topic is deleted and made again, empty: the follower goes on in the new one.
#[tokio::test]
async fn a_follower_survives_its_topic() -> anyhow::Result<()> {
    let Some(broker) = real()? else { return Ok(()) };
    let (settings, topic) = (broker.settings(), broker.topic(2).await?);
    publish_numbers(&broker.publisher()?, &topic, 2, 0..100).await?;
    let mut follower = Follower::open(&settings, &topic, &[0, 1]).await?;
    publish_numbers(&broker.publisher()?, &topic, 2, 100..200).await?;
    follow(&mut follower, 100).await?;
    let admin: AdminClient<DefaultClientContext> = ClientConfig::new()
        .set("bootstrap.servers", settings.brokers())
        .create()?;
    admin.delete_topics(&[&topic], &AdminOptions::new()).await?;
    tokio::time::sleep(Duration::from_secs(1)).await;
    broker.create(&topic, 2).await?;
    let publisher = broker.publisher()?;
    let mut next = 0;
    let limit = Instant::now();
    loop {
        publish_numbers(&publisher, &topic, 2, next..next + 2).await?;
        next += 2;
        let records = follower.next_batch(100, Duration::from_millis(200)).await?;
        if records.iter().any(|record| record.offset < 50) {
            return Ok(());
        }
        anyhow::ensure!(
            limit.elapsed() < Duration::from_secs(60),
            "nothing from the new topic"
        );
    }
}
