-- The ledger: every event of every product, append-only, and the truth that all else is made from.

-- What this ledger is. One row, made by `quota-ledger migrate`; a copy of the database is the same ledger.
CREATE TABLE ledger_meta (
    -- There is one row, and this is how the table says so.
    only_row   boolean     NOT NULL DEFAULT true,
    -- The ledger's name: bound into the hash chain of every partition, and told in every Kafka header and checkpoint.
    ledger_id  uuid        NOT NULL DEFAULT gen_random_uuid(),
    -- How many partitions there are. A subject's partition is its key modulo this, so it never changes.
    partitions integer     NOT NULL,
    -- 0 until a restore has lost a tail; each such loss begins the next one.
    epoch      integer     NOT NULL DEFAULT 0,
    created_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT ledger_meta_pkey PRIMARY KEY (only_row),
    CONSTRAINT ledger_meta_only_row_check CHECK (only_row),
    CONSTRAINT ledger_meta_partitions_check CHECK (partitions BETWEEN 1 AND 4096),
    CONSTRAINT ledger_meta_epoch_check CHECK (epoch >= 0)
);
COMMENT ON TABLE ledger_meta IS 'One row: which ledger this is, its number of partitions (fixed for ever) and its epoch.';

-- One event. The eight-byte columns come first, so that no row carries padding.
CREATE TABLE ledger (
    -- Dense from 0 within the partition.
    "offset"        bigint  NOT NULL,
    -- Dense from 1 within the subject.
    subject_seq     bigint  NOT NULL,
    -- The offset of the subject's previous event: each subject is a chain of its own. None for its first.
    subject_prev    bigint,
    -- When it happened, by its producer. Microseconds since 1970 in UTC, as a number, so that nothing ever rounds it.
    occurred_at     bigint  NOT NULL,
    -- When it was recorded, by this database's clock. Never goes back within a partition.
    recorded_at     bigint  NOT NULL,
    -- A digest of (product, subject) picks it.
    partition       integer NOT NULL,
    -- The catalog version that it was judged under; 0 where there was none.
    catalog_version integer NOT NULL,
    -- The version of the type's schema.
    type_version    integer NOT NULL,
    -- The first 16 bytes of SHA-256 over product and subject.
    subject_key     bytea   NOT NULL,
    -- A digest of product, subject, source and id: what makes an event one event, for ever.
    event_key       bytea   NOT NULL,
    -- SHA-256 over the previous row's hash and the digest of all the columns above and below.
    hash            bytea   NOT NULL,
    product         text    NOT NULL,
    subject         text    NOT NULL,
    source          text    NOT NULL,
    id              text    NOT NULL,
    -- The bare type, for example usage.recorded.
    type            text    NOT NULL,
    -- The exact bytes of the event's data. Bytes and not jsonb: they are hashed, and jsonb does not keep them.
    payload         bytea   NOT NULL,

    CONSTRAINT ledger_pkey PRIMARY KEY (partition, "offset"),
    CONSTRAINT ledger_offset_check CHECK ("offset" >= 0),
    CONSTRAINT ledger_subject_seq_check CHECK (subject_seq >= 1),
    -- A subject's first event, and only that, follows none; no event follows itself or a later one.
    CONSTRAINT ledger_subject_prev_check
        CHECK (CASE WHEN subject_seq = 1 THEN subject_prev IS NULL
                    ELSE subject_prev IS NOT NULL AND subject_prev >= 0 AND subject_prev < "offset" END),
    CONSTRAINT ledger_partition_check CHECK (partition >= 0),
    CONSTRAINT ledger_catalog_version_check CHECK (catalog_version >= 0),
    CONSTRAINT ledger_type_version_check CHECK (type_version BETWEEN 0 AND 65535),
    CONSTRAINT ledger_subject_key_check CHECK (octet_length(subject_key) = 16),
    CONSTRAINT ledger_event_key_check CHECK (octet_length(event_key) = 16),
    CONSTRAINT ledger_hash_check CHECK (octet_length(hash) = 32)
) WITH (
    -- Rows never change, so pages are filled to the brim.
    fillfactor = 100,
    -- Nothing dies here, so nothing but inserts calls for a vacuum. It sets the visibility map (a subject's offsets are
    -- then read from the index alone) and freezes while the pages are still in memory, instead of all at once one day.
    autovacuum_vacuum_insert_threshold = 100000,
    autovacuum_vacuum_insert_scale_factor = 0.02,
    autovacuum_freeze_min_age = 0,
    -- Statistics by number of rows, not by share: a share of a large table comes too seldom for its newest partition.
    autovacuum_analyze_threshold = 10000,
    autovacuum_analyze_scale_factor = 0.05
);

-- Most payloads are small; a larger one stays in its row as long as the row fits a page: one read, not two.
ALTER TABLE ledger ALTER COLUMN payload SET STORAGE MAIN;

-- Finds duplicates and one subject's events alike; with the offset in it, a subject's offsets need no table page.
-- It and the primary key are all the indexes there are: each costs every append.
CREATE UNIQUE INDEX ledger_event_key ON ledger (partition, subject_key, event_key) INCLUDE ("offset");

COMMENT ON TABLE ledger IS
    'Every event, append-only. Rows go in through ledger_append() alone; nothing changes or leaves.';
COMMENT ON INDEX ledger_event_key IS
    'One event per product, subject, source and id, for ever; also leads to the events of one subject.';

-- The products that have a catalog, noted by ledger_append(): a catalog row is found by its subject key, and so by product.
-- It says nothing that the ledger does not say, but saves reading all of a partition to learn the products' names.
CREATE TABLE ledger_products (
    product     text  NOT NULL,
    -- The key of the product's own subject, '', whose events are its catalogs.
    subject_key bytea NOT NULL,
    CONSTRAINT ledger_products_pkey PRIMARY KEY (product),
    CONSTRAINT ledger_products_subject_key_check CHECK (octet_length(subject_key) = 16)
);
COMMENT ON TABLE ledger_products IS 'Products with a published catalog, and the subject key that finds their catalogs.';

-- Immutability by the database, not by convention: the owner's own hand slips too.
CREATE FUNCTION ledger_refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'the ledger is append-only: % is refused', TG_OP
        USING ERRCODE = 'restrict_violation',
              HINT = 'A correction is a new event.';
END;
$$;
COMMENT ON FUNCTION ledger_refuse_change() IS 'Refuses every UPDATE, DELETE and TRUNCATE of the ledger, whoever asks.';

CREATE TRIGGER ledger_no_change BEFORE UPDATE OR DELETE ON ledger
    FOR EACH ROW EXECUTE FUNCTION ledger_refuse_change();
CREATE TRIGGER ledger_no_truncate BEFORE TRUNCATE ON ledger
    FOR EACH STATEMENT EXECUTE FUNCTION ledger_refuse_change();
-- ALWAYS: session_replication_role = replica switches off the other kind.
ALTER TABLE ledger ENABLE ALWAYS TRIGGER ledger_no_change;
ALTER TABLE ledger ENABLE ALWAYS TRIGGER ledger_no_truncate;
