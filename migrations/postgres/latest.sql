-- The last rows of some channels, each up to an id.
--
--   $1 int8[]   the channels' hashes
--   $2 bytea[]  and names
--   $3 int4     the largest payload of a message
--   $4 int4     the largest payload that is given here
--   $5 int4     the most rows of each
--   $6 int8[]   the highest ids
SELECT m.id, s.n, m.own, m.size,
  CASE WHEN isfinite(m.created_at) THEN floor(extract(epoch FROM m.created_at))::int8 END AS created,
  CASE WHEN m.own AND m.size <= $4 THEN m.payload END AS payload
FROM unnest($1::int8[], $2::bytea[], $6::int8[]) WITH ORDINALITY AS s(hash, channel, high, n),
  LATERAL (
    SELECT t.id, t.payload, t.created_at, octet_length(t.payload) AS size,
      t.channel = s.channel AND octet_length(t.payload) <= $3 AS own
    FROM {{table}} AS t
    WHERE (t.channel_hash, t.id) >= (s.hash, 1) AND (t.channel_hash, t.id) <= (s.hash, s.high)
    ORDER BY t.channel_hash DESC, t.id DESC LIMIT $5) AS m
