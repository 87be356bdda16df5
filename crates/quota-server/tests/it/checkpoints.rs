//! Signed checkpoints: told to a topic and a file, and what they find when the ledger is changed behind everybody's back.

use crate::nodes::{Database, Running, eventually, load, plan, real_topics};
use quota_core::checkpoint::Signed;
use quota_server::admission::{Gate, admit};
use quota_server::checkpoints::{self, Marks, Plan, Signer, Source, Trust};
use quota_server::topics::Topics;
use quota_server::verifying::{Verdict, verify};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// What verifying says with the marks of these sources: the problem, or nothing.
async fn problem(database: &Database, sources: &[Source]) -> Option<String> {
    let ledger = database.ledger().await;
    let info = ledger.info();
    let marks = Marks::read(sources, &info.id, &Trust::default())
        .await
        .unwrap();
    assert_eq!(marks.faults, Vec::<String>::new());
    match verify(&ledger, None, &marks, |_, _| {}).await.unwrap() {
        Verdict::Good(verified) => {
            assert_eq!(verified.checkpoints, marks.count());
            None
        }
        Verdict::Bad(broken) => Some(broken.to_string()),
    }
}

/// Makes one checkpoint of a ledger as it is now.
pub async fn checkpoint(running: &Running, topics: &Topics, plan: &Plan) {
    let (stop, node) = (CancellationToken::new(), running.node.clone());
    stop.cancel();
    checkpoints::run(node, topics.clone(), plan.clone(), stop).await;
}

struct Scene {
    _folder: tempfile::TempDir,
    file: PathBuf,
    database: Database,
    topics: Topics,
}

/// A ledger with fifty rows, a checkpoint of them in file and topic, and no view.
async fn scene() -> Option<Scene> {
    let topics = real_topics().await?;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("checkpoints.ndjson");
    let database = Database::fresh().await;
    let running = Running::start(&database, &topics, &[]).await;
    load(&running, 0, 50).await;
    checkpoint(&running, &topics, &plan(Some(file.clone()))).await;
    running.stop().await;
    Some(Scene {
        _folder: folder,
        file,
        database,
        topics,
    })
}

/// What a superuser does to the ledger's table.
fn tamper(database: &Database, how: &str) {
    database.psql(&format!("ALTER TABLE ledger DISABLE TRIGGER ALL; {how}"));
}

/// A tail that was cut off leaves a chain without a fault; file and topic know better, each by itself.
///
/// Failed when the audit did not ask for what lies beyond its end.
#[tokio::test(flavor = "multi_thread")]
async fn a_cut_tail_is_found_by_file_and_topic() {
    let Some(scene) = scene().await else {
        return;
    };
    let (file, topic) = (
        [Source::File(scene.file.clone())],
        [Source::Topic(scene.topics.clone())],
    );
    assert_eq!(problem(&scene.database, &file).await, None);
    assert_eq!(problem(&scene.database, &topic).await, None);
    tamper(
        &scene.database,
        "DELETE FROM ledger l WHERE l.\"offset\" = (SELECT max(m.\"offset\") FROM ledger m WHERE m.partition = l.partition)
         AND l.partition = (SELECT max(partition) FROM ledger WHERE \"offset\" > 1)",
    );
    assert_eq!(problem(&scene.database, &[]).await, None, "good in itself");
    for sources in [file, topic] {
        let found = problem(&scene.database, &sources).await.unwrap();
        assert!(found.contains("went to offset"), "{found}");
    }
}

/// A node does not write to a ledger that a checkpoint is ahead of: it was restored, or cut.
///
/// Failed when the newest checkpoint was not compared (the gate opened).
#[tokio::test(flavor = "multi_thread")]
async fn a_ledger_behind_its_checkpoint_is_not_written() {
    let Some(scene) = scene().await else {
        return;
    };
    tamper(
        &scene.database,
        "CREATE TABLE cut AS SELECT * FROM ledger l WHERE l.\"offset\" > 1; DELETE FROM ledger l WHERE l.\"offset\" > 1",
    );
    let gate = Gate::closed("not compared yet");
    let running = Running::start_behind(gate, &scene.database, &scene.topics, &[]).await;
    let (node, stop) = (running.node.clone(), CancellationToken::new());
    let admission = tokio::spawn({
        let (node, topics, file, stop) = (
            node.clone(),
            scene.topics.clone(),
            scene.file.clone(),
            stop.clone(),
        );
        async move { admit(&node, &topics, Some(&file), &Arc::clone(&node.gate), &stop).await }
    });
    eventually("the gate says why", Duration::from_secs(30), || async {
        node.gate
            .why()
            .is_some_and(|why| why.contains("checkpoint"))
    })
    .await;
    scene.database.psql("INSERT INTO ledger SELECT * FROM cut");
    eventually("the gate is open", Duration::from_secs(30), || async {
        node.gate.why().is_none()
    })
    .await;
    stop.cancel();
    admission.await.unwrap();
    running.stop().await;
}

fn lines(file: &Path) -> Vec<Signed> {
    let text = std::fs::read_to_string(file).unwrap();
    text.lines()
        .map(|line| Signed::parse(line.as_bytes()).unwrap())
        .collect()
}

/// A forged checkpoint is named; one by a key that is not trusted too; a line that was cut off says nothing.
///
/// Failed when signatures were not checked.
#[tokio::test(flavor = "multi_thread")]
async fn signatures_are_checked_and_keys_kept() {
    let Some(scene) = scene().await else {
        return;
    };
    let ledger = scene.database.ledger().await;
    let info = ledger.info();
    let sources = [Source::File(scene.file.clone())];
    let faults = async |trust: &Trust| {
        let marks = Marks::read(&sources, &info.id, trust).await;
        marks.unwrap().faults.len()
    };
    let mut signed = lines(&scene.file).remove(0);
    let own = hex::encode(signed.key);
    assert_eq!(faults(&Trust::default()).await, 0);
    assert_eq!(faults(&Trust::in_keys(&[own]).unwrap()).await, 0);
    let other = Signer::fresh().unwrap().public();
    assert_eq!(faults(&Trust::in_keys(&[other]).unwrap()).await, 1);
    assert!(Trust::in_keys(&["abc".to_owned()]).is_err());

    signed.checkpoint.ends[0].offset += 1;
    let whole = std::fs::read_to_string(&scene.file).unwrap();
    std::fs::write(
        &scene.file,
        format!("{whole}{}\n{{\"ledger\":", signed.to_line()),
    )
    .unwrap();
    assert_eq!(faults(&Trust::default()).await, 1);

    let key = scene.file.with_extension("key");
    let made = Signer::of_file(&key).unwrap().public();
    assert_eq!(Signer::of_file(&key).unwrap().public(), made, "it is kept");
    std::fs::write(&key, "no key").unwrap();
    assert!(Signer::of_file(&key).is_err());
}
