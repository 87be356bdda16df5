//! Clients at work on all nodes, and afterwards: everything that they do not know is asked for again.

use crate::client::{Client, Outcome};
use crate::dice::Dice;
use crate::history::{Attempt, Claim, History, Op, Told, Wish, place, text};
use crate::model::FEATURES;
use crate::servers::LIMIT;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// Clients that work side by side.
const CLIENTS: usize = 12;
/// Wishes of a client that come one right after the other; those of a long round come at a slower pace.
const BURST: usize = 12;
const PACE: Duration = Duration::from_millis(100);
/// Subjects of one round that all of them fight for.
const SUBJECTS: u64 = 6;
/// Of what was acknowledged, so much is asked for again, in percent.
const ASKED_AGAIN: u64 = 20;
/// How long answers are waited for.
const SILENCE: Duration = Duration::from_secs(10);
/// Retries that are on their way at once.
const RETRIES: usize = 24;

/// Clients at work until they are told to stop.
pub struct Load {
    stop: CancellationToken,
    /// Wishes that have got an answer.
    answered: Arc<AtomicUsize>,
    clients: JoinSet<History>,
}

impl Load {
    /// Sets clients to work on these nodes, on subjects that have this in front of their names.
    pub fn start(nodes: &[Client], name: &str, dice: &mut Dice) -> Self {
        let stop = CancellationToken::new();
        let answered = Arc::<AtomicUsize>::default();
        let nodes: Arc<[Client]> = nodes.into();
        let mut clients = JoinSet::new();
        for number in 0..CLIENTS {
            let worker = Worker {
                nodes: Arc::clone(&nodes),
                answered: Arc::clone(&answered),
                name: name.to_owned(),
                number,
                sent: 0,
                dice: dice.fork(),
                holds: Vec::new(),
                history: History::default(),
            };
            clients.spawn(worker.work(stop.clone()));
        }
        Self {
            stop,
            answered,
            clients,
        }
    }

