//! A database per test, and rows that are chained as the lane would chain them.

use quota_core::digest::{Hash, event_key, genesis, partition_of, subject_key};
use quota_core::row::{Head, Row};
use quota_core::time::Timestamp;
use quota_postgres::{Fence, Lane, Ledger, LedgerInfo, migrate};
use sqlx::{Connection as _, PgConnection};
use std::collections::HashMap;
use std::sync::Arc;

/// The fold version that the tests' view tables have.
pub const FOLD: i32 = 1;

/// A migrated database of the test's own.
pub struct Database {
    pub url: String,
    pub name: String,
    pub info: LedgerInfo,
}

/// Runs a test on a fresh ledger with so many partitions, and drops the database whatever the outcome.
pub fn with_ledger<F>(partitions: u32, test: impl FnOnce(Arc<Database>) -> F)
where
    F: Future<Output = ()> + Send + 'static,
{
    with_empty(
        |url, name| async move {
            let info = migrate(&url, partitions, FOLD).await.unwrap();
            Arc::new(Database { url, name, info })
        },
        test,
    );
}

/// The same on a database without a ledger.
pub fn with_empty<P, T, F>(prepare: impl FnOnce(String, String) -> P, test: impl FnOnce(T) -> F)
where
    P: Future<Output = T>,
    F: Future<Output = ()> + Send + 'static,
{
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(4)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let name = format!("test_{}", uuid::Uuid::new_v4().simple());
        let mut server = server().await;
        sql(&mut server, &format!("CREATE DATABASE {name}")).await;
        let value = prepare(database_url(&name), name.clone()).await;
        let outcome = tokio::spawn(test(value)).await;
        sql(&mut server, &format!("DROP DATABASE {name} WITH (FORCE)")).await;
        if let Err(panic) = outcome {
            std::panic::resume_unwind(panic.into_panic());
        }
    });
}

/// A connection of the superuser to the server's own database.
pub async fn server() -> PgConnection {
    PgConnection::connect(&server_url()).await.unwrap()
}

fn server_url() -> String {
    std::env::var("TEST_DATABASE_URL").expect(
        "TEST_DATABASE_URL is not set: these tests need a real PostgreSQL; run scripts/test, which starts one",
    )
}

/// The server's URL with another database's name in it.
pub fn database_url(name: &str) -> String {
    let url = server_url();
    let (base, query) = url
        .split_once('?')
        .map_or((url.as_str(), None), |(base, query)| (base, Some(query)));
    let scheme = base.find("://").expect("a URL") + 3;
    let host = base[scheme..].split('/').next().unwrap();
    let query = query.map(|query| format!("?{query}")).unwrap_or_default();
    format!("{}{host}/{name}{query}", &base[..scheme])
}

/// The same URL for another login.
pub fn url_as(url: &str, login: &str) -> String {
    let scheme = url.find("://").unwrap() + 3;
    let rest = &url[scheme..];
    let end = rest.find('/').unwrap();
    let host = rest[..end]
        .rsplit_once('@')
        .map_or(&rest[..end], |(_, host)| host);
    format!("{}{login}:secret@{host}{}", &url[..scheme], &rest[end..])
}

impl Database {
    pub async fn ledger(&self) -> Ledger {
        Ledger::connect(&self.url, FOLD, 4).await.unwrap()
    }

    pub async fn lane(&self) -> Lane {
        Lane::open(&self.url, FOLD).await.unwrap()
    }

    /// A connection of the owner, who is a superuser here.
    pub async fn owner(&self) -> PgConnection {
        PgConnection::connect(&self.url).await.unwrap()
    }
}

pub async fn sql(connection: &mut PgConnection, text: &str) {
    sqlx::raw_sql(sqlx::AssertSqlSafe(text))
        .execute(connection)
        .await
        .unwrap();
}

/// The SQLSTATE that a statement fails with.
pub async fn sqlstate(connection: &mut PgConnection, text: &str) -> String {
    match sqlx::raw_sql(sqlx::AssertSqlSafe(text))
        .execute(connection)
        .await
    {
        Ok(_) => "00000".to_owned(),
        Err(error) => error
            .as_database_error()
            .unwrap()
            .code()
            .unwrap()
            .into_owned(),
    }
}

/// A subject of `product` that falls into the partition; `n` tells several apart.
pub fn subject_in(partition: u32, partitions: u32, product: &str, n: usize) -> String {
    (0..)
        .map(|i| format!("s{n}-{i}"))
        .find(|subject| partition_of(&subject_key(product, subject), partitions) == partition)
        .unwrap()
}

