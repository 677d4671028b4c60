-- One look of the tail: what it needs to know of the moment, and the rows of one page.
--
-- One statement is one snapshot, whatever its isolation level. Locks and last_value are read
-- live, hence always after the snapshot was taken: the rules for gaps need just that order.
--
--   $1 int8    new rows lie above it
--   $2 int8[]  first and
--   $3 int8[]  last ids of the gaps to look at; ascending, disjoint, none above $1
--   $4 int8[]  ids above $1 that are not new
--   $5 bytea   what this prefix's channels begin with ('staging:'; empty: all)
--   $6 int4    the largest payload that is read
--   $7 int4    the most rows of a page
--   $8 int8    payload bytes after which a page ends (it holds at least one row)
--   $9 bool    whether to list transactions
--
-- The first row is the moment's (its id is NULL), then come the rows by id. The page was cut if it
-- has $7 rows or $8 bytes. Of another prefix's row the id alone is read. A payload that is too large
-- is NULL; a channel that is too long comes cut, and still too long.
--
-- A transaction that may yet commit a row holds RowExclusiveLock on the table. It is listed with the
-- xids that it has, by which the reader tells who had ended by the snapshot and not unlocked yet.
SELECT
  NULL::int8 AS id, NULL::bytea AS channel, NULL::bytea AS payload, NULL::int4 AS payload_bytes,
  NULL::bytea AS xid, s.s::text AS snapshot,
  CASE WHEN q.is_called THEN q.last_value ELSE q.last_value - 1 END AS last_value,
  pg_relation_filenode({{sequence_oid}}) AS filenode,
  (pg_current_wal_insert_lsn() - '0/0')::text AS inserted_to,
  (pg_current_wal_flush_lsn() - '0/0')::text AS flushed_to,
  CASE WHEN $9 THEN ARRAY(
    SELECT l.virtualtransaction || coalesce(' ' || string_agg(l.transactionid::text, ' '), '')
    FROM pg_locks AS l
    WHERE l.granted AND (l.locktype = 'transactionid' AND l.mode = 'ExclusiveLock'
      OR l.locktype = 'relation' AND l.relation = {{table_oid}} AND l.mode = 'RowExclusiveLock'
        AND l.database = (SELECT d.oid FROM pg_database AS d WHERE d.datname = current_database()))
    GROUP BY l.virtualtransaction
    HAVING bool_or(l.locktype = 'relation')
  ) END AS holders,
  NULL::int8 AS channel_hash
FROM pg_current_snapshot() AS s(s), {{sequence}} AS q
UNION ALL
SELECT
  r.id, r.channel, CASE WHEN r.payload_bytes <= $6 THEN r.payload END, r.payload_bytes,
  xidsend(r.xid), NULL, NULL, NULL, NULL, NULL, NULL, r.channel_hash
FROM (
  SELECT
    p.id, p.xid, p.channel_hash, CASE WHEN o.own THEN substring(p.channel FROM 1 FOR 1025) END AS channel, p.payload,
    CASE WHEN o.own THEN octet_length(p.payload) END AS payload_bytes,
    sum(CASE WHEN o.own AND octet_length(p.payload) <= $6 THEN octet_length(p.payload) ELSE 0 END)
      OVER (ORDER BY p.id ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS bytes_before
  FROM (
    (SELECT m.id, m.xid, m.channel, m.payload, m.channel_hash
     FROM unnest($2::int8[], $3::int8[]) AS g(first, last),
       LATERAL (SELECT t.id, t.xmin AS xid, t.channel, t.payload, t.channel_hash FROM {{table}} AS t
         WHERE t.id BETWEEN g.first AND g.last ORDER BY t.id LIMIT $7) AS m
     LIMIT $7)
    UNION ALL
    (SELECT t.id, t.xmin, t.channel, t.payload, t.channel_hash
     FROM {{table}} AS t WHERE t.id > $1 AND t.id <> ALL ($4::int8[]) ORDER BY t.id LIMIT $7)
    LIMIT $7
  ) AS p, LATERAL (SELECT substring(p.channel FROM 1 FOR octet_length($5::bytea)) = $5 AS own) AS o
) AS r
WHERE coalesce(r.bytes_before, 0) < $8
