-- The messages stay. A table takes its trigger along; grants on its name stay, and so does the
-- comment on the messages' primary key, which would take a rebuild.
DROP TABLE IF EXISTS {{fences}}tablecast_publish, tablecast_idempotency_keys, tablecast_prefixes;
DROP VIEW IF EXISTS tablecast_defaults;
DELETE FROM `{{table}}` WHERE id = -1;
