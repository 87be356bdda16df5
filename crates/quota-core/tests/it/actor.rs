//! Who carries random acts out, upon a subject of a shipped product.

use crate::acts::{Act, Later};
use quota_core::catalog::{Catalog, shipped};
use quota_core::command::{Adjust, Answer, Consume, Fact, Wish};
use quota_core::desk::Desk;
use quota_core::event::{
    Cancellation, Empty, Event, Flagged, Imported, Purchase, ResourceEvent, Usage,
};
use quota_core::state::Thing;
use quota_core::time::{DAY, Timestamp};
use std::sync::LazyLock;

/// A subject that acts are carried out upon.
pub struct Actor {
    pub desk: Desk,
    pub now: Timestamp,
    product: usize,
    features: Vec<String>,
    plans: Vec<String>,
    sessions: Vec<String>,
    holds: Vec<String>,
    acts: usize,
}

/// Each product's catalog, and behind it the same with every resource open to any live purchase.
static CATALOGS: LazyLock<Vec<Catalog>> = LazyLock::new(|| {
    let texts = shipped().into_iter().flat_map(|(_, text)| {
        let switched = text.replace("unlock_all = false", "unlock_all = true");
        [text.to_owned(), switched]
    });
    texts.map(|text| Catalog::parse(&text).unwrap()).collect()
});

pub const START: &str = "2026-01-15T20:00:00Z";

impl Actor {
    pub fn new(product: usize) -> Self {
        let now = Timestamp::parse(START).unwrap();
        let catalog = &CATALOGS[2 * product];
        Self {
            desk: Desk::new(catalog.clone(), "someone", now),
            now,
            product,
            features: catalog.model().features.keys().cloned().collect(),
            plans: catalog.model().plans.keys().cloned().collect(),
            sessions: catalog.model().sessions.keys().cloned().collect(),
            holds: Vec::new(),
            acts: 0,
        }
    }

    fn feature(&self, index: usize) -> String {
        self.features[index % self.features.len()].clone()
    }

    /// The next act as a wish; none where it publishes a catalog, which is done then.
    pub fn wish(&mut self, (pause, act): &Later) -> Option<Wish> {
        self.now = self.now.plus(*pause);
        self.acts += 1;
        let fresh_id = format!("act-{}", self.acts);
        Some(match act {
            Act::Consume {
                feature,
                amount,
                resource,
                key,
                hold,
            } => Wish::Consume(Consume {
                feature: self.feature(*feature),
                amount: *amount,
                resource: resource.map(name),
                hold_seconds: *hold,
                key: key.map(|key| format!("key-{key}")),
                fresh_id,
            }),
            Act::Confirm(hold) => Wish::Confirm {
                hold: self.hold(*hold),
            },
            Act::Release(hold) => Wish::Release {
                hold: self.hold(*hold),
            },
            Act::Adjust { feature, amount } => Wish::Adjust(Adjust {
                feature: self.feature(*feature),
                amount: *amount,
                reason: "goodwill".into(),
                actor: "support".into(),
                id: fresh_id,
            }),
            Act::Sweep => Wish::Sweep,
            Act::Open { kind, force } => Wish::OpenSession {
                session_type: self.session(*kind),
                force_new: *force,
                fresh_id,
            },
            Act::Finish { session, resource } => Wish::CompleteSession {
                session: self.opened(*session),
                resource: name(*resource),
            },
            Act::Publish { unlock_all } => {
                let catalog = &CATALOGS[2 * self.product + usize::from(*unlock_all)];
                self.desk.publish(catalog.clone(), self.now);
                return None;
            }
            told => {
                let (event, back) = self.told(told);
                Wish::Record(Fact {
                    source: "/acts".into(),
                    id: fresh_id,
                    time: (back > 0).then(|| self.now.plus(-back)),
                    event,
                })
            }
        })
    }

    /// Carries an act out; remembers the hold that it made.
    pub fn act(&mut self, later: &Later) -> Option<(Wish, Answer)> {
        let wish = self.wish(later)?;
        let answer = self.desk.submit(wish.clone(), self.now);
        self.remember(&answer);
        Some((wish, answer))
    }

    pub fn remember(&mut self, answer: &Answer) {
        if let Answer::Decided(decision) = answer
            && let Some(hold) = &decision.hold
        {
            self.holds.push(hold.clone());
        }
    }

