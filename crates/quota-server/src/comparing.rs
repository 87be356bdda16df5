//! Holding a ledger against what left it before: the topic's last records, signed checkpoints, and what a node knows.
//!
//! A ledger that was restored to an earlier time lacks what these have. It must not be written then: it would give positions
//! out again that the topic already carries.

use crate::checkpoints::newest;
use crate::topics::Topics;
use anyhow::Context as _;
use quota_core::digest::{Hash, subject_key};
use quota_core::epoch::Epochs;
use quota_core::position::Position;
use quota_core::record::{Received, from_record};
use quota_core::row::Head;
use quota_core::time::Timestamp;
use quota_kafka::TopicError;
use quota_postgres::Ledger;
use std::fmt;
use std::path::Path;

/// Who says that a ledger has a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Witness {
    /// The last record of the topic's partition.
    Topic,
    /// The checkpoint of that time.
    Checkpoint(Timestamp),
    /// This node, which has seen it.
    Node,
}

impl fmt::Display for Witness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Topic => write!(f, "the topic"),
            Self::Checkpoint(at) => write!(f, "the checkpoint of {at}"),
            Self::Node => write!(f, "this node"),
        }
    }
}

/// A row that a ledger should have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claim {
    /// Who says so.
    pub witness: Witness,
    /// Where.
    pub position: Position,
    /// Its hash.
    pub hash: Hash,
}

/// In what a ledger differs from a claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It ends before, at this offset.
    Behind(i64),
    /// It has another row there.
    Other,
    /// It knows nothing of that epoch.
    LaterEpoch,
    /// The topic carries another ledger.
    Stranger,
}

/// Where a ledger differs from what left it before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Difference {
    /// What was claimed.
    pub claim: Claim,
    /// What is wrong with it.
    pub fault: Fault,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Claim {
            witness, position, ..
        } = self.claim;
        match self.fault {
            Fault::Behind(end) => write!(
                f,
                "{witness} goes to {position}, and the ledger's partition {} only to offset {end}: it was restored to an earlier time, or cut",
                position.partition
            ),
            Fault::Other => write!(
                f,
                "{witness} and the ledger differ at {position}: it was restored and went on, or was changed"
            ),
            Fault::LaterEpoch => write!(
                f,
                "{witness} is at {position}, of an epoch that the ledger does not know: it was restored to a time before that"
            ),
            Fault::Stranger => write!(f, "the topic carries another ledger at {position}"),
        }
    }
}

impl Difference {
    /// What it is, and what can be done about it.
    #[must_use]
    pub fn advice(&self) -> String {
        let way = match self.fault {
            Fault::Stranger => "use another Kafka, or other topics",
            Fault::Behind(_) | Fault::LaterEpoch | Fault::Other => {
                "`quota-ledger recover --from-kafka` brings back what the topic has; `quota-ledger recover --accept-loss` goes on without it, in a new epoch"
            }
        };
        format!("{self}. Nothing is written until that is settled: {way}")
    }
}

/// The epochs of a ledger as they are now.
///
/// # Errors
/// The ledger cannot be read.
pub async fn epochs(ledger: &Ledger) -> anyhow::Result<Epochs> {
    let current = ledger.epoch().await?;
    if current == 0 {
        return Ok(Epochs::default());
    }
    let rows = ledger.rows_everywhere(&subject_key("", "")).await?;
    Epochs::read(current, &rows).context("reading where the epochs began")
}

