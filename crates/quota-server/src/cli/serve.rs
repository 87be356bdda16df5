//! `quota-ledger serve`: the service on a database and a Kafka that are there.

use super::{Verdict, ready};
use crate::api::Server;
use crate::config::{Checkpoints, Database, Kafka, Listening, Roles, ServiceSettings};
use crate::host::Host;
use crate::shutdown;
use clap::Args;
use serde_json::json;
use std::collections::BTreeMap;

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
            checkpoints: self.checkpoints.plan()?,
            products: BTreeMap::new(),
        };
        let host = Host::start(server, settings, self.listening.open_probes).await?;
        let url = host.url();
        if let Some(file) = &self.listening.ready_file {
            ready::write(file, &json!({"url": url, "pid": std::process::id()}))?;
        }
        tracing::info!(url, "quota-ledger serves");
        host.run(stop).await;
        Ok(Verdict::Yes)
    }
}
