//! Migrations, and what a connection refuses to work with.

use crate::harness::{FOLD, server, sql, with_empty, with_ledger};
use quota_postgres::{Error, Lane, Ledger, migrate};
use std::time::{Duration, Instant};

/// What `connect` and `open` both refuse the database with.
async fn refusal(url: &str, fold_version: i32) -> String {
    let pool = Ledger::connect(url, fold_version, 1).await.unwrap_err();
    let lane = Lane::open(url, fold_version).await.unwrap_err();
    match (pool, lane) {
        (Error::NotReady(pool), Error::NotReady(lane)) => {
            assert_eq!(pool, lane);
            pool
        }
        other => panic!("not refused as such: {other:?}"),
    }
}

/// Migrating again changes nothing, also with another fold version beside, also several at once, again and again.
///
/// Fails when `migrate` grants outside the transaction that holds the lock ("tuple concurrently updated").
#[test]
fn a_second_migration_is_harmless() {
    with_ledger(3, |database| async move {
        for _ in 0..10 {
            let again = [FOLD, FOLD + 1, FOLD + 1, FOLD + 2, FOLD, FOLD, FOLD, FOLD];
            let tasks = again.map(|version| {
                let url = database.url.clone();
                tokio::spawn(async move { migrate(&url, 3, version).await })
            });
            for task in tasks {
                assert_eq!(task.await.unwrap().unwrap(), database.info);
            }
        }
        assert_eq!(
            database.ledger().await.checkpoints().await.unwrap(),
            [0, 0, 0]
        );
        let other = Ledger::connect(&database.url, FOLD + 2, 1).await.unwrap();
        assert_eq!(other.checkpoints().await.unwrap(), [0, 0, 0]);
    });
}

/// The number of partitions is fixed: another one is refused, and nothing changes.
///
/// Fails when `migrate` does not compare it with the ledger's.
#[test]
fn another_number_of_partitions_is_refused() {
    with_ledger(3, |database| async move {
        let refused = migrate(&database.url, 4, FOLD).await.unwrap_err();
        assert!(
            matches!(&refused, Error::Invalid(text) if text.contains("3 partitions")),
            "{refused}"
        );
        assert_eq!(database.ledger().await.info().partitions, 3);
        for none in [0, 4097, u32::MAX] {
            assert!(matches!(
                migrate(&database.url, none, FOLD).await,
                Err(Error::Invalid(_))
            ));
        }
    });
}

/// Several databases of one cluster can be migrated at once, though they make the same roles.
///
/// Fails when `ensure_role` does not look again after losing a race. (Only where the roles are not there yet: the first
/// run on a cluster.)
#[test]
fn databases_of_one_cluster_migrate_at_once() {
    with_empty(
        |_, name| async move { name },
        |name| async move {
            let mut server = server().await;
            let names = (0..4).map(|n| format!("{name}_{n}")).collect::<Vec<_>>();
            for name in &names {
                sql(&mut server, &format!("CREATE DATABASE {name}")).await;
            }
            let tasks: Vec<_> = names
                .iter()
                .map(|name| {
                    let url = crate::harness::database_url(name);
                    tokio::spawn(async move { migrate(&url, 2, FOLD).await })
                })
                .collect();
            let mut outcomes = Vec::new();
            for task in tasks {
                outcomes.push(task.await.unwrap());
            }
            for name in &names {
                sql(&mut server, &format!("DROP DATABASE {name} WITH (FORCE)")).await;
            }
            for outcome in outcomes {
                outcome.unwrap();
            }
        },
    );
}

/// A database that is not migrated, not far enough, or without the view tables of this fold, is refused with what to do.
///
/// Fails when `inspect` lets one of them through.
#[test]
fn an_unready_database_is_refused() {
    with_empty(
        |url, _| async move { url },
        |url| async move {
            // The role may be there already, of another database.
            assert!(
                refusal(&url, FOLD)
                    .await
                    .contains("run `quota-ledger migrate`")
            );
            migrate(&url, 2, FOLD).await.unwrap();
            Ledger::connect(&url, FOLD, 1).await.unwrap();
            let text = refusal(&url, FOLD + 1).await;
            assert!(
                text.contains("fold version 2") && text.contains("quota-ledger migrate"),
                "{text}"
            );
            let mut owner = <sqlx::PgConnection as sqlx::Connection>::connect(&url)
                .await
                .unwrap();
            sql(&mut owner, "UPDATE _sqlx_migrations SET success = false WHERE version = (SELECT max(version) FROM _sqlx_migrations)")
                .await;
            let text = refusal(&url, FOLD).await;
            assert!(
                text.contains("at migration") && text.contains("quota-ledger migrate"),
                "{text}"
            );
        },
    );
}

/// A database that may lose what it has acknowledged is refused.
///
/// Fails when `inspect` does not look. (fsync is looked at in the same place; it cannot be off for one database alone.)
#[test]
fn a_forgetful_database_is_refused() {
    with_ledger(1, |database| async move {
        let mut owner = database.owner().await;
        sql(
            &mut owner,
            &format!(
                "ALTER DATABASE {} SET synchronous_commit = off",
                database.name
            ),
        )
        .await;
        let text = refusal(&database.url, FOLD).await;
        assert!(text.contains("synchronous_commit = off"), "{text}");
        sql(
            &mut owner,
            &format!(
                "ALTER DATABASE {} SET synchronous_commit = local",
                database.name
            ),
        )
        .await;
        Ledger::connect(&database.url, FOLD, 1).await.unwrap();
    });
}

/// A database that is down, or takes connections and never answers, is reported within seconds.
///
/// Fails without the time limit on connecting.
#[test]
fn a_silent_database_is_reported_soon() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = silent.local_addr().unwrap().port();
        let free = tokio::net::TcpListener::bind("127.0.0.1:0")
            .await
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        for port in [port, free] {
            let begun = Instant::now();
            let url = format!("postgres://nobody@127.0.0.1:{port}/none");
            let refused = Ledger::connect(&url, FOLD, 1).await.unwrap_err();
            assert!(matches!(refused, Error::Unavailable(_)), "{refused}");
            assert!(begun.elapsed() < Duration::from_secs(8));
        }
        assert!(matches!(
            Ledger::connect("no url", FOLD, 1).await,
            Err(Error::Invalid(_))
        ));
    });
}

/// The ledger has two indexes, and every table, view and function of ours says what it is for.
///
/// Fails when an index is added without a measurement, or something is made without a comment.
#[test]
fn the_schema_is_what_it_says() {
    with_ledger(1, |database| async move {
        let mut owner = database.owner().await;
        let query = "SELECT indexname::text FROM pg_indexes WHERE tablename = 'ledger' ORDER BY 1";
        let indexes: Vec<String> = sqlx::query_scalar(query)
            .fetch_all(&mut owner)
            .await
            .unwrap();
        assert_eq!(indexes, ["ledger_event_key", "ledger_pkey"]);
        let query = "SELECT relname::text FROM pg_class
                     WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'v')
                       AND relname <> '_sqlx_migrations' AND obj_description(oid, 'pg_class') IS NULL
                     UNION ALL
                     SELECT proname::text FROM pg_proc
                     WHERE pronamespace = 'public'::regnamespace AND obj_description(oid, 'pg_proc') IS NULL";
        let silent: Vec<String> = sqlx::query_scalar(query)
            .fetch_all(&mut owner)
            .await
            .unwrap();
        assert!(silent.is_empty(), "without a comment: {silent:?}");
    });
}
