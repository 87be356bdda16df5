//! Makes subjects: one consume for each, in batches, four at a time. Waits first until the service is ready.

use crate::{FEATURE, PRODUCT};
use anyhow::ensure;
use futures::stream::{self, StreamExt as _};
use serde_json::json;
use std::time::{Duration, Instant};

const BATCH: u64 = 1_000;
const PATIENCE: Duration = Duration::from_secs(120);

pub async fn run(url: String, key: String, subjects: u64) -> anyhow::Result<String> {
    let client = reqwest::Client::new();
    ready(&client, &url).await?;
    let begun = Instant::now();
    let path = format!("{url}/v1/products/{PRODUCT}/consume");
    let batches = stream::iter((1..=subjects).step_by(BATCH as usize));
    let mut sent = batches
        .map(|first| send(&client, &path, &key, first, subjects.min(first + BATCH - 1)))
        .buffer_unordered(4);
    while let Some(outcome) = sent.next().await {
        outcome?;
    }
    Ok(format!(
        "subjects={subjects} rate={:.1}",
        subjects as f64 / begun.elapsed().as_secs_f64()
    ))
}

/// Waits until all that the service needs is there.
async fn ready(client: &reqwest::Client, url: &str) -> anyhow::Result<()> {
    let begun = Instant::now();
    while !client
        .get(format!("{url}/readyz"))
        .send()
        .await?
        .status()
        .is_success()
    {
        ensure!(
            begun.elapsed() < PATIENCE,
            "the service is not ready after {PATIENCE:?}"
        );
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    Ok(())
}

async fn send(
    client: &reqwest::Client,
    path: &str,
    key: &str,
    first: u64,
    last: u64,
) -> anyhow::Result<()> {
    let run = std::process::id();
    let request = |n: u64| json!({"id": format!("fill-{run}-{n}"), "subject": format!("s{n}"), "feature": FEATURE});
    let body = json!({"requests": (first..=last).map(request).collect::<Vec<_>>()});
    let answer = client
        .post(path)
        .bearer_auth(key)
        .json(&body)
        .send()
        .await?
        .error_for_status()?;
    let text = answer.text().await?;
    ensure!(
        !text.contains("\"error\""),
        "a batch was refused: {}",
        text.chars().take(300).collect::<String>()
    );
    Ok(())
}
