//! Trimming: one's own old rows, and never more.

use crate::support::{Server, server, sqlite3, tablecast, until};

/// A table with old and young rows of two prefixes and of none, made before the server starts.
fn seeded(folder: &std::path::Path, made_by_rails: bool) {
    let database = folder.join("tablecast.db");
    if made_by_rails {
        sqlite3(
            &database,
            r#"CREATE TABLE "solid_cable_messages" ("id" integer PRIMARY KEY AUTOINCREMENT NOT NULL, "channel" blob(1024) NOT NULL, "payload" blob(536870912) NOT NULL, "created_at" datetime(6) NOT NULL, "channel_hash" integer(8) NOT NULL);
               CREATE INDEX "index_solid_cable_messages_on_channel" ON "solid_cable_messages" ("channel");
               CREATE INDEX "index_solid_cable_messages_on_created_at" ON "solid_cable_messages" ("created_at")"#,
        );
    } else {
        assert!(tablecast().arg("migrate").current_dir(folder).status().unwrap().success());
    }
    sqlite3(
        &database,
        "WITH RECURSIVE n (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < 3000)
         INSERT INTO solid_cable_messages (channel, payload, created_at, channel_hash)
         SELECT CAST(prefix || 's' AS BLOB), x'31', strftime('%Y-%m-%d %H:%M:%f000', 'now', age), 0
         FROM n, (SELECT 'a:' AS prefix UNION ALL SELECT 'b:' UNION ALL SELECT ''), (SELECT '-2 days' AS age UNION ALL SELECT '-1 hour')",
    );
}

fn counts(server: &Server) -> String {
    server.sql(
        "SELECT group_concat(prefix || age || n, ' ') FROM (
           SELECT substr(channel, 1, 2) AS prefix, CASE WHEN created_at < datetime('now', '-1 day') THEN ' old ' ELSE ' young ' END AS age, count(*) AS n
           FROM solid_cable_messages WHERE id > 0 GROUP BY 1, 2 ORDER BY 1, 2)",
    )
}

const ALL: &str = "a: old 3000 a: young 3000 b: old 3000 b: young 3000 s old 3000 s young 3000";

#[test]
fn a_server_with_a_prefix_trims_its_own_old_rows_alone() {
    let builder = server().with_prefix("a");
    seeded(builder.folder(), true);
    let server = builder.start();
    until("a's old rows are gone", || {
        counts(&server) == "a: young 3000 b: old 3000 b: young 3000 s old 3000 s young 3000"
    });
}

#[test]
fn a_server_without_prefix_trims_all_old_rows_of_a_table_of_its_own() {
    let builder = server();
    seeded(builder.folder(), false);
    let server = builder.start();
    until("old rows are gone", || counts(&server) == "a: young 3000 b: young 3000 s young 3000");
}

#[test]
fn rails_table_is_trimmed_by_rails_unless_it_was_given_over() {
    let builder = server();
    seeded(builder.folder(), true);
    let server = builder.start();
    // Keys and hashes are trimmed after the messages: once an old key is gone, messages
    // would be too.
    server.sql(
        "INSERT INTO tablecast_idempotency_keys VALUES ('', 'old', x'00', '[]', datetime('now', '-2 days'))",
    );
    let server = server.again();
    until("a round is over", || server.sql("SELECT count(*) FROM tablecast_idempotency_keys") == "0");
    assert_eq!(counts(&server), ALL);

    let owner = server.beside().arg("--owns-table").start();
    until("old rows are gone", || counts(&owner) == "a: young 3000 b: young 3000 s young 3000");
}

#[test]
fn retention_can_be_off() {
    let builder = server().with_prefix("a").arg("--retention=off");
    seeded(builder.folder(), false);
    let server = builder.start();
    server.sql(
        "INSERT INTO tablecast_idempotency_keys VALUES ('', 'old', x'00', '[]', datetime('now', '-2 days'))",
    );
    let server = server.again();
    until("a round is over", || server.sql("SELECT count(*) FROM tablecast_idempotency_keys") == "0");
    assert_eq!(counts(&server), ALL);
}

#[test]
fn hashes_of_channels_that_are_gone_are_forgotten() {
    let server = server().start();
    server.insert("gone", "1");
    server.insert("here", "1");
    server.sql("DELETE FROM solid_cable_messages WHERE channel = CAST('gone' AS BLOB)");
    let server = server.again();
    until("one is left", || {
        server.sql("SELECT group_concat(channel) FROM tablecast_stream_hashes") == "here"
    });
    server.insert("gone", "2");
    assert_eq!(server.sql("SELECT count(*) FROM tablecast_stream_hashes"), "2");
}
