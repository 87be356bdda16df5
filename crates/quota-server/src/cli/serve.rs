//! `quota-ledger serve`: the service on a database and a Kafka that are there.

use super::{Verdict, ready, say};
use crate::api::{App, Server};
use crate::auth::Keys;
use crate::config::{Checkpoints, Database, Kafka, Listening, Roles, ServiceSettings};
use crate::service::Service;
use crate::shutdown;
use crate::telemetry::Metrics;
use clap::Args;
use serde_json::json;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::task::{AbortHandle, JoinHandle};
use tokio_util::sync::CancellationToken;

/// Run the service on a PostgreSQL and a Kafka of yours.
///
/// SIGTERM drains it: no request that got in is dropped.
#[derive(Args)]
pub struct Serve {
    #[command(flatten)]
    database: Database,
    /// Kafka's bootstrap brokers, for example kafka-1:9092,kafka-2:9092
    #[arg(long, env = "KAFKA_BROKERS", value_name = "BROKERS")]
    kafka_brokers: String,
    #[command(flatten)]
    roles: Roles,
    #[command(flatten)]
    listening: Listening,
    #[command(flatten)]
    checkpoints: Checkpoints,
}

impl Serve {
    /// Serves until it is told to stop.
    pub async fn run(self) -> anyhow::Result<Verdict> {
        let stop = shutdown::on_signal()?;
        // The address first: where it is taken, nothing else is begun.
        let server = Server::bind(self.listening.listen)?;
        let settings = ServiceSettings {
            database_url: self.database.database_url,
            kafka: Kafka::Cluster(self.kafka_brokers),
            roles: self.roles.set(),
            checkpoint_interval: self.checkpoints.interval(),
            checkpoint_file: self.checkpoints.checkpoint_file,
            products: BTreeMap::new(),
        };
        let host = Host::start(server, settings, self.listening.open_probes).await?;
        let url = host.url();
        if let Some(file) = &self.listening.ready_file {
            ready::write(file, &json!({"url": url, "pid": std::process::id()}))?;
        }
        say(&format!("quota-ledger serves on {url}"));
        host.run(stop).await;
        Ok(Verdict::Yes)
    }
}

/// A service and its HTTP side.
pub struct Host {
    service: Arc<Service>,
    keys: Arc<Keys>,
    following: AbortHandle,
    answering: JoinHandle<()>,
    address: SocketAddr,
    stop: CancellationToken,
}

impl Host {
    /// Starts a service; it answers as soon as this returns.
    pub async fn start(server: Server, settings: ServiceSettings, open_probes: bool) -> anyhow::Result<Self> {
        let address = server.address();
        let metrics = Metrics::install()?;
        tokio::spawn(metrics.clone().keep_up());
        let service = Service::start(settings).await?;
        let keys = Arc::new(Keys::default());
        keys.load(&service.node().ledger).await?;
        let stop = CancellationToken::new();
        let (followed, ledger) = (keys.clone(), service.node().ledger.clone());
        let following = tokio::spawn(async move { followed.follow(&ledger).await }).abort_handle();
        let app = App::new(service.clone(), keys.clone(), metrics, open_probes);
        let answering = tokio::spawn(server.run(app, stop.clone()));
        Ok(Self { service, keys, following, answering, address, stop })
    }

    /// Where it answers.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The service.
    pub fn service(&self) -> &Service {
        &self.service
    }

    /// Puts a key in force that was made a moment ago.
    pub async fn reload_keys(&self) -> anyhow::Result<()> {
        Ok(self.keys.load(&self.service.node().ledger).await?)
    }

    /// Goes on until `stop`, then answers what got in and stops the service.
    pub async fn run(self, stop: CancellationToken) {
        stop.cancelled().await;
        self.stop.cancel();
        self.answering.await.unwrap_or_default();
        self.following.abort();
        self.service.stop().await;
    }
}