/// The last record of each partition of the topic, as rows; none where it is empty, or not there.
///
/// # Errors
/// Kafka does not answer, or a partition ends with what is no row.
pub async fn tails(topics: &Topics, partitions: u32) -> anyhow::Result<Vec<Option<Received>>> {
    if topics.is_embedded() {
        // That broker forgets: it cannot be ahead.
        return Ok(Vec::new());
    }
    let count = i32::try_from(partitions)?;
    let tails = quota_kafka::topic::tails(topics.settings(), &topics.ledger(), count).await;
    let tails = match tails {
        Err(TopicError::Missing { .. }) => return Ok(Vec::new()),
        tails => tails?,
    };
    let read = (0_u32..).zip(&tails).map(|(partition, tail)| {
        let Some(tail) = tail else { return Ok(None) };
        let received = from_record(tail.headers(), tail.payload());
        received.map(Some).with_context(|| {
            format!("the last record of the topic's partition {partition} is no row of a ledger")
        })
    });
    read.collect()
}

/// In what a ledger differs from the topic, the newest checkpoints, and the ends that a node knows: nothing, if all is well.
/// What belongs to a lost tail that a later epoch went on without is no difference.
///
/// `file` is the file that checkpoints are appended to.
///
/// # Errors
/// Something cannot be read.
pub async fn differences(
    ledger: &Ledger,
    topics: &Topics,
    file: Option<&Path>,
    known: &[Claim],
) -> anyhow::Result<Vec<Difference>> {
    // The ledger last: what is appended and relayed meanwhile is in it then.
    let mut claims = Vec::new();
    let mut found = Vec::new();
    for tail in tails(topics, ledger.info().partitions)
        .await?
        .into_iter()
        .flatten()
    {
        let (stranger, claim) = (tail.ledger_id != ledger.info().id, of_topic(tail));
        if stranger {
            found.push(Difference {
                claim,
                fault: Fault::Stranger,
            });
        } else {
            claims.push(claim);
        }
    }
    for checkpoint in newest(topics, file, &ledger.info().id).await? {
        let ends = (0_u32..).zip(&checkpoint.ends);
        claims.extend(ends.map(|(partition, end)| Claim {
            witness: Witness::Checkpoint(checkpoint.at),
            position: Position {
                epoch: checkpoint.epoch,
                partition,
                offset: end.offset,
            },
            hash: end.hash,
        }));
    }
    claims.extend(known);
    let heads = ledger.heads().await?;
    let epochs = epochs(ledger).await?;
    judge(ledger, claims, &heads, &epochs, &mut found).await?;
    Ok(found)
}

fn of_topic(tail: Received) -> Claim {
    let epoch = tail.epoch;
    let row = tail.into_unchained();
    Claim {
        witness: Witness::Topic,
        position: row.position(epoch),
        hash: row.hash,
    }
}

async fn judge(
    ledger: &Ledger,
    claims: Vec<Claim>,
    heads: &[Head],
    epochs: &Epochs,
    found: &mut Vec<Difference>,
) -> anyhow::Result<()> {
    let mut open: Vec<Claim> = Vec::new();
    for claim in claims {
        let at = claim.position;
        let head = usize::try_from(at.partition).ok();
        let Some(head) = head.and_then(|index| heads.get(index)) else {
            continue;
        };
        if at.epoch > epochs.current() {
            let fault = Fault::LaterEpoch;
            found.push(Difference { claim, fault });
        } else if at.offset < 0 || !epochs.holds(at) {
            // Before the first row there is nothing to compare, and nothing of what was given up.
        } else if at.offset > head.offset {
            let fault = Fault::Behind(head.offset);
            found.push(Difference { claim, fault });
        } else if at.offset == head.offset {
            found.extend((claim.hash != head.hash).then_some(Difference {
                claim,
                fault: Fault::Other,
            }));
        } else {
            open.push(claim);
        }
    }
    let places = open
        .iter()
        .map(|claim| (claim.position.partition, claim.position.offset));
    let rows = ledger.rows_at(places).await?;
    let other = |claim: &Claim| {
        let place = (claim.position.partition, claim.position.offset);
        rows.get(&place).map(|row| row.hash) != Some(claim.hash)
    };
    found.extend(open.into_iter().filter(other).map(|claim| Difference {
        claim,
        fault: Fault::Other,
    }));
    Ok(())
}
