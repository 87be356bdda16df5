//! What this project is measured against: the quota gate that a good engineer writes by hand in an afternoon.
//!
//! One row per subject and feature, one conditional UPDATE and an INSERT into a log, in one transaction; axum in front,
//! a pool of 32 connections behind. No keys, no ids of callers, no history that could be proved: it does less.
//!
//! `handwritten_gate DATABASE_URL SUBJECTS`: makes its tables anew, with a counter for each subject, and serves until it
//! is stopped. Prints its address. `GET /constant` answers with a constant: what HTTP alone costs.

#![allow(
    clippy::print_stdout,
    reason = "the address is for the script that starts it"
)]

use anyhow::Context as _;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::{Deserialize, Serialize};
use sqlx::postgres::{PgPool, PgPoolOptions};

const FEATURE: &str = "calls";
const POOL: u32 = 32;

/// As long as a decision of the ledger's.
const CONSTANT: &str = r#"{"allowed":true,"feature":"calls","subject":"s1042","plan":"free","used":17,"held":0,"limit":1000000000,"remaining":999999983,"unlimited":false,"resets_at":null,"reason":"within_limit","code":null,"message":null,"evidence":[],"upgrade":null,"denial":null,"prompt":null,"hold":null,"catalog_version":1,"position":"3:1042","as_of":"2026-11-20T12:00:00.000Z","age_ms":0}"#;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let url = arguments.next().context("the database's URL")?;
    let subjects: i64 = arguments.next().context("how many subjects")?.parse()?;
    let pool = PgPoolOptions::new()
        .max_connections(POOL)
        .min_connections(POOL)
        .connect(&url)
        .await?;
    make_tables(&pool, subjects).await?;
    let router = Router::new()
        .route("/subjects/{subject}/consume", post(consume))
        .route("/subjects/{subject}/check", get(check))
        .route("/constant", get(constant))
        .with_state(pool);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    println!("http://{}", listener.local_addr()?);
    use axum::serve::ListenerExt as _;
    let listener = listener.tap_io(|socket| socket.set_nodelay(true).unwrap_or_default());
    Ok(axum::serve(listener, router).await?)
}

async fn make_tables(pool: &PgPool, subjects: i64) -> Result<(), sqlx::Error> {
    let tables = "DROP TABLE IF EXISTS counters, log;
        CREATE TABLE counters (subject text, feature text, used bigint NOT NULL, lim bigint NOT NULL,
                               PRIMARY KEY (subject, feature)) WITH (fillfactor = 50);
        CREATE TABLE log (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, subject text NOT NULL,
                          feature text NOT NULL, amount bigint NOT NULL, at timestamptz NOT NULL DEFAULT now());";
    sqlx::raw_sql(tables).execute(pool).await?;
    sqlx::query(
        "INSERT INTO counters SELECT 's' || n, $1, 0, 1000000000 FROM generate_series(1, $2) AS n",
    )
    .bind(FEATURE)
    .bind(subjects)
    .execute(pool)
    .await?;
    sqlx::raw_sql("ANALYZE counters").execute(pool).await?;
    Ok(())
}

#[derive(Deserialize)]
struct Asked {
    feature: String,
    #[serde(default = "one")]
    amount: i64,
}

const fn one() -> i64 {
    1
}

#[derive(Serialize)]
struct Told {
    allowed: bool,
    used: i64,
    limit: i64,
}

type Answer = Result<(StatusCode, Json<Told>), StatusCode>;

async fn consume(
    State(pool): State<PgPool>,
    Path(subject): Path<String>,
    Json(asked): Json<Asked>,
) -> Answer {
    match used(&pool, &subject, &asked).await {
        Ok(Some((used, limit))) => Ok((
            StatusCode::OK,
            Json(Told {
                allowed: true,
                used,
                limit,
            }),
        )),
        Ok(None) => {
            let (_, Json(told)) = judged(&pool, &subject, &asked).await?;
            Ok((
                StatusCode::PAYMENT_REQUIRED,
                Json(Told {
                    allowed: false,
                    ..told
                }),
            ))
        }
        Err(_) => Err(StatusCode::SERVICE_UNAVAILABLE),
    }
}

async fn used(
    pool: &PgPool,
    subject: &str,
    asked: &Asked,
) -> Result<Option<(i64, i64)>, sqlx::Error> {
    let mut transaction = pool.begin().await?;
    let counted: Option<(i64, i64)> = sqlx::query_as(
        "UPDATE counters SET used = used + $3 WHERE subject = $1 AND feature = $2 AND used + $3 <= lim RETURNING used, lim",
    )
    .bind(subject)
    .bind(&asked.feature)
    .bind(asked.amount)
    .fetch_optional(&mut *transaction)
    .await?;
    if counted.is_some() {
        sqlx::query("INSERT INTO log (subject, feature, amount) VALUES ($1, $2, $3)")
            .bind(subject)
            .bind(&asked.feature)
            .bind(asked.amount)
            .execute(&mut *transaction)
            .await?;
    }
    transaction.commit().await?;
    Ok(counted)
}

async fn check(
    State(pool): State<PgPool>,
    Path(subject): Path<String>,
    Query(asked): Query<Asked>,
) -> Answer {
    judged(&pool, &subject, &asked).await
}

async fn judged(pool: &PgPool, subject: &str, asked: &Asked) -> Answer {
    let counter: Option<(i64, i64)> =
        sqlx::query_as("SELECT used, lim FROM counters WHERE subject = $1 AND feature = $2")
            .bind(subject)
            .bind(&asked.feature)
            .fetch_optional(pool)
            .await
            .map_err(|_| StatusCode::SERVICE_UNAVAILABLE)?;
    let (used, limit) = counter.ok_or(StatusCode::NOT_FOUND)?;
    Ok((
        StatusCode::OK,
        Json(Told {
            allowed: used + asked.amount <= limit,
            used,
            limit,
        }),
    ))
}

async fn constant() -> ([(&'static str, &'static str); 1], &'static str) {
    ([("content-type", "application/json")], CONSTANT)
}
