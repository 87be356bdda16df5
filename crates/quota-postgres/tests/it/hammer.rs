//! Three writers over the same partitions while their backends are killed and their connections cut.

use crate::harness::{Database, Writer, check_chain, sorted, with_ledger};
use crate::proxy::{Cut, Proxy};
use quota_core::row::{Head, Row};
use quota_postgres::{AppendError, Fence, Lane, LedgerInfo};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

const PARTITIONS: u32 = 8;
/// How long it goes on at least, and how long until it has met everything: a busy machine takes longer.
const TIME: Duration = Duration::from_secs(6);
const PATIENCE: Duration = Duration::from_secs(120);

/// What a writer believes to be in the ledger: partition, offset, id.
type Believed = BTreeSet<(u32, i64, String)>;

/// How often each way out of an append was met: a hammer that never met one proves nothing about it.
#[derive(Default)]
struct Met {
    whole: AtomicU64,
    stale: AtomicU64,
    ambiguous_kept: AtomicU64,
    ambiguous_lost: AtomicU64,
    unavailable: AtomicU64,
}

impl Met {
    fn everything(&self) -> bool {
        let over = |n: &AtomicU64, least: u64| n.load(Ordering::Relaxed) > least;
        over(&self.whole, 100)
            && over(&self.stale, 20)
            && over(&self.ambiguous_kept, 5)
            && over(&self.ambiguous_lost, 5)
    }
}

