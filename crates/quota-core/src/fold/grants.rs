//! Purchases, renewals, cancellations, and the end of what they granted.

use super::{Folding, MEMORY};
use crate::catalog::{Catalog, Opens};
use crate::event::{Cancellation, Purchase};
use crate::standing::{BEGINNING, Standing};
use crate::state::{Cancelled, Grant, Paid, Payment, RowKey, State, Thing};
use crate::time::Timestamp;

impl Folding<'_> {
    /// A purchase or renewal, once per payment.
    pub(super) fn purchased(&mut self, purchase: &Purchase, renewal: bool) {
        if let Some(known) = self.state.payment(&purchase.payment_id) {
            let grant = known.grant.clone();
            self.learn_subscription(grant.as_deref(), purchase);
            return;
        }
        let plan = self.catalog.plan(&purchase.plan);
        let opens = plan.map_or(Opens::Own, |plan| plan.opens);
        let grant = match (opens, &purchase.resource) {
            // Everybody has the default plan: who pays for it has no other counters than before.
            _ if plan.is_some_and(|plan| plan.rank == Some(0)) => None,
            (Opens::Named, Some(resource)) => {
                let resource = resource.clone();
                self.open_resource(
                    &purchase.payment_id,
                    &purchase.plan,
                    &resource,
                    Some(purchase),
                )
            }
            _ => match self.renewed(purchase, renewal) {
                Some(renewed) => renewed,
                None => self.granted(purchase),
            },
        };
        let payment = Payment {
            grant: grant.clone(),
            told_by: self.offset,
        };
        self.put(
            RowKey::payment(&purchase.payment_id),
            Thing::Payment(payment),
        );
        if let Some(grant) = grant {
            self.bind_waiting(&grant);
        }
    }

    /// The webhook that follows a published purchase tells which subscription it was of.
    fn learn_subscription(&mut self, grant: Option<&str>, purchase: &Purchase) {
        let grants = &mut self.state.subject.grants;
        if let Some(grant) = grants
            .iter_mut()
            .find(|known| Some(known.id.as_str()) == grant)
            && grant.subscription.is_none()
        {
            grant.subscription.clone_from(&purchase.subscription);
        }
    }

    /// Extends the grant that a payment renews, and names it, unless it is told too late; none where the payment begins
    /// a grant.
    fn renewed(&mut self, purchase: &Purchase, renewal: bool) -> Option<Option<String>> {
        let index = self.renews(purchase, renewal)?;
        let catalog = self.catalog;
        let horizon = self.recorded_at.plus(-MEMORY);
        let grant = self.state.subject.grants.get_mut(index)?;
        let id = grant.id.clone();
        let Some(start) = grant.ends_at() else {
            // Open: it lives on anyway, and the payment is its own from now on.
            return Some(Some(id));
        };
        if catalog.period_end(&purchase.plan, grant.anchor, grant.counted) != Some(start) {
            // The plan's period has changed since: from here on, the new one is counted.
            grant.anchor = start;
            grant.counted = 0;
        }
        let counted = grant.counted.saturating_add(1);
        let end = purchase
            .ends_at
            .or_else(|| catalog.period_end(&purchase.plan, grant.anchor, counted));
        if end.is_some_and(|end| end < horizon) {
            return Some(None);
        }
        if end.is_some_and(|end| end <= start) {
            // A period that is paid already: the payment is known, nothing is extended.
            return Some(Some(id));
        }
        if purchase.ends_at.is_some() {
            grant.anchor = end.unwrap_or(start);
            grant.counted = 0;
        } else {
            grant.counted = counted;
        }
        grant.cancelled = None;
        grant.periods.push(Paid { start, end });
        if purchase.subscription.is_some() {
            // Whoever pays on is who can cancel: a new subscription takes the old one's place.
            grant.subscription.clone_from(&purchase.subscription);
        }
        self.forget_periods(index, horizon);
        Some(Some(id))
    }

    /// Drops the periods of a grant that ended long ago; what is told of their time counts nowhere.
    fn forget_periods(&mut self, index: usize, horizon: Timestamp) {
        let Some(grant) = self.state.subject.grants.get_mut(index) else {
            return;
        };
        let old = grant
            .periods
            .iter()
            .take_while(|period| period.end.is_some_and(|end| end < horizon))
            .count()
            .min(grant.periods.len().saturating_sub(1));
        if let Some(last) = grant.periods.drain(..old).next_back() {
            self.state.subject.forgotten_until = self.state.subject.forgotten_until.max(last.end);
        }
    }

    /// The grant that a payment continues: it must hold the payment's time, its grace included.
    fn renews(&self, purchase: &Purchase, renewal: bool) -> Option<usize> {
        let plan = self.catalog.plan(&purchase.plan);
        if !renewal && plan.is_none_or(|plan| plan.stacks) {
            return None;
        }
        let standing = self.standing();
        let continues = |grant: &Grant| {
            let until = standing.lives_until(grant);
            // Who buys beside a scheduled grant wants one now.
            let begun = grant
                .start()
                .is_some_and(|start| renewal || start <= self.recorded_at);
            let refunded = grant.cancelled.is_some_and(|cancelled| cancelled.at_once);
            let joins = purchase.starts_at.is_none_or(|start| start <= until);
            grant.plan == purchase.plan && begun && joins && !refunded && self.at < until
        };
        let grants = &self.state.subject.grants;
        let newest = |wanted: &dyn Fn(&Grant) -> bool| {
            grants
                .iter()
                .rposition(|grant| wanted(grant) && continues(grant))
        };
        let subscription = purchase.subscription.as_ref().filter(|_| renewal);
        let by_subscription = subscription.and_then(|subscription| {
            newest(&|grant: &Grant| grant.subscription.as_ref() == Some(subscription))
        });
        by_subscription.or_else(|| newest(&|_| true))
    }

    /// A grant of its own.
    fn granted(&mut self, purchase: &Purchase) -> Option<String> {
        let start = purchase.starts_at.unwrap_or(self.at);
        let end = purchase
            .ends_at
            .or_else(|| self.catalog.period_end(&purchase.plan, start, 1));
        let (anchor, counted) = match purchase.ends_at {
            Some(end) => (end, 0),
            None => (start, 1),
        };
        let grant = Grant {
            id: purchase.payment_id.clone(),
            plan: purchase.plan.clone(),
            periods: vec![Paid { start, end }],
            anchor,
            counted,
            subscription: purchase.subscription.clone(),
            resource: None,
            cancelled: None,
            noticed: None,
            counters: std::collections::BTreeMap::new(),
            resources: 0,
            offset: self.offset,
        };
        self.keep(grant)
    }

    /// Keeps a grant, unless it ended so long ago that it would be forgotten at once.
    pub(super) fn keep(&mut self, mut grant: Grant) -> Option<String> {
        if grant
            .ends_at()
            .is_some_and(|end| end.plus(MEMORY) < self.recorded_at)
        {
            return None;
        }
        if self.state.grant(&grant.id).is_some() {
            // An unlock goes by its event's id, which another source, or a payment, may have too.
            grant.id = format!("{}@{}", grant.id, self.offset);
        }
        let id = grant.id.clone();
        self.state.subject.grants.push(grant);
        Some(id)
    }

    /// Ends a grant: the payment's, the subscription's, or the newest live one.
    pub(super) fn cancelled(&mut self, cancellation: &Cancellation) {
        let Some(index) = self.cancels(cancellation) else {
            return;
        };
        let at = self.at;
        let standing = self.standing();
        let grants = &self.state.subject.grants;
        if grants
            .get(index)
            .is_none_or(|grant| at >= standing.lives_until(grant))
        {
            return;
        }
        let Some(grant) = self.state.subject.grants.get_mut(index) else {
            return;
        };
        let period_end = if cancellation.at_period_end {
            grant.paid_until()
        } else {
            None
        };
        match (period_end, grant.cancelled) {
            (Some(_), Some(_)) => {}
            (Some(end), None) => {
                grant.cancelled = Some(Cancelled {
                    end,
                    at_once: false,
                });
            }
            (None, _) => {
                grant.cancelled = Some(Cancelled {
                    end: at,
                    at_once: true,
                });
                self.move_unlocks_up();
            }
        }
    }

    fn cancels(&self, cancellation: &Cancellation) -> Option<usize> {
        let grants = &self.state.subject.grants;
        if let Some(payment) = &cancellation.payment_id {
            let id = self
                .state
                .payment(payment)
                .and_then(|payment| payment.grant.as_ref())?;
            return grants.iter().position(|grant| grant.id == *id);
        }
        if let Some(subscription) = &cancellation.subscription {
            return grants
                .iter()
                .rposition(|grant| grant.subscription.as_ref() == Some(subscription));
        }
        let standing = self.standing();
        grants.iter().rposition(|grant| standing.lives(grant))
    }

    /// Drops grants that ended long ago and that nothing refers to, and counters of those that are kept.
    pub(super) fn forget_grants(&mut self) {
        let horizon = self.recorded_at.plus(-MEMORY);
        let standing = Standing {
            state: self.state,
            catalog: self.catalog,
            at: self.recorded_at,
        };
        let old =
            |grant: &Grant| !grant.periods.is_empty() && standing.lives_until(grant) < horizon;
        if !self
            .state
            .subject
            .grants
            .iter()
            .any(|grant| old(grant) && (grant.resources == 0 || holds_counters(grant)))
        {
            return;
        }
        let ended: Vec<Timestamp> = self
            .state
            .subject
            .grants
            .iter()
            .filter(|g| old(g) && !refers(g))
            .map(|g| standing.lives_until(g))
            .collect();
        let old_ids: Vec<String> = self
            .state
            .subject
            .grants
            .iter()
            .filter(|grant| old(grant))
            .map(|grant| grant.id.clone())
            .collect();
        // What is kept tells its own end, which a late renewal may still move.
        let since = standing.free_since_ends_of(|grant| old(grant) && !refers(grant));
        if let Some(last) = ended.into_iter().max() {
            if since > BEGINNING {
                self.state.subject.free_since = Some(since);
            }
            self.state.subject.forgotten_until = self.state.subject.forgotten_until.max(Some(last));
        }
        self.state.subject.grants.retain_mut(|grant| {
            if !old_ids.contains(&grant.id) {
                return true;
            }
            grant.counters.clear();
            refers(grant)
        });
    }
}

