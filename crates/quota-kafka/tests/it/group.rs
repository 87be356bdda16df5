//! Group members: sharing, leaving, committing, new topics, a busy application.

use std::sync::Arc;
use std::time::{Duration, Instant};

use quota_kafka::{GroupMember, GroupOptions, Record, StartAt};

use crate::support::{Broker, number, on_each};
use crate::support::{assert_numbers, publish_numbers, read, unique, until};

const FROM_BEGINNING: StartAt = StartAt::Committed { or_beginning: true };
const SHORT: Duration = Duration::from_millis(300);

fn join(
    broker: &Broker,
    group: &str,
    topics: &[&str],
    start: StartAt,
) -> anyhow::Result<GroupMember> {
    let options = GroupOptions {
        group: group.to_owned(),
        topics: topics.iter().map(|topic| (*topic).to_owned()).collect(),
        start,
    };
    Ok(GroupMember::open(&broker.settings(), &options)?)
}

/// Waits until the member has that many partitions, reading nothing that it must keep.
async fn settle(member: &GroupMember, partitions: usize) -> anyhow::Result<Vec<(Arc<str>, i32)>> {
    until(|| member.assignment().len() == partitions).await?;
    Ok(member.assignment())
}

#[tokio::test]
async fn two_members_share_and_one_inherits() -> anyhow::Result<()> {
    on_each(async |broker| {
        let (topic, group) = (broker.topic(6).await?, unique("group"));
        let publisher = broker.publisher()?;
        let mut first = join(broker, &group, &[&topic], FROM_BEGINNING)?;
        let alone = settle(&first, 6).await?;
        let mut second = join(broker, &group, &[&topic], FROM_BEGINNING)?;
        let (mine, yours) = (settle(&first, 3).await?, settle(&second, 3).await?);
        let mut together: Vec<_> = mine.iter().chain(&yours).cloned().collect();
        together.sort();
        assert_eq!(together, alone);
        publish_numbers(&publisher, &topic, 6, 0..600).await?;
        let (read_first, read_second) =
            tokio::try_join!(read(&mut first, 300), read(&mut second, 300))?;
        for (records, owned) in [(&read_first, &mine), (&read_second, &yours)] {
            assert_eq!(records.len(), 300);
            let ours = |record: &Record| owned.contains(&(record.topic.clone(), record.partition));
            assert!(records.iter().all(ours));
        }
        commit(&first, &read_first).await?;
        commit(&second, &read_second).await?;
        second.close().await;
        settle(&first, 6).await?;
        publish_numbers(&publisher, &topic, 6, 600..1_200).await?;
        assert_numbers(&read(&mut first, 600).await?, 600..1_200)?;
        Ok(())
    })
    .await
}

/// Who waits for records hears at once that its partitions have changed.
#[tokio::test]
async fn a_change_of_the_assignment_ends_the_wait() -> anyhow::Result<()> {
    on_each(async |broker| {
        let (topic, group) = (broker.topic(1).await?, unique("group"));
        let long = Duration::from_secs(50);
        let start = Instant::now();
        let mut member = join(broker, &group, &[&topic], FROM_BEGINNING)?;
        assert!(member.next_batch(1, long).await?.is_empty());
        assert_eq!(member.assignment().len(), 1);
        let other = join(broker, &group, &[&topic], FROM_BEGINNING)?;
        assert!(member.next_batch(1, long).await?.is_empty());
        assert!(start.elapsed() < long, "{:?}", start.elapsed());
        drop(other);
        Ok(())
    })
    .await
}

/// Commits what lies behind these records.
async fn commit(member: &GroupMember, records: &[Record]) -> anyhow::Result<()> {
    let mut next = std::collections::HashMap::new();
    for record in records {
        next.insert((&*record.topic, record.partition), record.offset + 1);
    }
    let offsets: Vec<_> = next
        .into_iter()
        .map(|((topic, partition), offset)| (topic, partition, offset))
        .collect();
    Ok(member.commit(&offsets).await?)
}

