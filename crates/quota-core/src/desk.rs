//! A desk: one subject's ledger in memory, which decides commands and appends rows as a lane does.
//!
//! Scenario files, property tests and simulations work at it. It drives the very same [`Batch`] as a node, so that its
//! rows have real offsets, sequence numbers and hashes; only nobody else writes, and nothing is stored.

use crate::catalog::Catalog;
use crate::command::{Address, Answer, Command, Decision, Refusal, Wish};
use crate::decide::{Light, check};
use crate::digest::{EventKey, genesis};
use crate::epoch::Epochs;
use crate::judge::Question;
use crate::lane::{Batch, PartitionEnd};
use crate::publication::{Place, publication};
use crate::row::{Head, Row};
use crate::state::State;
use crate::time::Timestamp;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Partitions of the ledger that a desk pretends to be part of.
const PARTITIONS: u32 = 64;
/// That ledger's id.
const LEDGER: [u8; 16] = *b"quota desk      ";

/// One subject's ledger in memory.
#[derive(Clone, Debug)]
pub struct Desk {
    address: Address,
    end: PartitionEnd,
    catalogs: BTreeMap<u32, Arc<Catalog>>,
    rows: Vec<Arc<Row>>,
    by_key: BTreeMap<EventKey, Arc<Row>>,
    state: State,
}

impl Desk {
    /// A desk for a subject of a catalog's product; the catalog is published as its first version.
    #[must_use]
    pub fn new(catalog: Catalog, subject: &str, now: Timestamp) -> Self {
        let address = Address::new(catalog.product(), subject, PARTITIONS);
        let head = Head {
            offset: -1,
            hash: genesis(&LEDGER, address.partition),
            recorded_at: Timestamp::MIN,
        };
        let mut desk = Self {
            address,
            end: PartitionEnd {
                head,
                versions: BTreeMap::new(),
            },
            catalogs: BTreeMap::new(),
            rows: Vec::new(),
            by_key: BTreeMap::new(),
            state: State::default(),
        };
        desk.publish(catalog, now);
        desk
    }

    /// Publishes the next version of the catalog, and tells its number.
    pub fn publish(&mut self, catalog: Catalog, now: Timestamp) -> u32 {
        let version = self.catalog_version() + 1;
        let mut before = self.rows.iter().rev().filter(|row| row.subject.is_empty());
        let place = Place {
            partition: self.address.partition,
            head: self.end.head,
            before: before.next().map(|row| (row.subject_seq, row.offset)),
        };
        let product = Arc::clone(&self.address.product);
        let rows = publication(&product, version, catalog.text(), &[place], now);
        self.take_in(rows);
        self.end.versions.insert(product, version);
        self.catalogs.insert(version, Arc::new(catalog));
        version
    }

    /// Carries out a command, at a time of the database's clock.
    pub fn submit(&mut self, wish: Wish, now: Timestamp) -> Answer {
        let answer = self.submit_all(vec![wish], now).pop();
        answer.unwrap_or_else(|| Answer::Refused(Refusal::unavailable("nothing was decided")))
    }

    /// Carries out commands in one batch, in their order.
    pub fn submit_all(&mut self, wishes: Vec<Wish>, now: Timestamp) -> Vec<Answer> {
        let Address { key, partition, .. } = self.address;
        let commands = wishes.into_iter().map(|wish| Command {
            address: self.address.clone(),
            wish,
        });
        let mut batch = Batch::new(Epochs::default(), commands.enumerate().collect());
        batch.put_end(partition, self.end.clone());
        batch.put_state(key, self.state.clone());
        for (_, subject, event) in batch.wants().events {
            batch.put_found(subject, event, self.by_key.get(&event).cloned());
        }
        let proposal = batch.decide(now, &|_, version| self.catalogs.get(&version).cloned());
        self.take_in(proposal.rows);
        let settled = batch.settle(&[partition]);
        if let Some((_, _, state)) = settled.states.into_iter().next() {
            self.state = state;
        }
        settled
            .answers
            .into_iter()
            .map(|(_, answer)| answer)
            .collect()
    }

    /// Answers a check.
    ///
    /// # Errors
    /// A refusal where the question cannot be asked.
    pub fn check(&self, question: &Question, now: Timestamp) -> Result<Decision, Refusal> {
        let version = self.catalog_version();
        let Some(catalog) = self.catalogs.get(&version) else {
            return Err(Refusal::unavailable("no catalog was published"));
        };
        let light = Light {
            state: &self.state,
            catalog,
            catalog_version: version,
            now: now.max(self.end.head.recorded_at),
            epochs: &Epochs::default(),
        };
        check(&light, &self.address, question)
    }

    /// Goes on from a state that was stored: it must hold what the rows so far come to, and the things of
    /// [`things_needed`](crate::decide::things_needed) for the next command.
    pub fn put_state(&mut self, state: State) {
        self.state = state;
    }

    fn take_in(&mut self, rows: Vec<Row>) {
        for row in rows {
            self.end.head = row.head();
            let row = Arc::new(row);
            self.by_key.insert(row.event_key, Arc::clone(&row));
            self.rows.push(row);
        }
    }

    /// The subject.
    #[must_use]
    pub const fn address(&self) -> &Address {
        &self.address
    }

    /// What is known of the subject; complete.
    #[must_use]
    pub const fn state(&self) -> &State {
        &self.state
    }

    /// The ledger: the subject's rows and those that published catalogs.
    #[must_use]
    pub fn rows(&self) -> &[Arc<Row>] {
        &self.rows
    }

    /// The row under an event's key.
    #[must_use]
    pub fn row(&self, key: &EventKey) -> Option<&Arc<Row>> {
        self.by_key.get(key)
    }

    /// A catalog version.
    #[must_use]
    pub fn catalog(&self, version: u32) -> Option<&Arc<Catalog>> {
        self.catalogs.get(&version)
    }

    /// The catalog version in force; 0 before the first.
    #[must_use]
    pub fn catalog_version(&self) -> u32 {
        self.catalogs.keys().next_back().copied().unwrap_or(0)
    }
}
