//! Clients: what they wish, how they ask again, and what they make of the answers.

mod told;
mod wishes;

pub use told::identity_of;

use crate::broker::Message;
use crate::catalogs::PRODUCTS;
use crate::coverage::Hit;
use crate::node::{check, submit};
use crate::oracle::{Identity, Told, check_outcome};
use crate::world::{Io, SECOND};
use quota_core::command::{Address, Answer, Command, Wish};
use quota_core::event::{Empty, Event, Usage};
use quota_core::judge::Question;
use std::sync::Arc;
use told::told;
use wishes::Wisher;

/// Wishes that a client remembers, to tell them again some day.
const REMEMBERED: usize = 40;

/// A command that was asked for, and when.
#[derive(Clone)]
struct Asked {
    command: Command,
    at: i64,
}

pub async fn client(io: Io, number: usize) {
    let mut wisher = Wisher::new(number);
    let mut remembered: Vec<Asked> = Vec::new();
    loop {
        let (calm, pause) = io.with(|world| (world.calm, world.rng.delay(4_000)));
        if calm {
            return;
        }
        io.sleep(pause).await;
        let dice = io.with(|world| world.rng.below(100));
        match dice {
            0..12 if !remembered.is_empty() => {
                let old = io.with(|world| world.rng.pick(&remembered).clone());
                ask_again(&io, old).await;
            }
            12..15 if !remembered.is_empty() => {
                let old = io.with(|world| world.rng.pick(&remembered).clone());
                contradict(&io, old).await;
            }
            15..25 => look(&io, &wisher).await,
            _ => {
                let command = io.with(|world| wisher.wish(world));
                let answer = insist(&io, &command).await;
                if let Some(answer) = &answer {
                    wisher.learn(&command, answer);
                }
                let at = io.with(|world| world.now + world.warp);
                remembered.push(Asked { command, at });
                if remembered.len() > REMEMBERED {
                    let victim = io.with(|world| world.rng.below(REMEMBERED));
                    remembered.swap_remove(victim);
                }
            }
        }
    }
}

/// Asks once, at any node; none where nobody knows what came of it.
async fn ask(io: &Io, command: &Command) -> Option<Answer> {
    let node = io.with(|world| world.rng.below(world.nodes.len()));
    let answers = submit(io, node, vec![command.clone()]).await;
    let answer = answers.and_then(|mut answers| answers.pop());
    note(io, command, answer.as_ref());
    answer
}

/// Tells the oracle what a client was told.
fn note(io: &Io, command: &Command, answer: Option<&Answer>) {
    io.with(|world| {
        let Some(who) = identity_of(command) else {
            return told::session(command, answer, &mut world.coverage);
        };
        let told = match answer {
            None => Told::Unknown,
            Some(answer) => told(&who, command, answer, world),
        };
        if answer.is_none() {
            world.coverage.hit(Hit::CrashUnknown);
        }
        let content = format!("{:?}", command.wish);
        world
            .oracle
            .told(&who, &content, &told, &mut world.coverage);
    });
}

/// Asks, and asks again under the same key where it was not answered; or gives up.
async fn insist(io: &Io, command: &Command) -> Option<Answer> {
    for _ in 0..4 {
        let answer = ask(io, command).await;
        let open = match &answer {
            None => true,
            Some(Answer::Refused(refusal)) => matches!(refusal.status, 503 | 504),
            Some(_) => false,
        };
        // Without a key of its own a consume cannot be asked again.
        let keyed = !matches!(&command.wish, Wish::Consume(consume) if consume.key.is_none());
        let gives_up = io.with(|world| world.rng.one_in(3));
        if !open || !keyed || gives_up {
            return answer;
        }
        let pause = io.with(|world| world.rng.range(10_000, 2_000_000));
        io.sleep(pause).await;
        io.hit(Hit::Retried);
    }
    None
}

/// Asks an old command again: the first outcome holds for ever.
async fn ask_again(io: &Io, old: Asked) {
    let unkeyed = matches!(&old.command.wish, Wish::Consume(consume) if consume.key.is_none());
    if unkeyed {
        return;
    }
    let now = io.with(|world| world.now + world.warp);
    io.hit(Hit::Retried);
    if now - old.at > 86_400 * SECOND {
        io.hit(Hit::RetriedLong);
    }
    insist(io, &old.command).await;
}

