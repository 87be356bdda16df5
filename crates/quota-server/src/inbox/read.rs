//! From records to commands, or to the reasons why not.

use super::settle::Next;
use crate::node::Node;
use quota_core::command::{Address, Command, Wish};
use quota_core::door::{Rejection, admit, parse_kafka};
use quota_core::inbox::Reason;
use quota_kafka::Record;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The rest before another attempt to read the catalogs.
const REST: Duration = Duration::from_millis(500);
/// Records that are judged at once; then other tasks have their turn.
const TURN: usize = 100;

/// Records that were judged.
pub(super) struct Batch {
    /// The records.
    pub records: Vec<Record>,
    /// What each of them asks for: the record's index and the command.
    pub commands: Vec<(usize, Command)>,
    /// Those that do not get in: the record's index and why.
    pub dead: Vec<(usize, Reason)>,
    /// Where reading goes on once all of it is settled.
    pub next: Next,
}

/// Judges records of the inboxes; `products` has the product of each topic.
pub(super) async fn judge(
    node: &Node,
    products: &HashMap<String, Arc<str>>,
    records: Vec<Record>,
) -> Batch {
    let mut batch = Batch {
        records: Vec::new(),
        commands: Vec::with_capacity(records.len()),
        dead: Vec::new(),
        next: BTreeMap::new(),
    };
    let came = Instant::now();
    let mut looked = false;
    for (index, record) in records.iter().enumerate() {
        let mut judged = command(node, products, record);
        if let Err(Refused::ByCatalog(_)) = &judged
            && !std::mem::replace(&mut looked, true)
        {
            look_again(node, came).await;
            judged = command(node, products, record);
        }
        match judged {
            Ok(command) => batch.commands.push((index, command)),
            Err(Refused::ByCatalog(reason) | Refused::ForGood(reason)) => {
                batch.dead.push((index, reason));
            }
        }
        let place = (Arc::clone(&record.topic), record.partition);
        batch.next.insert(place, record.offset + 1);
        if index % TURN == TURN - 1 {
            tokio::task::yield_now().await;
        }
    }
    batch.records = records;
    batch
}

/// Reads the catalogs that were published until now; for as long as it takes, since a letter cannot be called back.
async fn look_again(node: &Node, since: Instant) {
    while let Err(error) = node.shelf.load_since(&node.ledger, since).await {
        let error = format!("{error:#}");
        tracing::warn!(error, "the catalogs cannot be read: the inboxes wait");
        tokio::time::sleep(REST).await;
    }
}

/// Why a record asks for nothing.
enum Refused {
    /// Its catalog does not know a word of it; a newer one might.
    ByCatalog(Reason),
    /// Whatever the catalog says.
    ForGood(Reason),
}

impl From<Rejection> for Refused {
    fn from(rejection: Rejection) -> Self {
        let by_catalog = rejection.is_of_catalog();
        let reason = Reason::from(rejection);
        if by_catalog {
            Self::ByCatalog(reason)
        } else {
            Self::ForGood(reason)
        }
    }
}

fn command(
    node: &Node,
    products: &HashMap<String, Arc<str>>,
    record: &Record,
) -> Result<Command, Refused> {
    let known = products.get(&*record.topic);
    let Some((product, (_, catalog))) =
        known.and_then(|product| Some((product, node.shelf.newest(product)?)))
    else {
        let detail = format!("there is no product with the inbox {}", record.topic);
        return Err(Refused::ForGood(Reason {
            code: "unknown_product",
            detail,
        }));
    };
    let envelope = parse_kafka(record.headers(), record.payload())?;
    let (subject, fact) = admit(&envelope, product, &catalog, node.clock.now())?;
    Ok(Command {
        address: Address::new(product, &subject, node.partitions()),
        wish: Wish::Record(fact),
    })
}
