//! The model of Kafka: logs that only grow at their ends, unless the broker loses some; consumers that are told late, twice,
//! or never; groups whose members do not know yet that they are none any more.

use crate::coverage::Hit;
use crate::node::Mail;
use crate::world::{TaskId, World};
use quota_core::relay::Tail;
use quota_core::row::Row;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// One partition of the ledger's topic.
#[derive(Default)]
pub struct Log {
    pub records: Vec<Arc<Row>>,
    /// Records were lost, or the topic was made anew: then order holds from the losses on only.
    pub damaged: bool,
    /// Something was published behind a loss by a relay that had looked at the end before it, and so may stand behind a
    /// hole. That relay finds out at its next look; should it be gone by then, nobody does.
    pub blind: bool,
    lost_at: i64,
    /// How often records were cut off its end, and so the sequence of its idempotent producers.
    cuts: u64,
    /// What each producer found of that when it began.
    producers: BTreeMap<u64, u64>,
}

/// A message of an inbox.
#[derive(Clone)]
pub struct Message {
    pub headers: Vec<(&'static str, Vec<u8>)>,
    pub value: Vec<u8>,
    /// What the oracle knows it by; none where it cannot get in.
    pub identity: Option<crate::oracle::Identity>,
}

/// An inbox of a product: one partition is enough, since nothing crosses them.
pub struct Inbox {
    pub product: &'static str,
    pub messages: Vec<Arc<Message>>,
    /// Whose it is, and by which assignment.
    pub owner: Option<TaskId>,
    pub generation: u64,
    /// Where the owner reads next.
    pub position: usize,
    pub committed: usize,
}

/// Who reads the ledger's topic, from where.
struct Consumer {
    task: TaskId,
    partitions: BTreeSet<u32>,
    positions: BTreeMap<u32, usize>,
}

pub struct Broker {
    pub up: bool,
    pub logs: Vec<Log>,
    pub inboxes: Vec<Inbox>,
    pub dead: BTreeMap<(usize, usize), &'static str>,
    consumers: BTreeMap<TaskId, Consumer>,
}

impl Broker {
    pub fn new(partitions: u32) -> Self {
        let inbox = |product: &&'static str| Inbox {
            product,
            messages: Vec::new(),
            owner: None,
            generation: 0,
            position: 0,
            committed: 0,
        };
        Self {
            up: true,
            logs: (0..partitions).map(|_| Log::default()).collect(),
            inboxes: crate::catalogs::PRODUCTS.iter().map(inbox).collect(),
            dead: BTreeMap::new(),
            consumers: BTreeMap::new(),
        }
    }

    pub fn tail(&self, partition: u32) -> Option<Tail> {
        let log = &self.logs[partition as usize];
        log.records.last().map(|row| Tail {
            offset: row.offset,
            epoch: 0,
            at: log.records.len() as i64 - 1,
        })
    }

    /// Leaves the topic, and the groups.
    pub fn leave(&mut self, task: TaskId) {
        self.consumers.remove(&task);
    }
}

impl World {
    /// Joins the topic at its end, for these partitions.
    pub fn consume(&mut self, task: TaskId, partitions: BTreeSet<u32>) {
        let ends = partitions.iter();
        let positions = ends
            .map(|it| (*it, self.broker.logs[*it as usize].records.len()))
            .collect();
        let fresh = !self.broker.consumers.contains_key(&task);
        let consumer = Consumer {
            task,
            partitions,
            positions,
        };
        self.broker.consumers.insert(task, consumer);
        if fresh {
            self.deliver(task);
        }
    }

    /// Delivers what there is to a consumer, again and again.
    fn deliver(&mut self, task: TaskId) {
        let pause = self.rng.delay(20_000);
        self.after(pause, move |world| {
            let Some(mut consumer) = world.broker.consumers.remove(&task) else {
                return;
            };
            if world.broker.up {
                let records = world.next_records(&mut consumer);
                if !records.is_empty() {
                    world.send(consumer.task, Mail::Records(records));
                }
            }
            world.broker.consumers.insert(task, consumer);
            world.deliver(task);
        });
    }

    fn next_records(&mut self, consumer: &mut Consumer) -> Vec<Arc<Row>> {
        let mut records = Vec::new();
        for partition in &consumer.partitions {
            let end = self.broker.logs[*partition as usize].records.len();
            let position = consumer.positions.entry(*partition).or_insert(end);
            // A log that lost its end is joined at its end.
            *position = (*position).min(end);
            if !self.calm && *position > 0 && self.rng.one_in(200) {
                *position -= self.rng.below((*position).min(20)) + 1;
                self.coverage.hit(Hit::Redelivered);
            }
            if !self.calm && *position < end && self.rng.one_in(200) {
                *position += self.rng.below((end - *position).min(20)) + 1;
                self.coverage.hit(Hit::Skipped);
            }
            let until = end.min(*position + 200);
            let log = &self.broker.logs[*partition as usize];
            let mut some: Vec<Arc<Row>> = log.records[*position..until].to_vec();
            *position = until;
            if !self.calm && some.len() > 1 && self.rng.one_in(100) {
                self.rng.shuffle(&mut some);
                self.coverage.hit(Hit::Reordered);
            }
            records.extend(some);
        }
        records
    }

