//! Each attempt by itself: what its caller was told, against what it did, whatever became of other attempts at the same event.

use super::Identity;
use std::collections::BTreeSet;

/// An event, and the ticket of whoever waits for it.
pub type Attempt = (Identity, u64);

#[derive(Default)]
pub struct Each {
    /// Told that nothing was recorded.
    refused: BTreeSet<Attempt>,
    recorded: BTreeSet<Attempt>,
}

impl Each {
    pub fn refused(&mut self, attempt: Attempt) {
        assert!(
            !self.recorded.contains(&attempt),
            "told that nothing was recorded, and this attempt had recorded it: {attempt:?}"
        );
        self.refused.insert(attempt);
    }

    pub fn recorded(&mut self, attempt: Attempt) {
        assert!(
            !self.refused.contains(&attempt),
            "told that nothing was recorded, and then this attempt's append went in: {attempt:?}"
        );
        self.recorded.insert(attempt);
    }
}
