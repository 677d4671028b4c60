-- What identifies the table's life is a row in it: nothing else goes with TRUNCATE and DROP, stays
-- with ALTER, and is seen in the tick's own snapshot. With id -1 it is in nobody's way: no
-- AUTO_INCREMENT moves, MAX(id) doesn't see it, Rails reads rows above its last id and trims by
-- created_at.
INSERT INTO `{{table}}` (id, channel, payload, {{timestamps}}, channel_hash)
VALUES (-1, 'tablecast_history', '{{payload}}', {{never}}, -5185192725974493603)
