-- A projector's step: checkpoints move by compare-and-set, and views are written only in partitions whose checkpoint
-- moved. One statement, so one transaction: a projector that lost its partition (a zombie) changes nothing.
WITH held AS MATERIALIZED (
    -- Locked in order, so that two projectors never wait for each other. A second one waits here, sees the moved
    -- checkpoint, and finds no match.
    SELECT c.partition, s.upto
    FROM projector_checkpoints_v{v} c
    JOIN unnest($1::integer[], $2::bigint[], $3::bigint[]) AS s(partition, was, upto)
      ON c.partition = s.partition AND c.next_offset = s.was
    ORDER BY c.partition
    FOR UPDATE OF c
), moved AS (
    UPDATE projector_checkpoints_v{v} c SET next_offset = h.upto
    FROM held h WHERE c.partition = h.partition
    RETURNING c.partition
), views AS (
    INSERT INTO entitlement_views_v{v}
        (partition, subject_key, product, subject, subject_seq, "offset", row_count, next_due, state)
    SELECT n.*
    FROM unnest($4::integer[], $5::bytea[], $6::text[], $7::text[], $8::bigint[], $9::bigint[], $10::bigint[],
                $11::bigint[], $12::bytea[])
         AS n(partition, subject_key, product, subject, subject_seq, "offset", row_count, next_due, state)
    WHERE n.partition IN (SELECT m.partition FROM moved m)
    ON CONFLICT (partition, subject_key) DO UPDATE SET
        subject_seq = excluded.subject_seq, "offset" = excluded."offset", row_count = excluded.row_count,
        next_due = excluded.next_due, state = excluded.state
), extra AS (
    INSERT INTO entitlement_rows_v{v} (partition, subject_key, kind, id, body)
    SELECT n.*
    FROM unnest($13::integer[], $14::bytea[], $15::smallint[], $16::text[], $17::bytea[])
         AS n(partition, subject_key, kind, id, body)
    WHERE n.partition IN (SELECT m.partition FROM moved m)
    ON CONFLICT (partition, subject_key, kind, id) DO UPDATE SET body = excluded.body
)
-- This commit need not wait for the disk: what a crash takes of it, views and checkpoint together, is folded again from
-- the ledger, whose own commits all waited.
SELECT m.partition, set_config('synchronous_commit', 'off', true) FROM moved m
