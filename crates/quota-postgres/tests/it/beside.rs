//! What stands beside the ledger: claims of relays, held webhooks, epochs.

use crate::harness::{FOLD, Writer, check_chain, with_ledger};
use quota_postgres::{Claims, NewWebhook, PublishError, start_epoch};
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
        let webhook = |body| NewWebhook {
            product: "applyx",
            event: "payment.captured",
            payment_id: "pay_1",
            subject: None,
            reason: "no_subject",
            body,
        };
        let id = ledger.hold_webhook(&webhook(b"one")).await.unwrap();
        assert_eq!(ledger.hold_webhook(&webhook(b"one")).await.unwrap(), id);
        assert_ne!(ledger.hold_webhook(&webhook(b"two")).await.unwrap(), id);
        assert_eq!(ledger.held_webhooks(Some("applyx")).await.unwrap().len(), 2);
        assert_eq!(ledger.held_webhooks(Some("other")).await.unwrap(), []);
        let held = ledger.held_webhook(id).await.unwrap().unwrap();
        assert_eq!(
            (held.body.as_deref(), held.resolution),
            (Some(b"one".as_slice()), None)
        );
        assert!(ledger.resolve_webhook(id, "recorded for u1").await.unwrap());
        assert!(!ledger.resolve_webhook(id, "again").await.unwrap());
        let held = ledger.held_webhook(id).await.unwrap().unwrap();
        assert_eq!(
            (held.body, held.resolution.as_deref()),
            (None, Some("recorded for u1"))
        );
        assert_eq!(
            ledger.hold_webhook(&webhook(b"one")).await.unwrap(),
            id,
            "told again, it is not held again"
        );
        assert_eq!(ledger.held_webhooks(None).await.unwrap().len(), 1);
    });
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
        let refused = start_epoch(&database.url, FOLD, |_| Err::<Vec<_>, _>("no")).await;
        assert!(matches!(refused, Err(PublishError::Refused("no"))));
        let broken = start_epoch(&database.url, FOLD, |found| {
            let mut rows: Vec<quota_core::row::Row> = rows(&found.heads, "broken", 3);
            rows[1].hash[0] ^= 1;
            Ok::<_, Infallible>(rows)
        });
        assert!(broken.await.is_err());
        assert_eq!(database.ledger().await.info().epoch, 0);
        let info = start_epoch(&database.url, FOLD, |found| {
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