    /// Waits until so many more wishes have got an answer, or nobody gets any for too long.
    pub async fn answers(&self, more: usize) {
        let enough = self.answered.load(Ordering::Relaxed) + more;
        let started = Instant::now();
        while self.answered.load(Ordering::Relaxed) < enough && started.elapsed() < SILENCE {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// Lets every client finish what it is at.
    pub async fn finish(self) -> History {
        self.stop.cancel();
        let mut history = History::default();
        for worked in self.clients.join_all().await {
            history.merge(worked);
        }
        history
    }
}

struct Worker {
    nodes: Arc<[Client]>,
    answered: Arc<AtomicUsize>,
    name: String,
    number: usize,
    sent: usize,
    dice: Dice,
    holds: Vec<(String, String)>,
    history: History,
}

impl Worker {
    async fn work(mut self, stop: CancellationToken) -> History {
        while !stop.is_cancelled() {
            let Some(node) = self.dice.pick(&self.nodes).cloned() else {
                break;
            };
            let mut op = self.wish();
            let twice = op.id.is_some() && self.dice.percent(15);
            let other = self.dice.pick(&self.nodes).cloned();
            if let (true, Some(other)) = (twice, other) {
                // Two devices of one user, or a client that does not wait.
                let (one, two) = tokio::join!(op.send(&node), op.send(&other));
                op.attempts.extend([one, two]);
            } else {
                op.attempts.push(op.send(&node).await);
            }
            if op.told() != Told::Unknown {
                self.answered.fetch_add(1, Ordering::Relaxed);
            } else {
                tokio::time::sleep(PACE).await;
                // Some retry at once, and get to another node or to one that is just starting.
                if op.id.is_some()
                    && self.dice.percent(50)
                    && let Some(node) = self.dice.pick(&self.nodes).cloned()
                {
                    op.attempts.push(op.send(&node).await);
                }
            }
            self.remember_hold(&op);
            if self.dice.percent(10) {
                self.check(&op).await;
            }
            self.history.ops.push(op);
            if self.sent > BURST {
                tokio::time::sleep(PACE).await;
            }
        }
        self.history
    }

    /// The next thing that this client wants.
    fn wish(&mut self) -> Op {
        self.sent += 1;
        let id = format!("{}-{}-{}", self.name, self.number, self.sent);
        let subject = format!("{}-{}", self.name, self.dice.below(SUBJECTS));
        if self.dice.percent(40)
            && let Some((subject, hold)) = self.holds.pop()
        {
            let end = if self.dice.percent(70) {
                "confirm"
            } else {
                "release"
            };
            let id = Some(format!("{hold}:{end}"));
            return op(subject, Wish::End { hold, end }, id);
        }
        let feature = self.dice.pick(&FEATURES).copied().unwrap_or("open");
        let amount = if self.dice.percent(90) { 1 } else { 2 };
        match self.dice.below(10) {
            0 | 1 => op(subject, Wish::Tell { feature, amount }, Some(id)),
            2 => {
                let seconds = if self.dice.percent(80) { 900 } else { 1 };
                let wish = Wish::Hold {
                    feature,
                    amount,
                    seconds,
                };
                op(subject, wish, Some(id))
            }
            3 | 4 => op(subject, Wish::Consume { feature, amount }, None),
            _ => op(subject, Wish::Consume { feature, amount }, Some(id)),
        }
    }

    fn remember_hold(&mut self, op: &Op) {
        if let (Wish::Hold { .. }, Some((_, answer))) = (&op.wish, op.settled().next()) {
            let hold = text(&answer.json(), "hold").to_owned();
            if !hold.is_empty() {
                self.holds.push((op.subject.clone(), hold));
            }
        }
    }

    /// Asks another node about what was just acknowledged: it must know.
    async fn check(&mut self, op: &Op) {
        let (Some((_, answer)), Some(node)) =
            (op.settled().next(), self.dice.pick(&self.nodes).cloned())
        else {
            return;
        };
        let position = op.position(answer);
        let feature = self.dice.pick(&FEATURES).copied().unwrap_or("open");
        let Outcome::Answer(answer) = node.check(&op.subject, feature, &position).await else {
            return;
        };
        match answer.status {
            200 => {
                let claim = Claim::checked(&op.subject, feature, &answer.json());
                let fresh = claim
                    .as_ref()
                    .zip(place(&position))
                    .is_some_and(|(claim, asked)| claim.position >= asked);
                if !fresh {
                    let wrong = format!("a check at least at {position} got {}", answer.text);
                    self.history.wrong.push(wrong);
                }
                self.history.claims.extend(claim);
            }
            429 | 503 | 504 => {}
            _ => {
                let wrong = format!("a check at {position}, which was acknowledged: {answer:?}");
                self.history.wrong.push(wrong);
            }
        }
    }
}

pub const fn op(subject: String, wish: Wish, id: Option<String>) -> Op {
    Op {
        subject,
        wish,
        id,
        attempts: Vec::new(),
    }
}

/// Asks again for everything whose outcome is not known and that can be asked for again, until it is; and for some of
/// what is known, since that must come out the same.
pub async fn settle(history: &mut History, nodes: &[Client], dice: &mut Dice) {
    let mut retries = JoinSet::new();
    for index in 0..history.ops.len() {
        let Some(op) = history.ops.get(index).filter(|op| op.id.is_some()) else {
            continue;
        };
        let again = match op.told() {
            Told::Unknown => true,
            Told::Settled => dice.percent(ASKED_AGAIN),
            Told::Refused | Told::Never => false,
        };
        if let (true, Some(first)) = (again, dice.pick(nodes)) {
            let (op, nodes, dice) = (op.clone(), nodes.to_vec(), dice.fork());
            let first = first.clone();
            retries.spawn(async move { (index, asked_again(op, first, &nodes, dice).await) });
        }
        if retries.len() >= RETRIES {
            note(history, retries.join_next().await);
        }
    }
    while let Some(done) = retries.join_next().await {
        note(history, Some(Ok(done.unwrap_or_default())));
    }
}

type Retried = (usize, Vec<Attempt>);

fn note(history: &mut History, done: Option<Result<Retried, tokio::task::JoinError>>) {
    if let Some(Ok((index, attempts))) = done
        && let Some(op) = history.ops.get_mut(index)
    {
        op.attempts.extend(attempts);
    }
}

/// Sends it until an answer says what became of it.
async fn asked_again(mut op: Op, first: Client, nodes: &[Client], mut dice: Dice) -> Vec<Attempt> {
    let before = op.attempts.len();
    let started = Instant::now();
    let mut node = first;
    while started.elapsed() < LIMIT {
        let attempt = op.send(&node).await;
        let told = attempt.told(&op);
        let busy = attempt.answer().is_some_and(|answer| answer.status == 503);
        op.attempts.push(attempt);
        if told != Told::Unknown && !busy {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
        node = dice.pick(nodes).cloned().unwrap_or(node);
    }
    op.attempts.split_off(before)
}
