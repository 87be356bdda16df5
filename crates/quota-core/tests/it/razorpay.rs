//! Razorpay's webhooks: payloads as its documentation shows them, and what they come to.

use proptest::prelude::*;
use quota_core::catalog::{Catalog, shipped};
use quota_core::command::{Answer, Wish};
use quota_core::desk::Desk;
use quota_core::entitlements::entitlements;
use quota_core::event::Event;
use quota_core::razorpay::{Counted, Notice, Verdict, Whose};
use quota_core::time::{DAY, SECOND, Timestamp};
use serde_json::{Value, json};
use std::collections::BTreeMap;

const PAID_AT: i64 = 1_795_000_000;
/// What a charge pays for, in seconds: not the month that a payment by itself would.
const PERIOD: i64 = 31 * 86_400;

fn catalog(product: &str) -> Catalog {
    let text = shipped().into_iter().find(|(name, _)| *name == product);
    Catalog::parse(text.unwrap().1).unwrap()
}

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_micros(seconds * SECOND)
}

/// A payment entity with every member that the documentation shows.
fn payment(id: &str, amount: i64, notes: Value) -> Value {
    json!({
        "id": id, "entity": "payment", "amount": amount, "currency": "INR", "base_amount": amount, "status": "captured",
        "order_id": "order_DESlLckIVRkHWj", "invoice_id": null, "international": false, "method": "netbanking",
        "amount_refunded": 0, "amount_transferred": 0, "refund_status": null, "captured": true, "description": null,
        "card_id": null, "bank": "HDFC", "wallet": null, "vpa": null, "email": "gaurav.kumar@example.com",
        "contact": "+919876543210", "notes": notes, "fee": 2, "tax": 0, "error_code": null, "error_description": null,
        "error_source": null, "error_step": null, "error_reason": null,
        "acquirer_data": {"bank_transaction_id": "0125836177"}, "created_at": PAID_AT,
    })
}

fn subscription(id: &str, month: i64, notes: Value) -> Value {
    json!({
        "id": id, "entity": "subscription", "plan_id": "plan_BvrFKjSxauOH7N", "customer_id": "cust_C0WlbKhp3aLA7W",
        "status": "active", "type": 2, "current_start": PAID_AT + month * PERIOD,
        "current_end": PAID_AT + (month + 1) * PERIOD, "ended_at": null, "quantity": 1, "notes": notes,
        "charge_at": PAID_AT, "start_at": PAID_AT, "end_at": PAID_AT + 31_536_000, "auth_attempts": 0, "total_count": 12,
        "paid_count": month + 1, "customer_notify": true, "created_at": PAID_AT - 600, "expire_by": null,
        "short_url": null, "has_scheduled_changes": false, "change_scheduled_at": null, "source": "api",
        "offer_id": null, "remaining_count": 11 - month,
    })
}

fn body(event: &str, entities: &[(&str, Value)]) -> Value {
    let names: Vec<&str> = entities.iter().map(|(name, _)| *name).collect();
    let payload: serde_json::Map<String, Value> = entities
        .iter()
        .map(|(name, entity)| ((*name).to_owned(), json!({"entity": entity})))
        .collect();
    json!({
        "entity": "event", "account_id": "acc_BFQ7uQEaa7j2z7", "event": event, "contains": names, "payload": payload,
        "created_at": PAID_AT + 7,
    })
}

fn notice(body: &Value) -> Notice {
    Notice::read(body.to_string().as_bytes()).unwrap()
}

fn judge(product: &str, body: &Value, counted: &Counted) -> Verdict {
    notice(body).judge(&catalog(product), counted, at(PAID_AT + 60))
}

fn whose(plan: &str) -> Option<Whose> {
    let (subject, plan) = ("u1".to_owned(), plan.to_owned());
    Some(Whose { subject, plan })
}

/// The type, time, id and data of what is recorded.
fn recorded(verdict: Verdict) -> (String, Value) {
    let Verdict::Record { subject, fact, .. } = verdict else {
        panic!("{verdict:?}");
    };
    let data: Value = serde_json::from_slice(&fact.event.encode()).unwrap();
    let event = json!({
        "type": fact.event.type_name(), "source": fact.source, "id": fact.id, "time": fact.time, "data": data,
    });
    (subject, event)
}

