-- Who may do what. Roles belong to the whole cluster, so another database may have made them, or be making them now.

CREATE FUNCTION pg_temp.ensure_role(name text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    FOR attempt IN 1 .. 20 LOOP
        BEGIN
            IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = name) THEN
                EXECUTE format('CREATE ROLE %I NOLOGIN', name);
            END IF;
            -- The login that migrates is often the one that serves: it must be able to become the role.
            IF NOT pg_has_role(current_user, name, 'USAGE') THEN
                EXECUTE format('GRANT %I TO CURRENT_USER', name);
            END IF;
            RETURN;
        EXCEPTION
            -- A migration of another database was at it in the same moment ("tuple concurrently updated" is an
            -- internal error to Postgres). Look again.
            WHEN duplicate_object OR unique_violation OR internal_error THEN
                PERFORM pg_sleep(0.05);
        END;
    END LOOP;
    RAISE EXCEPTION 'role % could neither be made nor found', name;
END;
$$;
SELECT pg_temp.ensure_role('quota_service');
SELECT pg_temp.ensure_role('quota_analyst');

-- Functions are everybody's by default; these are not.
REVOKE EXECUTE ON FUNCTION ledger_lock, ledger_append, create_view_tables, ledger_refuse_change FROM PUBLIC;

-- The service reads and appends the ledger, and owns nothing: it has no DDL and can change no row there.
GRANT SELECT ON ledger_meta TO quota_service;
GRANT SELECT, INSERT ON ledger, ledger_products TO quota_service;
GRANT EXECUTE ON FUNCTION ledger_lock, ledger_append TO quota_service;
GRANT SELECT, INSERT, UPDATE ON api_keys, held_webhooks TO quota_service;
GRANT USAGE ON SCHEMA public TO quota_service, quota_analyst;
