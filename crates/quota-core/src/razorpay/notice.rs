//! Notices: what a webhook's body says, read without judging it.
//!
//! Bodies come as their provider pleases: members are null, missing, or of another kind than in its documentation. What
//! cannot be read counts as not said, and is missed only where it is needed.

use crate::door::{MAX_NAME, is_visible, parse_json};
use crate::time::{SECOND, Timestamp};
use serde_json::{Map, Value};

/// The last second of the year 9999: what every reader of times can hold.
const LAST_SECOND: i64 = 253_402_300_799;

/// What a webhook's body says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    /// The provider's name of the event; empty where there is none.
    pub event: String,
    /// The payment that it is about.
    pub payment_id: Option<String>,
    /// The provider's subscription that it is about.
    pub subscription: Option<String>,
    /// Whose it is, where its notes say so.
    pub subject: Option<String>,
    /// The plan that its notes name.
    pub(super) plan: Option<String>,
    /// The resource that its notes name.
    pub(super) resource: Option<String>,
    /// The provider's plan.
    pub(super) plan_id: Option<String>,
    /// The paid period.
    pub(super) starts_at: Option<Timestamp>,
    pub(super) ends_at: Option<Timestamp>,
    /// The payment itself, where it is in the payload.
    pub(super) payment: Option<Payment>,
    /// When it happened, by the provider.
    pub(super) told_at: Option<Timestamp>,
}

/// A payment, as far as it is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Payment {
    pub amount: Option<i64>,
    pub refunded: Option<i64>,
    pub currency: Option<String>,
    /// A subscription's charge, or an invoice's.
    pub invoiced: bool,
    pub created_at: Option<Timestamp>,
}

impl Notice {
    /// Reads a body; none where it is no JSON object.
    #[must_use]
    pub fn read(body: &[u8]) -> Option<Self> {
        let Value::Object(body) = parse_json(body).ok()? else {
            return None;
        };
        let payload = Payload(body.get("payload").and_then(Value::as_object));
        let subscription = payload.entity("subscription");
        let payment = payload.entity("payment");
        let (refund, dispute) = (payload.entity("refund"), payload.entity("dispute"));
        let payment_id = text(payment, "id")
            .or_else(|| text(refund, "payment_id"))
            .or_else(|| text(dispute, "payment_id"));
        // Some of the provider's own samples have the time inside the payload.
        let told_at = seconds(Some(&body), "created_at")
            .or_else(|| seconds(payload.0, "created_at"))
            .or_else(|| seconds(refund, "created_at"));
        Some(Self {
            event: text(Some(&body), "event").unwrap_or_default(),
            payment_id,
            subscription: text(subscription, "id"),
            subject: payload.note("subject"),
            plan: payload.note("plan"),
            resource: payload.note("resource"),
            plan_id: text(subscription, "plan_id"),
            starts_at: seconds(subscription, "current_start"),
            ends_at: seconds(subscription, "current_end"),
            payment: payment.map(Payment::read),
            told_at,
        })
    }
}

impl Payment {
    fn read(payment: &Map<String, Value>) -> Self {
        let units = |name| payment.get(name).and_then(Value::as_i64);
        Self {
            amount: units("amount"),
            refunded: units("amount_refunded"),
            currency: text(Some(payment), "currency"),
            invoiced: text(Some(payment), "invoice_id").is_some(),
            created_at: seconds(Some(payment), "created_at"),
        }
    }
}

type Object<'a> = Option<&'a Map<String, Value>>;

/// The entities of a body, by their names.
#[derive(Clone, Copy)]
struct Payload<'a>(Object<'a>);

impl<'a> Payload<'a> {
    fn entity(self, name: &str) -> Object<'a> {
        self.0?.get(name)?.get("entity")?.as_object()
    }

    /// What the notes say, in the order in which they are believed. (Empty notes are an array.)
    fn note(self, name: &str) -> Option<String> {
        ["subscription", "payment", "order", "payment_link"]
            .iter()
            .find_map(|holder| {
                let notes = self.entity(holder)?.get("notes")?.as_object();
                text(notes, name)
            })
    }
}

/// A name; none where it is no text that can name something.
fn text(object: Object<'_>, name: &str) -> Option<String> {
    let text = object?.get(name)?.as_str()?;
    is_visible(text, MAX_NAME).then(|| text.to_owned())
}

/// A time in whole seconds.
fn seconds(object: Object<'_>, name: &str) -> Option<Timestamp> {
    let seconds = object?.get(name)?.as_i64()?;
    (0..=LAST_SECOND)
        .contains(&seconds)
        .then(|| Timestamp::from_micros(seconds.saturating_mul(SECOND)))
}
