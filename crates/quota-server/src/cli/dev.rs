//! `quota-ledger dev`: everything in one process tree.

use super::{Verdict, ready, say};
use crate::api::Server;
use crate::auth::{ANY_PRODUCT, Scope, digest, fresh_key_id};
use crate::config::{Checkpoints, Kafka, Listening, ProductSecrets, Roles, ServiceSettings};
use crate::embedded::{Cluster, Home, Postgres, Secrets};
use crate::host::Host;
use crate::publishing::publish_catalog;
use crate::shutdown;
use anyhow::{Context as _, bail};
use clap::Args;
use quota_core::catalog::shipped;
use quota_core::state::FOLD_VERSION;
use quota_kafka::EmbeddedBroker;
use quota_postgres::Ledger;
use serde_json::json;
use std::collections::BTreeMap;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
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

/// What `dev` runs, once all of it answers.
pub struct Instance {
    /// Where the service answers.
    pub url: String,
    /// A key with every scope, for every product.
    pub admin_key: String,
    /// How the database's owner logs in.
    pub database_url: String,
    /// Kafka.
    pub kafka: Kafka,
    /// The folder that holds everything.
    pub dir: PathBuf,
    /// The file that checkpoints are appended to.
    pub checkpoint_file: Option<PathBuf>,
}

impl Dev {
    /// Everything of its own, in this folder, on a free port.
    pub fn private(data: PathBuf) -> Self {
        let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let listening = Listening {
            listen,
            ready_file: None,
            open_probes: false,
        };
        let checkpoints = Checkpoints {
            checkpoint_seconds: 60,
            checkpoint_file: None,
            checkpoint_key: None,
        };
        Self {
            data,
            database_url: None,
            kafka_brokers: None,
            listening,
            checkpoints,
        }
    }

    /// Runs until a signal stops it.
    pub async fn run(self) -> anyhow::Result<Verdict> {
        let stop = shutdown::on_signal()?;
        self.run_until(stop, |instance| greet(&instance)).await?;
        say("Stopped.");
        Ok(Verdict::Yes)
    }

