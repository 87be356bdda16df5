//! What goes wrong, and when: all of it from the seed.

use crate::catalogs::{PRODUCTS, parsed, text};
use crate::coverage::Hit;
use crate::node::{Mail, start};
use crate::oracle::{check_caches, check_views};
use crate::store::{Putting, Reply, Request};
use crate::world::{Io, SECOND, TaskId, World};
use quota_core::lane::Fence;
use quota_core::publication::{Place, publication};
use quota_core::row::Row;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::Arc;

const HOUR: i64 = 3_600 * SECOND;
const DAY: i64 = 24 * HOUR;

/// Lets things go wrong until the world is calm.
pub async fn run(io: Io) {
    loop {
        let pause = io.with(|world| world.rng.delay(400_000));
        io.sleep(pause).await;
        if io.with(|world| world.calm) {
            return;
        }
        match io.with(|world| world.rng.below(34)) {
            0..=5 => crash_node(&io),
            6 => crash_database(&io),
            7 => stop_kafka(&io),
            8 | 9 => io.with(turn_clocks),
            10..=13 => io.with(warp),
            14 | 15 => io.with(World::lose_records),
            16..=23 => io.with(assign),
            24..=26 => {
                let product = io.with(|world| *world.rng.pick(&PRODUCTS));
                let publisher = io.clone();
                io.spawn(async move {
                    let published = publish(&publisher, product).await;
                    publisher.hit(if published {
                        Hit::Published
                    } else {
                        Hit::PublishedNothing
                    });
                });
            }
            27..=28 => io.with(spoil_line),
            _ => io.with(look),
        }
    }
}

/// A node dies, and comes back after a while.
fn crash_node(io: &Io) {
    let node = io.with(|world| {
        let node = world.rng.below(world.nodes.len());
        let alive = world.nodes[node].alive;
        if alive {
            world.crash_node(node);
        }
        alive.then_some(node)
    });
    let Some(node) = node else {
        return;
    };
    let again = io.clone();
    io.spawn(async move {
        let pause = again.with(|world| world.rng.delay(400_000));
        again.sleep(pause).await;
        start(&again, node);
        // Its part of the work comes when others notice that it is there.
        again.sleep(500_000).await;
        again.with(assign);
    });
}

fn crash_database(io: &Io) {
    io.with(|world| {
        world.hit(Hit::DatabaseCrash);
        world.crash_database();
        let long = world.rng.one_in(3);
        let down = if long {
            world.rng.range(2 * SECOND, 9 * SECOND)
        } else {
            world.rng.delay(200_000)
        };
        world.after(down, |world| world.store.up = true);
    });
}

fn stop_kafka(io: &Io) {
    io.with(|world| {
        world.broker.up = false;
        let down = world.rng.delay(500_000);
        world.after(down, |world| world.broker.up = true);
    });
}

/// A node's line to the database loses much for a while: one trouble comes on top of the other.
fn spoil_line(world: &mut World) {
    let node = world.rng.below(world.nodes.len());
    let until = world.now + world.rng.range(SECOND, 4 * SECOND);
    world.bad_lines.insert(node, until);
    world.hit(Hit::BadLine);
}

fn turn_clocks(world: &mut World) {
    match world.rng.below(3) {
        0 => {
            world.skew += world.rng.range(1, 4 * HOUR);
            world.hit(Hit::ClockForward);
        }
        1 => {
            world.skew -= world.rng.range(1, 9 * SECOND);
            world.hit(Hit::ClockBack);
        }
        _ => {
            let node = world.rng.below(world.nodes.len());
            let by = world.rng.range(-30 * SECOND, 30 * SECOND);
            if let Some(memory) = world.nodes[node].memory.clone() {
                memory.borrow_mut().jump(by);
                world.hit(Hit::NodeClock);
            }
        }
    }
}

/// Nobody asks anything for days, or months.
fn warp(world: &mut World) {
    world.hit(Hit::Warp);
    world.warp += match world.rng.below(6) {
        0 => world.rng.range(20 * DAY, 45 * DAY),
        1 | 2 => world.rng.range(DAY, 9 * DAY),
        _ => world.rng.range(HOUR, 30 * HOUR),
    };
}