fn held(reason: &'static str) -> Verdict {
    Verdict::Held(reason)
}

#[test]
fn a_payment_is_the_same_purchase_whichever_event_tells_it() {
    let notes = json!({"subject": "u1", "plan": "basic"});
    let order = json!({
        "id": "order_DESlLckIVRkHWj", "entity": "order", "amount": 9900, "amount_paid": 9900, "amount_due": 0,
        "currency": "INR", "receipt": "rcptid #1", "offer_id": null, "status": "paid", "attempts": 1, "notes": notes,
        "created_at": PAID_AT - 60,
    });
    let link = json!({"id": "plink_GkVMEGK0VAo8vD", "amount": 9900, "currency": "INR", "notes": notes, "status": "paid"});
    let paid = |notes| payment("pay_1", 9900, notes);
    let told = [
        body("payment.captured", &[("payment", paid(notes.clone()))]),
        body(
            "order.paid",
            &[("payment", paid(json!([]))), ("order", order)],
        ),
        body(
            "payment_link.paid",
            &[("payment_link", link), ("payment", paid(json!([])))],
        ),
    ];
    for body in told {
        let (subject, event) = recorded(judge("applyx", &body, &Counted::default()));
        assert_eq!(subject, "u1", "{body}");
        let data =
            json!({"plan": "basic", "payment_id": "pay_1", "amount": 9900, "currency": "INR"});
        assert_eq!(
            event,
            json!({"type": "subscription.purchased", "source": "quota:razorpay", "id": "pay_1", "time": at(PAID_AT), "data": data}),
        );
        let counted = Counted {
            payment: whose("basic"),
            subscription: None,
        };
        assert_eq!(judge("applyx", &body, &counted), Verdict::Counted);
    }
}

#[test]
fn a_charge_is_a_purchase_and_then_a_renewal_over_its_own_period() {
    let notes = json!({"subject": "u1", "plan": "basic"});
    let charged = |pay: &str, month, notes| {
        let mut payment = payment(pay, 9900, json!([]));
        payment["invoice_id"] = json!("inv_1");
        payment["captured"] = json!("1");
        body(
            "subscription.charged",
            &[
                ("subscription", subscription("sub_1", month, notes)),
                ("payment", payment),
            ],
        )
    };
    let first = charged("pay_1", 0, notes.clone());
    let (_, event) = recorded(judge("applyx", &first, &Counted::default()));
    assert_eq!(event["type"], "subscription.purchased");
    assert_eq!(event["data"]["subscription"], "sub_1");
    assert_eq!(event["data"]["starts_at"], json!(at(PAID_AT)));
    assert_eq!(event["data"]["ends_at"], json!(at(PAID_AT + PERIOD)));
    // Notes that name nobody: found by the subscription.
    let known = Counted {
        payment: None,
        subscription: whose("basic"),
    };
    let (subject, event) = recorded(judge("applyx", &charged("pay_2", 1, json!([])), &known));
    assert_eq!(
        (subject.as_str(), &event["type"]),
        ("u1", &json!("subscription.renewed"))
    );
    // A service published the purchase: the subscription is learned, once.
    let published = Counted {
        payment: whose("basic"),
        subscription: None,
    };
    let learned = judge("applyx", &first, &published);
    assert!(
        matches!(&learned, Verdict::Record { counted: true, fact, .. } if fact.id == "pay_1:sub_1"),
        "{learned:?}"
    );
    let both = Counted {
        payment: whose("basic"),
        subscription: whose("basic"),
    };
    assert_eq!(judge("applyx", &first, &both), Verdict::Counted);
    // The same payment told by itself is the subscription's to count.
    let mut captured = payment("pay_1", 9900, notes);
    captured["invoice_id"] = json!("inv_1");
    let captured = body("payment.captured", &[("payment", captured)]);
    assert_eq!(
        judge("applyx", &captured, &Counted::default()),
        Verdict::Ignored("counted_by_subscription")
    );
}

