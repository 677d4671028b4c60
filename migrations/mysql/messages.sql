-- Solid Cable's table, as Rails makes it. No index more: each secondary index of InnoDB
-- carries the key, so the one on the hash finds a stream's latest rows.
--
-- The primary key's comment says whose the table is, and goes with it when Rails drops it
-- and makes its own. Rails copies the comments of a table, its columns and its other
-- indexes into schema.rb, but passes the primary key over.
CREATE TABLE IF NOT EXISTS `{{table}}` (
  `id` bigint NOT NULL AUTO_INCREMENT,
  `channel` varbinary(1024) NOT NULL,
  `payload` longblob NOT NULL,
  `created_at` datetime(6) NOT NULL,
  `channel_hash` bigint NOT NULL,
  PRIMARY KEY (`id`) COMMENT 'made by tablecast',
  INDEX `index_{{table}}_on_channel` (`channel`),
  INDEX `index_{{table}}_on_channel_hash` (`channel_hash`),
  INDEX `index_{{table}}_on_created_at` (`created_at`)
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4 ROW_FORMAT = DYNAMIC;
