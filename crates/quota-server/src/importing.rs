//! Importing existing users: each line's facts go through the lane like any other, so that nodes may serve meanwhile.

mod lines;

pub use lines::{Line, Lines};

use crate::node::Node;
use anyhow::{Context as _, bail};
use quota_core::command::{Address, Answer, Command, Fact, Wish};
use quota_core::door;
use quota_core::event::Event;
use quota_core::row::Row;
use quota_postgres::EventLookup;
use std::time::{Duration, Instant};

/// Lines that are told at once: few enough that users of the same partitions hardly wait.
const CHUNK: usize = 500;
/// How long the ledger may take nothing before an import gives up.
const PATIENCE: Duration = Duration::from_secs(60);
/// The rest before what the ledger did not take is told again.
const REST: Duration = Duration::from_millis(200);

/// A line that was refused.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Refused {
    /// Its number in the file, from 1.
    pub line: u64,
    /// The member that is wrong, where one is.
    pub field: Option<String>,
    /// The stable code.
    pub code: &'static str,
    /// What a person reads.
    pub message: String,
}

/// What came of the lines so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Lines that were read.
    pub lines: u64,
    /// Lines of which something is new in the ledger; of a dry run, those that would be taken.
    pub imported: u64,
    /// Lines that were in the ledger before.
    pub known: u64,
    /// Lines that were refused.
    pub refused: u64,
}

/// Imports a product's lines; `tell` is called with every line that is refused, and with the tally after each chunk.
///
/// A dry run judges every line, and records nothing.
///
/// # Errors
/// The file cannot be read, the product is not there, or the ledger takes nothing any more. What was imported stays, and the
/// same file again goes on from there.
pub async fn import(
    node: &Node,
    product: &str,
    mut lines: Lines,
    dry_run: bool,
    mut tell: impl FnMut(&[Refused], &Tally) -> std::io::Result<()>,
) -> anyhow::Result<Tally> {
    let mut tally = Tally::default();
    loop {
        let mut chunk = Chunk::default();
        while chunk.fates.len() < CHUNK
            && let Some(line) = lines.next()
        {
            chunk.add(node, product, line?).await?;
        }
        if chunk.fates.is_empty() {
            return Ok(tally);
        }
        if !dry_run {
            chunk.carry_out(node).await?;
        }
        let refused = chunk.close(dry_run, &mut tally);
        tell(&refused, &tally)?;
    }
}

/// Lines that are told at once.
#[derive(Default)]
struct Chunk {
    fates: Vec<Fate>,
    /// Each with the place of its line.
    commands: Vec<(usize, Command)>,
}

/// What became of a line.
struct Fate {
    line: u64,
    new: bool,
    refused: Option<Refused>,
}

impl Fate {
    fn refuse(&mut self, field: Option<String>, code: &'static str, message: String) {
        let line = self.line;
        self.refused.get_or_insert(Refused {
            line,
            field,
            code,
            message,
        });
    }
}

impl Chunk {
    /// Judges a line, and takes its facts where nothing is wrong with it.
    async fn add(&mut self, node: &Node, product: &str, line: Line) -> anyhow::Result<()> {
        let (_, catalog) = node
            .shelf
            .newest(product)
            .with_context(|| format!("there is no product {product:?}"))?;
        let place = self.fates.len();
        let mut fate = Fate {
            line: line.number,
            new: false,
            refused: None,
        };
        match line.members {
            Err((field, message)) => fate.refuse(field, "malformed", message),
            Ok(members) => match door::import(&members, &catalog, node.clock.now()) {
                Err(rejection) => fate.refuse(rejection.field, rejection.code, rejection.message),
                Ok((subject, facts)) => {
                    let address = Address::new(product, &subject, node.partitions());
                    if self.is_over(node, &address, &facts).await? {
                        let message = "ends_at must be after the present, where no time is given";
                        fate.refuse(
                            Some("ends_at".to_owned()),
                            "invalid_event",
                            message.to_owned(),
                        );
                    } else {
                        self.commands.extend(facts.into_iter().map(|fact| {
                            let address = address.clone();
                            let wish = Wish::Record(fact);
                            (place, Command { address, wish })
                        }));
                    }
                }
            },
        }
        self.fates.push(fate);
        Ok(())
    }

