-- Forgets what was folded in these partitions: views, their rows, and how far the projector got. One statement.
WITH held AS MATERIALIZED (
    SELECT c.partition FROM projector_checkpoints_v{v} c
    WHERE c.partition = ANY ($1::integer[]) ORDER BY c.partition FOR UPDATE
), views AS (
    DELETE FROM entitlement_views_v{v} WHERE partition IN (SELECT h.partition FROM held h)
), extra AS (
    DELETE FROM entitlement_rows_v{v} WHERE partition IN (SELECT h.partition FROM held h)
)
UPDATE projector_checkpoints_v{v} c SET next_offset = 0 FROM held h WHERE c.partition = h.partition
