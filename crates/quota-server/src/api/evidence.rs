//! The ids of the events behind refusals. An event's id never changes, so what was read once is kept: a user at the
//! limit, who is asked about again and again, costs the database nothing.

use crate::service::Service;
use quick_cache::sync::Cache;
use quota_core::command::{Decision, Refusal};
use std::sync::Arc;

/// Ids that are kept; about 100 bytes each.
const KEPT: usize = 100_000;

/// The ids of events, by epoch, partition and offset.
pub struct Evidence(Cache<(u32, u32, i64), Arc<str>>);

impl Default for Evidence {
    fn default() -> Self {
        Self(Cache::new(KEPT))
    }
}

impl Evidence {
    /// The ids of the events behind a refusal, newest first; none behind what is allowed.
    ///
    /// # Errors
    /// The ledger cannot be read.
    pub async fn of(
        &self,
        service: &Service,
        decision: &Decision,
    ) -> Result<Vec<Arc<str>>, Refusal> {
        let offsets = decision.outcome.evidence.as_slice();
        let partition = decision.address.partition;
        let epoch = service.node().epoch();
        let key = |offset: &i64| (epoch, partition, *offset);
        let kept = offsets.iter().map(|offset| self.0.get(&key(offset)));
        if let Some(ids) = kept.collect::<Option<Vec<_>>>() {
            return Ok(ids);
        }
        let ids = service.evidence_ids(partition, offsets).await?;
        let ids: Vec<Arc<str>> = ids.into_iter().map(Arc::from).collect();
        if ids.len() == offsets.len() {
            for (offset, id) in offsets.iter().zip(&ids) {
                self.0.insert(key(offset), Arc::clone(id));
            }
        }
        Ok(ids)
    }
}
