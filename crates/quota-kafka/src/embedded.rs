//! A Kafka broker inside this process.

use std::sync::mpsc;
use std::thread;

use rdkafka::error::KafkaResult;
use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;

use crate::client::{Settings, check_topic_name};
use crate::error::{BrokerError, TopicError};
use crate::topic::TopicSpec;

/// The only broker's id in the cluster.
const BROKER: i32 = 1;

/// librdkafka's mock cluster: one broker on a local port, for `dev` and for tests.
///
/// It speaks the protocol of producers, consumers and groups, so the same code runs against it.
/// It keeps records in memory only, and of each partition at most the last 100,000 records or
/// 5 MiB. It does not hide aborted transactions. It has no admin API: [`crate::topic::ensure`]
/// must not be called on it; its owner creates topics with [`EmbeddedBroker::create_topic`].
/// Clients take their settings from [`EmbeddedBroker::settings`].
///
/// It ends when this value is dropped; clients that still run then find their broker away.
#[derive(Debug)]
pub struct EmbeddedBroker {
    brokers: String,
    orders: mpsc::Sender<Order>,
}

/// What the thread that owns the cluster is asked to do; the library's handle cannot change threads.
enum Order {
    Create(TopicSpec, mpsc::Sender<KafkaResult<()>>),
    Reachable(bool, mpsc::Sender<KafkaResult<()>>),
}

impl EmbeddedBroker {
    /// Starts the broker on a free port of 127.0.0.1 and creates `topics`. Blocks for some
    /// milliseconds.
    ///
    /// # Errors
    /// [`TopicError::Broker`] where the library cannot make the cluster or a topic.
    pub fn start(topics: &[TopicSpec]) -> Result<Self, TopicError> {
        let (orders, inbox) = mpsc::channel();
        let (started, outcome) = mpsc::channel();
        thread::Builder::new()
            .name("embedded-kafka".into())
            .spawn(move || own_cluster(&started, &inbox))
            .map_err(|error| failed("starting the embedded broker", error.to_string()))?;
        let brokers = outcome
            .recv()
            .map_err(|_| failed("starting the embedded broker", "its thread died"))?
            .map_err(|source| TopicError::Broker {
                doing: "starting the embedded broker",
                source: source.into(),
            })?;
        let broker = Self { brokers, orders };
        for topic in topics {
            broker.create_topic(topic)?;
        }
        Ok(broker)
    }

    /// The broker's address, `host:port`.
    pub fn brokers(&self) -> &str {
        &self.brokers
    }

    /// Settings for a client of this broker.
    pub fn settings(&self, client_id: impl Into<String>) -> Settings {
        Settings::new(&self.brokers, client_id).embedded()
    }

    /// Creates a topic; retention is not this broker's to choose.
    ///
    /// # Errors
    /// [`TopicError::Broker`] where it exists already or its name is illegal.
    pub fn create_topic(&self, topic: &TopicSpec) -> Result<(), TopicError> {
        let doing = "creating a topic in the embedded broker";
        check_topic_name(&topic.name).map_err(|source| TopicError::Broker { doing, source })?;
        self.order(doing, |reply| Order::Create(topic.clone(), reply))
    }

    /// Cuts every client off, or lets them in again: for tests of an outage. Records stay.
    ///
    /// # Errors
    /// [`TopicError::Broker`] where the library refuses.
    pub fn set_reachable(&self, reachable: bool) -> Result<(), TopicError> {
        self.order("cutting the embedded broker", |reply| {
            Order::Reachable(reachable, reply)
        })
    }

    fn order(
        &self,
        doing: &'static str,
        order: impl FnOnce(mpsc::Sender<KafkaResult<()>>) -> Order,
    ) -> Result<(), TopicError> {
        let (reply, outcome) = mpsc::channel();
        let sent = self.orders.send(order(reply));
        sent.map_err(|_| failed(doing, "the embedded broker has ended"))?;
        let outcome = outcome
            .recv()
            .map_err(|_| failed(doing, "the embedded broker has ended"))?;
        outcome.map_err(|error| TopicError::Broker {
            doing,
            source: error.into(),
        })
    }
}

fn failed(doing: &'static str, reason: impl Into<String>) -> TopicError {
    TopicError::Broker {
        doing,
        source: BrokerError::new(reason),
    }
}

/// Owns the cluster until all senders of orders are gone.
fn own_cluster(started: &mpsc::Sender<KafkaResult<String>>, inbox: &mpsc::Receiver<Order>) {
    let cluster = match MockCluster::new(1) {
        Ok(cluster) => cluster,
        Err(error) => {
            let _ = started.send(Err(error));
            return;
        }
    };
    let _ = started.send(Ok(cluster.bootstrap_servers()));
    for order in inbox {
        let (reply, outcome) = carry_out(&cluster, order);
        let _ = reply.send(outcome);
    }
}

fn carry_out(
    cluster: &MockCluster<'static, DefaultProducerContext>,
    order: Order,
) -> (mpsc::Sender<KafkaResult<()>>, KafkaResult<()>) {
    match order {
        Order::Create(topic, reply) => (
            reply,
            cluster.create_topic(&topic.name, topic.partitions, 1),
        ),
        Order::Reachable(true, reply) => (reply, cluster.broker_up(BROKER)),
        Order::Reachable(false, reply) => (reply, cluster.broker_down(BROKER)),
    }
}
