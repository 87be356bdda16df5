//! Consume: the decision, and the usage, hold or denial that goes with it.

use super::{Draft, Light, Told, Verdict, decision, refuse};
use crate::catalog::{Catalog, ResourceUse};
use crate::command::{Address, Answer, CONSUME_SOURCE, Consume, Refusal};
use crate::event::{Denied, Event, Held, Outcome, Reason, ResourceEvent, Usage};
use crate::fold::denials_in_hour;
use crate::judge::{Question, judge};
use crate::time::SECOND;

/// Denials that are recorded per subject, feature and hour.
const DENIALS_PER_HOUR: u32 = 100;
/// Holds that a subject may have open.
const HOLDS_MAX: usize = 100;

/// Whether a question can be asked of this catalog.
pub(super) fn valid(catalog: &Catalog, question: &Question, check: bool) -> Result<(), Refusal> {
    let Some(feature) = catalog.feature(&question.feature) else {
        let message = format!("the catalog knows no feature {:?}", question.feature);
        return Err(Refusal::field(422, "unknown_feature", "feature", message));
    };
    if feature.completions.is_some() && !check {
        let message = format!(
            "{:?} is used by completing a resource; it can only be checked",
            question.feature
        );
        return Err(Refusal::field(422, "not_consumable", "feature", message));
    }
    if feature.resource != ResourceUse::None && question.resource.is_none() {
        let message = format!("{:?} needs the resource that it is about", question.feature);
        return Err(Refusal::field(
            422,
            "resource_required",
            "resource",
            message,
        ));
    }
    if feature.resource == ResourceUse::Makes && question.amount != 1 {
        let message = format!(
            "{:?} makes one resource at a time: amount must be 1",
            question.feature
        );
        return Err(Refusal::field(422, "invalid_amount", "amount", message));
    }
    Ok(())
}

pub(super) fn decide(light: &Light<'_>, address: &Address, consume: &Consume) -> Verdict {
    let question = Question {
        feature: consume.feature.clone(),
        amount: consume.amount,
        resource: consume.resource.clone(),
    };
    if let Err(refusal) = valid(light.catalog, &question, false) {
        return refuse(refusal);
    }
    let makes = light
        .catalog
        .feature(&consume.feature)
        .is_some_and(|f| f.resource == ResourceUse::Makes);
    let deleted = consume
        .resource
        .as_deref()
        .and_then(|id| light.state.resource(id))
        .is_some_and(|r| r.deleted);
    if makes && deleted {
        let message = "this resource was deleted; its id cannot be used again";
        return refuse(Refusal::field(409, "resource_deleted", "resource", message));
    }
    let judgement = judge(light.state, light.catalog, &question, light.now);
    if judgement.outcome.reason == Reason::AlreadyCreated {
        let decided = decision(light, address, &consume.feature, judgement.outcome);
        return Verdict::Answer(Answer::Decided(Box::new(decided)));
    }
    if !judgement.outcome.reason.allows() {
        return deny(light, address, consume, judgement.outcome);
    }
    if consume.hold_seconds.is_some() && open_holds(light) >= HOLDS_MAX {
        let message =
            format!("{HOLDS_MAX} holds of this subject are open; confirm or release some");
        return refuse(Refusal {
            retry_after: Some(1),
            ..Refusal::whole(429, "too_many_holds", message)
        });
    }
    let event = event(light, address, consume, judgement.outcome, makes);
    Verdict::Append(vec![draft(light, consume, event)], Told::ByRow)
}

fn open_holds(light: &Light<'_>) -> usize {
    light
        .state
        .subject
        .holds
        .values()
        .filter(|hold| hold.expires_at > light.now)
        .count()
}

fn draft(light: &Light<'_>, consume: &Consume, event: Event) -> Draft {
    Draft {
        source: CONSUME_SOURCE.to_owned(),
        id: consume.id().to_owned(),
        occurred_at: light.now,
        event,
    }
}

/// The event of an allowed consume, with the outcome as it is after it.
fn event(
    light: &Light<'_>,
    address: &Address,
    consume: &Consume,
    mut outcome: Outcome,
    makes: bool,
) -> Event {
    let bypassed = outcome.reason == Reason::Bypassed;
    if let Some(seconds) = consume.hold_seconds {
        if !bypassed {
            outcome.held += consume.amount;
        }
        return Event::UsageHeld(Held {
            feature: consume.feature.clone(),
            amount: consume.amount,
            resource: consume.resource.clone(),
            hold: super::hold::id_of(&address.event_key(CONSUME_SOURCE, consume.id())),
            hold_seconds: seconds,
            expires_at: light.now.plus(seconds * SECOND),
            bypassed,
            outcome,
        });
    }
    if !bypassed {
        outcome.used += consume.amount;
    }
    match &consume.resource {
        Some(resource) if makes => Event::ResourceCreated(ResourceEvent {
            resource: resource.clone(),
            source: None,
            feature: Some(consume.feature.clone()),
            hold: None,
            bypassed,
            outcome: Some(outcome),
        }),
        resource => Event::UsageRecorded(Usage {
            feature: consume.feature.clone(),
            amount: consume.amount,
            resource: resource.clone(),
            hold: None,
            bypassed,
            outcome: Some(outcome),
        }),
    }
}

/// A refusal: recorded always under a caller's key, else once until something else happens to the subject. In an hour
/// that is full, one without a key is told and not recorded; one with a key would be no outcome to come back to.
fn deny(light: &Light<'_>, address: &Address, consume: &Consume, outcome: Outcome) -> Verdict {
    let known = (consume.feature.clone(), outcome.reason);
    let hour_is_full =
        denials_in_hour(light.state, &consume.feature, light.now) >= DENIALS_PER_HOUR;
    let told = light.state.subject.denied.contains(&known) || hour_is_full;
    if consume.key.is_none() && told {
        let decided = decision(light, address, &consume.feature, outcome);
        return Verdict::Answer(Answer::Decided(Box::new(decided)));
    }
    if hour_is_full {
        let message = format!(
            "{DENIALS_PER_HOUR} refusals of this feature were recorded this hour; ask check instead"
        );
        return refuse(Refusal {
            retry_after: Some(60),
            ..Refusal::whole(429, "too_many_denials", message)
        });
    }
    let event = denied(consume, outcome);
    Verdict::Append(vec![draft(light, consume, event)], Told::ByRow)
}

fn denied(consume: &Consume, outcome: Outcome) -> Event {
    Event::UsageDenied(Denied {
        feature: consume.feature.clone(),
        amount: consume.amount,
        resource: consume.resource.clone(),
        hold_seconds: consume.hold_seconds,
        outcome,
    })
}
