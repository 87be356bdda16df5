-- One subject's rows after an offset, oldest first. Its offsets come from the second index alone (they stand there by
-- event key, so all of them are looked at); only the rows of the page are read.
SELECT l.partition, l."offset", l.subject_key, l.subject_seq, l.subject_prev, l.event_key, l.product, l.subject,
       l.source, l.id, l.type, l.type_version, l.occurred_at, l.recorded_at, l.catalog_version, l.payload, l.hash
FROM (
    SELECT k."offset"
    FROM (
        SELECT i."offset" FROM ledger i WHERE i.partition = $1 AND i.subject_key = $2
        ORDER BY i.event_key OFFSET 0
    ) AS k
    WHERE k."offset" > $3
    ORDER BY k."offset"
    LIMIT $4
) AS page
CROSS JOIN LATERAL (
    SELECT i.* FROM ledger i WHERE i.partition = $1 AND i."offset" >= page."offset"
    ORDER BY i."offset" LIMIT 1
) AS l
ORDER BY l."offset"
