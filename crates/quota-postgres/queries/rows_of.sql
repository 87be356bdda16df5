-- All rows of one subject's view.
SELECT e.partition, e.subject_key, e.kind, e.id, e.body
FROM entitlement_rows_v{v} e
WHERE e.partition = $1 AND e.subject_key = $2
ORDER BY e.kind, e.id
