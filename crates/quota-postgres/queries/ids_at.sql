-- The ids of events at these offsets of one partition, in the order asked.
SELECT l.id
FROM unnest($2::bigint[]) WITH ORDINALITY AS p("offset", n)
CROSS JOIN LATERAL (
    SELECT i.id, i."offset" FROM ledger i WHERE i.partition = $1 AND i."offset" >= p."offset"
    ORDER BY i."offset" LIMIT 1
) AS l
WHERE l."offset" = p."offset"
ORDER BY p.n
