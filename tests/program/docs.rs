//! What the documents tell people to type.

use std::path::Path;

use crate::support::{Database, mariadb, postgres, pubsub, server, sqlite3, tablecast};

/// The statements of docs/sql.md that are for a database: those that name it, and those
/// that name none.
fn statements(database: &str) -> Vec<String> {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/sql.md");
    let page = std::fs::read_to_string(page).unwrap();
    let mut found = Vec::new();
    let mut rest = page.as_str();
    while let Some((_, block)) = rest.split_once("```sql") {
        let (head, block) = block.split_once('\n').unwrap();
        let (sql, after) = block.split_once("```").unwrap();
        if head.trim().is_empty() || head.trim() == database {
            found.push(sql.to_owned());
        }
        rest = after;
    }
    assert!(found.len() > 2, "the page has statements for {database}");
    found
}

fn migrate(url: &str, arguments: &[&str]) {
    let migrated = tablecast().args(["migrate", "--database-url", url]).args(arguments).output().unwrap();
    assert!(migrated.status.success(), "{}", String::from_utf8_lossy(&migrated.stderr));
}

/// A server that logs in as the role that the page makes for it serves, publishes and finds
/// nothing wrong.
fn the_role_of_a_server_is_enough(database: &Database) {
    let url = database.url_as("docs_server", "secret");
    let server = server().open().database_url(&url).start();
    let (mut page, identifier) = (server.connect(), pubsub("progress:42"));
    page.subscribe(&identifier);
    assert_eq!(server.publish(r#"{"stream":"progress:42","data":1}"#).status, 201);
    assert_eq!(page.message(&identifier), "1");

    let check =
        tablecast().args(["check", "--database-url", &url, "--public-streams", "*"]).output().unwrap();
    assert!(check.status.success(), "{}", String::from_utf8_lossy(&check.stdout));
}

#[test]
fn the_statements_for_postgresql_do_what_they_say() {
    let database = postgres::shared().database();
    migrate(&database.url(), &["--fence", "staging"]);
    for sql in statements("postgresql") {
        // COPY FROM STDIN reads on in the shell's own input.
        let sql = sql.replace("FROM STDIN;\n", "FROM STDIN;\nprogress:42\t{\"percent\": 90}\n\\.\n");
        database.sql(&sql);
    }

    assert_eq!(
        database.sql("SELECT count(*) FROM solid_cable_messages WHERE channel = 'staging:progress:42'"),
        "2"
    );
    let insert = |role: &str, view: &str| {
        let sql = format!("SET ROLE {role}; INSERT INTO {view} (stream, data) VALUES ('a', '1')");
        database.try_sql(&sql).status.success()
    };
    assert!(insert("docs_worker", "tablecast_publish"));
    assert!(insert("docs_staging", "tablecast_publish_staging"));
    assert!(!insert("docs_staging", "tablecast_publish"));
    the_role_of_a_server_is_enough(&database);
}

#[test]
fn the_statements_for_mariadb_do_what_they_say() {
    let database = mariadb::shared().database();
    migrate(&database.url(), &["--fence", "staging"]);
    for sql in statements("mysql") {
        database.sql(&sql.replace("`app`", &format!("`{}`", database.name)));
    }

    assert_eq!(
        database.sql("SELECT count(*) FROM solid_cable_messages WHERE channel = 'staging:progress:42'"),
        "2"
    );
    // Who may make it all.
    migrate(&database.url_as("docs_owner", "secret"), &[]);
    the_role_of_a_server_is_enough(&database);
}

#[test]
fn the_statements_for_sqlite_do_what_they_say() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("docs.db");
    migrate(&format!("sqlite:{}", path.display()), &[]);
    for sql in statements("sqlite") {
        sqlite3(&path, &sql);
    }
    assert_eq!(sqlite3(&path, "SELECT count(*) FROM solid_cable_messages WHERE id > 0"), "7");
}
