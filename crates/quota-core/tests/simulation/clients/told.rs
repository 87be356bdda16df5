//! What an answer says of the attempt that it answers.

use crate::coverage::{Coverage, Hit};
use crate::oracle::{Identity, Told};
use crate::world::World;
use quota_core::command::{Answer, Command, Decision, HoldStatus, Wish};
use quota_core::event::Reason;

/// What names the event that a command makes; none for sessions and sweeps, whose ids are the service's own.
pub fn identity_of(command: &Command) -> Option<Identity> {
    let (source, id) = match &command.wish {
        Wish::Record(fact) => (fact.source.clone(), fact.id.clone()),
        Wish::Consume(consume) => ("quota:consume".to_owned(), consume.id().to_owned()),
        Wish::Confirm { hold } => ("quota:hold".to_owned(), format!("{hold}:confirm")),
        Wish::Release { hold } => ("quota:hold".to_owned(), format!("{hold}:release")),
        Wish::Adjust(adjust) => ("quota:adjust".to_owned(), adjust.id.clone()),
        Wish::Sweep | Wish::OpenSession { .. } | Wish::CompleteSession { .. } => return None,
    };
    Some(Identity {
        product: command.address.product.to_string(),
        subject: command.address.subject.to_string(),
        source,
        id,
    })
}

pub fn told(who: &Identity, command: &Command, answer: &Answer, world: &mut World) -> Told {
    match answer {
        Answer::Recorded { position, .. } => {
            let elsewhere = |product: &&str| {
                let product = (*product).to_owned();
                product != who.product
                    && world.oracle.has(&Identity {
                        product,
                        ..who.clone()
                    })
            };
            if crate::catalogs::PRODUCTS.iter().any(elsewhere) {
                world.hit(Hit::SameIdElsewhere);
            }
            fact(command, &mut world.coverage);
            Told::Recorded(position.partition, position.offset, "recorded".to_owned())
        }
        Answer::Hold {
            status, position, ..
        } => match status {
            HoldStatus::Confirmed => {
                world.hit(Hit::Confirmed);
                Told::Recorded(position.partition, position.offset, "confirmed".to_owned())
            }
            HoldStatus::Released => {
                world.hit(Hit::Released);
                Told::Recorded(position.partition, position.offset, "released".to_owned())
            }
            HoldStatus::Expired => {
                world.hit(Hit::HoldOver);
                Told::Nothing
            }
        },
        Answer::Decided(decision) => decided(who, command, decision, world),
        Answer::Refused(refusal) => {
            let coverage = &mut world.coverage;
            match (refusal.status, refusal.code) {
                (503, _) if refusal.message.contains("clock went back") => {
                    coverage.hit(Hit::ClockBehind)
                }
                (503, _) => coverage.hit(Hit::Unavailable),
                (504, _) => coverage.hit(Hit::Unknown),
                (429, _) => coverage.hit(Hit::TooManyDenials),
                (409, "hold_expired") => coverage.hit(Hit::HoldOver),
                (500.., _) => panic!("{refusal:?}"),
                _ => {}
            }
            if refusal.status == 504 {
                Told::Unknown
            } else {
                Told::Refused
            }
        }
        Answer::Session(_) | Answer::Swept { .. } => {
            panic!("{command:?} was answered with {answer:?}")
        }
    }
}

fn decided(who: &Identity, command: &Command, decision: &Decision, world: &mut World) -> Told {
    let (partition, offset) = (decision.position.partition, decision.position.offset);
    let row = world.store.rows(partition).get(offset.max(0) as usize);
    let recorded = row.is_some_and(|row| crate::oracle::identity(row) == *who);
    let reason = decision.outcome.reason;
    let Wish::Consume(consume) = &command.wish else {
        panic!("{command:?} was answered with {decision:?}");
    };
    let coverage = &mut world.coverage;
    match reason {
        Reason::Bypassed => coverage.hit(Hit::Flagged),
        Reason::AlreadyCreated => coverage.hit(Hit::ResourceTwice),
        Reason::GrantExpired | Reason::ResourceLocked => coverage.hit(Hit::ResourceLocked),
        _ => {}
    }
    if !recorded {
        let unkeyed = consume.key.is_none() && !reason.allows();
        assert!(
            unkeyed || reason == Reason::AlreadyCreated,
            "an answer that nothing stands behind: {decision:?}"
        );
        if unkeyed {
            coverage.hit(Hit::DeniedAgain);
        }
        return Told::Nothing;
    }
    if !reason.allows() {
        coverage.hit(Hit::Denied);
    } else if decision.hold.is_some() {
        coverage.hit(Hit::Held);
    } else {
        coverage.hit(Hit::Allowed);
        if consume.resource.is_some() && consume.feature == "resumes" {
            coverage.hit(Hit::ResourceMade);
        }
    }
    let words = format!(
        "{:?} {:?} {}",
        decision.outcome, decision.hold, decision.catalog_version
    );
    Told::Recorded(partition, offset, words)
}

fn fact(command: &Command, coverage: &mut Coverage) {
    use quota_core::event::Event;
    match &command.wish {
        Wish::Adjust(_) => coverage.hit(Hit::Adjusted),
        Wish::Record(fact) => {
            if fact.time.is_some() {
                coverage.hit(Hit::LateFact);
            }
            match &fact.event {
                Event::SubscriptionPurchased(_) | Event::SubscriptionRenewed(_) => {
                    coverage.hit(Hit::Purchased)
                }
                Event::SubscriptionCancelled(_) => coverage.hit(Hit::Cancelled),
                Event::UsageImported(_) => coverage.hit(Hit::Imported),
                Event::ResourceDeleted(_) => coverage.hit(Hit::ResourceDeleted),
                _ => {}
            }
        }
        _ => {}
    }
}

/// Notes what came of a session, or a sweep.
pub fn session(command: &Command, answer: Option<&Answer>, coverage: &mut Coverage) {
    let Some(Answer::Session(answer)) = answer else {
        return;
    };
    let Some(session) = &answer.session else {
        return coverage.hit(Hit::SessionRefused);
    };
    match &command.wish {
        Wish::CompleteSession { .. } => coverage.hit(Hit::SessionCompleted),
        Wish::OpenSession { fresh_id, .. } if session.id == *fresh_id => {
            coverage.hit(Hit::SessionOpened)
        }
        _ => coverage.hit(Hit::SessionShared),
    }
}
