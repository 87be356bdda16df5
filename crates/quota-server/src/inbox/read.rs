//! From records to commands, or to the reasons why not.

use super::settle::Next;
use crate::node::Node;
use quota_core::command::{Address, Command, Wish};
use quota_core::door::{Rejection, admit, parse_kafka};
use quota_kafka::Record;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

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

/// Why a record does not get in.
pub(super) struct Reason {
    /// The stable code.
    pub code: &'static str,
    /// What a person reads.
    pub detail: String,
}

impl From<Rejection> for Reason {
    fn from(rejection: Rejection) -> Self {
        let detail = match rejection.field {
            Some(field) => format!("{field}: {}", rejection.message),
            None => rejection.message,
        };
        Self {
            code: rejection.code,
            detail,
        }
    }
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
    for (index, record) in records.iter().enumerate() {
        match command(node, products, record) {
            Ok(command) => batch.commands.push((index, command)),
            Err(reason) => batch.dead.push((index, reason)),
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

fn command(
    node: &Node,
    products: &HashMap<String, Arc<str>>,
    record: &Record,
) -> Result<Command, Reason> {
    let known = products.get(&*record.topic);
    let Some((product, (_, catalog))) =
        known.and_then(|product| Some((product, node.shelf.newest(product)?)))
    else {
        let detail = format!("there is no product with the inbox {}", record.topic);
        return Err(Reason {
            code: "unknown_product",
            detail,
        });
    };
    let envelope = parse_kafka(record.headers(), record.payload())?;
    let (subject, fact) = admit(&envelope, product, &catalog, node.clock.now())?;
    Ok(Command {
        address: Address::new(product, &subject, node.partitions()),
        wish: Wish::Record(fact),
    })
}
