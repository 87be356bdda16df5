//! What stands beside the ledger: claims of relays, held webhooks, epochs.

use crate::harness::{FOLD, Writer, check_chain, sql, subject_in, with_ledger};
use quota_postgres::{Claims, Counted, EXPIRED, NewWebhook, PublishError, start_epoch};
use std::collections::BTreeSet;
use std::convert::Infallible;

/// A partition is claimed by one connection at a time; claims that are given up, or whose connection is gone, are free.
#[test]
fn one_relay_claims_a_partition() {
    with_ledger(4, |database| async move {
        let ledger = database.ledger().await;
        let mut one = Claims::open(&ledger).await.unwrap();
        let mut two = Claims::open(&ledger).await.unwrap();
        assert_eq!(
            *one.take(&[0, 1, 2]).await.unwrap(),
            BTreeSet::from([0, 1, 2])
        );
        assert_eq!(*two.take(&[0, 1, 2, 3]).await.unwrap(), BTreeSet::from([3]));
        assert_eq!(
            *one.take(&[0, 1, 2, 3]).await.unwrap(),
            BTreeSet::from([0, 1, 2])
        );
        one.release().await;
        tokio::time::sleep(std::time::Duration::from_millis(200)).await;
        assert_eq!(*two.take(&[0, 1]).await.unwrap(), BTreeSet::from([0, 1, 3]));

        let mut owner = database.owner().await;
        let kill = "SELECT count(pg_terminate_backend(pid)) FROM pg_locks WHERE locktype = 'advisory' AND objsubid = 2";
        let _: i64 = sqlx::query_scalar(kill)
            .fetch_one(&mut owner)
            .await
            .unwrap();
        assert!(two.take(&[0]).await.is_err());
        assert!(two.take(&[0]).await.is_err(), "lost claims stay lost");
        let mut three = Claims::open(&ledger).await.unwrap();
        assert_eq!(three.take(&[0, 3]).await.unwrap().len(), 2);
    });
}

/// A webhook that could not be understood is held once, waits, and is resolved once; its body is gone then.
#[test]
fn webhooks_wait_for_somebody() {
    with_ledger(1, |database| async move {
        let ledger = database.ledger().await;
        let (id, resolution) = ledger.hold_webhook(&webhook(b"one")).await.unwrap();
        assert_eq!(resolution, None);
        assert_eq!(
            ledger.hold_webhook(&webhook(b"one")).await.unwrap(),
            (id, None)
        );
        assert_ne!(ledger.hold_webhook(&webhook(b"two")).await.unwrap().0, id);
        assert_eq!(ledger.held_webhooks(Some("applyx")).await.unwrap().len(), 2);
        assert_eq!(ledger.held_webhooks(Some("other")).await.unwrap(), []);
        assert_eq!(
            ledger.count_held_webhooks().await.unwrap(),
            [("applyx".to_owned(), 2)]
        );
        let held = ledger.held_webhook(id).await.unwrap().unwrap();
        assert_eq!(
            (held.body.as_deref(), held.resolution),
            (Some(b"one".as_slice()), None)
        );
        ledger.explain_webhook(id, "unknown_plan").await.unwrap();
        let held = ledger.held_webhook(id).await.unwrap().unwrap();
        assert_eq!(held.reason, "unknown_plan");
        assert!(ledger.resolve_webhook(id, "recorded for u1").await.unwrap());
        assert!(!ledger.resolve_webhook(id, "again").await.unwrap());
        let held = ledger.held_webhook(id).await.unwrap().unwrap();
        assert_eq!(
            (held.body, held.resolution.as_deref()),
            (None, Some("recorded for u1"))
        );
        assert_eq!(
            ledger.hold_webhook(&webhook(b"one")).await.unwrap(),
            (id, Some("recorded for u1".to_owned())),
            "told again, it is not held again"
        );
        assert_eq!(ledger.held_webhooks(None).await.unwrap().len(), 1);
    });
}

/// The same body by two at once is held once, and neither sees an error.
#[test]
fn one_webhook_told_by_two_at_once_is_held_once() {
    with_ledger(1, |database| async move {
        let ledger = database.ledger().await;
        for n in 0..20_u8 {
            let body = [n];
            let hold = || async { ledger.hold_webhook(&webhook(&body)).await.unwrap().0 };
            let (one, two, three) = tokio::join!(hold(), hold(), hold());
            assert_eq!((one, one), (two, three));
        }
        assert_eq!(ledger.held_webhooks(None).await.unwrap().len(), 20);
    });
}

