//! Where a subject stands at an instant: which plan holds, whose counter counts, and what is closed.
//!
//! Decide, check and fold ask the same questions here, so that what was allowed is charged where it was judged. Nothing
//! here waits for a timer: every end is judged against the instant that is asked about.

mod resource;

pub use resource::Payer;

use crate::catalog::{Allowance, Catalog, Period, ResourceUse, Restart, Window};
use crate::event::{Closure, Reason};
use crate::state::{Charge, Counters, Grant, Owner, State, Tally};
use crate::time::Timestamp;

/// Where windows without a beginning start.
pub const BEGINNING: Timestamp = Timestamp::from_micros(0);

/// A counter that could be charged, and what it may reach.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Counting {
    /// The plan that allows; none where the product has no default plan.
    pub plan: Option<String>,
    /// Which window of whose counter.
    pub charge: Charge,
    /// What may be used in it, without extra units.
    pub allowance: Allowance,
    /// The kind of window.
    pub window: Window,
    /// When the window ends and counting starts anew; none where it does not.
    pub resets_at: Option<Timestamp>,
}

/// What may be charged for a feature, in the order of charging, or what stands against it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Access {
    /// Open; never empty.
    Open(Vec<Counting>),
    /// Refused before anything is counted.
    Closed {
        /// Why.
        reason: Reason,
        /// What exactly closes the resource.
        closure: Option<Closure>,
        /// The offset of the event behind it.
        evidence: Option<i64>,
    },
}

/// A subject under a catalog at an instant.
#[derive(Clone, Copy)]
pub struct Standing<'a> {
    /// The subject.
    pub state: &'a State,
    /// The catalog.
    pub catalog: &'a Catalog,
    /// The instant.
    pub at: Timestamp,
}

impl<'a> Standing<'a> {
    /// The instant at which a grant stops to hold, grace included; [`Timestamp::MAX`] for an open one.
    #[must_use]
    pub fn lives_until(&self, grant: &Grant) -> Timestamp {
        match (grant.cancelled, grant.paid_until()) {
            (Some(cancelled), _) => cancelled.end,
            (None, Some(end)) => end.plus(self.catalog.grace(&grant.plan)),
            (None, None) => Timestamp::MAX,
        }
    }

    /// Whether a grant holds at an instant.
    #[must_use]
    pub fn lives_at(&self, grant: &Grant, at: Timestamp) -> bool {
        grant.start().is_some_and(|start| start <= at) && at < self.lives_until(grant)
    }

    /// Whether a grant holds now.
    #[must_use]
    pub fn lives(&self, grant: &Grant) -> bool {
        self.lives_at(grant, self.at)
    }

    /// Whether a grant lives on after its paid end.
    #[must_use]
    pub fn in_grace(&self, grant: &Grant) -> bool {
        self.lives(grant) && grant.paid_until().is_some_and(|end| end <= self.at)
    }

    fn rank(&self, grant: &Grant) -> Option<u32> {
        self.catalog.plan(&grant.plan).and_then(|plan| plan.rank)
    }

