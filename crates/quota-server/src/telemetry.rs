//! What the service says about itself: log lines on stderr, and metrics.

use axum::http::StatusCode;
use metrics::{Counter, Histogram, counter, histogram};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use std::io::IsTerminal as _;
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tracing_subscriber::EnvFilter;

/// Upper bounds of the request times that are counted, in seconds.
const SECONDS: [f64; 14] = [
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
];

/// Sends log lines to stderr: text for people, JSON lines for programs. `RUST_LOG` chooses what is said.
pub fn log() {
    let filter =
        EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info,sqlx=warn"));
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    // A second call, as in tests, finds the first one's in place.
    if std::io::stderr().is_terminal() {
        lines.with_target(false).try_init().unwrap_or_default();
    } else {
        lines
            .json()
            .flatten_event(true)
            .try_init()
            .unwrap_or_default();
    }
}

/// The metrics of this process.
#[derive(Clone)]
pub struct Metrics(PrometheusHandle);

impl Metrics {
    /// Starts measuring. One process has one set of metrics, however often this is called.
    ///
    /// # Errors
    /// Another recorder is installed.
    pub fn install() -> anyhow::Result<Self> {
        static INSTALLED: OnceLock<PrometheusHandle> = OnceLock::new();
        if let Some(handle) = INSTALLED.get() {
            return Ok(Self(handle.clone()));
        }
        let builder = PrometheusBuilder::new()
            .set_buckets_for_metric(Matcher::Suffix("_seconds".into()), &SECONDS)?;
        let recorder = builder.build_recorder();
        let handle = INSTALLED.get_or_init(|| recorder.handle()).clone();
        metrics::set_global_recorder(recorder)
            .map_err(|error| anyhow::anyhow!("metrics: {error}"))?;
        Ok(Self(handle))
    }

    /// All of them, in Prometheus's text format.
    #[must_use]
    pub fn render(&self) -> String {
        self.0.render()
    }

    /// Sorts what was measured into its buckets; without it, measurements pile up until somebody reads them.
    pub async fn keep_up(self) {
        loop {
            tokio::time::sleep(Duration::from_secs(5)).await;
            self.0.run_upkeep();
        }
    }

    /// The meter of one route. Its counters are looked up here, once.
    #[must_use]
    pub fn meter(&self, route: &'static str) -> Arc<Meter> {
        let class =
            |class| counter!("quota_http_requests_total", "route" => route, "status" => class);
        Arc::new(Meter {
            good: class("2xx"),
            moved: class("3xx"),
            refused: class("4xx"),
            failed: class("5xx"),
            seconds: histogram!("quota_http_request_seconds", "route" => route),
        })
    }
}

/// Counts and times the calls of one route.
pub struct Meter {
    good: Counter,
    moved: Counter,
    refused: Counter,
    failed: Counter,
    seconds: Histogram,
}

impl Meter {
    /// Takes one call into account.
    pub fn record(&self, took: Duration, status: StatusCode) {
        let counter = match status.as_u16() {
            ..300 => &self.good,
            300..400 => &self.moved,
            400..500 => &self.refused,
            _ => &self.failed,
        };
        counter.increment(1);
        self.seconds.record(took);
    }
}
