//! Looking sessions up, which nothing of the program shows from outside alone: keys that mean another row
//! to a database, how often it is asked, and what becomes of an outage.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tablecast::bus::DatabaseUrl;
use tablecast::identity::lookup::{
    Ended, Key, Lookup, LookupConfig, LookupError, OpenSession, Query, Row, recheck,
};
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::support::{
    self, DatabaseServer, PASSWORD, PATIENCE, PgBouncer, Proxy, mariadb, postgres, sqlite3,
};

/// An application's database.
enum App {
    Server(support::Database),
    File(tempfile::TempDir),
}

impl App {
    fn postgres() -> Self {
        Self::Server(postgres::shared().database())
    }

    fn mariadb() -> Self {
        Self::Server(mariadb::shared().database())
    }

    fn sqlite() -> Self {
        let folder = tempfile::tempdir().unwrap();
        sqlite3(&folder.path().join("app.db"), "PRAGMA journal_mode = WAL");
        Self::File(folder)
    }

    fn url(&self) -> String {
        match self {
            Self::Server(database) => database.url(),
            Self::File(folder) => format!("sqlite:{}", folder.path().join("app.db").display()),
        }
    }

    fn sql(&self, sql: &str) -> String {
        match self {
            Self::Server(database) => database.sql(sql),
            Self::File(folder) => sqlite3(&folder.path().join("app.db"), sql),
        }
    }

    /// A table of sessions with keys of a type, of which the first is user 1's.
    fn sessions(&self, of_type: &str, keys: &[&str]) {
        let rows: Vec<_> = keys.iter().enumerate().map(|(at, key)| format!("({key}, {})", at + 1)).collect();
        self.sql(&format!(
            "CREATE TABLE sessions (id {of_type} PRIMARY KEY, user_id bigint);
             INSERT INTO sessions (id, user_id) VALUES {};",
            rows.join(", ")
        ));
    }
}

const QUERY: &str = "SELECT user_id FROM sessions WHERE id = $1";

fn config(url: &str, query: &str) -> LookupConfig {
    let url = DatabaseUrl::parse(url).unwrap();
    LookupConfig {
        query: Query::of(query, &url).unwrap(),
        url,
        recheck: None,
        cache: Duration::ZERO,
        connections: 4,
    }
}

fn lookup(app: &App, query: &str) -> Lookup {
    Lookup::new(&config(&app.url(), query))
}

fn key(value: impl Into<Value>) -> Key {
    Key::new(&value.into()).expect("a key")
}

/// Whose session it is.
async fn user(lookup: &Lookup, value: impl Into<Value>) -> Option<Value> {
    let value = value.into();
    let row = lookup.ask(&key(value.clone())).await.unwrap_or_else(|error| panic!("{value}: {error}"));
    row.map(|row| row.user.clone())
}

async fn nobody(lookup: &Lookup, keys: &[&str]) {
    for key in keys {
        assert_eq!(user(lookup, *key).await, None, "{key:?}");
    }
    // And not by what is sent for many.
    let keys: Vec<_> = keys.iter().map(|text| key(*text)).collect();
    assert!(lookup.ask_many(&keys).await.unwrap().iter().all(Option::is_none));
}

/// Texts that a generous comparison takes for 42.
const NEARLY_42: [&str; 12] = [
    "42abc",
    "042",
    "+42",
    "42.0",
    "4.2e1",
    "0x2a",
    "42,43",
    "42;",
    "1 OR 1=1",
    "42' OR '1'='1",
    "٤٢",
    "４２",
];

async fn an_integer_key_finds_its_row_alone(app: App) {
    app.sessions("bigint", &["42", "1", "9007199254740992", "9007199254740993", "9223372036854775807"]);
    let lookup = lookup(&app, QUERY);

    assert_eq!(user(&lookup, 42).await, Some(json!(1)));
    assert_eq!(user(&lookup, "42").await, Some(json!(1)));
    assert_eq!(user(&lookup, 9_007_199_254_740_992_u64).await, Some(json!(3)));
    assert_eq!(user(&lookup, 9_007_199_254_740_993_u64).await, Some(json!(4)));
    assert_eq!(user(&lookup, "9007199254740993").await, Some(json!(4)));
    assert_eq!(user(&lookup, i64::MAX).await, Some(json!(5)));
    nobody(&lookup, &NEARLY_42).await;
    let beyond = ["9223372036854775808", "18446744073709551616", "9007199254740994", "-42", "abc"];
    nobody(&lookup, &beyond).await;
}

