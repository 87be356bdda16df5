//! The topics: their names, their sizes, and making them.

use anyhow::Context as _;
use quota_core::state::FOLD_VERSION;
use quota_kafka::{EmbeddedBroker, Settings, TopicError, TopicSpec, topic};
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

/// Partitions of an inbox that this service makes; one made by somebody else keeps its own number.
const INBOX_PARTITIONS: i32 = 16;

/// A Kafka, and the names of this ledger's topics in it. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Topics {
    settings: Settings,
    embedded: Option<Embedded>,
    prefix: Arc<str>,
}

/// The broker in this process has no admin API and says no to a topic that it has: what was made is known here.
#[derive(Clone, Debug)]
struct Embedded {
    broker: Arc<EmbeddedBroker>,
    made: Arc<Mutex<BTreeSet<String>>>,
}

impl Topics {
    /// The topics of a cluster.
    #[must_use]
    pub fn of_cluster(settings: Settings) -> Self {
        let prefix = Arc::from("");
        Self {
            settings,
            embedded: None,
            prefix,
        }
    }

    /// The topics of the broker in this process.
    #[must_use]
    pub fn of_embedded(broker: Arc<EmbeddedBroker>, client_id: &str) -> Self {
        let settings = broker.settings(client_id);
        let made = Arc::default();
        Self {
            settings,
            embedded: Some(Embedded { broker, made }),
            prefix: Arc::from(""),
        }
    }

    /// The same with a word in front of every topic's and group's name, so that several ledgers can share a cluster.
    #[must_use]
    pub fn with_prefix(mut self, prefix: &str) -> Self {
        self.prefix = Arc::from(prefix);
        self
    }

    /// How to reach the brokers.
    #[must_use]
    pub const fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Whether it is the broker in this process, which forgets.
    #[must_use]
    pub const fn is_embedded(&self) -> bool {
        self.embedded.is_some()
    }

    /// The ledger's topic: every event, in the ledger's own partitions, for ever.
    #[must_use]
    pub fn ledger(&self) -> String {
        self.named("quota.ledger.v1")
    }

    /// Where services publish a product's events.
    #[must_use]
    pub fn inbox(&self, product: &str) -> String {
        self.named(&format!("quota.usage.{product}.v1"))
    }

    /// Where refused inbox messages go.
    #[must_use]
    pub fn dead_letter(&self) -> String {
        self.named("quota.dead-letter.v1")
    }

    /// Where signed checkpoints go.
    #[must_use]
    pub fn checkpoints(&self) -> String {
        self.named("quota.checkpoints.v1")
    }

    /// The group of the projectors that make this fold version's views.
    #[must_use]
    pub fn projectors(&self) -> String {
        self.named(&format!("quota-projector-v{FOLD_VERSION}"))
    }

    /// The group that drains the inboxes.
    #[must_use]
    pub fn drainers(&self) -> String {
        self.named("quota-inbox")
    }

    fn named(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    /// Makes what is missing of the topics of a ledger of that many partitions, and checks the ledger topic's size.
    ///
    /// # Errors
    /// The broker does not answer, a topic can neither be found nor made, or the ledger's topic has another number of
    /// partitions.
    pub async fn ensure(&self, partitions: u32) -> anyhow::Result<()> {
        let partitions = i32::try_from(partitions).context("too many partitions for a topic")?;
        self.ensure_one(TopicSpec::new(self.ledger(), partitions).kept_forever())
            .await
            .context("making or checking the ledger's topic")?;
        for name in [self.dead_letter(), self.checkpoints()] {
            self.ensure_sized(TopicSpec::new(name, 1).kept_forever())
                .await?;
        }
        Ok(())
    }

    /// Makes what is missing of these products' inboxes.
    ///
    /// # Errors
    /// The broker does not answer, or an inbox can neither be found nor made.
    pub async fn ensure_inboxes(&self, products: &[Arc<str>]) -> anyhow::Result<()> {
        for product in products {
            self.ensure_sized(TopicSpec::new(self.inbox(product), INBOX_PARTITIONS))
                .await?;
        }
        Ok(())
    }

    /// Makes a topic whose size is its maker's choice.
    async fn ensure_sized(&self, spec: TopicSpec) -> anyhow::Result<()> {
        match self.ensure_one(spec).await {
            Err(TopicError::PartitionCount { .. }) => Ok(()),
            outcome => outcome.map_err(Into::into),
        }
    }

    async fn ensure_one(&self, spec: TopicSpec) -> Result<(), TopicError> {
        match &self.embedded {
            None => topic::ensure(&self.settings, &[spec]).await,
            Some(embedded) => {
                let mut made = embedded.made.lock().unwrap_or_else(PoisonError::into_inner);
                if made.insert(spec.name.clone()) {
                    embedded.broker.create_topic(&spec)?;
                }
                Ok(())
            }
        }
    }
}
