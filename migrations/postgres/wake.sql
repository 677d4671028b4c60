  -- After the row has its transaction id: a server that sets the deadline later waits for us.
  IF pg_catalog.pg_sequence_last_value('{{schema}}.tablecast_wake'::pg_catalog.regclass) OPERATOR(pg_catalog.>)
    (pg_catalog.date_part('epoch', pg_catalog.clock_timestamp()) OPERATOR(pg_catalog.*) 1000)
  THEN
    PERFORM pg_catalog.pg_notify('tablecast_wake', '');
  END IF;