async fn a_text_key_finds_its_row_alone(app: App) {
    let texts = ["'42'", "'42abc'", "'SFhMs9aT'", "'043'", "'9007199254740993'", "'it''s'", r"'é'"];
    app.sessions("varchar(255)", &texts);
    let lookup = lookup(&app, QUERY);

    assert_eq!(user(&lookup, 42).await, Some(json!(1)));
    assert_eq!(user(&lookup, "42abc").await, Some(json!(2)));
    assert_eq!(user(&lookup, "SFhMs9aT").await, Some(json!(3)));
    assert_eq!(user(&lookup, "043").await, Some(json!(4)));
    assert_eq!(user(&lookup, 9_007_199_254_740_993_u64).await, Some(json!(5)));
    assert_eq!(user(&lookup, "it's").await, Some(json!(6)));
    assert_eq!(user(&lookup, "é").await, Some(json!(7)));
    nobody(&lookup, &["42ab", "sfhms9at", "SFHMS9AT", "43", "+42", "9007199254740992", "e", "e\u{301}"])
        .await;
    nobody(&lookup, &NEARLY_42[1..]).await;
}

const UUID: &str = "550e8400-e29b-41d4-a716-446655440000";

async fn a_uuid_key_finds_its_row_alone(app: App) {
    let of_type = match &app {
        App::Server(database) if database.url().starts_with("postgres") => "uuid",
        App::Server(_) => "char(36)",
        App::File(_) => "varchar(36)",
    };
    app.sessions(of_type, &[&format!("'{UUID}'")]);
    let lookup = lookup(&app, QUERY);

    a_uuid_is_written_in_one_way(&lookup).await;
}

async fn a_uuid_is_written_in_one_way(lookup: &Lookup) {
    assert_eq!(user(lookup, UUID).await, Some(json!(1)));
    let (upper, bare) = (UUID.to_uppercase(), UUID.replace('-', ""));
    let (braces, other) = (format!("{{{UUID}}}"), UUID.replace("550", "551"));
    nobody(lookup, &[&upper, &bare, &braces, &other, "42", "550e8400"]).await;
}