/// Nothing is lost, doubled, out of order or there unasked, whoever is killed when: the ledger holds exactly the rows
/// that some writer was told are in, dense and chained.
///
/// Fails when a lost connection counts as "nothing recorded" (`AppendError::durable`), and when the insert has ON CONFLICT
/// DO NOTHING in place of the fence.
#[test]
fn killed_writers_lose_nothing() {
    with_ledger(PARTITIONS, |database| async move {
        let stop = Arc::new(AtomicBool::new(false));
        let met = Arc::new(Met::default());
        let proxy = Arc::new(Proxy::start(&database.url).await);
        let url: Arc<str> = proxy.url(&database.url).into();
        let killer = tokio::spawn(kill(database.clone(), proxy.clone(), stop.clone()));
        let writers: Vec<_> = (0..3)
            .map(|n| {
                tokio::spawn(write(
                    database.info,
                    url.clone(),
                    n,
                    stop.clone(),
                    met.clone(),
                ))
            })
            .collect();
        let begun = Instant::now();
        while begun.elapsed() < TIME || (!met.everything() && begun.elapsed() < PATIENCE) {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        stop.store(true, Ordering::Relaxed);
        let kills = killer.await.unwrap();
        let mut believed = Believed::new();
        for writer in writers {
            for row in writer.await.unwrap() {
                assert!(
                    believed.insert(row.clone()),
                    "two writers were told that {row:?} is theirs"
                );
            }
        }
        let ledger = database.ledger().await;
        let mut held = Believed::new();
        for partition in 0..PARTITIONS {
            held.extend(
                check_chain(&ledger, partition)
                    .await
                    .into_iter()
                    .map(|r| (partition, r.offset, r.id.to_string())),
            );
        }
        let lost: Vec<_> = believed.difference(&held).take(5).collect();
        let unasked: Vec<_> = held.difference(&believed).take(5).collect();
        assert!(
            lost.is_empty() && unasked.is_empty(),
            "lost {lost:?}, there unasked {unasked:?}"
        );
        let count = |n: &AtomicU64| n.load(Ordering::Relaxed);
        let (whole, stale, unavailable) = (
            count(&met.whole),
            count(&met.stale),
            count(&met.unavailable),
        );
        let (kept, gone) = (count(&met.ambiguous_kept), count(&met.ambiguous_lost));
        eprintln!(
            "{} rows, {kills} kills and cuts; appends: {whole} whole, {stale} partly stale, {unavailable} unavailable, ambiguous: {kept} in, {gone} not",
            held.len()
        );
        assert!(
            met.everything() && kills > 20,
            "the hammer was too soft for {PATIENCE:?}"
        );
    });
}

/// Every few milliseconds, kills a random lane's backend or cuts its connection.
async fn kill(database: Arc<Database>, proxy: Arc<Proxy>, stop: Arc<AtomicBool>) -> u64 {
    let mut owner = database.owner().await;
    let mut kills = 0;
    while !stop.load(Ordering::Relaxed) {
        tokio::time::sleep(Duration::from_millis(40)).await;
        match kills % 4 {
            0 => proxy.cut(Cut::Answer),
            2 => proxy.cut(Cut::AfterRequest),
            _ => {}
        }
        if kills % 2 == 0 {
            kills += 1;
            continue;
        }
        // Rather one at work than an idle one.
        let query = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                     WHERE datname = current_database() AND application_name = 'quota-ledger lane'
                     ORDER BY (state = 'active') DESC, random() LIMIT 1";
        kills += sqlx::query(query)
            .fetch_all(&mut owner)
            .await
            .unwrap()
            .len() as u64;
    }
    kills
}

/// Appends until told to stop, and returns what it was told is in.
async fn write(
    info: LedgerInfo,
    url: Arc<str>,
    name: u64,
    stop: Arc<AtomicBool>,
    met: Arc<Met>,
) -> Believed {
    let mut believed = Believed::new();
    let mut lane = open(&url).await;
    let mut writer = Writer::new(info);
    let mut random = 0x9e37_79b9_7f4a_7c15 ^ (name + 1);
    let mut made = 0_u64;
    while !stop.load(Ordering::Relaxed) {
        let (rows, fences) = batch(&mut writer, name, &mut random, &mut made);
        match lane.append(&rows, &fences, false).await {
            Ok(appended) => {
                let fresh = |row: &&Row| appended.partitions.contains(&row.partition);
                believed.extend(rows.iter().filter(fresh).map(place));
                let whole = appended.partitions.len() == fences.len();
                if whole { &met.whole } else { &met.stale }.fetch_add(1, Ordering::Relaxed);
                if !whole {
                    lane = learn(&url, lane, &mut writer).await;
                }
            }
            Err(AppendError::Ambiguous(_)) => {
                let kept;
                (lane, kept) = resolve(&url, &rows).await;
                let outcome = if kept.is_empty() {
                    &met.ambiguous_lost
                } else {
                    &met.ambiguous_kept
                };
                outcome.fetch_add(1, Ordering::Relaxed);
                believed.extend(kept);
                lane = learn(&url, lane, &mut writer).await;
            }
            Err(AppendError::Unavailable(_)) => {
                met.unavailable.fetch_add(1, Ordering::Relaxed);
                lane = learn(&url, lane, &mut writer).await;
            }
            Err(error) => panic!("no writer here does that: {error}"),
        }
    }
    believed
}

fn place(row: &Row) -> (u32, i64, String) {
    (row.partition, row.offset, row.id.to_string())
}

/// One to four rows in each of some partitions.
fn batch(
    writer: &mut Writer,
    name: u64,
    random: &mut u64,
    made: &mut u64,
) -> (Vec<Row>, Vec<Fence>) {
    let mut next = |below: u64| {
        *random ^= *random << 13;
        *random ^= *random >> 7;
        *random ^= *random << 17;
        *random % below
    };
    let (mut rows, mut fences) = (Vec::new(), Vec::new());
    for partition in 0..PARTITIONS {
        if next(3) > 0 {
            continue;
        }
        fences.push(writer.fence(partition));
        for _ in 0..=next(4) {
            *made += 1;
            let id = format!("{name}-{made}");
            rows.push(writer.row_in(partition, "p", &id, "usage.recorded", &id, b"{}"));
        }
    }
    if fences.is_empty() {
        batch(writer, name, random, made)
    } else {
        (sorted(rows), fences)
    }
}

/// Opens a lane, however often it takes.
async fn open(url: &str) -> Lane {
    let begun = Instant::now();
    loop {
        match Lane::open(url, crate::harness::FOLD).await {
            Ok(lane) => return lane,
            Err(error) => assert!(
                begun.elapsed() < Duration::from_secs(20),
                "no lane: {error}"
            ),
        }
    }
}

/// Reads the heads, on a new lane if this one is closed.
async fn learn(url: &str, mut lane: Lane, writer: &mut Writer) -> Lane {
    let all: Vec<u32> = (0..PARTITIONS).collect();
    loop {
        if let Ok(heads) = lane.heads_of(&all).await {
            let heads: Vec<Head> = heads.into_iter().map(|(_, head)| head).collect();
            writer.reset(heads);
            return lane;
        }
        lane = open(url).await;
    }
}

/// Finds out what became of an append whose connection was lost: the locks wait the old backend out, then one looks.
async fn resolve(url: &str, rows: &[Row]) -> (Lane, Vec<(u32, i64, String)>) {
    let places: Vec<(u32, i64)> = rows.iter().map(|row| (row.partition, row.offset)).collect();
    let partitions: BTreeSet<u32> = rows.iter().map(|row| row.partition).collect();
    let partitions: Vec<u32> = partitions.into_iter().collect();
    loop {
        let mut lane = open(url).await;
        if lane.lock(&partitions).await.is_err() {
            continue;
        }
        let Ok(found) = lane.rows_at(&places).await else {
            continue;
        };
        if lane.rollback().await.is_err() {
            continue;
        }
        let kept = rows
            .iter()
            .filter(|row| found.contains(row))
            .map(place)
            .collect();
        return (lane, kept);
    }
}
