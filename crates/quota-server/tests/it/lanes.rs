//! Lanes, beside what the core's tests and the simulation say of their rule: what connections do to them.

use crate::nodes::{Database, PARTITIONS, PRODUCT, Running, consume, embedded_topics};
use quota_core::command::{Address, Answer, Command, Wish};

/// PostgreSQL ends the connections of lanes that have nothing to do, and is there: nobody is refused, neither who has to
/// be loaded first nor who is known.
///
/// Failed with 503 for the first subject of each lane before a lane that was found closed was taken anew.
#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_went_in_idle_times_refuses_nobody() {
    let database = Database::fresh().await;
    let (topics, _broker) = embedded_topics().await;
    let running = Running::start(&database, &topics, &[]).await;
    for round in 0..3 {
        // Both lanes, and of each some that nobody has asked about.
        for n in 0..16 {
            for subject in [format!("known{n}"), format!("new{round}-{n}")] {
                let command = Command {
                    address: Address::new(PRODUCT, &subject, PARTITIONS),
                    wish: Wish::Consume(consume("units", None)),
                };
                let answer = running.node.writer.submit(command).await;
                assert!(
                    !matches!(answer, Answer::Refused(_)),
                    "{subject}, round {round}: {answer:?}"
                );
            }
        }
        database.set_reachable(false);
        database.set_reachable(true);
    }
    running.stop().await;
}
