//! What a node does beside: it reads the heads for all who follow them, and sweeps what is due.

use super::{Mail, Memory, Reading, submit};
use crate::coverage::Hit;
use crate::store::{Reply, Request};
use crate::world::Io;
use quota_core::command::{Address, Answer, Command, Wish};
use quota_core::lane::PartitionEnd;
use quota_core::row::Row;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

/// What a node knows when it begins: the ends of all partitions, and the catalogs. None where the database is away.
pub async fn opened(io: &Io) -> Option<Memory> {
    let began = io.now();
    let Reply::Heads(heads, clock) = io.ask("a start", None, Request::Heads).await.ok()? else {
        return None;
    };
    // Later than the heads: what is newer than a head is of no harm on the shelf, but it is not in force there.
    let Reply::Rows(catalogs) = io.ask("a start", None, Request::Catalogs).await.ok()? else {
        return None;
    };
    let ends = (0_u32..).zip(heads).map(|(partition, head)| {
        let here = |row: &&Arc<Row>| row.partition == partition && row.offset <= head.offset;
        let versions: BTreeMap<Arc<str>, u32> = catalogs
            .iter()
            .filter(here)
            .map(|row| (Arc::clone(&row.product), row.catalog_version))
            .collect();
        PartitionEnd { head, versions }
    });
    let mut memory = Memory::new(ends.collect(), began);
    for row in &catalogs {
        memory.shelve(row);
    }
    io.with(|world| memory.set_clock(clock, world));
    Some(memory)
}

/// Reads the heads once a second, and the clock.
pub async fn heads(io: Io, memory: Rc<RefCell<Memory>>) {
    loop {
        let asked_at = io.now();
        if let Ok(Reply::Heads(heads, clock)) = io.ask("heads", None, Request::Heads).await {
            let offsets = heads.iter().map(|head| head.offset).collect();
            let reading = Rc::new(Reading { offsets, asked_at });
            io.with(|world| {
                memory.borrow_mut().set_clock(clock, world);
                let slot = &world.nodes[io.node];
                let tasks = [slot.follower, slot.relay, slot.projector];
                for task in tasks {
                    world.send(task, Mail::Heads(Rc::clone(&reading)));
                }
            });
        }
        let pause = io.with(|world| world.rng.delay(700_000));
        io.sleep(pause).await;
    }
}

/// Asks the lane to record the expiries that are due.
pub async fn sweeper(io: Io, memory: Rc<RefCell<Memory>>) {
    loop {
        let pause = io.with(|world| world.rng.delay(2_000_000));
        io.sleep(pause).await;
        let now = io.with(|world| memory.borrow().clock(world));
        let Ok(Reply::Due(due)) = io.ask("what is due", None, Request::Due(now)).await else {
            continue;
        };
        let partitions = io.with(|world| world.store.partitions);
        let command = |(product, subject): &(Arc<str>, Arc<str>)| Command {
            address: Address::new(product, subject, partitions),
            wish: Wish::Sweep,
        };
        let commands: Vec<Command> = due.iter().map(command).collect();
        if commands.is_empty() {
            continue;
        }
        for answer in submit(&io, io.node, commands).await.unwrap_or_default() {
            if matches!(answer, Answer::Swept { recorded } if recorded > 0) {
                io.hit(Hit::Swept);
            }
        }
    }
}
