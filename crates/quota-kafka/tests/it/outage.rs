//! A real broker that stops, is killed, or forgets a topic.

use std::time::Duration;

use quota_kafka::{Follower, GroupMember, GroupOptions, StartAt, topic};
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions};
use rdkafka::client::DefaultClientContext;

use crate::support::{
    OwnKafka, assert_numbers, follow, publish_numbers, read, real, unique, until,
};

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
    let mut shared = read(&mut member, 100).await?;
    let mut next = 100;
    for verb in ["stop", "kill"] {
        kafka.run(verb)?;
        until(|| !follower.is_connected() && !member.is_connected()).await?;
        let sending = publish_numbers(&publisher, &topic, 4, next..next + 100);
        tokio::pin!(sending);
        assert!(
            tokio::time::timeout(Duration::from_secs(1), &mut sending)
                .await
                .is_err()
        );
        assert!(
            follower
                .next_batch(1, Duration::from_millis(100))
                .await?
                .is_empty()
        );
        kafka.run("start")?;
        tokio::time::timeout(Duration::from_secs(60), sending).await??;
        next += 100;
        followed.extend(follow(&mut follower, 100).await?);
        assert_numbers(&followed, 0..next)?;
        // The group may have begun anew, from what was committed: nothing.
        shared.extend(read(&mut member, 100).await?);
        until(|| follower.is_connected() && member.is_connected()).await?;
    }
    let seen: std::collections::BTreeSet<_> = shared
        .iter()
        .map(|record| (record.partition, record.offset))
        .collect();
    assert!(seen.len() >= 200, "{}", seen.len());
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
    let limit = std::time::Instant::now();
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
