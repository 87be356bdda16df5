-- The newest catalog of every product (or of one) in every one of these partitions.
SELECT l.partition, l."offset", l.subject_key, l.subject_seq, l.subject_prev, l.event_key, l.product, l.subject,
       l.source, l.id, l.type, l.type_version, l.occurred_at, l.recorded_at, l.catalog_version, l.payload, l.hash
FROM ledger_products p
CROSS JOIN unnest($1::integer[]) AS n(partition)
CROSS JOIN LATERAL (
    SELECT c.* FROM (
        SELECT i.* FROM ledger i
        WHERE i.partition = n.partition AND i.subject_key = p.subject_key AND i.type = 'catalog.published'
        ORDER BY i.event_key
        OFFSET 0
    ) AS c
    ORDER BY c."offset" DESC
    LIMIT 1
) AS l
WHERE $2::text IS NULL OR p.product = $2
ORDER BY l.partition, p.product
