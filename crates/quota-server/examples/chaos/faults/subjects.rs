//! What clients do to a ledger: leave in the middle, and all want the same.

use crate::client::Outcome;
use crate::dice::Dice;
use crate::history::{Attempt, Op, Told, Wish};
use crate::load::op;
use crate::world::World;
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

/// Requests that are given up.
const HANG_UPS: u64 = 150;
/// Clients that want the last unit.
const RACERS: usize = 1_000;

/// Requests whose clients hang up after 0 to 5 ms. No session may stay inside a transaction for that.
pub async fn clients_hang_up(world: &mut World) -> anyhow::Result<()> {
    let clients = world.clients();
    let mut sent = JoinSet::new();
    let name = format!("gone-{}", world.dice.next());
    for number in 0..HANG_UPS {
        let patience = world.dice.moment(Duration::from_millis(5));
        let Some(client) = world.dice.pick(&clients).cloned() else {
            break;
        };
        let subject = format!("{name}-{}", number % 5);
        let wish = Wish::Consume {
            feature: "ten",
            amount: 1,
        };
        sent.spawn(async move {
            let mut op = op(subject, wish, Some(format!("k-{number}")));
            let started = Instant::now();
            let attempt = tokio::time::timeout(patience, op.send(&client)).await;
            // A client that left knows nothing.
            op.attempts.push(attempt.unwrap_or_else(|_| Attempt {
                started,
                ended: Instant::now(),
                outcome: Outcome::Lost,
            }));
            op
        });
        if number % 16 == 0 {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
    world.history.ops.extend(sent.join_all().await);
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    // Lanes do have transactions, which no client's leaving touches.
    let stuck = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()
                 AND application_name NOT IN ('chaos', 'quota-ledger lane')
                 AND state LIKE 'idle in transaction%' AND state_change < now() - interval '1 second'";
    let stuck = world.plan.database.number(stuck).await?;
    if stuck > 0 {
        let wrong = format!("{stuck} sessions are idle in a transaction after clients hung up");
        world.checker.found.push(wrong);
    }
    Ok(())
}

/// A thousand clients at once want the last unit of one subject, half of them with keys of their own.
pub async fn hot(world: &mut World) -> anyhow::Result<()> {
    let clients = world.clients();
    let subject = format!("hot-{}", world.dice.next());
    let first = two_of_three(world, &subject).await;
    let mut racers = JoinSet::new();
    for number in 0..RACERS {
        let mut dice: Dice = world.dice.fork();
        let (clients, subject) = (clients.clone(), subject.clone());
        racers.spawn(async move {
            let id = number.is_multiple_of(2).then(|| format!("racer-{number}"));
            let wish = Wish::Consume {
                feature: "three",
                amount: 1,
            };
            let mut op = op(subject, wish, id);
            if let Some(client) = dice.pick(&clients) {
                let attempt = op.send(client).await;
                op.attempts.push(attempt);
            }
            op
        });
    }
    let raced = racers.join_all().await;
    // Where fewer were used up before than wanted, more are left; the model knows.
    let left = 3 - first.iter().filter(|op| won(op)).count();
    let won = raced.iter().filter(|op| won(op)).count();
    if won > left {
        let wrong = format!("{won} of {RACERS} clients got one of the last {left} of {subject}");
        world.checker.found.push(wrong);
    }
    world.history.ops.extend(raced);
    world.history.ops.extend(first);
    Ok(())
}

fn won(op: &Op) -> bool {
    op.settled().any(|(_, answer)| answer.status == 200)
}

/// Uses up all but the last unit.
async fn two_of_three(world: &mut World, subject: &str) -> Vec<Op> {
    let clients = world.clients();
    let mut used = Vec::new();
    for number in 0..2 {
        let id = Some(format!("before-{number}"));
        let wish = Wish::Consume {
            feature: "three",
            amount: 1,
        };
        let mut op = op(subject.to_owned(), wish, id);
        while op.told() != Told::Settled && op.attempts.len() < 200 {
            if let Some(client) = world.dice.pick(&clients) {
                let attempt = op.send(client).await;
                op.attempts.push(attempt);
            }
        }
        used.push(op);
    }
    used
}
