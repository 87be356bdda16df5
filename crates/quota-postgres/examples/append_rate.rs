//! How fast appends are, next to a bare insert of the same rows: `append_rate [SECONDS [BATCH...]]`, on `TEST_DATABASE_URL`.
//!
//! Prints two lines per batch size: rows a second, latency of a batch, and what it cost the server. Making the rows is not
//! counted.

#![allow(
    clippy::print_stdout,
    clippy::indexing_slicing,
    reason = "a measurement prints what it measured"
)]

use anyhow::Context as _;
use quota_core::digest::{event_key, genesis, partition_of, subject_key};
use quota_core::row::{Head, Row};
use quota_core::time::Timestamp;
use quota_postgres::{Fence, Lane, LedgerInfo, migrate};
use sqlx::{Connection as _, PgConnection};
use std::sync::Arc;
use std::time::{Duration, Instant};

const PARTITIONS: u32 = 64;
const SUBJECTS: u64 = 100_000;
const PAYLOAD: &[u8] = br#"{"feature":"resume_edits","amount":1,"outcome":{"reason":"within_limit","used":3,"limit":10,"plan":"basic","resets_at":"2026-12-20T12:00:00.000000Z","evidence":[1042,1055,1077]},"resource":"r-1042"}"#;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let seconds = arguments.next().map_or(Ok(4), |text| text.parse())?;
    let mut batches = arguments
        .map(|text| text.parse())
        .collect::<Result<Vec<usize>, _>>()?;
    if batches.is_empty() {
        batches = vec![1, 10, 64, 256, 1000];
    }
    println!("batch  how     rows/s   p50 ms   p99 ms   server CPU us/batch");
    for batch in batches {
        let (bare, fenced) = (Database::new().await?, Database::new().await?);
        let outcome = measure(&bare, &fenced, batch, Duration::from_secs(seconds)).await;
        bare.drop().await?;
        fenced.drop().await?;
        for (how, mut taken, cpu) in outcome? {
            let total: Duration = taken.iter().sum();
            taken.sort_unstable();
            let at = |share: usize| {
                taken
                    .get(taken.len() * share / 100)
                    .map_or(0.0, |d| d.as_secs_f64() * 1e3)
            };
            let rate = (taken.len() * batch) as f64 / total.as_secs_f64();
            let cpu = cpu.as_micros() / taken.len().max(1) as u128;
            println!(
                "{batch:>5}  {how:<6} {rate:>7.0}  {:>7.2}  {:>7.2}  {cpu:>7}",
                at(50),
                at(99)
            );
        }
    }
    Ok(())
}

struct Database {
    url: String,
    name: String,
    server: String,
}

impl Database {
    async fn new() -> anyhow::Result<Self> {
        let server = std::env::var("TEST_DATABASE_URL").context("TEST_DATABASE_URL")?;
        let name = format!("rate_{}", uuid::Uuid::new_v4().simple());
        run(&server, format!("CREATE DATABASE {name}")).await?;
        let (base, query) = server.split_once('?').unwrap_or((&server, ""));
        let (host, _) = base
            .rsplit_once('/')
            .context("a database in TEST_DATABASE_URL")?;
        Ok(Self {
            url: format!("{host}/{name}?{query}"),
            name,
            server,
        })
    }

    async fn drop(self) -> anyhow::Result<()> {
        run(
            &self.server,
            format!("DROP DATABASE {} WITH (FORCE)", self.name),
        )
        .await
    }
}

async fn run(url: &str, statement: String) -> anyhow::Result<()> {
    let mut connection = PgConnection::connect(url).await?;
    sqlx::raw_sql(sqlx::AssertSqlSafe(statement))
        .execute(&mut connection)
        .await?;
    Ok(connection.close().await?)
}

/// Both ways in turns, so that whatever else this machine does disturbs both alike.
async fn measure(
    bare: &Database,
    fenced: &Database,
    batch: usize,
    limit: Duration,
) -> anyhow::Result<[(&'static str, Vec<Duration>, Duration); 2]> {
    let mut bare_maker = Maker::new(migrate(&bare.url, PARTITIONS, 1).await?);
    let mut maker = Maker::new(migrate(&fenced.url, PARTITIONS, 1).await?);
    let mut connection = PgConnection::connect(&bare.url).await?;
    let mut lane = Lane::open(&fenced.url, 1).await?;
    let backends = [
        backend(bare, "").await?,
        backend(fenced, "quota-ledger lane").await?,
    ];
    let (mut took_bare, mut took) = (Vec::new(), Vec::new());
    let mut cpu = [Duration::ZERO; 2];
    for warming in [true, false] {
        let begun = Instant::now();
        let limit = if warming {
            Duration::from_millis(500)
        } else {
            2 * limit
        };
        took_bare.clear();
        took.clear();
        cpu = [cpu_of(backends[0])?, cpu_of(backends[1])?];
        while begun.elapsed() < limit {
            let (rows, _) = bare_maker.batch(batch);
            let start = Instant::now();
            insert(&mut connection, &rows).await?;
            took_bare.push(start.elapsed());
            let (rows, fences) = maker.batch(batch);
            let start = Instant::now();
            let appended = lane.append(&rows, &fences, false).await?;
            took.push(start.elapsed());
            anyhow::ensure!(
                appended.partitions.len() == fences.len(),
                "a partition was stale"
            );
        }
    }
    let spent = |index: usize| anyhow::Ok(cpu_of(backends[index])?.saturating_sub(cpu[index]));
    Ok([("bare", took_bare, spent(0)?), ("append", took, spent(1)?)])
}

/// The server process behind a database's connection.
async fn backend(database: &Database, application: &str) -> anyhow::Result<i32> {
    let mut connection = PgConnection::connect(&database.server).await?;
    let query = "SELECT pid FROM pg_stat_activity WHERE datname = $1 AND application_name = $2";
    let row = sqlx::query_scalar(query)
        .bind(&database.name)
        .bind(application)
        .fetch_one(&mut connection)
        .await?;
    Ok(row)
}

/// What a local process has spent so far, in the kernel's ticks of 10 ms. Waiting for the disk is not in it.
fn cpu_of(pid: i32) -> anyhow::Result<Duration> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let fields = stat.rsplit_once(')').context("a process name")?.1;
    let ticks: u64 = fields
        .split_whitespace()
        .skip(11)
        .take(2)
        .filter_map(|text| text.parse::<u64>().ok())
        .sum();
    Ok(Duration::from_millis(ticks * 10))
}

