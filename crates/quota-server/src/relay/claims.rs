//! Which partitions this node relays: those that it claimed. Claims spare the topic the same rows twice, from every node;
//! nothing depends on them.

use crate::node::Node;
use quota_postgres::Claims;
use std::collections::BTreeSet;
use std::time::Duration;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// The time between two attempts to claim what is free; a claim that is not held up by attempts ends by itself.
const PACE: Duration = Duration::from_secs(1);

/// Claims what is free until it is told to stop, and tells what is held. While the ledger is away nothing is told.
pub(super) async fn keep(node: Node, held: watch::Sender<BTreeSet<u32>>, stop: CancellationToken) {
    let all: Vec<u32> = (0..node.partitions()).collect();
    let mut claims: Option<Claims> = None;
    loop {
        if claims.is_none() {
            claims = Claims::open(&node.ledger).await.ok();
        }
        if let Some(open) = &mut claims {
            match open.take(&all).await {
                Ok(now) => {
                    held.send_if_modified(|held| {
                        let changed = held != now;
                        if changed {
                            held.clone_from(now);
                        }
                        changed
                    });
                }
                Err(error) => {
                    tracing::debug!(%error, "claims of the relay");
                    claims = None;
                }
            }
        }
        tokio::select! {
            () = stop.cancelled() => break,
            () = held.closed() => break,
            () = tokio::time::sleep(PACE) => {}
        }
    }
    if let Some(claims) = claims {
        claims.release().await;
    }
}
