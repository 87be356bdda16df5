-- Rows at exact places.
SELECT l.partition, l."offset", l.subject_key, l.subject_seq, l.subject_prev, l.event_key, l.product, l.subject,
       l.source, l.id, l.type, l.type_version, l.occurred_at, l.recorded_at, l.catalog_version, l.payload, l.hash
FROM unnest($1::integer[], $2::bigint[]) AS p(partition, "offset")
CROSS JOIN LATERAL (
    SELECT i.* FROM ledger i
    WHERE i.partition = p.partition AND i."offset" >= p."offset"
    ORDER BY i."offset"
    LIMIT 1
) AS l
WHERE l."offset" = p."offset"
