//! What can't be served is refused, with what to change and without a password.

use super::{RAILS, migrate, migrated, serve};
use crate::support::{Builder, Database, PASSWORD, mariadb, server, tablecast};

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
    let database = mariadb::shared().database();
    if !sql.is_empty() {
        database.sql(sql);
    }
    database
}

#[test]
fn a_wrong_url_says_what_is_wrong_with_it() {
    let database = migrated();
    let good = database.url();
    assert_names(
        &refusal_at(&database.url_as("admin", "wrong")),
        &["refused the login", "user and password"],
    );
    assert_names(&refusal_at(&database.url_as("nobody_here", "x")), &["refused the login"]);
    assert_names(
        &refusal_at(&good.replace(&database.name, "missing")),
        &["there is no such database", "missing"],
    );
    let open = database.address.to_string();
    assert_names(
        &refusal_at(&good.replace(&open, "127.0.0.1:1")),
        &["can't be reached", "host and port", "127.0.0.1:1"],
    );
    assert_names(&refusal_at(&good.replace(&open, "no-such-host.invalid")), &["can't be reached"]);
    for url in [
        format!("{good}?ssl_mod=required"),
        good.replace("mysql:", "mysq:"),
        format!("mysql://admin:{PASSWORD}@127.0.0.1"),
        format!("mysql://admin:{PASSWORD}@127.0.0.1:port/x"),
        format!("mysql://admin:{PASSWORD}@/x"),
    ] {
        let output = tablecast().args(["serve", "--database-url", &url]).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success());
        assert!(said.contains("database-url") && !said.contains(PASSWORD), "{url}: {said}");
    }
}

#[test]
fn every_spelling_of_a_url_serves() {
    let database = migrated();
    for scheme in ["mysql", "mysql2", "trilogy", "mariadb"] {
        let url = database.url().replacen("mysql:", &format!("{scheme}:"), 1);
        let url = format!("{url}?pool=5&encoding=utf8mb4&timeout=5000&ssl_mode=preferred");
        let server = server().database_url(&url).open().start();
        assert!(server.said.iter().any(|line| line.contains("MariaDB 127.0.0.1")), "{:?}", server.said);
    }
    let folder = database.sql("SELECT @@socket");
    for host in ["localhost", ""] {
        let url = format!("mysql://admin:{PASSWORD}@{host}/{}?socket={folder}", database.name);
        server().database_url(&url).open().start();
    }
}

#[test]
fn a_table_that_cannot_be_followed_says_why() {
    let altered = |how: &str| format!("{RAILS} ALTER TABLE solid_cable_messages {how}");
    for (sql, parts) in [
        ("", &["there is no table solid_cable_messages", "tablecast migrate", "serve --migrate"][..]),
        ("CREATE VIEW solid_cable_messages AS SELECT 1 AS id", &["is a view", "--table"]),
        (&altered("PARTITION BY HASH (id) PARTITIONS 2"), &["partitioned"]),
        (&altered("ENGINE = MyISAM"), &["MyISAM", "ENGINE = InnoDB"]),
        (&altered("DROP COLUMN channel_hash"), &["no column channel_hash", "solid_cable:update"]),
        (&altered("DROP COLUMN created_at"), &["no column created_at"]),
        (&altered("CHANGE id number bigint AUTO_INCREMENT"), &["no column id"]),
        (&altered("MODIFY channel varchar(500) NOT NULL"), &["column channel", "varchar", "varbinary"]),
        (&altered("MODIFY payload longtext NOT NULL"), &["column payload", "longtext", "longblob"]),
        (
            &altered("DROP channel_hash, ADD channel_hash bigint AS (LENGTH(channel))"),
            &["column channel_hash", "generated"],
        ),
        (&altered("MODIFY id bigint NOT NULL"), &["AUTO_INCREMENT"]),
        (&altered("DROP PRIMARY KEY, ADD PRIMARY KEY (created_at, id), ADD INDEX (id)"), &["primary key"]),
        (&altered("ADD tenant int NOT NULL"), &["column tenant"]),
    ] {
        let database = prepared(sql);
        assert_names(&refusal(serve(&database)), parts);
        let check = tablecast().args(["check", "--database-url", &database.url()]).output().unwrap();
        assert_eq!(check.status.code(), Some(1), "{sql}");
        assert_names(&String::from_utf8_lossy(&check.stderr), parts);
    }
}

