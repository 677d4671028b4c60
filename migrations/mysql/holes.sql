-- The start: a page of the ids above {{from}}, and what is missing between them. Pages are read in
-- one snapshot. The row without a next_id is the page's last.
SELECT before_id, id, next_id FROM (
  SELECT id, COALESCE(LAG(id) OVER (ORDER BY id), {{from}}) AS before_id, LEAD(id) OVER (ORDER BY id) AS next_id
  FROM (SELECT id FROM `{{table}}` FORCE INDEX (PRIMARY) WHERE id > {{from}} AND id < {{next}} ORDER BY id LIMIT {{rows}}) AS page
) AS pairs WHERE id > before_id + 1 OR next_id IS NULL