/// Makes rows as a lane does, from what it believes the heads to be.
pub struct Writer {
    pub info: LedgerInfo,
    pub heads: HashMap<u32, Head>,
    seqs: HashMap<[u8; 16], (i64, i64)>,
}

impl Writer {
    pub fn new(info: LedgerInfo) -> Self {
        Self {
            info,
            heads: HashMap::new(),
            seqs: HashMap::new(),
        }
    }

    pub fn head(&self, partition: u32) -> Head {
        self.heads.get(&partition).copied().unwrap_or(Head {
            offset: -1,
            hash: genesis(&self.info.id, partition),
            recorded_at: Timestamp::MIN,
        })
    }

    pub fn fence(&self, partition: u32) -> Fence {
        let head = self.head(partition);
        Fence {
            partition,
            first_offset: head.offset + 1,
            previous_hash: head.hash,
        }
    }

    /// Learns the true heads, and forgets the rest.
    pub fn reset(&mut self, heads: Vec<Head>) {
        self.heads = (0..).zip(heads).collect();
        self.seqs.clear();
    }

    /// Takes a row that was changed after it was made for its partition's head.
    pub fn rehash(&mut self, row: &Row) {
        let head = Head {
            offset: row.offset,
            hash: row.hash,
            recorded_at: row.recorded_at,
        };
        self.heads.insert(row.partition, head);
    }

    /// The next row of a subject, in the partition that its key picks.
    pub fn row(&mut self, product: &str, subject: &str, id: &str) -> Row {
        let key = subject_key(product, subject);
        self.row_in(
            partition_of(&key, self.info.partitions),
            product,
            subject,
            "usage.recorded",
            id,
            br#"{"feature":"f","amount":1}"#,
        )
    }

    /// The next row of a subject, in any partition: for the ledger's own events.
    pub fn row_in(
        &mut self,
        partition: u32,
        product: &str,
        subject: &str,
        event_type: &str,
        id: &str,
        payload: &[u8],
    ) -> Row {
        let head = self.head(partition);
        let key = subject_key(product, subject);
        let mut lane_key = key;
        if subject.is_empty() {
            // The ledger's own subject has a sequence in every partition.
            lane_key[0] ^= partition as u8;
        }
        let (seq, prev) = self
            .seqs
            .get(&lane_key)
            .map_or((0, None), |(seq, prev)| (*seq, Some(*prev)));
        let mut row = Row {
            partition,
            offset: head.offset + 1,
            subject_key: key,
            subject_seq: seq + 1,
            subject_prev: prev,
            event_key: event_key(product, subject, "test", id),
            product: product.into(),
            subject: subject.into(),
            source: "test".into(),
            id: id.into(),
            event_type: event_type.into(),
            type_version: 1,
            occurred_at: Timestamp::from_micros(1_795_000_000_123_456),
            recorded_at: Timestamp::from_micros(1_795_000_000_123_456 + head.offset + 1),
            catalog_version: 1,
            payload: payload.into(),
            hash: [0; 32],
        };
        row.hash = row.expected_hash(&head.hash);
        self.heads.insert(
            partition,
            Head {
                offset: row.offset,
                hash: row.hash,
                recorded_at: row.recorded_at,
            },
        );
        self.seqs.insert(lane_key, (row.subject_seq, row.offset));
        row
    }
}

/// Sorted as an append wants them.
pub fn sorted(mut rows: Vec<Row>) -> Vec<Row> {
    rows.sort_by_key(|row| (row.partition, row.offset));
    rows
}

/// Reads a whole partition and checks that it is dense and chained from its genesis.
pub async fn check_chain(ledger: &Ledger, partition: u32) -> Vec<Row> {
    let mut pages = ledger.pages(partition, 0, i64::MAX, 500);
    let mut all: Vec<Row> = Vec::new();
    let mut hash: Hash = genesis(&ledger.info().id, partition);
    loop {
        let page = pages.next().await.unwrap();
        if page.is_empty() {
            return all;
        }
        for row in page {
            assert_eq!(
                row.offset,
                all.len() as i64,
                "partition {partition} is not dense"
            );
            assert_eq!(
                row.hash,
                row.expected_hash(&hash),
                "the chain of partition {partition} breaks at {}",
                row.offset
            );
            hash = row.hash;
            all.push(row);
        }
    }
}
