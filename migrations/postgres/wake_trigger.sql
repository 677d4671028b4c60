-- Rows that Rails writes wake a server that sleeps, too (`migrate --wake-trigger`). Rails dumps no
-- triggers: after db:schema:load this is to be made again.
CREATE OR REPLACE FUNCTION {{schema}}.tablecast_wake_servers() RETURNS trigger
LANGUAGE plpgsql VOLATILE SECURITY DEFINER AS $tablecast$
BEGIN
{{wake}}  RETURN NULL;
END
$tablecast$;
REVOKE ALL ON FUNCTION {{schema}}.tablecast_wake_servers() FROM PUBLIC;
DROP TRIGGER IF EXISTS tablecast_wake_servers ON {{schema}}."{{table}}";
CREATE TRIGGER tablecast_wake_servers AFTER INSERT ON {{schema}}."{{table}}"
  FOR EACH STATEMENT EXECUTE FUNCTION {{schema}}.tablecast_wake_servers();
