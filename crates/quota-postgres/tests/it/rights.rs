//! Who may do what: nobody changes the ledger, the service owns nothing, analysts see their views alone.

use crate::harness::{
    Database, FOLD, Writer, database_url, sql, sqlstate, subject_in, url_as, with_empty,
    with_ledger,
};
use quota_postgres::{Error, Lane, Ledger, migrate};
use sqlx::PgConnection;

/// Postgres's code of a rule that forbids.
const RESTRICTED: &str = "23001";
/// Postgres's code of a missing right.
const DENIED: &str = "42501";

async fn with_a_row(database: &Database) {
    let mut lane = database.lane().await;
    let mut writer = Writer::new(database.info);
    let fences = [writer.fence(0)];
    let row = writer.row("p", &subject_in(0, database.info.partitions, "p", 0), "a");
    lane.append(&[row], &fences, false).await.unwrap();
}

async fn count(connection: &mut PgConnection) -> i64 {
    sqlx::query_scalar("SELECT count(*) FROM ledger")
        .fetch_one(connection)
        .await
        .unwrap()
}

/// The owner, though a superuser here, can neither change nor remove a row, not even where triggers are switched off for
/// replication.
///
/// Fails without the triggers, and without ENABLE ALWAYS.
#[test]
fn the_owner_cannot_change_the_ledger() {
    with_ledger(1, |database| async move {
        with_a_row(&database).await;
        let mut owner = database.owner().await;
        for role in ["origin", "replica", "local"] {
            sql(
                &mut owner,
                &format!("SET session_replication_role = {role}"),
            )
            .await;
            for statement in [
                "UPDATE ledger SET payload = '\\x00'",
                "DELETE FROM ledger",
                "TRUNCATE ledger",
            ] {
                assert_eq!(
                    sqlstate(&mut owner, statement).await,
                    RESTRICTED,
                    "{statement} as {role}"
                );
            }
        }
        assert_eq!(count(&mut owner).await, 1);
    });
}

/// The service reads and appends; it has no right to anything else on the ledger, and no DDL at all.
///
/// Fails when migrations grant it more, and when connections do not take its role.
#[test]
fn the_service_can_only_append() {
    with_ledger(1, |database| async move {
        with_a_row(&database).await;
        let mut service = database.owner().await;
        sql(&mut service, "SET ROLE quota_service").await;
        for statement in [
            "UPDATE ledger SET payload = '\\x00'",
            "DELETE FROM ledger",
            "TRUNCATE ledger",
            "UPDATE ledger_meta SET epoch = 7",
            "INSERT INTO ledger_meta (only_row, partitions) VALUES (true, 1)",
            "DELETE FROM ledger_products",
            "DELETE FROM api_keys",
            "ALTER TABLE ledger DISABLE TRIGGER ALL",
            "DROP TABLE ledger",
            "CREATE TABLE mine (n integer)",
            "CREATE INDEX mine ON ledger (id)",
            "CREATE OR REPLACE FUNCTION ledger_refuse_change() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'",
            "SELECT create_view_tables(9)",
            "SET session_replication_role = replica",
        ] {
            assert_eq!(
                sqlstate(&mut service, statement).await,
                DENIED,
                "{statement}"
            );
        }
        assert_eq!(count(&mut service).await, 1);
    });
}

/// What the service may do with each table and view, and nothing beyond it: what is not named here, it may not even read.
#[test]
fn the_services_rights_are_these_and_no_more() {
    with_ledger(1, |database| async move {
        let mut owner = database.owner().await;
        let query = "SELECT c.relname::text || ': ' || string_agg(r.name, ' ' ORDER BY r.place)
                     FROM pg_class c
                     CROSS JOIN unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE', 'TRUNCATE', 'REFERENCES', 'TRIGGER'])
                                WITH ORDINALITY AS r(name, place)
                     WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'v', 'm', 'p', 'S')
                       AND has_table_privilege('quota_service', c.oid, r.name)
                     GROUP BY c.relname ORDER BY c.relname::text COLLATE \"C\"";
        let rights: Vec<String> = sqlx::query_scalar(query)
            .fetch_all(&mut owner)
            .await
            .unwrap();
        let expected = [
            "_sqlx_migrations: SELECT",
            "api_keys: SELECT INSERT UPDATE",
            &format!("entitlement_rows_v{FOLD}: SELECT INSERT UPDATE DELETE"),
            &format!("entitlement_views_v{FOLD}: SELECT INSERT UPDATE DELETE"),
            "held_webhooks: SELECT INSERT UPDATE",
            "ledger: SELECT INSERT",
            "ledger_events: SELECT",
            "ledger_meta: SELECT",
            "ledger_payments: SELECT INSERT",
            "ledger_products: SELECT INSERT",
            "payment_claims: SELECT INSERT UPDATE DELETE",
            &format!("projector_checkpoints_v{FOLD}: SELECT INSERT UPDATE DELETE"),
            "report_conversion: SELECT",
            "report_renewals: SELECT",
            "report_usage: SELECT",
        ];
        assert_eq!(rights, expected);
        let more: Vec<String> = sqlx::query_scalar(
            "SELECT rolname::text FROM pg_roles WHERE rolname IN ('quota_service', 'quota_analyst')
               AND (rolsuper OR rolcreaterole OR rolcreatedb OR rolcanlogin OR rolreplication OR rolbypassrls)",
        )
        .fetch_all(&mut owner)
        .await
        .unwrap();
        assert_eq!(more, [] as [&str; 0]);
    });
}

