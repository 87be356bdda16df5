//! The judgement: one question about one feature, answered from the state; check and consume share it.

use crate::catalog::{Allowance, Catalog, Opens, ResourceUse};
use crate::event::{Closure, Outcome, Reason};
use crate::standing::{Access, Counting, Payer, Standing};
use crate::state::{Charge, EVIDENCE_MAX, Owner, State};
use crate::time::Timestamp;

/// What is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// The feature.
    pub feature: String,
    /// Units.
    pub amount: i64,
    /// The resource.
    pub resource: Option<String>,
}

/// The answer, and which counter would be charged.
#[derive(Clone, Debug)]
pub struct Judgement {
    /// The outcome, as a check tells it: `used` does not include what is asked for.
    pub outcome: Outcome,
    /// The counter to charge, where something is counted.
    pub charge: Option<Charge>,
}

/// Judges a question at an instant. The question's resource must be loaded.
#[must_use]
pub fn judge(state: &State, catalog: &Catalog, question: &Question, at: Timestamp) -> Judgement {
    let standing = Standing { state, catalog, at };
    let feature = question.feature.as_str();
    let makes = catalog
        .feature(feature)
        .is_some_and(|f| f.resource == ResourceUse::Makes);
    let known = question
        .resource
        .as_deref()
        .and_then(|id| state.resource(id));
    let deleted = known.is_some_and(|resource| resource.deleted);
    let there = known.is_some_and(|resource| resource.created.is_some());
    if makes && there && !deleted {
        return allowed(
            &standing,
            feature,
            &standing_counters(&standing, feature),
            Reason::AlreadyCreated,
            false,
        );
    }
    // Ids are used once, for ever: no flag passes that.
    if state.subject.superadmin && !(makes && deleted) {
        return allowed(
            &standing,
            feature,
            &standing_counters(&standing, feature),
            Reason::Bypassed,
            false,
        );
    }
    let candidates = match standing.access(feature, question.resource.as_deref()) {
        Access::Open(candidates) => candidates,
        Access::Closed {
            reason,
            closure,
            evidence,
        } => {
            let outcome = Outcome {
                plan: standing.plan().map(str::to_owned),
                closure,
                evidence: evidence.into_iter().collect(),
                offers: offers(&standing, question, reason, closure, None),
                ..empty(reason)
            };
            return Judgement {
                outcome,
                charge: None,
            };
        }
    };
    if let Some(picked) = standing.pick(feature, &candidates, question.amount) {
        let reason = if standing.limit(feature, picked).is_none() {
            Reason::Unlimited
        } else {
            Reason::WithinLimit
        };
        let same_plan = of_plan(&candidates, picked.plan.as_deref());
        let mut judgement = allowed(&standing, feature, &same_plan, reason, true);
        judgement.charge = Some(picked.charge.clone());
        return judgement;
    }
    refused(&standing, question, &candidates)
}

/// The counters that describe the plan in force, for answers that charge nothing.
fn standing_counters(standing: &Standing<'_>, feature: &str) -> Vec<Counting> {
    standing.by_plan(feature)
}

fn of_plan<'c>(candidates: &'c [Counting], plan: Option<&str>) -> Vec<Counting> {
    let same = |counting: &&'c Counting| counting.plan.as_deref() == plan;
    candidates.iter().filter(same).cloned().collect()
}

fn allowed(
    standing: &Standing<'_>,
    feature: &str,
    counted: &[Counting],
    reason: Reason,
    charge: bool,
) -> Judgement {
    let numbers = sum(standing, feature, counted);
    let outcome = Outcome {
        plan: counted.first().and_then(|counting| counting.plan.clone()),
        used: numbers.used,
        held: numbers.held,
        limit: numbers.limit,
        resets_at: counted.first().and_then(|counting| counting.resets_at),
        ..empty(reason)
    };
    let charge = if charge {
        counted.first().map(|counting| counting.charge.clone())
    } else {
        None
    };
    Judgement { outcome, charge }
}

