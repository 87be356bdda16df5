//! Between the reading thread and the application: a bounded buffer, and the assignment.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rdkafka::error::KafkaResult;
use rdkafka::{Offset, TopicPartitionList};
use tokio::sync::Notify;
use tokio::time::timeout_at;

use crate::client::Link;
use crate::error::BrokerError;
use crate::record::Record;

/// The buffer's bounds. Both are generous for a moment's work of the application.
const MAX_RECORDS: usize = 16_384;
const MAX_BYTES: usize = 16 << 20;

/// Where a partition is taken up when it is assigned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TakeUp {
    /// Assigned by hand, with the offsets already in the list; rebalances do not occur.
    ByHand,
    /// At its end; after a rebalance that left it here, where it was left.
    End,
    /// At the group's committed offset.
    Committed,
}

/// What the reading thread and the application's side share.
pub(crate) struct Shared {
    state: Mutex<State>,
    readable: Notify,
    writable: Condvar,
    stop: AtomicBool,
    pub(crate) link: Link,
    take_up: TakeUp,
}

#[derive(Default)]
struct State {
    records: VecDeque<Record>,
    bytes: usize,
    /// Counts rebalances.
    epoch: u64,
    /// The epoch that the application has seen.
    seen: u64,
    assigned: Vec<Place>,
    /// Partitions of the assignment before this one.
    left: Vec<Place>,
    subscribe: Option<Vec<String>>,
    failed: Option<BrokerError>,
    ended: bool,
}

/// A partition and the offset of the next record that the application has not been given.
#[derive(Clone)]
struct Place {
    topic: Arc<str>,
    partition: i32,
    next: Option<i64>,
}

impl Shared {
    pub(crate) fn new(link: Link, take_up: TakeUp) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::default(),
            readable: Notify::new(),
            writable: Condvar::new(),
            stop: AtomicBool::new(false),
            link,
            take_up,
        })
    }

    /// A poisoned lock is used all the same: no invariant spans a panic here.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Up to `max` records, as soon as there is one, or none once `wait` is over or the
    /// assignment has changed. Cancelling it loses nothing.
    pub(crate) async fn next_batch(
        &self,
        max: usize,
        wait: Duration,
    ) -> Result<Vec<Record>, BrokerError> {
        let deadline = tokio::time::Instant::now() + wait;
        loop {
            let readable = self.readable.notified();
            if let Some(batch) = self.take(max)? {
                return Ok(batch);
            }
            if timeout_at(deadline, readable).await.is_err() {
                return Ok(self.take(max)?.unwrap_or_default());
            }
        }
    }

    fn take(&self, max: usize) -> Result<Option<Vec<Record>>, BrokerError> {
        let mut state = self.lock();
        let changed = state.seen != state.epoch;
        state.seen = state.epoch;
        if state.records.is_empty() {
            return match &state.failed {
                Some(reason) => Err(reason.clone()),
                None if state.ended => Err(BrokerError::new("it was closed")),
                None => Ok(changed.then(Vec::new)),
            };
        }
        let count = state.records.len().min(max.max(1));
        let batch: Vec<Record> = state.records.drain(..count).collect();
        state.bytes -= batch
            .iter()
            .map(Record::size)
            .sum::<usize>()
            .min(state.bytes);
        for record in &batch {
            state.delivered(record);
        }
        if !state.records.is_empty() {
            self.readable.notify_one();
        }
        drop(state);
        self.writable.notify_one();
        Ok(Some(batch))
    }

    pub(crate) fn assignment(&self) -> Vec<(Arc<str>, i32)> {
        let state = self.lock();
        state
            .assigned
            .iter()
            .map(|place| (place.topic.clone(), place.partition))
            .collect()
    }

    pub(crate) fn epoch(&self) -> u64 {
        self.lock().epoch
    }

    pub(crate) fn subscribe(&self, topics: Vec<String>) {
        self.lock().subscribe = Some(topics);
    }

    pub(crate) fn stop(&self) {
        self.stop.store(true, Ordering::Release);
        self.writable.notify_one();
    }

    pub(crate) fn stopping(&self) -> bool {
        self.stop.load(Ordering::Acquire)
    }

    pub(crate) fn push(&self, records: &mut Vec<Record>) {
        if records.is_empty() {
            return;
        }
        let mut state = self.lock();
        state.bytes += records.iter().map(Record::size).sum::<usize>();
        state.records.extend(records.drain(..));
        drop(state);
        self.readable.notify_one();
    }

    /// Waits for room in the buffer; false if there was none for the whole time.
    pub(crate) fn wait_for_room(&self, limit: Duration) -> bool {
        let full = |state: &mut State| state.is_full() && !self.stopping();
        let waited = self.writable.wait_timeout_while(self.lock(), limit, full);
        let (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        !state.is_full()
    }

    /// Whether the thread has to go on: nobody told it to stop, and nothing is past repair.
    pub(crate) fn goes_on(&self) -> bool {
        !self.stopping() && self.lock().failed.is_none()
    }

    /// The topics to subscribe to now, if that was asked for.
    pub(crate) fn take_subscription(&self) -> Option<Vec<String>> {
        self.lock().subscribe.take()
    }

    /// The thread is at its end.
    pub(crate) fn end(&self) {
        self.lock().ended = true;
        self.readable.notify_one();
    }

    pub(crate) fn fail(&self, reason: BrokerError) {
        self.lock().failed = Some(reason);
        self.readable.notify_one();
    }

    /// A new assignment: fills in the offsets to begin at.
    pub(crate) fn assign(&self, list: &mut TopicPartitionList) -> KafkaResult<()> {
        let mut state = self.lock();
        let mut assigned = Vec::with_capacity(list.count());
        for mut element in list.elements() {
            let (topic, partition) = (element.topic(), element.partition());
            let here = |place: &&Place| &*place.topic == topic && place.partition == partition;
            let before = state.left.iter().find(here);
            let next = before.and_then(|place| place.next);
            let topic = before.map_or_else(|| topic.into(), |place| place.topic.clone());
            if self.take_up == TakeUp::End {
                element.set_offset(next.map_or(Offset::End, Offset::Offset))?;
            }
            assigned.push(Place {
                topic,
                partition,
                next,
            });
        }
        assigned.sort_by(|a, b| (&a.topic, a.partition).cmp(&(&b.topic, b.partition)));
        state.assigned = assigned;
        state.left.clear();
        state.epoch += 1;
        drop(state);
        self.readable.notify_one();
        Ok(())
    }

    /// All partitions are taken away; what is buffered of them goes too.
    ///
    /// If they are lost, which is the client's own conclusion when it has not reached the group
    /// for a session's time, the application goes on seeing its last assignment: most likely the
    /// broker is away for everyone, and it may have other work to do for these partitions.
    pub(crate) fn revoke(&self, lost: bool) {
        let mut state = self.lock();
        state.left = if lost {
            state.assigned.clone()
        } else {
            std::mem::take(&mut state.assigned)
        };
        state.records.clear();
        state.bytes = 0;
        state.epoch += 1;
        drop(state);
        self.readable.notify_one();
        self.writable.notify_one();
    }
}

impl State {
    fn is_full(&self) -> bool {
        self.records.len() >= MAX_RECORDS || self.bytes >= MAX_BYTES
    }

    fn delivered(&mut self, record: &Record) {
        let here =
            |place: &&mut Place| place.partition == record.partition && place.topic == record.topic;
        if let Some(place) = self.assigned.iter_mut().find(here) {
            place.next = Some(record.offset + 1);
        }
    }
}
