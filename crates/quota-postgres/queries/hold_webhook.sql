-- Holds a webhook, or finds it: providers tell the same thing again until they are content.
WITH held AS (
    INSERT INTO held_webhooks (product, event, payment_id, subject, reason, body, body_hash)
    VALUES ($1, $2, $3, $4, $5, $6, sha256($6))
    ON CONFLICT ON CONSTRAINT held_webhooks_body_key DO NOTHING
    RETURNING id
)
SELECT h.id FROM held h
UNION ALL
SELECT w.id FROM held_webhooks w WHERE w.product = $1 AND w.body_hash = sha256($6)
LIMIT 1
