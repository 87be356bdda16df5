//! A subject's entitlements, for people and user interfaces: everything that a check would say, at once.

use crate::catalog::{Catalog, Opens, ResourceUse, UsagePage};
use crate::event::Closure;
use crate::judge::sum;
use crate::standing::{Counting, Payer, Standing};
use crate::state::{Grant, Owner, Resource, State, Thing};
use crate::time::{DAY, Timestamp};
use serde_json::{Map, Value, json};

/// The entitlements of a subject at an instant: all members but `position`, `as_of` and `age_ms`.
///
/// The state must be complete.
#[must_use]
pub fn entitlements(
    state: &State,
    catalog: &Catalog,
    catalog_version: u32,
    product: &str,
    subject: &str,
    at: Timestamp,
) -> Map<String, Value> {
    let standing = Standing { state, catalog, at };
    let in_force = standing.in_force();
    let mut body = Map::new();
    body.insert("product".into(), json!(product));
    body.insert("subject".into(), json!(subject));
    body.insert("plan".into(), json!(standing.plan()));
    let in_grace = !in_force.is_empty() && in_force.iter().all(|grant| standing.in_grace(grant));
    body.insert("in_grace".into(), json!(in_grace));
    body.insert("superadmin".into(), json!(state.subject.superadmin));
    let grants: Vec<Value> = state
        .subject
        .grants
        .iter()
        .map(|grant| grant_body(&standing, grant))
        .collect();
    body.insert("grants".into(), Value::Array(grants));
    body.insert("features".into(), Value::Object(features(&standing)));
    let resources: Vec<Value> = state
        .things()
        .filter_map(|(key, thing)| match thing {
            Thing::Resource(resource) => resource_body(&standing, &key.id, resource),
            _ => None,
        })
        .collect();
    body.insert("resources".into(), Value::Array(resources));
    body.insert("catalog_version".into(), json!(catalog_version));
    body
}

/// A product's own usage page: the counters of the plan in force, -1 for a limit that is none, and which are used up.
#[must_use]
pub fn usage_page(
    state: &State,
    catalog: &Catalog,
    page: &UsagePage,
    at: Timestamp,
) -> Map<String, Value> {
    let standing = Standing { state, catalog, at };
    let mut body = Map::new();
    let mut reached = Map::new();
    body.insert("plan".into(), json!(standing.plan()));
    for feature in &page.features {
        let sum = sum(&standing, feature, &standing.by_plan(feature));
        let counted = json!({"used": sum.used, "limit": sum.limit.unwrap_or(-1)});
        body.insert(feature.clone(), counted);
        // Whoever skips limits is not told to buy more.
        let full = sum.limit.is_some_and(|limit| limit <= sum.used + sum.held);
        reached.insert(feature.clone(), json!(full && !state.subject.superadmin));
    }
    body.insert("is_limit_reached".into(), Value::Object(reached));
    body
}

fn grant_body(standing: &Standing<'_>, grant: &Grant) -> Value {
    let over = standing.lives_until(grant) <= standing.at;
    let status = match grant.cancelled {
        Some(_) if over => "cancelled",
        _ if over => "ended",
        _ if standing.in_grace(grant) => "grace",
        _ => "active",
    };
    json!({
        "id": grant.id,
        "plan": grant.plan,
        "status": status,
        "starts_at": grant.start().map(Timestamp::to_millis_text),
        "ends_at": grant.ends_at().map(Timestamp::to_millis_text),
        "resource": grant.resource,
        "slots": slots(standing, grant),
    })
}

/// The slots that a grant sells; none where its plan sells no counted ones.
fn slots(standing: &Standing<'_>, grant: &Grant) -> Option<Value> {
    let feature = standing.catalog.making_feature()?;
    standing.catalog.limit(&grant.plan, feature)?;
    let counting = standing.of_grant(grant, feature);
    let limit = standing.limit(feature, &counting)?;
    let used = standing
        .tally(feature, &counting.charge)
        .map_or(0, |tally| tally.used);
    Some(json!({"used": used, "limit": limit}))
}