#[test]
fn the_provider_s_plans_are_data_of_the_catalog() {
    let text = catalog("applyx").text().replace(
        "razorpay_plans = {}",
        "razorpay_plans = { plan_BvrFKjSxauOH7N = \"pro\" }",
    );
    let catalog = Catalog::parse(&text).unwrap();
    let charged = |amount| {
        let notes = json!({"subject": "u1"});
        let entities = [
            ("subscription", subscription("sub_1", 0, notes)),
            ("payment", payment("pay_1", amount, json!([]))),
        ];
        notice(&body("subscription.charged", &entities)).judge(
            &catalog,
            &Counted::default(),
            at(PAID_AT),
        )
    };
    assert_eq!(recorded(charged(49900)).1["data"]["plan"], "pro");
    assert_eq!(charged(9900), held("wrong_amount"));
}

#[test]
fn an_unlock_is_implied_by_its_resource() {
    let captured = |amount, notes| {
        let body = body(
            "payment.captured",
            &[("payment", payment("pay_1", amount, notes))],
        );
        judge("resume-builder", &body, &Counted::default())
    };
    let (_, event) = recorded(captured(4900, json!({"subject": "u1", "resource": "r1"})));
    assert_eq!(
        (&event["data"]["plan"], &event["data"]["resource"]),
        (&json!("unlock"), &json!("r1"))
    );
    let (_, event) = recorded(captured(4900, json!({"subject": "u1", "plan": "one_time"})));
    assert_eq!(event["data"]["resource"], Value::Null);
    assert_eq!(
        captured(4900, json!({"subject": "u1", "plan": "unlock"})),
        held("resource_required")
    );
    assert_eq!(
        captured(19900, json!({"subject": "u1", "resource": "r1"})),
        held("wrong_amount")
    );
}

#[test]
fn what_is_not_understood_is_held_with_its_reason() {
    let captured = |amount: i64, notes| {
        body(
            "payment.captured",
            &[("payment", payment("pay_1", amount, notes))],
        )
    };
    let good = json!({"subject": "u1", "plan": "basic"});
    let mut dollars = captured(9900, good.clone());
    dollars["payload"]["payment"]["entity"]["currency"] = json!("USD");
    let mut later = captured(9900, good.clone());
    later["payload"]["payment"]["entity"]["created_at"] = json!(PAID_AT + 3600);
    for (body, reason) in [
        (captured(9900, json!([])), "unknown_subject"),
        (
            captured(9900, json!({"subject": " ", "plan": "basic"})),
            "unknown_subject",
        ),
        (
            captured(9900, json!({"subject": 7, "plan": "basic"})),
            "unknown_subject",
        ),
        (captured(9900, json!({"subject": "u1"})), "unknown_plan"),
        (
            captured(9900, json!({"subject": "u1", "plan": "gold"})),
            "unknown_plan",
        ),
        (
            captured(0, json!({"subject": "u1", "plan": "free"})),
            "unknown_plan",
        ),
        (captured(9899, good.clone()), "wrong_amount"),
        (dollars, "wrong_currency"),
        (later, "in_future"),
        (body("payment.captured", &[]), "unknown_payload"),
        (json!({"event": "payment.captured"}), "unknown_payload"),
        (
            json!({"event": "order.paid", "payload": {"payment": null}}),
            "unknown_payload",
        ),
        (
            json!({"event": "subscription.charged", "payload": []}),
            "unknown_payload",
        ),
        (
            json!({"event": "refund.processed", "payload": {"payment": {"entity": {"id": "pay_1"}}}}),
            "unknown_payload",
        ),
        (json!({}), "unknown_event"),
        (json!({"event": 7}), "unknown_event"),
        (
            body("invoice.paid", &[("payment", payment("pay_1", 9900, good))]),
            "unknown_event",
        ),
    ] {
        assert_eq!(
            judge("applyx", &body, &Counted::default()),
            held(reason),
            "{body}"
        );
    }
    for unreadable in [
        "",
        "[]",
        "7",
        "\"x\"",
        "{",
        "{\"event\": 1, \"event\": 2}",
        "\u{1}",
    ] {
        assert_eq!(Notice::read(unreadable.as_bytes()), None, "{unreadable}");
    }
}

