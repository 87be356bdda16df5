-- Keys of services, oldest first; all of them, or those that work. Times in microseconds.
SELECT k.id, k.product, k.scopes, k.hash,
       (extract(epoch FROM k.created_at) * 1000000)::bigint,
       (extract(epoch FROM k.revoked_at) * 1000000)::bigint
FROM api_keys k
WHERE NOT $1 OR k.revoked_at IS NULL
ORDER BY k.created_at, k.id
