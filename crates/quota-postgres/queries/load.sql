-- All that decisions and checks on some subjects are built on, in one statement and so in one snapshot: view,
-- checkpoint and tail must fit each other. Whatever kind of line it is, it comes in the columns of a ledger row; the
-- last two say what it is and which of the asked subjects it belongs to.
WITH asked AS MATERIALIZED (
    SELECT a.n::integer AS n, a.partition, a.subject_key, a.all_rows
    FROM unnest($1::integer[], $2::bytea[], $3::boolean[]) WITH ORDINALITY AS a(partition, subject_key, all_rows, n)
),
-- Every partition that is asked about: its head, and how far its projector got.
place AS MATERIALIZED (
    SELECT p.partition, coalesce(c.next_offset, 0) AS next_offset, h."offset", h.hash, h.recorded_at
    FROM (SELECT DISTINCT a.partition FROM asked a) AS p
    LEFT JOIN LATERAL (
        SELECT i.next_offset FROM projector_checkpoints_v{v} i WHERE i.partition = p.partition LIMIT 1
    ) AS c ON true
    LEFT JOIN LATERAL (
        SELECT l."offset", l.hash, l.recorded_at FROM ledger l WHERE l.partition = p.partition
        ORDER BY l."offset" DESC LIMIT 1
    ) AS h ON true
),
-- Every subject with its view, where it has one, and the offset where its tail begins.
-- The tail is read in one of two ways. By the second index, all offsets that the subject ever had are looked at: as many
-- as its view has seen, and the tail. By the primary key, all rows of the partition since the checkpoint are. The first
-- costs about a third per entry (measured), and for a subject without a view it looks at nothing but the tail.
known AS MATERIALIZED (
    SELECT a.n, a.partition, a.subject_key, a.all_rows,
           v.subject_seq, v."offset", v.row_count, v.next_due, v.product, v.subject, v.state,
           greatest(p.next_offset, v."offset" + 1) AS tail_from,
           coalesce(v.subject_seq, 0) > 3 * (coalesce(p."offset", -1) + 1 - p.next_offset) AS by_primary_key
    FROM asked a
    JOIN place p ON p.partition = a.partition
    LEFT JOIN LATERAL (
        SELECT i.* FROM entitlement_views_v{v} i
        WHERE i.partition = a.partition AND i.subject_key = a.subject_key LIMIT 1
    ) AS v ON true
)
-- 0: a partition. Its head in the head's own columns, its checkpoint in subject_seq.
SELECT p.partition, p."offset", NULL::bytea AS subject_key, p.next_offset AS subject_seq, NULL::bigint AS subject_prev,
       NULL::bytea AS event_key, NULL::text AS product, NULL::text AS subject, NULL::text AS source, NULL::text AS id,
       NULL::text AS type, NULL::integer AS type_version, NULL::bigint AS occurred_at, p.recorded_at,
       NULL::integer AS catalog_version, NULL::bytea AS payload, p.hash,
       0 AS what, 0 AS n
FROM place p
UNION ALL
-- 1: a view. Next due time in subject_prev, number of rows in occurred_at, state in payload.
SELECT s.partition, s."offset", s.subject_key, s.subject_seq, s.next_due, NULL, s.product, s.subject, NULL, NULL,
       NULL, NULL, s.row_count, NULL, NULL, s.state, NULL, 1, s.n
FROM known s
WHERE s."offset" IS NOT NULL
UNION ALL
-- 2: a row of the view's subject: its kind in type_version, its body in payload. Those that were named ...
SELECT s.partition, NULL, s.subject_key, NULL, NULL, NULL, NULL, NULL, NULL, e.id,
       NULL, e.kind, NULL, NULL, NULL, e.body, NULL, 2, s.n
FROM unnest($4::integer[], $5::smallint[], $6::text[]) AS w(n, kind, id)
JOIN asked s ON s.n = w.n
CROSS JOIN LATERAL (
    SELECT i.kind, i.id, i.body FROM entitlement_rows_v{v} i
    WHERE i.partition = s.partition AND i.subject_key = s.subject_key AND i.kind = w.kind AND i.id = w.id LIMIT 1
) AS e
WHERE NOT s.all_rows
UNION ALL
-- ... or all that there are.
SELECT s.partition, NULL, s.subject_key, NULL, NULL, NULL, NULL, NULL, NULL, e.id,
       NULL, e.kind, NULL, NULL, NULL, e.body, NULL, 2, s.n
FROM asked s
CROSS JOIN LATERAL (
    SELECT i.kind, i.id, i.body FROM entitlement_rows_v{v} i
    WHERE i.partition = s.partition AND i.subject_key = s.subject_key OFFSET 0
) AS e
WHERE s.all_rows
UNION ALL
-- 3: the tail, by the second index: offsets from the index alone, then the rows of those that are new ...
SELECT l.*, 3, s.n
FROM known s
CROSS JOIN LATERAL (
    SELECT i."offset" FROM ledger i WHERE i.partition = s.partition AND i.subject_key = s.subject_key OFFSET 0
) AS k
CROSS JOIN LATERAL (
    SELECT i.partition, i."offset", i.subject_key, i.subject_seq, i.subject_prev, i.event_key, i.product, i.subject,
           i.source, i.id, i.type, i.type_version, i.occurred_at, i.recorded_at, i.catalog_version, i.payload, i.hash
    FROM ledger i WHERE i.partition = s.partition AND i."offset" = k."offset" LIMIT 1
) AS l
WHERE NOT s.by_primary_key AND k."offset" >= s.tail_from
UNION ALL
-- ... or by the primary key. (OFFSET 0 keeps the subject key out of the choice of index.)
SELECT l.*, 3, s.n
FROM known s
CROSS JOIN LATERAL (
    SELECT i.partition, i."offset", i.subject_key, i.subject_seq, i.subject_prev, i.event_key, i.product, i.subject,
           i.source, i.id, i.type, i.type_version, i.occurred_at, i.recorded_at, i.catalog_version, i.payload, i.hash
    FROM ledger i WHERE i.partition = s.partition AND i."offset" >= s.tail_from OFFSET 0
) AS l
WHERE s.by_primary_key AND l.subject_key = s.subject_key
UNION ALL
-- 4: an event that was looked up by its key.
SELECT l.*, 4, 0
FROM unnest($7::integer[], $8::bytea[], $9::bytea[]) AS q(partition, subject_key, event_key)
CROSS JOIN LATERAL (
    SELECT i.partition, i."offset", i.subject_key, i.subject_seq, i.subject_prev, i.event_key, i.product, i.subject,
           i.source, i.id, i.type, i.type_version, i.occurred_at, i.recorded_at, i.catalog_version, i.payload, i.hash
    FROM ledger i
    WHERE i.partition = q.partition AND i.subject_key = q.subject_key AND i.event_key = q.event_key LIMIT 1
) AS l
