//! What is wrong is named, all of it.

use super::*;

#[test]
fn every_fault_is_named_at_once() {
    let text = r#"
        product = "p"
        time_zone = "Mars/Base"
        [features.f]
        message = 5
        [plans.free]
        rank = 0
        [plans.free.limits]
        f = { limit = -3, window = "week" }
        g = { limit = 1 }
        [plans.paid]
        rank = 0
        price = -1
        currency = "rupees"
        period = "fortnight"
    "#;
    let faults = read(text).unwrap_err();
    let mut places: Vec<&str> = faults.iter().map(|fault| fault.place.as_str()).collect();
    places.sort_unstable();
    places.dedup();
    let wanted = [
        "features.f.message",
        "plans.free.limits.f.limit",
        "plans.free.limits.f.window",
        "plans.free.limits.g",
        "plans.paid.currency",
        "plans.paid.period",
        "plans.paid.price",
        "plans.paid.rank",
        "time_zone",
    ];
    assert_eq!(places, wanted, "{faults:?}");
}
