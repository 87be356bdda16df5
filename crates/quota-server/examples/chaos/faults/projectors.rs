//! Projectors that die in the middle, come and go, and come back too late.

use crate::node::Node;
use crate::proxy::{Release, Stage, Work};
use crate::world::World;
use nix::sys::signal::Signal;
use std::time::{Duration, Instant};

const TRAP: Duration = Duration::from_secs(20);
/// Projectors that come and go.
const GUESTS: usize = 2;

/// SIGKILL while views and checkpoint are being saved: before it is sent, after it was, before the answer.
pub async fn killed(world: &mut World) -> anyhow::Result<()> {
    let number = world.any();
    let stages = [Stage::Before, Stage::Sent, Stage::Answered];
    let stage = world.dice.pick(&stages).copied().unwrap_or(Stage::Sent);
    let node = world.node(number)?;
    let held = tokio::time::timeout(TRAP, node.proxy.trap(&[Work::SaveViews], stage)).await;
    node.kill()?;
    drop(held);
    world.recover(Some(Instant::now())).await
}

/// Members of the projectors' group come, stand still, go on and die.
pub async fn storm(world: &mut World) -> anyhow::Result<()> {
    let mut guests = Vec::new();
    for number in 0..GUESTS {
        let mut guest = Node::new(&world.plan, &format!("guest-{number}"), "projector").await?;
        guest.start()?;
        guests.push(guest);
    }
    for _ in 0..6 {
        tokio::time::sleep(world.dice.moment(Duration::from_millis(700))).await;
        let deed = world.dice.below(4);
        let number = world.any();
        match deed {
            0 => world.node(number)?.signal(Signal::SIGSTOP)?,
            1 => {
                for node in &world.nodes {
                    node.signal(Signal::SIGCONT)?;
                }
            }
            _ => {
                let index = usize::try_from(world.dice.below(GUESTS as u64))?;
                if let Some(guest) = guests.get_mut(index) {
                    guest.kill()?;
                    guest.start()?;
                }
            }
        }
    }
    for node in &world.nodes {
        node.signal(Signal::SIGCONT)?;
    }
    drop(guests);
    world.recover(Some(Instant::now())).await
}

/// A projector stands still with a step in hand, loses its partitions, others go on from there, and then its step arrives.
pub async fn zombie(world: &mut World) -> anyhow::Result<()> {
    let number = world.any();
    let node = world.node(number)?;
    let trap = node.proxy.trap(&[Work::SaveViews], Stage::Before);
    let Ok(Ok(held)) = tokio::time::timeout(TRAP, trap).await else {
        node.proxy.disarm();
        return Ok(());
    };
    node.signal(Signal::SIGSTOP)?;
    // From here on nobody touches what is in that step.
    world.rest().await;
    world.caught_up().await?;
    held.release(Release::GoOn);
    tokio::time::sleep(Duration::from_millis(300)).await;
    world.node(number)?.signal(Signal::SIGCONT)?;
    world.recover(Some(Instant::now())).await
}
