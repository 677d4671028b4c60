//! Publishing by SQL: one INSERT, in every form, by every role that has the right and no other.

use super::{RAILS, expect, listen, listening, migrate, migrated, publish, row, serve};
use crate::support::{Database, PASSWORD, postgres, until};

#[test]
fn every_form_of_an_insert_publishes() {
    let (database, _server, mut socket) = listening();
    let ids = database.sql(
        r#"INSERT INTO tablecast_publish (stream, data) VALUES ('s', '1');
           INSERT INTO tablecast_publish (stream, data) VALUES ('s', '2'), ('s', '{"n": 3}');
           INSERT INTO tablecast_publish (stream, data) SELECT 's', n FROM generate_series(4, 5) AS n;
           INSERT INTO tablecast_publish (stream, data) VALUES ('s', jsonb_build_object('n', 6));
           INSERT INTO tablecast_publish (stream, data) VALUES ('s', json_build_array(7));
           INSERT INTO tablecast_publish (stream, data) VALUES ('s', '8') ON CONFLICT DO NOTHING;
           COPY tablecast_publish (stream, data) FROM STDIN;
s	9
\.
           PREPARE p (text, text) AS INSERT INTO tablecast_publish (stream, data) VALUES ($1, $2);
           EXECUTE p ('s', '10');
           EXECUTE p ('s', '11');
           INSERT INTO tablecast_publish (stream, data) VALUES ('s', '12'), ('s', '13') RETURNING id;"#,
    );
    expect(
        &mut socket,
        &["1", "2", r#"{"n": 3}"#, "4", "5", r#"{"n": 6}"#, "[7]", "8", "9", "10", "11", "12", "13"],
    );
    assert_eq!(
        ids,
        database
            .sql("SELECT id FROM solid_cable_messages ORDER BY id DESC LIMIT 2")
            .split('\n')
            .rev()
            .collect::<Vec<_>>()
            .join("\n")
    );
    assert_eq!(database.sql("SELECT count(*) FROM tablecast_publish"), "0", "the view shows nothing");
}

/// What the database takes for JSON the server does too.
#[test]
fn strange_json_is_delivered_as_it_was_written() {
    let (database, _server, mut socket) = listening();
    let deep = format!("{}{}", "[".repeat(2000), "]".repeat(2000));
    for data in [
        deep.as_str(),
        r#""\ud800""#,
        r#""\u0000""#,
        r#"{"a":1,"a":2}"#,
        " [1 , 2.50E+0007 ] ",
        "-0",
        "123456789012345678901234567890",
        r#""😀""#,
    ] {
        database.sql(&publish(data));
        assert_eq!(socket.message(&crate::support::pubsub("s")).trim(), data.trim());
    }
}

#[test]
fn a_row_is_as_rails_would_have_written_it() {
    let database = migrated();
    database.sql(
        "SET timezone = 'Asia/Tokyo';
         INSERT INTO tablecast_publish (stream, data) VALUES ('room:1', '{\"a\":1}'), ('é', '\"é\"')",
    );
    // The hashes are Solid Cable's own.
    assert_eq!(
        database.sql(
            "SELECT convert_from(channel, 'UTF8'), convert_from(payload, 'UTF8'), channel_hash,
                    abs(extract(epoch FROM created_at - timezone('UTC', now()))) < 60
             FROM solid_cable_messages ORDER BY id"
        ),
        "room:1|{\"a\":1}|4762459634708996067|t\né|\"é\"|5375421630974772051|t"
    );
    database.sql("SET client_encoding = 'LATIN1'; INSERT INTO tablecast_publish (stream, data) VALUES (U&'\\00e9', '1')");
    assert_eq!(
        database.sql("SELECT DISTINCT channel_hash FROM solid_cable_messages WHERE id > 1"),
        "5375421630974772051"
    );
}

fn channels(database: &Database) -> String {
    let channels = database.sql(
        "WITH gone AS (DELETE FROM solid_cable_messages RETURNING id, channel)
         SELECT string_agg(convert_from(channel, 'UTF8'), ' ' ORDER BY id) FROM gone",
    );
    channels.trim().to_owned()
}

#[test]
fn the_prefix_is_the_columns_the_sessions_or_the_default() {
    let database = postgres::shared().database();
    migrate(&database, &["--default-prefix=production"]);
    database.sql(
        "INSERT INTO tablecast_publish (stream, data) VALUES ('default', '1');
         INSERT INTO tablecast_publish (stream, data, prefix) VALUES ('column', '1', 'staging'), ('none', '1', ''), ('null', '1', NULL);
         BEGIN;
         SET LOCAL tablecast.channel_prefix = 'session';
         INSERT INTO tablecast_publish (stream, data) VALUES ('local', '1');
         INSERT INTO tablecast_publish (stream, data, prefix) VALUES ('column', '1', 'x');
         COMMIT;
         INSERT INTO tablecast_publish (stream, data) VALUES ('after', '1');
         SET tablecast.channel_prefix = 'session';
         INSERT INTO tablecast_publish (stream, data) VALUES ('set', '1')",
    );
    assert_eq!(
        channels(&database),
        "production:default staging:column none production:null session:local x:column production:after session:set"
    );
    // Another migrate keeps it, one that says otherwise doesn't.
    migrate(&database, &[]);
    database.sql(&publish("1"));
    migrate(&database, &["--default-prefix="]);
    database.sql(&publish("1"));
    assert_eq!(channels(&database), "production:s s");
}

#[test]
fn what_is_no_message_is_refused_inside_the_insert() {
    let database = migrated();
    let refused = |values: &str, message: &str| {
        let output = database
            .try_sql(&format!("INSERT INTO tablecast_publish (stream, data, prefix) VALUES ({values})"));
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && error.contains(message), "{values}: {error}");
    };
    for data in ["'nope'", "''", "'{'", "'{}{}'", "'[1,]'", "'NaN'", "E'\"\\n\"'"] {
        refused(&format!("'s', {data}, NULL"), "invalid input syntax for type json");
    }
    refused("'s', NULL, NULL", "tablecast_publish: data is missing");
    refused("NULL, '1', NULL", "stream is missing");
    refused("'', '1', NULL", "stream is missing");
    refused("'action_cable/1', '1', NULL", "action_cable/");
    refused("'action_cable/1', '1', 'staging'", "action_cable/");
    refused("'staging:action_cable/1', '1', ''", "action_cable/");
    refused("'s', '1', 'a:b'", "prefix holds a colon");
    refused("repeat('x', 1025), '1', NULL", "longer than 1024 bytes");
    refused("repeat('x', 1023), '1', 'p'", "longer than 1024 bytes");
    refused("repeat('é', 513), '1', NULL", "longer than 1024 bytes");
    let output = database.try_sql("INSERT INTO tablecast_publish (stream, data, id) VALUES ('s', '1', 7)");
    assert!(String::from_utf8_lossy(&output.stderr).contains("id is not for setting"));
    // One bad row takes its statement along.
    assert!(
        !database
            .try_sql("INSERT INTO tablecast_publish (stream, data) VALUES ('s', '1'), ('s', 'nope')")
            .status
            .success()
    );
    assert_eq!(database.sql("SELECT count(*) FROM solid_cable_messages"), "0");
    database.sql("INSERT INTO tablecast_publish (stream, data, prefix) VALUES (repeat('x', 1022), '1', 'p'), ('ok', 'null', NULL)");
    assert_eq!(database.sql("SELECT count(*) FROM solid_cable_messages"), "2");
}

