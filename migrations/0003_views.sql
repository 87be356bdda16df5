-- What is made from the ledger, and what stands beside it. All of it but keys and held webhooks can be made anew.

-- Makes the tables of one version of the fold. A new version builds its own beside the live ones and takes over when it
-- has caught up; the old ones stay for the way back. Harmless where they are there already.
CREATE FUNCTION create_view_tables(fold_version integer) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    views       text := format('entitlement_views_v%s', fold_version);
    rows        text := format('entitlement_rows_v%s', fold_version);
    checkpoints text := format('projector_checkpoints_v%s', fold_version);
BEGIN
    IF fold_version < 1 THEN
        RAISE EXCEPTION 'fold versions begin with 1' USING ERRCODE = 'invalid_parameter_value';
    END IF;
    -- Two at once would race for the same names. (-1: no partition's lock.)
    PERFORM pg_advisory_xact_lock(1903521652, -1);

    -- One subject's folded state, as of a position. Small and often rewritten: pages keep room for that.
    -- subject_seq, offset: the last event of the subject that is in it. row_count: how many rows of its own it has.
    -- next_due: when the earliest expiry falls due, in microseconds. state: the fold's bytes, opaque here.
    EXECUTE format($ddl$
        CREATE TABLE IF NOT EXISTS %1$I (
            subject_seq bigint  NOT NULL,
            "offset"    bigint  NOT NULL,
            row_count   bigint  NOT NULL,
            next_due    bigint,
            partition   integer NOT NULL,
            subject_key bytea   NOT NULL,
            product     text    NOT NULL,
            subject     text    NOT NULL,
            state       bytea   NOT NULL,
            CONSTRAINT %2$I PRIMARY KEY (partition, subject_key)
        ) WITH (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.05)
    $ddl$, views, views || '_pkey');
    EXECUTE format('COMMENT ON TABLE %I IS %L', views,
        'Folded entitlement state of every subject, fold version ' || fold_version || '.');
    -- The sweeper's question: whose expiry is due?
    EXECUTE format('CREATE INDEX IF NOT EXISTS %I ON %I (next_due) WHERE next_due IS NOT NULL',
        views || '_due', views);

    -- What a subject has without bound (resources, sessions, payments), a row each; the fold names those it needs.
    EXECUTE format($ddl$
        CREATE TABLE IF NOT EXISTS %1$I (
            partition   integer  NOT NULL,
            kind        smallint NOT NULL,
            subject_key bytea    NOT NULL,
            id          text     NOT NULL,
            body        bytea    NOT NULL,
            CONSTRAINT %2$I PRIMARY KEY (partition, subject_key, kind, id)
        ) WITH (fillfactor = 90, autovacuum_vacuum_scale_factor = 0.05)
    $ddl$, rows, rows || '_pkey');
    EXECUTE format('COMMENT ON TABLE %I IS %L', rows,
        'Resources, sessions and payments of every subject, fold version ' || fold_version || '.');

    -- How far the projector of each partition got: the next offset that it will fold. Moves by compare-and-set only.
    EXECUTE format($ddl$
        CREATE TABLE IF NOT EXISTS %1$I (
            next_offset bigint  NOT NULL,
            partition   integer NOT NULL,
            CONSTRAINT %2$I PRIMARY KEY (partition),
            CONSTRAINT %3$I CHECK (next_offset >= 0)
        ) WITH (fillfactor = 10, autovacuum_vacuum_threshold = 1000)
    $ddl$, checkpoints, checkpoints || '_pkey', checkpoints || '_next_offset_check');
    EXECUTE format('COMMENT ON TABLE %I IS %L', checkpoints,
        'The next offset that each partition''s projector will fold, fold version ' || fold_version || '.');
    EXECUTE format('INSERT INTO %I (partition, next_offset)
                    SELECT p, 0 FROM ledger_meta m, generate_series(0, m.partitions - 1) AS p ON CONFLICT DO NOTHING',
        checkpoints);

    EXECUTE format('GRANT SELECT, INSERT, UPDATE, DELETE ON %I, %I, %I TO quota_service', views, rows, checkpoints);
END;
$$;
COMMENT ON FUNCTION create_view_tables(integer) IS 'Makes the view tables of one fold version; the owner''s to call.';

-- Keys of services. Only the digest of a key is here: what is stolen from this table opens nothing.
CREATE TABLE api_keys (
    id         text        NOT NULL,
    -- '*' stands for every product.
    product    text        NOT NULL,
    scopes     text[]      NOT NULL,
    -- SHA-256 of the key. Keys are long and random, so a plain digest is enough.
    hash       bytea       NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    revoked_at timestamptz,
    CONSTRAINT api_keys_pkey PRIMARY KEY (id),
    CONSTRAINT api_keys_hash_key UNIQUE (hash),
    CONSTRAINT api_keys_hash_check CHECK (octet_length(hash) = 32),
    CONSTRAINT api_keys_scopes_check CHECK (cardinality(scopes) > 0)
);
COMMENT ON TABLE api_keys IS 'Keys of services, by digest. A revoked key stays, so that its use can be explained.';

-- Webhooks that were genuine and could not be understood: kept for a person to resolve or dismiss.
CREATE TABLE held_webhooks (
    id          uuid        NOT NULL DEFAULT gen_random_uuid(),
    product     text        NOT NULL,
    received_at timestamptz NOT NULL DEFAULT now(),
    -- The provider's name of the event, for example payment.captured.
    event       text        NOT NULL,
    payment_id  text        NOT NULL,
    -- None where the webhook does not say whose it is.
    subject     text,
    -- Why it was held: a stable code.
    reason      text        NOT NULL,
    -- The body as received; emptied once resolved, since it may hold personal data.
    body        bytea,
    -- SHA-256 of the body: a provider tells the same thing again and again, and it is held once.
    body_hash   bytea       NOT NULL,
    resolved_at timestamptz,
    resolution  text,
    CONSTRAINT held_webhooks_pkey PRIMARY KEY (id),
    CONSTRAINT held_webhooks_body_key UNIQUE (product, body_hash),
    CONSTRAINT held_webhooks_body_hash_check CHECK (octet_length(body_hash) = 32),
    CONSTRAINT held_webhooks_resolution_check CHECK ((resolved_at IS NULL) = (resolution IS NULL))
);
COMMENT ON TABLE held_webhooks IS 'Genuine webhooks that could not be understood, until somebody resolves them.';
