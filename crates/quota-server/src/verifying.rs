//! Verifying a ledger: every hash, every order, and that every view is the fold of the prefix that it claims.

use crate::checkpoints::Marks;
use crate::comparing::epochs;
use crate::loading::fold_row;
use crate::shelf::Shelf;
use quota_core::audit::{Audit, Broken};
use quota_core::digest::SubjectKey;
use quota_core::epoch::Epochs;
use quota_core::event::Event;
use quota_core::row::Row;
use quota_core::state::State;
use quota_postgres::{Ledger, LoadRequest, SubjectLookup, SubjectRow, View};
use std::collections::BTreeMap;

mod topic;

pub use topic::{TopicVerified, verify_topic};

/// Rows and views that are read at once.
const PAGE: usize = 2_000;

/// What was verified.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Verified {
    /// Events whose hash was recomputed.
    pub events: u64,
    /// Partitions.
    pub partitions: u32,
    /// Views that were compared with the fold of their events.
    pub views: u64,
    /// Signed checkpoints that the ledger was held against.
    pub checkpoints: usize,
    /// What checkpoints knew of single partitions, and a later epoch went on without.
    #[serde(skip_serializing_if = "is_zero")]
    pub given_up: usize,
}

const fn is_zero(count: &usize) -> bool {
    *count == 0
}

/// What verifying came to.
pub enum Verdict {
    /// All is as it should be.
    Good(Verified),
    /// The first thing that is not.
    Bad(Broken),
}

/// Verifies the ledger, held against what checkpoints said of it, and the views of one product or of all. `progress` is
/// told after each partition.
///
/// # Errors
/// The ledger cannot be read.
pub async fn verify(
    ledger: &Ledger,
    product: Option<&str>,
    marks: &Marks,
    mut progress: impl FnMut(u32, u32),
) -> anyhow::Result<Verdict> {
    let info = ledger.info();
    let shelf = Shelf::default();
    let mut verified = Verified {
        partitions: info.partitions,
        checkpoints: marks.count(),
        ..Verified::default()
    };
    // Read before the events, so that every view's events are among those that are folded.
    let heads = ledger.heads().await?;
    let epochs = epochs(ledger).await?;
    for (partition, head) in (0_u32..).zip(heads) {
        let mut work = Partition::new(ledger, product, partition, epochs.clone()).await?;
        for mark in marks.of(partition) {
            if let Err(broken) = work.audit.expect(mark) {
                return Ok(Verdict::Bad(broken));
            }
        }
        let end = head.offset.max(work.last_view());
        let mut pages = ledger.pages(partition, 0, end + 1, PAGE);
        loop {
            let rows = pages.next().await?;
            if rows.is_empty() {
                break;
            }
            for row in &rows {
                if let Err(broken) = work.read(row, &shelf)? {
                    return Ok(Verdict::Bad(broken));
                }
                verified.events += 1;
            }
        }
        if let Err(broken) = work.finish(ledger, end).await? {
            return Ok(Verdict::Bad(broken));
        }
        verified.views += work.compared;
        verified.given_up += work.audit.void();
        progress(partition + 1, info.partitions);
    }
    Ok(Verdict::Good(verified))
}

/// One partition under audit.
struct Partition<'a> {
    number: u32,
    product: Option<&'a str>,
    audit: Audit,
    epochs: Epochs,
    views: BTreeMap<SubjectKey, View>,
    states: BTreeMap<SubjectKey, State>,
    checkpoint: i64,
    compared: u64,
}

impl<'a> Partition<'a> {
    async fn new(
        ledger: &Ledger,
        product: Option<&'a str>,
        number: u32,
        epochs: Epochs,
    ) -> anyhow::Result<Self> {
        // The checkpoint is read before the views: those that move meanwhile are folded to their own offset.
        let index = usize::try_from(number)?;
        let checkpoint = ledger.checkpoints().await?.get(index).copied().unwrap_or(0);
        let mut views = BTreeMap::new();
        let mut after = (number > 0).then(|| (number - 1, [0xff; 16]));
        loop {
            let page = ledger.views_page(after, PAGE).await?;
            let Some(last) = page.last() else { break };
            after = Some((last.partition, last.subject_key));
            let past = last.partition > number;
            views.extend(
                page.into_iter()
                    .filter(|v| v.partition == number)
                    .map(|view| (view.subject_key, view)),
            );
            if past {
                break;
            }
        }
        let info = ledger.info();
        let audit = Audit::new(&info.id, number, info.partitions, epochs.clone());
        Ok(Self {
            number,
            product,
            audit,
            epochs,
            views,
            states: BTreeMap::new(),
            checkpoint,
            compared: 0,
        })
    }

    fn last_view(&self) -> i64 {
        self.views
            .values()
            .map(|view| view.offset)
            .max()
            .unwrap_or(-1)
    }

