-- What projectors build on: subjects' views as of their partitions' checkpoints, and those of their rows that are named.
-- 0: a view.
SELECT 0 AS what, a.n::integer AS n, v.partition, v.subject_key, v.product, v.subject, v.subject_seq, v."offset",
       v.row_count, v.next_due, v.state AS body, NULL::smallint AS kind, NULL::text AS id
FROM unnest($1::integer[], $2::bytea[]) WITH ORDINALITY AS a(partition, subject_key, n)
CROSS JOIN LATERAL (
    SELECT i.* FROM entitlement_views_v{v} i
    WHERE i.partition = a.partition AND i.subject_key = a.subject_key LIMIT 1
) AS v
UNION ALL
-- 1: a row of a subject's own.
SELECT 1, w.n, w.partition, w.subject_key, NULL, NULL, NULL, NULL, NULL, NULL, e.body, w.kind, w.id
FROM unnest($3::integer[], $4::integer[], $5::bytea[], $6::smallint[], $7::text[])
     AS w(n, partition, subject_key, kind, id)
CROSS JOIN LATERAL (
    SELECT i.body FROM entitlement_rows_v{v} i
    WHERE i.partition = w.partition AND i.subject_key = w.subject_key AND i.kind = w.kind AND i.id = w.id LIMIT 1
) AS e
