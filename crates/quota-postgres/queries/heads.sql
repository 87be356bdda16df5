-- The last row of each of these partitions, one step back from the end of the primary key; nulls where there is none.
SELECT p.partition, h."offset", h.hash, h.recorded_at
FROM unnest($1::integer[]) AS p(partition)
LEFT JOIN LATERAL (
    SELECT l."offset", l.hash, l.recorded_at
    FROM ledger l
    WHERE l.partition = p.partition
    ORDER BY l."offset" DESC
    LIMIT 1
) AS h ON true
ORDER BY p.partition
