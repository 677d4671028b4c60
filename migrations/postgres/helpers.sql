-- What tablecast keeps beside the messages. Rails dumps these tables into its
-- schema.rb and may load them back empty: none holds what can't be made again.

-- What an HTTP publish with an Idempotency-Key was answered, for a day.
CREATE TABLE IF NOT EXISTS {{schema}}.tablecast_idempotency_keys (
  prefix text NOT NULL,
  idempotency_key text NOT NULL,
  fingerprint bytea NOT NULL,
  ids text NOT NULL,
  created_at timestamp(6) NOT NULL,
  PRIMARY KEY (prefix, idempotency_key)
);
CREATE INDEX IF NOT EXISTS index_tablecast_idempotency_keys_on_created_at
  ON {{schema}}.tablecast_idempotency_keys (created_at);

-- The prefixes that servers serve here, so that a server without one can tell
-- that it would read theirs.
CREATE TABLE IF NOT EXISTS {{schema}}.tablecast_prefixes (
  prefix text PRIMARY KEY,
  created_at timestamp(6) NOT NULL
);

-- Until when a publish is to NOTIFY, in milliseconds of the database's clock: a server
-- that goes to sleep moves it. A sequence, since it is seen at once from every transaction.
CREATE SEQUENCE IF NOT EXISTS {{schema}}.tablecast_wake MINVALUE 0 START 0 CACHE 1;
-- Triggers look at it with the rights of whoever made them.
GRANT SELECT ON SEQUENCE {{schema}}.tablecast_wake TO PUBLIC;
