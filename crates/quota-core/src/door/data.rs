//! Data: what each type that may be published holds, and what the product's catalog says to it.

use super::admit::INVALID;
use super::{MAX_MONEY, MAX_NAME, MAX_UNITS, MAX_WORDS, Members, Rejection};
use crate::catalog::{Catalog, Feature, Opens, ResourceUse};
use crate::event::{Cancellation, Empty, Event, Flagged, Imported, Purchase, ResourceEvent, Usage};
use crate::time::Timestamp;
use serde_json::{Map, Value};

/// Whether only the service itself adds this member, to what it decided.
pub(super) fn is_service_member(name: &str) -> bool {
    ["hold", "bypassed", "outcome"].contains(&name)
}

/// What data is judged by.
pub(super) struct Judge<'a> {
    /// The product's catalog.
    pub catalog: &'a Catalog,
    /// When it happened, where the event says so.
    pub time: Option<Timestamp>,
}

impl Judge<'_> {
    /// Reads the data of an event of the given bare type.
    pub fn read(&self, name: &str, data: &Map<String, Value>) -> Result<Event, Rejection> {
        let mut members = Members::new(data, INVALID, "data.");
        match name {
            "usage.recorded" => self.usage(&mut members).map(Event::UsageRecorded),
            "subject.registered" => {
                members.finish()?;
                Ok(Event::SubjectRegistered(Empty {}))
            }
            "subscription.purchased" => self
                .purchase(&mut members)
                .map(Event::SubscriptionPurchased),
            "subscription.renewed" => self.purchase(&mut members).map(Event::SubscriptionRenewed),
            "subscription.cancelled" => {
                cancellation(&mut members).map(Event::SubscriptionCancelled)
            }
            "resource.created" => self.created(&mut members).map(Event::ResourceCreated),
            "resource.completed" => self.resource(&mut members).map(Event::ResourceCompleted),
            "resource.deleted" => self.resource(&mut members).map(Event::ResourceDeleted),
            "resource.unlocked" => self.resource(&mut members).map(Event::ResourceUnlocked),
            "subject.flagged" => flagged(&mut members).map(Event::SubjectFlagged),
            "usage.imported" => self.imported(&mut members).map(Event::UsageImported),
            _ => Err(Rejection::field(INVALID, "type", "type is not known")),
        }
    }

    fn usage(&self, members: &mut Members<'_>) -> Result<Usage, Rejection> {
        let id = members.text("feature", MAX_NAME)?;
        let amount = members.integer("amount", 1..=MAX_UNITS)?.unwrap_or(1);
        let resource = members.text("resource", MAX_NAME)?;
        let id = members.required("feature", id)?;
        members.finish()?;
        let feature = self.feature(&id)?;
        if feature.resource == ResourceUse::Makes {
            let rule = format!(
                "must not be {id}, which makes a resource: publish resource.created instead"
            );
            return Err(members.reject("feature", rule));
        }
        not_completed(members, &id, feature)?;
        if feature.resource == ResourceUse::On && resource.is_none() {
            let message = format!("data.resource is missing: {id} is used on a resource");
            return Err(Rejection::field(
                "resource_required",
                "data.resource",
                message,
            ));
        }
        Ok(Usage {
            feature: id,
            amount,
            resource,
            hold: None,
            bypassed: false,
            outcome: None,
        })
    }

    fn purchase(&self, members: &mut Members<'_>) -> Result<Purchase, Rejection> {
        let plan = members.text("plan", MAX_NAME)?;
        let payment_id = members.text("payment_id", MAX_NAME)?;
        let amount = members.integer("amount", 0..=MAX_MONEY)?;
        let currency = members.text("currency", MAX_NAME)?;
        let purchase = Purchase {
            resource: members.text("resource", MAX_NAME)?,
            subscription: members.text("subscription", MAX_NAME)?,
            starts_at: members.time("starts_at")?,
            ends_at: members.time("ends_at")?,
            plan: members.required("plan", plan)?,
            payment_id: members.required("payment_id", payment_id)?,
            amount: members.required("amount", amount)?,
            currency: members.required("currency", currency)?,
        };
        members.finish()?;
        if purchase.currency.len() != 3
            || !purchase.currency.bytes().all(|b| b.is_ascii_uppercase())
        {
            return Err(members.reject("currency", "must be an ISO 4217 code, for example INR"));
        }
        self.plan(members, &purchase)?;
        // Without either it starts when it is recorded: the decision looks, by which a retry is known.
        if purchase
            .starts_at
            .or(self.time)
            .is_some_and(|start| purchase.is_over_at(start))
        {
            return Err(members.reject(
                "ends_at",
                "must be after starts_at, or without one after time",
            ));
        }
        Ok(purchase)
    }

    fn plan(&self, members: &Members<'_>, purchase: &Purchase) -> Result<(), Rejection> {
        let id = &purchase.plan;
        let Some(plan) = self.catalog.plan(id) else {
            let message = format!("plan {id:?} is not in the catalog");
            return Err(Rejection::field("unknown_plan", "data.plan", message));
        };
        if plan.rank == Some(0) {
            return Err(members.reject("plan", format!("must not be {id}, which everybody has")));
        }
        match (plan.opens, &purchase.resource) {
            (Opens::Named, None) => {
                let message = format!("data.resource is missing: {id} opens one resource");
                Err(Rejection::field(
                    "resource_required",
                    "data.resource",
                    message,
                ))
            }
            (Opens::Own | Opens::All, Some(_)) => Err(members.reject(
                "resource",
                format!("does not go with {id}, which opens no single resource"),
            )),
            _ => Ok(()),
        }
    }

    fn resource(&self, members: &mut Members<'_>) -> Result<ResourceEvent, Rejection> {
        let resource = members.text("resource", MAX_NAME)?;
        let event = ResourceEvent {
            source: members.text("source", MAX_NAME)?,
            feature: members.text("feature", MAX_NAME)?,
            resource: members.required("resource", resource)?,
            hold: None,
            bypassed: false,
            outcome: None,
        };
        members.finish()?;
        event
            .feature
            .as_deref()
            .map(|id| self.feature(id))
            .transpose()?;
        Ok(event)
    }

    fn created(&self, members: &mut Members<'_>) -> Result<ResourceEvent, Rejection> {
        let event = self.resource(members)?;
        if let Some(id) = event.feature.as_deref() {
            not_completed(members, id, self.feature(id)?)?;
        }
        Ok(event)
    }

    fn imported(&self, members: &mut Members<'_>) -> Result<Imported, Rejection> {
        let feature = members.text("feature", MAX_NAME)?;
        let amount = members.integer("amount", 0..=MAX_UNITS)?;
        let imported = Imported {
            feature: members.required("feature", feature)?,
            amount: members.required("amount", amount)?,
        };
        members.finish()?;
        self.feature(&imported.feature)?;
        Ok(imported)
    }

    fn feature(&self, id: &str) -> Result<&Feature, Rejection> {
        self.catalog.feature(id).ok_or_else(|| {
            let message = format!("feature {id:?} is not in the catalog");
            Rejection::field("unknown_feature", "data.feature", message)
        })
    }
}

