-- Publishing by SQL: INSERT INTO tablecast_publish (stream, data) VALUES (…, …);
--
-- Replaced in place, never dropped: a DROP would take the workers' grants along. And what
-- a worker's transaction holds a lock on is left alone once it is there: replacing a function
-- waits for nobody, replacing a view or its trigger waits for each open transaction that
-- used it, and all new ones wait behind.

-- Where a plain INSERT goes, for whoever asks; the function has it by heart.
-- A view, since Rails neither dumps nor drops views.
CREATE OR REPLACE VIEW {{schema}}.tablecast_defaults (prefix, messages, version) AS
SELECT {{default_prefix}}::pg_catalog.text, '{{table}}'::pg_catalog.text, '{{version}}'::pg_catalog.text;
GRANT SELECT ON {{schema}}.tablecast_defaults TO PUBLIC;

-- It runs with its owner's rights and its caller's search_path, so each name and each
-- operator says that it is pg_catalog's. (SET search_path costs a tenth of the rate.)
-- The table is found when a row comes: Rails may drop it and make it again.
CREATE OR REPLACE FUNCTION {{schema}}.tablecast_publish_insert() RETURNS trigger
LANGUAGE plpgsql VOLATILE SECURITY DEFINER AS $tablecast$
#variable_conflict error
DECLARE
  -- A fenced view's trigger names its prefix.
  lead pg_catalog.text := TG_ARGV[0];
  name pg_catalog.bytea;
BEGIN
  IF lead IS NULL THEN
    lead := NEW.prefix;
    IF lead IS NULL THEN
      lead := pg_catalog.current_setting('tablecast.channel_prefix', true);
      -- After a SET LOCAL has ended the setting is empty, not gone.
      IF lead IS NULL OR lead OPERATOR(pg_catalog.=) '' THEN
        lead := {{default_prefix}};
      END IF;
    END IF;
    IF pg_catalog.strpos(lead, ':') OPERATOR(pg_catalog.>) 0 THEN
      RAISE EXCEPTION USING ERRCODE = '22023', MESSAGE = 'tablecast_publish: prefix holds a colon';
    END IF;
  END IF;

  IF NEW.stream IS NULL OR NEW.stream OPERATOR(pg_catalog.=) '' THEN
    RAISE EXCEPTION USING ERRCODE = '22023', MESSAGE = 'tablecast_publish: stream is missing';
  END IF;
  -- Without a prefix, a stream's first colon ends another's prefix.
  IF pg_catalog.starts_with(NEW.stream, 'action_cable/') OR (lead OPERATOR(pg_catalog.=) ''
    AND pg_catalog.starts_with(
      pg_catalog.substr(NEW.stream, pg_catalog.strpos(NEW.stream, ':') OPERATOR(pg_catalog.+) 1), 'action_cable/'))
  THEN
    RAISE EXCEPTION USING ERRCODE = '22023',
      MESSAGE = 'tablecast_publish: streams that begin with action_cable/ are not for publishing';
  END IF;
  name := pg_catalog.convert_to(
    CASE WHEN lead OPERATOR(pg_catalog.=) '' THEN NEW.stream ELSE pg_catalog.concat(lead, ':', NEW.stream) END, 'UTF8');
  IF pg_catalog.octet_length(name) OPERATOR(pg_catalog.>) 1024 THEN
    RAISE EXCEPTION USING ERRCODE = '22023', MESSAGE = 'tablecast_publish: stream and prefix are longer than 1024 bytes';
  END IF;
  IF NEW.id IS NOT NULL THEN
    RAISE EXCEPTION USING ERRCODE = '22023', MESSAGE = 'tablecast_publish: id is not for setting';
  END IF;
  -- The cast itself refuses what isn't JSON, and says where.
  IF NEW.data::pg_catalog.json IS NULL THEN
    RAISE EXCEPTION USING ERRCODE = '22023', MESSAGE = 'tablecast_publish: data is missing';
  END IF;

  INSERT INTO {{schema}}."{{table}}" AS m (channel, payload, {{timestamps}}, channel_hash)
  VALUES (
    name,
    pg_catalog.convert_to(NEW.data, 'UTF8'),
    {{now}},
    pg_catalog.concat('x', pg_catalog.encode(pg_catalog.substr(pg_catalog.sha256(name), 1, 8), 'hex'))
      ::pg_catalog.bit(64)::pg_catalog.int8
  )
  RETURNING m.id INTO NEW.id;
  IF NEW.id IS NULL THEN
    RAISE EXCEPTION USING ERRCODE = '22023', MESSAGE = 'tablecast_publish: a trigger or rule on the table dropped the row';
  END IF;
{{wake}}  RETURN NEW;
END
$tablecast$;
REVOKE ALL ON FUNCTION {{schema}}.tablecast_publish_insert() FROM PUBLIC;

DO $tablecast$
BEGIN
  IF NOT EXISTS (
    SELECT FROM pg_catalog.pg_trigger AS t
    JOIN pg_catalog.pg_class AS c ON c.oid = t.tgrelid JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
    WHERE pg_catalog.quote_ident(n.nspname) OPERATOR(pg_catalog.=) '{{schema}}' AND c.relname = 'tablecast_publish' AND t.tgname = 'tablecast_publish_insert'
  ) THEN
    CREATE OR REPLACE VIEW {{schema}}.tablecast_publish (stream, data, prefix, id) AS
    SELECT NULL::pg_catalog.text, NULL::pg_catalog.text, NULL::pg_catalog.text, NULL::pg_catalog.int8 WHERE false;
    CREATE TRIGGER tablecast_publish_insert INSTEAD OF INSERT ON {{schema}}.tablecast_publish
      FOR EACH ROW EXECUTE FUNCTION {{schema}}.tablecast_publish_insert();
  END IF;
END
$tablecast$;