#[tokio::test]
async fn what_was_not_committed_comes_again() -> anyhow::Result<()> {
    on_each(async |broker| {
        let (topic, group) = (broker.topic(1).await?, unique("group"));
        let publisher = broker.publisher()?;
        publish_numbers(&publisher, &topic, 1, 0..100).await?;
        let mut member = join(broker, &group, &[&topic], FROM_BEGINNING)?;
        let records = read(&mut member, 100).await?;
        assert_numbers(&records, 0..100)?;
        commit(&member, &records[..40]).await?;
        member.close().await;
        let mut member = join(broker, &group, &[&topic], FROM_BEGINNING)?;
        let records = read(&mut member, 60).await?;
        assert_numbers(&records, 40..100)?;
        commit(&member, &records).await?;
        member.close().await;
        let mut member = join(broker, &group, &[&topic], FROM_BEGINNING)?;
        settle(&member, 1).await?;
        publish_numbers(&publisher, &topic, 1, 100..110).await?;
        assert_numbers(&read(&mut member, 10).await?, 100..110)?;
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_commit_of_others_partitions_is_left_out() -> anyhow::Result<()> {
    on_each(async |broker| {
        let (topic, group) = (broker.topic(1).await?, unique("group"));
        let member = join(broker, &group, &[&topic], FROM_BEGINNING)?;
        settle(&member, 1).await?;
        member
            .commit(&[("another-topic", 0, 5), (&topic, 7, 5)])
            .await?;
        member.commit(&[]).await?;
        Ok(())
    })
    .await
}

/// A reader that starts at the end, and stays where it is through others' coming and going.
#[tokio::test]
async fn start_at_end_goes_on_through_rebalances() -> anyhow::Result<()> {
    on_each(async |broker| {
        let (topic, group) = (broker.topic(2).await?, unique("group"));
        let publisher = broker.publisher()?;
        publish_numbers(&publisher, &topic, 2, 0..50).await?;
        let mut first = join(broker, &group, &[&topic], StartAt::End)?;
        settle(&first, 2).await?;
        assert!(first.next_batch(10, SHORT).await?.is_empty());
        // The end is looked up some time after the assignment: go on when a record came through.
        let mut next = 50;
        let mut seen = Vec::new();
        while seen.iter().map(|record: &Record| record.partition).max() != Some(1) {
            publish_numbers(&publisher, &topic, 2, next..next + 2).await?;
            next += 2;
            seen.extend(first.next_batch(10, SHORT).await?);
        }
        assert!(number(&seen[0])? >= 50);
        while !first.next_batch(10, SHORT).await?.is_empty() {}
        let second = join(broker, &group, &[&topic], StartAt::End)?;
        let mine = settle(&first, 1).await?;
        settle(&second, 1).await?;
        publish_numbers(&publisher, &topic, 2, next..next + 100).await?;
        let records = read(&mut first, 50).await?;
        assert!(records.iter().all(|record| record.partition == mine[0].1));
        assert_eq!((records.len(), number(&records[0])? - next < 2), (50, true));
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_topic_can_be_added_and_come_into_being_later() -> anyhow::Result<()> {
    on_each(async |broker| {
        let (one, two, group) = (broker.topic(1).await?, unique("later"), unique("group"));
        let publisher = broker.publisher()?;
        let mut member = join(broker, &group, &[&one], FROM_BEGINNING)?;
        settle(&member, 1).await?;
        let before = member.epoch();
        member.resubscribe(&[one.clone(), two.clone()])?;
        publish_numbers(&publisher, &one, 1, 0..5).await?;
        let records = read(&mut member, 5).await?;
        assert_numbers(&records, 0..5)?;
        commit(&member, &records).await?;
        broker.create(&two, 1).await?;
        publish_numbers(&publisher, &two, 1, 0..5).await?;
        settle(&member, 2).await?;
        assert!(member.epoch() > before);
        let records = read(&mut member, 5).await?;
        assert!(records.iter().all(|record| *record.topic == *two));
        assert!(member.resubscribe(&["not legal".into()]).is_err());
        Ok(())
    })
    .await
}

/// The application does nothing for longer than the session; the member stays, with all its
/// partitions, and nothing is lost or doubled.
#[tokio::test]
async fn a_busy_application_keeps_its_membership() -> anyhow::Result<()> {
    on_each(async |broker| {
        let (topic, group) = (broker.topic(2).await?, unique("group"));
        let publisher = broker.publisher()?;
        let mut member = join(broker, &group, &[&topic], FROM_BEGINNING)?;
        settle(&member, 2).await?;
        for first in (0..60_000).step_by(10_000) {
            publish_numbers(&publisher, &topic, 2, first..first + 10_000).await?;
        }
        let epoch = member.epoch();
        tokio::time::sleep(Duration::from_secs(13)).await;
        assert_eq!(member.epoch(), epoch);
        assert_numbers(&read(&mut member, 60_000).await?, 0..60_000)?;
        assert_eq!(member.epoch(), epoch);
        Ok(())
    })
    .await
}

/// A full buffer is emptied when its partitions are taken away, and a stalled application does
/// not hold up the others.
#[tokio::test]
async fn a_busy_application_does_not_hold_up_a_rebalance() -> anyhow::Result<()> {
    on_each(async |broker| {
        let (topic, group) = (broker.topic(2).await?, unique("group"));
        let publisher = broker.publisher()?;
        for first in (0..60_000).step_by(10_000) {
            publish_numbers(&publisher, &topic, 2, first..first + 10_000).await?;
        }
        let mut busy = join(broker, &group, &[&topic], FROM_BEGINNING)?;
        settle(&busy, 2).await?;
        tokio::time::sleep(Duration::from_secs(4)).await;
        let mut second = join(broker, &group, &[&topic], FROM_BEGINNING)?;
        let yours = settle(&second, 1).await?;
        let records = read(&mut second, 30_000).await?;
        assert!(records.iter().all(|record| record.partition == yours[0].1));
        let mine = settle(&busy, 1).await?;
        let records = read(&mut busy, 30_000).await?;
        assert!(records.iter().all(|record| record.partition == mine[0].1));
        assert_eq!((records.len(), records[0].offset), (30_000, 0));
        Ok(())
    })
    .await
}