    /// The live grants of the plan in force, the one that ends first in front; none where the default plan holds.
    #[must_use]
    pub fn in_force(&self) -> Vec<&'a Grant> {
        let ranked = |grant: &&Grant| self.lives(grant) && self.rank(grant).is_some();
        let top = self
            .state
            .subject
            .grants
            .iter()
            .filter(ranked)
            .max_by_key(|grant| self.rank(grant));
        top.map_or_else(Vec::new, |top| self.live_of(&top.plan))
    }

    /// The live grants of a plan, the one that ends first in front.
    #[must_use]
    pub fn live_of(&self, plan: &str) -> Vec<&'a Grant> {
        let mut grants: Vec<&Grant> = self
            .state
            .subject
            .grants
            .iter()
            .filter(|grant| grant.plan == plan && self.lives(grant))
            .collect();
        grants.sort_by_key(|grant| (self.lives_until(grant), grant.offset));
        grants
    }

    /// The plan in force.
    #[must_use]
    pub fn plan(&self) -> Option<&'a str> {
        self.in_force()
            .first()
            .map(|grant| grant.plan.as_str())
            .or_else(|| self.catalog.default_plan())
    }

    /// When free usage last started anew, judged at this instant.
    #[must_use]
    pub fn free_since(&self) -> Timestamp {
        self.free_since_ends_of(|_| true)
    }

    /// The same, as far as the ends of these grants say it, and those that are forgotten.
    pub(crate) fn free_since_ends_of(&self, counts: impl Fn(&Grant) -> bool) -> Timestamp {
        if self.catalog.model().restart == Restart::Never {
            return BEGINNING;
        }
        let mut since = self
            .state
            .subject
            .free_since
            .filter(|since| *since <= self.at)
            .unwrap_or(BEGINNING);
        let paid: Vec<&Grant> = self
            .state
            .subject
            .grants
            .iter()
            .filter(|grant| self.rank(grant).is_some())
            .collect();
        for grant in paid.iter().filter(|grant| counts(grant)) {
            let end = self.lives_until(grant);
            let natural = grant.cancelled.is_none_or(|cancelled| !cancelled.at_once)
                && !grant.periods.is_empty();
            let left = paid.iter().any(|other| self.lives_at(other, end));
            if natural && end <= self.at && end > since && !left {
                since = end;
            }
        }
        since
    }

    /// The counter window of a plan's feature for an owner, with what it allows.
    fn counting(&self, plan: Option<&str>, grant: Option<&Grant>, feature: &str) -> Counting {
        let counted_by_subject = self
            .catalog
            .feature(feature)
            .is_some_and(|f| !f.metered || f.counted == crate::catalog::Counted::Subject);
        let owner = match grant {
            _ if counted_by_subject => Owner::Subject,
            Some(grant) => Owner::Grant(grant.id.clone()),
            None => Owner::Free,
        };
        let limit = plan.and_then(|plan| self.catalog.limit(plan, feature));
        let allowance = self.catalog.allowance(plan, feature);
        let window = limit.map_or(Window::Lifetime, |limit| limit.window);
        let (start, end) = self.window(window, &owner, grant);
        let resets_at = if allowance == Allowance::Unlimited {
            None
        } else {
            end
        };
        Counting {
            plan: plan.map(str::to_owned),
            charge: Charge {
                owner,
                window,
                start,
            },
            allowance,
            window,
            resets_at,
        }
    }

    fn window(
        &self,
        window: Window,
        owner: &Owner,
        grant: Option<&Grant>,
    ) -> (Timestamp, Option<Timestamp>) {
        let floor = if *owner == Owner::Free {
            self.free_since()
        } else {
            BEGINNING
        };
        match window {
            Window::Lifetime => (floor, None),
            Window::Day => {
                let day = self.catalog.day(self.at);
                (day.start.max(floor), Some(day.end))
            }
            Window::Month => {
                let month = self.catalog.month(self.at);
                (month.start.max(floor), Some(month.end))
            }
            Window::Period => grant.map_or((floor, None), |grant| self.paid_period(grant)),
        }
    }

    /// The paid period that holds the instant: in grace the last one goes on.
    fn paid_period(&self, grant: &Grant) -> (Timestamp, Option<Timestamp>) {
        let holding = grant
            .periods
            .iter()
            .rev()
            .find(|period| period.start <= self.at)
            .or(grant.periods.first());
        let Some(period) = holding else {
            return (BEGINNING, None);
        };
        let recurs = self
            .catalog
            .plan(&grant.plan)
            .and_then(|plan| plan.period)
            .is_some_and(Period::recurs);
        let last = grant.periods.last() == Some(period);
        let end = match period.end {
            _ if !recurs || grant.cancelled.is_some() => None,
            Some(end) if last && end <= self.at => Some(end.plus(self.catalog.grace(&grant.plan))),
            end => end,
        };
        (period.start, end)
    }

    /// What may be charged for a feature, on a resource where it needs one.
    #[must_use]
    pub fn access(&self, feature: &str, resource: Option<&str>) -> Access {
        let kind = self
            .catalog
            .feature(feature)
            .map_or(ResourceUse::None, |f| f.resource);
        match (kind, resource) {
            (ResourceUse::Makes, Some(resource)) if self.is_deleted(resource) => {
                self.deleted(resource)
            }
            (ResourceUse::Makes, _) => Access::Open(self.slots(feature)),
            (ResourceUse::On, Some(resource)) => self.on_resource(feature, resource),
            _ => Access::Open(self.by_plan(feature)),
        }
    }

    /// The counters of the plan in force.
    #[must_use]
    pub fn by_plan(&self, feature: &str) -> Vec<Counting> {
        let grants = self.in_force();
        if grants.is_empty() {
            return vec![self.counting(self.catalog.default_plan(), None, feature)];
        }
        grants
            .iter()
            .map(|grant| self.counting(Some(&grant.plan), Some(grant), feature))
            .collect()
    }

    /// The counter of one grant.
    #[must_use]
    pub fn of_grant(&self, grant: &Grant, feature: &str) -> Counting {
        self.counting(Some(&grant.plan), Some(grant), feature)
    }

    /// The counters that sell slots: paid before free; of two live purchases, the one that ends first.
    #[must_use]
    pub fn slots(&self, feature: &str) -> Vec<Counting> {
        let mut slots = self.by_plan(feature);
        let stacks = slots
            .first()
            .and_then(|first| first.plan.as_deref())
            .and_then(|plan| self.catalog.plan(plan));
        if stacks.is_some_and(|plan| plan.stacks) {
            slots.push(self.counting(self.catalog.default_plan(), None, feature));
        }
        slots
    }

    /// The tally of a window, if anything was counted in it.
    #[must_use]
    pub fn tally(&self, feature: &str, charge: &Charge) -> Option<&'a Tally> {
        let counters: Option<&Counters> = self.state.counters(&charge.owner);
        counters
            .and_then(|counters| counters.get(feature))
            .and_then(|counter| counter.tally(charge))
    }

    /// Units held on a window by holds that are open now.
    #[must_use]
    pub fn held(&self, feature: &str, charge: &Charge) -> i64 {
        let open = self
            .state
            .subject
            .holds
            .values()
            .filter(|hold| hold.expires_at > self.at);
        open.filter(|hold| hold.feature == feature && hold.charge.as_ref() == Some(charge))
            .map(|hold| hold.amount)
            .sum()
    }

    /// Units that still fit into a window; none for no limit.
    #[must_use]
    pub fn room(&self, feature: &str, counting: &Counting) -> Option<i64> {
        let limit = self.limit(feature, counting)?;
        let used = self
            .tally(feature, &counting.charge)
            .map_or(0, |tally| tally.used);
        Some(
            limit
                .saturating_sub(used)
                .saturating_sub(self.held(feature, &counting.charge)),
        )
    }

    /// The limit of a window, extra units included; none for no limit.
    #[must_use]
    pub fn limit(&self, feature: &str, counting: &Counting) -> Option<i64> {
        let extra = self
            .tally(feature, &counting.charge)
            .map_or(0, |tally| tally.extra);
        match counting.allowance {
            Allowance::Unlimited => None,
            Allowance::NotInPlan => Some(extra),
            Allowance::Units(units) => Some(units.saturating_add(extra)),
        }
    }

    /// The first counter with room for the units.
    #[must_use]
    pub fn pick<'c>(
        &self,
        feature: &str,
        candidates: &'c [Counting],
        amount: i64,
    ) -> Option<&'c Counting> {
        candidates.iter().find(|counting| {
            self.room(feature, counting)
                .is_none_or(|room| room >= amount)
        })
    }
}