#[test]
fn what_changes_nothing_is_ignored() {
    for event in [
        "subscription.halted",
        "subscription.completed",
        "subscription.paused",
        "subscription.pending",
        "subscription.resumed",
        "subscription.activated",
        "subscription.authenticated",
        "subscription.updated",
        "payment.failed",
        "payment.authorized",
    ] {
        let verdict = judge(
            "applyx",
            &body(event, &[("payment", payment("pay_1", 1, json!([])))]),
            &Counted::default(),
        );
        assert_eq!(verdict, Verdict::Ignored("not_needed"), "{event}");
    }
}

#[test]
fn what_is_taken_back_ends_at_once_and_what_is_cancelled_at_its_period_s_end() {
    let refund = |refunded: i64| {
        let mut payment = payment("pay_1", 9900, json!([]));
        payment["amount_refunded"] = json!(refunded);
        let refund = json!({
            "id": "rfnd_FS8SDVcEmfWTZg", "entity": "refund", "amount": refunded, "currency": "INR", "payment_id": "pay_1",
            "notes": [], "receipt": null, "acquirer_data": {"arn": null}, "created_at": PAID_AT + 5, "batch_id": null,
            "status": "processed", "speed_processed": "normal", "speed_requested": "normal",
        });
        body(
            "refund.processed",
            &[("refund", refund), ("payment", payment)],
        )
    };
    let counted = Counted {
        payment: whose("basic"),
        subscription: None,
    };
    let (subject, event) = recorded(judge("applyx", &refund(9900), &counted));
    assert_eq!(
        (subject.as_str(), &event["time"]),
        ("u1", &json!(at(PAID_AT + 7)))
    );
    assert_eq!(
        event["data"],
        json!({"payment_id": "pay_1", "at_period_end": false, "reason": "refunded"})
    );
    assert_eq!(
        judge("applyx", &refund(9899), &counted),
        Verdict::Ignored("partial_refund")
    );
    assert_eq!(
        judge("applyx", &refund(9899), &Counted::default()),
        Verdict::Ignored("partial_refund")
    );
    assert_eq!(
        judge("applyx", &refund(9900), &Counted::default()),
        held("unknown_payment")
    );
    let dispute = json!({
        "id": "disp_EsIAlDcoUr8CaQ", "entity": "dispute", "payment_id": "pay_1", "amount": 9900, "currency": "INR",
        "amount_deducted": 9900, "reason_code": "processing_error", "respond_by": PAID_AT, "status": "lost",
        "phase": "chargeback", "created_at": PAID_AT,
    });
    let lost = body(
        "payment.dispute.lost",
        &[
            ("payment", payment("pay_1", 9900, json!([]))),
            ("dispute", dispute),
        ],
    );
    let (_, event) = recorded(judge("applyx", &lost, &counted));
    assert_eq!(
        event["data"],
        json!({"payment_id": "pay_1", "at_period_end": false, "reason": "dispute_lost"})
    );
    assert_eq!(
        judge("applyx", &lost, &Counted::default()),
        held("unknown_payment")
    );
    let ended = body(
        "subscription.cancelled",
        &[("subscription", subscription("sub_1", 0, json!([])))],
    );
    assert_eq!(
        judge("applyx", &ended, &counted),
        held("unknown_subscription")
    );
    let known = Counted {
        payment: None,
        subscription: whose("basic"),
    };
    let (_, event) = recorded(judge("applyx", &ended, &known));
    assert_eq!(event["id"], "sub_1:cancelled");
    assert_eq!(
        event["data"],
        json!({"subscription": "sub_1", "at_period_end": true, "reason": "subscription_cancelled"})
    );
}

/// A product's books in memory: what is recorded, what is counted, and what is held for it.
struct Books {
    desk: Desk,
    payments: BTreeMap<String, Whose>,
    subscriptions: BTreeMap<String, Whose>,
    held: Vec<Value>,
    now: Timestamp,
}

