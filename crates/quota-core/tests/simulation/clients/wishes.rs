//! What clients wish, of subjects of several kinds: strict ones, of which the oracle knows everything, and wild ones.

use super::{address, message, question};
use crate::broker::Message;
use crate::catalogs::PRODUCTS;
use crate::oracle::Identity;
use crate::world::World;
use quota_core::command::{Address, Adjust, Answer, Command, Consume, Fact, Wish};
use quota_core::event::{
    Cancellation, Empty, Event, Flagged, Imported, Purchase, ResourceEvent, Usage,
};
use quota_core::judge::Question;
use quota_core::time::Timestamp;
use std::collections::VecDeque;

const DAY: i64 = 86_400_000_000;

const APPLYX: [&str; 5] = [
    "resume_customizations",
    "resume_customizations",
    "interviews",
    "resume_edits",
    "resume_analyses",
];
const BUILDER: [&str; 5] = [
    "resumes",
    "ai_generations",
    "ai_generations",
    "resume_downloads",
    "resume_edit",
];

/// Makes wishes up, and remembers what later ones speak of.
pub struct Wisher {
    number: usize,
    count: usize,
    holds: VecDeque<(Address, String)>,
    sessions: VecDeque<(Address, String)>,
    /// Where the last answer stands.
    wrote: Option<(Address, i64)>,
}

impl Wisher {
    pub const fn new(number: usize) -> Self {
        Self {
            number,
            count: 0,
            holds: VecDeque::new(),
            sessions: VecDeque::new(),
            wrote: None,
        }
    }

    fn id(&mut self) -> String {
        self.count += 1;
        format!("c{}-{}", self.number, self.count)
    }

    /// Takes in what came of a wish.
    pub fn learn(&mut self, command: &Command, answer: &Answer) {
        let address = command.address.clone();
        match answer {
            Answer::Decided(decision) => {
                if let Some(hold) = &decision.hold {
                    self.holds.push_back((address.clone(), hold.clone()));
                }
                self.wrote = Some((address, decision.position.offset));
            }
            Answer::Recorded { position, .. } => self.wrote = Some((address, position.offset)),
            Answer::Session(answer) => {
                if let Some(session) = &answer.session {
                    self.sessions.push_back((address, session.id.clone()));
                }
            }
            _ => {}
        }
        for (kept, most) in [(&mut self.holds, 4), (&mut self.sessions, 4)] {
            while kept.len() > most {
                kept.pop_front();
            }
        }
    }

    /// What is looked at: mostly what this client wrote last, and no older than that.
    pub fn question(&self, world: &mut World) -> (Address, Question, i64) {
        if let Some((address, wrote)) = self.wrote.clone()
            && world.rng.one_in(2)
        {
            return (
                address.clone(),
                any_question(world, &address.product),
                wrote,
            );
        }
        let address = subject(world);
        let question = any_question(world, &address.product);
        (address, question, -1)
    }

    pub fn wish(&mut self, world: &mut World) -> Command {
        if world.rng.one_in(6)
            && let Some((address, hold)) = self.holds.pop_front()
        {
            let wish = if world.rng.one_in(3) {
                Wish::Release { hold }
            } else {
                Wish::Confirm { hold }
            };
            return Command { address, wish };
        }
        let address = subject(world);
        let wish = match (&*address.product, &address.subject[..4]) {
            (_, "wild") if world.rng.one_in(2) => self.wild(world, &address),
            ("applyx", "paid") if world.rng.one_in(12) => self.purchase(world, "basic", 12),
            ("applyx", _) => self.consume(world, &APPLYX, None),
            ("candidate-chat", _) => return self.session(world, address),
            (_, "once") if world.rng.one_in(12) => self.purchase(world, "one_time", 12),
            _ => {
                let resource = world.rng.below(8);
                self.consume(world, &BUILDER, Some(format!("resume-{resource}")))
            }
        };
        Command { address, wish }
    }

