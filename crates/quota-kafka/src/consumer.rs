//! The reading thread that follower and group member have in common.
//!
//! One thread per reader polls the library, whatever the application does, so that a slow
//! application neither leaves its group nor holds up a rebalance. Records wait in a bounded
//! buffer. While that is full the thread rests; if it stays full the partitions are paused (which
//! throws away what the library had fetched ahead, so not at once) and polling goes on for
//! rebalances alone.
//!
//! `poll` answering nothing means nothing: since rdkafka 0.36 a rebalance looks like that too.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use rdkafka::client::ClientContext;
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::KafkaError;
use rdkafka::message::Message;
use rdkafka::types::RDKafkaRespErr;
use rdkafka::util::Timeout;
use rdkafka::{Statistics, TopicPartitionList};
use tokio::sync::oneshot;

use crate::buffer::Shared;
use crate::client::forward_log;
use crate::error::BrokerError;
use crate::record::Record;

/// Records that are taken from the library before they are handed over.
const HANDOVER: usize = 512;
/// How soon the thread notices that it should end.
const POLL: Duration = Duration::from_millis(100);
/// How long the buffer may be full before the partitions are paused.
const FULL_LIMIT: Duration = Duration::from_secs(2);
/// How often a reader without a connection asks whether it is back, and how long it waits.
const PROBE: Duration = Duration::from_secs(1);

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
    /// the library, and assigning twice resets it.
    fn rebalance(
        &self,
        consumer: &BaseConsumer<Self>,
        event: RDKafkaRespErr,
        list: &mut TopicPartitionList,
    ) {
        let outcome = if event == RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS {
            self.0.assign(list).and_then(|()| consumer.assign(list))
        } else {
            self.0.revoke(consumer.assignment_lost());
            // A pause outlives the assignment in the library, and would hold in the next one.
            let resumed = consumer
                .assignment()
                .and_then(|list| consumer.resume(&list));
            resumed.and_then(|()| consumer.unassign())
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
            shared.end();
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
        while self.shared.goes_on() {
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
                self.paused = false;
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
        let Some(topics) = self.shared.take_subscription() else {
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
