//! `quota-ledger dev`: everything in one process tree.

use super::{Verdict, ready, say};
use crate::api::Server;
use crate::auth::{ANY_PRODUCT, Scope, digest, fresh_key_id};
use crate::config::{Checkpoints, Kafka, Listening, ProductSecrets, Roles, ServiceSettings};
use crate::embedded::{Cluster, Home, Postgres, Secrets};
use crate::host::Host;
use crate::publishing::PublishError;
use crate::service::Service;
use crate::shutdown;
use anyhow::{Context as _, bail};
use clap::Args;
use quota_core::catalog::shipped;
use quota_core::state::FOLD_VERSION;
use quota_kafka::EmbeddedBroker;
use quota_postgres::Ledger;
use serde_json::{Map, json};
use std::path::PathBuf;
use std::sync::Arc;
use tokio::task::spawn_blocking;
use tokio_util::sync::CancellationToken;

/// Run everything here: PostgreSQL, Kafka and the service, for trying and developing.
///
/// Data, keys and secrets are kept in the folder and come back with it. Ctrl-C stops everything cleanly. With
/// DATABASE_URL or KAFKA_BROKERS set, it uses those.
#[derive(Args)]
pub struct Dev {
    /// Where everything is kept
    #[arg(long, default_value = ".quota-ledger", value_name = "DIR")]
    data: PathBuf,
    /// A PostgreSQL to use instead of a private one
    #[arg(long, env = "DATABASE_URL", hide_env_values = true, value_name = "URL")]
    database_url: Option<String>,
    /// Kafka's bootstrap brokers, to use instead of one in this process
    #[arg(long, env = "KAFKA_BROKERS", value_name = "BROKERS")]
    kafka_brokers: Option<String>,
    #[command(flatten)]
    listening: Listening,
    #[command(flatten)]
    checkpoints: Checkpoints,
}

impl Dev {
    /// Runs until it is told to stop.
    pub async fn run(mut self) -> anyhow::Result<Verdict> {
        let stop = shutdown::on_signal()?;
        if !self.listening.listen.ip().is_loopback() {
            bail!(
                "`dev` listens on loopback only, since it hands out its key; {} is not",
                self.listening.listen
            );
        }
        let server = Server::bind(self.listening.listen)?;
        let home = Home::open(&self.data)?;
        let mut secrets = home.secrets(&shipped().map(|(product, _)| product))?;
        // The broker goes last: its clients would miss it loudly.
        let kafka = self.kafka().await?;
        let outcome = match self.database_url.take() {
            Some(url) => self.serve(server, &home, secrets, url, &kafka, stop).await,
            None => {
                say("Starting PostgreSQL ...");
                let cluster = Cluster::prepare(&home, &mut secrets)?;
                let url = cluster.url();
                let postgres = spawn_blocking(|| Postgres::start(cluster)).await??;
                // Whatever comes of the rest, the server is stopped.
                let outcome = self.serve(server, &home, secrets, url, &kafka, stop).await;
                postgres.stop().await;
                outcome
            }
        };
        outcome.inspect(|_| say("Stopped."))
    }

    async fn kafka(&self) -> anyhow::Result<Kafka> {
        Ok(match &self.kafka_brokers {
            Some(brokers) => Kafka::Cluster(brokers.clone()),
            None => {
                let broker = spawn_blocking(|| EmbeddedBroker::start(&[])).await??;
                Kafka::Embedded(Arc::new(broker))
            }
        })
    }