fn features(standing: &Standing<'_>) -> Map<String, Value> {
    let ids = standing.catalog.feature_ids();
    ids.map(|feature| {
        (
            feature.to_owned(),
            numbers(standing, feature, &standing.by_plan(feature)),
        )
    })
    .collect()
}

/// What counters of one plan come to, as a feature's body.
fn numbers(standing: &Standing<'_>, feature: &str, counted: &[Counting]) -> Value {
    let sum = sum(standing, feature, counted);
    let remaining = sum.limit.map(|limit| (limit - sum.used - sum.held).max(0));
    let first = counted.first();
    json!({
        "used": sum.used,
        "limit": sum.limit,
        "remaining": remaining,
        "unlimited": sum.limit.is_none(),
        "held": sum.held,
        "window": first.map(|counting| counting.window.word()),
        "resets_at": first.and_then(|counting| counting.resets_at).map(Timestamp::to_millis_text),
    })
}

fn resource_body(standing: &Standing<'_>, id: &str, resource: &Resource) -> Option<Value> {
    resource.created?;
    // Elsewhere a resource is a name that usage mentions; nothing opens or closes it.
    standing.catalog.making_feature()?;
    let payer = if resource.deleted {
        None
    } else {
        standing.payer(id, resource)
    };
    let (closure, last) = match payer {
        Some(_) => (None, None),
        None => {
            let (closure, last) = standing.closure(id, resource);
            (Some(closure), last)
        }
    };
    let (status, why) = match closure {
        None => ("active", None),
        Some(Closure::Deleted) => ("deleted", None),
        Some(closure) => ("view_only", Some(closure.word())),
    };
    let grant = match payer {
        Some(Payer::Grant(grant)) => Some(grant.id.as_str()),
        Some(Payer::Free) => Some("free"),
        None => last.map(|grant| grant.id.as_str()),
    };
    let expires_at = expires_at(standing, id, resource, payer);
    let days_left = expires_at.map(|end| {
        let left = end.micros() - standing.at.micros();
        // Rounded up: a minute before the end is still a day left.
        (left.max(0) + DAY - 1) / DAY
    });
    Some(json!({
        "id": id,
        "status": status,
        "why": why,
        "grant": grant,
        "expires_at": expires_at.map(Timestamp::to_millis_text),
        "days_left": days_left,
        "features": own_features(standing, payer),
    }))
}

/// The last end that is known of what pays for a resource; none where it does not end.
fn expires_at(
    standing: &Standing<'_>,
    id: &str,
    resource: &Resource,
    payer: Option<Payer<'_>>,
) -> Option<Timestamp> {
    let free = resource.payer == Some(Owner::Free);
    let pays = |grant: &&Grant| {
        let paid = standing.paid_for(grant, id, resource);
        let now = matches!(payer, Some(Payer::Grant(payer)) if payer.id == grant.id);
        // What was made on free is never locked: only unlocks of it have an end, and only until it comes.
        let counts = if free {
            paid && standing.lives_until(grant) > standing.at
        } else {
            paid || now
        };
        counts && grant.start().is_some()
    };
    let mut end = None;
    for grant in standing.state.subject.grants.iter().filter(pays) {
        end = end.max(Some(grant.ends_at()?));
    }
    end
}

/// The counters that hold for one resource alone: those of a grant that opens no others.
fn own_features(standing: &Standing<'_>, payer: Option<Payer<'_>>) -> Map<String, Value> {
    let Some(Payer::Grant(grant)) = payer else {
        return Map::new();
    };
    let opens_all = standing
        .catalog
        .plan(&grant.plan)
        .is_some_and(|plan| plan.opens == Opens::All);
    if opens_all {
        return Map::new();
    }
    let on_resource = standing
        .catalog
        .model()
        .features
        .iter()
        .filter(|(_, f)| f.resource == ResourceUse::On && f.metered);
    on_resource
        .map(|(feature, _)| {
            (
                feature.clone(),
                numbers(standing, feature, &[standing.of_grant(grant, feature)]),
            )
        })
        .collect()
}
