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

-- Webhooks may be about a subscription, or about nothing that can be read.
ALTER TABLE held_webhooks ALTER COLUMN payment_id DROP NOT NULL;
-- The provider's subscription, where the webhook names one.
ALTER TABLE held_webhooks ADD COLUMN subscription text;
-- What waits, by what it waits for.
CREATE INDEX held_webhooks_open ON held_webhooks (product, payment_id) WHERE resolved_at IS NULL;
