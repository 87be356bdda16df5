//! How we connect: the role, the session's settings, and what we refuse to work with.

use crate::error::{Error, said};
use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{ConnectOptions as _, Connection as _, Row as _};
use std::future::Future;
use std::str::FromStr as _;
use std::time::Duration;

/// How long a connection attempt may take: a database that is down is reported within seconds.
pub(crate) const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// What a ledger is: read once, at connect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LedgerInfo {
    /// The ledger's id, bound into every hash chain.
    pub id: [u8; 16],
    /// The number of partitions, fixed for ever.
    pub partitions: u32,
    /// The epoch: 0 until a restore has lost a tail.
    pub epoch: u32,
}

/// Settings of every session. All our statements are short and go by key, so plans are made once and never look at the
/// whole table: a plan made while the ledger was empty must still be right when it is large.
const SESSION: [(&str, &str); 12] = [
    ("plan_cache_mode", "force_generic_plan"),
    ("jit", "off"),
    ("enable_seqscan", "off"),
    ("enable_bitmapscan", "off"),
    ("max_parallel_workers_per_gather", "0"),
    // The append's locks and its fence are two statements: the second must see what the first waited for.
    ("default_transaction_isolation", "read committed"),
    // A node that is gone is noticed within seconds, and what it held is free again. (Of no effect on a Unix socket.)
    ("tcp_keepalives_idle", "2"),
    ("tcp_keepalives_interval", "1"),
    ("tcp_keepalives_count", "3"),
    ("tcp_user_timeout", "5000"),
    ("idle_in_transaction_session_timeout", "2s"),
    ("lock_timeout", "2s"),
];

/// Options for a connection to `url`, with our session settings.
pub(crate) fn options(
    url: &str,
    application: &str,
    statement_timeout: Duration,
) -> Result<PgConnectOptions, Error> {
    Ok(plain_options(url, application)?
        .options(SESSION)
        .options([("statement_timeout", statement_timeout.as_millis())]))
}

/// Options for a connection to `url`, with the database's own settings.
pub(crate) fn plain_options(url: &str, application: &str) -> Result<PgConnectOptions, Error> {
    let wrong = |why: &dyn std::fmt::Display| {
        Error::Invalid(format!(
            "the database URL ({why}); it is like postgres://user:password@host:5432/quota"
        ))
    };
    // The parser takes any scheme: `db:5432` would be whatever listens on this machine.
    if !["postgres://", "postgresql://"]
        .iter()
        .any(|scheme| url.starts_with(scheme))
    {
        return Err(wrong(&"it does not begin with postgres://"));
    }
    let options = PgConnectOptions::from_str(url).map_err(|error| wrong(&error))?;
    Ok(options
        .application_name(application)
        // Ours and no other: a schema named like the login would come before it.
        .options([("search_path", "public")])
        .disable_statement_logging())
}

/// Connects within [`CONNECT_TIMEOUT`].
pub(crate) async fn connect(options: &PgConnectOptions) -> Result<PgConnection, Error> {
    within(CONNECT_TIMEOUT, PgConnection::connect_with(options))
        .await
        .map_err(|error| match Error::read(error) {
            Error::Unavailable(why) => {
                let (host, port) = (options.get_host(), options.get_port());
                Error::Unavailable(format!("{why}; tried {host}, port {port}"))
            }
            other => other,
        })
}

/// Connects as the service: with its role, which can append and read and nothing else.
pub(crate) async fn connect_as_service(options: &PgConnectOptions) -> Result<PgConnection, Error> {
    let mut connection = connect(options).await?;
    within(CONNECT_TIMEOUT, become_service(&mut connection))
        .await
        .map_err(role_error)?;
    Ok(connection)
}

/// Gives up the login's rights for those of the service.
pub(crate) async fn become_service(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    sqlx::raw_sql("SET ROLE quota_service")
        .execute(connection)
        .await
        .map(drop)
}

