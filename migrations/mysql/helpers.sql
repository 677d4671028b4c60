-- What tablecast keeps beside the messages. Rails dumps these tables into its
-- schema.rb and may load them back empty: none holds what can't be made again.
-- Names are bytes: a text would compare without its trailing spaces.

-- What an HTTP publish with an Idempotency-Key was answered, for a day.
CREATE TABLE IF NOT EXISTS tablecast_idempotency_keys (
  prefix varbinary(1024) NOT NULL,
  idempotency_key varbinary(255) NOT NULL,
  fingerprint varbinary(64) NOT NULL,
  ids longtext CHARACTER SET ascii NOT NULL,
  created_at datetime(6) NOT NULL,
  PRIMARY KEY (prefix, idempotency_key),
  INDEX index_tablecast_idempotency_keys_on_created_at (created_at)
) ENGINE = InnoDB ROW_FORMAT = DYNAMIC;

-- The prefixes that servers serve here, so that a server without one can tell
-- that it would read theirs.
CREATE TABLE IF NOT EXISTS tablecast_prefixes (
  prefix varbinary(1024) NOT NULL PRIMARY KEY,
  created_at datetime(6) NOT NULL
) ENGINE = InnoDB ROW_FORMAT = DYNAMIC;