/// Every connection of ours works as the service, whatever its login could do.
///
/// Fails when the pool or the lane forgets SET ROLE.
#[test]
fn connections_take_the_services_role() {
    with_ledger(1, |database| async move {
        let (lane, ledger) = (database.lane().await, database.ledger().await);
        ledger.heads().await.unwrap();
        let mut owner = database.owner().await;
        // A role that is taken holds a reference to itself only while it is used; so ask for what only others lack.
        sql(&mut owner, "REVOKE SELECT ON ledger FROM quota_service").await;
        let mut lane = lane;
        assert!(matches!(
            ledger.range(0, 0, 1).await,
            Err(Error::Unavailable(_))
        ));
        assert!(matches!(
            lane.range(0, 0, 1).await,
            Err(Error::Unavailable(_))
        ));
    });
}

/// An analyst reads the views made for analysts, and can do nothing else.
///
/// Fails when any other table or view is granted to the role, or to everybody.
#[test]
fn an_analyst_sees_the_views_alone() {
    with_ledger(1, |database| async move {
        with_a_row(&database).await;
        let mut owner = database.owner().await;
        let query = "SELECT c.relname::text FROM pg_class c
                     WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'v', 'm', 'p', 'S')
                       AND has_table_privilege('quota_analyst', c.oid, $1) ORDER BY 1";
        let mut granted = Vec::new();
        for right in [
            "SELECT",
            "INSERT, UPDATE, DELETE, TRUNCATE, REFERENCES, TRIGGER",
        ] {
            granted.push(
                sqlx::query_scalar::<_, String>(query)
                    .bind(right)
                    .fetch_all(&mut owner)
                    .await
                    .unwrap(),
            );
        }
        assert_eq!(
            granted[0],
            [
                "ledger_events",
                "report_conversion",
                "report_renewals",
                "report_usage"
            ]
        );
        assert!(granted[1].is_empty(), "{:?}", granted[1]);

        sql(&mut owner, "SET ROLE quota_analyst").await;
        sql(
            &mut owner,
            "SELECT * FROM ledger_events; SELECT * FROM report_usage",
        )
        .await;
        for statement in [
            "SELECT * FROM ledger",
            "SELECT * FROM api_keys",
            "INSERT INTO ledger_events (product) VALUES ('x')",
            "SELECT ledger_lock('{0}')",
            "CREATE TABLE mine (n integer)",
        ] {
            assert_eq!(sqlstate(&mut owner, statement).await, DENIED, "{statement}");
        }
    });
}

/// A login that is no superuser migrates (it needs CREATEROLE) and serves; a login that may not take the service's role
/// is told so.
#[test]
fn an_ordinary_login_suffices() {
    with_empty(
        |url, name| async move { (url, name) },
        |(url, name)| async move {
            let mut server = crate::harness::server().await;
            let (owner, stranger) = (format!("owner_{name}"), format!("stranger_{name}"));
            sql(
                &mut server,
                &format!("CREATE ROLE {owner} LOGIN CREATEROLE PASSWORD 'secret'"),
            )
            .await;
            sql(
                &mut server,
                &format!("CREATE ROLE {stranger} LOGIN PASSWORD 'secret'"),
            )
            .await;
            sql(
                &mut server,
                &format!("ALTER DATABASE {name} OWNER TO {owner}"),
            )
            .await;
            let owned = url_as(&database_url(&name), &owner);
            let info = migrate(&owned, 2, FOLD).await.unwrap();
            assert_eq!(migrate(&owned, 2, FOLD).await.unwrap(), info);
            let ledger = Ledger::connect(&owned, FOLD, 2).await.unwrap();
            assert_eq!(ledger.heads().await.unwrap().len(), 2);
            ledger.lane().await.unwrap().lock(&[0, 1]).await.unwrap();
            let refused = Lane::open(&url_as(&database_url(&name), &stranger), FOLD)
                .await
                .unwrap_err();
            assert!(
                matches!(&refused, Error::NotReady(text) if text.contains("GRANT quota_service")),
                "{refused}"
            );
            ledger.close().await;
            sql(
                &mut server,
                &format!("ALTER DATABASE {name} OWNER TO CURRENT_USER"),
            )
            .await;
            let mut superuser = <PgConnection as sqlx::Connection>::connect(&url)
                .await
                .unwrap();
            sql(
                &mut superuser,
                &format!("REASSIGN OWNED BY {owner} TO CURRENT_USER; DROP OWNED BY {owner}"),
            )
            .await;
            sql(&mut server, &format!("DROP ROLE {owner}, {stranger}")).await;
        },
    );
}
