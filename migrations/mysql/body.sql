  IF NEW.stream IS NULL OR OCTET_LENGTH(NEW.stream) = 0 THEN
    SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'tablecast_publish: stream is missing';
  END IF;
  IF LOCATE(0x00, NEW.stream) > 0 THEN
    SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'tablecast_publish: stream holds a NUL character';
  END IF;
  -- Without a prefix, a stream's first colon ends another's prefix.
  IF LEFT(NEW.stream, 13) = 'action_cable/'
    OR (OCTET_LENGTH(lead) = 0 AND SUBSTRING(NEW.stream, LOCATE(':', NEW.stream) + 1, 13) = 'action_cable/')
  THEN
    SIGNAL SQLSTATE '45000'
      SET MESSAGE_TEXT = 'tablecast_publish: streams that begin with action_cable/ are not for publishing';
  END IF;
  SET name = IF(OCTET_LENGTH(lead) = 0, NEW.stream, CONCAT(lead, ':', NEW.stream));
  IF OCTET_LENGTH(name) > 1024 THEN
    SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'tablecast_publish: stream and prefix are longer than 1024 bytes';
  END IF;
  IF NEW.id <> 0 THEN
    SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'tablecast_publish: id is not for setting';
  END IF;
  IF NEW.data IS NULL THEN
    SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'tablecast_publish: data is missing';
  END IF;
  IF NOT JSON_VALID(NEW.data) THEN
    SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'tablecast_publish: data is not JSON';
  END IF;

  INSERT INTO `{{table}}` (channel, payload, {{timestamps}}, channel_hash)
  VALUES (
    CAST(name AS BINARY), CAST(NEW.data AS BINARY), {{now}},
    CAST(CONV(LEFT(SHA2(CAST(name AS BINARY), 256), 16), 16, -10) AS SIGNED)
  );
  SET NEW.id = LAST_INSERT_ID(), NEW.stream = '', NEW.data = '', NEW.created_at = UTC_TIMESTAMP(6);
