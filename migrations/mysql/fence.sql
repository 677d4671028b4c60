-- Publishing under one prefix and no other: grant INSERT on this table alone.
SET NAMES utf8mb4 COLLATE utf8mb4_bin;
SET SESSION sql_mode = 'STRICT_TRANS_TABLES,NO_ENGINE_SUBSTITUTION', lock_wait_timeout = 3;
CREATE TABLE IF NOT EXISTS `tablecast_publish_{{prefix}}` (
  stream text,
  data longtext,
  id bigint NOT NULL AUTO_INCREMENT,
  created_at datetime(6) NOT NULL DEFAULT '2000-01-01 00:00:00',
  PRIMARY KEY (id, created_at),
  CONSTRAINT `tablecast_{{prefix}}_check` CHECK (stream IS NOT NULL AND octet_length(stream) = 0)
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4 COLLATE = utf8mb4_bin ROW_FORMAT = DYNAMIC;

LOCK TABLES `tablecast_publish_{{prefix}}` WRITE;
DROP TRIGGER IF EXISTS `tablecast_publish_{{prefix}}`;
CREATE TRIGGER `tablecast_publish_{{prefix}}` BEFORE INSERT ON `tablecast_publish_{{prefix}}` FOR EACH ROW
BEGIN
  DECLARE lead, name longtext CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;
  SET lead = '{{prefix}}';
{{body}}END;
UNLOCK TABLES;
