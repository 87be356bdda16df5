//! What somebody with all rights in the database may do to a ledger, and that `verify` finds each of it.

use crate::checkpoints::checkpoint;
use crate::nodes::{Database, Running, all_rows, load, plan, projected, real_topics};
use quota_core::row::Row;
use quota_postgres::Ledger;
use quota_server::checkpoints::{Marks, Source, Trust};
use quota_server::config::Role;
use quota_server::verifying::{Verdict, verify};
use std::path::PathBuf;

/// A ledger with views, a checkpoint of it outside, and a copy to go back to.
struct Scene {
    _folder: tempfile::TempDir,
    file: PathBuf,
    database: Database,
    ledger: Ledger,
    /// The rows of the partition that has most.
    rows: Vec<Row>,
}

/// What the copies are of.
const TABLES: [&str; 4] = [
    "ledger",
    "entitlement_views_v1",
    "entitlement_rows_v1",
    "projector_checkpoints_v1",
];

impl Scene {
    async fn new() -> Option<Self> {
        let topics = real_topics().await?;
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("checkpoints.ndjson");
        let database = Database::fresh().await;
        let running = Running::start(&database, &topics, &[Role::Projector]).await;
        load(&running, 0, 120).await;
        let ledger = database.ledger().await;
        projected(&ledger).await;
        checkpoint(&running, &topics, &plan(Some(file.clone()))).await;
        running.stop().await;
        database.psql(
            "ALTER TABLE ledger DISABLE TRIGGER ALL;
             ALTER TABLE ledger DROP CONSTRAINT ledger_subject_prev_check",
        );
        for table in TABLES {
            database.psql(&format!(
                "CREATE TABLE good_{table} AS SELECT * FROM {table}"
            ));
        }
        let rows = all_rows(&ledger).await;
        let of = |partition| {
            let rows = rows.iter().filter(|row| row.partition == partition);
            rows.cloned().collect::<Vec<_>>()
        };
        let rows = (0..8).map(of).max_by_key(Vec::len).unwrap();
        Some(Self {
            _folder: folder,
            file,
            database,
            ledger,
            rows,
        })
    }

    /// What verifying finds: nothing, or the first bad position and what is wrong there.
    async fn found(&self, with_checkpoints: bool) -> Option<(String, String)> {
        let file = Source::File(self.file.clone());
        let sources = if with_checkpoints {
            vec![file]
        } else {
            Vec::new()
        };
        let id = self.ledger.info().id;
        let marks = Marks::read(&sources, &id, &Trust::default()).await.unwrap();
        match verify(&self.ledger, None, &marks, |_, _| {}).await.unwrap() {
            Verdict::Good(_) => None,
            Verdict::Bad(broken) => Some((broken.position.to_string(), broken.what)),
        }
    }

    /// What is found after something was done; then all is as it was.
    async fn after(&self, how: &str, with_checkpoints: bool) -> Option<(String, String)> {
        self.database.psql(how);
        let found = self.found(with_checkpoints).await;
        for table in TABLES {
            self.database.psql(&format!(
                "DELETE FROM {table}; INSERT INTO {table} SELECT * FROM good_{table}"
            ));
        }
        found
    }
}

