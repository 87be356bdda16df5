//! Resources: their slots, completion, deletion and unlocking.

use super::Folding;
use crate::catalog::{Opens, ResourceUse};
use crate::event::{Purchase, ResourceEvent};
use crate::standing::Standing;
use crate::state::{Charge, Grant, Owner, Paid, Resource, RowKey, Thing, Unbound};
use crate::time::Timestamp;

impl Folding<'_> {
    fn resource_or_new(&self, id: &str) -> Resource {
        let unknown = Resource {
            created: None,
            made_at: None,
            payer: None,
            deleted: false,
            completed: false,
        };
        self.state.resource(id).cloned().unwrap_or(unknown)
    }

    /// A resource was made: once, however often it is told; also where its deletion came first, whose slot is used up too.
    pub(super) fn created(&mut self, data: &ResourceEvent) {
        let hold = data
            .hold
            .as_ref()
            .and_then(|hold| self.state.subject.holds.remove(hold));
        let mut resource = self.resource_or_new(&data.resource);
        if resource.created.is_some() {
            return;
        }
        let waits = !resource.deleted;
        let feature = self.catalog.making_feature().or(data.feature.as_deref());
        let bypassed = data.bypassed || self.state.subject.superadmin;
        let charge = match (&hold, feature) {
            (Some(hold), _) => hold.charge.clone(),
            (None, Some(feature)) if !bypassed => self
                .reserved(feature, data)
                .or_else(|| self.slot(feature, &data.resource)),
            _ => None,
        };
        resource.created = Some(self.offset);
        resource.made_at = Some(self.at);
        resource.payer = charge.as_ref().map(|charge| charge.owner.clone());
        self.put(RowKey::resource(&data.resource), Thing::Resource(resource));
        let makes = feature
            .and_then(|f| self.catalog.feature(f))
            .is_some_and(|f| f.resource == ResourceUse::Makes);
        match (charge, feature) {
            (Some(charge), Some(feature)) => {
                self.charge(feature, &charge, 1);
                if makes {
                    self.count_resource(&charge.owner);
                }
            }
            _ if makes && !bypassed && waits => {
                let unbound = Unbound {
                    resource: data.resource.clone(),
                    made_at: self.at,
                    offset: self.offset,
                };
                self.state.subject.unbound.push(unbound);
            }
            _ => {}
        }
        self.start_waiting_unlocks(&data.resource);
    }

    /// The slot that is held for a resource which a service tells of before its hold is confirmed: it is used now, and
    /// the hold reserves nothing any more.
    fn reserved(&mut self, feature: &str, data: &ResourceEvent) -> Option<Charge> {
        let told = data.outcome.is_none();
        let mut holds = self.state.subject.holds.values_mut();
        let hold = holds.find(|hold| {
            told && hold.feature == feature && hold.resource.as_ref() == Some(&data.resource)
        })?;
        hold.charge.take()
    }

    /// The window that a new resource counts in; none where no slot is left.
    fn slot(&self, feature: &str, resource: &str) -> Option<Charge> {
        let makes = self
            .catalog
            .feature(feature)
            .is_some_and(|f| f.resource == ResourceUse::Makes);
        if !makes {
            return self.charge_of(feature, Some(resource), 1);
        }
        if self.forgotten() {
            return None;
        }
        let standing = self.standing();
        let slots = standing.slots(feature);
        let free = standing.pick(feature, &slots, 1);
        free.map(|counting| counting.charge.clone())
    }

    fn count_resource(&mut self, owner: &Owner) {
        if let Owner::Grant(id) = owner
            && let Some(grant) = self
                .state
                .subject
                .grants
                .iter_mut()
                .find(|grant| grant.id == *id)
        {
            grant.resources += 1;
        }
    }

    /// Gives slots of a new grant to resources that were made in its interval and wait for one.
    pub(super) fn bind_waiting(&mut self, grant: &str) {
        let Some(feature) = self.catalog.making_feature().map(str::to_owned) else {
            return;
        };
        for waiting in self.state.subject.unbound.clone() {
            let Some(charge) = self.slot_of(grant, &feature, waiting.made_at) else {
                continue;
            };
            let mut resource = self.resource_or_new(&waiting.resource);
            resource.payer = Some(charge.owner.clone());
            self.put(
                RowKey::resource(&waiting.resource),
                Thing::Resource(resource),
            );
            self.charge_for(&feature, &charge, 1, waiting.offset);
            self.count_resource(&charge.owner);
            self.state
                .subject
                .unbound
                .retain(|unbound| unbound.resource != waiting.resource);
        }
    }

    fn slot_of(&self, grant: &str, feature: &str, made_at: Timestamp) -> Option<Charge> {
        let standing = Standing {
            state: self.state,
            catalog: self.catalog,
            at: made_at,
        };
        let held = self
            .state
            .grant(grant)
            .filter(|grant| standing.lives(grant))?;
        let counting = standing.of_grant(held, feature);
        let room = standing.room(feature, &counting);
        room.is_none_or(|room| room >= 1).then_some(counting.charge)
    }

    pub(super) fn deleted(&mut self, id: &str) {
        let mut resource = self.resource_or_new(id);
        resource.deleted = true;
        self.put(RowKey::resource(id), Thing::Resource(resource));
        self.state
            .subject
            .unbound
            .retain(|unbound| unbound.resource != id);
    }

    /// A completed resource counts once by its id, whichever way and however often it is told.
    pub(super) fn completed(&mut self, id: &str, source: Option<&str>) {
        let counts = |feature: &crate::catalog::Feature| {
            feature
                .completions
                .as_ref()
                .is_some_and(|rule| Some(rule.source.as_str()) == source)
        };
        let counted = self
            .catalog
            .model()
            .features
            .iter()
            .find(|(_, feature)| counts(feature));
        let mut resource = self.resource_or_new(id);
        let counted = counted
            .filter(|_| !resource.completed)
            .map(|(feature, _)| feature.clone());
        resource.completed |= counted.is_some();
        self.put(RowKey::resource(id), Thing::Resource(resource));
        if let Some(feature) = counted.filter(|_| !self.state.subject.superadmin) {
            let charge = self
                .standing()
                .by_plan(&feature)
                .into_iter()
                .next()
                .map(|counting| counting.charge);
            if let Some(charge) = charge {
                self.charge(&feature, &charge, 1);
            }
        }
    }

    /// Opens a resource without payment, as an unlock bought would.
    pub(super) fn unlocked(&mut self, resource: &str) {
        let plan = self
            .catalog
            .model()
            .plans
            .iter()
            .find(|(_, plan)| plan.opens == Opens::Named);
        if let Some((plan, _)) = plan {
            let (id, plan) = (self.id.to_owned(), plan.clone());
            self.open_resource(&id, &plan, resource, None);
        }
    }

    /// A grant that opens one resource: from now, or from the end of what pays for it still; of a resource that is not
    /// known yet, it waits for its creation.
    pub(super) fn open_resource(
        &mut self,
        id: &str,
        plan: &str,
        resource: &str,
        purchase: Option<&Purchase>,
    ) -> Option<String> {
        let known = self
            .state
            .resource(resource)
            .is_some_and(|resource| resource.created.is_some());
        let mut grant = Grant {
            id: id.to_owned(),
            plan: plan.to_owned(),
            periods: Vec::new(),
            anchor: self.at,
            counted: 1,
            subscription: None,
            resource: Some(resource.to_owned()),
            cancelled: None,
            noticed: None,
            counters: std::collections::BTreeMap::new(),
            resources: 0,
            offset: self.offset,
        };
        if known {
            let from = purchase
                .and_then(|purchase| purchase.starts_at)
                .unwrap_or(self.at);
            let start = self.open_until(resource, from);
            grant.anchor = start;
            let end = purchase
                .and_then(|purchase| purchase.ends_at)
                .filter(|end| *end > start);
            let end = end.or_else(|| self.catalog.period_end(plan, start, 1));
            grant.periods.push(Paid { start, end });
        }
        self.keep(grant)
    }

    /// The end of what opens a resource from an instant on without a gap; the instant itself where it is closed.
    fn open_until(&self, id: &str, from: Timestamp) -> Timestamp {
        let Some(resource) = self.state.resource(id) else {
            return from;
        };
        let standing = self.standing();
        let opens =
            |grant: &&Grant| standing.paid_for(grant, id, resource) || standing.opens_others(grant);
        let grants = self.state.subject.grants.iter().filter(opens);
        let mut spans: Vec<(Timestamp, Timestamp)> = grants
            .filter_map(|grant| Some((grant.start()?, grant.ends_at()?)))
            .collect();
        spans.sort();
        spans.into_iter().fold(from, |until, (start, end)| {
            if start <= until {
                until.max(end)
            } else {
                until
            }
        })
    }

    /// Unlocks that waited for their resource begin with it, one after the other, after what pays for it already.
    fn start_waiting_unlocks(&mut self, resource: &str) {
        let waiting = |grant: &Grant| {
            grant.resource.as_deref() == Some(resource)
                && grant.periods.is_empty()
                && grant.cancelled.is_none()
        };
        while let Some(index) = self.state.subject.grants.iter().position(waiting) {
            let start = self.open_until(resource, self.at);
            let catalog = self.catalog;
            if let Some(grant) = self.state.subject.grants.get_mut(index) {
                let end = catalog.period_end(&grant.plan, start, 1);
                grant.anchor = start;
                grant.periods.push(Paid { start, end });
            }
        }
    }

    /// Something ended at once: unlocks that were to begin at its end begin earlier, and last as long.
    pub(super) fn move_unlocks_up(&mut self) {
        // What has begun by now stays as it is: its counters go by its start.
        let at = self.at.max(self.recorded_at);
        let waits = |grant: &Grant| {
            grant.resource.is_some()
                && grant.cancelled.is_none()
                && grant.start().is_some_and(|start| start > at)
        };
        let mut waiting: Vec<(Timestamp, usize, Vec<Paid>)> = Vec::new();
        for (index, grant) in self.state.subject.grants.iter_mut().enumerate() {
            if waits(grant)
                && let Some(start) = grant.start()
            {
                waiting.push((start, index, std::mem::take(&mut grant.periods)));
            }
        }
        waiting.sort_by_key(|(start, index, _)| (*start, *index));
        for (old, index, mut periods) in waiting {
            let grants = &self.state.subject.grants;
            let resource = grants.get(index).and_then(|grant| grant.resource.clone());
            let start = self.open_until(resource.as_deref().unwrap_or_default(), at);
            if start < old {
                let earlier = start.micros() - old.micros();
                for period in &mut periods {
                    period.start = period.start.plus(earlier);
                    period.end = period.end.map(|end| end.plus(earlier));
                }
            }
            if let Some(grant) = self.state.subject.grants.get_mut(index) {
                grant.anchor = grant.anchor.min(start);
                grant.periods = periods;
            }
        }
    }
}
