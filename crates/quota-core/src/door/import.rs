//! Import: a line about an existing user becomes facts: the plan that was bought, the units that were used, a flag.

use super::fact::fact;
use super::{MAX_NAME, Members, Rejection};
use crate::catalog::Catalog;
use crate::command::Fact;
use crate::event::{Event, Flagged};
use crate::time::Timestamp;
use serde_json::{Map, Value, json};

/// The source of imported events.
pub const IMPORT_SOURCE: &str = "quota:import";

/// ISO 4217's code for no currency: three times X.
const NO_CURRENCY: &str = "X\u{58}X";
/// The code of a line that cannot be read as one.
const INVALID: &str = "invalid_line";

/// Judges a line, under a product's catalog at `now`: its subject, and its facts in the order that they must be told in.
///
/// Ids follow from the line, so that the same line again is recorded once. The plan that everybody has is no purchase. A
/// purchase is at the plan's price: what was paid for it once is not known here.
///
/// # Errors
/// The first thing that is wrong with it, with the line's member as the field.
pub fn import(
    line: &Map<String, Value>,
    catalog: &Catalog,
    now: Timestamp,
) -> Result<(String, Vec<Fact>), Rejection> {
    let mut members = Members::new(line, INVALID, "");
    let subject = members.text("subject", MAX_NAME)?;
    let subject = members.required("subject", subject)?;
    let feature = members.text("feature", MAX_NAME)?;
    let feature = members.required("feature", feature)?;
    let amount = members.integer("amount", 0..=super::MAX_UNITS)?;
    let amount = members.required("amount", amount)?;
    let plan = members.text("plan", MAX_NAME)?;
    let ends_at = members.time("ends_at")?;
    let time = members.time("time")?;
    let superadmin = members.boolean("superadmin")?.unwrap_or(false);
    members.finish()?;
    let plan = plan.filter(|plan| Some(plan.as_str()) != catalog.default_plan());
    if plan.is_none() && ends_at.is_some() {
        return Err(members.reject("ends_at", "goes only with a plan that was bought"));
    }
    let mut facts = Vec::new();
    if let Some(plan) = &plan {
        facts.push(bought(&subject, plan, ends_at, time, catalog, now)?);
    }
    let mut id = format!("import:{subject}:{feature}");
    if let Some(time) = time {
        id = format!("{id}:{time}");
    }
    let data = object(json!({"feature": feature, "amount": amount}));
    let used = fact(
        IMPORT_SOURCE,
        &id,
        time,
        "usage.imported",
        &data,
        catalog,
        now,
    );
    facts.push(used.map_err(of_line)?);
    if superadmin {
        facts.push(Fact {
            source: IMPORT_SOURCE.to_owned(),
            id: format!("import:{subject}:flag:superadmin"),
            time: None,
            event: Event::SubjectFlagged(Flagged {
                flag: "superadmin".to_owned(),
                value: true,
            }),
        });
    }
    Ok((subject, facts))
}

fn bought(
    subject: &str,
    plan: &str,
    ends_at: Option<Timestamp>,
    time: Option<Timestamp>,
    catalog: &Catalog,
    now: Timestamp,
) -> Result<Fact, Rejection> {
    let terms = catalog.plan(plan);
    let payment_id = format!("import:{subject}:{plan}");
    let mut data = object(json!({
        "plan": plan,
        "payment_id": "import",
        "amount": terms.and_then(|plan| plan.price).unwrap_or(0),
        "currency": terms.and_then(|plan| plan.currency.as_deref()).unwrap_or(NO_CURRENCY),
    }));
    if let Some(ends_at) = ends_at {
        data.insert("ends_at".to_owned(), json!(ends_at));
    }
    // Not the payment's: a feature may be called what the plan is called.
    let id = format!("import:{subject}:plan:{plan}");
    let name = "subscription.purchased";
    let bought = fact(IMPORT_SOURCE, &id, time, name, &data, catalog, now);
    let mut bought = bought.map_err(of_line)?;
    // Longer than what others may call a payment, where the subject's name is.
    if let Event::SubscriptionPurchased(purchase) = &mut bought.event {
        purchase.payment_id = payment_id;
    }
    Ok(bought)
}

fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(members) => members,
        _ => Map::new(),
    }
}

/// What is wrong with an event's data is wrong with the line's member of that name.
fn of_line(mut rejection: Rejection) -> Rejection {
    let field = rejection.field.as_deref().map(str::to_owned);
    if let Some(member) = field
        .as_deref()
        .and_then(|field| field.strip_prefix("data."))
    {
        rejection.message = rejection
            .message
            .replacen(&format!("data.{member}"), member, 1);
        // A plan that needs a resource: a line has none.
        let member = if member == "resource" { "plan" } else { member };
        rejection.field = Some(member.to_owned());
    }
    rejection
}
