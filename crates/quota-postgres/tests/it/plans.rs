//! The plans of our statements: made while the ledger is empty, kept while it grows.

use crate::harness::{sql, with_ledger};
use serde_json::Value;
use sqlx::Row as _;

const STATEMENTS: [(&str, &str); 10] = [
    ("load", include_str!("../../queries/load.sql")),
    ("rows_at", include_str!("../../queries/rows_at.sql")),
    ("ids_at", include_str!("../../queries/ids_at.sql")),
    ("ranges", include_str!("../../queries/ranges.sql")),
    ("heads", include_str!("../../queries/heads.sql")),
    (
        "subject_page",
        include_str!("../../queries/subject_page.sql"),
    ),
    (
        "by_event_keys",
        include_str!("../../queries/by_event_keys.sql"),
    ),
    ("catalogs", include_str!("../../queries/catalogs.sql")),
    (
        "latest_catalogs",
        include_str!("../../queries/latest_catalogs.sql"),
    ),
    ("newest_of", include_str!("../../queries/newest_of.sql")),
];

/// Every look into the ledger goes down to the row or the subject by its index, not through a partition, though the
/// planner knows nothing of the table yet: on an empty one, all indexes look alike to it.
///
/// Fails when a statement loses one of the ORDER BYs that `queries/README.md` is about.
#[test]
fn an_empty_ledger_leads_to_the_right_plans() {
    with_ledger(2, |database| async move {
        let mut owner = database.owner().await;
        sql(&mut owner, "SET plan_cache_mode = force_generic_plan; SET enable_seqscan = off; SET enable_bitmapscan = off").await;
        for (name, text) in STATEMENTS {
            let text = text.replace("{v}", "1");
            let parameters = (1..)
                .take_while(|n| text.contains(&format!("${n}")))
                .count();
            sql(&mut owner, &format!("PREPARE {name} AS {text}")).await;
            let nulls = vec!["NULL"; parameters].join(", ");
            let explain = format!("EXPLAIN (FORMAT JSON) EXECUTE {name}({nulls})");
            let row = sqlx::raw_sql(sqlx::AssertSqlSafe(explain))
                .fetch_one(&mut owner)
                .await
                .unwrap();
            let plan: Value =
                serde_json::from_str(row.try_get_raw(0).unwrap().as_str().unwrap()).unwrap();
            let looks = check(name, &plan[0]["Plan"]);
            assert!(looks > 0, "{name} does not look into the ledger at all?");
        }
    });
}

/// Checks a plan's nodes, and counts those that look into the ledger.
fn check(name: &str, node: &Value) -> u32 {
    let mut looks = 0;
    if node["Relation Name"] == "ledger" {
        looks += 1;
        let condition = node["Index Cond"].as_str().unwrap_or_default();
        let right = match node["Index Name"].as_str() {
            Some("ledger_pkey") => {
                condition.contains("\"offset\"") || node["Scan Direction"] == "Backward"
            }
            Some("ledger_event_key") => condition.contains("subject_key"),
            _ => false,
        };
        assert!(
            right,
            "{name}: {}, {} on {condition}",
            node["Node Type"], node["Index Name"]
        );
    }
    looks
        + node["Plans"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|child| check(name, child))
            .sum::<u32>()
}
