//! A node's drainer of inboxes: judged by the product's own door, settled by its own [`Settling`].

use super::{Mail, Memory, submit};
use crate::broker::Message;
use crate::coverage::{Hit, Op};
use crate::store::{Reply, Request};
use crate::world::Io;
use quota_core::command::{Address, Command, Wish};
use quota_core::door::{admit, parse_kafka};
use quota_core::inbox::{Reason, Settling};
use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

pub async fn run(io: Io, memory: Rc<RefCell<Memory>>) {
    loop {
        let Some(Mail::Messages {
            number,
            generation,
            from,
            messages,
        }) = io.recv(None).await
        else {
            continue;
        };
        let next = from + messages.len();
        let settling = judge(&io, &memory, number, &messages).await;
        let settling = carry_out(&io, settling).await;
        io.with(|world| {
            for (index, reason) in settling.dead() {
                world.hit(Hit::DeadLetter);
                world
                    .broker
                    .dead
                    .insert((number, from + index), reason.code);
            }
        });
        // Between the ledger and the offset a crash may come: then all of it is delivered again.
        let way = io.with(|world| world.rng.delay(1_000));
        io.call("inbox: commit", |world, ticket| {
            world.after(way, move |world| {
                world.commit_inbox(number, generation, next);
                world.reply(ticket, Reply::Done);
            });
        })
        .await;
    }
}

/// Judges messages; for a word that no catalog here knows, the catalogs are read once more.
async fn judge(
    io: &Io,
    memory: &RefCell<Memory>,
    number: usize,
    messages: &[Arc<Message>],
) -> Settling {
    let (mut commands, mut dead) = (Vec::new(), Vec::new());
    for (index, message) in messages.iter().enumerate() {
        io.did(Op::Judged, 1);
        let mut judged = command(io, memory, number, message);
        if judged.as_ref().is_err_and(|(_, by_catalog)| *by_catalog) {
            loop {
                if let Ok(Reply::Rows(rows)) =
                    io.ask("inbox: catalogs", None, Request::Catalogs).await
                {
                    for row in rows {
                        memory.borrow_mut().shelve(&row);
                    }
                    break;
                }
                io.sleep(500_000).await;
            }
            judged = command(io, memory, number, message);
        }
        match judged {
            Ok(command) => commands.push((index, command)),
            Err((reason, _)) => dead.push((index, reason)),
        }
    }
    Settling::new(commands, dead)
}

fn command(
    io: &Io,
    memory: &RefCell<Memory>,
    number: usize,
    message: &Message,
) -> Result<Command, (Reason, bool)> {
    let memory = memory.borrow();
    let (product, partitions, now) = io.with(|world| {
        let product = world.broker.inboxes[number].product;
        (product, world.store.partitions, memory.clock(world))
    });
    let Some(catalog) = memory.newest(product) else {
        panic!("a node knows a catalog of every product");
    };
    let headers = message
        .headers
        .iter()
        .map(|(name, value)| (*name, Some(&value[..])));
    let envelope = parse_kafka(headers, Some(&message.value));
    let admitted = envelope.and_then(|envelope| admit(&envelope, product, &catalog, now));
    let (subject, fact) = admitted.map_err(|rejection| {
        let by_catalog = rejection.is_of_catalog();
        (Reason::from(rejection), by_catalog)
    })?;
    Ok(Command {
        address: Address::new(product, &subject, partitions),
        wish: Wish::Record(fact),
    })
}

/// Submits to this node's own lane for as long as it takes.
async fn carry_out(io: &Io, mut settling: Settling) -> Settling {
    let mut rest = 50_000;
    loop {
        let commands = settling.commands();
        if commands.is_empty() {
            return settling;
        }
        io.did(Op::Settled, commands.len());
        let answers = submit(io, io.node, commands).await.unwrap_or_default();
        let came = settling.answered(answers);
        if came.duplicates > 0 {
            io.hit(Hit::InboxAgain);
        }
        if came.again > 0 {
            io.hit(Hit::InboxRetried);
            io.sleep(rest).await;
            rest = (rest * 2).min(2_000_000);
        }
    }
}
