//! What can't be served is refused, with what to change and without a password.

use super::{RAILS, migrated, serve};
use crate::support::{Builder, Database, PASSWORD, postgres, server, tablecast};

/// What `serve` says instead of serving.
fn refusal(builder: Builder) -> String {
    let said = builder.try_start().err().expect("it is refused");
    assert!(!said.contains(PASSWORD), "{said}");
    assert_eq!(said.lines().count(), 1, "{said}");
    said
}

fn refusal_at(url: &str) -> String {
    refusal(server().database_url(url))
}

#[track_caller]
fn assert_names(said: &str, parts: &[&str]) {
    for part in parts {
        assert!(said.contains(part), "{part:?} is not in {said}");
    }
}

fn prepared(sql: &str) -> Database {
    let database = postgres::shared().database();
    database.sql(sql);
    database
}

#[test]
fn a_wrong_url_says_what_is_wrong_with_it() {
    let database = migrated();
    let good = database.url();
    assert_names(
        &refusal_at(&database.url_as("admin", "wrong-secret").replace("secret", "pass")),
        &["refused the login", "user and password"],
    );
    assert_names(&refusal_at(&database.url_as("nobody_here", "x")), &["refused the login"]);
    assert_names(
        &refusal_at(&good.replace(&database.name, "missing")),
        &["there is no such database", "missing"],
    );
    let closed = database.address.to_string();
    assert_names(
        &refusal_at(&good.replace(&closed, "127.0.0.1:1")),
        &["can't be reached", "host and port", "127.0.0.1:1"],
    );
    assert_names(&refusal_at(&good.replace(&closed, "no-such-host.invalid")), &["can't be reached"]);
    for url in [
        format!("mysql://root:{PASSWORD}@127.0.0.1/x"),
        format!("{good}?sslmod=require"),
        good.replace("postgres:", "postgre:"),
        format!("postgres://admin:{PASSWORD}@127.0.0.1:port/x"),
    ] {
        let output = tablecast().args(["serve", "--database-url", &url]).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success());
        assert!(said.contains("database-url") && !said.contains(PASSWORD), "{url}: {said}");
    }
}

#[test]
fn a_url_without_a_host_leads_where_libpq_would_go() {
    let database = migrated();
    let folder = database.sql("SHOW unix_socket_directories");
    let (port, name) = (database.address.port(), &database.name);
    for url in [
        format!("postgres://admin:{PASSWORD}@:{port}/{name}"),
        format!("postgres:///{name}?user=admin&password={PASSWORD}&port={port}"),
        format!("postgres://admin:{PASSWORD}@/{name}?port={port}&host={folder}"),
    ] {
        let mut check = tablecast();
        check.args(["check", "--public-streams=*", "--database-url", &url]);
        // The last one names the folder by itself.
        check.env("PGHOST", if url.contains("host=") { "no-such-host.invalid" } else { &folder });
        let output = check.output().unwrap();
        assert!(output.status.success(), "{url}: {output:?}");
        assert_names(&String::from_utf8_lossy(&output.stdout), &[&format!("PostgreSQL {folder}/{name}")]);
    }
}

