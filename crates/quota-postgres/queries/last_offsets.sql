-- The last offset of each of these subjects of one partition, from the second index alone.
SELECT s.subject_key, max(l."offset")
FROM unnest($2::bytea[]) AS s(subject_key)
CROSS JOIN LATERAL (
    SELECT i."offset" FROM ledger i
    WHERE i.partition = $1 AND i.subject_key = s.subject_key
    ORDER BY i.event_key
    OFFSET 0
) AS l
GROUP BY s.subject_key