/// The same id with other content.
async fn contradict(io: &Io, old: Asked) {
    let mut command = old.command;
    match &mut command.wish {
        Wish::Consume(consume) if consume.key.is_some() => consume.amount += 1,
        Wish::Record(fact) => {
            fact.event = match &fact.event {
                Event::SubjectRegistered(_) => Event::UsageRecorded(Usage {
                    feature: "other".to_owned(),
                    amount: 1,
                    resource: None,
                    hold: None,
                    bypassed: false,
                    outcome: None,
                }),
                _ => Event::SubjectRegistered(Empty {}),
            };
        }
        _ => return,
    }
    let Some(who) = identity_of(&command) else {
        return;
    };
    if !io.with(|world| world.oracle.stands(&who)) {
        return;
    }
    let node = io.with(|world| world.rng.below(world.nodes.len()));
    let Some(answers) = submit(io, node, vec![command.clone()]).await else {
        return;
    };
    let Some(Answer::Refused(refusal)) = answers.first() else {
        panic!("other content under a known id was taken: {command:?} with {answers:?}");
    };
    match refusal.status {
        503 | 504 => {}
        409 | 422 if refusal.code == "idempotency_conflict" => io.hit(Hit::Conflict),
        _ => panic!("other content under a known id: {refusal:?} for {command:?}"),
    }
}

/// Looks at a subject, on any node: no older than what is asked for.
async fn look(io: &Io, wisher: &Wisher) {
    let (address, question, wrote) = io.with(|world| wisher.question(world));
    let node = io.with(|world| world.rng.below(world.nodes.len()));
    let beyond = io.with(|world| world.rng.one_in(10));
    let head = io.with(|world| world.store.head(address.partition).offset);
    let at_least = if beyond { head + 1_000_000 } else { wrote };
    let Some(checked) = check(io, node, &address, &question, at_least).await else {
        return;
    };
    assert!(
        checked.at >= at_least,
        "a check is never older than what it is asked for"
    );
    if wrote >= 0 {
        io.hit(Hit::OwnWrite);
    }
    io.with(|world| {
        let offsets = world.store.offsets_of(&address.key);
        let until = |end: i64| offsets.partition_point(|offset| *offset <= end) as i64;
        let subject = &checked.state.subject;
        assert!(
            subject.seq >= until(checked.at),
            "a check has every event up to its position"
        );
        assert_eq!(
            subject.seq,
            until(subject.offset),
            "and all before its newest"
        );
        if check_outcome(&world.store, &address, &question, &checked) {
            world.hit(Hit::CheckJudged);
        }
    });
}

/// A service that publishes to the inboxes.
pub async fn service(io: Io) {
    let mut wisher = Wisher::new(1_000);
    loop {
        let (calm, pause) = io.with(|world| (world.calm, world.rng.delay(30_000)));
        if calm {
            return;
        }
        io.sleep(pause).await;
        io.with(|world| {
            let number = world.rng.below(PRODUCTS.len());
            let message = wisher.message(world, number);
            let copies = if world.rng.one_in(10) { 2 } else { 1 };
            for _ in 0..copies {
                world.broker.inboxes[number]
                    .messages
                    .push(Arc::new(message.clone()));
            }
        });
    }
}

/// An event as a service publishes it, in Kafka's binary mode.
fn message(who: Identity, kind: &str, data: &str) -> Message {
    let header = |name, value: &str| (name, value.as_bytes().to_vec());
    Message {
        headers: vec![
            header("ce_specversion", "1.0"),
            header("ce_id", &who.id),
            header("ce_source", &who.source),
            header("ce_subject", &who.subject),
            header("ce_type", kind),
            header("content-type", "application/json"),
        ],
        value: data.as_bytes().to_vec(),
        identity: Some(who),
    }
}

pub fn address(product: &str, subject: &str, partitions: u32) -> Address {
    Address::new(product, subject, partitions)
}

pub fn question(feature: &str, resource: Option<String>) -> Question {
    Question {
        feature: feature.to_owned(),
        amount: 1,
        resource,
    }
}
