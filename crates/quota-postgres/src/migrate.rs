//! Brings a database to this version.

use crate::connect::{self, LedgerInfo, connect, read_info};
use crate::error::Error;
use sqlx::migrate::MigrateError;
use sqlx::postgres::{PgConnectOptions, PgConnection, PgPoolOptions};
use sqlx::{Connection as _, Row as _};

static MIGRATOR: sqlx::migrate::Migrator = sqlx::migrate!("../../migrations");

/// Partitions of a new ledger where no number is asked for.
pub const PARTITIONS: u32 = 64;

/// The newest migration that this binary knows, and so needs.
pub(crate) fn newest() -> i64 {
    MIGRATOR
        .iter()
        .map(|migration| migration.version)
        .max()
        .unwrap_or(0)
}

/// Makes or upgrades the ledger in this database, and the view tables of `fold_version`. Harmless when repeated.
///
/// Logs in as the database's owner, who needs CREATEROLE. `partitions` is fixed by the first call for ever: none takes
/// what the ledger has, and [`PARTITIONS`] for a new one.
///
/// # Errors
/// [`Error::Invalid`] when the ledger has another number of partitions than is asked for; [`Error::NotReady`] when this PostgreSQL is too
/// old, its database is not in UTF-8, or is newer than this binary.
pub async fn migrate(
    database_url: &str,
    partitions: impl Into<Option<u32>>,
    fold_version: i32,
) -> Result<LedgerInfo, Error> {
    let asked = partitions.into();
    let partitions = asked.unwrap_or(PARTITIONS);
    let count = i32::try_from(partitions)
        .ok()
        .filter(|n| (1..=4096).contains(n));
    let count = count.ok_or_else(|| {
        Error::Invalid(format!("{partitions} partitions; 1 to 4096 are possible"))
    })?;
    let options = connect::plain_options(database_url, "quota-ledger migrate")?;
    let mut connection = connect(&options).await?;
    suitable(&mut connection).await?;
    if has_ledger(&mut connection).await? {
        fixed(read_info(&mut connection).await?, asked)?;
    }
    apply(options).await?;
    sqlx::query("INSERT INTO ledger_meta (partitions) VALUES ($1) ON CONFLICT ON CONSTRAINT ledger_meta_pkey DO NOTHING")
        .bind(count)
        .execute(&mut connection)
        .await
        .map_err(Error::read)?;
    let info = read_info(&mut connection)
        .await?
        .ok_or_else(|| Error::Corrupt("ledger_meta is empty".into()))?;
    fixed(Some(info), asked)?;
    view_tables(&mut connection, fold_version).await?;
    // A farewell that fails harms nobody.
    connection.close().await.ok();
    Ok(info)
}

/// Makes the view tables, and lets the service read which migrations there are: under the lock that the function takes,
/// since PostgreSQL refuses one of two grants on a table that meet.
async fn view_tables(connection: &mut PgConnection, fold_version: i32) -> Result<(), Error> {
    let mut transaction = connection.begin().await.map_err(Error::read)?;
    sqlx::query("SELECT create_view_tables($1)")
        .bind(fold_version)
        .execute(&mut *transaction)
        .await
        .map_err(Error::read)?;
    sqlx::raw_sql("GRANT SELECT ON _sqlx_migrations TO quota_service")
        .execute(&mut *transaction)
        .await
        .map_err(Error::read)?;
    transaction.commit().await.map_err(Error::read)
}

/// Through a pool of one: sqlx's migrator makes a `Send` future of nothing less.
async fn apply(options: PgConnectOptions) -> Result<(), Error> {
    let pool = PgPoolOptions::new()
        .max_connections(1)
        .connect_with(options);
    let pool = pool.await.map_err(Error::read)?;
    let outcome = MIGRATOR.run(&pool).await.map_err(migration_error);
    pool.close().await;
    outcome
}

fn fixed(info: Option<LedgerInfo>, asked: Option<u32>) -> Result<(), Error> {
    match (info, asked) {
        (Some(info), Some(asked)) if info.partitions != asked => Err(Error::Invalid(format!(
            "this ledger has {} partitions for ever; {asked} were asked for",
            info.partitions
        ))),
        _ => Ok(()),
    }
}

async fn suitable(connection: &mut PgConnection) -> Result<(), Error> {
    let row = sqlx::query(
        "SELECT current_setting('server_version_num')::integer, getdatabaseencoding()::text",
    )
    .fetch_one(connection)
    .await
    .map_err(Error::read)?;
    let version: i32 = row.try_get(0).map_err(Error::read)?;
    let encoding: String = row.try_get(1).map_err(Error::read)?;
    if version < 150_000 {
        return Err(Error::NotReady(format!(
            "PostgreSQL 15 or newer is needed; this is {}",
            version / 10_000
        )));
    }
    if encoding != "UTF8" {
        return Err(Error::NotReady(format!(
            "the database must be in UTF8; it is in {encoding}"
        )));
    }
    Ok(())
}

async fn has_ledger(connection: &mut PgConnection) -> Result<bool, Error> {
    sqlx::query("SELECT to_regclass('public.ledger_meta') IS NOT NULL")
        .fetch_one(connection)
        .await
        .and_then(|row| row.try_get(0))
        .map_err(Error::read)
}

fn migration_error(error: MigrateError) -> Error {
    use MigrateError::{Execute, ExecuteMigration, VersionMismatch, VersionMissing};
    match error {
        Execute(source) => Error::read(source),
        ExecuteMigration(source, version) => match Error::read(source) {
            Error::Unavailable(reason) => {
                Error::Unavailable(format!("migration {version}: {reason}"))
            }
            other => Error::NotReady(format!("migration {version}: {other}")),
        },
        VersionMissing(version) => Error::NotReady(format!(
            "the database is at migration {version}, which this binary does not know; use the newer one"
        )),
        VersionMismatch(version) => Error::NotReady(format!(
            "migration {version} was applied in another form than this binary has it"
        )),
        other => Error::NotReady(other.to_string()),
    }
}
