//! When nobody answers: what an append says then, and how its outcome is found out.

use crate::harness::{Database, FOLD, Writer, check_chain, with_ledger};
use crate::proxy::{Cut, Proxy};
use quota_core::row::Row;
use quota_postgres::{AppendError, Error, Lane};
use std::time::{Duration, Instant};

/// What is there at the rows' places, once nobody can change it any more.
async fn truth(database: &Database, rows: &[Row]) -> Vec<Row> {
    let mut lane = database.lane().await;
    lane.lock(&[0]).await.unwrap();
    let found = lane
        .rows_at(
            &rows
                .iter()
                .map(|row| (row.partition, row.offset))
                .collect::<Vec<_>>(),
        )
        .await
        .unwrap();
    lane.rollback().await.unwrap();
    found
}

/// An append whose connection is cut says that its outcome is unknown, wherever the cut was; a new lane that takes the
/// locks then sees the truth: all of it or nothing.
///
/// Fails when a lost connection counts as "nothing recorded", or a lost answer as "recorded".
#[test]
fn a_cut_append_is_ambiguous_and_can_be_resolved() {
    with_ledger(1, |database| async move {
        let proxy = Proxy::start(&database.url).await;
        let mut writer = Writer::new(database.info);
        for (round, (cut, kept)) in [(Cut::Request, false), (Cut::Answer, true)]
            .into_iter()
            .enumerate()
        {
            let mut lane = Lane::open(&proxy.url(&database.url), FOLD).await.unwrap();
            let fences = [writer.fence(0)];
            let rows = [
                writer.row("p", "s", &format!("a{round}")),
                writer.row("p", "s", &format!("b{round}")),
            ];
            proxy.cut(cut);
            let outcome = lane.append(&rows, &fences, false).await;
            assert!(
                matches!(outcome, Err(AppendError::Ambiguous(_))),
                "{cut:?}: {outcome:?}"
            );
            assert!(lane.is_closed());
            assert!(matches!(
                lane.append(&rows, &fences, false).await,
                Err(AppendError::Unavailable(_))
            ));
            assert_eq!(
                truth(&database, &rows).await,
                if kept { rows.to_vec() } else { vec![] },
                "{cut:?}"
            );
            if !kept {
                writer = Writer::new(database.info);
            }
        }
        assert_eq!(check_chain(&database.ledger().await, 0).await.len(), 2);
    });
}

/// The server may still be at work for a connection that is gone. Taking the locks waits it out, so that "not there" is
/// final.
///
/// Fails when `Lane::lock` takes no locks: the rows are then not there when looked for, and are a moment later.
#[test]
fn the_locks_wait_the_old_backend_out() {
    with_ledger(1, |database| async move {
        let proxy = Proxy::start(&database.url).await;
        let mut lane = Lane::open(&proxy.url(&database.url), FOLD).await.unwrap();
        // Somebody holds the lock, so that the cut append has to wait, with nobody left to answer.
        // (By hand, so that this test can see a lane that takes none.)
        let mut holder = database.owner().await;
        crate::harness::sql(
            &mut holder,
            "BEGIN; SELECT pg_advisory_xact_lock(1903521652, 0)",
        )
        .await;
        let mut writer = Writer::new(database.info);
        let fences = [writer.fence(0)];
        let rows = [writer.row("p", "s", "a")];
        proxy.cut(Cut::AfterRequest);
        let outcome = lane.append(&rows, &fences, false).await;
        assert!(
            matches!(outcome, Err(AppendError::Ambiguous(_))),
            "{outcome:?}"
        );
        let release = tokio::spawn(async move {
            tokio::time::sleep(Duration::from_millis(500)).await;
            crate::harness::sql(&mut holder, "ROLLBACK").await;
        });
        let found = truth(&database, &rows).await;
        release.await.unwrap();
        tokio::time::sleep(Duration::from_millis(300)).await;
        let later = check_chain(&database.ledger().await, 0).await;
        assert_eq!(
            found, later,
            "what was seen under the locks is not what is there in the end"
        );
        assert_eq!(later, rows);
    });
}

/// A cut before COMMIT was sent leaves nothing behind, and says so; a cut after it is ambiguous.
///
/// Fails when a transaction's append counts as durable, or a lost commit as undone.
#[test]
fn only_the_commit_of_a_transaction_is_ambiguous() {
    with_ledger(1, |database| async move {
        let proxy = Proxy::start(&database.url).await;
        let mut writer = Writer::new(database.info);
        let fences = [writer.fence(0)];
        let rows = [writer.row("p", "s", "a")];

        let mut lane = Lane::open(&proxy.url(&database.url), FOLD).await.unwrap();
        lane.lock(&[0]).await.unwrap();
        proxy.cut(Cut::Answer);
        let outcome = lane.append(&rows, &fences, false).await;
        assert!(
            matches!(outcome, Err(AppendError::Unavailable(_))),
            "{outcome:?}"
        );
        assert_eq!(truth(&database, &rows).await, []);

        let mut lane = Lane::open(&proxy.url(&database.url), FOLD).await.unwrap();
        lane.lock(&[0]).await.unwrap();
        lane.append(&rows, &fences, false).await.unwrap();
        proxy.cut(Cut::Answer);
        let outcome = lane.commit().await;
        assert!(
            matches!(outcome, Err(AppendError::Ambiguous(_))),
            "{outcome:?}"
        );
        assert_eq!(truth(&database, &rows).await, rows);
    });
}

