//! What the HTTP side asks of the ledger: decisions, facts, answers from views, and whether all of it is ready.

mod current;

use crate::answering::Freshness;
use crate::config::{Kafka, ProductSecrets, ServiceSettings};
use crate::node::Node;
use crate::publishing::{PublishError, Published, publish_catalog};
use crate::receipts::{Checkpoints, Receipts};
use crate::topics::Topics;
use current::Current;
use futures::stream::{self, StreamExt as _};
use quota_core::catalog::Catalog;
use quota_core::command::{Address, Answer, Command, Decision, Refusal};
use quota_core::epoch::Epochs;
use quota_core::judge::Question;
use quota_core::position::Position;
use quota_core::receipt::Receipt;
use quota_core::row::Row;
use quota_core::time::Timestamp;
use serde_json::{Map, Value};
use std::sync::{Arc, Mutex, PoisonError, RwLock, Weak};
use std::time::{Duration, Instant};
use tokio::task::AbortHandle;

/// How this service calls itself to Kafka.
const CLIENT_ID: &str = "quota-ledger";
/// How long a start waits for Kafka before it answers what can be answered without.
const START_PATIENCE: Duration = Duration::from_secs(15);
/// The rest between two attempts to begin anew.
const RENEWAL_PAUSE: Duration = Duration::from_secs(1);
/// How long a probe waits for Kafka.
const PROBE_PATIENCE: Duration = Duration::from_secs(3);

/// The ledger, as requests see it.
pub struct Service {
    settings: ServiceSettings,
    topics: Topics,
    current: RwLock<Arc<Current>>,
    receipts: Receipts,
    /// Begins anew where the ledger has begun another epoch.
    renewal: Mutex<Option<AbortHandle>>,
}

/// Whether the service can do its work; each why not, where it is not.
#[derive(Clone, Debug, Default)]
pub struct Readiness {
    /// Postgres.
    pub postgres: Option<String>,
    /// Kafka.
    pub kafka: Option<String>,
    /// The writer.
    pub writer: Option<String>,
}

impl Service {
    /// Connects, and starts the roles that this node has.
    ///
    /// # Errors
    /// What this node cannot serve without.
    pub async fn start(settings: ServiceSettings) -> anyhow::Result<Arc<Self>> {
        let topics = match &settings.kafka {
            Kafka::Cluster(brokers) => {
                Topics::of_cluster(quota_kafka::Settings::new(brokers.clone(), CLIENT_ID))
            }
            Kafka::Embedded(broker) => Topics::of_embedded(Arc::clone(broker), CLIENT_ID),
        };
        let current = Current::start(&settings, &topics, START_PATIENCE).await?;
        let service = Arc::new(Self {
            settings,
            topics,
            current: RwLock::new(Arc::new(current)),
            receipts: Receipts::default(),
            renewal: Mutex::default(),
        });
        let renewal = tokio::spawn(renew(Arc::downgrade(&service)));
        *service
            .renewal
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = Some(renewal.abort_handle());
        Ok(service)
    }

    /// Stops what [`Service::start`] started, after the last request.
    pub async fn stop(&self) {
        let renewal = self
            .renewal
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(renewal) = renewal {
            renewal.abort();
        }
        self.current().stop().await;
    }

    /// Forgets all that this node knows, and begins with what the ledger holds now. Requests meanwhile are refused, or
    /// answered from what was known.
    async fn begin_anew(&self) {
        self.current().stop().await;
        loop {
            match Current::start(&self.settings, &self.topics, Duration::ZERO).await {
                Ok(current) => {
                    let mut place = self.current.write().unwrap_or_else(PoisonError::into_inner);
                    *place = Arc::new(current);
                    return;
                }
                Err(error) => {
                    tracing::warn!(
                        error = format!("{error:#}"),
                        "this node cannot begin anew yet"
                    );
                    tokio::time::sleep(RENEWAL_PAUSE).await;
                }
            }
        }
    }

    fn current(&self) -> Arc<Current> {
        Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// What its parts share, as it is now.
    #[must_use]
    pub fn node(&self) -> Arc<Node> {
        Arc::clone(&self.current().node)
    }

    /// The number of partitions.
    #[must_use]
    pub fn partitions(&self) -> u32 {
        self.node().partitions()
    }

    /// The ledger's epochs.
    #[must_use]
    pub fn epochs(&self) -> Epochs {
        self.node().epochs().clone()
    }

    /// This instant, by the clock that decisions go by.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        self.node().clock.now()
    }

    /// Whether a product has a catalog.
    #[must_use]
    pub fn has_product(&self, product: &str) -> bool {
        self.node().shelf.newest(product).is_some()
    }

    /// A product's newest catalog and its version.
    #[must_use]
    pub fn catalog(&self, product: &str) -> Option<(u32, Arc<Catalog>)> {
        self.node().shelf.newest(product)
    }

    /// The secrets that a product's webhooks may be signed with; none where there is no such product.
    #[must_use]
    pub fn razorpay_secrets(&self, product: &str) -> Vec<String> {
        if !self.has_product(product) {
            return Vec::new();
        }
        // Read when asked: products come while this serves.
        let given = self
            .settings
            .products
            .get(product)
            .cloned()
            .unwrap_or_default();
        ProductSecrets::from_environment(product)
            .or(given)
            .razorpay_secrets
    }

