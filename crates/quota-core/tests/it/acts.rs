//! Random acts upon one subject: what services, users and people may do, in any order and at any time.

use proptest::prelude::*;
use proptest::sample::select;
use quota_core::catalog::{Catalog, shipped};
use quota_core::command::{Adjust, Answer, Consume, Fact, Wish};
use quota_core::desk::Desk;
use quota_core::event::{
    Cancellation, Empty, Event, Flagged, Imported, Purchase, ResourceEvent, Usage,
};
use quota_core::state::Thing;
use quota_core::time::{DAY, SECOND, Timestamp};
use std::sync::LazyLock;

/// One act, in small numbers that the product's names are picked by.
#[derive(Clone, Debug)]
pub enum Act {
    Consume {
        feature: usize,
        amount: i64,
        resource: Option<u8>,
        key: Option<u8>,
        hold: Option<i64>,
    },
    Confirm(usize),
    Release(usize),
    Use {
        feature: usize,
        amount: i64,
        resource: Option<u8>,
        back: i64,
    },
    Import {
        feature: usize,
        amount: i64,
        back: i64,
    },
    Create {
        resource: u8,
        feature: Option<usize>,
        back: i64,
    },
    Complete {
        resource: u8,
        bot: bool,
    },
    Delete(u8),
    Unlock(u8),
    Pay {
        plan: usize,
        renewal: bool,
        payment: u8,
        subscription: Option<u8>,
        resource: u8,
        starts: Option<i64>,
        ends: Option<i64>,
        back: i64,
    },
    Cancel {
        payment: Option<u8>,
        subscription: Option<u8>,
        at_end: bool,
        back: i64,
    },
    Flag(bool),
    Adjust {
        feature: usize,
        amount: i64,
    },
    Register,
    Sweep,
    Open {
        kind: usize,
        force: bool,
    },
    Finish {
        session: usize,
        resource: u8,
    },
    Publish {
        unlock_all: bool,
    },
}

/// An act, and how long after the one before.
pub type Later = (i64, Act);

const MINUTE: i64 = 60 * SECOND;
const HOUR: i64 = 60 * MINUTE;

/// Mostly moments, so that holds are still open when something else happens.
fn pause() -> impl Strategy<Value = i64> {
    prop_oneof![
        12 => select(vec![0, 0, 1, SECOND]),
        4 => select(vec![MINUTE, 10 * MINUTE, HOUR, 9 * HOUR]),
        4 => select(vec![DAY, DAY, 3 * DAY, 21 * DAY, 30 * DAY, 100 * DAY]),
    ]
}

fn back() -> impl Strategy<Value = i64> {
    select(vec![
        0,
        0,
        0,
        0,
        1,
        MINUTE,
        HOUR,
        DAY,
        22 * DAY,
        35 * DAY,
        95 * DAY,
        200 * DAY,
    ])
}

fn resource() -> impl Strategy<Value = u8> {
    0_u8..5
}

/// Asking, using and holding: what can never pass a limit.
pub fn asking() -> impl Strategy<Value = Act> {
    let amount = select(vec![1_i64, 1, 1, 2, 3, 7, 30]);
    let consume = (
        select(vec![0_usize, 0, 0, 0, 1, 2, 2, 3, 4, 4, 4]),
        amount,
        proptest::option::weighted(0.9, resource()),
        proptest::option::weighted(0.4, 0_u8..60),
        proptest::option::weighted(0.35, select(vec![1_i64, 900, 900])),
    )
        .prop_map(|(feature, amount, resource, key, hold)| Act::Consume {
            feature,
            amount,
            resource,
            key,
            hold,
        });
    prop_oneof![
        12 => consume,
        4 => (0_usize..3).prop_map(Act::Confirm),
        2 => (0_usize..3).prop_map(Act::Release),
        1 => (0_usize..2, any::<bool>()).prop_map(|(kind, force)| Act::Open { kind, force }),
        1 => (0_usize..3, resource()).prop_map(|(session, resource)| Act::Finish { session, resource }),
        1 => Just(Act::Sweep),
    ]
}

