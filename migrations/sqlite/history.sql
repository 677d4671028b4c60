-- What identifies the table's life is a row in it: nothing else goes with DROP and DELETE, stays with
-- ALTER and VACUUM, and is seen in the look's own snapshot. With id -1 it is in nobody's way: no
-- AUTOINCREMENT moves, Rails reads rows above its last id and trims by created_at.
INSERT INTO "{{table}}" (id, channel, payload, {{timestamps}}, channel_hash)
SELECT -1, CAST('tablecast_history' AS BLOB),
       CAST('{"history":"' || lower(hex(randomblob(8))) || '"}' AS BLOB), {{never}}, -5185192725974493603
WHERE NOT EXISTS (SELECT 1 FROM "{{table}}" WHERE id = -1);
