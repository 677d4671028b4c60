-- Publishing by SQL: INSERT INTO tablecast_publish (stream, data) VALUES (…, …);
-- Statements with NAMES and sql_mode as set here: triggers and views keep those of their maker.
SET NAMES utf8mb4 COLLATE utf8mb4_bin;
SET SESSION sql_mode = 'STRICT_TRANS_TABLES,NO_ENGINE_SUBSTITUTION', lock_wait_timeout = 3;

-- The trigger writes the message; what stays here is an empty row with its id, which the server
-- deletes. The types are too wide to cut anything that the trigger should see, since the columns
-- are filled by the rules of the worker's session. The key is unique even where Rails' table
-- begins anew at 1. A row that no trigger emptied is refused: it would be lost without a word.
-- (Rails' schema.rb holds the table and this check, not the trigger.)
CREATE TABLE IF NOT EXISTS tablecast_publish (
  stream text,
  data longtext,
  prefix text,
  id bigint NOT NULL AUTO_INCREMENT,
  created_at datetime(6) NOT NULL DEFAULT '2000-01-01 00:00:00',
  PRIMARY KEY (id, created_at),
  CONSTRAINT tablecast_publish_needs_its_trigger CHECK (stream IS NOT NULL AND octet_length(stream) = 0)
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4 COLLATE = utf8mb4_bin ROW_FORMAT = DYNAMIC;

-- MySQL has no CREATE OR REPLACE TRIGGER. Workers wait for the lock rather than meet the table
-- without one; if this session is cut off in between, the check above refuses their rows.
LOCK TABLES tablecast_publish WRITE;
DROP TRIGGER IF EXISTS tablecast_publish;
CREATE TRIGGER tablecast_publish BEFORE INSERT ON tablecast_publish FOR EACH ROW
BEGIN
  DECLARE lead, name longtext CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;
  SET lead = NEW.prefix;
  IF lead IS NULL THEN
    SET lead = @tablecast_channel_prefix;
    IF lead IS NULL OR OCTET_LENGTH(lead) = 0 THEN
      SET lead = {{default_prefix}};
    END IF;
  END IF;
  IF LOCATE(':', lead) > 0 THEN
    SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'tablecast_publish: prefix holds a colon';
  END IF;
  IF LOCATE(0x00, lead) > 0 THEN
    SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'tablecast_publish: prefix holds a NUL character';
  END IF;
{{body}}  SET NEW.prefix = NULL;
END;
UNLOCK TABLES;

-- Where a plain INSERT goes, for those who ask; the trigger has it by heart.
-- A view, since Rails neither dumps nor drops views. Last, since its version says that all of the above is done.
CREATE OR REPLACE SQL SECURITY INVOKER VIEW tablecast_defaults (prefix, messages, version) AS
SELECT {{default_prefix}}, '{{table}}', '{{version}}';
