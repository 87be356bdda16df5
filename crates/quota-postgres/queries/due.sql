-- Whose earliest expiry is due, longest overdue first.
SELECT v.partition, v.product, v.subject, v.next_due
FROM entitlement_views_v{v} v
WHERE v.next_due <= $1
ORDER BY v.next_due
LIMIT $2
