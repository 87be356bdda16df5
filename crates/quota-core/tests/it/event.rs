//! Events go into payloads and come back, whatever is in them.

use proptest::option::of;
use proptest::prelude::*;
use quota_core::event::{
    Adjustment, Cancellation, CatalogPublished, Closure, DecodeError, Denied, Empty, EpochStarted,
    Event, Expired, Flagged, Held, Imported, Outcome, Purchase, Reason, Released, ResourceEvent,
    SessionCompleted, SessionCreated, SessionSuperseded, Usage, types,
};
use quota_core::time::Timestamp;

fn text() -> impl Strategy<Value = String> {
    prop_oneof!["[a-z_]{1,12}", "\\PC{0,20}", any::<String>()]
}

fn time() -> impl Strategy<Value = Timestamp> {
    (0..253_402_300_800_000_000_i64).prop_map(Timestamp::from_micros)
}

fn outcome() -> impl Strategy<Value = Outcome> {
    let reason = proptest::sample::select(vec![
        Reason::WithinLimit,
        Reason::Unlimited,
        Reason::Bypassed,
        Reason::AlreadyCreated,
        Reason::LimitReached,
        Reason::NotInPlan,
        Reason::GrantExpired,
        Reason::ResourceLocked,
        Reason::UnknownResource,
    ]);
    let closure = proptest::sample::select(vec![
        Closure::PurchaseExpired,
        Closure::ProEnded,
        Closure::NoSlot,
        Closure::Deleted,
    ]);
    let lists = (
        proptest::collection::vec(any::<i64>(), 0..10),
        proptest::collection::vec(text(), 0..4),
    );
    let counts = (any::<i64>(), any::<i64>(), of(any::<i64>()));
    (reason, of(text()), counts, of(time()), of(closure), lists).prop_map(
        |(reason, plan, (used, held, limit), resets_at, closure, (evidence, offers))| Outcome {
            reason,
            plan,
            used,
            held,
            limit,
            resets_at,
            closure,
            evidence,
            offers,
        },
    )
}

fn usage() -> impl Strategy<Value = Event> {
    let parts = (
        text(),
        any::<i64>(),
        of(text()),
        of(text()),
        any::<bool>(),
        of(outcome()),
    );
    parts.prop_map(|(feature, amount, resource, hold, bypassed, outcome)| {
        Event::UsageRecorded(Usage {
            feature,
            amount,
            resource,
            hold,
            bypassed,
            outcome,
        })
    })
}

fn purchase() -> impl Strategy<Value = Purchase> {
    let texts = (text(), text(), text(), of(text()), of(text()));
    (texts, any::<i64>(), of(time()), of(time())).prop_map(
        |((plan, payment_id, currency, resource, subscription), amount, starts_at, ends_at)| {
            Purchase {
                plan,
                payment_id,
                amount,
                currency,
                resource,
                subscription,
                starts_at,
                ends_at,
            }
        },
    )
}

fn resource() -> impl Strategy<Value = ResourceEvent> {
    let parts = (
        text(),
        of(text()),
        of(text()),
        of(text()),
        any::<bool>(),
        of(outcome()),
    );
    parts.prop_map(
        |(resource, source, feature, hold, bypassed, outcome)| ResourceEvent {
            resource,
            source,
            feature,
            hold,
            bypassed,
            outcome,
        },
    )
}

fn told() -> impl Strategy<Value = Event> {
    prop_oneof![
        usage(),
        Just(Event::SubjectRegistered(Empty {})),
        purchase().prop_map(Event::SubscriptionPurchased),
        purchase().prop_map(Event::SubscriptionRenewed),
        (of(text()), of(text()), any::<bool>(), of(text())).prop_map(
            |(payment_id, subscription, at_period_end, reason)| {
                Event::SubscriptionCancelled(Cancellation {
                    payment_id,
                    subscription,
                    at_period_end,
                    reason,
                })
            }
        ),
        resource().prop_map(Event::ResourceCreated),
        resource().prop_map(Event::ResourceCompleted),
        resource().prop_map(Event::ResourceDeleted),
        resource().prop_map(Event::ResourceUnlocked),
        (text(), any::<bool>())
            .prop_map(|(flag, value)| Event::SubjectFlagged(Flagged { flag, value })),
        (text(), any::<i64>())
            .prop_map(|(feature, amount)| Event::UsageImported(Imported { feature, amount })),
    ]
}

fn added() -> impl Strategy<Value = Event> {
    let denied = (
        text(),
        any::<i64>(),
        of(text()),
        of(any::<i64>()),
        outcome(),
    );
    let held = (
        (text(), text(), of(text())),
        any::<(i64, i64, bool)>(),
        time(),
        outcome(),
    );
    let session = || (text(), text());
    prop_oneof![
        (text(), time()).prop_map(|(grant, effective_at)| Event::SubscriptionExpired(Expired {
            grant,
            effective_at
        })),
        denied.prop_map(|(feature, amount, resource, hold_seconds, outcome)| {
            Event::UsageDenied(Denied {
                feature,
                amount,
                resource,
                hold_seconds,
                outcome,
            })
        }),
        held.prop_map(
            |((feature, hold, resource), (amount, hold_seconds, bypassed), expires_at, outcome)| {
                Event::UsageHeld(Held {
                    feature,
                    amount,
                    resource,
                    hold,
                    hold_seconds,
                    expires_at,
                    bypassed,
                    outcome,
                })
            }
        ),
        text().prop_map(|hold| Event::UsageReleased(Released { hold })),
        session().prop_map(
            |(session, session_type)| Event::SessionCreated(SessionCreated {
                session,
                session_type
            })
        ),
        (session(), text(), text()).prop_map(|((session, session_type), resource, source)| {
            Event::SessionCompleted(SessionCompleted {
                session,
                session_type,
                resource,
                source,
            })
        }),
        session().prop_map(|(session, session_type)| {
            Event::SessionSuperseded(SessionSuperseded {
                session,
                session_type,
            })
        }),
        (any::<u32>(), text()).prop_map(|(version, text)| Event::CatalogPublished(
            CatalogPublished { version, text }
        )),
        (text(), any::<i64>(), text(), text()).prop_map(|(feature, amount, reason, actor)| {
            Event::AdjustmentGranted(Adjustment {
                feature,
                amount,
                reason,
                actor,
            })
        }),
        (any::<u32>(), text()).prop_map(|(epoch, reason)| {
            let from = i64::from(epoch) * 7;
            Event::EpochStarted(EpochStarted {
                epoch,
                reason,
                from,
            })
        }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn every_event_comes_back(event in prop_oneof![told(), added()]) {
        let payload = event.encode();
        let decoded = Event::decode(event.type_name(), 1, &payload).unwrap();
        prop_assert_eq!(decoded.encode(), payload);
        prop_assert_eq!(decoded, event);
    }
}

#[test]
fn an_unknown_type_or_version_is_never_guessed_at() {
    for (name, _, _) in types() {
        assert!(matches!(
            Event::decode(name, 2, b"{}"),
            Err(DecodeError::UnknownType { version: 2, .. })
        ));
    }
    assert!(matches!(
        Event::decode("usage.guessed", 1, b"{}"),
        Err(DecodeError::UnknownType { .. })
    ));
    assert!(matches!(
        Event::decode("usage.recorded", 1, b"{}"),
        Err(DecodeError::Malformed { .. })
    ));
}