/// What nobody resolves in time is given up, and its body is gone; told again, it is held anew.
#[test]
fn webhooks_do_not_wait_for_ever() {
    with_ledger(1, |database| async move {
        let ledger = database.ledger().await;
        let (id, _) = ledger.hold_webhook(&webhook(b"one")).await.unwrap();
        assert_eq!(ledger.expire_webhooks(30).await.unwrap(), 0);
        let mut owner = database.owner().await;
        sql(
            &mut owner,
            "UPDATE held_webhooks SET received_at = now() - interval '31 days'",
        )
        .await;
        assert_eq!(ledger.expire_webhooks(30).await.unwrap(), 1);
        let held = ledger.held_webhook(id).await.unwrap().unwrap();
        assert_eq!(
            (held.body, held.resolution.as_deref()),
            (None, Some(EXPIRED))
        );
        assert_eq!(
            ledger.hold_webhook(&webhook(b"one")).await.unwrap(),
            (id, None)
        );
        let held = ledger.held_webhook(id).await.unwrap().unwrap();
        assert_eq!(held.body.as_deref(), Some(b"one".as_slice()));
        assert_eq!(ledger.expire_webhooks(30).await.unwrap(), 0);
    });
}

/// A payment is claimed for one subject at a time, however many claim it at once; for the same one again and again; for another
/// when the claim is over.
#[test]
fn a_payment_is_claimed_for_one_subject() {
    with_ledger(1, |database| async move {
        let ledger = database.ledger().await;
        let claim = |subject: &'static str| {
            let ledger = ledger.clone();
            async move {
                ledger
                    .claim_payment("applyx", "pay_1", subject)
                    .await
                    .unwrap()
            }
        };
        let claims = tokio::join!(claim("u1"), claim("u2"), claim("u3"), claim("u4"));
        let claims = [claims.0, claims.1, claims.2, claims.3];
        assert_eq!(claims.iter().filter(|ours| **ours).count(), 1, "{claims:?}");
        let winner = ["u1", "u2", "u3", "u4"][claims.iter().position(|ours| *ours).unwrap()];
        assert!(claim(winner).await && !claim("u5").await);
        assert!(ledger.claim_payment("other", "pay_1", "u5").await.unwrap());
        let mut owner = database.owner().await;
        let later = "UPDATE payment_claims SET claimed_at = claimed_at - interval '61 seconds'";
        sql(&mut owner, later).await;
        assert!(claim("u5").await && !claim(winner).await);
        ledger.forget_claims().await.unwrap();
        assert!(
            !claim(winner).await,
            "a claim of the last hour is remembered"
        );
    });
}

/// What is ripe comes in pages, each once and oldest first, and lists are without bodies: there may be many, and they are
/// large.
#[test]
fn what_is_ripe_comes_in_pages() {
    with_ledger(1, |database| async move {
        let ledger = database.ledger().await;
        let mut ids = Vec::new();
        for n in 0..40_u8 {
            let body = [n];
            let mut waiting = webhook(&body);
            waiting.reason = "unavailable";
            ids.push(ledger.hold_webhook(&waiting).await.unwrap().0);
        }
        let mut owner = database.owner().await;
        // Some came in the same instant.
        sql(
            &mut owner,
            "UPDATE held_webhooks SET received_at = date_trunc('second', received_at)",
        )
        .await;
        let (mut seen, mut pages, mut after) = (Vec::new(), Vec::new(), None);
        loop {
            let page = ledger
                .ripe_webhooks(None, None, None, after.as_ref())
                .await
                .unwrap();
            pages.push(page.len());
            seen.extend(page.iter().map(|(held, _)| (held.received_at, held.id)));
            match page.into_iter().next_back() {
                Some((last, _)) => after = Some(last),
                None => break,
            }
        }
        assert_eq!(pages, [16, 16, 8, 0]);
        assert!(seen.is_sorted());
        let mut found: Vec<_> = seen.into_iter().map(|(_, id)| id).collect();
        found.sort();
        ids.sort();
        assert_eq!(found, ids);
        let listed = ledger.held_webhooks(None).await.unwrap();
        assert!(listed.iter().all(|held| held.body.is_none()));
    });
}

