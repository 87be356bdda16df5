//! Reading a catalog: every fault is named, with its place, so that an author mends them all at once.

use super::model::{Model, Opens, Plan, ResourceUse, Window};
use crate::route::normal;
use chrono_tz::Tz;
use jsonschema::error::ValidationErrorKind;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::LazyLock;

/// Something wrong with a catalog.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Where, as a dotted path; empty for the whole.
    pub place: String,
    /// What is wrong.
    pub message: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.place.is_empty() {
            f.write_str(&self.message)
        } else {
            write!(f, "{}: {}", self.place, self.message)
        }
    }
}

struct Faults(Vec<Fault>);

impl Faults {
    fn add(&mut self, place: impl Into<String>, message: impl Into<String>) {
        self.0.push(Fault {
            place: place.into(),
            message: message.into(),
        });
    }
}

/// The JSON Schema of a catalog, generated from the types that it is read into.
#[must_use]
pub fn schema() -> Value {
    let mut schema = schemars::schema_for!(Model).to_value();
    if let Some(members) = schema.as_object_mut() {
        members.insert("title".into(), "quota-ledger catalog".into());
    }
    schema
}

/// Reads a catalog's text into a model and its zone.
pub(super) fn read(text: &str) -> Result<(Model, Tz), Vec<Fault>> {
    let mut faults = Faults(Vec::new());
    let table: Value = match toml::from_str(text) {
        Ok(table) => table,
        Err(error) => {
            faults.add("", format!("not TOML: {}", error.to_string().trim()));
            return Err(faults.0);
        }
    };
    let misshapen = shape(&table, &mut faults);
    if !faults.0.is_empty() {
        faults.0.extend(beside(table, &misshapen));
        return Err(faults.0);
    }
    let model: Model = match serde_json::from_value(table) {
        Ok(model) => model,
        Err(error) => {
            faults.add("", error.to_string());
            return Err(faults.0);
        }
    };
    let zone = zone(&model, &mut faults);
    meaning(&model, &mut faults);
    match zone {
        Some(zone) if faults.0.is_empty() => Ok((model, zone)),
        _ => Err(faults.0),
    }
}

fn zone(model: &Model, faults: &mut Faults) -> Option<Tz> {
    let zone = model.time_zone.parse::<Tz>().ok();
    if zone.is_none() {
        faults.add(
            "time_zone",
            format!("{:?} is no IANA time zone", model.time_zone),
        );
    }
    zone
}

/// The faults of meaning beside misshapen members: those members are taken out, and what is left is judged.
fn beside(mut table: Value, misshapen: &[String]) -> Vec<Fault> {
    for pointer in misshapen {
        let (parent, member) = pointer.rsplit_once('/').unwrap_or_default();
        let member = member.replace("~1", "/").replace("~0", "~");
        match table.pointer_mut(parent) {
            Some(Value::Object(members)) => drop(members.remove(&member)),
            Some(Value::Array(items)) => {
                if let Some(item) = member
                    .parse()
                    .ok()
                    .and_then(|index: usize| items.get_mut(index))
                {
                    *item = Value::Null;
                }
            }
            _ => {}
        }
    }
    if let Value::Object(members) = &mut table {
        for (name, stand_in) in [("product", "unnamed"), ("time_zone", "UTC")] {
            members.entry(name).or_insert_with(|| stand_in.into());
        }
    }
    let Ok(model) = serde_json::from_value::<Model>(table) else {
        return Vec::new();
    };
    let mut faults = Faults(Vec::new());
    zone(&model, &mut faults);
    meaning(&model, &mut faults);
    let places: Vec<String> = misshapen.iter().map(|pointer| dotted(pointer)).collect();
    let known = |fault: &Fault| {
        let mut places = places.iter();
        places.any(|place| fault.place == *place || fault.place.starts_with(&format!("{place}.")))
    };
    faults.0.into_iter().filter(|fault| !known(fault)).collect()
}

fn dotted(pointer: &str) -> String {
    pointer.trim_start_matches('/').replace('/', ".")
}

/// Made once: it takes longer than all the rest of reading a catalog.
static VALIDATOR: LazyLock<Result<jsonschema::Validator, String>> =
    LazyLock::new(|| jsonschema::validator_for(&schema()).map_err(|error| error.to_string()));

