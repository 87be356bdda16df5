//! Holds what clients were told against what the ledger says, row by row as it grows.

use crate::answers::{bare, differs, outcome};
use crate::history::{Claim, History, Op, Told, Wish, text};
use crate::ledger::{Row, event_key, genesis, meta, partition_of, rows_from, subject_key};
use crate::model::Subject;
use sqlx::postgres::PgConnection;
use std::collections::{HashMap, HashSet};
use std::time::Instant;

/// What subjects begin with that are only asked whether they are served.
pub const PROBE: &str = "probe-";

/// An event's name: subject, source and id.
type Name = (String, &'static str, String);
/// What a consume without a key looks like in the ledger.
type Bare = (String, String, String);

/// Everything that was checked so far, and what was found.
pub struct Checker {
    /// Each partition's next offset, last hash and last `recorded_at`.
    ends: Vec<(i64, Vec<u8>, i64)>,
    subjects: HashMap<String, Subject>,
    /// The product's own events, partition by partition.
    own: HashMap<(i32, String), (i64, i64)>,
    /// Every event key that was met.
    events: HashSet<Vec<u8>>,
    /// Wishes that were refused: they may never appear.
    refused: HashSet<Name>,
    /// Consumes without a key whose outcome nobody knows, or that were denied: each explains one row of a kind at most.
    bare: HashMap<Bare, usize>,
    /// Hashes by place, for those who compare topics.
    pub hashes: Vec<Vec<Vec<u8>>>,
    pub found: Vec<String>,
}

/// What a round's answers say about rows.
#[derive(Default)]
struct Said {
    named: HashMap<Name, usize>,
    /// Acknowledged consumes without a key, by their position.
    placed: HashMap<String, usize>,
    claims: HashMap<(usize, i64), Vec<Claim>>,
    /// Where each wish's row stands, once it was met.
    met: HashMap<usize, (usize, i64)>,
}

impl Checker {
    /// Begins with an empty ledger.
    pub async fn new(connection: &mut PgConnection) -> anyhow::Result<Self> {
        let (ledger_id, partitions) = meta(connection).await?;
        let begin = |number: usize| {
            let number = i32::try_from(number).unwrap_or(-1);
            (0, genesis(&ledger_id, number).to_vec(), i64::MIN)
        };
        let ends = (0..partitions).map(begin).collect();
        Ok(Self {
            ends,
            subjects: HashMap::new(),
            own: HashMap::new(),
            events: HashSet::new(),
            refused: HashSet::new(),
            bare: HashMap::new(),
            hashes: vec![Vec::new(); partitions],
            found: Vec::new(),
        })
    }

    /// Rows so far.
    pub fn rows(&self) -> usize {
        self.hashes.iter().map(Vec::len).sum()
    }

    fn wrong(&mut self, what: String) {
        self.found.push(what);
    }

    /// Reads what is new in the ledger and holds it against what clients were told.
    pub async fn check(
        &mut self,
        connection: &mut PgConnection,
        history: &History,
    ) -> anyhow::Result<()> {
        self.found.extend(history.wrong.iter().cloned());
        let mut said = self.said(history);
        let next: Vec<i64> = self.ends.iter().map(|end| end.0).collect();
        for row in rows_from(connection, &next).await? {
            self.chain(&row);
            self.fold(&row);
            self.explain(&row, history, &mut said);
            let here = (usize::try_from(row.partition).unwrap_or(0), row.offset);
            for claim in said.claims.remove(&here).unwrap_or_default() {
                self.judge(&claim, row.recorded_at);
            }
        }
        for claim in std::mem::take(&mut said.claims).into_values().flatten() {
            self.judge_old(&claim);
        }
        for (number, op) in history.ops.iter().enumerate() {
            if let Some(wrong) = outcome(op, said.met.get(&number).copied()) {
                self.wrong(wrong);
            }
        }
        self.real_time(history, &said);
        Ok(())
    }

    /// What the answers say, by what they are found by.
    fn said(&mut self, history: &History) -> Said {
        let mut said = Said::default();
        let mut claims = history.claims.clone();
        for (number, op) in history.ops.iter().enumerate() {
            if let Some(id) = &op.id {
                let name = (op.subject.clone(), op.source(), id.clone());
                if op.told() == Told::Refused {
                    self.refused.insert(name);
                } else {
                    said.named.insert(name, number);
                }
                continue;
            }
            let denied = op
                .settled()
                .next()
                .filter(|(_, answer)| answer.status != 200);
            match (op.settled().next(), denied, bare(op)) {
                (_, Some((_, answer)), Some(bare)) => {
                    // Recorded or not, it is true where it says.
                    if let Wish::Consume { feature, .. } = &op.wish {
                        claims.extend(Claim::of(&op.subject, feature, &answer.json()));
                    }
                    *self
                        .bare
                        .entry((bare.0, bare.1, "usage.denied".to_owned()))
                        .or_default() += 1;
                }
                (Some((_, answer)), None, _) => {
                    said.placed.insert(op.position(answer), number);
                }
                (None, _, Some(bare)) if op.told() == Told::Unknown => {
                    let (subject, what) = bare;
                    for kind in ["usage.recorded", "usage.denied"] {
                        let unknown = (subject.clone(), what.clone(), kind.to_owned());
                        *self.bare.entry(unknown).or_default() += 1;
                    }
                }
                _ => {}
            }
        }
        for claim in claims {
            said.claims.entry(claim.position).or_default().push(claim);
        }
        said
    }

    /// The row is where it must be, and its digests follow from what is in it.
    fn chain(&mut self, row: &Row) {
        let key = subject_key(&row.product, &row.subject);
        let event = event_key(&row.product, &row.subject, &row.source, &row.id);
        let number = usize::try_from(row.partition).unwrap_or(usize::MAX);
        if key != row.subject_key || event != row.event_key {
            self.wrong(format!(
                "{}: a key is not the digest of its names",
                row.at()
            ));
        }
        if !row.subject.is_empty() && partition_of(&key, self.ends.len()) != number {
            self.wrong(format!("{}: in another subject's partition", row.at()));
        }
        let unique = if row.subject.is_empty() {
            [&row.event_key[..], &row.partition.to_be_bytes()].concat()
        } else {
            row.event_key.clone()
        };
        if !self.events.insert(unique) {
            self.wrong(format!("{}: {} was recorded before", row.at(), row.id));
        }
        let Some((next, hash, time)) = self.ends.get_mut(number) else {
            return self.wrong(format!("{}: no such partition", row.at()));
        };
        let mut wrong = Vec::new();
        if row.offset != *next {
            wrong.push(format!("{}: comes where {next} should", row.at()));
        }
        if row.hash != row.hash_after(hash) {
            wrong.push(format!(
                "{}: its hash does not follow from the row before",
                row.at()
            ));
        }
        if row.recorded_at < *time {
            wrong.push(format!("{}: recorded before the row before it", row.at()));
        }
        (*next, *time) = (row.offset + 1, row.recorded_at);
        hash.clone_from(&row.hash);
        self.found.extend(wrong);
        if let Some(hashes) = self.hashes.get_mut(number) {
            hashes.push(row.hash.clone());
        }
    }

    /// The row says what the model says.
    fn fold(&mut self, row: &Row) {
        let at = row.at();
        if row.subject.is_empty() {
            let before = self
                .own
                .entry((row.partition, row.product.clone()))
                .or_default();
            let prev = (before.0 > 0).then_some(before.1);
            let follows = (row.subject_seq, row.subject_prev) == (before.0 + 1, prev);
            *before = (row.subject_seq, row.offset);
            if !follows || row.kind != "catalog.published" {
                self.wrong(format!("{at}: no catalog that follows the one before"));
            }
            return;
        }
        let subject = self.subjects.entry(row.subject.clone()).or_default();
        let follows = (row.subject_seq, row.subject_prev) == (subject.seq + 1, subject.offset);
        let taken = subject.take(row);
        (subject.seq, subject.offset) = (row.subject_seq, Some(row.offset));
        if !follows {
            self.wrong(format!("{at}: does not follow its subject's last event"));
        }
        if let Err(error) = taken {
            self.wrong(format!("{at}: {error:#}"));
        }
    }

    /// Somebody asked for this row.
    fn explain(&mut self, row: &Row, history: &History, said: &mut Said) {
        if row.subject.is_empty() || row.subject.starts_with(PROBE) {
            return;
        }
        let source = match row.source.as_str() {
            "quota:consume" => "quota:consume",
            "quota:hold" => "quota:hold",
            "/chaos" => "/chaos",
            _ => return self.wrong(format!("{}: nobody tells as {}", row.at(), row.source)),
        };
        let name = (row.subject.clone(), source, row.id.clone());
        if self.refused.contains(&name) {
            return self.wrong(format!(
                "{}: {} was refused, and is recorded",
                row.at(),
                row.id
            ));
        }
        let number = said
            .named
            .get(&name)
            .or_else(|| said.placed.get(&row.at()))
            .copied();
        if let Some(number) = number {
            said.met.insert(
                number,
                (usize::try_from(row.partition).unwrap_or(0), row.offset),
            );
            let op = history.ops.get(number);
            if let Some(wrong) = op.and_then(|op| differs(op, row)) {
                self.wrong(format!("{}: {wrong}", row.at()));
            }
            return;
        }
        let data = row.data().unwrap_or_default();
        let what = format!(
            "{}:{}",
            text(&data, "feature"),
            data.get("amount").unwrap_or(&1.into())
        );
        let bare = (row.subject.clone(), what, row.kind.clone());
        match self.bare.get_mut(&bare).filter(|left| **left > 0) {
            Some(left) => *left -= 1,
            None => self.wrong(format!(
                "{}: nobody asked for {} of {bare:?}",
                row.at(),
                row.id
            )),
        }
    }

    /// An answer that recorded nothing was true at its position, whose row was recorded at this time.
    fn judge(&mut self, claim: &Claim, at: i64) {
        let counted = |at| {
            let subject = self.subjects.get(&claim.subject);
            subject.map_or((0, 0), |subject| subject.counted(claim.feature, at))
        };
        let told = (claim.used, claim.held);
        if let Some(as_of) = claim.as_of {
            // A whole millisecond was told, and holds and days may end in it.
            let last = as_of + 999;
            if last < at || ![as_of, last].map(counted).contains(&told) {
                let (from, to) = (counted(as_of), counted(last));
                self.wrong(format!(
                    "{claim:?} was told, of a row recorded at {at}, and it was {from:?} to {to:?}"
                ));
            }
            return;
        }
        let (used, held) = counted(at);
        // Held units become free by time alone, and a day may have ended between the row and the answer.
        let next_day = claim.feature == "daily" && told == (0, 0);
        if !next_day && (used != claim.used || held < claim.held) {
            self.wrong(format!(
                "{claim:?} was told, and it was {used} used, {held} held"
            ));
        }
    }

    /// One about a position that was read before: then its subject had no event yet, since subjects are a round's own.
    fn judge_old(&mut self, claim: &Claim) {
        let end = self.ends.get(claim.position.0).map_or(0, |end| end.0);
        let first = self
            .subjects
            .get(&claim.subject)
            .is_none_or(|subject| subject.seq == 0);
        if claim.position.1 >= end {
            self.wrong(format!("{claim:?} was told, and there is no such row"));
        } else if first && (claim.used, claim.held) != (0, 0) {
            self.wrong(format!("{claim:?} was told, and nothing was used"));
        }
    }

    /// What was acknowledged before something else was asked for stands before it.
    fn real_time(&mut self, history: &History, said: &Said) {
        let mut rows: Vec<((usize, i64), &Op)> = said
            .met
            .iter()
            .filter_map(|(number, place)| Some((*place, history.ops.get(*number)?)))
            .collect();
        rows.sort_by_key(|(place, _)| *place);
        let mut latest: Option<(usize, Instant, i64)> = None;
        for ((partition, offset), op) in rows {
            let started = op.attempts.iter().map(|attempt| attempt.started).min();
            let ended = op.settled().map(|(attempt, _)| attempt.ended).min();
            let before = latest.filter(|(of, _, _)| *of == partition);
            if let (Some((_, start, at)), Some(ended)) = (before, ended)
                && ended < start
            {
                self.wrong(format!(
                    "{partition}:{offset} was acknowledged before {partition}:{at} was asked for"
                ));
            }
            let later = before.is_none_or(|(_, start, _)| started > Some(start));
            if let (true, Some(started)) = (later, started) {
                latest = Some((partition, started, offset));
            }
        }
    }
}
