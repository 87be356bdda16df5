//! Who pays for work on a resource, and what closes it.

use super::{Access, Standing};
use crate::catalog::Opens;
use crate::event::{Closure, Reason};
use crate::state::{Grant, Owner, Resource};

impl<'a> Standing<'a> {
    pub(super) fn is_deleted(&self, resource: &str) -> bool {
        self.state
            .resource(resource)
            .is_some_and(|resource| resource.deleted)
    }

    pub(super) fn deleted(&self, resource: &str) -> Access {
        let evidence = self
            .state
            .resource(resource)
            .and_then(|resource| resource.created);
        Access::Closed {
            reason: Reason::ResourceLocked,
            closure: Some(Closure::Deleted),
            evidence,
        }
    }

    pub(super) fn on_resource(&self, feature: &str, id: &str) -> Access {
        if self.is_deleted(id) {
            return self.deleted(id);
        }
        let Some(resource) = self
            .state
            .resource(id)
            .filter(|resource| resource.created.is_some())
        else {
            return Access::Closed {
                reason: Reason::UnknownResource,
                closure: None,
                evidence: None,
            };
        };
        let payers = self.payers(id, resource);
        if !payers.is_empty() {
            let counting = |payer: Payer<'_>| match payer {
                Payer::Grant(grant) => self.counting(Some(&grant.plan), Some(grant), feature),
                Payer::Free => self.counting(self.catalog.default_plan(), None, feature),
            };
            return Access::Open(payers.into_iter().map(counting).collect());
        }
        if self.catalog.feature(feature).is_some_and(|f| f.view_only) {
            return Access::Open(vec![self.counting(self.plan(), None, feature)]);
        }
        let (closure, paid) = self.closure(id, resource);
        match closure {
            Closure::NoSlot | Closure::Deleted => Access::Closed {
                reason: Reason::ResourceLocked,
                closure: Some(closure),
                evidence: resource.created,
            },
            closure => Access::Closed {
                reason: Reason::GrantExpired,
                closure: Some(closure),
                evidence: paid.map(|grant| grant.offset),
            },
        }
    }

    /// Who pays for work on a resource now, who pays first in front; none where it is closed.
    #[must_use]
    pub fn payer(&self, id: &str, resource: &Resource) -> Option<Payer<'a>> {
        self.payers(id, resource).into_iter().next()
    }

    fn payers(&self, id: &str, resource: &Resource) -> Vec<Payer<'a>> {
        let grants = &self.state.subject.grants;
        let open_to_all = grants
            .iter()
            .filter(|grant| self.lives(grant) && self.opens(grant) == Opens::All);
        if let Some(grant) = open_to_all.max_by_key(|grant| self.rank(grant)) {
            return vec![Payer::Grant(grant)];
        }
        let own = grants
            .iter()
            .find(|grant| self.lives(grant) && self.paid_for(grant, id, resource));
        let mut payers: Vec<&Grant> = own.into_iter().collect();
        if self.catalog.model().unlock_all {
            let others = self.in_force();
            payers.extend(
                others
                    .into_iter()
                    .filter(|other| own.is_none_or(|own| own.id != other.id)),
            );
        }
        if payers.is_empty() && resource.payer == Some(Owner::Free) {
            return vec![Payer::Free];
        }
        payers.into_iter().map(Payer::Grant).collect()
    }

    fn opens(&self, grant: &Grant) -> Opens {
        self.catalog
            .plan(&grant.plan)
            .map_or(Opens::Own, |plan| plan.opens)
    }

    /// Whether a grant opens resources that it did not pay for, while it lives.
    #[must_use]
    pub fn opens_others(&self, grant: &Grant) -> bool {
        self.opens(grant) == Opens::All
            || (self.catalog.model().unlock_all && self.rank(grant).is_some())
    }

    /// Whether a grant paid for a resource, by making it or by opening it.
    #[must_use]
    pub fn paid_for(&self, grant: &Grant, id: &str, resource: &Resource) -> bool {
        grant.resource.as_deref() == Some(id)
            || matches!(&resource.payer, Some(Owner::Grant(payer)) if *payer == grant.id)
    }

    /// What closes a resource that nobody pays for now, and the last grant that did.
    #[must_use]
    pub fn closure(&self, id: &str, resource: &Resource) -> (Closure, Option<&'a Grant>) {
        if resource.deleted {
            return (Closure::Deleted, None);
        }
        let paid = self
            .state
            .subject
            .grants
            .iter()
            .filter(|grant| self.paid_for(grant, id, resource));
        let Some(last) = paid
            .filter(|grant| grant.start().is_some())
            .max_by_key(|grant| self.lives_until(grant))
        else {
            return (Closure::NoSlot, None);
        };
        (
            if self.opens(last) == Opens::All {
                Closure::ProEnded
            } else {
                Closure::PurchaseExpired
            },
            Some(last),
        )
    }
}

/// Who pays for work on a resource.
#[derive(Clone, Copy, Debug)]
pub enum Payer<'a> {
    /// A grant.
    Grant(&'a Grant),
    /// The default plan.
    Free,
}
