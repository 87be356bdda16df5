//! What holds for every story: of the fold, of its stored form, and of decisions against it.
//!
//! Each property names a deliberate break that it was seen to fail by.

use crate::actor::Actor;
use crate::acts::{Act, Later, stories};
use proptest::prelude::*;
use proptest::test_runner::FileFailurePersistence;
use quota_core::catalog::Catalog;
use quota_core::command::{Answer, Command, Wish};
use quota_core::decide::{Light, check, things_needed};
use quota_core::entitlements::entitlements;
use quota_core::epoch::Epochs;
use quota_core::event::{Event, Outcome};
use quota_core::fold::{fold, needs, needs_of_state};
use quota_core::judge::Question;
use quota_core::row::Row;
use quota_core::state::{RowKey, State};
use std::collections::BTreeMap;
use std::sync::Arc;

/// A share of proptest's cases, of which PROPTEST_CASES sets the number; failures are not kept in files.
pub fn config(percent: u32) -> ProptestConfig {
    let usual = ProptestConfig::default();
    ProptestConfig {
        failure_persistence: Some(Box::new(FileFailurePersistence::Off)),
        cases: usual.cases * percent / 100,
        ..usual
    }
}

/// Plays a story to its end.
fn played(product: usize, story: &[Later]) -> Actor {
    let mut actor = Actor::new(product);
    for later in story {
        actor.act(later);
    }
    actor
}

fn subjects_rows(actor: &Actor) -> Vec<Arc<Row>> {
    let rows = actor.desk.rows().iter();
    rows.filter(|row| !row.subject.is_empty())
        .cloned()
        .collect()
}

fn catalog_of<'a>(actor: &'a Actor, row: &Row) -> &'a Arc<Catalog> {
    actor.desk.catalog(row.catalog_version).unwrap()
}

/// A state as it is stored: the subject's row and the rows of its things.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Stored {
    subject: Vec<u8>,
    things: BTreeMap<RowKey, Vec<u8>>,
}

impl Stored {
    fn of(state: &State) -> Self {
        let things = state
            .things()
            .map(|(key, _)| (key.clone(), state.thing_bytes(key).unwrap()));
        Self {
            subject: state.subject_bytes(),
            things: things.collect(),
        }
    }

    fn complete(&self) -> State {
        let things: Vec<(RowKey, Vec<u8>)> = self
            .things
            .iter()
            .map(|(key, body)| (key.clone(), body.clone()))
            .collect();
        State::from_stored(&self.subject, &things).unwrap()
    }

    /// Nothing but the subject's own row.
    fn bare(&self) -> State {
        if self.subject.is_empty() {
            return State::default();
        }
        State::from_stored(&self.subject, &[]).unwrap()
    }

    /// Loads those of the keys that are not there yet.
    fn load(&self, state: &mut State, keys: &[RowKey]) {
        for key in state.missing(keys) {
            let body = self.things.get(&key).map(Vec::as_slice);
            state.add_stored(key, body).unwrap();
        }
    }

    fn keep(&mut self, state: &State) {
        self.subject = state.subject_bytes();
        for (key, _) in state.things() {
            self.things
                .insert(key.clone(), state.thing_bytes(key).unwrap());
        }
    }
}

fn question(wish: &Wish) -> Option<Question> {
    match wish {
        Wish::Consume(consume) => Some(Question {
            feature: consume.feature.clone(),
            amount: consume.amount,
            resource: consume.resource.clone(),
        }),
        _ => None,
    }
}

/// The outcome as a check tells it: without what the consume itself added.
fn before_itself(event: &Event) -> Option<Outcome> {
    let bypassed = |outcome: &Outcome| outcome.reason == quota_core::event::Reason::Bypassed;
    match event {
        Event::UsageDenied(data) => Some(data.outcome.clone()),
        Event::UsageHeld(data) => {
            let mut outcome = data.outcome.clone();
            outcome.held -= if bypassed(&outcome) { 0 } else { data.amount };
            Some(outcome)
        }
        Event::UsageRecorded(data) => {
            let mut outcome = data.outcome.clone()?;
            outcome.used -= if bypassed(&outcome) { 0 } else { data.amount };
            Some(outcome)
        }
        Event::ResourceCreated(data) => {
            let mut outcome = data.outcome.clone()?;
            outcome.used -= i64::from(!bypassed(&outcome));
            Some(outcome)
        }
        _ => None,
    }
}

/// An answer without its catalog, which is long.
fn words(answer: &Answer) -> String {
    match answer {
        Answer::Decided(decision) => format!(
            "{:?} {:?} {} {}",
            decision.outcome, decision.hold, decision.position, decision.replayed
        ),
        Answer::Session(session) => {
            let denied = session.denied.as_ref().map(|denied| &denied.outcome);
            format!("{:?} {denied:?} {}", session.session, session.position)
        }
        other => format!("{other:?}"),
    }
}

fn decode(row: &Row) -> Event {
    Event::decode(&row.event_type, row.type_version, &row.payload).unwrap()
}

