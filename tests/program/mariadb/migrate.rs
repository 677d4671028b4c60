//! What `migrate` makes, on an empty database and on Rails' tables of every generation.

use std::io::Write;
use std::process::Stdio;

use super::{
    RAILS, expect, listen, migrate, migrated, publish, row, rows, serve, server_account, try_migrate,
};
use crate::support::{Database, PASSWORD, mariadb, server, tablecast, until};

/// All objects of a database, so that two states can be told apart.
fn objects(database: &Database) -> String {
    database.sql(
        "SELECT table_name, create_time FROM information_schema.tables WHERE table_schema = DATABASE() AND table_type = 'BASE TABLE' ORDER BY 1;
         SELECT trigger_name, created, action_statement FROM information_schema.triggers WHERE trigger_schema = DATABASE() ORDER BY 1;
         SELECT * FROM tablecast_defaults",
    )
}

fn says(output: std::process::Output) -> String {
    assert!(!output.status.success(), "{output:?}");
    String::from_utf8(output.stderr).unwrap()
}

#[test]
fn an_empty_database_gets_solid_cables_table_column_for_column() {
    let (ours, rails) = (mariadb::shared().database(), mariadb::shared().database());
    let said = migrate(&ours, &[]);
    assert!(said.contains("table solid_cable_messages is ready"), "{said}");
    rails.sql(RAILS);
    let definition = |database: &Database| {
        database.sql(
            "SELECT column_name, column_type, is_nullable, column_default, extra, column_key FROM information_schema.columns
             WHERE table_schema = DATABASE() AND table_name = 'solid_cable_messages' ORDER BY ordinal_position;
             SELECT index_name, seq_in_index, column_name, non_unique FROM information_schema.statistics
             WHERE table_schema = DATABASE() AND table_name = 'solid_cable_messages' ORDER BY 1, 2",
        )
    };
    assert_eq!(definition(&ours), definition(&rails));
}

#[test]
fn migrating_again_changes_nothing_and_many_at_once_agree() {
    let database = mariadb::shared().database();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| migrate(&database, &["--fence", "staging"]));
        }
    });
    let before = objects(&database);
    let history = database.sql("SELECT payload FROM solid_cable_messages WHERE id = -1");
    migrate(&database, &["--fence", "staging"]);
    assert_eq!(objects(&database), before);
    assert_eq!(database.sql("SELECT payload FROM solid_cable_messages WHERE id = -1"), history);
    let printed =
        tablecast().args(["migrate", "--print", "--database-url", &database.url()]).output().unwrap();
    assert!(printed.status.success() && printed.stdout.is_empty(), "{printed:?}");
}

/// A server that runs writes it too where it is missing, and waits for no migration.
#[test]
fn a_historys_row_that_another_writes_meanwhile_is_in_no_migrations_way() {
    let database = mariadb::shared().database();
    migrate(&database, &[]);
    let mut other = database.begin("DELETE FROM solid_cable_messages WHERE id = -1");
    other.run("COMMIT AND CHAIN");
    other.run(
        "INSERT INTO solid_cable_messages (id, channel, payload, created_at, channel_hash)
         VALUES (-1, 'tablecast_history', '{}', '9999-12-31', -5185192725974493603)",
    );

    std::thread::scope(|scope| {
        let migration = scope.spawn(|| migrate(&database, &[]));
        until("the migration writes the row that it hasn't seen", || {
            let waiting = "SELECT count(*) FROM information_schema.processlist
                           WHERE db = DATABASE() AND info LIKE 'INSERT INTO `solid_cable_messages`%'";
            database.sql(waiting) == "1"
        });
        other.commit();
        migration.join().unwrap();
    });
    assert_eq!(database.sql("SELECT payload FROM solid_cable_messages WHERE id = -1"), "{}");
}