/// An append notes whose its payments and subscriptions are, the first teller of each, and nothing of a stale partition;
/// what waits for one of them is ripe then.
///
/// Failed when the append noted nothing, and when it noted what its fence kept out (pay_2).
#[test]
fn payments_are_known_with_their_append() {
    with_ledger(2, |database| async move {
        let ledger = database.ledger().await;
        let mut waiting = webhook(b"refund");
        waiting.reason = "unknown_payment";
        ledger.hold_webhook(&waiting).await.unwrap();
        let ripe = || async {
            let ripe = ledger.ripe_webhooks(None, None, None, None).await.unwrap();
            ripe.len()
        };
        assert_eq!(ripe().await, 0);
        let mut lane = database.lane().await;
        let mut writer = Writer::new(database.info);
        let subject = |p| subject_in(p, database.info.partitions, "applyx", 0);
        let (one, two) = (subject(0), subject(1));
        let bought = |plan: &str, payment: &str, more: &str| {
            format!(
                r#"{{"plan":"{plan}","payment_id":"{payment}","amount":1,"currency":"INR"{more}}}"#
            )
            .into_bytes()
        };
        let kind = "subscription.purchased";
        let fences = [writer.fence(0), writer.fence(1)];
        let first = bought("basic", "pay_1", r#","subscription":"sub_1""#);
        let rows = [
            writer.row_in(0, "applyx", &one, kind, "a", &first),
            writer.row_in(
                0,
                "applyx",
                &one,
                "usage.recorded",
                "b",
                &bought("basic", "pay_9", ""),
            ),
            writer.row_in(
                1,
                "applyx",
                &two,
                "subscription.renewed",
                "c",
                &bought("pro", "pay_1", ""),
            ),
        ];
        lane.append(&rows, &fences, false).await.unwrap();
        let mut stale = Writer::new(database.info);
        let fences = [writer.fence(0), stale.fence(1)];
        let rows = [
            writer.row_in(0, "applyx", &one, kind, "e", &bought("pro", "pay_3", "")),
            stale.row_in(1, "applyx", &two, kind, "d", &bought("pro", "pay_2", "")),
        ];
        let appended = lane.append(&rows, &fences, false).await.unwrap();
        assert_eq!(appended.partitions, [0]);
        let beside = ledger.counted("applyx", Some("pay_3"), None).await.unwrap();
        assert_eq!(beside.payment, Some((one.clone(), "pro".to_owned())));
        let whose = (one.clone(), "basic".to_owned());
        let counted = ledger.counted("applyx", Some("pay_1"), Some("sub_1"));
        let known = Counted {
            payment: Some(whose.clone()),
            subscription: Some(whose),
        };
        assert_eq!(counted.await.unwrap(), known);
        for (product, payment) in [("applyx", "pay_2"), ("applyx", "pay_9"), ("other", "pay_1")] {
            let counted = ledger.counted(product, Some(payment), None).await.unwrap();
            assert_eq!(counted, Counted::default(), "{product} {payment}");
        }
        assert_eq!(ripe().await, 1);
    });
}

fn webhook(body: &[u8]) -> NewWebhook<'_> {
    NewWebhook {
        product: "applyx",
        event: "payment.captured",
        payment_id: Some("pay_1"),
        subscription: None,
        subject: None,
        reason: "unknown_subject",
        body,
    }
}

/// The next epoch begins in every partition and in the ledger's own record, or nowhere.
///
/// Fails when the epoch is raised outside the transaction of its rows.
#[test]
fn an_epoch_begins_everywhere() {
    with_ledger(3, |database| async move {
        let mut writer = Writer::new(database.info);
        let mut rows = |heads: &[quota_core::row::Head], id: &str, count: u32| {
            writer.reset(heads.to_vec());
            (0..count)
                .map(|p| writer.row_in(p, "", "", "ledger.epoch_started", id, b"{}"))
                .collect()
        };
        let refused = start_epoch(&database.url, FOLD, 1, |_| Err::<Vec<_>, _>("no")).await;
        assert!(matches!(refused, Err(PublishError::Refused("no"))));
        let broken = start_epoch(&database.url, FOLD, 1, |found| {
            let mut rows: Vec<quota_core::row::Row> = rows(&found.heads, "broken", 3);
            rows[1].hash[0] ^= 1;
            Ok::<_, Infallible>(rows)
        });
        assert!(broken.await.is_err());
        assert_eq!(database.ledger().await.info().epoch, 0);
        let info = start_epoch(&database.url, FOLD, 1, |found| {
            assert_eq!(found.newest, [None, None, None]);
            Ok::<_, Infallible>(rows(&found.heads, "1", 3))
        });
        assert_eq!(info.await.unwrap().epoch, 1);
        let ledger = database.ledger().await;
        assert_eq!(ledger.info().epoch, 1);
        for partition in 0..3 {
            assert_eq!(check_chain(&ledger, partition).await.len(), 1);
        }
    });
}
