//! Answers from views: checks, entitlements and pages of the ledger. Nothing here writes.

use crate::cache::{Applied, CheckView};
use crate::loading::load_one;
use crate::node::Node;
use quota_core::catalog::Catalog;
use quota_core::command::{Address, Decision, Refusal, SessionState};
use quota_core::decide::{Light, check};
use quota_core::entitlements::{entitlements, usage_page};
use quota_core::judge::Question;
use quota_core::lane::WantedSubject;
use quota_core::position::Position;
use quota_core::row::Row;
use quota_core::state::{RowKey, State};
use quota_core::time::Timestamp;
use serde_json::{Map, Value, json};
use std::sync::Arc;
use std::time::Instant;

/// Rows that are read at once when catching up with a partition.
const CATCH_UP_ROWS: usize = 1_000;

/// How fresh an answer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Freshness {
    /// The instant that it was judged at.
    pub as_of: Timestamp,
    /// How long ago its partition was last known to be at its head.
    pub age_ms: u64,
}

/// Everything that an answer about one subject is made from.
struct Sight {
    state: Arc<State>,
    catalog: Arc<Catalog>,
    version: u32,
    head: i64,
    now: Timestamp,
    freshness: Freshness,
}

impl Node {
    /// Answers a question without using anything.
    ///
    /// # Errors
    /// Why it cannot be asked, or answered now.
    pub async fn check(
        &self,
        address: &Address,
        question: &Question,
        at_least: Option<Position>,
    ) -> Result<(Decision, Freshness), Refusal> {
        let things: Vec<RowKey> = question
            .resource
            .as_deref()
            .map(RowKey::resource)
            .into_iter()
            .collect();
        let sight = self.sight(address, things, false, at_least).await?;
        let light = Light {
            state: &sight.state,
            catalog: &sight.catalog,
            catalog_version: sight.version,
            now: sight.now,
            epochs: self.epochs(),
        };
        let mut decision = check(&light, address, question)?;
        decision.position = self.position(address, &sight);
        Ok((decision, sight.freshness))
    }

    /// A subject's entitlements: all members but `as_of` and `age_ms`.
    ///
    /// # Errors
    /// Why they cannot be told now.
    pub async fn entitlements(
        &self,
        address: &Address,
        at_least: Option<Position>,
    ) -> Result<(Map<String, Value>, Freshness), Refusal> {
        let sight = self.sight(address, Vec::new(), true, at_least).await?;
        let (product, subject) = (&address.product, &address.subject);
        let mut body = entitlements(
            &sight.state,
            &sight.catalog,
            sight.version,
            product,
            subject,
            sight.now,
        );
        body.insert(
            "position".to_owned(),
            json!(self.position(address, &sight).to_string()),
        );
        Ok((body, sight.freshness))
    }

    /// A product's own usage page, where its catalog has one.
    ///
    /// # Errors
    /// Why it cannot be told now.
    pub async fn usage_page(
        &self,
        address: &Address,
        at_least: Option<Position>,
    ) -> Result<(Option<Map<String, Value>>, Position, Freshness), Refusal> {
        let sight = self.sight(address, Vec::new(), false, at_least).await?;
        let page = sight.catalog.model().usage_page.as_ref();
        let body = page.map(|page| usage_page(&sight.state, &sight.catalog, page, sight.now));
        Ok((body, self.position(address, &sight), sight.freshness))
    }

    /// A session of a subject, where there is one of this id.
    ///
    /// # Errors
    /// Why it cannot be told now.
    pub async fn session(
        &self,
        address: &Address,
        id: &str,
        at_least: Option<Position>,
    ) -> Result<(Option<SessionState>, Position, Freshness), Refusal> {
        let things = vec![RowKey::session(id)];
        let sight = self.sight(address, things, false, at_least).await?;
        let session = sight.state.session(id).cloned();
        Ok((session, self.position(address, &sight), sight.freshness))
    }

    /// The subject's newest event in this answer; of a subject without events, its partition's head.
    fn position(&self, address: &Address, sight: &Sight) -> Position {
        let newest = sight.state.subject.offset;
        let offset = if newest < 0 { sight.head } else { newest };
        self.epochs().position(address.partition, offset)
    }

    async fn sight(
        &self,
        address: &Address,
        things: Vec<RowKey>,
        complete: bool,
        at_least: Option<Position>,
    ) -> Result<Sight, Refusal> {
        if let Some(position) = at_least {
            self.reach(address, position).await?;
        }
        let (state, head, view) = self.look(address, things, complete).await?;
        let newest = || self.shelf.newest(&address.product);
        let in_force = view
            .version
            .and_then(|version| Some((version, self.shelf.get(&address.product, version)?)));
        let (version, catalog) = in_force
            .or_else(newest)
            .ok_or_else(|| unknown_product(&address.product))?;
        let now = self.clock.now().max(view.recorded_at);
        let freshness = Freshness {
            as_of: now,
            age_ms: self.age_ms(&view),
        };
        Ok(Sight {
            state,
            catalog,
            version,
            head,
            now,
            freshness,
        })
    }

    /// A subject's state with the wanted things, the offset that it is true at, and what it is judged by.
    async fn look(
        &self,
        address: &Address,
        things: Vec<RowKey>,
        complete: bool,
    ) -> Result<(Arc<State>, i64, CheckView), Refusal> {
        let usable = |view: &CheckView| {
            view.state.clone().filter(|state| {
                if complete {
                    state.is_complete()
                } else {
                    state.missing(&things).is_empty()
                }
            })
        };
        let before = self.view(address)?;
        if let Some(state) = usable(&before) {
            return Ok((state, before.head, before));
        }
        let (state, through) = self.load(address, things.clone()).await?;
        // It may lie beyond what this node has read, a catalog's switch for one: it is judged by what holds there.
        if before.head < through {
            self.catch_up(address.partition).await.map_err(|error| {
                tracing::warn!(
                    error = format!("{error:#}"),
                    "a partition could not be read"
                );
                unreadable()
            })?;
        }
        let mut view = self.view(address)?;
        if let Some(state) = usable(&view) {
            return Ok((state, view.head, view));
        }
        view.at_head = before.at_head;
        Ok((state, through, view))
    }