    /// Publishes a run; the relay is told what became of it, or is never told.
    ///
    /// A producer whose sequence the broker has lost a part of is refused from then on, as an idempotent one is.
    pub fn publish(
        &mut self,
        (task, line, looked_at): (TaskId, u64, i64),
        partition: u32,
        ticket: u64,
        rows: Vec<Arc<Row>>,
    ) {
        let (there, back) = (self.rng.delay(500), self.rng.delay(500));
        self.after(there, move |world| {
            let mut count = rows.len();
            let mut told = Mail::Published(partition, ticket);
            let log = &mut world.broker.logs[partition as usize];
            let cuts = log.cuts;
            let in_sequence = *log.producers.entry(line).or_insert(cuts) == cuts;
            if !world.broker.up {
                world.hit(Hit::KafkaDown);
                (count, told) = (0, Mail::Cut(line));
            } else if !in_sequence {
                world.hit(Hit::OutOfSequence);
                (count, told) = (0, Mail::Cut(line));
            } else if !world.calm && world.rng.one_in(150) {
                told = Mail::Cut(line);
                if world.rng.one_in(2) && count > 1 {
                    world.hit(Hit::PublishPartly);
                    count = world.rng.below(count);
                } else {
                    world.hit(Hit::PublishLost);
                }
            }
            let log = &mut world.broker.logs[partition as usize];
            if count > 0 && log.damaged && looked_at <= log.lost_at {
                log.blind = true;
                world.coverage.hit(Hit::BlindSpot);
            }
            for row in rows.into_iter().take(count) {
                world.oracle.published(&row, log.damaged);
                log.records.push(row);
            }
            let back = if matches!(told, Mail::Cut(_)) {
                back * 4
            } else {
                back
            };
            world.after(back, move |world| world.send(task, told));
        });
    }

    /// The broker loses records at the end of a partition, or all of them.
    pub fn lose_records(&mut self) {
        let partition = self.rng.below(self.broker.logs.len());
        let anew = self.rng.one_in(3);
        let count = self.broker.logs[partition].records.len();
        if count == 0 {
            return;
        }
        let keep = if anew {
            0
        } else {
            count - self.rng.below(count.min(30)) - 1
        };
        self.hit(if anew { Hit::Recreated } else { Hit::Truncated });
        let log = &mut self.broker.logs[partition];
        log.records.truncate(keep);
        log.damaged = true;
        log.lost_at = self.now;
        if anew {
            log.producers.clear();
        } else {
            log.cuts += 1;
        }
        self.oracle.topic_lost(partition as u32);
    }

    /// Hands an inbox to another task; the one before does not know yet.
    pub fn hand_inbox(&mut self, number: usize, owner: Option<TaskId>) {
        let generation = self.fresh();
        let inbox = &mut self.broker.inboxes[number];
        if inbox.owner.is_some() && owner.is_some() && inbox.owner != owner {
            self.coverage.hit(Hit::InboxRebalanced);
        }
        inbox.owner = owner;
        inbox.generation = generation;
        inbox.position = inbox.committed;
    }

    /// Delivers an inbox's next messages, again and again.
    pub fn deliver_inbox(&mut self, number: usize) {
        let pause = self.rng.delay(20_000);
        self.after(pause, move |world| {
            let inbox = &mut world.broker.inboxes[number];
            if let Some(owner) = inbox.owner
                && world.broker.up
                && inbox.position < inbox.messages.len()
            {
                let from = inbox.position;
                let until = inbox.messages.len().min(from + 20);
                inbox.position = until;
                let messages = inbox.messages[from..until].to_vec();
                let generation = inbox.generation;
                world.send(
                    owner,
                    Mail::Messages {
                        number,
                        generation,
                        from,
                        messages,
                    },
                );
            }
            world.deliver_inbox(number);
        });
    }

    /// Commits an inbox's offset, if it is the sender's still.
    pub fn commit_inbox(&mut self, number: usize, generation: u64, next: usize) -> bool {
        let inbox = &mut self.broker.inboxes[number];
        if !self.broker.up {
            return false;
        }
        if inbox.generation != generation {
            self.coverage.hit(Hit::InboxFenced);
            return false;
        }
        for index in inbox.committed..next {
            let message = &inbox.messages[index];
            let dead = self.broker.dead.get(&(number, index));
            let recorded = message
                .identity
                .as_ref()
                .is_some_and(|who| self.oracle.has(who));
            assert!(
                recorded || dead.is_some(),
                "a committed message is in the ledger or among the dead letters"
            );
            let mistaken = message.identity.is_some()
                && dead.is_some_and(|code| *code != "idempotency_conflict");
            assert!(!mistaken, "a good message became a dead letter: {dead:?}");
        }
        inbox.committed = next;
        true
    }
}
