-- Payments: whose each payment and each subscription is, and the webhooks that wait for one of them.

-- Which subject a payment or subscription was counted for, noted by ledger_append(). It says nothing that the ledger does
-- not say; but a provider tells of a refund by its payment alone, and the ledger is looked into by subject.
CREATE TABLE ledger_payments (
    product     text   NOT NULL,
    -- payment or subscription.
    kind        text   NOT NULL,
    -- The provider's id.
    id          text   NOT NULL,
    subject     text   NOT NULL,
    plan        text   NOT NULL,
    -- When it was counted first, in microseconds.
    recorded_at bigint NOT NULL,
    CONSTRAINT ledger_payments_pkey PRIMARY KEY (product, kind, id),
    CONSTRAINT ledger_payments_kind_check CHECK (kind IN ('payment', 'subscription'))
);
COMMENT ON TABLE ledger_payments IS 'The subject that each payment and subscription was first counted for.';

-- What a purchase names: its payment and, where there is one, its subscription. Nothing of any other event.
CREATE FUNCTION ledger_payments_of(type text, payload bytea) RETURNS TABLE (kind text, id text, plan text)
LANGUAGE sql STABLE AS $$
    SELECT n.kind, n.id, d.data ->> 'plan'
    FROM (SELECT convert_from($2, 'UTF8')::jsonb AS data
          WHERE $1 IN ('subscription.purchased', 'subscription.renewed')) AS d
    CROSS JOIN LATERAL (VALUES ('payment', d.data ->> 'payment_id'),
                               ('subscription', d.data ->> 'subscription')) AS n(kind, id)
    WHERE n.id IS NOT NULL AND d.data ->> 'plan' IS NOT NULL
$$;
COMMENT ON FUNCTION ledger_payments_of IS 'The payment and subscription that an event names, if it is a purchase.';
REVOKE EXECUTE ON FUNCTION ledger_payments_of FROM PUBLIC;
GRANT EXECUTE ON FUNCTION ledger_payments_of TO quota_service;
GRANT SELECT, INSERT ON ledger_payments TO quota_service;

-- Those of a ledger that is there already.
INSERT INTO ledger_payments (product, kind, id, subject, plan, recorded_at)
SELECT DISTINCT ON (l.product, p.kind, p.id) l.product, p.kind, p.id, l.subject, p.plan, l.recorded_at
FROM ledger l
CROSS JOIN LATERAL ledger_payments_of(l.type, l.payload) AS p
WHERE l.type IN ('subscription.purchased', 'subscription.renewed')
ORDER BY l.product, p.kind, p.id, l.recorded_at, l.partition, l."offset";

-- The same as in 0002_append.sql, where it is explained, but that it notes payments too.
CREATE OR REPLACE FUNCTION ledger_append(
    fence_partition  integer[],
    first_offset     bigint[],
    previous_hash    bytea[],
    all_or_nothing   boolean,
    row_partition    integer[],
    row_offset       bigint[],
    subject_key      bytea[],
    subject_seq      bigint[],
    subject_prev     bigint[],
    event_key        bytea[],
    product          text[],
    subject          text[],
    source           text[],
    id               text[],
    type             text[],
    type_version     integer[],
    occurred_at      bigint[],
    recorded_at      bigint[],
    catalog_version  integer[],
    payload          bytea[],
    hash             bytea[],
    OUT partitions   integer[],
    OUT clock        bigint
) LANGUAGE plpgsql VOLATILE AS $$
#variable_conflict use_column
DECLARE
    all_fit boolean;
BEGIN
    PERFORM pg_advisory_xact_lock(1903521652, f.partition) FROM unnest(fence_partition) AS f(partition);

    -- The last row, whichever it is, and not "the row at first - 1": so that stale is seen as such, and so that the
    -- planner walks the primary key backwards by one step, also on a table that it knows nothing about yet.
    SELECT coalesce(array_agg(f.partition), '{}') INTO partitions
    FROM unnest(fence_partition, first_offset, previous_hash) AS f(partition, first, previous)
    WHERE coalesce((SELECT l."offset" = f.first - 1 AND l.hash = f.previous
                    FROM ledger l
                    WHERE l.partition = f.partition AND l."offset" >= f.first - 1
                    ORDER BY l."offset" DESC LIMIT 1),
                   f.first = 0);

    all_fit := cardinality(partitions) = cardinality(fence_partition);
    IF all_or_nothing AND NOT all_fit THEN
        partitions := '{}';
    END IF;

    IF cardinality(partitions) > 0 THEN
        INSERT INTO ledger (partition, "offset", subject_key, subject_seq, subject_prev, event_key, product, subject,
                            source, id, type, type_version, occurred_at, recorded_at, catalog_version, payload, hash)
        SELECT r.*
        FROM unnest(row_partition, row_offset, subject_key, subject_seq, subject_prev, event_key, product, subject,
                    source, id, type, type_version, occurred_at, recorded_at, catalog_version, payload, hash)
             AS r(partition, "offset", subject_key, subject_seq, subject_prev, event_key, product, subject,
                  source, id, type, type_version, occurred_at, recorded_at, catalog_version, payload, hash)
        WHERE all_fit OR r.partition = ANY (partitions);

        -- A first catalog makes its product known. (Rare; ON CONFLICT is no danger here, these rows have no offsets.)
        IF 'catalog.published' = ANY (type) THEN
            INSERT INTO ledger_products (product, subject_key)
            SELECT DISTINCT r.product, r.subject_key
            FROM unnest(row_partition, product, subject_key, type) AS r(partition, product, subject_key, type)
            WHERE r.type = 'catalog.published' AND r.partition = ANY (partitions)
            ON CONFLICT ON CONSTRAINT ledger_products_pkey DO NOTHING;
        END IF;

        -- In the order of their names, so that of two writers at most one waits for the other. (No danger here either.)
        IF type && ARRAY['subscription.purchased', 'subscription.renewed'] THEN
            INSERT INTO ledger_payments (product, kind, id, subject, plan, recorded_at)
            SELECT DISTINCT ON (r.product, p.kind, p.id) r.product, p.kind, p.id, r.subject, p.plan, r.recorded_at
            FROM unnest(row_partition, row_offset, product, subject, type, recorded_at, payload)
                 AS r(partition, "offset", product, subject, type, recorded_at, payload)
            CROSS JOIN LATERAL ledger_payments_of(r.type, r.payload) AS p
            WHERE r.type IN ('subscription.purchased', 'subscription.renewed') AND r.partition = ANY (partitions)
            ORDER BY r.product, p.kind, p.id, r.recorded_at, r.partition, r."offset"
            ON CONFLICT ON CONSTRAINT ledger_payments_pkey DO NOTHING;
        END IF;
    END IF;

    clock := (extract(epoch FROM clock_timestamp()) * 1000000)::bigint;
END;
$$;

-- Webhooks may be about a subscription, or about nothing that can be read.
ALTER TABLE held_webhooks ALTER COLUMN payment_id DROP NOT NULL;
-- The provider's subscription, where the webhook names one.
ALTER TABLE held_webhooks ADD COLUMN subscription text;
-- What waits, by what it waits for.
CREATE INDEX held_webhooks_open ON held_webhooks (product, payment_id) WHERE resolved_at IS NULL;
