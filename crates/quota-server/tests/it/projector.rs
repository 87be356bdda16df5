//! Projector: views equal the fold of the ledger, whatever comes between.

use crate::nodes::{Database, Running, WORKERS, embedded_topics, projected};

#[tokio::test(flavor = "multi_thread")]
async fn views_follow_the_ledger() {
    let database = Database::fresh().await;
    let (topics, _broker) = embedded_topics().await;
    let running = Running::start(&database, &topics, &WORKERS).await;
    for n in 0..500 {
        running.mixed(n, 40).await;
    }
    projected(&database.ledger().await).await;
    running.stop().await;
}
