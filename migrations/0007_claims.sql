-- Claims: of two webhooks that tell of one payment for two subjects in the same moment, one waits for the other.

-- Who is about to count a payment, noted before the append and asked for by everybody else who would. The ledger cannot say
-- it: two subjects are two partitions, and neither fence sees the other. A claim is over after a minute; by then the append
-- that it was made for has come or never will, since commands have deadlines of seconds.
CREATE TABLE payment_claims (
    product    text        NOT NULL,
    payment_id text        NOT NULL,
    subject    text        NOT NULL,
    claimed_at timestamptz NOT NULL,
    CONSTRAINT payment_claims_pkey PRIMARY KEY (product, payment_id)
);
COMMENT ON TABLE payment_claims IS 'For whom each payment is about to be counted; forgotten within the hour.';
GRANT SELECT, INSERT, UPDATE, DELETE ON payment_claims TO quota_service;
