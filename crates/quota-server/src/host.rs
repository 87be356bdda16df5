//! A service and its HTTP side, started and stopped together.

use crate::api::{Answers, App, Server};
use crate::auth::{Keys, Tokens};
use crate::config::{Role, ServiceSettings};
use crate::service::Service;
use crate::telemetry::Metrics;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use tokio::task::{AbortHandle, JoinHandle};
use tokio_util::sync::CancellationToken;

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
    ///
    /// # Errors
    /// What it cannot serve without.
    pub async fn start(
        server: Server,
        settings: ServiceSettings,
        open_probes: bool,
    ) -> anyhow::Result<Self> {
        let address = server.address();
        let metrics = Metrics::install()?;
        tokio::spawn(metrics.clone().keep_up());
        let answers = Answers {
            api: settings.roles.contains(&Role::Api),
            open_probes,
        };
        let tokens = Tokens::new(settings.products.clone());
        let service = Service::start(settings).await?;
        let keys = Arc::new(Keys::default());
        keys.load(&service.node().ledger).await?;
        let stop = CancellationToken::new();
        let (followed, ledger) = (keys.clone(), service.node().ledger.clone());
        let following = tokio::spawn(async move { followed.follow(&ledger).await }).abort_handle();
        let app = App::new(service.clone(), keys.clone(), tokens, metrics, answers);
        let answering = tokio::spawn(server.run(app, stop.clone()));
        Ok(Self {
            service,
            keys,
            following,
            answering,
            address,
            stop,
        })
    }

    /// Where it answers; of all addresses, this machine's own: nobody can connect to `0.0.0.0`.
    #[must_use]
    pub fn url(&self) -> String {
        let mut address = self.address;
        if address.ip().is_unspecified() {
            address.set_ip(match address {
                SocketAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
                SocketAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
            });
        }
        format!("http://{address}")
    }

    /// The service.
    #[must_use]
    pub fn service(&self) -> &Service {
        &self.service
    }

    /// Puts a key in force that was made a moment ago.
    ///
    /// # Errors
    /// The ledger cannot be read.
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
