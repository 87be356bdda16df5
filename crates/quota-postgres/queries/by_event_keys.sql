-- Rows of these events, where they are recorded. The LIMIT keeps each a look-up of its own in the unique index.
SELECT l.partition, l."offset", l.subject_key, l.subject_seq, l.subject_prev, l.event_key, l.product, l.subject,
       l.source, l.id, l.type, l.type_version, l.occurred_at, l.recorded_at, l.catalog_version, l.payload, l.hash
FROM unnest($1::integer[], $2::bytea[], $3::bytea[]) AS k(partition, subject_key, event_key)
CROSS JOIN LATERAL (
    SELECT i.* FROM ledger i
    WHERE i.partition = k.partition AND i.subject_key = k.subject_key AND i.event_key = k.event_key
    LIMIT 1
) AS l
