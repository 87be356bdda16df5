-- Open webhooks that can be settled without anybody: those whose payment or subscription is counted now, and those that
-- the ledger could not take when they came; of one payment, or all, and of those a page: after the one that came at $4
-- (microseconds) and has the id $5. The last column: whether the payment is counted.
--
-- An event that nobody understands, of a payment that was counted before it came, waits for a person: what it says of
-- that payment is not known.
SELECT w.id, w.product, (extract(epoch FROM w.received_at) * 1000000)::bigint, w.event, w.payment_id, w.subscription,
       w.subject, w.reason, w.body, w.resolution, p.id IS NOT NULL
FROM held_webhooks w
LEFT JOIN ledger_payments p ON p.product = w.product AND p.kind = 'payment' AND p.id = w.payment_id
LEFT JOIN ledger_payments s ON s.product = w.product AND s.kind = 'subscription' AND s.id = w.subscription
WHERE w.resolved_at IS NULL
  AND ($1::text IS NULL OR w.product = $1)
  AND ($2::text IS NULL AND $3::text IS NULL OR w.payment_id = $2 OR w.subscription = $3)
  AND ($4::bigint IS NULL OR ((extract(epoch FROM w.received_at) * 1000000)::bigint, w.id) > ($4, $5::uuid))
  AND (w.reason IN ('unavailable', 'contested')
       OR s.id IS NOT NULL AND w.reason IN ('unknown_subscription', 'unknown_subject', 'unknown_plan')
       OR p.id IS NOT NULL AND (w.reason NOT IN ('unknown_event', 'unknown_payload')
                                OR p.recorded_at > (extract(epoch FROM w.received_at) * 1000000)::bigint))
ORDER BY w.received_at, w.id
LIMIT $6
