//! The pieces of `scripts/bench` that a load generator for HTTP does not have. Each prints one line of `name=value`.
//!
//! ```text
//! bench fill URL KEY SUBJECTS                 one consume for each of that many subjects, in batches of 1,000
//! bench settled DATABASE_URL                  waits until every view is at the ledger's head
//! bench inbox DATABASE_URL BROKERS EVENTS     publishes events to the inbox, and waits until they are in the ledger
//! bench visible URL KEY DATABASE_URL BROKERS SECONDS RATE
//!                                             from ack to visible in the view; and Kafka's own produce to consume
//! ```

#![allow(clippy::print_stdout, reason = "a measurement prints what it measured")]

mod fill;
mod inbox;
mod ledger;
mod visible;

use anyhow::{Context as _, bail};
use std::collections::VecDeque;
use std::str::FromStr;

/// The product of `scripts/bench.d/catalog.toml`, and its feature.
const PRODUCT: &str = "bench";
const FEATURE: &str = "calls";

/// The words after the command, one by one.
struct Words(VecDeque<String>);

impl Words {
    fn next<T: FromStr>(&mut self, what: &'static str) -> anyhow::Result<T> {
        let word = self
            .0
            .pop_front()
            .with_context(|| format!("{what} is missing"))?;
        word.parse()
            .ok()
            .with_context(|| format!("{word:?} is no {what}"))
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let mut words = Words(std::env::args().skip(1).collect());
    let command: String = words.next("command")?;
    let line = match command.as_str() {
        "fill" => {
            fill::run(
                words.next("URL")?,
                words.next("key")?,
                words.next("number")?,
            )
            .await?
        }
        "settled" => ledger::settled(words.next("database's URL")?).await?,
        "inbox" => {
            inbox::run(
                words.next("database's URL")?,
                words.next("brokers")?,
                words.next("number")?,
            )
            .await?
        }
        "visible" => visible::run(&mut words).await?,
        other => bail!("there is no {other}"),
    };
    println!("{command} {line}");
    Ok(())
}

/// The value below which so much of the sorted values lies, in milliseconds.
fn percentile(values: &mut [f64], share: f64) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    let index = (values.len() as f64 * share) as usize;
    values
        .get(index.min(values.len().saturating_sub(1)))
        .copied()
        .unwrap_or(f64::NAN)
}
