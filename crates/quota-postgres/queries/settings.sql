-- What we refuse to work with, and whether there is a ledger at all.
SELECT current_setting('fsync') AS fsync,
       current_setting('synchronous_commit') AS synchronous_commit,
       to_regclass('public.ledger_meta') IS NOT NULL AND to_regclass('public._sqlx_migrations') IS NOT NULL AS migrated