    /// Whether a line buys a plan that is over. One that was told before it was is known, and no mistake.
    async fn is_over(
        &self,
        node: &Node,
        address: &Address,
        facts: &[Fact],
    ) -> anyhow::Result<bool> {
        let now = node.clock.now();
        let Some(over) = facts.iter().find(|fact| fact.is_over_at(now)) else {
            return Ok(false);
        };
        let told = |command: &Command| {
            let id = match &command.wish {
                Wish::Record(fact) => Some(&fact.id),
                _ => None,
            };
            command.address == *address && id == Some(&over.id)
        };
        Ok(!self.commands.iter().any(|(_, command)| told(command))
            && recorded(node, address, over).await?.is_empty())
    }

    /// Tells the facts, in order; what the ledger cannot take now is told again.
    async fn carry_out(&mut self, node: &Node) -> anyhow::Result<()> {
        let begun = Instant::now();
        let mut todo = std::mem::take(&mut self.commands);
        while !todo.is_empty() {
            let commands = todo.iter().map(|(_, command)| command.clone()).collect();
            let answers = node.writer.submit_all(commands).await;
            let mut again = Vec::new();
            for ((place, command), answer) in todo.into_iter().zip(answers) {
                match answer {
                    Answer::Refused(refusal) if matches!(refusal.status, 503 | 504) => {
                        if begun.elapsed() >= PATIENCE {
                            bail!(
                                "{}; what was imported stays: import the file again",
                                refusal.message
                            );
                        }
                        again.push((place, command));
                    }
                    answer => self.answered(node, place, &command, answer).await?,
                }
            }
            if !again.is_empty() {
                tokio::time::sleep(REST).await;
            }
            todo = again;
        }
        Ok(())
    }

    async fn answered(
        &mut self,
        node: &Node,
        place: usize,
        command: &Command,
        answer: Answer,
    ) -> anyhow::Result<()> {
        let Some(fate) = self.fates.get_mut(place) else {
            return Ok(());
        };
        match answer {
            Answer::Recorded { duplicate, .. } => fate.new |= !duplicate,
            Answer::Refused(refusal) if refusal.code != "idempotency_conflict" => {
                let field = refusal.field.map(|field| field.trim_start_matches("data."));
                fate.refuse(field.map(str::to_owned), refusal.code, refusal.message);
            }
            Answer::Refused(refusal) => {
                if let Some((field, message)) = contradiction(node, command).await? {
                    fate.refuse(Some(field.to_owned()), refusal.code, message);
                }
            }
            other => bail!("a fact was answered with {other:?}"),
        }
        Ok(())
    }

    /// Counts what became of the lines; those that were refused.
    fn close(self, dry_run: bool, tally: &mut Tally) -> Vec<Refused> {
        let mut refused = Vec::new();
        for fate in self.fates {
            tally.lines += 1;
            match fate.refused {
                Some(why) => {
                    tally.refused += 1;
                    refused.push(why);
                }
                None if fate.new || dry_run => tally.imported += 1,
                None => tally.known += 1,
            }
        }
        refused
    }
}

/// How a fact contradicts the one that is recorded under its id: the line's member, and what to say. A purchase that was
/// told at another time, by another of the user's lines, is the same.
async fn contradiction(
    node: &Node,
    command: &Command,
) -> anyhow::Result<Option<(&'static str, String)>> {
    let Wish::Record(fact) = &command.wish else {
        return Ok(None);
    };
    let Event::SubscriptionPurchased(told) = &fact.event else {
        let message = "this user, feature and time were imported before with another amount";
        return Ok(Some(("amount", message.to_owned())));
    };
    for row in recorded(node, &command.address, fact).await? {
        if let Event::SubscriptionPurchased(known) =
            Event::decode(&row.event_type, row.type_version, &row.payload)?
            && known.ends_at == told.ends_at
        {
            return Ok(None);
        }
    }
    let message = format!(
        "this user's {} was imported before with another end; the line's count is taken",
        told.plan
    );
    Ok(Some(("ends_at", message)))
}

/// The row under a fact's id, where there is one.
async fn recorded(node: &Node, address: &Address, fact: &Fact) -> anyhow::Result<Vec<Row>> {
    let lookup = EventLookup {
        partition: address.partition,
        subject_key: address.key,
        event_key: address.event_key(&fact.source, &fact.id),
    };
    Ok(node.ledger.by_event_keys(&[lookup]).await?)
}
