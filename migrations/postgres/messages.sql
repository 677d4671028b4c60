-- Solid Cable's table, as Rails makes it, and one index more: replay finds a stream's
-- latest rows by it. All of it or, where the table is there, nothing.
--
-- The comment says whose the table is, and goes with it when Rails drops it and makes
-- its own. It is the sequence's, since Rails copies a table's comment into schema.rb.
DO $tablecast$
BEGIN
  IF EXISTS (
    SELECT FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
    WHERE pg_catalog.quote_ident(n.nspname) = '{{schema}}' AND c.relname = '{{table}}'
  ) THEN
    RETURN;
  END IF;
  CREATE TABLE {{schema}}."{{table}}" (
    "id" bigserial PRIMARY KEY,
    "channel" bytea NOT NULL,
    "payload" bytea NOT NULL,
    "created_at" timestamp(6) NOT NULL,
    "channel_hash" bigint NOT NULL
  );
  COMMENT ON SEQUENCE {{schema}}."{{table}}_id_seq" IS 'made by tablecast';
  CREATE INDEX "index_{{table}}_on_channel" ON {{schema}}."{{table}}" ("channel");
  CREATE INDEX "index_{{table}}_on_channel_hash" ON {{schema}}."{{table}}" ("channel_hash");
  CREATE INDEX "index_{{table}}_on_created_at" ON {{schema}}."{{table}}" ("created_at");
  CREATE INDEX "index_{{table}}_on_channel_hash_and_id" ON {{schema}}."{{table}}" ("channel_hash", "id");
END
$tablecast$;
