//! A node's follower: the product's own [`Follower`] advances its subject cache.

use super::{Mail, Memory, Reading};
use crate::coverage::{Hit, Op};
use crate::store::{Reply, Request};
use crate::world::Io;
use quota_core::follow::{Follower, Output, Rules};
use quota_core::record::{from_record, to_record};
use quota_core::row::Row;
use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

pub const RULES: Rules = Rules {
    ahead: 8,
    range: 40,
    silence: 250_000,
};

pub async fn run(io: Io, memory: Rc<RefCell<Memory>>) {
    let partitions = io.with(|world| world.store.partitions);
    let me = io.me();
    io.with(|world| world.consume(me, (0..partitions).collect()));
    let mut follower: Follower<Arc<Row>> = Follower::new(RULES);
    let mut reading: Option<Rc<Reading>> = None;
    loop {
        carry_out(&io, &memory, &mut follower, reading.as_deref());
        let deadline = follower.deadline();
        let mail = io.recv(deadline).await;
        let now = io.now();
        match mail {
            None => follower.tick(now),
            Some(Mail::Records(records)) => {
                for row in records {
                    catch_up(&memory, &mut follower, row.partition);
                    deliver(&io, &mut follower, row, now);
                }
            }
            Some(Mail::Range(_, partition, ticket, rows)) => match rows {
                Some(rows) => {
                    io.hit(Hit::FollowerHealed);
                    io.did(Op::Healed, rows.len());
                    follower.range(partition, ticket, rows, now);
                }
                None => follower.range_failed(partition, ticket, now),
            },
            Some(Mail::Heads(read)) => {
                for (partition, head) in (0_u32..).zip(&read.offsets) {
                    catch_up(&memory, &mut follower, partition);
                    memory
                        .borrow_mut()
                        .saw_head(partition, *head, read.asked_at);
                    follower.head(partition, *head, read.asked_at, now);
                }
                reading = Some(read);
            }
            Some(_) => {}
        }
    }
}

/// Hands a record to a follower, now and then in the form that Kafka carries.
pub fn deliver(io: &Io, follower: &mut Follower<Arc<Row>>, row: Arc<Row>, now: i64) {
    io.did(Op::Delivered, 1);
    if !follower.wants(row.partition, 0, row.offset) {
        return io.hit(Hit::FollowerDropped);
    }
    let (partition, offset) = (row.partition, row.offset);
    let row = if io.with(|world| world.rng.one_in(8)) {
        let record = to_record(&row, &crate::store::LEDGER, 0);
        let headers = record.headers().map(|(name, value)| (name, Some(value)));
        let received = from_record(headers, Some(record.value())).expect("a record of a row");
        Arc::new(received.into_unchained())
    } else {
        row
    };
    follower.record(partition, 0, offset, row, now);
}

/// Asks the ledger for a range, beside whatever else the task does; the rows come by mail.
pub fn ask_range(io: &Io, instance: u64, partition: u32, ticket: u64, (from, to): (i64, i64)) {
    let (me, asker) = (io.me(), io.clone());
    io.spawn(async move {
        let most = usize::try_from(to - from + 1).unwrap_or(0);
        let rows = asker
            .ask("a range", None, Request::Range(partition, from, most))
            .await;
        let rows = match rows {
            Ok(Reply::Rows(rows)) => Some(rows.into_iter().map(|row| (row.offset, row)).collect()),
            _ => None,
        };
        asker.with(|world| world.send(me, Mail::Range(instance, partition, ticket, rows)));
    });
}

/// Goes on where the cache is: this node's own commits are there already.
fn catch_up(memory: &RefCell<Memory>, follower: &mut Follower<Arc<Row>>, partition: u32) {
    let next = memory.borrow().head_offset(partition) + 1;
    if follower.next(partition).is_none_or(|known| known < next) {
        follower.follow(partition, 0, next);
    }
}

fn carry_out(
    io: &Io,
    memory: &RefCell<Memory>,
    follower: &mut Follower<Arc<Row>>,
    reading: Option<&Reading>,
) {
    while let Some(output) = follower.output() {
        match output {
            Output::Row { partition, row, .. } => {
                let mut memory = memory.borrow_mut();
                io.with(|world| memory.apply(world, &row));
                if let Some(reading) = reading {
                    let head = reading.offsets[partition as usize];
                    memory.saw_head(partition, head, reading.asked_at);
                }
            }
            Output::Read {
                ticket,
                partition,
                from,
                to,
            } => ask_range(io, 0, partition, ticket, (from, to)),
            Output::Epoch { .. } => panic!("there is one epoch in this world"),
        }
    }
}