    async fn serve(
        &self,
        server: Server,
        home: &Home,
        secrets: Secrets,
        database_url: String,
        kafka: &Kafka,
        stop: CancellationToken,
    ) -> anyhow::Result<Verdict> {
        let info = quota_postgres::migrate(&database_url, None, FOLD_VERSION).await?;
        tracing::debug!(partitions = info.partitions, "migrated");
        let checkpoint_file = self.checkpoints.checkpoint_file.clone();
        let products = secrets.products.into_iter().map(|(product, made_up)| {
            let set = ProductSecrets::from_environment(&product);
            (product, set.or(made_up))
        });
        let settings = ServiceSettings {
            database_url,
            kafka: kafka.clone(),
            roles: Roles::all(),
            checkpoint_interval: self.checkpoints.interval(),
            checkpoint_file: checkpoint_file
                .or_else(|| Some(home.dir().join("checkpoints.ndjson"))),
            products: products.collect(),
        };
        let host = Host::start(server, settings.clone(), self.listening.open_probes).await?;
        admit_key(&host.service().node().ledger, &secrets.admin_key).await?;
        host.reload_keys().await?;
        publish_catalogs(host.service()).await?;
        let url = host.url();
        if let Some(file) = &self.listening.ready_file {
            let products: Map<_, _> = settings
                .products
                .iter()
                .map(|(product, secrets)| (product.clone(), json!(secrets)))
                .collect();
            let content = json!({
                "url": url,
                "admin_key": secrets.admin_key,
                "database_url": settings.database_url,
                "kafka_brokers": settings.kafka.brokers(),
                "pid": std::process::id(),
                "products": products,
            });
            ready::write(file, &content)?;
        }
        greet(&url, &secrets.admin_key, home, &settings);
        host.run(stop).await;
        Ok(Verdict::Yes)
    }
}

/// Puts the folder's key into the ledger, where it is not in force there.
async fn admit_key(ledger: &Ledger, key: &str) -> anyhow::Result<()> {
    let hash = digest(key);
    if ledger
        .all_active_keys()
        .await?
        .iter()
        .any(|known| known.hash == hash)
    {
        return Ok(());
    }
    let scopes: Vec<String> = Scope::ALL
        .into_iter()
        .map(|scope| scope.word().to_owned())
        .collect();
    let made = ledger
        .create_key(&fresh_key_id(), ANY_PRODUCT, &scopes, &hash)
        .await;
    made.context("the folder's key was revoked, or cannot be stored; remove admin_key from its secrets.json for another")
}

/// Publishes the catalogs that come with this program, for the products that have none.
async fn publish_catalogs(service: &Service) -> anyhow::Result<()> {
    for (product, text) in shipped() {
        if service.has_product(product) {
            continue;
        }
        service
            .publish_catalog(product, text, None)
            .await
            .map_err(|error| match error {
                PublishError::Faulty(faults) => anyhow::anyhow!("{product}: {faults:?}"),
                PublishError::Stale { current } => {
                    anyhow::anyhow!("{product}: version {current} is in force")
                }
                PublishError::Unavailable(why) => anyhow::anyhow!("{product}: {why}"),
            })?;
    }
    Ok(())
}

/// Says what is running, and what to try first.
fn greet(url: &str, key: &str, home: &Home, settings: &ServiceSettings) {
    say(&format!(
        "\n\
         quota-ledger is ready.\n\
         \x20 API         {url}    (pages: {url}/docs/)\n\
         \x20 Admin key   {key}\n\
         \x20 PostgreSQL  {}\n\
         \x20 Kafka       {}\n\
         \x20 Data        {}    (Ctrl-C stops everything; the data stays)\n\
         \n\
         Try:\n\
         \x20 KEY={key}\n\
         \x20 curl -s {url}/v1/products/applyx/subjects/u1/consume -H \"Authorization: Bearer $KEY\" \\\n\
         \x20      -H 'Content-Type: application/json' -d '{{\"feature\": \"resume_edits\"}}'\n\
         \x20 curl -s '{url}/v1/products/applyx/subjects/u1/check?feature=resume_edits' -H \"Authorization: Bearer $KEY\"\n\
         \x20 curl -s {url}/v1/products/applyx/subjects/u1/entitlements -H \"Authorization: Bearer $KEY\"\n\
         \x20 curl -s {url}/v1/products/applyx/subjects/u1/ledger -H \"Authorization: Bearer $KEY\"\n",
        settings.database_url,
        settings.kafka.brokers(),
        home.dir().display(),
    ));
}