/// Runs SQL as a role, and gives its error.
fn error_as(database: &Database, role: &str, sql: &str) -> String {
    let output = database.try_sql(&format!("SET SESSION AUTHORIZATION {role}; {sql}"));
    String::from_utf8_lossy(&output.stderr).trim().to_owned()
}

#[test]
fn a_worker_needs_insert_on_the_view_alone() {
    let (database, _server, mut socket) = listening();
    let worker = database.user("worker");
    assert!(
        error_as(&database, &worker, &publish("1")).contains("permission denied for view tablecast_publish")
    );
    database.sql(&format!("GRANT INSERT ON tablecast_publish TO {worker}"));
    assert_eq!(error_as(&database, &worker, &publish("2")), "");
    expect(&mut socket, &["2"]);
    // What comes back is read, and there is nothing else to read.
    let returning = publish("3") + " RETURNING id";
    assert!(
        error_as(&database, &worker, &returning).contains("permission denied for view tablecast_publish")
    );
    database.sql(&format!("GRANT SELECT ON tablecast_publish TO {worker}"));
    assert_eq!(error_as(&database, &worker, &returning), "");
    expect(&mut socket, &["3"]);
    for forbidden in [
        "SELECT count(*) FROM solid_cable_messages",
        &row("s", "3"),
        "DELETE FROM solid_cable_messages",
        "SELECT nextval('solid_cable_messages_id_seq')",
        "SELECT setval('tablecast_wake', 1)",
        "SELECT * FROM tablecast_idempotency_keys",
        "SELECT tablecast_publish_insert()",
    ] {
        assert!(error_as(&database, &worker, forbidden).contains("permission denied"), "{forbidden}");
    }
}

