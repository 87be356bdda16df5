//! The line to the topic: runs of rows on their way, and what became of them.

use crate::topics::Topics;
use quota_core::record::{HEADERS, LedgerRecord, to_record};
use quota_core::row::Row;
use quota_kafka::{Headers, Outgoing, PublishError, Publisher, PublisherOptions};
use quota_postgres::LedgerInfo;
use std::sync::Arc;
use tokio::task::JoinSet;

/// What became of a run.
pub(super) enum Sent {
    /// It is in the topic.
    Landed {
        partition: u32,
        ticket: u64,
        rows: usize,
    },
    /// One of its rows can never be published.
    Refused { partition: u32, why: String },
    /// The line is cut: nobody knows what is in the topic.
    Cut { why: String },
}

pub(super) struct Line {
    topics: Topics,
    topic: Arc<str>,
    ledger: LedgerInfo,
    publisher: Option<Arc<Publisher>>,
    runs: JoinSet<Sent>,
}

impl Line {
    pub(super) fn new(topics: Topics, ledger: LedgerInfo) -> Self {
        let topic = topics.ledger().into();
        Self {
            topics,
            topic,
            ledger,
            publisher: None,
            runs: JoinSet::new(),
        }
    }

    /// Sends a run of a partition; the one before it has landed.
    pub(super) fn send(&mut self, partition: u32, ticket: u64, rows: Vec<Arc<Row>>) {
        let publisher = match &self.publisher {
            Some(publisher) => Ok(publisher),
            None => Publisher::open(self.topics.settings(), &PublisherOptions::default())
                .map(|publisher| &*self.publisher.insert(Arc::new(publisher))),
        };
        match publisher {
            Ok(publisher) => {
                let (publisher, topic, ledger) =
                    (Arc::clone(publisher), Arc::clone(&self.topic), self.ledger);
                self.runs.spawn(async move {
                    carry(&publisher, &topic, ledger, partition, ticket, rows).await
                });
            }
            Err(error) => {
                let why = describe(&error);
                self.runs.spawn(async move { Sent::Cut { why } });
            }
        }
    }

    /// What became of the next run; waits for ever where none is on its way.
    pub(super) async fn next(&mut self) -> Sent {
        match self.runs.join_next().await {
            None => std::future::pending().await,
            Some(Ok(sent)) => sent,
            Some(Err(died)) => Sent::Cut {
                why: died.to_string(),
            },
        }
    }

    /// Gives up all that is on its way; the next run goes by a new line.
    pub(super) fn reopen(&mut self) {
        self.runs = JoinSet::new();
        self.publisher = None;
    }
}

async fn carry(
    publisher: &Publisher,
    topic: &str,
    ledger: LedgerInfo,
    partition: u32,
    ticket: u64,
    rows: Vec<Arc<Row>>,
) -> Sent {
    let records: Vec<LedgerRecord<'_>> = rows
        .iter()
        .map(|row| to_record(row, &ledger.id, ledger.epoch))
        .collect();
    let Ok(number) = i32::try_from(partition) else {
        return Sent::Refused {
            partition,
            why: "no such partition".to_owned(),
        };
    };
    let outgoing = records.iter().map(|record| Outgoing {
        topic,
        partition: Some(number),
        key: Some(record.key()),
        payload: Some(record.value()),
        headers: Some(
            record
                .headers()
                .fold(Headers::with_capacity(HEADERS), |headers, (name, value)| {
                    headers.add(name, value)
                }),
        ),
    });
    match publisher.send(outgoing.collect()).await {
        Ok(()) => Sent::Landed {
            partition,
            ticket,
            rows: rows.len(),
        },
        Err(
            error @ PublishError::Refused {
                too_large: true, ..
            },
        ) => Sent::Refused {
            partition,
            why: describe(&error),
        },
        // A topic that is gone is refused too, before anything is sent: it is made anew.
        Err(error) => Sent::Cut {
            why: describe(&error),
        },
    }
}

fn describe(error: &PublishError) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
