//! The database's clock, as this node knows it: decisions go by it, never by the node's own.

use quota_core::time::Timestamp;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// The database's clock, carried on by this node's steady clock between two readings.
pub struct DatabaseClock {
    started: Instant,
    /// What the database's clock showed when `started` was taken, by the newest reading; in microseconds.
    at_start: AtomicI64,
}

impl Default for DatabaseClock {
    fn default() -> Self {
        let since = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        let at_start = i64::try_from(since.as_micros()).unwrap_or(i64::MAX);
        Self {
            started: Instant::now(),
            at_start: AtomicI64::new(at_start),
        }
    }
}

impl DatabaseClock {
    /// This instant.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        Timestamp::from_micros(self.at_start.load(Ordering::Relaxed)).plus(self.elapsed())
    }

    /// Takes in a fresh reading.
    pub fn set(&self, reading: Timestamp) {
        self.at_start
            .store(reading.plus(-self.elapsed()).micros(), Ordering::Relaxed);
    }

    /// Microseconds of this node's steady clock.
    #[must_use]
    pub fn elapsed(&self) -> i64 {
        i64::try_from(self.started.elapsed().as_micros()).unwrap_or(i64::MAX)
    }
}
