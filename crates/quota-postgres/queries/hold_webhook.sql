-- Holds a webhook, or finds it: providers tell the same thing again and again until they are content. One statement that
-- always writes, since two of the same body at once would not see each other's line. What was only given up for its age
-- is held anew.
INSERT INTO held_webhooks AS w (product, event, payment_id, subscription, subject, reason, body, body_hash)
VALUES ($1, $2, $3, $4, $5, $6, $7, sha256($7))
ON CONFLICT ON CONSTRAINT held_webhooks_body_key DO UPDATE
SET reason = CASE WHEN w.resolution = 'expired' THEN EXCLUDED.reason ELSE w.reason END,
    body = CASE WHEN w.resolution = 'expired' THEN EXCLUDED.body ELSE w.body END,
    received_at = CASE WHEN w.resolution = 'expired' THEN now() ELSE w.received_at END,
    resolved_at = CASE WHEN w.resolution = 'expired' THEN NULL ELSE w.resolved_at END,
    resolution = CASE WHEN w.resolution = 'expired' THEN NULL ELSE w.resolution END
RETURNING id, resolution
