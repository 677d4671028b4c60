//! The table: Solid Cable's, whoever made it.

use std::process::Command;
use std::time::Duration;

use crate::support::{Server, begin, pubsub, server, sqlite3, tablecast};

const RAILS: &str = r#"CREATE TABLE "solid_cable_messages" ("id" integer PRIMARY KEY AUTOINCREMENT NOT NULL, "channel" blob(1024) NOT NULL, "payload" blob(536870912) NOT NULL, "created_at" datetime(6) NOT NULL, "channel_hash" integer(8) NOT NULL)"#;
/// Up to 3.0.0.
const RAILS_WITH_UPDATED_AT: &str = r#"CREATE TABLE "solid_cable_messages" ("id" integer PRIMARY KEY AUTOINCREMENT NOT NULL, "channel" blob(1024) NOT NULL, "payload" blob(536870912) NOT NULL, "created_at" datetime(6) NOT NULL, "updated_at" datetime(6) NOT NULL, "channel_hash" integer(8) NOT NULL)"#;
/// An early one that the update generator has converted.
const RAILS_CONVERTED: &str = r#"CREATE TABLE "solid_cable_messages" ("id" integer PRIMARY KEY AUTOINCREMENT NOT NULL, "channel" blob(1024) NOT NULL, "payload" blob(536870912) NOT NULL, "created_at" datetime(6) NOT NULL, "updated_at" datetime(6) NOT NULL, "channel_hash" integer(8))"#;

fn columns(server: &Server) -> String {
    server.sql("SELECT name, type, \"notnull\", pk FROM pragma_table_info('solid_cable_messages')")
}

#[test]
fn the_table_is_solid_cables_column_for_column() {
    let ours = server().start();
    let rails = server();
    sqlite3(&rails.database(), RAILS);
    let rails = rails.start();

    assert_eq!(columns(&ours), columns(&rails));
    let indexes = "SELECT name FROM sqlite_master WHERE type = 'index' AND tbl_name = 'solid_cable_messages' ORDER BY 1";
    assert_eq!(
        ours.sql(indexes),
        "index_solid_cable_messages_on_channel\nindex_solid_cable_messages_on_channel_hash\nindex_solid_cable_messages_on_created_at"
    );
    assert_eq!(ours.sql("PRAGMA journal_mode"), "wal");
}

