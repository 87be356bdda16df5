//! Jobs in work, and their answers as they come in.

use crate::writer::job::Job;
use quota_core::command::{Answer, Command, Refusal};
use std::time::Instant;

/// Jobs in work: their answers, as they come in.
pub struct Desk {
    jobs: Vec<Job>,
    answers: Vec<Vec<Option<Answer>>>,
    /// Where each command's answer goes: the job, and the place in it.
    places: Vec<(usize, usize)>,
}

impl Desk {
    /// Takes those jobs that may still be decided; the commands, each by its place.
    pub fn open(jobs: Vec<Job>) -> (Self, Vec<(usize, Command)>) {
        let now = Instant::now();
        let mut desk = Self {
            jobs: Vec::with_capacity(jobs.len()),
            answers: Vec::new(),
            places: Vec::new(),
        };
        let mut commands = Vec::new();
        for mut job in jobs {
            if job.deadline <= now || job.reply.is_closed() || !job.ticket.take() {
                continue;
            }
            for (place, command) in std::mem::take(&mut job.commands).into_iter().enumerate() {
                commands.push((desk.places.len(), command));
                desk.places.push((desk.jobs.len(), place));
                if place == 0 {
                    desk.answers.push(Vec::new());
                }
                if let Some(answers) = desk.answers.last_mut() {
                    answers.push(None);
                }
            }
            desk.jobs.push(job);
        }
        (desk, commands)
    }

    /// Puts an answer in its place.
    pub fn put(&mut self, index: usize, answer: Answer) {
        if let Some((job, place)) = self.places.get(index)
            && let Some(slot) = self
                .answers
                .get_mut(*job)
                .and_then(|answers| answers.get_mut(*place))
        {
            *slot = Some(answer);
        }
    }

    /// Whether the caller of a command was told that time ran out: it must never be decided again.
    pub fn is_given_up(&self, index: usize) -> bool {
        let job = self
            .places
            .get(index)
            .and_then(|(job, _)| self.jobs.get(*job));
        job.is_none_or(|job| job.ticket.is_given_up())
    }

    /// Answers every caller.
    pub fn close(self) {
        for (job, answers) in self.jobs.into_iter().zip(self.answers) {
            let missing = || {
                Answer::Refused(Refusal::unavailable(
                    "others write to the same subjects just now; nothing was recorded, try again",
                ))
            };
            let answers = answers
                .into_iter()
                .map(|answer| answer.unwrap_or_else(missing))
                .collect();
            // A caller that is gone has no use for its answer.
            drop(job.reply.send(answers));
        }
    }
}