#[test]
fn what_is_printed_does_in_the_stock_shell_what_migrate_does() {
    let database = mariadb::shared().database();
    let print = |arguments: &[&str]| {
        let arguments = [&["--print"], arguments].concat();
        String::from_utf8(try_migrate(&database.url(), &arguments).stdout).unwrap()
    };
    let script = print(&["--fence", "staging", "--default-prefix", "it's"]);
    assert_eq!(database.sql("SHOW TABLES"), "", "it runs nothing");
    let mut shell = std::process::Command::new("mariadb");
    let (host, port) = (database.address.ip(), database.address.port());
    shell.args(["--no-defaults", "--protocol=tcp", &format!("--host={host}"), &format!("--port={port}")]);
    shell.args(["--user=admin", &format!("--password={PASSWORD}"), &database.name]);
    let mut shell = shell.stdin(Stdio::piped()).spawn().unwrap();
    shell.stdin.take().unwrap().write_all(script.as_bytes()).unwrap();
    assert!(shell.wait().unwrap().success(), "{script}");

    assert_eq!(print(&["--fence", "staging", "--default-prefix", "it's"]), "");
    let server = serve(&database).with_prefix("it's").start();
    let mut socket = listen(&server);
    database.sql(&publish("1"));
    expect(&mut socket, &["1"]);
}

