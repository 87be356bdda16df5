//! Checks, held against the oracle's own count: at their position, their instant and their catalog.

use super::limits::Limits;
use crate::coverage::Coverage;
use crate::node::Checked;
use crate::store::Store;
use quota_core::command::Address;
use quota_core::judge::Question;
use quota_core::time::Timestamp;

/// No timer grants: a check is judged at its own instant, whatever was recorded by then, expiries too. False where the oracle
/// does not know what it should say.
pub fn check_outcome(
    store: &Store,
    address: &Address,
    question: &Question,
    checked: &Checked,
) -> bool {
    let rows = store.rows(address.partition);
    let known = usize::try_from(checked.state.subject.seq).expect("a sequence number");
    let its = store.offsets_of(&address.key).iter().take(known);
    let (mut limits, mut last) = (Limits::default(), Timestamp::MIN);
    for offset in its {
        let row = &rows[*offset as usize];
        limits.recorded(row, &mut Coverage::default());
        last = row.recorded_at;
    }
    // The state was loaded from later than what the node's clock shows: there is no such instant.
    checked.now >= last && limits.judges(address, question, checked)
}