    /// Runs until it is told to stop; `ready` is called once everything answers.
    pub async fn run_until(
        mut self,
        stop: CancellationToken,
        ready: impl FnOnce(Instance),
    ) -> anyhow::Result<()> {
        if !self.listening.listen.ip().is_loopback() {
            bail!(
                "`dev` listens on loopback only, since it hands out its key; {} is not. For other machines there is `serve`",
                self.listening.listen
            );
        }
        let server = Server::bind(self.listening.listen)?;
        let home = Home::open(&self.data)?;
        let mut secrets = home.secrets(&shipped().map(|(product, _)| product))?;
        let kafka = self.kafka().await?;
        // The broker ends with the process: clients that are still closing would miss it loudly.
        std::mem::forget(kafka.clone());
        let Some(url) = self.database_url.take() else {
            say("Starting PostgreSQL ...");
            let cluster = Cluster::prepare(&home, &mut secrets)?;
            let settings = self.settings(&home, &secrets, cluster.url(), kafka.clone())?;
            let postgres = spawn_blocking(|| Postgres::start(cluster)).await??;
            // Whatever comes of the rest, the server is stopped.
            let key = &secrets.admin_key;
            let outcome = self.serve(server, &home, key, settings, stop, ready).await;
            postgres.stop().await;
            return outcome;
        };
        let settings = self.settings(&home, &secrets, url, kafka.clone())?;
        let key = &secrets.admin_key;
        self.serve(server, &home, key, settings, stop, ready).await
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

    /// What the service is started with.
    fn settings(
        &self,
        home: &Home,
        secrets: &Secrets,
        database_url: String,
        kafka: Kafka,
    ) -> anyhow::Result<ServiceSettings> {
        let Checkpoints {
            checkpoint_seconds,
            checkpoint_file,
            checkpoint_key,
        } = self.checkpoints.clone();
        let or_here = |file: Option<PathBuf>, name| file.or_else(|| Some(home.dir().join(name)));
        let checkpoints = Checkpoints {
            checkpoint_seconds,
            checkpoint_file: or_here(checkpoint_file, "checkpoints.ndjson"),
            checkpoint_key: or_here(checkpoint_key, "checkpoint.key"),
        };
        let products = secrets.products.iter().map(|(product, made_up)| {
            let set = ProductSecrets::from_environment(product);
            (product.clone(), set.or(made_up.clone()))
        });
        Ok(ServiceSettings {
            database_url,
            kafka,
            roles: Roles::all(),
            checkpoints: checkpoints.plan()?,
            products: products.collect(),
        })
    }

    async fn serve(
        &self,
        server: Server,
        home: &Home,
        admin_key: &str,
        settings: ServiceSettings,
        stop: CancellationToken,
        ready: impl FnOnce(Instance),
    ) -> anyhow::Result<()> {
        let info = quota_postgres::migrate(&settings.database_url, None, FOLD_VERSION).await?;
        tracing::debug!(partitions = info.partitions, "migrated");
        // Before anything serves: a service makes the inboxes of the products that it finds.
        let ledger = Ledger::connect(&settings.database_url, FOLD_VERSION, 1).await?;
        admit_key(&ledger, admin_key).await?;
        publish_catalogs(&ledger).await?;
        ledger.close().await;
        let host = Host::start(server, settings.clone(), self.listening.open_probes).await?;
        let instance = Instance {
            url: host.url(),
            admin_key: admin_key.to_owned(),
            database_url: settings.database_url,
            kafka: settings.kafka,
            dir: home.dir().to_owned(),
            checkpoint_file: settings.checkpoints.file,
        };
        let env = instance.write(self.listening.ready_file.as_deref(), &settings.products)?;
        ready(instance);
        host.run(stop).await;
        // What it says is true no longer.
        fs::remove_file(env).unwrap_or_default();
        Ok(())
    }
}

impl Instance {
    /// Writes the ready file, where one is wanted, and `env` in the folder: the same for a shell. The path of that.
    fn write(
        &self,
        file: Option<&Path>,
        products: &BTreeMap<String, ProductSecrets>,
    ) -> anyhow::Result<PathBuf> {
        let brokers = self.kafka.brokers();
        let env = self.dir.join("env");
        let mut lines = vec![
            ("QUOTA_URL".to_owned(), self.url.as_str()),
            ("QUOTA_KEY".to_owned(), self.admin_key.as_str()),
            ("DATABASE_URL".to_owned(), self.database_url.as_str()),
            ("KAFKA_BROKERS".to_owned(), brokers),
        ];
        let checkpoints = self.checkpoint_file.as_deref().and_then(Path::to_str);
        lines.extend(checkpoints.map(|file| ("QUOTA_CHECKPOINT_FILE".to_owned(), file)));
        let webhooks: Vec<_> = products
            .iter()
            .map(|(product, secrets)| (product, secrets.razorpay_secrets.join(",")))
            .collect();
        for (product, secrets) in products {
            let secret = secrets.jwt_hs256.as_deref();
            lines.extend(secret.map(|secret| (ProductSecrets::name(product, "JWT_HS256"), secret)));
        }
        for (product, secrets) in &webhooks {
            lines.push((ProductSecrets::name(product, "RAZORPAY_SECRETS"), secrets));
        }
        ready::write_shell(&env, &lines)?;
        if let Some(file) = file {
            let content = json!({
                "url": self.url,
                "admin_key": self.admin_key,
                "database_url": self.database_url,
                "kafka_brokers": brokers,
                "pid": std::process::id(),
                "products": products,
            });
            ready::write(file, &content)?;
        }
        Ok(env)
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
async fn publish_catalogs(ledger: &Ledger) -> anyhow::Result<()> {
    for (product, text) in shipped() {
        if !ledger.catalog_rows(Some(product)).await?.is_empty() {
            continue;
        }
        let published = publish_catalog(ledger, product, text, None).await;
        published.with_context(|| product.to_owned())?;
    }
    Ok(())
}

/// Says what is running, and what to try first.
fn greet(instance: &Instance) {
    let Instance {
        url,
        admin_key,
        database_url,
        kafka,
        dir,
        ..
    } = instance;
    say(&format!(
        "\n\
         quota-ledger is ready.\n\
         \x20 API         {url}    (pages: {url}/docs/)\n\
         \x20 Admin key   {admin_key}\n\
         \x20 PostgreSQL  {database_url}\n\
         \x20 Kafka       {brokers}\n\
         \x20 Data        {dir}    (Ctrl-C stops everything; the data stays)\n\
         \n\
         Try, in a second terminal (README.md goes on from here):\n\
         \x20 . {env}\n\
         \x20 curl -s $QUOTA_URL/v1/products/applyx/subjects/u1/consume -H \"Authorization: Bearer $QUOTA_KEY\" \\\n\
         \x20      -H 'Content-Type: application/json' -d '{{\"feature\": \"resume_edits\"}}'\n\
         \x20 curl -s $QUOTA_URL/v1/products/applyx/subjects/u1/entitlements -H \"Authorization: Bearer $QUOTA_KEY\"\n\
         \x20 curl -s $QUOTA_URL/v1/products/applyx/subjects/u1/ledger -H \"Authorization: Bearer $QUOTA_KEY\"\n",
        brokers = kafka.brokers(),
        dir = dir.display(),
        env = ready::quoted(&dir.join("env").display().to_string()),
    ));
}