    fn hold(&self, back: usize) -> String {
        let newest = self.holds.iter().rev();
        newest
            .cycle()
            .nth(back)
            .map_or("no such hold", |hold| hold.as_str())
            .to_owned()
    }

    fn session(&self, index: usize) -> String {
        self.sessions
            .get(index)
            .map_or("none", |kind| kind.as_str())
            .to_owned()
    }

    fn opened(&self, index: usize) -> String {
        let things = self.desk.state().things();
        let mut opened = things.filter(|(_, thing)| matches!(thing, Thing::Session(_)));
        opened
            .nth(index)
            .map_or_else(|| "none".into(), |(key, _)| key.id.clone())
    }

    fn told(&self, act: &Act) -> (Event, i64) {
        let thing = |resource: u8, source: Option<&str>, feature: Option<String>| ResourceEvent {
            resource: name(resource),
            source: source.map(str::to_owned),
            feature,
            hold: None,
            bypassed: false,
            outcome: None,
        };
        match act {
            Act::Use {
                feature,
                amount,
                resource,
                back,
            } => {
                let usage = Usage {
                    feature: self.feature(*feature),
                    amount: *amount,
                    resource: resource.map(name),
                    hold: None,
                    bypassed: false,
                    outcome: None,
                };
                (Event::UsageRecorded(usage), *back)
            }
            Act::Import {
                feature,
                amount,
                back,
            } => {
                let feature = self.feature(*feature);
                let imported = Imported {
                    feature,
                    amount: *amount,
                };
                (Event::UsageImported(imported), *back)
            }
            Act::Create {
                resource,
                feature,
                back,
            } => {
                let feature = feature.map(|feature| self.feature(feature));
                (
                    Event::ResourceCreated(thing(*resource, None, feature)),
                    *back,
                )
            }
            Act::Complete { resource, bot } => {
                let source = if *bot { "aivi_bot" } else { "upload" };
                (
                    Event::ResourceCompleted(thing(*resource, Some(source), None)),
                    0,
                )
            }
            Act::Delete(resource) => (Event::ResourceDeleted(thing(*resource, None, None)), 0),
            Act::Unlock(resource) => (Event::ResourceUnlocked(thing(*resource, None, None)), 0),
            Act::Flag(value) => {
                let flag = "superadmin".into();
                (
                    Event::SubjectFlagged(Flagged {
                        flag,
                        value: *value,
                    }),
                    0,
                )
            }
            Act::Cancel { .. } => cancelled(act),
            Act::Pay { .. } => self.paid(act),
            _ => (Event::SubjectRegistered(Empty {}), 0),
        }
    }

    fn paid(&self, act: &Act) -> (Event, i64) {
        let Act::Pay {
            plan,
            renewal,
            payment,
            subscription,
            resource,
            starts,
            ends,
            back,
        } = act
        else {
            return (Event::SubjectRegistered(Empty {}), 0);
        };
        let plan = self.plans[plan % self.plans.len()].clone();
        let purchase = Purchase {
            resource: (plan == "unlock").then(|| name(*resource)),
            plan,
            payment_id: format!("pay-{payment}"),
            amount: 1,
            currency: "INR".into(),
            subscription: subscription.map(|subscription| format!("sub-{subscription}")),
            starts_at: starts.map(|days| self.now.plus((days - 30) * DAY)),
            ends_at: ends.map(|days| self.now.plus((days + 31) * DAY)),
        };
        let event = if *renewal {
            Event::SubscriptionRenewed(purchase)
        } else {
            Event::SubscriptionPurchased(purchase)
        };
        (event, *back)
    }
}

fn cancelled(act: &Act) -> (Event, i64) {
    let Act::Cancel {
        payment,
        subscription,
        at_end,
        back,
    } = act
    else {
        return (Event::SubjectRegistered(Empty {}), 0);
    };
    let cancellation = Cancellation {
        payment_id: payment.map(|payment| format!("pay-{payment}")),
        subscription: subscription.map(|subscription| format!("sub-{subscription}")),
        at_period_end: *at_end,
        reason: None,
    };
    (Event::SubscriptionCancelled(cancellation), *back)
}

fn name(resource: u8) -> String {
    format!("r{resource}")
}
