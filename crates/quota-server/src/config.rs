//! Settings: flags with environment names, and what they mean together.

use crate::checkpoints::{Plan, Signer};
use clap::builder::FalseyValueParser;
use clap::{Args, ValueEnum};
use quota_kafka::EmbeddedBroker;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{SocketAddr, ToSocketAddrs as _};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// Which database.
#[derive(Args, Clone)]
pub struct Database {
    /// The ledger's PostgreSQL, for example postgres://user:password@host:5432/quota
    #[arg(long, env = "DATABASE_URL", hide_env_values = true, value_name = "URL")]
    pub database_url: String,
}

/// How the HTTP side listens.
#[derive(Args, Clone, Debug)]
pub struct Listening {
    /// The address to listen on; port 0 takes a free one
    #[arg(
        long,
        env = "QUOTA_LISTEN",
        default_value = "127.0.0.1:8080",
        value_name = "ADDRESS",
        value_parser = address
    )]
    pub listen: SocketAddr,
    /// A file to write when everything answers: a JSON object with the URL and the like
    #[arg(long, value_name = "FILE")]
    pub ready_file: Option<PathBuf>,
    /// Answer /healthz, /readyz and /metrics to every address, not to loopback alone
    #[arg(long, env = "QUOTA_OPEN_PROBES", value_parser = FalseyValueParser::new())]
    pub open_probes: bool,
}

/// An address by numbers, or by a name that this machine knows.
fn address(text: &str) -> Result<SocketAddr, String> {
    let mut found = text
        .to_socket_addrs()
        .map_err(|error| format!("{error}; it is written host:port"))?;
    found
        .next()
        .ok_or_else(|| "this name has no address".to_owned())
}

/// Signed checkpoints.
#[derive(Args, Clone, Debug)]
pub struct Checkpoints {
    /// Seconds between two signed checkpoints of all partitions' heads
    #[arg(long, env = "QUOTA_CHECKPOINT_SECONDS", default_value_t = 60, value_name = "SECONDS",
          value_parser = clap::value_parser!(u32).range(1..=86_400))]
    pub checkpoint_seconds: u32,
    /// A file that every checkpoint is appended to, beside their topic
    #[arg(long, env = "QUOTA_CHECKPOINT_FILE", value_name = "FILE")]
    pub checkpoint_file: Option<PathBuf>,
    /// The private key that signs them, made up where the file is missing; without it, one for this process's life
    #[arg(long, env = "QUOTA_CHECKPOINT_KEY", value_name = "FILE")]
    pub checkpoint_key: Option<PathBuf>,
}

impl Checkpoints {
    /// How checkpoints are made.
    ///
    /// # Errors
    /// The key's file cannot be read or made, or holds no key.
    pub fn plan(&self) -> anyhow::Result<Plan> {
        let signer = match &self.checkpoint_key {
            Some(file) => Signer::of_file(file)?,
            None => Signer::fresh()?,
        };
        Ok(Plan {
            interval: Duration::from_secs(u64::from(self.checkpoint_seconds)),
            file: self.checkpoint_file.clone(),
            signer: Arc::new(signer),
        })
    }
}

/// What a node does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum Role {
    /// Answers requests
    Api,
    /// Decides and appends
    Writer,
    /// Carries the ledger to its topic
    Relay,
    /// Folds the ledger into views
    Projector,
    /// Drains the topics that services publish to
    Inbox,
    /// Records expiries that are due
    Sweeper,
}

/// The roles of a node; all of them by default.
#[derive(Args, Clone, Debug)]
pub struct Roles {
    /// What this node does
    #[arg(
        long,
        env = "QUOTA_ROLES",
        value_enum,
        value_delimiter = ',',
        value_name = "ROLES",
        default_value = "api,writer,relay,projector,inbox,sweeper"
    )]
    roles: Vec<Role>,
}

