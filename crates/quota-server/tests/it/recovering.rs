//! A ledger that lost its tail, and a topic that does not carry quite what is missing.

use crate::nodes::{Database, PARTITIONS, Running, all_rows, eventually, load, real_topics};
use quota_core::record::{HEADERS, to_record};
use quota_core::row::Row;
use quota_kafka::{Headers, Outgoing, Publisher, PublisherOptions};
use quota_postgres::Ledger;
use quota_server::config::Role;
use quota_server::recovering::{Accepted, Stopped, accept_loss, bring_back, left};
use quota_server::topics::Topics;
use quota_server::verifying::verify_topic;
use std::time::Duration;

/// A ledger, all its rows, and an empty topic.
struct Scene {
    database: Database,
    topics: Topics,
    ledger: Ledger,
    rows: Vec<Row>,
}

impl Scene {
    async fn new() -> Option<Self> {
        let topics = real_topics().await?;
        let database = Database::fresh().await;
        let running = Running::start(&database, &topics, &[]).await;
        load(&running, 0, 80).await;
        running.stop().await;
        let ledger = database.ledger().await;
        let rows = all_rows(&ledger).await;
        Some(Self {
            database,
            topics,
            ledger,
            rows,
        })
    }

    /// The rows of the partition that has most.
    fn longest(&self) -> Vec<Row> {
        let of = |partition| {
            let rows = self.rows.iter().filter(|row| row.partition == partition);
            rows.cloned().collect::<Vec<_>>()
        };
        (0..PARTITIONS).map(of).max_by_key(Vec::len).unwrap()
    }

    /// Publishes rows, in this order, as if they were of that epoch.
    async fn publish(&self, rows: &[Row], epoch: u32) {
        self.publish_as(rows, epoch, &self.ledger.info().id).await;
    }

    async fn publish_as(&self, rows: &[Row], epoch: u32, ledger_id: &[u8; 16]) {
        let options = PublisherOptions::default();
        let publisher = Publisher::open(self.topics.settings(), &options).unwrap();
        let topic = self.topics.ledger();
        for row in rows {
            let record = to_record(row, ledger_id, epoch);
            let headers = record
                .headers()
                .fold(Headers::with_capacity(HEADERS), |headers, (name, value)| {
                    headers.add(name, value)
                });
            let outgoing = Outgoing {
                topic: &topic,
                partition: Some(i32::try_from(row.partition).unwrap()),
                key: Some(record.key()),
                payload: Some(record.value()),
                headers: Some(headers),
            };
            publisher.send(vec![outgoing]).await.unwrap();
        }
    }

    /// What a superuser does to the ledger's table.
    fn tamper(&self, how: &str) {
        self.database
            .psql(&format!("ALTER TABLE ledger DISABLE TRIGGER ALL; {how}"));
    }

    /// Takes a partition's rows from an offset on away.
    fn lose(&self, partition: u32, from: i64) {
        self.tamper(&format!(
            "DELETE FROM ledger WHERE partition = {partition} AND \"offset\" >= {from}"
        ));
    }

    async fn bring_back(&self) -> (u64, Option<Stopped>) {
        let done = bring_back(&self.database.url, &self.topics, None, |_| {}).await;
        let (recovered, stopped) = done.unwrap();
        (recovered.rows, stopped)
    }

    async fn is_whole(&self) -> bool {
        all_rows(&self.ledger).await == self.rows
    }

    async fn problem(&self) -> Option<String> {
        let found = verify_topic(&self.ledger, &self.topics, |_, _| {}).await;
        found.unwrap().err().map(|broken| broken.to_string())
    }
}

/// The rows come back as they were, also where the topic has some of them twice, and a second time changes nothing.
///
/// Failed when `subject_prev` was left out, and when repeated records were taken for rows (in both cases nothing fits any more).
#[tokio::test(flavor = "multi_thread")]
async fn a_lost_tail_comes_back_byte_for_byte() {
    let Some(scene) = Scene::new().await else {
        return;
    };
    let longest = scene.longest();
    scene.publish(&scene.rows, 0).await;
    scene.publish(&longest[2..5], 0).await;
    scene.publish(&longest[3..], 0).await;
    assert_eq!(scene.problem().await, None);
    scene.tamper("DELETE FROM ledger WHERE \"offset\" >= 2");
    let remaining = all_rows(&scene.ledger).await.len();
    let missing = (scene.rows.len() - remaining) as u64;
    assert_eq!(scene.bring_back().await, (missing, None));
    assert!(scene.is_whole().await);
    assert_eq!(scene.bring_back().await, (0, None));
    let left = left(&scene.ledger, &scene.topics, None).await.unwrap();
    assert_eq!(left, []);
}

