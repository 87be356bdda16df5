//! A node's projector: the product's own [`Folding`] and [`Duty`], following as the product does.

use super::follower::{RULES, ask_range, deliver};
use super::{Mail, Memory, Reading};
use crate::coverage::{Hit, Op};
use crate::store::{Fault, Reply, Request, Saved};
use crate::world::Io;
use quota_core::digest::SubjectKey;
use quota_core::event::Event;
use quota_core::follow::{Follower, Output};
use quota_core::projection::{Duty, Folded, Folding, Projected};
use quota_core::row::Row;
use quota_core::state::State;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

const REST: i64 = 500_000;
/// Rows that are folded and saved at once.
const BATCH: usize = 120;
/// Subjects whose states are kept between two steps.
const KEPT: usize = 16;

struct Projector {
    io: Io,
    memory: Rc<RefCell<Memory>>,
    follower: Follower<Arc<Row>>,
    duty: Duty,
    kept: BTreeMap<(u32, SubjectKey), State>,
    reading: Option<Rc<Reading>>,
    rows: Vec<Arc<Row>>,
}

pub async fn run(io: Io, memory: Rc<RefCell<Memory>>) {
    let mut projector = Projector {
        io,
        memory,
        follower: Follower::new(RULES),
        duty: Duty::new(REST),
        kept: BTreeMap::new(),
        reading: None,
        rows: Vec::new(),
    };
    loop {
        projector.begin().await;
        projector.carry_out();
        if projector.save().await {
            continue;
        }
        let deadlines = projector.follower.deadline().into_iter();
        let deadline = deadlines.chain(projector.duty.deadline()).min();
        let mail = projector.io.recv(deadline).await;
        projector.take(mail);
    }
}

impl Projector {
    fn take(&mut self, mail: Option<Mail>) {
        let now = self.io.now();
        match mail {
            None => self.follower.tick(now),
            Some(Mail::Own(partitions)) => {
                for partition in self.duty.own(&partitions, now) {
                    self.forget(partition);
                }
                let me = self.io.me();
                self.io.with(|world| world.consume(me, partitions));
            }
            Some(Mail::Records(records)) => {
                for row in records {
                    deliver(&self.io, &mut self.follower, row, now);
                }
            }
            Some(Mail::Range(_, partition, ticket, rows)) => match rows {
                Some(rows) => {
                    self.io.did(Op::Healed, rows.len());
                    self.follower.range(partition, ticket, rows, now);
                }
                None => self.follower.range_failed(partition, ticket, now),
            },
            Some(Mail::Heads(read)) => {
                for (partition, head) in (0_u32..).zip(&read.offsets) {
                    self.follower.head(partition, *head, read.asked_at, now);
                }
                self.reading = Some(read);
            }
            Some(_) => {}
        }
    }

    fn forget(&mut self, partition: u32) {
        self.follower.forget(partition);
        self.kept.retain(|(of, _), _| *of != partition);
    }

    async fn begin(&mut self) {
        let due = self.duty.begin(self.io.now());
        if due.is_empty() {
            return;
        }
        let Ok(Reply::Checkpoints(checkpoints)) =
            self.io.ask("projector", None, Request::Checkpoints).await
        else {
            return self.pause();
        };
        for partition in due {
            self.kept.retain(|(of, _), _| *of != partition);
            let next = checkpoints[partition as usize];
            self.duty.begun(partition, next);
            self.follower.follow(partition, 0, next);
            if let Some(reading) = &self.reading {
                let (head, now) = (reading.offsets[partition as usize], self.io.now());
                self.follower.head(partition, head, reading.asked_at, now);
            }
        }
    }

    fn carry_out(&mut self) {
        while self.rows.len() < BATCH
            && let Some(output) = self.follower.output()
        {
            match output {
                Output::Row { row, .. } => self.rows.push(row),
                Output::Read {
                    ticket,
                    partition,
                    from,
                    to,
                } => ask_range(&self.io, 0, partition, ticket, (from, to)),
                Output::Epoch { .. } => panic!("there is one epoch in this world"),
            }
        }
    }

    async fn save(&mut self) -> bool {
        if self.rows.is_empty() {
            return false;
        }
        let rows = std::mem::take(&mut self.rows);
        if self.fold_and_save(rows).await.is_err() {
            self.pause();
        }
        true
    }

