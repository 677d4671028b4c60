-- One look of the tail. Sent as text, autocommitted: the ranges differ each time, and are integers.
-- One statement of InnoDB has one snapshot, all arms of a UNION included.
--
-- The first arm is the history's row (history.sql); if it is another than before, nothing of this
-- answer is to be released. The others come in any order. Another prefix's row has no channel, no
-- payload and no size; one's own that is too large has no payload, and a channel that is too long
-- comes cut, and still too long. The page was cut if it has {{page}} rows or {{budget}} bytes.
--   {{ids}}   arm.sql, once for the rows above the last id and once for each 5,000 ranges of gaps
--   {{own}}   whether a row is this prefix's
SELECT id, NULL AS channel, payload, NULL AS size, created_at, channel_hash FROM `{{table}}` WHERE id = -1
UNION ALL
SELECT p.id, IF(p.own, LEFT(m.channel, 1025), NULL), IF(p.own AND p.size <= {{max_payload}}, m.payload, NULL),
  IF(p.own, p.size, NULL), m.created_at, m.channel_hash
FROM (
  SELECT id, own, size,
    SUM(IF(own AND size <= {{max_payload}}, size, 0)) OVER (ORDER BY id ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS bytes_before
  FROM ({{ids}}) AS ids
) AS p STRAIGHT_JOIN `{{table}}` AS m ON m.id = p.id
WHERE COALESCE(p.bytes_before, 0) < {{budget}}