impl Books {
    fn take(&mut self, body: &Value) {
        let told = notice(body);
        let counted = Counted {
            payment: told
                .payment_id
                .as_ref()
                .and_then(|id| self.payments.get(id))
                .cloned(),
            subscription: told
                .subscription
                .as_ref()
                .and_then(|id| self.subscriptions.get(id))
                .cloned(),
        };
        let catalog = self.desk.catalog(1).unwrap().clone();
        match told.judge(&catalog, &counted, self.now) {
            Verdict::Held(_) => self.held.push(body.clone()),
            Verdict::Record { fact, .. } => {
                if let Event::SubscriptionPurchased(bought) | Event::SubscriptionRenewed(bought) =
                    &fact.event
                {
                    let whose = Whose {
                        subject: "u1".into(),
                        plan: bought.plan.clone(),
                    };
                    self.payments
                        .entry(bought.payment_id.clone())
                        .or_insert_with(|| whose.clone());
                    if let Some(id) = &bought.subscription {
                        self.subscriptions.entry(id.clone()).or_insert(whose);
                    }
                }
                let answer = self.desk.submit(Wish::Record(*fact), self.now);
                let conflict = matches!(&answer, Answer::Refused(refusal) if refusal.code == "idempotency_conflict");
                assert!(
                    conflict || matches!(answer, Answer::Recorded { .. }),
                    "{answer:?}"
                );
                for held in std::mem::take(&mut self.held) {
                    self.take(&held);
                }
            }
            Verdict::Counted | Verdict::Ignored(_) => {}
        }
    }
}

/// What a subject has after these bodies came in this order, some again and again, and at last those that it leaves out;
/// and how many are held then.
fn after(bodies: &[Value], order: &[usize]) -> (Value, usize) {
    let now = at(PAID_AT + 3600);
    let mut books = Books {
        desk: Desk::new(catalog("applyx"), "u1", at(PAID_AT - DAY / SECOND)),
        payments: BTreeMap::new(),
        subscriptions: BTreeMap::new(),
        held: Vec::new(),
        now,
    };
    let rest = (0..bodies.len()).filter(|index| !order.contains(index));
    for index in order.iter().copied().chain(rest) {
        books.take(&bodies[index]);
    }
    let (desk, held) = (&books.desk, books.held.len());
    let body = entitlements(
        desk.state(),
        desk.catalog(1).unwrap(),
        1,
        "applyx",
        "u1",
        now,
    );
    (Value::Object(body), held)
}

proptest! {
    /// Whatever mix of events tells of a payment, in whatever order and however often: it is counted once, and what it was
    /// taken back by takes effect.
    ///
    /// Failed when the payment of an invoice was counted by itself too (its month, not the charge's period), and when a
    /// refund of a payment that is not known was ignored (the plan goes on).
    #[test]
    fn any_order_and_repetition_comes_to_the_same(
        order in proptest::collection::vec(0_usize..4, 0..12), refunded in any::<bool>(), charged in any::<bool>(),
    ) {
        let notes = json!({"subject": "u1", "plan": "basic"});
        let mut paid = payment("pay_1", 9900, notes.clone());
        let mut bodies = if charged {
            paid["invoice_id"] = json!("inv_1");
            let subscription = subscription("sub_1", 0, notes);
            vec![
                body("subscription.charged", &[("subscription", subscription.clone()), ("payment", paid.clone())]),
                body("payment.captured", &[("payment", paid.clone())]),
                body("subscription.cancelled", &[("subscription", subscription)]),
            ]
        } else {
            vec![
                body("payment.captured", &[("payment", paid.clone())]),
                body("order.paid", &[("payment", paid.clone()), ("order", json!({"id": "order_1", "notes": []}))]),
                body("payment_link.paid", &[("payment", paid.clone())]),
            ]
        };
        paid["amount_refunded"] = json!(if refunded { 9900 } else { 100 });
        bodies.push(body("refund.processed", &[("refund", json!({"payment_id": "pay_1"})), ("payment", paid)]));
        let (straight, held) = after(&bodies, &[]);
        prop_assert_eq!(held, 0);
        prop_assert_eq!(straight["grants"].as_array().unwrap().len(), 1);
        prop_assert_eq!(&straight["plan"], if refunded { "free" } else { "basic" });
        prop_assert_eq!(after(&bodies, &order), (straight, 0));
    }
}