    async fn fold_and_save(&mut self, rows: Vec<Arc<Row>>) -> Result<(), Fault> {
        let folded = self.fold(rows).await?;
        let (mut moved, mut lost) = (Vec::new(), Vec::new());
        if !folded.steps.is_empty() {
            let request = Request::Save(
                folded.steps.clone(),
                folded.subjects.iter().map(saved).collect(),
            );
            let reply = self.io.ask("projector", None, request).await;
            if reply.is_err() {
                self.io.hit(Hit::ProjectorUnknown);
            }
            if let Reply::Moved(partitions) = reply? {
                moved = partitions;
            }
            let steps = folded.steps.iter().map(|step| step.partition);
            lost = steps.filter(|it| !moved.contains(it)).collect();
        }
        for strange in &folded.strange {
            self.io.hit(Hit::ProjectorStrange);
            assert!(strange.why.contains("whose next is"), "{strange:?}");
        }
        let now = self.io.now();
        let judged = self
            .duty
            .saved(&moved, &lost, folded.strange, folded.stopped, now);
        assert_eq!(judged.stopped, [], "every row of this world can be folded");
        for partition in &judged.lost {
            self.forget(*partition);
        }
        self.keep(folded.subjects, &judged.lost);
        Ok(())
    }

    fn keep(&mut self, subjects: Vec<Projected>, lost: &std::collections::BTreeSet<u32>) {
        for subject in subjects {
            if !lost.contains(&subject.partition) {
                if self.kept.len() >= KEPT {
                    self.kept.pop_first();
                }
                self.kept
                    .insert((subject.partition, subject.key), subject.state);
            }
        }
    }

    async fn fold(&mut self, rows: Vec<Arc<Row>>) -> Result<Folded, Fault> {
        let mut folding = Folding::default();
        self.io.did(Op::Projected, rows.len());
        for row in rows {
            self.shelve(&row).await?;
            let event = Event::decode(&row.event_type, row.type_version, &row.payload);
            let event = event.expect("every event of this world is known");
            let kept = &mut self.kept;
            let place = (row.partition, row.subject_key);
            folding.add((*row).clone(), event, || kept.remove(&place));
        }
        loop {
            let wanted = folding.wants();
            if !wanted.is_empty() {
                let request = Request::Stored(wanted.clone());
                let Reply::Stored(stored) = self.io.ask("projector", None, request).await? else {
                    return Err(Fault::Refused);
                };
                for (wanted, stored) in wanted.into_iter().zip(stored) {
                    folding.put(
                        wanted.partition,
                        wanted.key,
                        stored.state.as_deref(),
                        stored.things,
                    );
                }
            }
            let memory = self.memory.borrow();
            let catalogs = |product: &str, version: u32| memory.catalog(product, version);
            if folding.go_on(&catalogs) {
                return Ok(folding.finish(&catalogs));
            }
        }
    }

    /// Knows the catalog that a row goes by.
    async fn shelve(&self, row: &Row) -> Result<(), Fault> {
        self.memory.borrow_mut().shelve(row);
        let known = self
            .memory
            .borrow()
            .catalog(&row.product, row.catalog_version);
        if known.is_none()
            && let Reply::Rows(rows) = self.io.ask("projector", None, Request::Catalogs).await?
        {
            for row in rows {
                self.memory.borrow_mut().shelve(&row);
            }
        }
        Ok(())
    }

    fn pause(&mut self) {
        self.kept.clear();
        self.rows.clear();
        for partition in self.duty.owned() {
            self.follower.forget(*partition);
        }
        self.duty.pause(self.io.now());
    }
}

fn saved(subject: &Projected) -> Saved {
    let changed = subject.changed.iter();
    let body =
        |key: &quota_core::state::RowKey| Some((key.clone(), subject.state.thing_bytes(key)?));
    Saved {
        partition: subject.partition,
        key: subject.key,
        product: Arc::clone(&subject.product),
        subject: Arc::clone(&subject.subject),
        next_due: subject.next_due,
        state: subject.state.subject_bytes(),
        things: changed.filter_map(body).collect(),
    }
}
