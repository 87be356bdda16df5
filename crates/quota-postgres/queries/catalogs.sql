-- The catalogs of one product, or of all, as a partition has them, oldest first.
SELECT l.partition, l."offset", l.subject_key, l.subject_seq, l.subject_prev, l.event_key, l.product, l.subject,
       l.source, l.id, l.type, l.type_version, l.occurred_at, l.recorded_at, l.catalog_version, l.payload, l.hash
FROM ledger_products p
CROSS JOIN LATERAL (
    SELECT i.* FROM ledger i
    WHERE i.partition = $1 AND i.subject_key = p.subject_key AND i.type = 'catalog.published'
    ORDER BY i.event_key
    OFFSET 0
) AS l
WHERE $2::text IS NULL OR p.product = $2
ORDER BY l."offset"
