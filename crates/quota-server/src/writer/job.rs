//! A caller's commands on their way through the lane, and who may still decide them.

use quota_core::command::{Answer, Command};
use quota_core::lane::Ticket;
use std::sync::Arc;
use std::time::Instant;
use tokio::sync::oneshot;

/// Commands that came together and are answered together.
pub struct Job {
    /// The commands.
    pub commands: Vec<Command>,
    /// Where the answers go.
    pub reply: oneshot::Sender<Vec<Answer>>,
    /// Who may still decide them.
    pub ticket: Arc<Ticket>,
    /// When their caller gives up.
    pub deadline: Instant,
}
