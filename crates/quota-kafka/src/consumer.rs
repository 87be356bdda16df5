//! The reading thread that follower and group member have in common.
//!
//! One thread per reader polls the library, whatever the application does, so that a slow
//! application neither leaves its group nor holds up a rebalance. Records wait in a bounded
//! buffer. While that is full the thread rests; if it stays full the partitions are paused (which
//! throws away what the library had fetched ahead, so not at once) and polling goes on for
//! rebalances alone.
//!
//! `poll` answering nothing means nothing: since rdkafka 0.36 a rebalance looks like that too.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rdkafka::client::ClientContext;
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::message::Message;
use rdkafka::types::RDKafkaRespErr;
use rdkafka::util::Timeout;
use rdkafka::{Offset, Statistics, TopicPartitionList};
use tokio::sync::{Notify, oneshot};
use tokio::time::timeout_at;

use crate::client::{Link, forward_log};
use crate::error::BrokerError;
use crate::record::Record;

/// The buffer's bounds. Both are generous for a moment's work of the application.
const MAX_RECORDS: usize = 16_384;
const MAX_BYTES: usize = 16 << 20;
/// Records that are taken from the library before they are handed over.
const HANDOVER: usize = 512;
/// How soon the thread notices that it should end.
const POLL: Duration = Duration::from_millis(100);
/// How long the buffer may be full before the partitions are paused.
const FULL_LIMIT: Duration = Duration::from_secs(2);
/// How often a reader without a connection asks whether it is back, and how long it waits.
const PROBE: Duration = Duration::from_secs(1);

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

    fn push(&self, records: &mut Vec<Record>) {
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
    fn wait_for_room(&self, limit: Duration) -> bool {
        let full = |state: &mut State| state.is_full() && !self.stopping();
        let waited = self.writable.wait_timeout_while(self.lock(), limit, full);
        let (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        !state.is_full()
    }

    fn fail(&self, reason: BrokerError) {
        self.lock().failed = Some(reason);
        self.readable.notify_one();
    }

    /// A new assignment: fills in the offsets to begin at.
    fn assign(&self, list: &mut TopicPartitionList) -> KafkaResult<()> {
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
    fn revoke(&self) {
        let mut state = self.lock();
        state.left = std::mem::take(&mut state.assigned);
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

/// The library's side: rebalances, errors and logs, all called from within `poll`.
pub(crate) struct Context(pub(crate) Arc<Shared>);

impl ClientContext for Context {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, line: &str) {
        forward_log(level, facility, line);
    }

    fn stats(&self, _: Statistics) {}

    fn error(&self, error: KafkaError, reason: &str) {
        self.0.link.note(&error, reason);
    }
}

impl ConsumerContext for Context {
    /// Offsets go into the list before the single `assign`: seeking afterwards is an error in
    /// the library (librdkafka #3959), and assigning twice resets (rust-rdkafka #636).
    fn rebalance(
        &self,
        consumer: &BaseConsumer<Self>,
        event: RDKafkaRespErr,
        list: &mut TopicPartitionList,
    ) {
        let outcome = if event == RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS {
            self.0.assign(list).and_then(|()| consumer.assign(list))
        } else {
            self.0.revoke();
            consumer.unassign()
        };
        if let Err(error) = outcome {
            self.0.fail(error.into());
        }
    }

    fn main_queue_min_poll_interval(&self) -> Timeout {
        Timeout::After(POLL)
    }
}

/// Makes the consumer and starts its thread, which begins with `begin`.
///
/// The receiver hears when the consumer is gone. Nobody else may hold the consumer for long: its
/// destructor leaves the group, and takes its time.
pub(crate) fn spawn(
    config: &ClientConfig,
    shared: &Arc<Shared>,
    begin: impl FnOnce(&BaseConsumer<Context>) -> Result<(), BrokerError> + Send + 'static,
) -> Result<(Arc<BaseConsumer<Context>>, oneshot::Receiver<()>), BrokerError> {
    let consumer: BaseConsumer<Context> = config.create_with_context(Context(shared.clone()))?;
    let consumer = Arc::new(consumer);
    let (gone, ended) = oneshot::channel();
    let (mine, shared) = (consumer.clone(), shared.clone());
    thread::Builder::new()
        .name("kafka-reader".into())
        .spawn(move || {
            if let Err(error) = begin(&mine) {
                shared.fail(error);
            } else {
                Reader::new(&mine, &shared).run();
            }
            shared.lock().ended = true;
            shared.readable.notify_one();
            drop(mine);
            let _ = gone.send(());
        })
        .map_err(|error| BrokerError::new(error.to_string()))?;
    Ok((consumer, ended))
}

/// The loop of the reading thread.
struct Reader<'a> {
    consumer: &'a BaseConsumer<Context>,
    shared: &'a Shared,
    /// Records that are not in the buffer yet.
    hand: Vec<Record>,
    /// The epoch that they belong to.
    epoch: u64,
    topics: Vec<Arc<str>>,
    paused: bool,
    probed: Instant,
}

impl<'a> Reader<'a> {
    fn new(consumer: &'a BaseConsumer<Context>, shared: &'a Shared) -> Self {
        let hand = Vec::with_capacity(HANDOVER);
        let probed = Instant::now();
        Self {
            consumer,
            shared,
            hand,
            epoch: 0,
            topics: Vec::new(),
            paused: false,
            probed,
        }
    }

    fn run(&mut self) {
        while !self.shared.stopping() && self.shared.lock().failed.is_none() {
            self.subscribe();
            let limit = if self.paused {
                Duration::ZERO
            } else {
                FULL_LIMIT
            };
            let room = self.shared.wait_for_room(limit);
            if room == self.paused {
                self.pause(!room);
            }
            self.gather();
            self.shared.push(&mut self.hand);
            self.probe();
        }
    }

    /// Takes what the library has, waiting for the first record only.
    fn gather(&mut self) {
        let mut wait = POLL;
        while self.hand.len() < HANDOVER {
            let polled = self.consumer.poll(wait);
            wait = Duration::ZERO;
            let epoch = self.shared.epoch();
            if epoch != self.epoch {
                // The rebalance ran inside this poll: what is in hand was read before it.
                self.epoch = epoch;
                self.hand.clear();
            }
            match polled {
                Some(Ok(message)) => {
                    let topic = self.topic(message.topic());
                    self.hand.push(Record::read(topic, &message));
                }
                Some(Err(error)) => self.note(error),
                None => break,
            }
        }
        if !self.hand.is_empty() {
            self.shared.link.set_up();
        }
    }

    fn topic(&mut self, name: &str) -> Arc<str> {
        if let Some(topic) = self.topics.iter().find(|topic| &***topic == name) {
            return topic.clone();
        }
        let topic: Arc<str> = name.into();
        self.topics.push(topic.clone());
        topic
    }

    fn note(&self, error: KafkaError) {
        if let KafkaError::MessageConsumptionFatal(code) = error {
            self.shared.fail(code.into());
        }
        // The others were told to the context already, and the library tries again by itself.
    }

    fn subscribe(&self) {
        let Some(topics) = self.shared.lock().subscribe.take() else {
            return;
        };
        let topics: Vec<&str> = topics.iter().map(String::as_str).collect();
        if let Err(error) = self.consumer.subscribe(&topics) {
            self.shared.fail(error.into());
        }
    }

    fn pause(&mut self, pause: bool) {
        let changed = self.consumer.assignment().and_then(|list| {
            if pause {
                self.consumer.pause(&list)
            } else {
                self.consumer.resume(&list)
            }
        });
        match changed {
            Ok(()) => self.paused = pause,
            Err(error) => tracing::warn!(%error, pause, "pausing kafka partitions"),
        }
    }

    /// Without a connection, asks for the cluster's metadata now and then: the library tells
    /// when all brokers are gone, but not when one is back.
    fn probe(&mut self) {
        if self.shared.link.is_up() || self.probed.elapsed() < PROBE {
            return;
        }
        match self.consumer.client().fetch_metadata(None, PROBE) {
            Ok(_) => self.shared.link.set_up(),
            Err(error) => self.shared.link.set_down(&error.to_string()),
        }
        self.probed = Instant::now();
    }
}
