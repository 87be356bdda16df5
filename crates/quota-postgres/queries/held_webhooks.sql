-- One webhook with its body, or those that wait for somebody without: there may be many. Oldest first; times in
-- microseconds.
SELECT w.id, w.product, (extract(epoch FROM w.received_at) * 1000000)::bigint, w.event, w.payment_id, w.subscription,
       w.subject, w.reason, CASE WHEN $1::uuid IS NOT NULL THEN w.body END, w.resolution
FROM held_webhooks w
WHERE CASE WHEN $1::uuid IS NULL THEN w.resolved_at IS NULL ELSE w.id = $1 END
  AND ($2::text IS NULL OR w.product = $2)
ORDER BY w.received_at, w.id