/// Each of these is found by the chain alone, at the first bad position.
///
/// Fails with the comparison left out that finds it: of hashes, of density, of sequences, of keys, of views.
#[tokio::test(flavor = "multi_thread")]
async fn whatever_is_done_to_the_tables_is_found() {
    let Some(scene) = Scene::new().await else {
        return;
    };
    assert_eq!(scene.found(true).await, None);
    let (partition, count) = (scene.rows[0].partition, scene.rows.len());
    assert!(count > 8, "{count}");
    let of = |offset: usize| format!("WHERE partition = {partition} AND \"offset\" = {offset}");
    let all = |condition: &str| format!("WHERE partition = {partition} AND {condition}");
    let far = 1_000_000;
    let cases: Vec<(&str, String, usize)> = vec![
        (
            "a changed byte",
            format!("UPDATE ledger SET payload = set_byte(payload, 1, 32) {}", of(4)),
            4,
        ),
        (
            "a changed time",
            format!("UPDATE ledger SET recorded_at = recorded_at + 1 {}", of(4)),
            4,
        ),
        (
            "a row that is somebody else's now",
            format!("UPDATE ledger SET subject = subject || 'x' {}", of(5)),
            5,
        ),
        ("a removed row", format!("DELETE FROM ledger {}", of(3)), 3),
        (
            "a removed row, and those after it moved up",
            format!(
                "DELETE FROM ledger {}; UPDATE ledger SET \"offset\" = \"offset\" + {far} {};
                 UPDATE ledger SET \"offset\" = \"offset\" - {far} - 1 {}",
                of(3),
                all("\"offset\" > 3"),
                all("\"offset\" > 3"),
            ),
            3,
        ),
        (
            "two swapped rows",
            format!(
                "UPDATE ledger SET \"offset\" = {far} {};
                 UPDATE ledger SET \"offset\" = 4 {}; UPDATE ledger SET \"offset\" = 5 {}",
                of(4),
                of(5),
                of(far),
            ),
            4,
        ),
        (
            "a row inserted at the end",
            format!(
                "INSERT INTO ledger SELECT ({count}), subject_seq + 100, \"offset\", occurred_at, recorded_at, partition,
                 catalog_version, type_version, subject_key, decode(md5('x'), 'hex'), hash, product, subject, source, 'x',
                 type, payload FROM ledger {}",
                of(count - 1),
            ),
            count,
        ),
        (
            "a row inserted between two others",
            format!(
                "UPDATE ledger SET \"offset\" = \"offset\" + {far} {};
                 UPDATE ledger SET \"offset\" = \"offset\" - {far} + 1 {};
                 INSERT INTO ledger SELECT 5, subject_seq, subject_prev, occurred_at, recorded_at, partition,
                 catalog_version, type_version, subject_key, decode(md5('y'), 'hex'), hash, product, subject, source, 'y',
                 type, payload FROM ledger {}",
                all("\"offset\" >= 5"),
                all(&format!("\"offset\" >= {far}")),
                of(4),
            ),
            5,
        ),
    ];
    for (what, how, offset) in cases {
        let found = scene.after(&how, false).await;
        let position = format!("{partition}:{offset}");
        assert_eq!(found.map(|found| found.0), Some(position), "{what}");
    }
    let views = [
        "UPDATE entitlement_views_v1 SET state = set_byte(state, 0, get_byte(state, 0) # 1) WHERE ctid = (SELECT min(ctid) FROM entitlement_views_v1)",
        "UPDATE entitlement_rows_v1 SET body = body || '\\x00' WHERE ctid = (SELECT min(ctid) FROM entitlement_rows_v1)",
        "DELETE FROM entitlement_rows_v1 WHERE ctid = (SELECT min(ctid) FROM entitlement_rows_v1)",
        "DELETE FROM entitlement_views_v1 WHERE ctid = (SELECT min(ctid) FROM entitlement_views_v1)",
        "UPDATE entitlement_views_v1 SET subject_seq = subject_seq + 1 WHERE ctid = (SELECT min(ctid) FROM entitlement_views_v1)",
    ];
    for how in views {
        let found = scene.after(how, false).await;
        assert!(
            found.is_some_and(|(_, what)| what.contains("view")),
            "{how}"
        );
    }
    assert_eq!(scene.found(true).await, None, "as it was");
}

/// A history that was changed and chained anew, by whoever knows all of our rules, is good in itself; the checkpoint that left
/// the database before knows better. The same for a tail that was cut and written anew.
///
/// Fails when marks were not compared.
#[tokio::test(flavor = "multi_thread")]
async fn a_history_that_was_chained_anew_contradicts_its_checkpoint() {
    let Some(scene) = Scene::new().await else {
        return;
    };
    let (partition, last) = (scene.rows[0].partition, scene.rows.len() - 1);
    let from = scene.rows.len() - 3;
    let mut previous = scene.rows[from - 1].hash;
    let mut how = String::new();
    for (place, row) in scene.rows.iter().enumerate().skip(from) {
        let mut forged = row.clone();
        if place == from {
            forged.occurred_at = quota_core::time::Timestamp::from_micros(1);
        }
        forged.hash = forged.expected_hash(&previous);
        previous = forged.hash;
        how += &format!(
            "UPDATE ledger SET occurred_at = {}, hash = '\\x{}' WHERE partition = {partition} AND \"offset\" = {place};",
            forged.occurred_at.micros(),
            hex::encode(forged.hash)
        );
    }
    // Views are made from the ledger: whoever goes so far has them folded anew.
    how += "DELETE FROM entitlement_views_v1; DELETE FROM entitlement_rows_v1; UPDATE projector_checkpoints_v1 SET next_offset = 0;";
    assert_eq!(scene.after(&how, false).await, None, "good in itself");
    let found = scene.after(&how, true).await.unwrap();
    assert_eq!(found.0, format!("{partition}:{last}"));
    assert!(found.1.contains("the checkpoint of"), "{found:?}");
}
