-- For a table that Rails made: outside of a transaction, while writers go on. A build that
-- failed leaves an invalid index behind, which goes first.
DROP INDEX CONCURRENTLY IF EXISTS {{schema}}."index_{{table}}_on_channel_hash_and_id";
CREATE INDEX CONCURRENTLY "index_{{table}}_on_channel_hash_and_id" ON {{schema}}."{{table}}" ("channel_hash", "id");