    fn view(&self, address: &Address) -> Result<CheckView, Refusal> {
        self.cache
            .view(address.partition, &address.key, &address.product)
            .ok_or_else(unreadable)
    }

    async fn load(
        &self,
        address: &Address,
        things: Vec<RowKey>,
    ) -> Result<(Arc<State>, i64), Refusal> {
        let wanted = WantedSubject {
            partition: address.partition,
            key: address.key,
            things,
        };
        let asked = Instant::now();
        let mut loaded = load_one(&self.ledger, &self.shelf, wanted.clone(), true).await;
        if loaded.is_err() && self.shelf.load_since(&self.ledger, asked).await.is_ok() {
            // Its newest events may go by a catalog that was published a moment ago.
            loaded = load_one(&self.ledger, &self.shelf, wanted, true).await;
        }
        let (state, through) = loaded.map_err(|error| {
            tracing::warn!(%error, "a subject could not be loaded");
            unreadable()
        })?;
        self.cache
            .keep(address.partition, address.key, Arc::clone(&state), through);
        Ok((state, through))
    }

    fn age_ms(&self, view: &CheckView) -> u64 {
        u64::try_from((self.clock.elapsed() - view.at_head) / 1_000).unwrap_or(0)
    }

    /// Reads on until a position is reached.
    ///
    /// # Errors
    /// It is of another partition, or beyond the ledger; or the ledger cannot be read.
    pub async fn reach(&self, address: &Address, position: Position) -> Result<(), Refusal> {
        if position.partition != address.partition {
            let message = format!(
                "{position} is in another subject's partition; use a position of this subject's"
            );
            return Err(Refusal::field(422, "wrong_partition", "at_least", message));
        }
        let known = |position: Position| {
            self.epochs().holds(position)
                && self.cache.head_offset(address.partition) >= position.offset
        };
        if known(position) {
            return Ok(());
        }
        self.catch_up(address.partition).await.map_err(|error| {
            tracing::warn!(%error, "a partition could not be read");
            unreadable()
        })?;
        if known(position) {
            return Ok(());
        }
        Err(self.not_there(position, "at_least"))
    }

    /// A position that the ledger has not reached, or has no more.
    fn not_there(&self, position: Position, field: &'static str) -> Refusal {
        let message = if self.epochs().holds(position) || position.epoch > self.epoch() {
            format!("the ledger has no {position}")
        } else {
            format!(
                "{position} was lost with a restore; the ledger went on without it in a new epoch"
            )
        };
        Refusal::field(409, "position_not_reached", field, message)
    }

    /// Reads what is in a partition beyond what this node knows.
    ///
    /// # Errors
    /// The ledger cannot be read, or what is in it cannot.
    pub async fn catch_up(&self, partition: u32) -> anyhow::Result<()> {
        loop {
            let from = self.cache.head_offset(partition) + 1;
            let rows = self.ledger.range(partition, from, CATCH_UP_ROWS).await?;
            if self.cache.apply(partition, &rows, &self.shelf)? == Applied::Hole {
                anyhow::bail!("partition {partition} has a hole at {from}");
            }
            if rows.len() < CATCH_UP_ROWS {
                return Ok(());
            }
        }
    }

    /// A page of a subject's events, oldest first, and where the next begins.
    ///
    /// # Errors
    /// The ledger cannot be read, or `after` is no position of this subject's partition.
    pub async fn ledger_page(
        &self,
        address: &Address,
        after: Option<Position>,
        limit: usize,
    ) -> Result<(Vec<Row>, Option<Position>), Refusal> {
        if after.is_some_and(|after| after.partition != address.partition) {
            let message = "this cursor is of another subject's partition";
            return Err(Refusal::field(422, "wrong_partition", "after", message));
        }
        if let Some(after) = after
            && !self.epochs().holds(after)
        {
            return Err(self.not_there(after, "after"));
        }
        let after = after.map_or(-1, |after| after.offset);
        let page = self
            .ledger
            .subject_page(address.partition, &address.key, after, limit + 1)
            .await;
        let mut rows = page.map_err(|error| {
            tracing::warn!(%error, "a subject's events could not be read");
            unreadable()
        })?;
        let more = rows.len() > limit;
        rows.truncate(limit);
        let next = rows
            .last()
            .filter(|_| more)
            .map(|row| self.epochs().position(row.partition, row.offset));
        Ok((rows, next))
    }

    /// The ids of the events at these offsets, in this order.
    ///
    /// # Errors
    /// The ledger cannot be read.
    pub async fn evidence_ids(
        &self,
        partition: u32,
        offsets: &[i64],
    ) -> Result<Vec<String>, Refusal> {
        self.ledger
            .ids_at(partition, offsets)
            .await
            .map_err(|error| {
                tracing::warn!(%error, "the evidence of a refusal could not be read");
                unreadable()
            })
    }
}

fn unreadable() -> Refusal {
    Refusal::unavailable(
        "the ledger cannot be read just now, and this subject is not in memory; try again",
    )
}

fn unknown_product(product: &str) -> Refusal {
    Refusal::whole(
        404,
        "unknown_product",
        format!("there is no product {product:?}"),
    )
}
