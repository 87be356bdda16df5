//! What a new version of a catalog must keep of the one before it.

use super::model::Model;
use super::validate::Fault;

/// What stands against publishing `next` after `current`: a published plan or feature can be retired, never removed.
#[must_use]
pub fn compatible(current: &Model, next: &Model) -> Vec<Fault> {
    let mut faults = Vec::new();
    if current.product != next.product {
        let message = format!("this is the catalog of {:?}", current.product);
        faults.push(Fault {
            place: "product".to_owned(),
            message,
        });
    }
    let removed = |kind: &str, id: &str| Fault {
        place: format!("{kind}.{id}"),
        message: "was published and cannot be removed; set retired = true".to_owned(),
    };
    let features = current
        .features
        .keys()
        .filter(|id| !next.features.contains_key(*id));
    faults.extend(features.map(|id| removed("features", id)));
    let plans = current
        .plans
        .keys()
        .filter(|id| !next.plans.contains_key(*id));
    faults.extend(plans.map(|id| removed("plans", id)));
    faults
}