    fn consume(&mut self, world: &mut World, features: &[&str], resource: Option<String>) -> Wish {
        let feature = (*world.rng.pick(features)).to_owned();
        let fresh_id = self.id();
        // Some publish what they used instead of asking.
        if resource.is_none() && world.rng.one_in(25) {
            let event = Event::UsageRecorded(usage(&feature, 1, None));
            return self.fact(event, None);
        }
        let many = feature == "ai_generations" && world.rng.one_in(3);
        let holds =
            matches!(&*feature, "interviews" | "resume_customizations") && world.rng.one_in(3);
        Wish::Consume(Consume {
            amount: if many { world.rng.range(1, 12) } else { 1 },
            feature,
            resource,
            hold_seconds: holds.then(|| world.rng.range(1, 20)),
            key: (!world.rng.one_in(4)).then(|| format!("key-{fresh_id}")),
            fresh_id,
        })
    }

    fn session(&mut self, world: &mut World, address: Address) -> Command {
        if world.rng.one_in(3)
            && let Some((address, session)) = self.sessions.pop_front()
        {
            let resource = format!("resume-{}", world.rng.below(5));
            let wish = Wish::CompleteSession { session, resource };
            return Command { address, wish };
        }
        let wish = if world.rng.one_in(30) {
            let data = resource(format!("resume-{}", world.rng.below(5)), Some("aivi_bot"));
            self.fact(Event::ResourceCompleted(data), None)
        } else {
            Wish::OpenSession {
                session_type: (*world.rng.pick(&["resume_creation", "resume_upload"])).to_owned(),
                force_new: world.rng.one_in(4),
                fresh_id: self.id(),
            }
        };
        Command { address, wish }
    }

    fn fact(&mut self, event: Event, time: Option<Timestamp>) -> Wish {
        Wish::Record(Fact {
            source: "/service".to_owned(),
            id: self.id(),
            time,
            event,
        })
    }

    fn purchase(&mut self, world: &mut World, plan: &str, payments: usize) -> Wish {
        let payment = world.rng.below(payments);
        let event = Event::SubscriptionPurchased(bought(plan, format!("pay-{payment}")));
        self.fact(event, None)
    }

    /// Whatever may happen to a subject, in any order and told late.
    fn wild(&mut self, world: &mut World, address: &Address) -> Wish {
        let rng = &mut world.rng;
        let back = *rng.pick(&[0, 0, 0, 1_000_000, DAY, 22 * DAY, 40 * DAY, 120 * DAY]);
        let late =
            |back: i64, world: &World| (back > 0).then(|| world.database_clock().plus(-back));
        let resource_id = format!("resume-{}", rng.below(6));
        let feature = *rng.pick(match &*address.product {
            "applyx" => &APPLYX[..],
            "candidate-chat" => &["resume_upload"][..],
            _ => &["ai_generations", "resume_downloads"][..],
        });
        let on = (&*address.product == "resume-builder").then(|| resource_id.clone());
        let plan = *rng.pick(match &*address.product {
            "applyx" => &["basic", "pro", "pro_plus"][..],
            "candidate-chat" => &["pro"][..],
            _ => &["one_time", "one_time", "pro_monthly", "unlock"][..],
        });
        let mut purchase = bought(plan, format!("pay-{}", rng.below(20)));
        if plan == "unlock" {
            purchase.resource = Some(resource_id.clone());
        }
        let event = match rng.below(13) {
            0 | 1 => Event::UsageRecorded(usage(feature, rng.range(1, 5), on)),
            2 => Event::SubscriptionPurchased(purchase),
            3 => Event::SubscriptionRenewed(purchase),
            4 => Event::SubscriptionCancelled(Cancellation {
                payment_id: rng.one_in(2).then(|| purchase.payment_id.clone()),
                subscription: None,
                at_period_end: rng.one_in(2),
                reason: None,
            }),
            5 => Event::ResourceCreated(resource(resource_id, None)),
            6 => Event::ResourceDeleted(resource(resource_id, None)),
            7 => Event::ResourceCompleted(resource(resource_id, Some("aivi_bot"))),
            8 => Event::ResourceUnlocked(resource(resource_id, None)),
            9 => Event::SubjectFlagged(Flagged {
                flag: "superadmin".to_owned(),
                value: rng.one_in(3),
            }),
            10 => Event::UsageImported(Imported {
                feature: feature.to_owned(),
                amount: rng.range(0, 4),
            }),
            11 => {
                return Wish::Adjust(Adjust {
                    feature: feature.to_owned(),
                    amount: rng.range(1, 4),
                    reason: "a gift".to_owned(),
                    actor: "a person".to_owned(),
                    id: self.id(),
                });
            }
            _ => {
                // The same ids in every product: each is an event of its own.
                let id = format!("signed-up-{}", rng.below(4));
                return Wish::Record(Fact {
                    source: "/sign-up".to_owned(),
                    id,
                    time: None,
                    event: Event::SubjectRegistered(Empty {}),
                });
            }
        };
        let time = late(back, world);
        self.fact(event, time)
    }

