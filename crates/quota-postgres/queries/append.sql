-- One batch: see migrations/0002_append.sql.
SELECT a.partitions, a.clock
FROM ledger_append($1::integer[], $2::bigint[], $3::bytea[], $4::boolean,
                   $5::integer[], $6::bigint[], $7::bytea[], $8::bigint[], $9::bigint[], $10::bytea[],
                   $11::text[], $12::text[], $13::text[], $14::text[], $15::text[], $16::integer[],
                   $17::bigint[], $18::bigint[], $19::integer[], $20::bytea[], $21::bytea[]) AS a
