//! Sends batches in order and waits until every record is acknowledged.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{DeliveryResult, Message};
use rdkafka::producer::{BaseRecord, ProducerContext, ThreadedProducer};
use rdkafka::{ClientContext, Statistics};
use tokio::sync::{Notify, watch};
use tokio::time::timeout;

use crate::client::{Link, Settings, forward_log};
use crate::error::{BrokerError, PublishError};
use crate::record::Outgoing;

/// While the queue is full, look again at least this often.
const QUEUE_FULL_LOOK: Duration = Duration::from_millis(100);

/// How a publisher gathers records into requests.
#[derive(Debug, Clone)]
pub struct PublisherOptions {
    /// How long a record may wait for company. With many partitions a few milliseconds give
    /// lower latencies under load than 0, since each partition's request costs a round trip.
    pub linger: Duration,
    /// Whether requests are compressed (lz4).
    pub compress: bool,
}

impl Default for PublisherOptions {
    fn default() -> Self {
        Self {
            linger: Duration::from_millis(5),
            compress: true,
        }
    }
}

/// An idempotent producer: acks from all in-sync replicas, no message timeout, no gap.
///
/// Within one publisher a partition's records land in the order sent, once each, or the line is
/// cut and nothing more goes out. Across publishers there is no such memory: who reopens starts
/// from what the topic holds, and readers drop what they have seen.
///
/// Dropping it never blocks: what is still queued is thrown away, on a thread of its own.
pub struct Publisher {
    producer: Option<ThreadedProducer<Deliveries>>,
    link: Arc<Link>,
    delivered: Arc<Notify>,
    cut: watch::Receiver<Option<Cut>>,
}

/// The first failure of a queued record: the end of this publisher.
#[derive(Debug, Clone)]
struct Cut {
    topic: String,
    partition: i32,
    source: BrokerError,
}

impl From<Cut> for PublishError {
    fn from(cut: Cut) -> Self {
        Self::Cut {
            topic: cut.topic,
            partition: cut.partition,
            source: cut.source,
        }
    }
}

impl Publisher {
    /// Makes the producer. Does not connect: a broker that is away shows in [`Publisher::send`]
    /// not returning.
    ///
    /// # Errors
    /// [`PublishError::Open`] where the library refuses the settings.
    pub fn open(settings: &Settings, options: &PublisherOptions) -> Result<Self, PublishError> {
        let link = Arc::new(Link::new(settings, "publisher"));
        let delivered = Arc::new(Notify::new());
        let (cut_sender, cut) = watch::channel(None);
        let context = Deliveries {
            link: link.clone(),
            delivered: delivered.clone(),
            cut: cut_sender,
        };
        let producer = settings
            .client_config()
            .set("enable.idempotence", "true")
            // Stop at the first record that fails for good, instead of going on after a gap.
            .set("enable.gapless.guarantee", "true")
            .set("acks", "all")
            // Never give up by itself: a record given up on is a gap.
            .set("message.timeout.ms", "0")
            .set("request.timeout.ms", "8000")
            .set("retry.backoff.ms", "50")
            .set("retry.backoff.max.ms", "1000")
            .set("linger.ms", options.linger.as_millis().to_string())
            .set(
                "compression.type",
                if options.compress { "lz4" } else { "none" },
            )
            .set("queue.buffering.max.messages", "100000")
            .set("queue.buffering.max.kbytes", "16384")
            .create_with_context(context)
            .map_err(|error| PublishError::Open(error.into()))?;
        Ok(Self {
            producer: Some(producer),
            link,
            delivered,
            cut,
        })
    }

    /// Queues the records in order and waits until all are acknowledged; while the broker is
    /// away that is for ever, so put a time limit around it.
    ///
    /// Cancelling it leaves what was queued on its way. A caller that gives up drops the whole
    /// publisher, opens another, and asks the topic what it holds.
    ///
    /// # Errors
    /// [`PublishError::Refused`] for a record that cannot be sent at all, [`PublishError::Cut`]
    /// once any record of this publisher failed (see [`PublishError::is_fatal`]).
    pub async fn send(&self, records: Vec<Outgoing<'_>>) -> Result<(), PublishError> {
        let flight = Arc::new(Flight::default());
        let mut refused = None;
        for (index, record) in records.into_iter().enumerate() {
            if let Err(error) = self.queue(record, &flight).await {
                refused = Some(PublishError::Refused {
                    index,
                    too_large: error.rdkafka_error_code()
                        == Some(RDKafkaErrorCode::MessageSizeTooLarge),
                    source: error.into(),
                });
                break;
            }
        }
        // The count starts at one, for the queueing itself.
        flight.landed();
        let mut cut = self.cut.clone();
        tokio::select! {
            biased;
            state = cut.wait_for(Option::is_some) => {
                let reason = state.ok().and_then(|state| state.clone());
                return Err(reason.map_or_else(gone, PublishError::from));
            }
            () = flight.all_landed() => {}
        }
        refused.map_or(Ok(()), Err)
    }