proptest! {
    #![proptest_config(config(25))]

    /// Folding a prefix, storing it, and folding the rest onto what was stored gives the bytes of folding all at once;
    /// and those are what the desk came to, command by command. Seen to fail with `free_since` not stored.
    #[test]
    fn a_fold_goes_on_from_its_stored_form((product, story) in stories(), cut in 0.0_f64..1.0) {
        let actor = played(product, &story);
        let rows = subjects_rows(&actor);
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss, reason = "a share of a short list")]
        let cut = (cut * rows.len() as f64) as usize;
        let mut whole = State::default();
        let mut parted = State::default();
        for (index, row) in rows.iter().enumerate() {
            if index == cut {
                let stored = Stored::of(&parted);
                parted = stored.complete();
                prop_assert_eq!(Stored::of(&parted), stored, "stored, read and stored again");
            }
            fold(&mut whole, catalog_of(&actor, row), row).unwrap();
            fold(&mut parted, catalog_of(&actor, row), row).unwrap();
        }
        prop_assert_eq!(Stored::of(&parted), Stored::of(&whole));
        prop_assert_eq!(Stored::of(actor.desk.state()), Stored::of(&whole));
        prop_assert!(whole.is_complete());
        prop_assert_eq!(whole.subject.things as usize, whole.things().count());
    }

    /// The fold touches what it says, and needs no more than it names: with only those things loaded it comes to the
    /// same rows. Seen to fail with the resources that wait for a slot left out of `needs_of_state`.
    #[test]
    fn a_fold_needs_only_what_it_names((product, story) in stories()) {
        let actor = played(product, &story);
        let mut stored = Stored::default();
        for row in subjects_rows(&actor) {
            let event = decode(&row);
            let mut state = stored.bare();
            let keys = [needs(&event), needs_of_state(&state, &event)].concat();
            stored.load(&mut state, &keys);
            let touched = fold(&mut state, catalog_of(&actor, &row), &row).unwrap();
            stored.subject = state.subject_bytes();
            for key in touched {
                let body = state.thing_bytes(&key).unwrap();
                stored.things.insert(key, body);
            }
        }
        if stored != Stored::default() {
            prop_assert_eq!(stored, Stored::of(actor.desk.state()));
        }
    }

    /// A command decided on only the things that it names gets the same answer, and leads to the same state, as on all
    /// of them. Seen to fail with a consume's resource left out of `things_needed`.
    #[test]
    fn a_decision_needs_only_what_it_names((product, story) in stories()) {
        let mut actor = Actor::new(product);
        let mut stored = Stored::default();
        let mut bare = actor.desk.clone();
        for later in &story {
            let Some(wish) = actor.wish(later) else {
                bare = actor.desk.clone();
                continue;
            };
            let mut state = stored.bare();
            let command = Command { address: actor.desk.address().clone(), wish: wish.clone() };
            let keys = things_needed(&state, &command);
            stored.load(&mut state, &keys);
            bare.put_state(state);
            let answer = bare.submit(wish.clone(), actor.now);
            let expected = actor.desk.submit(wish, actor.now);
            actor.remember(&expected);
            prop_assert_eq!(words(&answer), words(&expected));
            stored.keep(bare.state());
            prop_assert_eq!(&stored, &Stored::of(actor.desk.state()));
        }
    }

    /// Commands in one batch get the answers, and leave the rows, that they would one by one. Seen to fail with a batch
    /// that does not find the rows it has just made.
    #[test]
    fn a_batch_is_one_by_one((product, story) in stories(), size in 2_usize..9) {
        let mut actor = Actor::new(product);
        let mut stored = Stored::default();
        for chunk in story.chunks(size) {
            let wishes: Vec<Wish> = chunk.iter().filter_map(|later| actor.wish(later)).collect();
            let mut batched = actor.desk.clone();
            let mut state = stored.bare();
            for wish in &wishes {
                let command = Command { address: actor.desk.address().clone(), wish: wish.clone() };
                let keys = things_needed(&state, &command);
                stored.load(&mut state, &keys);
            }
            batched.put_state(state);
            let answers = batched.submit_all(wishes.clone(), actor.now);
            prop_assert_eq!(answers.len(), wishes.len());
            for (wish, answer) in wishes.into_iter().zip(answers) {
                let expected = actor.desk.submit(wish, actor.now);
                prop_assert_eq!(words(&answer), words(&expected));
                actor.remember(&expected);
            }
            prop_assert_eq!(batched.rows(), actor.desk.rows());
            stored.keep(batched.state());
            prop_assert_eq!(&stored, &Stored::of(actor.desk.state()));
        }
    }

    /// A command that is sent again changes nothing, and gets the first answer. Seen to fail with an adjustment's
    /// key left out of `keys_needed`.
    #[test]
    fn what_is_sent_again_changes_nothing((product, story) in stories()) {
        let mut actor = Actor::new(product);
        for later in &story {
            let Some((wish, answer)) = actor.act(later) else { continue };
            let (rows, state) = (actor.desk.rows().len(), Stored::of(actor.desk.state()));
            let again = actor.desk.submit(wish.clone(), actor.now);
            let keyed = !matches!(&wish, Wish::Consume(consume) if consume.key.is_none());
            if !keyed {
                continue;
            }
            match (&answer, &again) {
                (Answer::Decided(first), Answer::Decided(second)) if second.replayed => {
                    prop_assert_eq!(&first.outcome, &second.outcome);
                    prop_assert_eq!((&first.hold, first.position), (&second.hold, second.position));
                }
                (Answer::Recorded { position, .. }, Answer::Recorded { position: second, duplicate }) => {
                    prop_assert!(*duplicate);
                    prop_assert_eq!(position, second);
                }
                // Forced again, it is another session; refused, it is not remembered.
                (Answer::Session(_), _) | (_, Answer::Session(_) | Answer::Swept { .. }) => continue,
                _ => {}
            }
            prop_assert_eq!(actor.desk.rows().len(), rows);
            prop_assert_eq!(Stored::of(actor.desk.state()), state);
        }
    }

    /// The same payment told by another event changes no entitlement. Seen to fail with payments not looked up.
    #[test]
    fn a_payment_counts_once((product, story) in stories()) {
        let mut actor = Actor::new(product);
        let view = |actor: &Actor| {
            let version = actor.desk.catalog_version();
            let catalog = actor.desk.catalog(version).unwrap();
            entitlements(actor.desk.state(), catalog, version, "p", "s", actor.now)
        };
        for later in &story {
            actor.act(later);
            if let (_, Act::Pay { .. }) = later {
                actor.act(&(0, Act::Sweep));
                let before = view(&actor);
                actor.act(&(0, later.1.clone()));
                prop_assert_eq!(view(&actor), before);
            }
        }
    }

    /// A check just before a consume foretells it, and whoever judges again from the rows before it comes to the outcome
    /// that its row has. Seen to fail with an outcome that counts its own units twice.
    #[test]
    fn a_check_foretells_and_a_judge_repeats((product, story) in stories()) {
        let mut actor = Actor::new(product);
        for later in &story {
            let before = actor.desk.state().clone();
            let Some(wish) = actor.wish(later) else { continue };
            let foretold = question(&wish).map(|question| actor.desk.check(&question, actor.now));
            let rows = actor.desk.rows().len();
            let answer = actor.desk.submit(wish.clone(), actor.now);
            actor.remember(&answer);
            let (Some(question), Answer::Decided(decision)) = (question(&wish), &answer) else { continue };
            if decision.replayed {
                continue;
            }
            let foretold = foretold.unwrap().unwrap().outcome;
            let Some(row) = actor.desk.rows().get(rows..).and_then(|new| new.last()) else {
                prop_assert_eq!(&foretold, &decision.outcome, "nothing was recorded");
                continue;
            };
            let event = decode(row);
            if let Some(outcome) = before_itself(&event) {
                prop_assert_eq!(&foretold, &outcome);
                let light = Light {
                    state: &before,
                    catalog: catalog_of(&actor, row),
                    catalog_version: row.catalog_version,
                    now: row.recorded_at,
                    epochs: &Epochs::default(),
                };
                let again = check(&light, actor.desk.address(), &question).unwrap();
                prop_assert_eq!(&again.outcome, &outcome);
            }
        }
    }

    /// Deleting a resource lowers no usage. Seen to fail with the free slot given back by `deleted`.
    #[test]
    fn a_deletion_refunds_nothing((product, story) in stories(), resource in 0_u8..5) {
        let mut actor = played(product, &story);
        // Any event lets old grants be forgotten; this one does nothing else.
        actor.act(&(0, Act::Register));
        let counters = |actor: &Actor| {
            let subject = &actor.desk.state().subject;
            let grants: Vec<_> = subject.grants.iter().map(|grant| (grant.id.clone(), grant.counters.clone())).collect();
            (subject.free.clone(), subject.own.clone(), grants)
        };
        let before = counters(&actor);
        actor.act(&(0, Act::Delete(resource)));
        prop_assert_eq!(counters(&actor), before);
    }

    /// Rows are dense and chained, and time never goes back in them. Seen to fail with rows chained to no row.
    #[test]
    fn rows_are_dense_and_chained((product, story) in stories()) {
        let actor = played(product, &story);
        let rows = actor.desk.rows();
        for (index, row) in rows.iter().enumerate() {
            prop_assert_eq!(row.offset as usize, index);
            if let Some(previous) = index.checked_sub(1).and_then(|previous| rows.get(previous)) {
                prop_assert_eq!(row.hash, row.expected_hash(&previous.hash));
                prop_assert!(previous.recorded_at <= row.recorded_at);
            }
        }
        let mut previous: Option<&Arc<Row>> = None;
        for row in rows.iter().filter(|row| !row.subject.is_empty()) {
            prop_assert_eq!(row.subject_seq, previous.map_or(0, |row| row.subject_seq) + 1);
            prop_assert_eq!(row.subject_prev, previous.map(|row| row.offset));
            previous = Some(row);
        }
    }
}
