//! Facts that this service itself makes of what others told it, by the same rules as what services publish.

use super::{MAX_AHEAD, Rejection, data};
use crate::catalog::Catalog;
use crate::command::Fact;
use crate::time::Timestamp;
use serde_json::{Map, Value};

/// A fact of the given bare type, judged under a product's catalog at `now`. The fields of rejections begin with `data.`.
///
/// # Errors
/// The first thing that is wrong with it.
pub(crate) fn fact(
    source: &str,
    id: &str,
    time: Option<Timestamp>,
    name: &str,
    members: &Map<String, Value>,
    catalog: &Catalog,
    now: Timestamp,
) -> Result<Fact, Rejection> {
    not_ahead(time, now)?;
    let judge = data::Judge { catalog, time };
    Ok(Fact {
        source: source.to_owned(),
        id: id.to_owned(),
        time,
        event: judge.read(name, members)?,
    })
}

/// Refuses what has not happened yet, with some patience for clocks that differ.
pub(super) fn not_ahead(time: Option<Timestamp>, now: Timestamp) -> Result<(), Rejection> {
    if time.is_some_and(|time| time > now.plus(MAX_AHEAD)) {
        let message =
            "time is more than 5 minutes ahead of this service's clock; check the sender's clock";
        return Err(Rejection::field("in_future", "time", message));
    }
    Ok(())
}
