-- Takes fenced views and the wake trigger along. The messages stay, and so does their index.
DROP FUNCTION IF EXISTS {{schema}}.tablecast_publish_insert(), {{schema}}.tablecast_wake_servers() CASCADE;
DO $tablecast$
DECLARE view text;
BEGIN
  FOR view IN
    SELECT pg_catalog.quote_ident(c.relname) FROM pg_catalog.pg_class AS c
    JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
    WHERE pg_catalog.quote_ident(n.nspname) = '{{schema}}' AND c.relkind = 'v' AND c.relname LIKE 'tablecast\_%'
  LOOP
    EXECUTE 'DROP VIEW {{schema}}.' || view;
  END LOOP;
END
$tablecast$;
DROP TABLE IF EXISTS {{schema}}.tablecast_idempotency_keys, {{schema}}.tablecast_prefixes;
DROP SEQUENCE IF EXISTS {{schema}}.tablecast_wake;
