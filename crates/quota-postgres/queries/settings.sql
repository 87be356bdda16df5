-- What we refuse to work with, and whether there is a ledger at all.
SELECT current_setting('fsync') AS fsync,
       current_setting('synchronous_commit') AS synchronous_commit,
       pg_is_in_recovery() AS standby,
       to_regclass('public.ledger_meta') IS NOT NULL AND to_regclass('public._sqlx_migrations') IS NOT NULL AS migrated