/// Whether a resource's story needs the grant: it paid for one.
fn refers(grant: &Grant) -> bool {
    grant.resources > 0 || grant.resource.is_some()
}

fn holds_counters(grant: &Grant) -> bool {
    !grant.counters.is_empty()
}

/// When a grant's end falls due to be noticed, and the end; none where it was noticed, or has none.
fn due_of(catalog: &Catalog, grant: &Grant) -> Option<(Timestamp, Timestamp)> {
    let (due, end) = match grant.cancelled {
        Some(cancelled) if cancelled.at_once => return None,
        Some(cancelled) => (cancelled.end, cancelled.end),
        None => {
            let end = grant.paid_until()?;
            (end.plus(catalog.grace(&grant.plan)), end)
        }
    };
    (grant.noticed != Some(end)).then_some((due, end))
}

/// The expiries that are due: grant ids with their exact ends, earliest first.
#[must_use]
pub fn due_expiries(state: &State, catalog: &Catalog, now: Timestamp) -> Vec<(String, Timestamp)> {
    let mut due: Vec<(Timestamp, String)> = Vec::new();
    for grant in &state.subject.grants {
        if let Some((at, end)) = due_of(catalog, grant)
            && at <= now
        {
            due.push((end, grant.id.clone()));
        }
    }
    due.sort();
    due.into_iter().map(|(end, id)| (id, end)).collect()
}

/// When the next expiry falls due.
#[must_use]
pub fn next_due(state: &State, catalog: &Catalog) -> Option<Timestamp> {
    state
        .subject
        .grants
        .iter()
        .filter_map(|grant| due_of(catalog, grant))
        .map(|(due, _)| due)
        .min()
}