    /// A message for the inbox of a product; one in twenty cannot get in.
    pub fn message(&mut self, world: &mut World, number: usize) -> Message {
        let product = PRODUCTS[number];
        let subject = match product {
            "applyx" => format!("free-{}", world.rng.below(6)),
            "candidate-chat" => format!("chat-{}", world.rng.below(6)),
            _ => format!("wild-{}", world.rng.below(4)),
        };
        let who = Identity {
            product: product.to_owned(),
            subject,
            source: "/inbox".to_owned(),
            id: self.id(),
        };
        if world.rng.one_in(20) {
            let mut bad = message(
                who,
                "quota.usage.recorded.v1",
                r#"{"feature": "nothing that there is"}"#,
            );
            bad.identity = None;
            return bad;
        }
        match product {
            "applyx" => message(
                who,
                "quota.usage.recorded.v1",
                r#"{"feature": "resume_customizations"}"#,
            ),
            "candidate-chat" => message(who, "quota.subject.registered.v1", "{}"),
            _ => message(
                who,
                "quota.resource.created.v1",
                r#"{"resource": "resume-7"}"#,
            ),
        }
    }
}

/// Few subjects, so that many meet at the same one; the first of each kind is the hottest.
fn subject(world: &mut World) -> Address {
    let kinds: [(&str, &str); 8] = [
        ("applyx", "free"),
        ("applyx", "free"),
        ("applyx", "paid"),
        ("applyx", "wild"),
        ("candidate-chat", "chat"),
        ("candidate-chat", "wild"),
        ("resume-builder", "once"),
        ("resume-builder", "wild"),
    ];
    let (product, kind) = *world.rng.pick(&kinds);
    let number = if world.rng.one_in(2) {
        0
    } else {
        world.rng.below(6)
    };
    address(product, &format!("{kind}-{number}"), world.store.partitions)
}

fn any_question(world: &mut World, product: &str) -> Question {
    match product {
        "applyx" => question(world.rng.pick::<&str>(&APPLYX), None),
        "candidate-chat" => question("resume_creation", None),
        _ => question(
            world.rng.pick::<&str>(&BUILDER),
            Some(format!("resume-{}", world.rng.below(8))),
        ),
    }
}

fn usage(feature: &str, amount: i64, resource: Option<String>) -> Usage {
    Usage {
        feature: feature.to_owned(),
        amount,
        resource,
        hold: None,
        bypassed: false,
        outcome: None,
    }
}

fn resource(resource: String, source: Option<&str>) -> ResourceEvent {
    ResourceEvent {
        resource,
        source: source.map(str::to_owned),
        feature: None,
        hold: None,
        bypassed: false,
        outcome: None,
    }
}

fn bought(plan: &str, payment_id: String) -> Purchase {
    Purchase {
        plan: plan.to_owned(),
        payment_id,
        amount: 100,
        currency: "INR".to_owned(),
        resource: None,
        subscription: None,
        starts_at: None,
        ends_at: None,
    }
}