    /// Carries a command out, within its deadline.
    pub async fn submit(&self, command: Command) -> Answer {
        self.node().writer.submit(command).await
    }

    /// Carries commands out, one by one in this order.
    pub async fn submit_all(&self, commands: Vec<Command>) -> Vec<Answer> {
        self.node().writer.submit_all(commands).await
    }

    /// Answers a question without using anything.
    ///
    /// # Errors
    /// Why it cannot be answered.
    pub async fn check(
        &self,
        address: &Address,
        question: &Question,
        at_least: Option<Position>,
    ) -> Result<(Decision, Freshness), Refusal> {
        self.node().check(address, question, at_least).await
    }

    /// A subject's entitlements, without `as_of` and `age_ms`.
    ///
    /// # Errors
    /// Why they cannot be told.
    pub async fn entitlements(
        &self,
        address: &Address,
        at_least: Option<Position>,
    ) -> Result<(Map<String, Value>, Freshness), Refusal> {
        self.node().entitlements(address, at_least).await
    }

    /// The ids of the events at these offsets, in this order.
    ///
    /// # Errors
    /// The ledger cannot be read.
    pub async fn evidence_ids(
        &self,
        partition: u32,
        offsets: &[i64],
    ) -> Result<Vec<String>, Refusal> {
        self.node().evidence_ids(partition, offsets).await
    }

    /// A page of a subject's events, oldest first, and where the next begins.
    ///
    /// # Errors
    /// The ledger cannot be read, or `after` is no position of this subject's partition.
    pub async fn ledger_page(
        &self,
        address: &Address,
        after: Option<Position>,
        limit: usize,
    ) -> Result<(Vec<Row>, Option<Position>), Refusal> {
        self.node().ledger_page(address, after, limit).await
    }

    /// The receipt of a subject's event.
    ///
    /// # Errors
    /// Why there is none, or none yet.
    pub async fn receipt(&self, address: &Address, position: Position) -> Result<Receipt, Refusal> {
        let plan = &self.settings.checkpoints;
        let checkpoints = Checkpoints {
            topics: &self.topics,
            file: plan.file.as_deref(),
            interval: plan.interval,
        };
        let node = self.node();
        self.receipts
            .of(&node, checkpoints, address, position)
            .await
    }

    /// Publishes a catalog, if `if_match` is the version in force or none.
    ///
    /// # Errors
    /// Its faults, or the race that was lost.
    pub async fn publish_catalog(
        &self,
        product: &str,
        text: &str,
        if_match: Option<u32>,
    ) -> Result<Published, PublishError> {
        let published = publish_catalog(&self.node().ledger, product, text, if_match).await?;
        if let Some(row) = &published.row
            && let Err(error) = self.node().shelf.take(row)
        {
            tracing::error!(%error, "a catalog was published that cannot be read");
        }
        if published.row.is_some() {
            self.judge_by_it().await;
        }
        Ok(published)
    }

    /// Reads the catalogs that were published until now, unless that was done since then.
    ///
    /// # Errors
    /// The ledger cannot be read.
    pub async fn read_catalogs(&self, since: Instant) -> Result<(), Refusal> {
        let read = self
            .node()
            .shelf
            .load_since(&self.node().ledger, since)
            .await;
        read.map_err(|error| {
            tracing::warn!(error = format!("{error:#}"), "the catalogs cannot be read");
            Refusal::unavailable(
                "the catalogs cannot be read just now; nothing was recorded, try again",
            )
        })
    }

    /// Reads what was just published, so that this node's next answers go by it.
    async fn judge_by_it(&self) {
        let node = self.node();
        let reads = (0..self.partitions()).map(|partition| node.catch_up(partition));
        let mut reads = stream::iter(reads).buffer_unordered(8);
        while let Some(read) = reads.next().await {
            if let Err(error) = read {
                // The follower reads it within a second.
                tracing::warn!(
                    error = format!("{error:#}"),
                    "a new catalog could not be read at once"
                );
            }
        }
    }

    /// Whether this node can do its work.
    pub async fn readiness(&self) -> Readiness {
        let postgres = self
            .node()
            .ledger
            .clock()
            .await
            .err()
            .map(|error| error.to_string());
        let stopped = self.node().writer.is_stopped();
        let stopped = stopped.then(|| "the lane has ended".to_owned());
        let writer = self
            .node()
            .gate
            .why()
            .map(|why| why.to_string())
            .or(stopped);
        let kafka =
            match tokio::time::timeout(PROBE_PATIENCE, self.topics.ensure(self.partitions())).await
            {
                Ok(reached) => reached.err().map(|error| format!("{error:#}")),
                Err(_) => Some("no broker answers".to_owned()),
            };
        Readiness {
            postgres,
            kafka,
            writer,
        }
    }
}

/// Begins anew whenever the ledger has begun another epoch, for as long as there is a service.
async fn renew(service: Weak<Service>) {
    loop {
        let Some(node) = service.upgrade().map(|service| service.node()) else {
            return;
        };
        node.outdated.notified().await;
        let Some(service) = service.upgrade() else {
            return;
        };
        service.begin_anew().await;
    }
}
