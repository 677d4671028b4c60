SELECT m.id, LEFT(m.channel, {{lead_length}}) = {{lead}} AS own, LENGTH(m.payload) AS size
FROM `{{table}}` AS m FORCE INDEX (PRIMARY) WHERE {{where}} ORDER BY m.id LIMIT {{page}}