    fn wants(&self, product: &str) -> bool {
        self.product.is_none_or(|wanted| wanted == product)
    }

    /// Audits a row, and folds it where its subject's view claims to hold it.
    fn read(&mut self, row: &Row, shelf: &Shelf) -> anyhow::Result<Result<(), Broken>> {
        if let Err(broken) = self.audit.read(row) {
            return Ok(Err(broken));
        }
        if row.subject.is_empty() {
            shelf.take(row)?;
            return Ok(Ok(()));
        }
        if !self.wants(&row.product) {
            return Ok(Ok(()));
        }
        let claimed = self.views.get(&row.subject_key).map(|view| view.offset);
        if claimed.is_none() && row.offset < self.checkpoint {
            return Ok(Err(self.broken(
                row.offset,
                "the projector has passed this event, but its subject has no view",
            )));
        }
        if claimed.is_some_and(|claimed| row.offset <= claimed) {
            let event = match Event::decode(&row.event_type, row.type_version, &row.payload) {
                Ok(event) => event,
                Err(error) => return Ok(Err(self.broken(row.offset, &error.to_string()))),
            };
            let state = self.states.entry(row.subject_key).or_default();
            fold_row(state, row, &event, shelf)?;
        } else if row.offset < self.checkpoint {
            return Ok(Err(self.broken(
                row.offset,
                "the projector has passed this event, but the view does not hold it",
            )));
        }
        Ok(Ok(()))
    }

    fn broken(&self, offset: i64, what: &str) -> Broken {
        Broken {
            position: self.epochs.position(self.number, offset),
            what: what.to_owned(),
        }
    }

    /// Compares every view with the fold of its events.
    async fn finish(&mut self, ledger: &Ledger, end: i64) -> anyhow::Result<Result<(), Broken>> {
        if self.audit.head().offset < end {
            let missing = self.audit.head().offset + 1;
            return Ok(Err(
                self.broken(missing, "this event is missing at the partition's end")
            ));
        }
        if let Err(broken) = self.audit.finish() {
            return Ok(Err(broken));
        }
        for (key, view) in std::mem::take(&mut self.views) {
            let (key, view) = (&key, &view);
            if !self.wants(&view.product) {
                continue;
            }
            let state = self.states.remove(key).unwrap_or_default();
            let things = if view.row_count > 0 {
                ledger.rows_of(self.number, key).await?
            } else {
                Vec::new()
            };
            if !is_fold(view, &things, &state) && !self.is_fold_now(ledger, key).await? {
                return Ok(Err(
                    self.broken(view.offset, "the view is not the fold of its events")
                ));
            }
            self.compared += 1;
        }
        Ok(Ok(()))
    }

    /// The same question again, in one snapshot: a projector may have moved the view while it was read.
    async fn is_fold_now(&self, ledger: &Ledger, key: &SubjectKey) -> anyhow::Result<bool> {
        let subject = SubjectLookup {
            partition: self.number,
            subject_key: *key,
            rows: Vec::new(),
            all_rows: true,
        };
        let request = LoadRequest {
            subjects: vec![subject],
            events: Vec::new(),
        };
        let found = ledger
            .load(&request)
            .await?
            .subjects
            .pop()
            .unwrap_or_default();
        let Some(view) = found.view else {
            return Ok(false);
        };
        let shelf = Shelf::default();
        shelf.load(ledger).await?;
        let mut state = State::default();
        loop {
            let rows = ledger
                .subject_page(self.number, key, state.subject.offset, PAGE)
                .await?;
            let held = rows.iter().take_while(|row| row.offset <= view.offset);
            let mut folded = 0;
            for row in held {
                let event = Event::decode(&row.event_type, row.type_version, &row.payload)?;
                fold_row(&mut state, row, &event, &shelf)?;
                folded += 1;
            }
            if folded < PAGE {
                return Ok(is_fold(&view, &found.rows, &state));
            }
        }
    }
}

/// Whether a stored view is, byte for byte, this state.
fn is_fold(view: &View, things: &[SubjectRow], state: &State) -> bool {
    let stored: BTreeMap<(i16, &str), &[u8]> = things
        .iter()
        .map(|row| ((row.kind, row.id.as_str()), row.body.as_slice()))
        .collect();
    let folded: BTreeMap<(i16, &str), Vec<u8>> = state
        .things()
        .map(|(key, _)| {
            (
                (key.kind.number(), key.id.as_str()),
                state.thing_bytes(key).unwrap_or_default(),
            )
        })
        .collect();
    view.state == state.subject_bytes()
        && view.subject_seq == state.subject.seq
        && stored.len() == folded.len()
        && folded
            .iter()
            .all(|(name, body)| stored.get(name).is_some_and(|stored| stored == body))
}
