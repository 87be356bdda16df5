-- For whom this product has counted a payment ($2) or a subscription ($3), and for which plan.
SELECT c.kind, c.subject, c.plan
FROM ledger_payments c
WHERE c.product = $1 AND (c.kind = 'payment' AND c.id = $2 OR c.kind = 'subscription' AND c.id = $3)