#[test]
fn a_table_that_cannot_be_followed_says_why() {
    let without = |column: &str| {
        let table = RAILS.lines().find(|line| line.contains("CREATE TABLE")).unwrap();
        format!("{table} ALTER TABLE solid_cable_messages DROP COLUMN {column}")
    };
    for (sql, parts) in [
        ("", &["there is no table solid_cable_messages", "tablecast migrate", "serve --migrate"][..]),
        ("CREATE VIEW solid_cable_messages AS SELECT 1", &["is a view", "--table"]),
        ("CREATE TABLE solid_cable_messages (id bigserial) PARTITION BY RANGE (id)", &["partitioned"]),
        (&without("channel_hash"), &["no column channel_hash", "solid_cable:update"]),
        (&without("created_at"), &["no column created_at"]),
        (&format!("{RAILS} ALTER TABLE solid_cable_messages ALTER channel TYPE text USING 's'"), &["column channel", "text", "bytea"]),
        (&format!("{RAILS} ALTER TABLE solid_cable_messages ADD tenant int NOT NULL"), &["column tenant"]),
        (&format!("{RAILS} ALTER TABLE solid_cable_messages ALTER id DROP DEFAULT"), &["isn't drawn from a sequence"]),
        (&format!("{RAILS} CREATE TABLE heir () INHERITS (solid_cable_messages)"), &["heirs"]),
        (&format!("{RAILS} ALTER SEQUENCE solid_cable_messages_id_seq INCREMENT -1"), &["doesn't ascend"]),
        (&format!("{RAILS} CREATE SUBSCRIPTION tablecast_test CONNECTION 'dbname=x' PUBLICATION p WITH (connect = false);
                   SET allow_system_table_mods = on;
                   INSERT INTO pg_subscription_rel SELECT s.oid, 'solid_cable_messages'::regclass, 'r', NULL FROM pg_subscription AS s WHERE subname = 'tablecast_test'"),
         &["logical replication"]),
    ] {
        let database = prepared(sql);
        assert_names(&refusal(serve(&database)), parts);
        let check = tablecast().args(["check", "--database-url", &database.url()]).output().unwrap();
        assert_eq!(check.status.code(), Some(1), "{sql}");
        assert_names(&String::from_utf8_lossy(&check.stderr), parts);
    }
}

#[test]
fn a_role_that_sees_no_rows_or_not_all_is_refused() {
    let database = migrated();
    let role = database.user("server");
    let url = database.url_as(&role, PASSWORD);
    assert_names(&refusal_at(&url), &[&role, "GRANT SELECT, INSERT, UPDATE, DELETE ON"]);
    database.sql(&format!("GRANT SELECT, INSERT, DELETE ON solid_cable_messages TO {role}"));
    assert_names(&refusal_at(&url), &["sequence", "GRANT USAGE, SELECT ON SEQUENCE"]);
    database.sql(&format!("GRANT USAGE, SELECT ON SEQUENCE solid_cable_messages_id_seq TO {role}; ALTER TABLE solid_cable_messages ENABLE ROW LEVEL SECURITY"));
    assert_names(&refusal_at(&url), &["row level security", "BYPASSRLS"]);
}

#[test]
fn an_encoding_that_is_not_utf8_is_refused() {
    let name = postgres::shared().database().name + "_ascii";
    postgres::shared().sql(&format!("CREATE DATABASE {name} ENCODING 'SQL_ASCII' TEMPLATE template0"));
    let database = postgres::shared().named(&name);
    assert_names(&refusal(serve(&database)), &["SQL_ASCII", "UTF8"]);
    let output = super::try_migrate(&database.url(), &[]);
    assert_names(&String::from_utf8_lossy(&output.stderr), &["SQL_ASCII"]);
}

#[test]
fn a_standby_is_refused() {
    let primary = postgres::server().start();
    let database = primary.database();
    super::migrate(&database, &[]);
    let replica = primary.replica();
    replica.wait_for_replay(&primary);
    assert_names(&refusal(serve(&database.at(replica.address))), &["standby", "primary"]);
}

#[test]
fn where_tls_is_required_the_url_says_how() {
    let postgres = postgres::server().start();
    let database = postgres.database();
    super::migrate(&database, &[]);
    let in_its_folder = |command: &str| {
        database.sql(&format!(
            "COPY (SELECT 'hostssl all all 127.0.0.1/32 scram-sha-256') TO PROGRAM '{command}'"
        ));
    };
    in_its_folder(
        "openssl req -x509 -newkey rsa:2048 -nodes -subj /CN=localhost -days 9 -keyout server.key -out server.crt 2>/dev/null; chmod 600 server.key",
    );
    database.sql("ALTER SYSTEM SET ssl = on");
    in_its_folder("cat >pg_hba.conf");
    database.sql("SELECT pg_reload_conf()");
    let url = database.url();
    crate::support::until("it wants TLS", || !database_takes(&format!("{url}?sslmode=disable")));
    assert_names(&refusal_at(&format!("{url}?sslmode=disable")), &["wants TLS", "sslmode=require"]);
    assert_names(&refusal_at(&format!("{url}?sslmode=verify-full")), &["TLS failed", "sslrootcert"]);
    for url in [url.clone(), format!("{url}?sslmode=require")] {
        let server = server().database_url(&url).open().start();
        let mut socket = super::listen(&server);
        database.sql(&super::publish("1"));
        super::expect(&mut socket, &["1"]);
    }
}

fn database_takes(url: &str) -> bool {
    let mut psql = std::process::Command::new("psql");
    psql.args(["-XAtq", "-d", url, "-c", "SELECT 1"]).output().unwrap().status.success()
}

#[test]
fn a_server_without_tls_that_is_asked_for_it_is_refused() {
    let database = migrated();
    assert_names(&refusal_at(&format!("{}?sslmode=require", database.url())), &["TLS"]);
}
