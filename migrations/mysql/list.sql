-- Who may yet commit a row. Sent as text after the tick was answered.
--
-- InnoDB fills innodb_trx anew only when nobody has read it for 100 ms; until then all get the old
-- list. It is a fresh one if it holds this very statement, by the nonce in its text. The first arm
-- makes this statement a transaction: else it would not be listed.
-- Who has not written has no id (0 on MariaDB, 2^48 or more on MySQL), and no row to commit. Who uses no
-- table is between two statements.
SELECT 0 AS trx_id, 0 AS own, 0 AS writes FROM `{{table}}` WHERE id = -1
UNION ALL
SELECT CAST(trx_id AS UNSIGNED), trx_mysql_thread_id = CONNECTION_ID() AND COALESCE(LOCATE('{{nonce}}', trx_query), 0) > 0, trx_tables_in_use > 0
FROM information_schema.innodb_trx
WHERE CAST(trx_id AS UNSIGNED) BETWEEN 1 AND 281474976710655 OR trx_mysql_thread_id = CONNECTION_ID()
