-- Publishing by SQL: INSERT INTO tablecast_publish (stream, data) VALUES (…, …);

-- Where a plain INSERT goes. A view, since Rails neither dumps nor drops views.
CREATE VIEW tablecast_defaults AS
SELECT {{default_prefix}} AS prefix, '{{table}}' AS messages;

-- First step: what was asked for is checked, and named with its prefix.
CREATE VIEW tablecast_publish (stream, data, prefix) AS
SELECT NULL, NULL, NULL WHERE 0;

CREATE TRIGGER tablecast_publish_insert INSTEAD OF INSERT ON tablecast_publish
BEGIN
  SELECT RAISE(ABORT, 'tablecast_publish: stream is missing or empty')
  WHERE coalesce(CAST(NEW.stream AS TEXT), '') = '';
  SELECT RAISE(ABORT, 'tablecast_publish: stream holds a NUL character')
  WHERE instr(CAST(NEW.stream AS BLOB), x'00') > 0;
  SELECT RAISE(ABORT, 'tablecast_publish: streams that begin with action_cable/ are not for publishing')
  WHERE CAST(NEW.stream AS TEXT) GLOB 'action_cable/*';
  SELECT RAISE(ABORT, 'tablecast_publish: prefix holds a colon or a NUL character')
  WHERE instr(CAST(NEW.prefix AS BLOB), x'3a') > 0 OR instr(CAST(NEW.prefix AS BLOB), x'00') > 0;
  -- json_valid stops reading at a NUL, and reads a blob only as text.
  SELECT RAISE(ABORT, 'tablecast_publish: data is not JSON')
  WHERE NEW.data IS NULL
     OR instr(CAST(NEW.data AS BLOB), x'00') > 0
     OR NOT json_valid(CAST(NEW.data AS TEXT));
  INSERT INTO tablecast_publish_channel (channel, payload)
  SELECT CAST(CASE prefix WHEN '' THEN '' ELSE prefix || ':' END || CAST(NEW.stream AS TEXT) AS BLOB),
         CAST(NEW.data AS BLOB)
  FROM (SELECT coalesce(CAST(NEW.prefix AS TEXT), (SELECT prefix FROM tablecast_defaults)) AS prefix);
END;

-- Second step: the channel's hash, and the row as Solid Cable writes it.
CREATE VIEW tablecast_publish_channel (channel, payload) AS
SELECT NULL, NULL WHERE 0;

CREATE TRIGGER tablecast_publish_channel_insert INSTEAD OF INSERT ON tablecast_publish_channel
BEGIN
  -- Without a prefix of one's own, another's reserved names would be in reach.
  SELECT RAISE(ABORT, 'tablecast_publish: streams that begin with action_cable/ are not for publishing')
  WHERE substr(CAST(NEW.channel AS TEXT), instr(CAST(NEW.channel AS TEXT), ':') + 1) GLOB 'action_cable/*';
  SELECT RAISE(ABORT, 'tablecast_publish: stream and prefix are longer than 1024 bytes')
  WHERE length(NEW.channel) > 1024;
  INSERT INTO tablecast_stream_hashes (channel, channel_hash)
  SELECT NEW.channel, {{sha256}}
  WHERE NOT EXISTS (SELECT 1 FROM tablecast_stream_hashes WHERE channel = NEW.channel);
  INSERT INTO "{{table}}" (channel, payload, {{timestamps}}, channel_hash)
  SELECT NEW.channel, NEW.payload, {{now}}, channel_hash
  FROM tablecast_stream_hashes WHERE channel = NEW.channel;
END;
