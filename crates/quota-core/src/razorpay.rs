//! Razorpay's webhooks: which events of ours a body stands for, given what its product has counted already.
//!
//! Several webhooks tell of one payment, in any order and again and again. Each stands for the same event, whose id is
//! made of the payment's: so the ledger takes it once, whichever comes first. What was counted is told apart by the
//! payment too, since a service may have published the purchase itself.

mod notice;

pub use notice::Notice;

use crate::catalog::{Catalog, Opens};
use crate::command::Fact;
use crate::door::{self, Rejection};
use crate::event::{Cancellation, Event};
use crate::time::Timestamp;
use serde_json::{Map, Value, json};

/// The source of events that webhooks stand for.
pub const SOURCE: &str = "quota:razorpay";
/// Held: the body is no JSON object.
pub const UNREADABLE: &str = "unreadable";
/// Held: the ledger could not take it when it came.
pub const UNAVAILABLE: &str = "unavailable";
/// Held: another webhook is counting its payment for somebody else just now.
pub const CONTESTED: &str = "contested";
/// Held: the catalog has no such plan, or nothing names one.
pub const UNKNOWN_PLAN: &str = "unknown_plan";

/// Events that change nothing: a payment that is not complete, or what the end of a paid period says anyway.
const IGNORED: [&str; 10] = [
    "payment.authorized",
    "payment.failed",
    "subscription.activated",
    "subscription.authenticated",
    "subscription.completed",
    "subscription.halted",
    "subscription.paused",
    "subscription.pending",
    "subscription.resumed",
    "subscription.updated",
];

/// Whom something was counted for, and for which plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Whose {
    /// The subject.
    pub subject: String,
    /// The plan.
    pub plan: String,
}

/// What a product has counted of what a notice names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counted {
    /// The payment.
    pub payment: Option<Whose>,
    /// The subscription.
    pub subscription: Option<Whose>,
}