fn refused(standing: &Standing<'_>, question: &Question, candidates: &[Counting]) -> Judgement {
    let feature = question.feature.as_str();
    let first = candidates.first();
    let same_plan = of_plan(
        candidates,
        first.and_then(|counting| counting.plan.as_deref()),
    );
    let numbers = sum(standing, feature, &same_plan);
    let in_plan = candidates
        .iter()
        .any(|c| c.allowance != Allowance::NotInPlan || standing.limit(feature, c) > Some(0));
    let reason = if in_plan {
        Reason::LimitReached
    } else {
        Reason::NotInPlan
    };
    let mut evidence: Vec<i64> = Vec::new();
    if in_plan {
        for counting in candidates {
            let tally = standing.tally(feature, &counting.charge);
            evidence.extend(
                tally
                    .iter()
                    .flat_map(|tally| tally.evidence.iter().copied()),
            );
        }
        evidence.sort_unstable_by(|a, b| b.cmp(a));
        evidence.truncate(EVIDENCE_MAX);
    }
    let outcome = Outcome {
        plan: first.and_then(|counting| counting.plan.clone()),
        used: numbers.used,
        held: numbers.held,
        limit: numbers.limit,
        resets_at: first.and_then(|counting| counting.resets_at),
        evidence,
        offers: offers(standing, question, reason, None, first),
        ..empty(reason)
    };
    Judgement {
        outcome,
        charge: None,
    }
}

fn empty(reason: Reason) -> Outcome {
    let limit = (!reason.allows()).then_some(0);
    Outcome {
        reason,
        plan: None,
        used: 0,
        held: 0,
        limit,
        resets_at: None,
        closure: None,
        evidence: Vec::new(),
        offers: Vec::new(),
    }
}

/// What several counters of one plan come to together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Numbers {
    /// Units used.
    pub used: i64,
    /// Units held.
    pub held: i64,
    /// The limit; none for no limit.
    pub limit: Option<i64>,
}

/// Sums counters.
#[must_use]
pub fn sum(standing: &Standing<'_>, feature: &str, counted: &[Counting]) -> Numbers {
    let mut numbers = Numbers {
        used: 0,
        held: 0,
        limit: Some(0),
    };
    for counting in counted {
        numbers.used += standing
            .tally(feature, &counting.charge)
            .map_or(0, |tally| tally.used);
        numbers.held += standing.held(feature, &counting.charge);
        numbers.limit = match (numbers.limit, standing.limit(feature, counting)) {
            (Some(sum), Some(limit)) => Some(sum.saturating_add(limit)),
            _ => None,
        };
        if counting.charge.owner == Owner::Subject {
            // Several live grants share the subject's one counter: it counts once.
            break;
        }
    }
    numbers
}

/// The plans whose purchase would lift a refusal, cheapest first.
fn offers(
    standing: &Standing<'_>,
    question: &Question,
    reason: Reason,
    closure: Option<Closure>,
    refused: Option<&Counting>,
) -> Vec<String> {
    if reason == Reason::UnknownResource || closure == Some(Closure::Deleted) {
        return Vec::new();
    }
    let helps = |plan: &&str| helps(standing, question, closure.is_some(), refused, plan);
    standing
        .catalog
        .plans_on_sale()
        .into_iter()
        .filter(helps)
        .map(str::to_owned)
        .collect()
}

fn helps(
    standing: &Standing<'_>,
    question: &Question,
    locked: bool,
    refused: Option<&Counting>,
    id: &str,
) -> bool {
    let catalog = standing.catalog;
    let feature = question.feature.as_str();
    let (Some(plan), Some(about)) = (catalog.plan(id), catalog.feature(feature)) else {
        return false;
    };
    let offered = catalog.allowance(Some(id), feature);
    if offered == Allowance::NotInPlan {
        return false;
    }
    if plan.opens == Opens::Named {
        let on_free = || {
            let id = question.resource.as_deref().unwrap_or_default();
            let resource = standing.state.resource(id);
            resource
                .is_some_and(|resource| matches!(standing.payer(id, resource), Some(Payer::Free)))
        };
        return about.resource == ResourceUse::On && (locked || on_free());
    }
    if about.resource == ResourceUse::On && plan.opens != Opens::All && !catalog.model().unlock_all
    {
        return false;
    }
    let current = standing
        .plan()
        .and_then(|plan| catalog.plan(plan))
        .and_then(|plan| plan.rank);
    let fresh_units = plan.stacks && plan.rank >= current;
    let higher = plan.rank > current;
    let limit = refused
        .and_then(|counting| standing.limit(feature, counting))
        .unwrap_or(0);
    match offered {
        Allowance::NotInPlan => false,
        Allowance::Unlimited => higher || (locked && plan.rank >= current),
        Allowance::Units(units) => (fresh_units && units > 0) || (higher && units > limit),
    }
}
