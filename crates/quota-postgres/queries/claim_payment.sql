-- Claims a payment for a subject; no line where somebody else has claimed it within the last minute.
INSERT INTO payment_claims AS c (product, payment_id, subject, claimed_at)
VALUES ($1, $2, $3, clock_timestamp())
ON CONFLICT ON CONSTRAINT payment_claims_pkey DO UPDATE
SET subject = EXCLUDED.subject, claimed_at = EXCLUDED.claimed_at
WHERE c.subject = EXCLUDED.subject OR c.claimed_at < EXCLUDED.claimed_at - interval '1 minute'
RETURNING c.subject