#[test]
fn columns_that_harm_nobody_are_let_be() {
    let database = prepared(&format!(
        "{RAILS} ALTER TABLE solid_cable_messages ADD note text, ADD tenant int NOT NULL DEFAULT 7, ADD size int AS (LENGTH(payload))"
    ));
    serve(&database).start();
}

#[test]
fn an_account_without_rights_hears_the_grant() {
    let database = migrated();
    let account = database.user("server");
    let url = database.url_as(&account, PASSWORD);
    assert_names(&refusal_at(&url), &[&account, "Access denied"]);
    database.sql(&format!("GRANT SELECT ON tablecast_defaults TO {account}"));
    let grant = format!(
        "GRANT SELECT, INSERT, DELETE ON `{}`.solid_cable_messages TO '{account}'@'%'",
        database.name
    );
    assert_names(&refusal_at(&url), &[&account, &grant]);
    database.sql(&format!("GRANT SELECT ON solid_cable_messages TO {account}"));
    let check = tablecast().args(["check", "--database-url", &url]).output().unwrap();
    let said = String::from_utf8_lossy(&check.stdout);
    for line in said.lines().filter_map(|line| Some(line.split_once("GRANT ")?.1)) {
        for grant in line.split("; GRANT ") {
            let grant = grant.split(", or --retention").next().unwrap();
            database.sql(&format!("GRANT {grant}"));
        }
    }
    let check = tablecast().args(["check", "--public-streams=*", "--database-url", &url]).output().unwrap();
    assert_eq!(check.status.code(), Some(0), "what it advises is enough: {check:?}");
}

#[test]
fn a_server_that_is_read_only_is_refused() {
    let mariadb = mariadb::server().start();
    let database = mariadb.database();
    migrate(&database, &[]);
    mariadb.sql("SET GLOBAL read_only = 1");
    assert_names(&refusal(serve(&database)), &["read_only", "primary"]);
}

#[test]
fn settings_that_may_harm_are_named() {
    let mariadb =
        mariadb::server().with("max-allowed-packet", "1M").with("auto-increment-increment", "2").start();
    let database = mariadb.database();
    migrate(&database, &[]);
    let check = tablecast()
        .args(["check", "--public-streams=*", "--database-url", &database.url()])
        .output()
        .unwrap();
    assert_eq!(check.status.code(), Some(1));
    let said = String::from_utf8_lossy(&check.stdout);
    assert_names(&said, &["max_allowed_packet", "auto_increment_increment is 2"]);
}

#[test]
fn notifications_are_refused_since_there_are_none() {
    assert_names(&refusal(serve(&migrated()).arg("--wake=notify")), &["--wake notify", "--wake auto"]);
}

#[test]
fn where_tls_is_required_the_url_says_how() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| folder.path().join(name).display().to_string();
    let made = std::process::Command::new("openssl")
        .args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=localhost", "-days", "9"])
        .args(["-addext", "basicConstraints=critical,CA:FALSE"])
        .args(["-keyout", &file("key"), "-out", &file("certificate")])
        .output()
        .unwrap();
    assert!(made.status.success(), "{made:?}");
    use std::os::unix::fs::PermissionsExt;
    for (name, mode) in [("", 0o755), ("key", 0o644)] {
        std::fs::set_permissions(folder.path().join(name), std::fs::Permissions::from_mode(mode)).unwrap();
    }
    let mariadb =
        mariadb::server().with("ssl-cert", &file("certificate")).with("ssl-key", &file("key")).start();
    let database = mariadb.database();
    migrate(&database, &[]);
    let url = database.url();
    assert_names(&refusal_at(&format!("{url}?ssl-mode=verify_ca")), &["TLS failed", "ssl-ca"]);
    mariadb.sql("SET GLOBAL require_secure_transport = 1");
    assert_names(&refusal_at(&format!("{url}?ssl-mode=disabled")), &["without TLS", "ssl-mode=required"]);
    let verified = format!("{url}?ssl-mode=verify_ca&ssl-ca={}", file("certificate"));
    for url in [url.clone(), format!("{url}?ssl-mode=required"), verified] {
        let server = server().database_url(&url).open().start();
        let mut socket = super::listen(&server);
        assert_eq!(server.publish(r#"{"stream":"s","data":1}"#).status, 201);
        super::expect(&mut socket, &["1"]);
    }
}
