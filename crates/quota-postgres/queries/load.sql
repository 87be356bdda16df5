-- All that decisions and checks on some subjects are built on, in one statement and so in one snapshot: view,
-- checkpoint and tail must fit each other. Whatever kind of line it is, it comes in the columns of a ledger row; the
-- last two say what it is and, of a view and its rows, which of the asked subjects it belongs to.
WITH asked AS MATERIALIZED (
    SELECT a.n::integer AS n, a.partition, a.subject_key, a.all_rows
    FROM unnest($1::integer[], $2::bytea[], $3::boolean[]) WITH ORDINALITY AS a(partition, subject_key, all_rows, n)
),
-- Every subject with its view, where it has one.
known AS MATERIALIZED (
    SELECT a.n, a.partition, a.subject_key,
           v.subject_seq, v."offset", v.row_count, v.next_due, v.product, v.subject, v.state
    FROM asked a
    LEFT JOIN LATERAL (
        SELECT i.* FROM entitlement_views_v{v} i
        WHERE i.partition = a.partition AND i.subject_key = a.subject_key LIMIT 1
    ) AS v ON true
),
-- Every partition that is asked about: how far its projector got, its head, and the shorter road to the tails.
-- By the primary key, all rows since the checkpoint are read once, whatever they are of. By the second index, all offsets
-- that each subject ever had are looked at: as many as its view has seen, and the tail. Measured in rows of the first
-- road: 2 for each such offset (less where vacuum has been, more where it has not), and 40 to get to a subject's first.
-- So a projector that is far behind, or stands still, costs nothing but the tail itself.
place AS MATERIALIZED (
    SELECT p.partition, p.subject_keys, coalesce(c.next_offset, 0) AS next_offset, h."offset", h.hash, h.recorded_at,
           coalesce(h."offset", -1) + 1 - coalesce(c.next_offset, 0) <= p.by_index AS by_primary_key
    FROM (
        SELECT k.partition, array_agg(k.subject_key) AS subject_keys,
               sum(40 + 2 * coalesce(k.subject_seq, 0)) AS by_index
        FROM known k
        GROUP BY k.partition
    ) AS p
    LEFT JOIN LATERAL (
        SELECT i.next_offset FROM projector_checkpoints_v{v} i WHERE i.partition = p.partition LIMIT 1
    ) AS c ON true
    LEFT JOIN LATERAL (
        SELECT l."offset", l.hash, l.recorded_at FROM ledger l WHERE l.partition = p.partition
        ORDER BY l."offset" DESC LIMIT 1
    ) AS h ON true
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
-- 3: tails, by the primary key. (OFFSET 0 keeps the subject key out of the choice of index; for the ORDER BY and the
-- range in place of an equality below, see queries/README.md.)
SELECT l.*, 3, 0
FROM place p
CROSS JOIN LATERAL (
    SELECT i.partition, i."offset", i.subject_key, i.subject_seq, i.subject_prev, i.event_key, i.product, i.subject,
           i.source, i.id, i.type, i.type_version, i.occurred_at, i.recorded_at, i.catalog_version, i.payload, i.hash
    FROM ledger i WHERE i.partition = p.partition AND i."offset" >= p.next_offset
    ORDER BY i."offset" OFFSET 0
) AS l
WHERE p.by_primary_key AND l.subject_key = ANY (p.subject_keys)
UNION ALL
-- Tails by the second index: offsets from the index alone, then the rows of those that are new.
SELECT l.*, 3, 0
FROM place p
CROSS JOIN LATERAL unnest(p.subject_keys) AS s(subject_key)
CROSS JOIN LATERAL (
    SELECT i."offset" FROM ledger i WHERE i.partition = p.partition AND i.subject_key = s.subject_key
    ORDER BY i.event_key OFFSET 0
) AS k
CROSS JOIN LATERAL (
    SELECT i.partition, i."offset", i.subject_key, i.subject_seq, i.subject_prev, i.event_key, i.product, i.subject,
           i.source, i.id, i.type, i.type_version, i.occurred_at, i.recorded_at, i.catalog_version, i.payload, i.hash
    FROM ledger i WHERE i.partition = p.partition AND i."offset" >= k."offset"
    ORDER BY i."offset" LIMIT 1
) AS l
WHERE NOT p.by_primary_key AND k."offset" >= p.next_offset
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
