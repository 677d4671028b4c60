//! What the documents tell people to type.

use std::collections::HashMap;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use crate::support::{Database, Server, mariadb, postgres, pubsub, server, sqlite3, tablecast};

fn page(path: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
}

/// What stands in a page's blocks of a language.
fn blocks<'a>(page: &'a str, language: &str) -> Vec<&'a str> {
    let begin = format!("```{language}\n");
    page.split(begin.as_str()).skip(1).map(|block| block.split("```").next().unwrap()).collect()
}

/// What a page shows in a terminal: a command, and the lines that it prints.
fn session(page: &str) -> Vec<(String, Vec<String>)> {
    let mut steps: Vec<(String, Vec<String>)> = Vec::new();
    for block in blocks(page, "console") {
        let mut goes_on = false;
        for line in block.lines() {
            if let Some(command) = line.strip_prefix("$ ") {
                steps.push((command.to_owned(), Vec::new()));
            } else {
                let (command, prints) = steps.last_mut().expect("a session begins with a command");
                if goes_on {
                    command.push('\n');
                    command.push_str(line);
                } else {
                    prints.push(line.to_owned());
                }
            }
            goes_on = line.ends_with('\\') || line.ends_with("<<'SQL'") || goes_on && line.contains("INSERT");
        }
    }
    steps
}

/// A line's words that look like positions.
fn positions(line: &str) -> Vec<&str> {
    let is_of_one = |c: char| c.is_ascii_alphanumeric() || "-_".contains(c);
    line.split(|c| !is_of_one(c)).filter(|word| word.len() >= 18 && word.starts_with('a')).collect()
}

/// Types what a page shows, where it is for a server that runs: it prints what the page says, but for its positions,
/// which are also others in the commands that follow.
fn type_in(steps: Vec<(String, Vec<String>)>, server: &Server) {
    let mut known: HashMap<String, String> = HashMap::new();
    let path = Path::new(env!("CARGO_BIN_EXE_tablecast")).parent().unwrap();
    let path = format!("{}:{}", path.display(), std::env::var("PATH").unwrap());
    for (command, prints) in steps {
        if !["curl ", "sqlite3 ", "tablecast publish "].iter().any(|name| command.starts_with(name)) {
            continue;
        }
        let mut typed = command
            .replace("127.0.0.1:8080", &server.public.to_string())
            .replace("127.0.0.1:8081", &server.internal.to_string());
        for (shown, real) in &known {
            typed = typed.replace(shown, real);
        }
        let mut shell = Command::new("sh");
        shell.args(["-c", &format!("exec {typed}")]).current_dir(server.folder());
        shell.env_clear().env("PATH", &path).stdout(Stdio::piped());
        let mut shell = shell.spawn().unwrap();
        let mut lines = BufReader::new(shell.stdout.take().unwrap()).lines();
        for shown in &prints {
            let line = lines.next().unwrap_or_else(|| panic!("{typed} does not print {shown}")).unwrap();
            let (mut shown, mut rest) = (shown.clone(), line.as_str());
            for (position, real) in positions(&shown.clone()).into_iter().zip(positions(&line)) {
                shown = shown.replace(position, real);
                known.insert(position.to_owned(), real.to_owned());
            }
            // What is left out may be anything.
            for part in shown.split('…') {
                let at = rest.find(part).unwrap_or_else(|| panic!("{typed}\nprints {line}\nnot    {shown}"));
                rest = &rest[at + part.len()..];
            }
        }
        if command.contains(" -sN") {
            // It would go on for ever.
            shell.kill().unwrap();
            shell.wait().unwrap();
        } else {
            assert!(shell.wait().unwrap().success(), "{typed}");
        }
    }
}

#[test]
fn what_the_readme_shows_is_what_comes() {
    let readme = page("README.md");
    let server = server().arg("--public-channel=ProgressChannel=progress:{job_id}").start();

    type_in(session(&readme), &server);

    assert_eq!(server.metric("tablecast_resumes_total{result=\"resumed\"}"), 1.0);
}

#[test]
fn what_the_page_on_resuming_shows_is_what_comes() {
    let resume = page("docs/resume.md");
    let server = server().config(blocks(&resume, "toml")[0]).start();
    for data in ["\"one\"", "\"two\"", "\"three\""] {
        server.insert("log:42", data);
    }

    type_in(session(&resume), &server);
}

/// The statements of docs/sql.md that are for a database: those that name it, and those
/// that name none.
fn statements(database: &str) -> Vec<String> {
    let page = page("docs/sql.md");
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