impl Roles {
    /// Each role once.
    #[must_use]
    pub fn set(&self) -> BTreeSet<Role> {
        self.roles.iter().copied().collect()
    }

    /// Every role.
    #[must_use]
    pub fn all() -> BTreeSet<Role> {
        Role::value_variants().iter().copied().collect()
    }
}

/// What one product's clients and payment provider share with us.
#[derive(Clone, Default, Deserialize, Serialize)]
pub struct ProductSecrets {
    /// The secret that users' tokens are signed with.
    pub jwt_hs256: Option<String>,
    /// The secrets that webhooks may be signed with.
    #[serde(default)]
    pub razorpay_secrets: Vec<String>,
    /// The URL or file of the public keys that users' tokens are signed with.
    #[serde(skip)]
    pub jwks: Option<String>,
    /// Who must have issued users' tokens.
    #[serde(skip)]
    pub jwt_issuer: Option<String>,
    /// For whom they must be.
    #[serde(skip)]
    pub jwt_audience: Option<String>,
}

impl ProductSecrets {
    /// The name of a product's setting in the environment.
    #[must_use]
    pub fn name(product: &str, what: &str) -> String {
        let product = product.to_uppercase().replace('-', "_");
        format!("QUOTA_{product}_{what}")
    }

    /// What the environment says: `QUOTA_<PRODUCT>_JWT_HS256`, `_JWKS`, `_JWT_ISSUER`, `_JWT_AUDIENCE` and
    /// `_RAZORPAY_SECRETS`.
    #[must_use]
    pub fn from_environment(product: &str) -> Self {
        let set = |what: &str| {
            std::env::var(Self::name(product, what))
                .ok()
                .filter(|value| !value.is_empty())
        };
        let secrets = set("RAZORPAY_SECRETS").unwrap_or_default();
        let secrets = secrets
            .split(',')
            .map(str::trim)
            .filter(|secret| !secret.is_empty());
        Self {
            jwt_hs256: set("JWT_HS256"),
            razorpay_secrets: secrets.map(str::to_owned).collect(),
            jwks: set("JWKS"),
            jwt_issuer: set("JWT_ISSUER"),
            jwt_audience: set("JWT_AUDIENCE"),
        }
    }

    /// The same, with what is not set taken from others. Where public keys are set, they are who signs: no secret that
    /// was made up beside them.
    #[must_use]
    pub fn or(self, others: Self) -> Self {
        let razorpay_secrets = if self.razorpay_secrets.is_empty() {
            others.razorpay_secrets
        } else {
            self.razorpay_secrets
        };
        let made_up = others.jwt_hs256.filter(|_| self.jwks.is_none());
        Self {
            jwt_hs256: self.jwt_hs256.or(made_up),
            razorpay_secrets,
            ..self
        }
    }
}

/// Which Kafka.
#[derive(Clone, Debug)]
pub enum Kafka {
    /// A cluster, by its bootstrap brokers.
    Cluster(String),
    /// The broker in this process.
    Embedded(Arc<EmbeddedBroker>),
}

impl Kafka {
    /// The bootstrap brokers.
    #[must_use]
    pub fn brokers(&self) -> &str {
        match self {
            Self::Cluster(brokers) => brokers,
            Self::Embedded(broker) => broker.brokers(),
        }
    }
}

/// What a service is started with.
#[derive(Clone)]
pub struct ServiceSettings {
    /// The database.
    pub database_url: String,
    /// Kafka.
    pub kafka: Kafka,
    /// What this node does.
    pub roles: BTreeSet<Role>,
    /// How checkpoints are made.
    pub checkpoints: Plan,
    /// Secrets of products that the environment does not set.
    pub products: BTreeMap<String, ProductSecrets>,
}

impl fmt::Debug for ServiceSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The database's URL has a password in it.
        f.debug_struct("ServiceSettings")
            .field("kafka", &self.kafka)
            .field("roles", &self.roles)
            .finish_non_exhaustive()
    }
}