#[test]
fn a_worker_with_insert_on_rails_table_alone_is_as_good() {
    let (database, _server, mut socket) = listening();
    let worker = database.user("worker");
    database.sql(&format!(
        "GRANT INSERT ON solid_cable_messages TO {worker}; GRANT USAGE ON SEQUENCE solid_cable_messages_id_seq TO {worker}"
    ));
    let sql = row("s", "1").replace("ON CONFLICT DO NOTHING RETURNING id", "");
    assert_eq!(error_as(&database, &worker, &sql), "");
    expect(&mut socket, &["1"]);
}

#[test]
fn a_fenced_role_writes_its_own_prefix_and_nothing_else() {
    let database = migrated();
    migrate(&database, &["--fence=staging", "--fence", "pre-prod"]);
    let worker = database.user("worker");
    database.sql(&format!("GRANT INSERT ON tablecast_publish_staging TO {worker}"));
    let fenced = "INSERT INTO tablecast_publish_staging (stream, data)";
    let attempt = format!(
        "SET tablecast.channel_prefix = 'production'; {fenced} VALUES ('s', '1'), ('production:s', '2')"
    );
    assert_eq!(error_as(&database, &worker, &attempt), "");
    for (forbidden, error) in [
        (publish("3").as_str(), "permission denied for view tablecast_publish"),
        ("INSERT INTO \"tablecast_publish_pre-prod\" (stream, data) VALUES ('s', '3')", "permission denied"),
        ("INSERT INTO tablecast_publish_staging (stream, data, prefix) VALUES ('s', '3', 'x')", "column \"prefix\""),
        (&row("production:s", "3"), "permission denied"),
        ("CREATE VIEW pg_temp.mine (stream, data, prefix, id) AS SELECT NULL::text, NULL::text, NULL::text, NULL::int8;
          CREATE TRIGGER t INSTEAD OF INSERT ON mine FOR EACH ROW EXECUTE FUNCTION public.tablecast_publish_insert()", "permission denied"),
        (&format!("{fenced} VALUES ('action_cable/1', '3')"), "action_cable/"),
        (&format!("{fenced} VALUES ('s', 'nope')"), "invalid input syntax for type json"),
    ] {
        let found = error_as(&database, &worker, forbidden);
        assert!(found.contains(error), "{forbidden}: {found}");
    }
    assert_eq!(channels(&database), "staging:s staging:production:s");
}

/// It runs with its owner's rights: nothing of the caller's may come in front.
#[test]
fn a_callers_own_tables_functions_and_operators_are_not_used() {
    let database = migrated();
    let worker = database.user("worker");
    database.sql(&format!(
        "GRANT INSERT ON tablecast_publish TO {worker}; CREATE SCHEMA evil AUTHORIZATION {worker}"
    ));
    let attack = "
        SET search_path = pg_temp, evil, public, pg_catalog;
        CREATE TABLE evil.seen (who text);
        CREATE TEMP TABLE solid_cable_messages (id bigint, channel bytea, payload bytea, created_at timestamp, channel_hash bigint);
        CREATE FUNCTION evil.strpos(text, text) RETURNS int LANGUAGE plpgsql AS $$ BEGIN INSERT INTO evil.seen VALUES (current_user); RETURN 0; END $$;
        CREATE FUNCTION evil.same(text, text) RETURNS bool LANGUAGE plpgsql AS $$ BEGIN INSERT INTO evil.seen VALUES (current_user); RETURN false; END $$;
        CREATE FUNCTION evil.plus(int, int) RETURNS int LANGUAGE plpgsql AS $$ BEGIN INSERT INTO evil.seen VALUES (current_user); RETURN 1; END $$;
        CREATE OPERATOR evil.= (LEFTARG = text, RIGHTARG = text, FUNCTION = evil.same);
        CREATE OPERATOR evil.+ (LEFTARG = int, RIGHTARG = int, FUNCTION = evil.plus);
        CREATE DOMAIN evil.json AS text;
        INSERT INTO public.tablecast_publish (stream, data, prefix) VALUES ('s', '1', '');";
    assert_eq!(error_as(&database, &worker, attack), "");
    assert_eq!(channels(&database), "s");
    assert_eq!(database.sql("SELECT count(*) FROM evil.seen"), "0");
}

#[test]
fn a_role_that_owns_neither_table_nor_view_can_serve_with_what_check_names() {
    let database = migrated();
    let role = database.user("server");
    let url = database.url_as(&role, PASSWORD);
    let check = || {
        let output = crate::support::tablecast()
            .args(["check", "--public-streams=*", "--database-url", &url])
            .output()
            .unwrap();
        let said = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8(said).unwrap())
    };
    // Each answer names a GRANT; after all of them it is well.
    let mut granted = Vec::new();
    let said = loop {
        let (good, said) = check();
        let grants: Vec<String> = said
            .lines()
            .filter_map(|line| line.split_once("GRANT ").map(|(_, grant)| grant.to_owned()))
            .map(|grant| {
                format!("GRANT {}", grant.split(&format!("TO {role}")).next().unwrap()) + "TO " + &role
            })
            .collect();
        if good {
            break said;
        }
        assert!(!grants.is_empty() && granted.len() < 10, "{said}\nafter {granted:?}");
        for grant in grants {
            database.sql(&grant);
            granted.push(grant);
        }
    };
    assert!(granted.len() > 2, "{said}");

    let old = "INSERT INTO solid_cable_messages (channel, payload, created_at, channel_hash) VALUES ('old', '1', '2000-01-01', 0)";
    database.sql(old);
    let server = crate::support::server().database_url(&url).open().arg("--wake=notify").start();
    let mut socket = listen(&server);
    let late = database.begin(&publish("0"));
    database.sql(&publish("1"));
    let headers = [("Content-Type", "application/json"), ("Idempotency-Key", "k")];
    let answer = crate::support::request(
        server.internal,
        "POST",
        "/broadcast",
        &headers,
        br#"{"stream":"s","data":2}"#,
    );
    assert_eq!(answer.status, 201, "{answer:?}");
    expect(&mut socket, &["1", "2"]);
    late.commit();
    expect(&mut socket, &["0"]);
    until("it trims", || {
        database.sql("SELECT count(*) FROM solid_cable_messages WHERE channel = 'old'") == "0"
    });
    assert!(!server.log().contains("WARN"), "{}", server.log());
}