async fn each_column_is_a_claim(app: App) {
    app.sql(
        "CREATE TABLE sessions (id bigint PRIMARY KEY, user_id bigint, name varchar(20), age int, org varchar(9));
         INSERT INTO sessions VALUES (1, 9007199254740993, 'O''Néill \"x\"', NULL, 'a'), (2, NULL, 'b', 1, 'c');",
    );
    let lookup =
        lookup(&app, r#"SELECT user_id, s.name AS nick, age, org FROM sessions AS s WHERE s.id = ? -- $1"#);

    let row = lookup.ask(&key(1)).await.unwrap().unwrap();
    let claims =
        json!({ "user_id": 9_007_199_254_740_993_u64, "nick": "O'Néill \"x\"", "age": null, "org": "a" });
    assert_eq!(Value::Object(row.claims.clone()), claims);
    assert_eq!(row.user, json!(9_007_199_254_740_993_u64));
    assert_eq!(user(&lookup, 2).await, None, "a session that is nobody's");
    assert_eq!(lookup.check().await.unwrap(), ["user_id", "nick", "age", "org"]);
}

async fn a_key_that_is_selected_needs_not_be_seen(app: App) {
    app.sessions("varchar(20)", &["'AbC'"]);
    let query = "SELECT user_id, lower(id) AS session_key FROM sessions WHERE lower(id) = $1";
    let by_lower = lookup(&app, query);

    assert_eq!(user(&by_lower, "abc").await, Some(json!(1)));
    nobody(&by_lower, &["AbC"]).await;
    let unseen = lookup(&app, "SELECT user_id FROM sessions WHERE lower(id) = $1").ask(&key("abc")).await;
    assert!(unseen.unwrap_err().to_string().contains("AS session_key"));
}

async fn several_rows_for_one_key_are_nobody(app: App) {
    app.sql(
        "CREATE TABLE sessions (id bigint, user_id bigint); INSERT INTO sessions VALUES (1, 7), (1, 8), (2, 9);",
    );
    let lookup = lookup(&app, QUERY);

    nobody(&lookup, &["1"]).await;
    assert_eq!(user(&lookup, 2).await, Some(json!(9)));
}

async fn of_many_those_that_are_gone_are_told_and_no_others(app: App) {
    let keys: Vec<String> = (1..=1000).map(|id| id.to_string()).collect();
    app.sessions("bigint", &keys.iter().map(String::as_str).collect::<Vec<_>>());
    let lookup = lookup(&app, QUERY);
    app.sql("DELETE FROM sessions WHERE id % 10 = 3");

    let mut asked: Vec<Key> = (1..=1000).map(key).collect();
    asked.insert(500, key("42abc"));
    let rows = lookup.ask_many(&asked).await.unwrap();

    let found: Vec<_> = rows.iter().map(|row| row.as_ref().map(|row| row.user.clone())).collect();
    let mut expected: Vec<_> = (1..=1000).map(|id| (id % 10 != 3).then(|| json!(id))).collect();
    expected.insert(500, None);
    assert_eq!(found, expected);
}

async fn a_recheck_tells_of_logouts_and_of_other_users(app: App) {
    app.sessions("bigint", &["1", "2", "3", "4"]);
    // A cache that would hide it.
    let config = LookupConfig { cache: Duration::from_secs(600), ..config(&app.url(), QUERY) };
    let lookup = Lookup::new(&config);
    for id in 1..=4 {
        assert_eq!(user(&lookup, id).await, Some(json!(id)));
    }
    app.sql("DELETE FROM sessions WHERE id = 2; UPDATE sessions SET user_id = 7 WHERE id = 3;");

    let (told, mut ended) = mpsc::unbounded_channel();
    let row = |id: u64| {
        let Value::Object(claims) = json!({ "user_id": id }) else { unreachable!() };
        Arc::new(Row { user: json!(id), claims })
    };
    let open = || (1..=4).map(|id| OpenSession { key: key(id), row: row(id) }).collect();
    let ended_are = |others: &Ended| others.clone().into_iter().for_each(|one| told.send(one).unwrap());
    let _ =
        timeout(Duration::from_secs(2), recheck(lookup.clone(), Duration::from_millis(500), open, ended_are))
            .await;

    let mut all = Vec::new();
    while let Ok(one) = ended.try_recv() {
        all.push(one);
    }
    assert!(all.contains(&(key(2), None)) && all.contains(&(key(3), Some(row(7)))), "{all:?}");
    assert!(all.iter().all(|(ended, _)| [key(2), key(3)].contains(ended)), "{all:?}");
    // Nor is a new connection let in by what was known before.
    assert_eq!(user(&lookup, 2).await, None);
    assert_eq!(user(&lookup, 3).await, Some(json!(7)));
}

async fn a_row_is_good_for_as_long_as_it_is_kept(app: App) {
    app.sessions("bigint", &["1"]);
    let config = LookupConfig { cache: Duration::from_secs(5), ..config(&app.url(), QUERY) };
    let lookup = Lookup::new(&config);
    assert_eq!(user(&lookup, 1).await, Some(json!(1)));
    assert_eq!(user(&lookup, 2).await, None);

    app.sql("DELETE FROM sessions; INSERT INTO sessions (id, user_id) VALUES (2, 5);");

    assert_eq!(user(&lookup, 1).await, Some(json!(1)), "it is known");
    tokio::time::sleep(Duration::from_millis(1100)).await;
    assert_eq!(user(&lookup, 2).await, Some(json!(5)), "an absence isn't known for long");
    tokio::time::sleep(Duration::from_millis(4000)).await;
    assert_eq!(user(&lookup, 1).await, None);
}

async fn without_a_cache_a_logout_counts_at_once(app: App) {
    app.sessions("bigint", &["1"]);
    let lookup = lookup(&app, QUERY);
    assert_eq!(user(&lookup, 1).await, Some(json!(1)));

    app.sql("DELETE FROM sessions");

    assert_eq!(user(&lookup, 1).await, None);
}

async fn what_is_wrong_with_a_query_is_told(app: App) {
    app.sessions("bigint", &["1"]);
    for (query, said) in [
        ("SELECT user_id FROM nothing WHERE id = $1", "nothing"),
        ("SELECT user_name FROM sessions WHERE id = $1", "user_name"),
        ("SELECT user_id FROM sessions WHERE id = $1 ORDER", "refuses it"),
        ("SELECT id AS session_key FROM sessions WHERE id = $1", "no column"),
        ("SELECT user_id FROM sessions WHERE id > $1", "session_key"),
    ] {
        let error = lookup(&app, query).check().await.unwrap_err();
        assert!(matches!(error, LookupError::Query(_)), "{error}");
        assert!(error.to_string().contains("--session-query"), "{error}");
        assert!(error.to_string().contains(said), "{query}: {error}");
    }
    assert_eq!(lookup(&app, QUERY).check().await.unwrap(), ["user_id"]);
}

/// A table that was another while the query was prepared.
async fn a_table_that_changes_is_looked_at_again(app: App) {
    app.sessions("bigint", &["1"]);
    let lookup = lookup(&app, QUERY);
    assert_eq!(user(&lookup, 1).await, Some(json!(1)));

    app.sql("DROP TABLE sessions");
    assert!(matches!(lookup.ask(&key(1)).await, Err(LookupError::Query(_))));
    app.sessions("varchar(20)", &["'a'"]);

    assert_eq!(user(&lookup, "a").await, Some(json!(1)));
}

macro_rules! on_each_database {
    ($($promise:ident),* $(,)?) => {
        mod on_postgres {
            $(#[tokio::test] async fn $promise() { super::$promise(super::App::postgres()).await; })*
        }
        mod on_mariadb {
            $(#[tokio::test] async fn $promise() { super::$promise(super::App::mariadb()).await; })*
        }
        mod on_sqlite {
            $(#[tokio::test] async fn $promise() { super::$promise(super::App::sqlite()).await; })*
        }
    };
}

on_each_database!(
    an_integer_key_finds_its_row_alone,
    a_text_key_finds_its_row_alone,
    a_uuid_key_finds_its_row_alone,
    each_column_is_a_claim,
    a_key_that_is_selected_needs_not_be_seen,
    several_rows_for_one_key_are_nobody,
    of_many_those_that_are_gone_are_told_and_no_others,
    a_recheck_tells_of_logouts_and_of_other_users,
    a_row_is_good_for_as_long_as_it_is_kept,
    without_a_cache_a_logout_counts_at_once,
    what_is_wrong_with_a_query_is_told,
    a_table_that_changes_is_looked_at_again,
);

/// The types that one database has alone.
#[tokio::test]
async fn other_types_of_keys_find_their_rows_alone() {
    let app = App::mariadb();
    app.sessions("uuid", &[&format!("'{UUID}'")]);
    a_uuid_is_written_in_one_way(&lookup(&app, QUERY)).await;

    let app = App::mariadb();
    app.sessions("bigint unsigned", &["18446744073709551615"]);
    assert_eq!(user(&lookup(&app, QUERY), u64::MAX).await, Some(json!(1)));
    nobody(&lookup(&app, QUERY), &["18446744073709551614", "-1", "18446744073709551616"]).await;

    let app = App::postgres();
    app.sessions("smallint", &["-7", "7"]);
    assert_eq!(user(&lookup(&app, QUERY), -7).await, Some(json!(1)));
    nobody(&lookup(&app, QUERY), &["65529", "32768"]).await;

    let app = App::postgres();
    app.sessions("int", &["7"]);
    assert_eq!(user(&lookup(&app, QUERY), 7).await, Some(json!(1)));
    nobody(&lookup(&app, QUERY), &["4294967303"]).await;

    let app = App::postgres();
    app.sessions("char(8)", &["'ab'"]);
    nobody(&lookup(&app, QUERY), &["a"]).await;

    let app = App::postgres();
    app.sessions("numeric", &["7"]);
    let error = lookup(&app, QUERY).check().await.unwrap_err().to_string();
    assert!(error.contains("numeric") && error.contains("cast it"), "{error}");
    let cast = lookup(&app, "SELECT user_id FROM sessions WHERE id = $1::bigint");
    assert_eq!(user(&cast, 7).await, Some(json!(1)));
}

#[tokio::test]
async fn a_cast_that_fails_is_one_keys_alone() {
    let app = App::postgres();
    app.sessions("bigint", &["1", "2"]);
    let query = "SELECT user_id, id AS session_key FROM sessions WHERE id = ($1::text)::bigint";
    let lookup = lookup(&app, query);

    assert_eq!(user(&lookup, "abc").await, None);
    let rows = lookup.ask_many(&[key(1), key("abc"), key(2)]).await.unwrap();
    assert_eq!(rows.iter().map(Option::is_some).collect::<Vec<_>>(), [true, false, true]);
}

#[tokio::test]
async fn a_query_can_change_nothing() {
    let postgres = App::postgres();
    postgres.sessions("bigint", &["1"]);
    postgres.sql(
        "CREATE FUNCTION touch(n bigint) RETURNS bigint LANGUAGE sql AS 'INSERT INTO sessions VALUES (n + 100, 1) RETURNING id'",
    );
    let mariadb = App::mariadb();
    mariadb.sessions("bigint", &["1"]);
    mariadb.sql(
        "DELIMITER //
CREATE FUNCTION touch(n bigint) RETURNS bigint MODIFIES SQL DATA BEGIN INSERT INTO sessions VALUES (n + 100, 1); RETURN n; END//",
    );
    for app in [postgres, mariadb] {
        let query = "SELECT touch(id) AS user_id FROM sessions WHERE id = $1";
        let error = lookup(&app, query).ask(&key(1)).await.unwrap_err().to_string();
        assert!(error.to_lowercase().replace('-', " ").contains("read only"), "{error}");
        assert_eq!(app.sql("SELECT count(*) FROM sessions"), "1");
    }
}

#[tokio::test]
async fn who_may_not_read_the_table_is_told_so() {
    let database = postgres::shared().database();
    database.sql("CREATE TABLE sessions (id bigint PRIMARY KEY, user_id bigint)");
    let role = database.user("reader");
    let reader = Lookup::new(&config(&database.url_as(&role, PASSWORD), QUERY));

    let error = reader.check().await.unwrap_err().to_string();
    assert!(error.contains("permission denied"), "{error}");
    database.sql(&format!("GRANT SELECT ON sessions TO {role}"));
    reader.check().await.unwrap();

    let stranger = Lookup::new(&config(&database.url_as(&role, "wrong"), QUERY));
    let error = stranger.check().await.unwrap_err().to_string();
    assert!(error.contains("authentication failed") && !error.contains("wrong"), "{error}");
}

#[tokio::test]
async fn a_pooler_of_transactions_makes_no_difference() {
    let database = postgres::shared().database();
    database.sql("CREATE TABLE sessions (id bigint PRIMARY KEY, user_id bigint)");
    database.sql("INSERT INTO sessions SELECT id, id FROM generate_series(1, 300) AS id");
    let pooler = PgBouncer::in_front_of(&database);
    let lookups = [1, 2].map(|_| Lookup::new(&config(&pooler.url(), QUERY)));

    let mut asking = tokio::task::JoinSet::new();
    for at in 0..200 {
        let lookup = lookups[at % 2].clone();
        asking.spawn(async move { assert_eq!(user(&lookup, at + 1).await, Some(json!(at + 1))) });
    }
    while let Some(asked) = asking.join_next().await {
        asked.unwrap();
    }
    for lookup in lookups {
        lookup.check().await.unwrap();
        let keys: Vec<Key> = (1..=301).map(key).collect();
        assert_eq!(lookup.ask_many(&keys).await.unwrap().iter().flatten().count(), 300);
    }
}

/// The server's own log says how often it was asked.
#[tokio::test(flavor = "multi_thread")]
async fn who_comes_at_once_with_the_same_key_asks_once() {
    let server = postgres::server().with("log_statement", "all").start();
    let database = server.database();
    database.sql("CREATE TABLE sessions (id bigint PRIMARY KEY, user_id bigint)");
    database.sql("INSERT INTO sessions VALUES (1, 7)");
    let slow = "SELECT user_id FROM sessions WHERE pg_sleep(0.3) IS NOT NULL AND id = $1";
    for (cache, expected) in [(Duration::from_secs(60), 1), (Duration::ZERO, 2)] {
        let lookup = Lookup::new(&LookupConfig { cache, ..config(&database.url(), slow) });
        lookup.check().await.unwrap();
        let asked = || {
            let log = server.log();
            log.lines().filter(|line| line.contains("execute") && line.contains("pg_sleep")).count()
        };
        let before = asked();

        let mut tabs = tokio::task::JoinSet::new();
        for _ in 0..50 {
            let lookup = lookup.clone();
            tabs.spawn(async move { user(&lookup, 1).await });
        }
        while let Some(found) = tabs.join_next().await {
            assert_eq!(found.unwrap(), Some(json!(7)));
        }
        user(&lookup, 1).await;

        support::until("the log has it", || asked() >= before + expected);
        assert_eq!(asked() - before, expected, "{cache:?}");
    }
}

/// A query that takes longer than anybody waits for a connection.
#[tokio::test(flavor = "multi_thread")]
async fn who_gets_no_connection_in_time_is_refused() {
    for (app, sleep) in [(App::postgres(), "pg_sleep(3.6)"), (App::mariadb(), "sleep(3.6)")] {
        app.sessions("bigint", &["1", "2"]);
        let slow = format!("SELECT user_id FROM sessions WHERE id = $1 AND {sleep} IS NOT NULL");
        let lookup = Lookup::new(&LookupConfig { connections: 1, ..config(&app.url(), &slow) });
        lookup.check().await.unwrap();
        let first = tokio::spawn({
            let lookup = lookup.clone();
            async move { user(&lookup, 1).await }
        });
        tokio::time::sleep(Duration::from_millis(200)).await;

        let began = Instant::now();
        let refused = lookup.ask(&key(2)).await;

        assert!(matches!(refused, Err(LookupError::Away(_))), "{refused:?}");
        assert!((2500..6000).contains(&began.elapsed().as_millis()), "{:?}", began.elapsed());
        assert_eq!(first.await.unwrap(), Some(json!(1)));
        assert_eq!(user(&lookup, 2).await, Some(json!(2)), "and then it is free");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_query_that_takes_too_long_is_ended_by_the_database() {
    let endless = "SELECT user_id FROM sessions WHERE id = $1 AND (WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT count(*) FROM n) > 0";
    let app = App::postgres();
    let (busy, is_busy) = (
        App::mariadb(),
        "SELECT count(*) FROM information_schema.processlist WHERE info LIKE '%sleep(60)%' AND info NOT LIKE '%processlist%'",
    );
    for (app, query) in [
        (&app, "SELECT user_id FROM sessions WHERE id = $1 AND pg_sleep(60) IS NOT NULL"),
        (&busy, "SELECT user_id FROM sessions WHERE id = $1 AND sleep(60) IS NOT NULL"),
        (&App::sqlite(), endless),
    ] {
        app.sessions("bigint", &["1"]);
        let lookup = Lookup::new(&LookupConfig { connections: 1, ..config(&app.url(), query) });
        let began = Instant::now();

        let ended = lookup.ask(&key(1)).await;

        let Err(LookupError::Away(reason)) = ended else { panic!("{ended:?}") };
        assert!(!reason.contains("did not answer"), "it was the server that ended it: {reason}");
        assert!((3500..9000).contains(&began.elapsed().as_millis()), "{:?} {reason}", began.elapsed());
        // The one connection is free for others.
        assert_eq!(user(&lookup, 5).await, None);
    }
    assert_eq!(busy.sql(is_busy), "0");
}

async fn an_outage_is_bounded_and_passes(mut server: DatabaseServer) {
    let database = server.database();
    database.sql("CREATE TABLE sessions (id bigint PRIMARY KEY, user_id bigint)");
    database.sql("INSERT INTO sessions VALUES (1, 7), (2, 8)");
    server.stop();
    let lookup = Lookup::new(&config(&database.url(), QUERY));
    let refused = async |within: u64| {
        let began = Instant::now();
        let refused = lookup.ask(&key(1)).await;
        assert!(matches!(refused, Err(LookupError::Away(_))), "{refused:?}");
        assert!(began.elapsed() < Duration::from_secs(within), "{:?}", began.elapsed());
    };

    // It isn't there when the server starts.
    refused(4).await;
    let error = lookup.check().await.unwrap_err();
    assert!(matches!(error, LookupError::Away(_)), "{error}");
    server.start_again();
    assert_eq!(user(&lookup, 1).await, Some(json!(7)));

    // It is there and answers nothing.
    server.pause();
    refused(9).await;
    assert!(lookup.ask_many(&[key(1), key(2)]).await.is_err());
    server.resume();
    answers_again(&lookup).await;

    // It is started anew, and what was open is not.
    server.restart();
    answers_again(&lookup).await;
}

/// That it comes back by itself, once the pool has found out.
async fn answers_again(lookup: &Lookup) {
    let began = Instant::now();
    let row: Option<Arc<Row>> = loop {
        match lookup.ask(&key(2)).await {
            Ok(row) => break row,
            Err(error) => assert!(began.elapsed() < PATIENCE, "{error}"),
        }
    };
    assert_eq!(row.unwrap().user, json!(8));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outage_of_postgresql_is_bounded_and_passes() {
    an_outage_is_bounded_and_passes(postgres::server().start()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outage_of_mariadb_is_bounded_and_passes() {
    an_outage_is_bounded_and_passes(mariadb::server().start()).await;
}

/// A primary that hangs, and its successor: what was open stays silent for good. Each pool has one
/// connection, and each is at another point as it happens.
#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_falls_silent_takes_no_place_for_good() {
    let [mut primary, successor] = [postgres::server().start(), postgres::server().start()];
    let [database, _] = [&primary, &successor].map(|server| {
        let database = server.named("postgres");
        database.sql("CREATE TABLE sessions (id bigint PRIMARY KEY, user_id bigint)");
        database.sql("INSERT INTO sessions VALUES (2, 8)");
        database
    });
    let proxy = tokio::task::spawn_blocking(move || Proxy::to(database.address)).await.unwrap();
    let url = proxy.url(&primary.named("postgres").url());
    let hangs = Arc::new(AtomicBool::new(false));
    let mut asking = tokio::task::JoinSet::new();
    for _ in 0..24 {
        let lookup = Lookup::new(&LookupConfig { connections: 1, ..config(&url, QUERY) });
        let hangs = hangs.clone();
        asking.spawn(async move {
            while lookup.ask(&key(1)).await.is_ok() && !hangs.load(Relaxed) {}
            lookup
        });
    }
    tokio::time::sleep(Duration::from_millis(700)).await;

    primary.pause();
    proxy.redirect(successor.address);
    hangs.store(true, Relaxed);

    while let Some(lookup) = asking.join_next().await {
        answers_again(&lookup.unwrap()).await;
    }
    tokio::task::spawn_blocking(move || drop(proxy)).await.unwrap();
}

#[tokio::test]
async fn a_file_that_is_missing_is_away_until_it_is_there() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("late.db");
    let lookup = Lookup::new(&config(&format!("sqlite:{}", path.display()), QUERY));

    let error = lookup.ask(&key(1)).await.unwrap_err();
    assert!(matches!(error, LookupError::Away(_)), "{error}");
    assert!(!path.exists(), "it isn't ours to make");
    sqlite3(
        &path,
        "CREATE TABLE sessions (id integer PRIMARY KEY, user_id int); INSERT INTO sessions VALUES (1, 7)",
    );

    assert_eq!(user(&lookup, 1).await, Some(json!(7)));
}
