//! Looking for an append of unknown outcome.

use super::Lane;
use crate::store::{Reply, Request};
use quota_core::lane::Proposal;
use quota_core::row::Row;
use std::sync::Arc;

impl Lane {
    /// What stands in the last places of an append of unknown outcome: on a new session, under the same locks.
    pub(super) async fn look_for(&mut self, proposal: &Proposal) -> Vec<Arc<Row>> {
        let last = proposal.last_rows();
        let partitions: Vec<u32> = last.keys().copied().collect();
        let places: Vec<(u32, i64)> = last
            .iter()
            .map(|(it, (offset, _))| (*it, *offset))
            .collect();
        loop {
            if self.open().await.is_ok()
                && self
                    .ask("lane: lock", Request::Lock(partitions.clone()))
                    .await
                    .is_ok()
            {
                let rows = self
                    .ask("lane: read", Request::RowsAt(places.clone()))
                    .await;
                let rolled_back = self.ask("lane: rollback", Request::Rollback).await;
                if let (Ok(Reply::Rows(rows)), Ok(_)) = (rows, rolled_back) {
                    return rows;
                }
            }
            self.io.sleep(100_000).await;
        }
    }
}