/// A hole in the topic ends it, at the hole; what came before it is there, and once the topic has the rest, it goes on.
///
/// Failed when a hole was stepped over (the place after it is named), when the end of what came back was not compared with the
/// farthest that the topic has, when one that is filled later in the topic was not seen to be, and when verifying did not ask
/// for holes.
#[tokio::test(flavor = "multi_thread")]
async fn a_hole_in_the_topic_is_named() {
    let Some(scene) = Scene::new().await else {
        return;
    };
    let rows = scene.longest();
    let partition = rows[0].partition;
    scene.publish(&rows[..4], 0).await;
    scene.publish(&rows[5..], 0).await;
    assert!(
        scene
            .problem()
            .await
            .unwrap()
            .starts_with(&format!("{partition}:4: the topic does not have")),
    );
    scene.lose(partition, 2);
    let (events, stopped) = scene.bring_back().await;
    let stopped = stopped.unwrap();
    assert_eq!(
        (events, stopped.position.to_string()),
        (2, format!("{partition}:4"))
    );
    assert!(
        stopped.why.contains("does not have this row"),
        "{stopped:?}"
    );
    scene.publish(&rows[4..], 0).await;
    assert_eq!(scene.bring_back().await, (rows.len() as u64 - 4, None));
    assert!(scene.is_whole().await);
}

/// A topic with another history, a changed event or another ledger: nothing of it goes in.
///
/// Failed when hashes were not recomputed (the first batch is refused whole, by the append's own look at it), when the row at the
/// ledger's end was not compared, and when ids were not, by bringing back, by accepting a loss, or by verifying.
#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_fit_does_not_go_in() {
    let Some(scene) = Scene::new().await else {
        return;
    };
    let rows = scene.longest();
    let partition = rows[0].partition;
    let mut changed = rows.clone();
    changed[4].payload = b"{}".to_vec().into();
    scene.publish(&changed, 0).await;
    let found = scene.problem().await.unwrap();
    assert!(
        found.starts_with(&format!("{partition}:4: the topic has another event")),
        "{found}"
    );
    scene.lose(partition, 3);
    let (events, stopped) = scene.bring_back().await;
    let stopped = stopped.unwrap();
    assert_eq!(
        (events, stopped.position.to_string()),
        (1, format!("{partition}:4"))
    );
    assert!(stopped.why.contains("differ"), "{stopped:?}");
    // And now the topic says of the ledger's last row that it is another.
    let mut other = rows[3].clone();
    other.hash = [7; 32];
    scene.publish(&[other, rows[5].clone()], 0).await;
    let (events, stopped) = scene.bring_back().await;
    assert_eq!(
        (events, stopped.unwrap().position.to_string()),
        (0, format!("{partition}:3"))
    );

    let stranger = Scene::new().await.unwrap();
    let rows = stranger.longest();
    stranger.publish_as(&rows, 0, &[9; 16]).await;
    let (events, stopped) = stranger.bring_back().await;
    assert_eq!(events, 0);
    assert!(stopped.unwrap().why.contains("another ledger"));
    let begun = accept_loss(&stranger.database.url, &stranger.topics, None, "test").await;
    assert!(matches!(begun, Ok(Accepted::Stranger(_))), "{begun:?}");
    assert!(stranger.problem().await.unwrap().contains("another ledger"));
}

/// A ledger that was restored and went on without its topic: nothing can be brought back, and once the loss is accepted the
/// topic gets all of this ledger's history, under the new epoch.
///
/// Failed when rows of the ledger were not compared with what the topic says of them, and when the relay went on after the old
/// history's end.
#[tokio::test(flavor = "multi_thread")]
async fn a_ledger_that_went_on_alone_is_published_again() {
    let Some(scene) = Scene::new().await else {
        return;
    };
    scene.publish(&scene.rows, 0).await;
    scene.tamper("DELETE FROM ledger WHERE \"offset\" >= 3");
    let running = Running::start(&scene.database, &scene.topics, &[]).await;
    load(&running, 500, 160).await;
    running.stop().await;
    assert!(scene.problem().await.unwrap().contains("another event"));
    let (events, stopped) = scene.bring_back().await;
    assert_eq!((events, stopped), (0, None), "the topic is not ahead");
    let found = left(&scene.ledger, &scene.topics, None).await.unwrap();
    assert!(found[0].to_string().contains("differ"), "{found:?}");
    let begun = accept_loss(&scene.database.url, &scene.topics, None, "lost").await;
    assert!(
        matches!(begun, Ok(Accepted::Begun { epoch: 1, .. })),
        "{begun:?}"
    );
    let running = Running::start(&scene.database, &scene.topics, &[Role::Relay]).await;
    eventually("the topic has all", Duration::from_secs(60), || async {
        let found = verify_topic(&scene.ledger, &scene.topics, |_, _| {}).await;
        found.unwrap().is_ok_and(|verified| verified.behind == 0)
    })
    .await;
    running.stop().await;
}

