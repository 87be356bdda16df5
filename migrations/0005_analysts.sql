-- SQL for analysts: the ledger as one wide view, and the reports made from it. The role quota_analyst sees these alone.

-- One row per event.
CREATE VIEW ledger_events AS
SELECT l.partition AS ledger_partition,
       l."offset" AS ledger_offset,
       l.product,
       l.subject,
       l.id AS event_id,
       l.source,
       l.type,
       -- Whole microseconds in two steps: a double cannot hold them all, seconds and a rest can.
       to_timestamp(l.occurred_at / 1000000) + (l.occurred_at % 1000000) * interval '1 microsecond' AS occurred_at,
       to_timestamp(l.recorded_at / 1000000) + (l.recorded_at % 1000000) * interval '1 microsecond' AS recorded_at,
       l.catalog_version,
       convert_from(l.payload, 'UTF8')::jsonb AS data,
       l.hash
FROM ledger l;
COMMENT ON VIEW ledger_events IS 'Every event of the ledger, one row each; data is the event''s own content.';

-- Purchases and renewals, each payment once, however many events told of it.
-- nth: which purchase of this plan it is for the subject, oldest first.
CREATE VIEW report_renewals AS
WITH told AS (
    SELECT DISTINCT ON (e.product, e.subject, e.data ->> 'payment_id')
           e.product, e.subject, e.type, e.occurred_at, e.ledger_offset,
           e.data ->> 'plan' AS plan
    FROM ledger_events e
    WHERE e.type IN ('subscription.purchased', 'subscription.renewed')
    ORDER BY e.product, e.subject, e.data ->> 'payment_id', e.ledger_offset
), numbered AS (
    SELECT t.product, t.plan, t.type,
           date_trunc('month', t.occurred_at AT TIME ZONE 'UTC')::date AS month,
           row_number() OVER (PARTITION BY t.product, t.subject, t.plan, t.type
                              ORDER BY t.occurred_at, t.ledger_offset) AS nth
    FROM told t
)
SELECT n.product,
       n.month,
       n.plan,
       count(*) FILTER (WHERE n.type = 'subscription.purchased') AS purchases,
       count(*) FILTER (WHERE n.type = 'subscription.renewed') AS renewals,
       count(*) FILTER (WHERE n.type = 'subscription.purchased' AND n.nth > 1) AS second_purchases
FROM numbered n
GROUP BY n.product, n.month, n.plan;
COMMENT ON VIEW report_renewals IS
    'By product, UTC month and plan: purchases, renewals, and purchases by subjects who had bought that plan before.';

-- Who came, and who paid for the first time.
CREATE VIEW report_conversion AS
WITH firsts AS (
    SELECT e.product, e.subject,
           min(e.occurred_at) AS first_seen,
           min(e.occurred_at) FILTER (
               WHERE e.type IN ('subscription.purchased', 'subscription.renewed')
                 AND (e.data ->> 'amount')::numeric > 0
           ) AS first_paid
    FROM ledger_events e
    WHERE e.subject <> ''
    GROUP BY e.product, e.subject
), counted AS (
    SELECT f.product, f.first_seen AS at, 1 AS seen, 0 AS paid FROM firsts f
    UNION ALL
    SELECT f.product, f.first_paid, 0, 1 FROM firsts f WHERE f.first_paid IS NOT NULL
)
SELECT c.product,
       date_trunc('month', c.at AT TIME ZONE 'UTC')::date AS month,
       sum(c.seen)::bigint AS subjects_first_seen,
       sum(c.paid)::bigint AS subjects_first_paid
FROM counted c
GROUP BY 1, 2;
COMMENT ON VIEW report_conversion IS
    'By product and UTC month: subjects seen for the first time, and subjects who paid for the first time.';

-- What was used, and what was refused. A created resource is a use of the feature that it names.
CREATE VIEW report_usage AS
SELECT e.product,
       date_trunc('month', e.occurred_at AT TIME ZONE 'UTC')::date AS month,
       e.data ->> 'feature' AS feature,
       count(*) FILTER (WHERE e.type <> 'usage.denied') AS events,
       coalesce(sum(coalesce((e.data ->> 'amount')::bigint, 1)) FILTER (WHERE e.type <> 'usage.denied'), 0)::bigint AS units,
       count(DISTINCT e.subject) FILTER (WHERE e.type <> 'usage.denied') AS subjects,
       count(*) FILTER (WHERE e.type = 'usage.denied') AS denials
FROM ledger_events e
WHERE e.type IN ('usage.recorded', 'usage.denied', 'resource.created') AND e.data ? 'feature'
GROUP BY 1, 2, 3;
COMMENT ON VIEW report_usage IS
    'By product, UTC month and feature: events, units and subjects of its use, and recorded denials.';

GRANT SELECT ON ledger_events, report_renewals, report_conversion, report_usage TO quota_analyst, quota_service;