/// Types, members and words, against the schema; returns the pointers of the members that do not fit.
fn shape(table: &Value, faults: &mut Faults) -> Vec<String> {
    let mut misshapen = Vec::new();
    match &*VALIDATOR {
        Ok(validator) => {
            for error in validator.iter_errors(table) {
                let place = error.instance_path().to_string();
                faults.add(dotted(&place), error.to_string());
                match error.kind() {
                    ValidationErrorKind::AdditionalProperties { unexpected } => {
                        misshapen.extend(unexpected.iter().map(|name| format!("{place}/{name}")));
                    }
                    _ => misshapen.push(place),
                }
            }
        }
        Err(error) => faults.add("", format!("the catalog schema itself is broken: {error}")),
    }
    misshapen
}

/// What the schema cannot say.
fn meaning(model: &Model, faults: &mut Faults) {
    name("product", &model.product, faults);
    if model.product.starts_with("quota") && model.product.contains(':') {
        faults.add("product", "names with a colon are the service's own");
    }
    for (id, feature) in &model.features {
        name(&format!("features.{id}"), id, faults);
        if let Some(prompt) = &feature.prompt {
            known_plan(
                model,
                &format!("features.{id}.prompt.plan"),
                &prompt.plan,
                faults,
            );
        }
        if feature.view_only && feature.resource != ResourceUse::On {
            faults.add(
                format!("features.{id}.view_only"),
                "goes only with resource = \"on\"",
            );
        }
    }
    let makers: Vec<&String> = model
        .features
        .iter()
        .filter(|(_, f)| f.resource == ResourceUse::Makes)
        .map(|(id, _)| id)
        .collect();
    if makers.len() > 1 {
        faults.add(
            "features",
            format!("only one feature can make resources, here {makers:?} do"),
        );
    }
    let mut ranks: BTreeMap<u32, &String> = BTreeMap::new();
    for (id, plan) in &model.plans {
        name(&format!("plans.{id}"), id, faults);
        if let Some(rank) = plan.rank
            && let Some(other) = ranks.insert(rank, id)
        {
            faults.add(
                format!("plans.{id}.rank"),
                format!("{rank} is the rank of {other} too"),
            );
        }
        plan_meaning(model, id, plan, faults);
    }
    denials(model, faults);
    references(model, faults);
}

fn plan_meaning(model: &Model, id: &str, plan: &Plan, faults: &mut Faults) {
    let place = format!("plans.{id}");
    match (plan.rank, plan.period) {
        (Some(0), Some(_)) => faults.add(
            format!("{place}.period"),
            "the plan of rank 0 has no period",
        ),
        (Some(0), None) => {}
        (_, None) => faults.add(
            format!("{place}.period"),
            "missing: month, year, open, or <n> days",
        ),
        _ => {}
    }
    if plan.grace_days.is_some_and(|days| days > 366) {
        faults.add(format!("{place}.grace_days"), "must be from 0 to 366");
    }
    if plan.price.is_some_and(|price| price < 0) {
        faults.add(format!("{place}.price"), "must not be negative");
    }
    match (plan.price, &plan.currency) {
        (Some(price), None) if price > 0 => {
            faults.add(format!("{place}.currency"), "missing beside a price")
        }
        (_, Some(currency))
            if currency.len() != 3 || !currency.bytes().all(|b| b.is_ascii_uppercase()) =>
        {
            faults.add(
                format!("{place}.currency"),
                "must be an ISO 4217 code, for example INR",
            );
        }
        _ => {}
    }
    if plan.rank.is_none() && plan.opens != Opens::Named {
        faults.add(
            format!("{place}.rank"),
            "missing; only a plan that opens = \"named\" has none",
        );
    }
    for (feature, limit) in &plan.limits {
        let place = format!("{place}.limits.{feature}");
        known_feature(model, &place, feature, faults);
        match limit.limit {
            Some(_) if limit.unlimited => {
                faults.add(place.clone(), "has both a limit and unlimited")
            }
            None if !limit.unlimited => {
                faults.add(place.clone(), "needs limit = <units> or unlimited = true")
            }
            Some(units) if !(0..=1_000_000_000_000).contains(&units) => {
                faults.add(
                    format!("{place}.limit"),
                    "must be from 0 to 1,000,000,000,000",
                );
            }
            _ => {}
        }
        if limit.window == Window::Period && plan.rank == Some(0) {
            faults.add(
                format!("{place}.window"),
                "the plan of rank 0 has no periods",
            );
        }
    }
}