async fn insert(connection: &mut PgConnection, rows: &[Row]) -> anyhow::Result<()> {
    fn column<'a, T>(rows: &'a [Row], value: impl Fn(&'a Row) -> T) -> Vec<T> {
        rows.iter().map(value).collect()
    }
    sqlx::query(
        r#"INSERT INTO ledger (partition, "offset", subject_key, subject_seq, subject_prev, event_key, product, subject,
                               source, id, type, type_version, occurred_at, recorded_at, catalog_version, payload, hash)
           SELECT * FROM unnest($1::integer[], $2::bigint[], $3::bytea[], $4::bigint[], $5::bigint[], $6::bytea[],
                                $7::text[], $8::text[], $9::text[], $10::text[], $11::text[], $12::integer[],
                                $13::bigint[], $14::bigint[], $15::integer[], $16::bytea[], $17::bytea[])"#,
    )
    .bind(column(rows, |r| r.partition as i32))
    .bind(column(rows, |r| r.offset))
    .bind(column(rows, |r| &r.subject_key[..]))
    .bind(column(rows, |r| r.subject_seq))
    .bind(column(rows, |r| r.subject_prev))
    .bind(column(rows, |r| &r.event_key[..]))
    .bind(column(rows, |r| &*r.product))
    .bind(column(rows, |r| &*r.subject))
    .bind(column(rows, |r| &*r.source))
    .bind(column(rows, |r| &*r.id))
    .bind(column(rows, |r| &*r.event_type))
    .bind(column(rows, |r| i32::from(r.type_version)))
    .bind(column(rows, |r| r.occurred_at.micros()))
    .bind(column(rows, |r| r.recorded_at.micros()))
    .bind(column(rows, |r| r.catalog_version as i32))
    .bind(column(rows, |r| &*r.payload))
    .bind(column(rows, |r| &r.hash[..]))
    .execute(connection)
    .await?;
    Ok(())
}

/// Makes rows of random subjects, chained.
struct Maker {
    heads: Vec<Head>,
    seqs: std::collections::HashMap<[u8; 16], (i64, i64)>,
    random: u64,
    made: u64,
}

impl Maker {
    fn new(info: LedgerInfo) -> Self {
        let head = |p| Head {
            offset: -1,
            hash: genesis(&info.id, p),
            recorded_at: Timestamp::MIN,
        };
        Self {
            heads: (0..PARTITIONS).map(head).collect(),
            seqs: Default::default(),
            random: 42,
            made: 0,
        }
    }

    fn batch(&mut self, count: usize) -> (Vec<Row>, Vec<Fence>) {
        let before = self.heads.clone();
        let mut rows: Vec<Row> = (0..count).filter_map(|_| self.row()).collect();
        rows.sort_by_key(|row| (row.partition, row.offset));
        let mut fences: Vec<Fence> = Vec::new();
        for row in &rows {
            if fences
                .last()
                .is_none_or(|fence| fence.partition != row.partition)
            {
                let previous_hash = before
                    .get(row.partition as usize)
                    .map_or([0; 32], |head| head.hash);
                fences.push(Fence {
                    partition: row.partition,
                    first_offset: row.offset,
                    previous_hash,
                });
            }
        }
        (rows, fences)
    }

    fn row(&mut self) -> Option<Row> {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.made += 1;
        let subject: Arc<str> = format!("user-{:06}", self.random % SUBJECTS).into();
        let key = subject_key("applyx", &subject);
        let partition = partition_of(&key, PARTITIONS);
        let head = self.heads.get_mut(partition as usize)?;
        let id: Arc<str> = format!("0190f6a0-7c1e-7d7a-9a3e-{:012x}", self.made).into();
        let (seq, prev) = self
            .seqs
            .get(&key)
            .map_or((0, None), |(seq, prev)| (*seq, Some(*prev)));
        let mut row = Row {
            partition,
            offset: head.offset + 1,
            subject_key: key,
            subject_seq: seq + 1,
            subject_prev: prev,
            event_key: event_key("applyx", &subject, "quota:api", &id),
            product: "applyx".into(),
            subject,
            source: "quota:api".into(),
            id,
            event_type: "usage.recorded".into(),
            type_version: 1,
            occurred_at: Timestamp::from_micros(1_795_000_000_000_000 + self.made as i64),
            recorded_at: Timestamp::from_micros(1_795_000_000_000_000 + self.made as i64),
            catalog_version: 1,
            payload: PAYLOAD.into(),
            hash: [0; 32],
        };
        row.hash = row.expected_hash(&head.hash);
        *head = Head {
            offset: row.offset,
            hash: row.hash,
            recorded_at: row.recorded_at,
        };
        self.seqs.insert(key, (row.subject_seq, row.offset));
        Some(row)
    }
}
