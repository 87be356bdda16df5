//! What all clients share: settings, logging, and whether the broker is reachable.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rdkafka::client::ClientContext;
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::consumer::ConsumerContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};

use crate::error::BrokerError;

/// The longest that one administrative call (ensure, tails, commit) may take.
pub(crate) const CALL_LIMIT: Duration = Duration::from_secs(10);

/// Which brokers to talk to, and under what name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    brokers: String,
    client_id: String,
    embedded: bool,
}

impl Settings {
    /// Settings for a real cluster: `brokers` is `host:port[,host:port]`, `client_id` is what the
    /// broker's logs and metrics call this node.
    pub fn new(brokers: impl Into<String>, client_id: impl Into<String>) -> Self {
        Self {
            brokers: brokers.into(),
            client_id: client_id.into(),
            embedded: false,
        }
    }

    /// The same for a client of [`crate::EmbeddedBroker`], which waits through whatever it is
    /// told to wait at most, where a real broker answers as soon as it can.
    pub(crate) fn embedded(mut self) -> Self {
        self.embedded = true;
        self
    }

    /// The bootstrap brokers.
    pub fn brokers(&self) -> &str {
        &self.brokers
    }

    /// The client id.
    pub fn client_id(&self) -> &str {
        &self.client_id
    }

    /// What producers, consumers and the admin client have in common.
    pub(crate) fn client_config(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config
            .set("bootstrap.servers", &self.brokers)
            .set("client.id", &self.client_id)
            .set("allow.auto.create.topics", "false")
            // A broker that went silent is noticed in seconds, and met again soon after it is back.
            .set("socket.timeout.ms", "10000")
            .set("socket.keepalive.enable", "true")
            .set("socket.nagle.disable", "true")
            .set("reconnect.backoff.ms", "50")
            .set("reconnect.backoff.max.ms", "1000")
            // How long a topic may be unknown to a broker before it counts as missing.
            .set("topic.metadata.propagation.max.ms", "10000")
            .set("log.connection.close", "false")
            .set_log_level(RDKafkaLogLevel::Warning);
        config
    }

    /// What the two kinds of readers and `tails` have in common.
    pub(crate) fn consumer_config(&self, group: &str) -> ClientConfig {
        let (fetch_wait, session) = if self.embedded {
            ("10", "3000")
        } else {
            ("500", "10000")
        };
        let mut config = self.client_config();
        config
            .set("group.id", group)
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            // A member that died is missed after this long; one that closes says so.
            .set("session.timeout.ms", session)
            .set("heartbeat.interval.ms", "1000")
            .set("fetch.wait.max.ms", fetch_wait)
            .set("fetch.error.backoff.ms", "100")
            // How long a fetch rests after the local queue was full; the default is a second.
            .set("fetch.queue.backoff.ms", "10")
            .set("queued.min.messages", "20000")
            .set("queued.max.messages.kbytes", "8192")
            .set("topic.metadata.refresh.interval.ms", "10000");
        config
    }
}

/// Kafka's own rule for topic names; the library panics on some that break it.
pub(crate) fn check_topic_name(name: &str) -> Result<(), BrokerError> {
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    let dots = name == "." || name == "..";
    if name.is_empty() || name.len() > 249 || dots || !name.bytes().all(legal) {
        return Err(BrokerError::new(format!("illegal topic name {name:?}")));
    }
    Ok(())
}

/// Whether a client reaches its broker, as far as it knows; each change is logged once.
#[derive(Debug)]
pub(crate) struct Link {
    client_id: String,
    role: &'static str,
    up: AtomicBool,
    reported_down: AtomicBool,
}

impl Link {
    pub(crate) fn new(settings: &Settings, role: &'static str) -> Self {
        Self {
            client_id: settings.client_id.clone(),
            role,
            up: AtomicBool::new(false),
            reported_down: AtomicBool::new(false),
        }
    }

    pub(crate) fn is_up(&self) -> bool {
        self.up.load(Ordering::Acquire)
    }

    pub(crate) fn set_up(&self) {
        if self.up.load(Ordering::Relaxed) {
            return;
        }
        self.up.store(true, Ordering::Release);
        if self.reported_down.swap(false, Ordering::Relaxed) {
            tracing::info!(client = %self.client_id, role = self.role, "kafka is back");
        }
    }

    pub(crate) fn set_down(&self, reason: &str) {
        self.up.store(false, Ordering::Release);
        if !self.reported_down.swap(true, Ordering::Relaxed) {
            tracing::warn!(client = %self.client_id, role = self.role, reason, "kafka is away");
        }
    }

    /// Takes note of an error event of the library.
    pub(crate) fn note(&self, error: &KafkaError, reason: &str) {
        match error.rdkafka_error_code() {
            Some(RDKafkaErrorCode::AllBrokersDown) => self.set_down(reason),
            // One broker's connection; the library tries again by itself.
            Some(
                RDKafkaErrorCode::BrokerTransportFailure
                | RDKafkaErrorCode::OperationTimedOut
                | RDKafkaErrorCode::Resolve,
            ) => tracing::debug!(client = %self.client_id, role = self.role, reason, "kafka"),
            _ => {
                tracing::warn!(client = %self.client_id, role = self.role, %error, reason, "kafka");
            }
        }
    }
}

/// The library's code of an error, which rdkafka's own method leaves out for the admin client.
pub(crate) fn code_of(error: &KafkaError) -> Option<RDKafkaErrorCode> {
    match error {
        KafkaError::AdminOp(code) => Some(*code),
        _ => error.rdkafka_error_code(),
    }
}

/// The context of clients that live for one call, whose caller gets their errors.
pub(crate) struct Brief;

impl ClientContext for Brief {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, line: &str) {
        forward_log(level, facility, line);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(%error, reason, "kafka");
    }
}

impl ConsumerContext for Brief {}

/// Hands a log line of librdkafka on to tracing.
pub(crate) fn forward_log(level: RDKafkaLogLevel, facility: &str, line: &str) {
    // That one is set which the library calls experimental is known, and said at every start.
    if facility == "CONFWARN" {
        return tracing::debug!(target: "librdkafka", facility, "{line}");
    }
    match level {
        RDKafkaLogLevel::Emerg
        | RDKafkaLogLevel::Alert
        | RDKafkaLogLevel::Critical
        | RDKafkaLogLevel::Error
        | RDKafkaLogLevel::Warning => tracing::warn!(target: "librdkafka", facility, "{line}"),
        RDKafkaLogLevel::Notice | RDKafkaLogLevel::Info => {
            tracing::info!(target: "librdkafka", facility, "{line}");
        }
        RDKafkaLogLevel::Debug => tracing::debug!(target: "librdkafka", facility, "{line}"),
    }
}