/// What a notice comes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// A fact to record.
    Record {
        /// Whose it is.
        subject: String,
        /// What happened.
        fact: Box<Fact>,
        /// Its payment is counted already; only its subscription is news.
        counted: bool,
    },
    /// Its payment is counted already.
    Counted,
    /// It changes nothing, for this reason.
    Ignored(&'static str),
    /// A person has to look at it, for this reason.
    Held(&'static str),
}

impl Notice {
    /// What it comes to under a product's catalog, at `now`.
    #[must_use]
    pub fn judge(&self, catalog: &Catalog, counted: &Counted, now: Timestamp) -> Verdict {
        let verdict = match self.event.as_str() {
            "payment.captured" | "order.paid" | "payment_link.paid" => {
                self.paid(catalog, counted, now)
            }
            "subscription.charged" => self.charged(catalog, counted, now),
            "subscription.cancelled" => self.subscription_cancelled(counted, now),
            "refund.processed" => self.refunded(counted, now),
            "payment.dispute.lost" => self.reversed("dispute_lost", counted, now),
            event if IGNORED.contains(&event) => Ok(Verdict::Ignored("not_needed")),
            _ => Err("unknown_event"),
        };
        verdict.unwrap_or_else(Verdict::Held)
    }

    /// A payment of its own.
    fn paid(
        &self,
        catalog: &Catalog,
        counted: &Counted,
        now: Timestamp,
    ) -> Result<Verdict, &'static str> {
        let payment = self.payment.as_ref().ok_or("unknown_payload")?;
        self.payment_id.as_ref().ok_or("unknown_payload")?;
        if payment.invoiced {
            return Ok(Verdict::Ignored("counted_by_subscription"));
        }
        if counted.payment.is_some() {
            return Ok(Verdict::Counted);
        }
        self.bought(catalog, counted, now)
    }

    /// A subscription's charge: the first is a purchase, and those after it renew that.
    fn charged(
        &self,
        catalog: &Catalog,
        counted: &Counted,
        now: Timestamp,
    ) -> Result<Verdict, &'static str> {
        self.payment.as_ref().ok_or("unknown_payload")?;
        self.payment_id.as_ref().ok_or("unknown_payload")?;
        let subscription = self.subscription.as_ref().ok_or("unknown_payload")?;
        let Some(whose) = &counted.payment else {
            return self.bought(catalog, counted, now);
        };
        if counted.subscription.is_some() {
            return Ok(Verdict::Counted);
        }
        // A service published this purchase, or the payment came by itself, and nobody knew its subscription: without it,
        // neither a renewal nor a cancellation would find the grant.
        let fact = self.purchase(catalog, &whose.plan, self.resource.as_deref(), false, now);
        let Ok(mut fact) = fact else {
            return Ok(Verdict::Counted);
        };
        // An event beside the one that counted the payment.
        fact.id = format!("{}:{subscription}", fact.id);
        Ok(Verdict::Record {
            subject: whose.subject.clone(),
            fact: Box::new(fact),
            counted: true,
        })
    }

    /// A purchase or renewal, if all of it is known and the amount is the price.
    fn bought(
        &self,
        catalog: &Catalog,
        counted: &Counted,
        now: Timestamp,
    ) -> Result<Verdict, &'static str> {
        let known = counted.subscription.as_ref();
        let subject = self.subject.as_ref();
        let subject = subject.or(known.map(|known| &known.subject));
        let subject = subject.ok_or("unknown_subject")?;
        let plan = self.plan(catalog, known).ok_or(UNKNOWN_PLAN)?;
        let terms = catalog.plan(plan).ok_or(UNKNOWN_PLAN)?;
        if terms.rank == Some(0) {
            return Err(UNKNOWN_PLAN);
        }
        let payment = self.payment.as_ref().ok_or("unknown_payload")?;
        let amount = payment.amount.ok_or("unknown_payload")?;
        if terms.price.is_some_and(|price| price != amount) {
            return Err("wrong_amount");
        }
        if terms.currency.is_some() && terms.currency != payment.currency {
            return Err("wrong_currency");
        }
        let renewal = known.is_some();
        let fact = self.purchase(catalog, plan, self.resource.as_deref(), renewal, now);
        Ok(Verdict::Record {
            subject: subject.clone(),
            fact: Box::new(fact.map_err(|rejection| rejection.code)?),
            counted: false,
        })
    }

    /// The plan: named in the notes, or by the provider's plan, or implied by the resource that is to be opened; at last the
    /// one that the subscription was counted for.
    fn plan<'a>(&'a self, catalog: &'a Catalog, known: Option<&'a Whose>) -> Option<&'a str> {
        let mapped = || {
            let plans = &catalog.model().payments.razorpay_plans;
            plans.get(self.plan_id.as_ref()?)
        };
        let implied = || {
            self.resource.as_ref()?;
            let plans = catalog.model().plans.iter();
            let mut opens = plans.filter(|(_, plan)| plan.opens == Opens::Named);
            match (opens.next(), opens.next()) {
                (Some((id, _)), None) => Some(id),
                _ => None,
            }
        };
        let plan = self.plan.as_ref().or_else(mapped).or_else(implied);
        plan.or(known.map(|known| &known.plan)).map(String::as_str)
    }

    /// The fact that this payment bought a plan.
    fn purchase(
        &self,
        catalog: &Catalog,
        plan: &str,
        resource: Option<&str>,
        renewal: bool,
        now: Timestamp,
    ) -> Result<Fact, Rejection> {
        let payment = self.payment.as_ref();
        let amount = payment.and_then(|payment| payment.amount);
        let currency = payment.and_then(|payment| payment.currency.as_ref());
        let time = payment.and_then(|payment| payment.created_at);
        let charge = self.subscription.as_ref();
        let mut data = Map::new();
        for (name, value) in [
            ("plan", json!(plan)),
            ("payment_id", json!(self.payment_id)),
            ("amount", json!(amount)),
            ("currency", json!(currency)),
            ("resource", json!(resource)),
            ("subscription", json!(charge)),
            ("starts_at", json!(charge.and(self.starts_at))),
            ("ends_at", json!(charge.and(self.ends_at))),
        ] {
            data.insert(name.to_owned(), value);
        }
        data.retain(|_, value| *value != Value::Null);
        let name = if renewal {
            "subscription.renewed"
        } else {
            "subscription.purchased"
        };
        door::fact(SOURCE, &self.id(), time, name, &data, catalog, now)
    }

    /// The purchase that a person says it is, at whatever price.
    ///
    /// # Errors
    /// What is missing or does not go with the plan.
    pub fn resolved(
        &self,
        catalog: &Catalog,
        counted: &Counted,
        plan: &str,
        now: Timestamp,
    ) -> Result<Fact, Rejection> {
        let named = catalog.plan(plan).map(|plan| plan.opens) == Some(Opens::Named);
        let resource = self.resource.as_deref().filter(|_| named);
        self.purchase(catalog, plan, resource, counted.subscription.is_some(), now)
    }

    /// Whether it tells of an end rather than of a payment: then there is nothing to buy.
    #[must_use]
    pub fn ends(&self) -> bool {
        ["subscription.cancelled", "refund.processed"].contains(&self.event.as_str())
            || self.event.starts_with("payment.dispute.")
    }

    fn id(&self) -> String {
        self.payment_id.clone().unwrap_or_default()
    }

    /// The end of a subscription: what is paid lives on.
    fn subscription_cancelled(
        &self,
        counted: &Counted,
        now: Timestamp,
    ) -> Result<Verdict, &'static str> {
        let subscription = self.subscription.as_ref().ok_or("unknown_payload")?;
        let whose = counted
            .subscription
            .as_ref()
            .ok_or("unknown_subscription")?;
        let cancellation = Cancellation {
            payment_id: None,
            subscription: Some(subscription.clone()),
            at_period_end: true,
            reason: Some("subscription_cancelled".to_owned()),
        };
        Ok(self.cancelled(
            whose,
            format!("{subscription}:cancelled"),
            cancellation,
            now,
        ))
    }

    /// A refund, which ends what was paid for if it is of the whole.
    fn refunded(&self, counted: &Counted, now: Timestamp) -> Result<Verdict, &'static str> {
        let payment = self.payment.as_ref().ok_or("unknown_payload")?;
        let amount = payment.amount.ok_or("unknown_payload")?;
        let refunded = payment.refunded.ok_or("unknown_payload")?;
        if refunded < amount {
            return Ok(Verdict::Ignored("partial_refund"));
        }
        self.reversed("refunded", counted, now)
    }

    /// A payment that was taken back, which ends at once what it paid for.
    fn reversed(
        &self,
        how: &str,
        counted: &Counted,
        now: Timestamp,
    ) -> Result<Verdict, &'static str> {
        let payment_id = self.payment_id.as_ref().ok_or("unknown_payload")?;
        let whose = counted.payment.as_ref().ok_or("unknown_payment")?;
        let cancellation = Cancellation {
            payment_id: Some(payment_id.clone()),
            subscription: None,
            at_period_end: false,
            reason: Some(how.to_owned()),
        };
        Ok(self.cancelled(whose, format!("{payment_id}:{how}"), cancellation, now))
    }

    /// The end happened when the provider says, so that it is the same however late it is told; never later than now.
    fn cancelled(
        &self,
        whose: &Whose,
        id: String,
        cancellation: Cancellation,
        now: Timestamp,
    ) -> Verdict {
        let fact = Fact {
            source: SOURCE.to_owned(),
            id,
            time: self.told_at.filter(|at| *at <= now),
            event: Event::SubscriptionCancelled(cancellation),
        };
        Verdict::Record {
            subject: whose.subject.clone(),
            fact: Box::new(fact),
            counted: false,
        }
    }
}
