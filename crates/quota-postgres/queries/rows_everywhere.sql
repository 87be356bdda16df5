-- All rows of one subject that has a sequence in every partition: of a product's own, '', or of nobody's.
SELECT l.partition, l."offset", l.subject_key, l.subject_seq, l.subject_prev, l.event_key, l.product, l.subject,
       l.source, l.id, l.type, l.type_version, l.occurred_at, l.recorded_at, l.catalog_version, l.payload, l.hash
FROM unnest($1::integer[]) AS n(partition)
CROSS JOIN LATERAL (
    SELECT i.* FROM ledger i
    WHERE i.partition = n.partition AND i.subject_key = $2
    ORDER BY i.event_key
    OFFSET 0
) AS l
ORDER BY l.partition, l."offset"
