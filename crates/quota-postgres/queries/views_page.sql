-- Views in the order of their key, after a place.
SELECT v.partition, v.subject_key, v.product, v.subject, v.subject_seq, v."offset", v.row_count, v.next_due, v.state
FROM entitlement_views_v{v} v
WHERE (v.partition, v.subject_key) > ($1, $2)
ORDER BY v.partition, v.subject_key
LIMIT $3
