//! The door to a lane: commands wait in its queue, and their caller waits for an answer, but not for ever.

use super::{LANES, Mail};
use crate::clients::identity_of;
use crate::coverage::Hit;
use crate::oracle::{Attempt, Identity};
use crate::store::{Fault, Reply};
use crate::world::{Call, Io, NOWHERE, World};
use quota_core::command::{Answer, Command, Refusal};
use quota_core::lane::{Phase, Ticket};
use std::collections::BTreeSet;
use std::rc::Rc;

/// How long a caller waits for an answer.
const PATIENCE: i64 = 5_000_000;

/// Commands that came together and are answered together.
pub struct Job {
    pub commands: Vec<Command>,
    /// What names the event of each.
    pub names: Rc<[Option<Identity>]>,
    pub agreed: Rc<Ticket>,
    pub ticket: u64,
}

/// Has a node's lane carry commands out; none where the node died before it answered.
pub async fn submit(io: &Io, node: usize, commands: Vec<Command>) -> Option<Vec<Answer>> {
    // A client's way to the node and back; the node's own parts have none.
    let outside = io.node == NOWHERE;
    if outside {
        let way = io.with(|world| world.rng.delay(200));
        io.sleep(way).await;
    }
    let count = commands.len();
    let mut parts: [(Vec<usize>, Vec<Command>); LANES] = Default::default();
    for (place, command) in commands.into_iter().enumerate() {
        let part = &mut parts[command.address.partition as usize % LANES];
        part.0.push(place);
        part.1.push(command);
    }
    let parts = parts.into_iter().enumerate();
    let parts = parts.filter(|(_, (places, _))| !places.is_empty());
    // All are under way before the first is waited for.
    let calls: Vec<_> = parts
        .map(|(lane, (places, part))| (places, send(io, node, lane, part)))
        .collect();
    let mut answers: Vec<Option<Answer>> = vec![None; count];
    for (places, call) in calls {
        let its = match call.await {
            Reply::Answers(its) => its,
            // Nobody listened there.
            Reply::Failed(Fault::Refused) => {
                let refusal = Refusal::unavailable("connection refused");
                vec![Answer::Refused(refusal); places.len()]
            }
            _ => return None,
        };
        for (place, answer) in places.into_iter().zip(its) {
            answers[place] = Some(answer);
        }
    }
    if outside {
        let lost = io.with(|world| !world.calm && world.rng.one_in(200));
        if lost {
            io.hit(Hit::CrashUnknown);
            return None;
        }
    }
    answers.into_iter().collect()
}

/// Puts commands into a lane's queue, and gives them up when their time is over.
fn send(io: &Io, node: usize, lane: usize, commands: Vec<Command>) -> Call {
    let count = commands.len();
    io.call("an answer", |world, ticket| {
        let slot = &mut world.nodes[node];
        if !slot.alive {
            let refused = Reply::Failed(Fault::Refused);
            return world.after(500, move |world| world.reply(ticket, refused));
        }
        slot.callers.insert(ticket);
        let agreed = Rc::new(Ticket::default());
        let names: Rc<[_]> = commands.iter().map(identity_of).collect();
        let job = Job {
            commands,
            names: Rc::clone(&names),
            agreed: Rc::clone(&agreed),
            ticket,
        };
        let lane = slot.lanes[lane];
        world.send(lane, Mail::Job(job));
        world.after(PATIENCE, move |world| {
            if !world.waits(ticket) {
                return;
            }
            let refusal = match agreed.give_up() {
                Phase::Waiting => Refusal::unavailable("in time"),
                Phase::Taken | Phase::GivenUp => Refusal::outcome_unknown(),
            };
            answer(world, ticket, &names, vec![Answer::Refused(refusal); count]);
        });
    })
}

/// Answers whoever waits for it; what is told of each attempt must be so.
fn answer(world: &mut World, ticket: u64, names: &[Option<Identity>], answers: Vec<Answer>) {
    if world.waits(ticket) {
        for (name, answer) in names.iter().zip(&answers) {
            if let (Some(name), Answer::Refused(refusal)) = (name, answer)
                && refusal.status != 504
            {
                world.oracle.each.refused((name.clone(), ticket));
            }
        }
    }
    world.reply(ticket, Reply::Answers(answers));
}

/// Jobs in work, and their answers as they come in.
pub struct Desk {
    jobs: Vec<Job>,
    answers: Vec<Option<Answer>>,
    /// The job of each command.
    places: Vec<usize>,
    /// Commands that were given up before some round: none of these is decided any more.
    dropped: BTreeSet<usize>,
}

impl Desk {
    pub fn open(io: &Io, jobs: Vec<Job>) -> (Self, Vec<(usize, Command)>) {
        let mut desk = Self {
            jobs: Vec::new(),
            answers: Vec::new(),
            places: Vec::new(),
            dropped: BTreeSet::new(),
        };
        let mut commands = Vec::new();
        for mut job in jobs {
            if !job.agreed.take() {
                io.hit(Hit::Late);
                continue;
            }
            for command in std::mem::take(&mut job.commands) {
                commands.push((desk.places.len(), command));
                desk.places.push(desk.jobs.len());
                desk.answers.push(None);
            }
            desk.jobs.push(job);
        }
        (desk, commands)
    }

    pub fn is_given_up(&self, index: usize) -> bool {
        self.jobs[self.places[index]].agreed.is_given_up()
    }

    /// A round begins.
    pub fn begin(&mut self) {
        let all = 0..self.places.len();
        self.dropped = all.filter(|index| self.is_given_up(*index)).collect();
    }

    /// The attempts that are in work.
    pub fn attempts(&self) -> Rc<[Attempt]> {
        let of = |job: &Job| {
            let names: Vec<Identity> = job.names.iter().flatten().cloned().collect();
            let ticket = job.ticket;
            names.into_iter().map(move |name| (name, ticket))
        };
        self.jobs.iter().flat_map(of).collect()
    }

    /// Has an answer for a command.
    pub fn put(&mut self, index: usize, answer: Answer) {
        assert!(
            !self.dropped.contains(&index),
            "a command was decided after its caller had given it up: {answer:?}"
        );
        self.answers[index] = Some(answer);
    }

    pub fn close(self, io: &Io) {
        let mut answers = self.answers.into_iter();
        let mut places = self.places.into_iter().peekable();
        for (number, job) in self.jobs.into_iter().enumerate() {
            let mut its = Vec::new();
            while places.next_if_eq(&number).is_some() {
                let missing = || Answer::Refused(Refusal::unavailable("outrun"));
                its.push(answers.next().flatten().unwrap_or_else(missing));
            }
            io.with(|world| {
                for slot in &mut world.nodes {
                    slot.callers.remove(&job.ticket);
                }
                answer(world, job.ticket, &job.names, its);
            });
        }
    }
}
