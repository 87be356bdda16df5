-- Rows of several partitions, each from an offset on, each at most so many.
SELECT l.partition, l."offset", l.subject_key, l.subject_seq, l.subject_prev, l.event_key, l.product, l.subject,
       l.source, l.id, l.type, l.type_version, l.occurred_at, l.recorded_at, l.catalog_version, l.payload, l.hash
FROM unnest($1::integer[], $2::bigint[], $3::bigint[]) AS r(partition, first, most)
CROSS JOIN LATERAL (
    SELECT i.* FROM ledger i
    WHERE i.partition = r.partition AND i."offset" >= r.first
    ORDER BY i."offset"
    LIMIT r.most
) AS l
