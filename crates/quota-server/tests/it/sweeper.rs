//! Sweeper: expiries are recorded soon after they fell due, once each, with their exact end.

use crate::nodes::{
    Database, Running, all_rows, embedded_topics, eventually, fact, projected, purchase,
};
use quota_core::command::Wish;
use quota_core::event::Event;
use quota_core::time::SECOND;
use quota_server::config::Role;
use std::time::Duration;

/// Grants that end are noticed once each, with their exact end, and their views say so; nothing is due afterwards.
///
/// Failed when the sweeper asked for what was due at the epoch (none was noticed), and when views kept the time of a
/// notice that was given (the last check).
#[tokio::test(flavor = "multi_thread")]
async fn ends_are_noticed_once() {
    let database = Database::fresh().await;
    let ledger = database.ledger().await;
    let (topics, _broker) = embedded_topics().await;
    let running = Running::start(
        &database,
        &topics,
        &[Role::Relay, Role::Projector, Role::Sweeper],
    )
    .await;
    let now = ledger.clock().await.unwrap();
    let soon = now.plus(3 * SECOND);
    for n in 0..40 {
        // Every other one is over already; a row is recorded of it all the same.
        let end = if n % 2 == 0 { soon } else { now.plus(-SECOND) };
        let mut bought = purchase(&format!("pay{n}"));
        bought.starts_at = Some(now.plus(-3_600 * SECOND));
        bought.ends_at = Some(end);
        running
            .submit(
                &format!("s{n}"),
                Wish::Record(fact(Event::SubscriptionPurchased(bought))),
            )
            .await;
    }
    let expiries = || async {
        let rows = all_rows(&ledger).await;
        rows.into_iter()
            .filter(|row| &*row.event_type == "subscription.expired")
            .collect::<Vec<_>>()
    };
    eventually("all ends are noticed", Duration::from_secs(30), || async {
        expiries().await.len() >= 40
    })
    .await;
    projected(&ledger).await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    running.stop().await;

    let rows = expiries().await;
    assert_eq!(rows.len(), 40, "each once");
    for row in rows {
        let Event::SubscriptionExpired(expired) =
            Event::decode(&row.event_type, 1, &row.payload).unwrap()
        else {
            panic!("another event");
        };
        assert!(expired.effective_at == soon || expired.effective_at == now.plus(-SECOND));
        assert!(row.recorded_at >= expired.effective_at && row.occurred_at == expired.effective_at);
    }
    assert!(
        ledger
            .due(now.plus(3_600 * SECOND), 100)
            .await
            .unwrap()
            .is_empty()
    );
}