#[test]
fn tables_of_every_generation_of_rails_take_every_way_of_publishing() {
    for table in [
        RAILS.to_owned(),
        RAILS.replace(
            "`channel_hash` bigint NOT NULL",
            "`updated_at` datetime(6) NOT NULL, `channel_hash` bigint NOT NULL",
        ),
        RAILS.replace("`channel_hash` bigint NOT NULL", "`channel_hash` bigint DEFAULT NULL"),
        RAILS.replace("datetime(6)", "datetime").replace("longblob", "blob"),
    ] {
        let database = mariadb::shared().database();
        database.sql(&table);
        migrate(&database, &[]);
        let server = serve(&database).start();
        let mut socket = listen(&server);
        database.sql(&publish("1"));
        assert_eq!(server.publish(r#"{"stream":"s","data":2}"#).status, 201, "{table}");
        if !table.contains("updated_at") {
            database.sql(&row("s", "3"));
            expect(&mut socket, &["1", "2", "3"]);
        } else {
            expect(&mut socket, &["1", "2"]);
        }
        let check =
            tablecast().args(["check", "--public-streams=*", "--database-url", &database.url()]).output();
        let said = String::from_utf8(check.unwrap().stdout).unwrap();
        assert!(said.contains("made by Rails"), "{said}");
    }
}

#[test]
fn the_default_prefix_changes_in_place_and_workers_keep_their_grants() {
    let database = migrated();
    let worker = database.user("worker");
    database.sql(&format!("GRANT INSERT ON tablecast_publish TO {worker}"));
    let said = migrate(&database, &["--default-prefix", "staging"]);
    assert!(said.contains("prefix goes to staging") || said.contains("staging"), "{said}");
    database.sql(&publish("1"));
    assert_eq!(database.sql("SELECT channel FROM solid_cable_messages WHERE id > 0"), "staging:s");
    assert!(database.sql(&format!("SHOW GRANTS FOR {worker}")).contains("INSERT"));
    // Without one it stays what it was.
    migrate(&database, &["--channel-prefix", "other"]);
    assert!(database.sql("SELECT prefix FROM tablecast_defaults").contains("staging"));
}

#[test]
fn an_older_script_is_replaced_under_workers_that_go_on() {
    let database = migrated();
    migrate(&database, &["--fence", "staging"]);
    let is_over = std::sync::atomic::AtomicBool::new(false);
    let published = std::thread::scope(|scope| {
        let workers: Vec<_> = ["tablecast_publish", "tablecast_publish_staging"]
            .map(|table| {
                let (database, is_over) = (&database, &is_over);
                scope.spawn(move || {
                    let mut count = 0;
                    while !is_over.load(std::sync::atomic::Ordering::Relaxed) {
                        database.sql(&format!("INSERT INTO {table} (stream, data) VALUES ('s', '1')"));
                        count += 1;
                    }
                    count
                })
            })
            .into();
        for _ in 0..5 {
            database.sql("CREATE OR REPLACE VIEW tablecast_defaults AS SELECT '' AS prefix, 'solid_cable_messages' AS messages, 'old' AS version");
            migrate(&database, &[]);
        }
        is_over.store(true, std::sync::atomic::Ordering::Relaxed);
        workers.into_iter().map(|worker| worker.join().unwrap()).sum::<u32>()
    });
    assert_eq!(database.sql("SELECT COUNT(*) FROM solid_cable_messages WHERE id > 0"), published.to_string());
}

#[test]
fn an_open_transaction_that_published_is_named_and_not_waited_for_long() {
    let database = migrated();
    let open = database.begin(&publish("1"));
    let said = says(try_migrate(&database.url(), &["--default-prefix", "x"]));
    assert!(said.contains("open transaction"), "{said}");
    open.commit();
    migrate(&database, &["--default-prefix", "x"]);
}

#[test]
fn after_rails_loaded_its_schema_publishing_is_refused_until_migrate_ran_again() {
    let database = migrated();
    migrate(&database, &["--fence", "staging"]);
    // db:schema:load drops and makes the tables that it knows, and no triggers.
    database.sql(&format!(
        "DROP TRIGGER tablecast_publish; DROP TRIGGER tablecast_publish_staging;
         DROP TABLE solid_cable_messages; {RAILS} TRUNCATE tablecast_prefixes"
    ));
    for table in ["tablecast_publish", "tablecast_publish_staging"] {
        let lax = format!("SET sql_mode = ''; INSERT IGNORE INTO {table} (stream, data) VALUES ('s', '1')");
        assert!(!database.try_sql(&lax).status.success(), "{table}: nothing vanishes");
    }
    migrate(&database, &[]);
    let server = serve(&database).with_prefix("staging").start();
    let mut socket = listen(&server);
    database.sql("INSERT INTO tablecast_publish_staging (stream, data) VALUES ('s', '1')");
    database.sql("INSERT INTO tablecast_publish (stream, data, prefix) VALUES ('s', '2', 'staging')");
    expect(&mut socket, &["1", "2"]);
}

/// What `check` finds wrong with a database that a server could serve.
fn faults(url: &str) -> String {
    let check = tablecast().args(["check", "--public-streams=*", "--database-url", url]).output().unwrap();
    let said = String::from_utf8(check.stdout).unwrap();
    let faults: Vec<&str> = said.lines().filter(|line| line.starts_with("wrong: ")).collect();
    assert_eq!(check.status.code(), Some(i32::from(!faults.is_empty())), "{said}");
    faults.join("\n")
}

#[test]
fn check_says_that_a_trigger_is_missing_and_migrate_makes_it() {
    let database = migrated();
    migrate(&database, &["--fence", "staging"]);
    assert_eq!(faults(&database.url()), "");
    let server = server_account(&database);
    database.sql(&format!(
        "GRANT PROCESS ON *.* TO {server}; GRANT SELECT, DELETE ON tablecast_publish_staging TO {server}"
    ));

    database.sql("DROP TRIGGER tablecast_publish");
    for url in [database.url(), database.url_as(&server, PASSWORD)] {
        assert_eq!(faults(&url), "wrong: SQL can't publish here: run `tablecast migrate`");
    }
    database.sql("DROP TRIGGER tablecast_publish_staging");
    let said = faults(&database.url());
    assert!(said.contains("table tablecast_publish_staging has lost its trigger"), "{said}");

    migrate(&database, &[]);
    assert_eq!(faults(&database.url()), "");
    assert_eq!(rows(&database), "NULL", "asking publishes nothing");
    assert_eq!(database.sql("SELECT COUNT(*) FROM tablecast_publish"), "0");
}

#[test]
fn check_says_that_the_account_of_a_trigger_is_gone_and_migrate_takes_its_place() {
    let database = mariadb::shared().database();
    let owner = database.user("owner");
    database.sql(&format!("GRANT ALL ON {}.* TO {owner}", database.name));
    let migrated = try_migrate(&database.url_as(&owner, PASSWORD), &["--fence", "staging"]);
    assert!(migrated.status.success(), "{migrated:?}");

    database.sql(&format!("REVOKE ALL ON {}.* FROM {owner}", database.name));
    let said = faults(&database.url());
    assert!(said.contains(&format!("TRIGGER command denied to user '{owner}'")), "{said}");
    database.sql(&format!("DROP USER {owner}"));
    assert!(!database.try_sql(&publish("1")).status.success(), "each INSERT of a worker fails");
    let said = faults(&database.url());
    for table in ["tablecast_publish", "tablecast_publish_staging"] {
        assert!(said.contains(&format!("each INSERT into {table} fails")), "{said}");
    }
    assert!(said.contains(&owner) && said.contains("run `tablecast migrate`"), "{said}");

    migrate(&database, &[]);
    assert_eq!(faults(&database.url()), "");
    database.sql("INSERT INTO tablecast_publish_staging (stream, data) VALUES ('s', '1')");
    database.sql(&publish("2"));
    assert_eq!(rows(&database), "1 2");
}

#[test]
fn who_may_not_make_tables_hears_what_to_do() {
    let database = mariadb::shared().database();
    database.sql(RAILS);
    let account = database.user("server");
    database.sql(&format!("GRANT SELECT, INSERT, DELETE ON solid_cable_messages TO {account}"));
    let url = database.url_as(&account, PASSWORD);
    let said = says(try_migrate(&url, &[]));
    assert!(said.contains("CREATE") && said.contains("migrate --print"), "{said}");
    // It serves Rails' table all the same, and says what is missing.
    let server = server().database_url(&url).open().start();
    let mut socket = listen(&server);
    database.sql(&row("s", "1"));
    expect(&mut socket, &["1"]);
    assert_eq!(server.publish(r#"{"stream":"s","data":2}"#).status, 201);
    expect(&mut socket, &["2"]);
    until("it says so", || server.log().contains("run `tablecast migrate`"));
}

#[test]
fn the_rights_that_are_documented_for_the_owner_are_enough() {
    let database = mariadb::shared().database();
    let account = database.user("owner");
    database.sql(&format!(
        "GRANT SELECT, INSERT, UPDATE, DELETE, CREATE, DROP, TRIGGER, CREATE VIEW, LOCK TABLES ON {}.* TO {account}",
        database.name
    ));
    let output = try_migrate(&database.url_as(&account, PASSWORD), &["--fence", "a"]);
    assert!(output.status.success(), "{output:?}");
    database.sql(&publish("1"));
    assert_eq!(rows(&database), "1");
}

#[test]
fn where_the_binary_log_forbids_triggers_nothing_is_dropped_and_the_setting_is_named() {
    let mariadb = mariadb::server().with("log-bin", "log").with("server-id", "1").start();
    let database = mariadb.database();
    let account = database.user("owner");
    database.sql(&format!("GRANT ALL ON {}.* TO {account}", database.name));
    let url = database.url_as(&account, PASSWORD);
    let said = says(try_migrate(&url, &[]));
    assert!(said.contains("log_bin_trust_function_creators"), "{said}");
    assert_eq!(database.sql("SHOW TABLES"), "", "nothing is left behind");
    database.sql("SET GLOBAL log_bin_trust_function_creators = 1");
    assert!(try_migrate(&url, &[]).status.success());
    database.sql(&publish("1"));

    database.sql("SET GLOBAL log_bin_trust_function_creators = 0");
    assert!(!try_migrate(&url, &["--default-prefix", "x"]).status.success());
    database.sql(&publish("2"));
    assert_eq!(rows(&database), "1 2");
}

#[test]
fn uninstall_leaves_the_messages_alone() {
    let database = migrated();
    migrate(&database, &["--fence", "a"]);
    database.sql(&publish("1"));
    migrate(&database, &["--uninstall"]);
    assert_eq!(database.sql("SHOW TABLES"), "solid_cable_messages");
    assert_eq!(database.sql("SELECT payload FROM solid_cable_messages"), "1");
    migrate(&database, &["--uninstall"]);
}

#[test]
fn what_mysql_does_not_have_is_refused() {
    let database = migrated();
    let said = says(try_migrate(&database.url(), &["--wake-trigger"]));
    assert!(said.contains("no notifications"), "{said}");
    for prefix in ["a`b", "a'b", &"x".repeat(46)] {
        let said = says(try_migrate(&database.url(), &["--fence", prefix]));
        assert!(said.contains("at most 45"), "{said}");
    }
    let longest = "x".repeat(45);
    migrate(&database, &["--fence", &longest, "--fence", "With-Case_1"]);
    database.sql(&format!("INSERT INTO tablecast_publish_{longest} (stream, data) VALUES ('s', '1')"));
    database.sql("INSERT INTO `tablecast_publish_With-Case_1` (stream, data) VALUES ('s', '1')");
    let said = says(try_migrate(&database.url(), &["--table", "other_messages"]));
    assert!(said.contains("goes into table solid_cable_messages"), "{said}");
}

#[test]
fn serve_migrates_where_it_is_told_to() {
    let database = mariadb::shared().database();
    let server = serve(&database).arg("--migrate").start();
    let mut socket = listen(&server);
    database.sql(&publish("1"));
    expect(&mut socket, &["1"]);
}
