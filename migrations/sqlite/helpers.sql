-- What tablecast keeps beside the messages. Rails dumps these tables into its
-- schema.rb and may load them back empty: none holds what can't be made again.

-- The hash of each channel that SQL published to. SQLite has no SHA-256 of its own,
-- and computing it costs a third of a millisecond; most messages repeat a channel.
CREATE TABLE IF NOT EXISTS tablecast_stream_hashes (
  channel blob PRIMARY KEY NOT NULL,
  channel_hash integer NOT NULL
) WITHOUT ROWID;

-- What an HTTP publish with an Idempotency-Key was answered, for a day.
CREATE TABLE IF NOT EXISTS tablecast_idempotency_keys (
  prefix text NOT NULL,
  idempotency_key text NOT NULL,
  fingerprint blob NOT NULL,
  ids text NOT NULL,
  created_at datetime NOT NULL,
  PRIMARY KEY (prefix, idempotency_key)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS index_tablecast_idempotency_keys_on_created_at
  ON tablecast_idempotency_keys (created_at);

-- The prefixes that servers serve here, so that a server without one can tell
-- that it would read theirs.
CREATE TABLE IF NOT EXISTS tablecast_prefixes (
  prefix text PRIMARY KEY NOT NULL,
  created_at datetime NOT NULL
) WITHOUT ROWID;
