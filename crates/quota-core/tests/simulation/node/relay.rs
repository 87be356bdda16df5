//! A node's relay: the product's own [`Relay`] against the models of ledger and topic.

use super::follower::ask_range;
use super::{Mail, Memory};
use crate::coverage::{Hit, Op};
use crate::store::{Reply, Request};
use crate::world::Io;
use quota_core::relay::{Ends, Output, Relay, Rules};
use quota_core::row::Row;
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::rc::Rc;
use std::sync::Arc;

/// Tails are looked at often, since this topic loses records often.
const RULES: Rules = Rules {
    run: 25,
    hold: 400,
    check: 5_000_000,
    backoff: 300_000,
};

pub async fn run(io: Io, memory: Rc<RefCell<Memory>>) {
    let mut mine = BTreeSet::new();
    loop {
        mine = match relay(&io, &memory, mine).await {
            Some(others) => others,
            None => return,
        };
    }
}

/// Relays these partitions until others are this node's.
async fn relay(io: &Io, memory: &RefCell<Memory>, mine: BTreeSet<u32>) -> Option<BTreeSet<u32>> {
    let instance = io.with(crate::world::World::fresh);
    let mut relay: Relay<Arc<Row>> = Relay::new(RULES, 0, mine.iter().copied(), io.now());
    // What was sent before a cut is told to nobody.
    let mut line = io.with(crate::world::World::fresh);
    let mut sent: BTreeSet<(u64, u32, u64)> = BTreeSet::new();
    // When this relay looked at the topic's ends.
    let mut looked_at = io.now();
    loop {
        carry_out(io, &mut relay, instance, (line, &mut looked_at), &mut sent);
        let deadline = relay.deadline().filter(|_| !mine.is_empty());
        let mail = io.recv(deadline).await;
        let now = io.now();
        match mail {
            None => relay.tick(now),
            Some(Mail::Own(others)) => return Some(others),
            Some(Mail::Heads(reading)) => {
                for partition in &mine {
                    relay.head(*partition, reading.offsets[*partition as usize], now);
                }
            }
            Some(Mail::Committed(partition, rows)) if mine.contains(&partition) => {
                // What this node has just committed need not be read; now and then its relay misses it.
                if io.with(|world| world.calm || !world.rng.one_in(20)) {
                    relay.committed(partition, rows[0].offset, rows, now);
                } else {
                    relay.head(partition, memory.borrow().head_offset(partition), now);
                }
            }
            Some(Mail::Range(of, partition, ticket, rows)) if of == instance => match rows {
                Some(rows) => relay.rows(partition, ticket, rows, now),
                None => relay.rows_failed(partition, ticket, now),
            },
            Some(Mail::Tails(of, ticket, ends)) if of == instance => match ends {
                Some(ends) => {
                    let lag = |relay: &Relay<Arc<Row>>| -> i64 {
                        mine.iter().filter_map(|it| relay.lag(*it)).sum()
                    };
                    let before = lag(&relay);
                    relay.tails(ticket, &ends, now);
                    if before > 0 || lag(&relay) > before {
                        note_losses(io, &ends, &mine);
                    }
                }
                None => relay.tails_failed(ticket, now),
            },
            Some(Mail::Published(partition, ticket)) => {
                // Of this line, and not of one that was cut.
                if sent.remove(&(line, partition, ticket)) {
                    relay.published(partition, ticket, now);
                }
            }
            Some(Mail::Cut(of)) if of == line => {
                sent.clear();
                line = io.with(crate::world::World::fresh);
                relay.cut(now);
            }
            Some(_) => {}
        }
    }
}

/// Whether the topic is behind what the oracle knows that it once held.
fn note_losses(io: &Io, ends: &std::collections::BTreeMap<u32, Ends>, mine: &BTreeSet<u32>) {
    io.with(|world| {
        for partition in mine {
            let has = ends
                .get(partition)
                .and_then(|ends| ends.topic)
                .map_or(-1, |tail| tail.offset);
            if has < world.oracle.reached(*partition) {
                world.hit(Hit::WentBack);
            }
        }
    });
}

fn carry_out(
    io: &Io,
    relay: &mut Relay<Arc<Row>>,
    instance: u64,
    (line, looked_at): (u64, &mut i64),
    sent: &mut BTreeSet<(u64, u32, u64)>,
) {
    while let Some(output) = relay.output() {
        match output {
            Output::Tails { ticket } => {
                *looked_at = io.now();
                ask_tails(io, instance, ticket);
            }
            Output::Read {
                ticket,
                partition,
                from,
                to,
            } => ask_range(io, instance, partition, ticket, (from, to)),
            Output::Publish {
                ticket,
                partition,
                first,
                rows,
            } => {
                for (offset, row) in (first..).zip(&rows) {
                    assert_eq!(
                        (row.partition, row.offset),
                        (partition, offset),
                        "a run with a gap"
                    );
                }
                let me = io.me();
                sent.insert((line, partition, ticket));
                io.did(Op::Relayed, rows.len());
                io.with(|world| world.publish((me, line, *looked_at), partition, ticket, rows));
            }
            Output::Stopped { partition, why } => {
                panic!("partition {partition} is not relayed: {why:?}")
            }
        }
    }
}

/// Reads the topic's tails, then the ledger's heads.
fn ask_tails(io: &Io, instance: u64, ticket: u64) {
    let (me, asker) = (io.me(), io.clone());
    io.spawn(async move {
        let way = asker.with(|world| world.rng.delay(500));
        asker.sleep(way).await;
        let tails = asker.with(|world| {
            let partitions = 0..world.store.partitions;
            let up = world.broker.up;
            up.then(|| {
                partitions
                    .map(|it| world.broker.tail(it))
                    .collect::<Vec<_>>()
            })
        });
        let heads = asker.ask("heads", None, Request::Heads).await;
        let ends = match (tails, heads) {
            (Some(tails), Ok(Reply::Heads(heads, _))) => {
                let ends = tails.into_iter().zip(heads).map(|(topic, head)| Ends {
                    topic,
                    ledger: head.offset,
                    fork: None,
                });
                Some((0_u32..).zip(ends).collect())
            }
            _ => None,
        };
        asker.with(|world| world.send(me, Mail::Tails(instance, ticket, ends)));
    });
}
