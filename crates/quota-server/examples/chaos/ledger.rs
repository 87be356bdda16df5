//! The ledger as anybody with SQL reads it, and its digests computed from their description alone: nothing here is shared
//! with the program that is tested.

use anyhow::Context as _;
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use sqlx::postgres::{PgConnection, PgRow};
use sqlx::{FromRow as _, Row as _};

/// A row of the table `ledger`.
#[derive(Clone, Debug)]
pub struct Row {
    pub partition: i32,
    pub offset: i64,
    pub subject_key: Vec<u8>,
    pub subject_seq: i64,
    pub subject_prev: Option<i64>,
    pub event_key: Vec<u8>,
    pub product: String,
    pub subject: String,
    pub source: String,
    pub id: String,
    pub kind: String,
    pub type_version: i32,
    pub occurred_at: i64,
    pub recorded_at: i64,
    pub catalog_version: i32,
    pub payload: Vec<u8>,
    pub hash: Vec<u8>,
}

/// All of them, in the order of the struct.
pub const COLUMNS: &str = r#"l.partition, l."offset", l.subject_key, l.subject_seq, l.subject_prev, l.event_key, l.product,
    l.subject, l.source, l.id, l.type, l.type_version, l.occurred_at, l.recorded_at, l.catalog_version, l.payload, l.hash"#;

impl sqlx::FromRow<'_, PgRow> for Row {
    fn from_row(row: &PgRow) -> Result<Self, sqlx::Error> {
        Ok(Self {
            partition: row.try_get(0)?,
            offset: row.try_get(1)?,
            subject_key: row.try_get(2)?,
            subject_seq: row.try_get(3)?,
            subject_prev: row.try_get(4)?,
            event_key: row.try_get(5)?,
            product: row.try_get(6)?,
            subject: row.try_get(7)?,
            source: row.try_get(8)?,
            id: row.try_get(9)?,
            kind: row.try_get(10)?,
            type_version: row.try_get(11)?,
            occurred_at: row.try_get(12)?,
            recorded_at: row.try_get(13)?,
            catalog_version: row.try_get(14)?,
            payload: row.try_get(15)?,
            hash: row.try_get(16)?,
        })
    }
}

impl Row {
    /// Its data.
    pub fn data(&self) -> anyhow::Result<Value> {
        serde_json::from_slice(&self.payload)
            .with_context(|| format!("the payload of {}", self.at()))
    }

    /// Its position as clients see it.
    pub fn at(&self) -> String {
        format!("{}:{}", self.partition, self.offset)
    }

    /// The hash that it must have after one with that hash.
    pub fn hash_after(&self, previous: &[u8]) -> [u8; 32] {
        let digest = Fields::new("quota-ledger row v1")
            .number(self.partition.into())
            .number(self.offset)
            .bytes(&self.subject_key)
            .number(self.subject_seq)
            .number(self.subject_prev.unwrap_or(-1))
            .bytes(&self.event_key)
            .bytes(self.product.as_bytes())
            .bytes(self.subject.as_bytes())
            .bytes(self.source.as_bytes())
            .bytes(self.id.as_bytes())
            .bytes(self.kind.as_bytes())
            .number(self.type_version.into())
            .number(self.occurred_at)
            .number(self.recorded_at)
            .number(self.catalog_version.into())
            .bytes(&self.payload)
            .digest();
        Fields::new("quota-ledger chain v1")
            .bytes(previous)
            .bytes(&digest)
            .digest()
    }
}

/// The hash that the first row of a partition follows.
pub fn genesis(ledger_id: &[u8], partition: i32) -> [u8; 32] {
    Fields::new("quota-ledger genesis v1")
        .bytes(ledger_id)
        .number(partition.into())
        .digest()
}

/// The first 16 bytes of SHA-256 over product and subject.
pub fn subject_key(product: &str, subject: &str) -> Vec<u8> {
    let fields = Fields(Sha256::new());
    let digest = fields
        .bytes(product.as_bytes())
        .bytes(subject.as_bytes())
        .digest();
    digest.get(..16).unwrap_or_default().to_vec()
}

/// The first 16 bytes of SHA-256 over a domain, product, subject, source and id.
pub fn event_key(product: &str, subject: &str, source: &str, id: &str) -> Vec<u8> {
    let digest = Fields::new("quota-ledger event key v1")
        .bytes(product.as_bytes())
        .bytes(subject.as_bytes())
        .bytes(source.as_bytes())
        .bytes(id.as_bytes())
        .digest();
    digest.get(..16).unwrap_or_default().to_vec()
}

/// The partition of a subject: its key's first eight bytes, modulo.
pub fn partition_of(subject_key: &[u8], partitions: usize) -> usize {
    let first = subject_key.iter().take(8);
    let number = first.fold(0_u64, |number, byte| (number << 8) | u64::from(*byte));
    usize::try_from(number % partitions.max(1) as u64).unwrap_or(0)
}

/// Length-prefixed fields under one SHA-256.
struct Fields(Sha256);

impl Fields {
    fn new(domain: &str) -> Self {
        Self(Sha256::new()).bytes(domain.as_bytes())
    }

    fn bytes(mut self, field: &[u8]) -> Self {
        self.0.update((field.len() as u64).to_be_bytes());
        self.0.update(field);
        self
    }

    fn number(self, value: i64) -> Self {
        self.bytes(&value.to_be_bytes())
    }

    fn digest(self) -> [u8; 32] {
        self.0.finalize().into()
    }
}

/// The rows of every partition from these offsets on, in order.
pub async fn rows_from(connection: &mut PgConnection, next: &[i64]) -> anyhow::Result<Vec<Row>> {
    let text = format!(
        r#"SELECT {COLUMNS} FROM unnest($1::bigint[]) WITH ORDINALITY AS n(first, number)
           JOIN ledger l ON l.partition = n.number - 1 AND l."offset" >= n.first
           ORDER BY l.partition, l."offset""#
    );
    let rows = sqlx::query(sqlx::AssertSqlSafe(text))
        .bind(next)
        .fetch_all(connection)
        .await?;
    let rows = rows.iter().map(Row::from_row);
    Ok(rows.collect::<Result<_, _>>()?)
}

/// The ledger's id and its number of partitions.
pub async fn meta(connection: &mut PgConnection) -> anyhow::Result<(Vec<u8>, usize)> {
    let row = sqlx::query("SELECT uuid_send(ledger_id), partitions FROM ledger_meta")
        .fetch_one(connection)
        .await?;
    let partitions: i32 = row.try_get(1)?;
    Ok((row.try_get(0)?, usize::try_from(partitions)?))
}
