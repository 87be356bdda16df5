//! A ledger that was restored to an earlier time under a running node.

use crate::nodes::{Database, Running, eventually, fact, load, real_topics, usage};
use quota_core::command::{Answer, Wish};
use quota_server::admission::{Gate, admit};
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// A head that went back closes the gate, though nobody writes; it opens again, without a restart, once the ledger has
/// back what it lost.
///
/// Failed when only the lane compared heads with what it knows (the gate stays open), and when a node compared but once
/// (it stays closed).
#[tokio::test(flavor = "multi_thread")]
async fn a_head_that_went_back_closes_the_gate_until_it_is_back() {
    let Some(topics) = real_topics().await else {
        return;
    };
    let database = Database::fresh().await;
    let running =
        Running::start_behind(Gate::closed("not compared yet"), &database, &topics, &[]).await;
    let (node, stop) = (running.node.clone(), CancellationToken::new());
    let admission = tokio::spawn({
        let (node, stop) = (node.clone(), stop.clone());
        async move { admit(&node, &topics, None, &Arc::clone(&node.gate), &stop).await }
    });
    node.gate.opened().await;
    load(&running, 0, 50).await;
    let Answer::Recorded { position, .. } = running
        .submit("last", Wish::Record(fact(usage("units", 1))))
        .await
    else {
        panic!("a fact was not recorded");
    };
    let of_last = format!(
        "partition = {} AND \"offset\" = {}",
        position.partition, position.offset
    );
    database.psql(&format!(
        "CREATE TABLE lost AS SELECT * FROM ledger WHERE {of_last};
         ALTER TABLE ledger DISABLE TRIGGER ALL;
         DELETE FROM ledger WHERE {of_last};"
    ));
    eventually("the gate is closed", Duration::from_secs(10), || async {
        node.gate.why().is_some()
    })
    .await;
    database.psql("INSERT INTO ledger SELECT * FROM lost");
    eventually(
        "the gate is open again",
        Duration::from_secs(20),
        || async { node.gate.why().is_none() },
    )
    .await;
    let after = running
        .submit("last", Wish::Record(fact(usage("units", 1))))
        .await;
    assert!(matches!(after, Answer::Recorded { .. }), "{after:?}");
    stop.cancel();
    admission.await.unwrap();
    running.stop().await;
}