/// Deals the partitions out anew among the nodes that are there; each hears of it in its own time.
pub fn assign(world: &mut World) {
    let alive: Vec<usize> = (0..world.nodes.len())
        .filter(|node| world.nodes[*node].alive)
        .collect();
    if alive.is_empty() {
        return;
    }
    let relays: Vec<TaskId> = alive.iter().map(|node| world.nodes[*node].relay).collect();
    let projectors: Vec<TaskId> = alive
        .iter()
        .map(|node| world.nodes[*node].projector)
        .collect();
    for (tasks, hit) in [(relays, Hit::TwoRelays), (projectors, Hit::Rebalanced)] {
        let mut shares: BTreeMap<TaskId, BTreeSet<u32>> =
            tasks.iter().map(|task| (*task, BTreeSet::new())).collect();
        for partition in 0..world.store.partitions {
            let task = *world.rng.pick(&tasks);
            shares.entry(task).or_default().insert(partition);
            // Now and then two are at it.
            if !world.calm && world.rng.one_in(8) {
                let other = *world.rng.pick(&tasks);
                if shares.entry(other).or_default().insert(partition) {
                    world.hit(hit);
                }
            }
        }
        for (task, share) in shares {
            let later = world.rng.delay(100_000);
            world.after(later, move |world| world.send(task, Mail::Own(share)));
        }
    }
    for number in 0..world.broker.inboxes.len() {
        let inboxes: Vec<TaskId> = alive.iter().map(|node| world.nodes[*node].inbox).collect();
        let owner = *world.rng.pick(&inboxes);
        if world.broker.inboxes[number].owner != Some(owner) {
            world.hand_inbox(number, Some(owner));
        }
    }
}

/// Looks whether views and caches are true in the middle of it all.
fn look(world: &mut World) {
    let partition = world.rng.range(0, i64::from(world.store.partitions)) as u32;
    let node = world.rng.below(world.nodes.len());
    check_caches(world, node, partition);
    if world.rng.one_in(3) {
        check_views(&world.store, partition);
    }
}

/// Publishes the next version of a product's catalog in every partition at once, or nothing.
pub async fn publish(io: &Io, product: &str) -> bool {
    let Ok(Reply::Opened(session)) = io.ask("publishing", None, Request::Open).await else {
        return false;
    };
    let published = publish_in(io, product, session).await.is_some();
    io.with(|world| world.cut_session(session));
    published
}

async fn publish_in(io: &Io, product: &str, session: u64) -> Option<()> {
    let partitions = io.with(|world| world.store.partitions);
    let session = Some(session);
    io.ask(
        "publishing",
        session,
        Request::Lock((0..partitions).collect()),
    )
    .await
    .ok()?;
    let Ok(Reply::Heads(heads, clock)) = io.ask("publishing", session, Request::Heads).await else {
        return None;
    };
    let Ok(Reply::Rows(catalogs)) = io.ask("publishing", session, Request::Catalogs).await else {
        return None;
    };
    let places: Vec<Place> = (0_u32..)
        .zip(&heads)
        .map(|(partition, head)| {
            let here = |row: &&Arc<Row>| row.partition == partition && &*row.product == product;
            let newest = catalogs.iter().rfind(here);
            Place {
                partition,
                head: *head,
                before: newest.map(|row| (row.subject_seq, row.offset)),
            }
        })
        .collect();
    let versions = catalogs.iter().filter(|row| &*row.product == product);
    let version = versions.map(|row| row.catalog_version).max().unwrap_or(0) + 1;
    let text = text(product, version);
    parsed(&text);
    let rows = publication(product, version, &text, &places, clock);
    let fences = heads.iter().zip(0_u32..).map(|(head, partition)| Fence {
        partition,
        first_offset: head.offset + 1,
        previous_hash: head.hash,
    });
    let append = Request::Append(Putting {
        rows,
        fences: fences.collect(),
        all: true,
        attempts: Rc::default(),
    });
    let Ok(Reply::Appended(went_in, _)) = io.ask("publishing", session, append).await else {
        return None;
    };
    assert_eq!(
        went_in.len(),
        partitions as usize,
        "a publication is in every partition"
    );
    io.ask("publishing", session, Request::Commit).await.ok()?;
    Some(())
}
