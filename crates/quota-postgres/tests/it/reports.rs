//! What analysts see.

use crate::harness::{Writer, sql, with_ledger};
use quota_core::time::Timestamp;
use sqlx::Row as _;

/// Appends these events of one product: subject, type, id, time, data.
async fn record(database: &crate::harness::Database, events: &[(&str, &str, &str, &str)]) {
    let mut lane = database.lane().await;
    let mut writer = Writer::new(database.info);
    let fences = [writer.fence(0)];
    let mut rows = Vec::new();
    for (n, (subject, event_type, time, data)) in events.iter().enumerate() {
        let before = writer.head(0).hash;
        let mut row = writer.row_in(
            0,
            "applyx",
            subject,
            event_type,
            &n.to_string(),
            data.as_bytes(),
        );
        row.occurred_at = Timestamp::parse(time).unwrap();
        row.hash = row.expected_hash(&before);
        writer.rehash(&row);
        rows.push(row);
    }
    lane.append(&rows, &fences, false).await.unwrap();
}

/// Lines of a query, each as Postgres writes a row in text.
async fn lines(database: &crate::harness::Database, query: &str) -> Vec<String> {
    let mut analyst = database.owner().await;
    sql(&mut analyst, "SET ROLE quota_analyst").await;
    let text = format!("SELECT q::text FROM ({query}) AS q");
    let rows = sqlx::query(sqlx::AssertSqlSafe(text))
        .fetch_all(&mut analyst)
        .await
        .unwrap();
    rows.iter().map(|row| row.get::<String, _>(0)).collect()
}

/// The wide view has every event with its times to the microsecond; the reports count what they say they count.
#[test]
fn analysts_read_what_happened() {
    with_ledger(1, |database| async move {
        let bought = |payment: &str| {
            format!(r#"{{"plan":"basic","payment_id":"{payment}","amount":9900,"currency":"INR"}}"#)
        };
        let (p1, p2, p3) = (bought("p1"), bought("p2"), bought("p3"));
        let use2 = r#"{"feature":"edits","amount":2}"#;
        record(
            &database,
            &[
                (
                    "ann",
                    "subject.registered",
                    "2026-10-31T23:59:59.999999Z",
                    "{}",
                ),
                ("ann", "usage.recorded", "2026-11-01T00:00:00Z", use2),
                ("ann", "usage.recorded", "2026-11-02T00:00:00Z", use2),
                ("bob", "usage.recorded", "2026-11-02T00:00:00Z", use2),
                ("bob", "usage.denied", "2026-11-03T00:00:00Z", use2),
                (
                    "bob",
                    "resource.created",
                    "2026-11-03T00:00:00Z",
                    r#"{"resource":"r1","feature":"edits"}"#,
                ),
                (
                    "bob",
                    "resource.created",
                    "2026-11-03T00:00:00Z",
                    r#"{"resource":"r2"}"#,
                ),
                ("ann", "subscription.purchased", "2026-11-04T00:00:00Z", &p1),
                ("ann", "subscription.purchased", "2026-11-04T00:00:01Z", &p1),
                ("ann", "subscription.renewed", "2026-12-04T00:00:00Z", &p2),
                ("ann", "subscription.purchased", "2026-12-20T00:00:00Z", &p3),
            ],
        )
        .await;
        let usage =
            "SELECT product, month, feature, events, units, subjects, denials FROM report_usage";
        assert_eq!(
            lines(&database, usage).await,
            ["(applyx,2026-11-01,edits,4,7,2,1)"]
        );
        let renewals = "SELECT month, plan, purchases, renewals, second_purchases FROM report_renewals ORDER BY month";
        let expected = ["(2026-11-01,basic,1,0,0)", "(2026-12-01,basic,1,1,1)"];
        assert_eq!(lines(&database, renewals).await, expected);
        let conversion = "SELECT month, subjects_first_seen, subjects_first_paid FROM report_conversion ORDER BY month";
        assert_eq!(
            lines(&database, conversion).await,
            ["(2026-10-01,1,0)", "(2026-11-01,1,1)"]
        );
        let first =
            "SELECT ledger_partition, ledger_offset, product, subject, event_id, source, type,
                            to_char(occurred_at AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS.US'),
                            to_char(recorded_at AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS.US'),
                            catalog_version, data, octet_length(hash)
                     FROM ledger_events ORDER BY ledger_offset LIMIT 1";
        let expected = "(0,0,applyx,ann,0,test,subject.registered,\"2026-10-31 23:59:59.999999\",\
                        \"2026-11-18 11:06:40.123456\",1,{},32)";
        assert_eq!(lines(&database, first).await, [expected]);
    });
}