#[test]
fn tables_of_every_generation_of_rails_take_every_way_of_publishing() {
    for table in [RAILS, RAILS_WITH_UPDATED_AT, RAILS_CONVERTED] {
        let builder = server().open();
        sqlite3(&builder.database(), table);
        let server = builder.start();
        let mut socket = server.connect();
        socket.subscribe(&pubsub("room:1"));

        server.insert("room:1", "1");
        server.publish(r#"{"stream":"room:1","data":2}"#);

        assert_eq!(socket.message(&pubsub("room:1")), "1");
        assert_eq!(socket.message(&pubsub("room:1")), "2");
        assert_eq!(
            server.sql("SELECT DISTINCT channel_hash, length(created_at), typeof(channel), typeof(payload) FROM solid_cable_messages WHERE id > 0"),
            "4762459634708996067|26|blob|blob"
        );
        if table.contains("updated_at") {
            assert_eq!(
                server.sql(
                    "SELECT count(*) FROM solid_cable_messages WHERE id > 0 AND updated_at = created_at"
                ),
                "2"
            );
        }
    }
}

#[test]
fn hashes_are_right_for_names_of_every_length() {
    let server = server().start();
    let program = r#"
import sqlite3, hashlib, struct, sys, random
random.seed(7)
db = sqlite3.connect(sys.argv[1], timeout=10)
names = ["é" * 30, "🦀:" * 100, "x"] + ["".join(random.choices("abc:é", k=k)) for k in (54, 55, 56, 63, 64, 65, 119, 120, 500)]
db.executemany("INSERT INTO tablecast_publish (stream, data) VALUES (?, 1)", [(n,) for n in names * 2])
db.commit()
rows = db.execute("SELECT channel, channel_hash FROM solid_cable_messages WHERE id > 0").fetchall()
assert len(rows) == len(names) * 2
for channel, found in rows:
    assert found == struct.unpack(">q", hashlib.sha256(channel).digest()[:8])[0], channel
"#;
    let output = crate::support::python(&server.database(), program);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn what_is_added_outlives_rails_schema_load() {
    let server = server().open().start();
    server.insert("s", "1");
    // schema.rb names the tables that Rails found, ours among them, and loads them empty.
    server.sql(&format!(
        r#"DROP TABLE IF EXISTS "solid_cable_messages"; {RAILS};
           DROP TABLE IF EXISTS "tablecast_stream_hashes";
           CREATE TABLE "tablecast_stream_hashes" ("channel" blob NOT NULL, "channel_hash" integer NOT NULL, PRIMARY KEY ("channel"))"#
    ));

    server.insert("s", "2");

    // The hash of "s", computed anew.
    assert_eq!(
        server.sql("SELECT channel, payload, channel_hash FROM solid_cable_messages WHERE id > 0"),
        "s|2|304680751394550461"
    );
}

#[test]
fn migrating_twice_changes_nothing_and_two_at_once_agree() {
    let builder = server();
    let migrate = || {
        let mut command = tablecast();
        command.arg("migrate").current_dir(builder.folder());
        command
    };
    let mut both: Vec<_> = (0..4).map(|_| migrate().spawn().unwrap()).collect();
    assert!(both.iter_mut().all(|child| child.wait().unwrap().success()));
    let version = || sqlite3(&builder.database(), "PRAGMA schema_version");
    let before = version();

    assert!(migrate().status().unwrap().success());
    let printed = migrate().arg("--print").output().unwrap();

    assert_eq!(version(), before);
    assert!(printed.stdout.is_empty() && String::from_utf8_lossy(&printed.stderr).contains("nothing to do"));
}

#[test]
fn a_file_that_another_process_writes_is_waited_for() {
    let builder = server();
    // In SQLite's first journal mode: to leave it, nobody else may write.
    sqlite3(&builder.database(), "CREATE TABLE other (id integer)");
    let writing = begin(&builder.database(), "INSERT INTO other VALUES (1)");
    let mut migrating = tablecast().arg("migrate").current_dir(builder.folder()).spawn().unwrap();
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!(migrating.try_wait().unwrap(), None);

    writing.commit();

    assert!(migrating.wait().unwrap().success());
    assert_eq!(sqlite3(&builder.database(), "PRAGMA journal_mode"), "wal");
}

#[test]
fn print_shows_what_migrate_would_run_and_runs_nothing() {
    let builder = server();
    let print =
        || tablecast().args(["migrate", "--print"]).current_dir(builder.folder()).output().unwrap().stdout;
    let sql = String::from_utf8(print()).unwrap();
    assert!(!builder.database().exists());

    // Run by hand, it is what migrate makes.
    let other = builder.folder().join("by-hand.db");
    sqlite3(&other, &sql);
    let check = tablecast()
        .args(["check", "--public-streams=*", "--database-url=sqlite:by-hand.db"])
        .current_dir(builder.folder())
        .output()
        .unwrap();
    assert!(check.status.success(), "{}", String::from_utf8_lossy(&check.stdout));
    sqlite3(&other, "INSERT INTO tablecast_publish (stream, data) VALUES ('s', '1')");
}

#[test]
fn uninstall_leaves_the_messages_alone() {
    let mut server = server().start();
    server.insert("s", "1");
    server.kill();
    let status = tablecast().args(["migrate", "--uninstall"]).current_dir(server.folder()).status().unwrap();

    assert!(status.success());
    assert_eq!(server.sql("SELECT count(*) FROM solid_cable_messages WHERE id > 0"), "1");
    assert_eq!(server.sql("SELECT count(*) FROM sqlite_master WHERE name LIKE 'tablecast%'"), "0");
}

fn refusal(prepare: impl FnOnce(&std::path::Path), arguments: &[&str]) -> String {
    let builder = server();
    prepare(&builder.database());
    let output = tablecast()
        .args(["serve", "--listen=127.0.0.1:0", "--internal-listen=127.0.0.1:0"])
        .args(arguments)
        .current_dir(builder.folder())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", String::from_utf8_lossy(&output.stdout));
    String::from_utf8(output.stderr).unwrap()
}

#[test]
fn a_database_that_cannot_be_served_is_refused_with_what_to_do() {
    let table = |sql: &'static str| move |database: &std::path::Path| drop(sqlite3(database, sql));
    let nothing = |_: &std::path::Path| {};
    for (error, part) in [
        (
            refusal(|database| std::fs::write(database, "x".repeat(5000)).unwrap(), &[]),
            "not a SQLite database",
        ),
        (refusal(nothing, &["--database-url=sqlite:no/such/folder/x.db"]), "check that its folder exists"),
        (refusal(nothing, &["--database-url=sqlite:."]), "can't be opened"),
        (refusal(table("PRAGMA encoding = 'UTF-16'; CREATE TABLE t (x)"), &[]), "only UTF-8 works"),
        (refusal(table("CREATE VIEW solid_cable_messages AS SELECT 1"), &[]), "is a view, not a table"),
        (
            refusal(
                table(
                    "CREATE TABLE solid_cable_messages (id INTEGER PRIMARY KEY AUTOINCREMENT, channel TEXT, payload TEXT, created_at)",
                ),
                &[],
            ),
            "no column channel_hash",
        ),
        (
            refusal(
                table(
                    "CREATE TABLE solid_cable_messages (id INTEGER PRIMARY KEY AUTOINCREMENT, channel, payload, created_at, channel_hash, tenant INTEGER NOT NULL)",
                ),
                &[],
            ),
            "column tenant",
        ),
        (
            refusal(
                table(
                    "CREATE TABLE solid_cable_messages (id INTEGER PRIMARY KEY, channel, payload, created_at, channel_hash)",
                ),
                &[],
            ),
            "reuses ids",
        ),
    ] {
        assert!(error.contains(part), "{part:?} is not in {error}");
        assert_eq!(error.lines().count(), 1, "{error}");
    }
}

#[test]
fn another_table_can_be_named_but_publishing_by_sql_has_one() {
    let server = server().open().arg("--table=other_messages").start();
    let mut socket = server.connect();
    socket.subscribe(&pubsub("s"));
    server.insert("s", "1");
    assert_eq!(socket.message(&pubsub("s")), "1");
    assert_eq!(server.sql("SELECT count(*) FROM other_messages WHERE id > 0"), "1");

    let output = tablecast().arg("migrate").current_dir(server.folder()).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("--table other_messages"));
}

/// As a user without the right to write: root may do anything, so somebody else is asked.
#[test]
fn a_file_that_cannot_be_written_is_refused_with_what_to_do() {
    let builder = server();
    sqlite3(&builder.database(), RAILS);
    let permissions = |path: &std::path::Path, mode| {
        std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
    };
    permissions(builder.folder(), 0o555);
    permissions(&builder.database(), 0o444);
    let binary = builder.folder().join("tablecast");
    permissions(builder.folder(), 0o755);
    std::fs::copy(env!("CARGO_BIN_EXE_tablecast"), &binary).unwrap();
    permissions(builder.folder(), 0o555);
    let is_root =
        std::fs::metadata("/proc/self").is_ok_and(|it| std::os::unix::fs::MetadataExt::uid(&it) == 0);
    let mut command = if is_root {
        let mut command = Command::new("setpriv");
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(&binary);
        command
    } else {
        Command::new(&binary)
    };
    let output = command
        .args(["serve", "--listen=127.0.0.1:0", "--internal-listen=127.0.0.1:0"])
        .current_dir(builder.folder())
        .output()
        .unwrap();
    permissions(builder.folder(), 0o755);

    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{error}");
    assert!(error.contains("can't be written") || error.contains("can't be opened"), "{error}");
}
