//! Random acts upon one subject: what services, users and people may do, in any order and at any time.

use proptest::prelude::*;
use proptest::sample::select;
use quota_core::time::{DAY, SECOND};

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