#[test]
fn rails_table_alone_is_served_and_says_what_is_missing() {
    let database = postgres::shared().database();
    database.sql(RAILS);
    let server = serve(&database).start();
    let mut socket = listen(&server);
    database.sql(&row("s", "1"));
    assert_eq!(server.publish(r#"{"stream":"s","data":2}"#).status, 201);
    expect(&mut socket, &["1", "2"]);
    assert!(server.log().contains("tablecast migrate"), "{}", server.log());
    let headers = [("Content-Type", "application/json"), ("Idempotency-Key", "k")];
    let answer = crate::support::request(
        server.internal,
        "POST",
        "/broadcast",
        &headers,
        br#"{"stream":"s","data":3}"#,
    );
    assert!(answer.problem(422).contains("tablecast migrate"), "{answer:?}");
}

/// Whoever may CREATE in a schema of our search_path can lend operators that fit better than
/// PostgreSQL's own; none may run with the rights of a server.
#[test]
fn operators_that_others_made_are_not_run_by_the_server() {
    let database = migrated();
    database.sql(
        "CREATE TABLE caught (what text);
         CREATE FUNCTION f(float8, int4) RETURNS float8 LANGUAGE plpgsql AS
           $$ BEGIN INSERT INTO caught VALUES ('*'); RETURN $1 OPERATOR(pg_catalog.*) $2::float8; END $$;
         CREATE OPERATOR * (leftarg = float8, rightarg = int4, function = f);
         CREATE FUNCTION g(int8, float8) RETURNS boolean LANGUAGE plpgsql AS
           $$ BEGIN INSERT INTO caught VALUES ('>'); RETURN true; END $$;
         CREATE OPERATOR > (leftarg = int8, rightarg = float8, function = g);
         CREATE FUNCTION h(oid, regclass) RETURNS boolean LANGUAGE plpgsql AS
           $$ BEGIN INSERT INTO caught VALUES ('='); RETURN $1 OPERATOR(pg_catalog.=) $2::oid; END $$;
         CREATE OPERATOR = (leftarg = oid, rightarg = regclass, function = h)",
    );

    let server = serve(&database).start();
    let mut socket = listen(&server);
    // It goes to sleep, for which it has a deadline to compute.
    let armed = || database.sql("SELECT last_value > 0 FROM tablecast_wake") == "t";
    until("the tail asks to be notified", armed);
    assert_eq!(server.publish(r#"{"stream":"s","data":1}"#).status, 201);
    expect(&mut socket, &["1"]);

    assert_eq!(database.sql("SELECT count(*) FROM caught"), "0");
}