fn role_error(error: sqlx::Error) -> Error {
    match error.as_database_error().and_then(|e| e.code()).as_deref() {
        // Invalid parameter value: there is no such role.
        Some("22023") => Error::not_migrated(&said(&error)),
        // Insufficient privilege.
        Some("42501") => Error::NotReady(format!(
            "this login may not become quota_service; as the database's owner: GRANT quota_service TO <login> ({})",
            said(&error)
        )),
        _ => Error::read(error),
    }
}

/// Reads what the ledger is, and refuses a database that we cannot keep our word on.
pub(crate) async fn inspect(
    connection: &mut PgConnection,
    fold_version: i32,
) -> Result<LedgerInfo, Error> {
    let row = within(
        CONNECT_TIMEOUT,
        sqlx::query(include_str!("../queries/settings.sql")).fetch_one(&mut *connection),
    )
    .await
    .map_err(Error::read)?;
    let setting = |name: &str| row.try_get::<String, _>(name).map_err(Error::read);
    for (name, consequence) in [
        ("fsync", "a crash of the machine would corrupt the ledger"),
        (
            "synchronous_commit",
            "a crash would lose what was acknowledged",
        ),
    ] {
        if setting(name)? == "off" {
            return Err(Error::NotReady(format!(
                "the database runs with {name} = off: {consequence}; switch it on"
            )));
        }
    }
    if row.try_get::<bool, _>("standby").map_err(Error::read)? {
        return Err(Error::Unavailable(
            "this server is a standby: it cannot be written, and shows commits in another order"
                .into(),
        ));
    }
    if !row.try_get::<bool, _>("migrated").map_err(Error::read)? {
        return Err(Error::not_migrated(&"it has no ledger"));
    }
    let applied = within(
        CONNECT_TIMEOUT,
        sqlx::query("SELECT coalesce(max(version), 0) FROM _sqlx_migrations WHERE success")
            .fetch_one(&mut *connection),
    )
    .await
    .and_then(|row| row.try_get::<i64, _>(0))
    .map_err(Error::read)?;
    let needed = crate::migrate::newest();
    if applied < needed {
        return Err(Error::not_migrated(&format_args!(
            "it is at migration {applied}, this binary needs {needed}"
        )));
    }
    let info = read_info(connection)
        .await?
        .ok_or_else(|| Error::not_migrated(&"its ledger has no id yet"))?;
    let views = format!("public.projector_checkpoints_v{fold_version}");
    let found = within(
        CONNECT_TIMEOUT,
        sqlx::query("SELECT to_regclass($1) IS NOT NULL")
            .bind(views)
            .fetch_one(connection),
    )
    .await
    .and_then(|row| row.try_get::<bool, _>(0))
    .map_err(Error::read)?;
    if !found {
        return Err(Error::not_migrated(&format_args!(
            "it has no view tables of fold version {fold_version}"
        )));
    }
    Ok(info)
}

/// What the ledger is; none before its first `migrate`.
pub(crate) async fn read_info(connection: &mut PgConnection) -> Result<Option<LedgerInfo>, Error> {
    let row = within(
        CONNECT_TIMEOUT,
        sqlx::query("SELECT uuid_send(ledger_id), partitions, epoch FROM ledger_meta")
            .fetch_optional(connection),
    )
    .await
    .map_err(Error::read)?;
    let Some(row) = row else { return Ok(None) };
    let whole = |index: usize| {
        let value = row.try_get::<i32, _>(index).map_err(Error::read)?;
        u32::try_from(value).map_err(|_| Error::Corrupt(format!("ledger_meta holds {value}")))
    };
    Ok(Some(LedgerInfo {
        id: row.try_get::<[u8; 16], _>(0).map_err(Error::read)?,
        partitions: whole(1)?,
        epoch: whole(2)?,
    }))
}

/// The outcome, or an I/O error when it took too long. The connection is of no more use then.
pub(crate) async fn within<T>(
    limit: Duration,
    work: impl Future<Output = Result<T, sqlx::Error>>,
) -> Result<T, sqlx::Error> {
    tokio::time::timeout(limit, work).await.unwrap_or_else(|_| {
        Err(sqlx::Error::Io(std::io::Error::new(
            std::io::ErrorKind::TimedOut,
            format!("no answer from the database within {} s", limit.as_secs()),
        )))
    })
}