/// Payments, cancellations, and what people do.
pub fn dealing() -> impl Strategy<Value = Act> {
    let days = || proptest::option::weighted(0.2, 0_i64..60);
    let pay = (
        (0_usize..8, any::<bool>(), 0_u8..12),
        proptest::option::weighted(0.4, 0_u8..2),
        (resource(), days(), days(), back()),
    )
        .prop_map(
            |((plan, renewal, payment), subscription, (resource, starts, ends, back))| Act::Pay {
                plan,
                renewal,
                payment,
                subscription,
                resource,
                starts,
                ends,
                back,
            },
        );
    let cancel = (
        proptest::option::weighted(0.5, 0_u8..12),
        proptest::option::weighted(0.3, 0_u8..2),
        any::<bool>(),
        back(),
    )
        .prop_map(|(payment, subscription, at_end, back)| Act::Cancel {
            payment,
            subscription,
            at_end,
            back,
        });
    prop_oneof![
        6 => pay,
        3 => cancel,
        1 => (0_usize..8, 1_i64..5).prop_map(|(feature, amount)| Act::Adjust { feature, amount }),
        1 => resource().prop_map(Act::Unlock),
        1 => resource().prop_map(Act::Delete),
        1 => Just(Act::Register),
    ]
}

/// Everything else that services tell.
pub fn telling() -> impl Strategy<Value = Act> {
    let usage = (
        0_usize..8,
        1_i64..9,
        proptest::option::of(resource()),
        back(),
    )
        .prop_map(|(feature, amount, resource, back)| Act::Use {
            feature,
            amount,
            resource,
            back,
        });
    let import = (0_usize..8, 0_i64..9, back()).prop_map(|(feature, amount, back)| Act::Import {
        feature,
        amount,
        back,
    });
    let create = (
        resource(),
        proptest::option::weighted(0.3, 0_usize..8),
        back(),
    )
        .prop_map(|(resource, feature, back)| Act::Create {
            resource,
            feature,
            back,
        });
    prop_oneof![
        4 => usage,
        1 => import,
        4 => create,
        2 => (resource(), any::<bool>()).prop_map(|(resource, bot)| Act::Complete { resource, bot }),
        1 => any::<bool>().prop_map(Act::Flag),
        1 => any::<bool>().prop_map(|unlock_all| Act::Publish { unlock_all }),
    ]
}

/// A hold, a use of the same before it is confirmed, and the confirmation.
fn held_and_used() -> impl Strategy<Value = Vec<Later>> {
    let amount = || select(vec![1_i64, 1, 2, 3, 20]);
    let consume = |feature, amount, resource, hold| Act::Consume {
        feature,
        amount,
        resource: Some(resource),
        key: None,
        hold,
    };
    (0_usize..5, amount(), amount(), resource()).prop_map(move |(feature, held, used, resource)| {
        vec![
            (0, consume(feature, held, resource, Some(900))),
            (1, consume(feature, used, resource, None)),
            (SECOND, Act::Confirm(0)),
        ]
    })
}

/// A product, and some acts upon one of its subjects.
pub fn stories() -> impl Strategy<Value = (usize, Vec<Later>)> {
    let act = prop_oneof![3 => asking(), 2 => dealing(), 1 => telling()];
    (0_usize..3, stories_of(act))
}

/// Some of these acts, with uses between hold and confirmation among them.
pub fn stories_of(act: impl Strategy<Value = Act>) -> impl Strategy<Value = Vec<Later>> {
    let single = (pause(), act).prop_map(|later| vec![later]);
    let piece = prop_oneof![15 => single, 1 => held_and_used()];
    proptest::collection::vec(piece, 1..60).prop_map(|pieces| pieces.concat())
}

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
            Act::Cancel {
                payment,
                subscription,
                at_end,
                back,
            } => {
                let cancellation = Cancellation {
                    payment_id: payment.map(|payment| format!("pay-{payment}")),
                    subscription: subscription.map(|subscription| format!("sub-{subscription}")),
                    at_period_end: *at_end,
                    reason: None,
                };
                (Event::SubscriptionCancelled(cancellation), *back)
            }
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

fn name(resource: u8) -> String {
    format!("r{resource}")
}
