-- The first rows of some channels in some ranges of ids, over all in the order of ids.
--
--   $1 int8[]   the channels' hashes
--   $2 bytea[]  and names
--   $3 int4     the largest payload of a message
--   $4 int4     the largest payload that is given here
--   $5 int4     the most rows
--   $6 int8[]   first and
--   $7 int8[]   last ids
--
-- A scan that is bounded by pairs ends where the first of a pair is another, not where the second is too
-- large: so it is the limit that ends each at its range, which can't hold more rows than ids.
SELECT m.id, s.n, m.own, m.size, NULL::int8 AS created, CASE WHEN m.own AND m.size <= $4 THEN m.payload END AS payload
FROM unnest($1::int8[], $2::bytea[]) WITH ORDINALITY AS s(hash, channel, n),
  unnest($6::int8[], $7::int8[]) AS g(first, last),
  LATERAL (
    SELECT t.id, t.payload, octet_length(t.payload) AS size,
      t.channel = s.channel AND octet_length(t.payload) <= $3 AS own
    FROM {{table}} AS t
    WHERE (t.channel_hash, t.id) >= (s.hash, g.first) AND t.channel_hash <= s.hash
    ORDER BY t.channel_hash, t.id LIMIT least($5, g.last - g.first + 1)) AS m
WHERE m.id <= g.last
ORDER BY m.id LIMIT $5