    /// Queues one record, waiting for room.
    async fn queue(&self, record: Outgoing<'_>, flight: &Arc<Flight>) -> Result<(), KafkaError> {
        let Some(producer) = &self.producer else {
            return Err(KafkaError::Canceled);
        };
        let mut record = BaseRecord {
            topic: record.topic,
            partition: record.partition,
            payload: record.payload,
            key: record.key,
            timestamp: None,
            headers: record.headers.map(crate::record::Headers::into_inner),
            delivery_opaque: flight.clone(),
        };
        flight.taken_off();
        loop {
            if self.cut.borrow().is_some() {
                flight.landed();
                return Ok(());
            }
            match producer.send(record) {
                Ok(()) => return Ok(()),
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), back)) => {
                    record = back;
                    let _ = timeout(QUEUE_FULL_LOOK, self.delivered.notified()).await;
                }
                Err((error, _)) => {
                    flight.landed();
                    return Err(error);
                }
            }
        }
    }

    /// Whether the broker acknowledged something since the last report that all brokers are
    /// down. Best effort, for status pages.
    pub fn is_connected(&self) -> bool {
        self.link.is_up()
    }
}

fn gone() -> PublishError {
    let source = BrokerError::new("the producer is gone");
    PublishError::Cut {
        topic: String::new(),
        partition: -1,
        source,
    }
}

impl Drop for Publisher {
    fn drop(&mut self) {
        // Its destructor purges the queues, then waits for the reports of what it purged.
        let producer = self.producer.take();
        let _ = thread::Builder::new()
            .name("kafka-drop".into())
            .spawn(move || drop(producer));
    }
}

impl fmt::Debug for Publisher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Publisher")
            .field("cut", &*self.cut.borrow())
            .finish_non_exhaustive()
    }
}

/// One call of `send`: how many of its records are still on their way.
#[derive(Debug)]
struct Flight {
    pending: AtomicUsize,
    empty: Notify,
}

impl Default for Flight {
    fn default() -> Self {
        Self {
            pending: AtomicUsize::new(1),
            empty: Notify::new(),
        }
    }
}

impl Flight {
    fn taken_off(&self) {
        self.pending.fetch_add(1, Ordering::Relaxed);
    }

    fn landed(&self) {
        if self.pending.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.empty.notify_one();
        }
    }

    async fn all_landed(&self) {
        while self.pending.load(Ordering::Acquire) > 0 {
            self.empty.notified().await;
        }
    }
}

/// Receives the library's delivery reports, on its polling thread.
struct Deliveries {
    link: Arc<Link>,
    delivered: Arc<Notify>,
    cut: watch::Sender<Option<Cut>>,
}

impl Deliveries {
    fn cut(&self, topic: &str, partition: i32, source: BrokerError) {
        self.cut.send_if_modified(|state| {
            let first = state.is_none();
            if first {
                *state = Some(Cut {
                    topic: topic.to_owned(),
                    partition,
                    source,
                });
            }
            first
        });
    }
}

impl ClientContext for Deliveries {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, line: &str) {
        forward_log(level, facility, line);
    }

    fn stats(&self, _: Statistics) {}

    fn error(&self, error: KafkaError, reason: &str) {
        self.link.note(&error, reason);
        if error.rdkafka_error_code() == Some(RDKafkaErrorCode::Fatal) {
            self.cut("", -1, BrokerError::new(reason));
        }
    }
}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = Arc<Flight>;

    fn delivery(&self, result: &DeliveryResult<'_>, flight: Arc<Flight>) {
        match result {
            Ok(_) => self.link.set_up(),
            Err((error, message)) => {
                self.cut(message.topic(), message.partition(), error.clone().into());
            }
        }
        flight.landed();
        self.delivered.notify_one();
    }
}