fn denials(model: &Model, faults: &mut Faults) {
    const KINDS: [&str; 9] = [
        "limit_reached",
        "not_in_plan",
        "unknown_resource",
        "grant_expired",
        "resource_locked",
        "purchase_expired",
        "pro_ended",
        "no_slot",
        "deleted",
    ];
    for (kind, denial) in &model.denials {
        let place = format!("denials.{kind}");
        if !KINDS.contains(&kind.as_str()) {
            faults.add(
                place.clone(),
                format!("is no refusal; there are {}", KINDS.join(", ")),
            );
        }
        if ![402, 403].contains(&denial.status) {
            faults.add(format!("{place}.status"), "must be 402 or 403");
        }
        if let Some(body) = &denial.body
            && let Err(error) = serde_json::from_str::<serde_json::Map<String, Value>>(body)
        {
            faults.add(
                format!("{place}.body"),
                format!("is no JSON object: {error}"),
            );
        }
    }
}

fn references(model: &Model, faults: &mut Faults) {
    for (kind, session) in &model.sessions {
        known_feature(
            model,
            &format!("sessions.{kind}.feature"),
            &session.feature,
            faults,
        );
    }
    let mut routes = std::collections::BTreeSet::new();
    for (index, route) in model.routes.iter().enumerate() {
        let place = format!("routes.{index}");
        known_feature(model, &format!("{place}.feature"), &route.feature, faults);
        path(&format!("{place}.path"), &route.path, faults);
        if model
            .features
            .get(&route.feature)
            .is_some_and(|feature| feature.resource != ResourceUse::None)
        {
            let message = "needs a resource, and no route names one";
            faults.add(format!("{place}.feature"), message);
        }
        if route.method.is_empty() || !route.method.bytes().all(|b| b.is_ascii_uppercase()) {
            faults.add(format!("{place}.method"), "must be a method in capitals");
        }
        if route
            .hold_seconds
            .is_some_and(|seconds| !(1..=900).contains(&seconds))
        {
            faults.add(format!("{place}.hold_seconds"), "must be from 1 to 900");
        }
        if !routes.insert((&route.method, &route.path)) {
            faults.add(place, "stands here twice");
        }
    }
    for (id, plan) in &model.payments.razorpay_plans {
        known_plan(
            model,
            &format!("payments.razorpay_plans.{id}"),
            plan,
            faults,
        );
    }
    if let Some(page) = &model.usage_page {
        path("usage_page.path", &page.path, faults);
        if page.path == "/v1" || page.path.starts_with("/v1/") {
            faults.add("usage_page.path", "paths below /v1 are the service's own");
        }
    }
    for feature in model.usage_page.iter().flat_map(|page| &page.features) {
        known_feature(model, "usage_page.features", feature, faults);
    }
}

/// A path must be written in the form that requests' paths are brought to: no other is ever compared with it.
fn path(place: &str, path: &str, faults: &mut Faults) {
    match normal(path) {
        Ok(form) if form == path => {}
        Ok(form) => faults.add(place, format!("must be written {form:?}")),
        Err(_) => faults.add(place, "must begin with / and be a plain path"),
    }
}

fn known_feature(model: &Model, place: &str, feature: &str, faults: &mut Faults) {
    if !model.features.contains_key(feature) {
        faults.add(place, format!("feature {feature:?} is not in this catalog"));
    }
}

fn known_plan(model: &Model, place: &str, plan: &str, faults: &mut Faults) {
    if !model.plans.contains_key(plan) {
        faults.add(place, format!("plan {plan:?} is not in this catalog"));
    }
}

fn name(place: &str, text: &str, faults: &mut Faults) {
    let fits =
        |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'_' | b'.');
    if text.is_empty() || text.len() > 64 || !text.bytes().all(fits) {
        faults.add(
            place,
            format!("{text:?} must be 1 to 64 small letters, digits, '-', '_' or '.'"),
        );
    }
}

#[cfg(test)]
mod tests;
