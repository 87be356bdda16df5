//! Catalogs: one product's plans, gates, routes and messages, as data.

mod calendar;
mod model;
mod succession;
mod validate;

pub use calendar::Span;
pub use model::*;
pub use succession::compatible;
pub use validate::{Fault, schema};

use crate::time::{DAY, Timestamp};

/// What a plan allows of a feature.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Allowance {
    /// The feature is not in the plan.
    NotInPlan,
    /// So many units a window.
    Units(i64),
    /// Any number.
    Unlimited,
}

/// The catalogs that come with the service: products and texts.
#[must_use]
pub const fn shipped() -> [(&'static str, &'static str); 3] {
    [
        (
            "candidate-chat",
            include_str!("../../catalogs/candidate-chat/catalog.toml"),
        ),
        ("applyx", include_str!("../../catalogs/applyx/catalog.toml")),
        (
            "resume-builder",
            include_str!("../../catalogs/resume-builder/catalog.toml"),
        ),
    ]
}

/// A valid catalog, ready to judge by.
#[derive(Clone, Debug)]
pub struct Catalog {
    model: Model,
    zone: chrono_tz::Tz,
    default_plan: Option<String>,
    making_feature: Option<String>,
    text: String,
}

impl Catalog {
    /// Reads and checks a catalog.
    ///
    /// # Errors
    /// Every fault that was found, each with the place that it stands at.
    pub fn parse(text: &str) -> Result<Self, Vec<Fault>> {
        let (model, zone) = validate::read(text)?;
        let default_plan = model
            .plans
            .iter()
            .find(|(_, plan)| plan.rank == Some(0))
            .map(|(id, _)| id.clone());
        let making_feature = model
            .features
            .iter()
            .find(|(_, f)| f.resource == ResourceUse::Makes)
            .map(|(id, _)| id.clone());
        Ok(Self {
            model,
            zone,
            default_plan,
            making_feature,
            text: text.to_owned(),
        })
    }

    /// The text as published.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// What its author wrote.
    #[must_use]
    pub const fn model(&self) -> &Model {
        &self.model
    }

    /// The product.
    #[must_use]
    pub fn product(&self) -> &str {
        &self.model.product
    }

    /// A feature by its id.
    #[must_use]
    pub fn feature(&self, id: &str) -> Option<&Feature> {
        self.model.features.get(id)
    }

    /// A plan by its id.
    #[must_use]
    pub fn plan(&self, id: &str) -> Option<&Plan> {
        self.model.plans.get(id)
    }

    /// The plan of rank 0, everybody's default.
    #[must_use]
    pub fn default_plan(&self) -> Option<&str> {
        self.default_plan.as_deref()
    }

    /// The feature that makes resources, where there is one.
    #[must_use]
    pub fn making_feature(&self) -> Option<&str> {
        self.making_feature.as_deref()
    }

    /// What a plan allows of a feature: a limit where it is in the plan.
    #[must_use]
    pub fn limit(&self, plan: &str, feature: &str) -> Option<&Limit> {
        self.model.plans.get(plan)?.limits.get(feature)
    }

    /// What a plan allows of a feature; what is not metered is unlimited everywhere, also where there is no plan.
    #[must_use]
    pub fn allowance(&self, plan: Option<&str>, feature: &str) -> Allowance {
        if self.feature(feature).is_some_and(|f| !f.metered) {
            return Allowance::Unlimited;
        }
        match plan.and_then(|plan| self.limit(plan, feature)) {
            None => Allowance::NotInPlan,
            Some(limit) => limit.limit.map_or(Allowance::Unlimited, Allowance::Units),
        }
    }

    /// How long a plan goes on after its end, in microseconds.
    #[must_use]
    pub fn grace(&self, plan: &str) -> i64 {
        self.plan(plan).map_or(0, |plan| match plan.period {
            Some(period) if period.recurs() => i64::from(plan.grace_days.unwrap_or(1)) * DAY,
            _ => 0,
        })
    }

    /// The end of the `n`-th period (from 1) of a plan that started at `anchor`; none for an open one.
    ///
    /// Calendar periods are counted from the anchor, so that 31 January, 28 February, 31 March does not drift.
    #[must_use]
    pub fn period_end(&self, plan: &str, anchor: Timestamp, n: u32) -> Option<Timestamp> {
        match self.plan(plan)?.period? {
            Period::Month => Some(calendar::add_months(self.zone, anchor, n)),
            Period::Year => Some(calendar::add_months(
                self.zone,
                anchor,
                n.saturating_mul(12),
            )),
            Period::Days(days) => {
                let length = i64::from(days) * DAY;
                Some(anchor.plus(length.saturating_mul(i64::from(n))))
            }
            Period::Open => None,
        }
    }

    /// The calendar day that holds an instant, in the product's zone.
    #[must_use]
    pub fn day(&self, at: Timestamp) -> Span {
        calendar::day(self.zone, at)
    }

    /// The calendar month that holds an instant, in the product's zone.
    #[must_use]
    pub fn month(&self, at: Timestamp) -> Span {
        calendar::month(self.zone, at)
    }

    /// All feature ids, the retired ones too.
    pub fn feature_ids(&self) -> impl Iterator<Item = &str> {
        self.model.features.keys().map(String::as_str)
    }

    /// The plan ids whose purchase could help, cheapest first: those on sale.
    #[must_use]
    pub fn plans_on_sale(&self) -> Vec<&str> {
        let mut plans: Vec<(&str, &Plan)> = self
            .model
            .plans
            .iter()
            .map(|(id, plan)| (id.as_str(), plan))
            .collect();
        plans.retain(|(_, plan)| !plan.retired && plan.rank != Some(0));
        plans.sort_by_key(|(id, plan)| (plan.price.unwrap_or(0), plan.rank, (*id).to_owned()));
        plans.into_iter().map(|(id, _)| id).collect()
    }
}