/// A node that stops in the middle of a transaction holds nobody up for long: the server cuts it after 2 s. When it
/// wakes up, it finds nothing of its transaction recorded, and is told so.
///
/// Fails without `idle_in_transaction_session_timeout` on the lane's session.
#[test]
fn a_sleeping_holder_is_cut() {
    with_ledger(1, |database| async move {
        let (mut sleeper, mut other) = (database.lane().await, database.lane().await);
        let (mut late, mut ours) = (Writer::new(database.info), Writer::new(database.info));
        sleeper.lock(&[0]).await.unwrap();
        let fences = [late.fence(0)];
        sleeper
            .append(&[late.row("p", "s", "late")], &fences, false)
            .await
            .unwrap();

        let begun = Instant::now();
        let fences = [ours.fence(0)];
        let rows = [ours.row("p", "s", "ours")];
        // The waiting append gives up after 2 s as well; whichever was first, the next one gets in.
        let appended = match other.append(&rows, &fences, false).await {
            Err(AppendError::Unavailable(_)) => other.append(&rows, &fences, false).await,
            outcome => outcome,
        };
        assert_eq!(appended.unwrap().partitions, [0]);
        assert!(
            begun.elapsed() < Duration::from_secs(5),
            "held up for {:?}",
            begun.elapsed()
        );

        let outcome = sleeper.commit().await;
        assert!(
            matches!(
                outcome,
                Err(AppendError::Unavailable(_) | AppendError::Ambiguous(_))
            ),
            "{outcome:?}"
        );
        assert_eq!(check_chain(&database.ledger().await, 0).await, rows);
    });
}

/// Waiting for a lock is bounded also where its holder is at work all the time, and the waiting lane stays usable.
///
/// Fails without `lock_timeout` on the lane's session.
#[test]
fn waiting_for_a_lock_is_bounded() {
    with_ledger(1, |database| async move {
        let (mut busy, mut other) = (database.lane().await, database.lane().await);
        busy.lock(&[0]).await.unwrap();
        let working = tokio::spawn(async move {
            for _ in 0..40 {
                busy.clock().await.unwrap();
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            busy.rollback().await.unwrap();
        });
        let mut writer = Writer::new(database.info);
        let fences = [writer.fence(0)];
        let rows = [writer.row("p", "s", "a")];
        let begun = Instant::now();
        let outcome = other.append(&rows, &fences, false).await;
        assert!(
            matches!(outcome, Err(AppendError::Unavailable(_))),
            "{outcome:?}"
        );
        assert!(matches!(other.lock(&[0]).await, Err(Error::Unavailable(_))));
        assert!(
            begun.elapsed() < Duration::from_secs(6),
            "waited for {:?}",
            begun.elapsed()
        );
        working.await.unwrap();
        assert_eq!(
            other
                .append(&rows, &fences, false)
                .await
                .unwrap()
                .partitions,
            [0]
        );
    });
}

/// Lets a call go on so many times, each until it waits again, and then drops it.
async fn given_up<T>(times: u32, call: impl Future<Output = T>) {
    let mut call = std::pin::pin!(call);
    let mut left = times;
    std::future::poll_fn(|context| match call.as_mut().poll(context) {
        std::task::Poll::Pending if left > 0 => {
            left -= 1;
            std::task::Poll::Pending
        }
        _ => std::task::Poll::Ready(()),
    })
    .await;
}

/// Calls that are cancelled at any moment leave no session inside a transaction, and the pool goes on working. A lane
/// that was cancelled midway refuses further work instead of guessing.
///
/// Fails when a pooled call begins a transaction (sqlx 0.9 hands such a connection back open), and when a lane keeps its
/// state while a statement is under way.
#[test]
fn cancelled_calls_leave_nothing_open() {
    with_ledger(4, |database| async move {
        let ledger = database.ledger().await;
        ledger.heads().await.unwrap();
        let steps = [quota_postgres::Advance {
            partition: 1,
            from: 0,
            to: 0,
        }];
        for round in 0..200 {
            given_up(round % 10, ledger.save_views(&steps, &[], &[])).await;
            given_up(round % 10, ledger.heads()).await;
        }
        // What was given up is off the server by now; what is open stays open for 2 s.
        tokio::time::sleep(Duration::from_millis(200)).await;
        let mut owner = database.owner().await;
        let query = "SELECT count(*) FROM pg_stat_activity
                     WHERE datname = current_database() AND state LIKE 'idle in transaction%'";
        let open: i64 = sqlx::query_scalar(query)
            .fetch_one(&mut owner)
            .await
            .unwrap();
        assert_eq!(open, 0);
        assert_eq!(ledger.heads().await.unwrap().len(), 4);

        let (mut holder, mut lane) = (database.lane().await, database.lane().await);
        holder.lock(&[0]).await.unwrap();
        // Polled once, which sends the query, and dropped: it cannot be answered while the lock is held.
        let cut = tokio::time::timeout(Duration::ZERO, lane.lock(&[0])).await;
        assert!(cut.is_err());
        assert!(lane.is_closed());
        assert!(matches!(lane.clock().await, Err(Error::Unavailable(_))));
    });
}
