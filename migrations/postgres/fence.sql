-- Publishing under one prefix and no other: grant INSERT on this view alone.
DO $tablecast$
BEGIN
  IF NOT EXISTS (
    SELECT FROM pg_catalog.pg_trigger AS t
    JOIN pg_catalog.pg_class AS c ON c.oid = t.tgrelid JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
    WHERE pg_catalog.quote_ident(n.nspname) = '{{schema}}' AND c.relname = 'tablecast_publish_{{prefix}}' AND t.tgname = 'tablecast_publish_insert'
  ) THEN
    CREATE OR REPLACE VIEW {{schema}}."tablecast_publish_{{prefix}}" (stream, data, id) AS
    SELECT NULL::pg_catalog.text, NULL::pg_catalog.text, NULL::pg_catalog.int8 WHERE false;
    CREATE TRIGGER tablecast_publish_insert INSTEAD OF INSERT ON {{schema}}."tablecast_publish_{{prefix}}"
      FOR EACH ROW EXECUTE FUNCTION {{schema}}.tablecast_publish_insert('{{prefix}}');
  END IF;
END
$tablecast$;