/// A backup from before an epoch: its start and all after it come back, the lost tail of the old one does not, and the ledger
/// is in that epoch again. A second loss then begins an epoch after all that the topic has seen.
///
/// Failed when the records of the lost tail were taken, when the epoch was not adopted, and when the second loss began the
/// first one's epoch anew.
#[tokio::test(flavor = "multi_thread")]
async fn a_restore_to_before_an_epoch_finds_its_way() {
    let Some(mut scene) = Scene::new().await else {
        return;
    };
    let before = scene.rows.clone();
    scene.publish(&before, 0).await;
    scene.tamper("DELETE FROM ledger WHERE \"offset\" >= 3");
    let begun = accept_loss(&scene.database.url, &scene.topics, None, "lost").await;
    assert!(
        matches!(begun, Ok(Accepted::Begun { epoch: 1, .. })),
        "{begun:?}"
    );
    scene.ledger = scene.database.ledger().await;
    assert_eq!(scene.ledger.info().epoch, 1);
    let running = Running::start(&scene.database, &scene.topics, &[]).await;
    load(&running, 100, 80).await;
    running.stop().await;
    scene.rows = all_rows(&scene.ledger).await;
    let new: Vec<Row> = scene
        .rows
        .iter()
        .filter(|row| !before.contains(row))
        .cloned()
        .collect();
    scene.publish(&new, 1).await;
    assert_eq!(scene.problem().await, None);

    scene.tamper("DELETE FROM ledger WHERE \"offset\" >= 2; UPDATE ledger_meta SET epoch = 0");
    let missing = (scene.rows.len() - all_rows(&scene.ledger).await.len()) as u64;
    assert_eq!(scene.bring_back().await, (missing, None));
    assert!(scene.is_whole().await);
    assert_eq!(scene.ledger.epoch().await.unwrap(), 1);
    assert_eq!(scene.bring_back().await, (0, None));

    scene.tamper("DELETE FROM ledger WHERE \"offset\" >= 2; UPDATE ledger_meta SET epoch = 0");
    let begun = accept_loss(&scene.database.url, &scene.topics, None, "lost again").await;
    assert!(
        matches!(begun, Ok(Accepted::Begun { epoch: 2, .. })),
        "{begun:?}"
    );
    let again = accept_loss(&scene.database.url, &scene.topics, None, "lost again").await;
    assert!(matches!(again, Ok(Accepted::NothingLost)), "{again:?}");
}

/// Views that are ahead of what is left of their partition are thrown away: what was lost may be in them.
///
/// Failed when views were kept.
#[tokio::test(flavor = "multi_thread")]
async fn views_of_a_lost_tail_do_not_survive() {
    let Some(scene) = Scene::new().await else {
        return;
    };
    let rows = scene.longest();
    let partition = rows[0].partition;
    let far = rows.len();
    scene.tamper(&format!(
        "UPDATE projector_checkpoints_v1 SET next_offset = {far} WHERE partition = {partition};
         INSERT INTO entitlement_views_v1 (subject_seq, \"offset\", row_count, partition, subject_key, product, subject, state)
         SELECT 1, {far} - 1, 0, {partition}, '\\x00112233445566778899aabbccddeeff', 'shop', 'gone', '\\x'"
    ));
    scene.lose(partition, 3);
    let begun = accept_loss(&scene.database.url, &scene.topics, None, "lost").await;
    assert!(
        matches!(begun, Ok(Accepted::Begun { epoch: 1, .. })),
        "{begun:?}"
    );
    let folded = scene.ledger.checkpoints().await.unwrap();
    assert_eq!(folded[partition as usize], 0);
    let views = scene.ledger.views_page(None, 10).await.unwrap();
    assert_eq!(views, []);
}