/// Refuses a feature whose usage is only ever made by completed resources.
fn not_completed(members: &Members<'_>, id: &str, feature: &Feature) -> Result<(), Rejection> {
    if feature.completions.is_none() {
        return Ok(());
    }
    let rule = format!(
        "must not be {id}, which completed resources use: publish resource.completed instead"
    );
    Err(members.reject("feature", rule))
}

fn cancellation(members: &mut Members<'_>) -> Result<Cancellation, Rejection> {
    let cancellation = Cancellation {
        payment_id: members.text("payment_id", MAX_NAME)?,
        subscription: members.text("subscription", MAX_NAME)?,
        at_period_end: members.boolean("at_period_end")?.unwrap_or(true),
        reason: members.text("reason", MAX_WORDS)?,
    };
    members.finish()?;
    Ok(cancellation)
}

/// A misspelt flag would be kept and do nothing, so its letters are few.
fn flagged(members: &mut Members<'_>) -> Result<Flagged, Rejection> {
    let flag = members.text("flag", MAX_NAME)?;
    let value = members.boolean("value")?;
    let flagged = Flagged {
        flag: members.required("flag", flag)?,
        value: members.required("value", value)?,
    };
    members.finish()?;
    let fits =
        |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'_' | b'.');
    if flagged.flag.len() > 64 || !flagged.flag.bytes().all(fits) {
        return Err(members.reject(
            "flag",
            "must be 1 to 64 small letters, digits, '-', '_' or '.'",
        ));
    }
    Ok(flagged)
}
