//! What is promised to those above the bus and can't be seen from outside yet: positions within
//! batches, barriers, reading back. The bus itself is run, on each database.

use std::collections::BTreeSet;
use std::fmt::Display;
use std::path::Path;
use std::time::Duration;

use tablecast::bus::gaps::IdRange;
use tablecast::bus::position::Position;
use tablecast::bus::{
    Batch, Bus, BusConfig, Cut, Database, DatabaseUrl, Migration, Most, Rejection, Replay, Replayed, Source,
    Wake, channel_hash, sqlite,
};
use tablecast::stream::{Prefix, Stream};
use tokio::time::timeout;

use crate::support::{self, PATIENCE};

fn config(url: &str) -> BusConfig {
    BusConfig {
        url: DatabaseUrl::parse(url).unwrap(),
        table: "solid_cable_messages".into(),
        prefix: Prefix::new("p").unwrap(),
        owns_table: None,
        retention: None,
        poll_interval: Duration::from_millis(20),
        wake: Wake::Poll,
        max_payload_bytes: 1 << 20,
        max_pending_bytes: 1 << 20,
        marks_superseded: true,
        replay_connections: 2,
        sqlite_synchronous: sqlite::Synchronous::Normal,
    }
}

fn stream(name: &str) -> Stream {
    Prefix::new("p").unwrap().stream(name).unwrap()
}

/// A server without its sockets.
pub struct Follower {
    bus: Bus,
    /// Payloads with the word that a client has with each.
    got: Vec<(String, String)>,
    superseded: BTreeSet<String>,
}

impl Follower {
    pub async fn start(url: &str) -> Self {
        let config = config(url);
        Database::new(&config).migrate(&Migration::default()).await.unwrap();
        Self::open(config).await
    }

    async fn open(config: BusConfig) -> Self {
        Self { bus: Bus::open(&config).await.unwrap(), got: Vec::new(), superseded: BTreeSet::new() }
    }

    /// Follows until this message has come.
    pub async fn until(&mut self, payload: &str) {
        while !self.got.iter().any(|(got, _)| got == payload) {
            let batch = timeout(PATIENCE, self.bus.tail.next()).await.expect("it comes");
            let Batch::Released(batch) = batch else { panic!("{batch:?}") };
            let mut tokens = batch.tokens();
            for (index, message) in batch.messages.iter().enumerate() {
                if message.superseded {
                    self.superseded.insert(message.payload.to_string());
                }
                self.got.push((message.payload.to_string(), tokens.after(index).word.into()));
            }
        }
    }

    pub async fn until_new_history(&mut self) {
        while !matches!(timeout(PATIENCE, self.bus.tail.next()).await.expect("it comes"), Batch::NewHistory) {
        }
    }

    /// Follows until a cut that is asked for now.
    async fn cut(&mut self) -> Cut {
        let log = self.bus.log.clone();
        let mut cut = std::pin::pin!(timeout(PATIENCE, log.cut(|_| ())));
        loop {
            tokio::select! {
                cut = &mut cut => return cut.expect("it comes").unwrap(),
                batch = self.bus.tail.next() => drop(batch),
            }
        }
    }

    /// What a client that comes with this word is given in these streams.
    pub async fn missed(&mut self, streams: &[&str], word: &str) -> Result<Vec<Replayed>, Rejection> {
        let cut = self.cut().await;
        let from = cut.accept(word, None)?;
        let streams = streams.iter().map(|name| stream(name)).collect();
        all(self.bus.log.missed(streams, from, cut, Most::OrNone(10_000)).await?).await
    }

    pub fn word_after(&self, payload: &str) -> String {
        self.got.iter().find(|(got, _)| got == payload).unwrap().1.clone()
    }
}

async fn all(mut replay: Replay) -> Result<Vec<Replayed>, Rejection> {
    let mut all = Vec::new();
    loop {
        let page = replay.page(usize::MAX).await?;
        if page.is_empty() {
            return Ok(all);
        }
        all.extend(page);
    }
}

pub fn payloads(replayed: &[Replayed]) -> Vec<&str> {
    replayed.iter().map(|message| &*message.payload).collect()
}

pub fn insert(stream: &str, payload: &str) -> String {
    format!("INSERT INTO tablecast_publish (stream, data, prefix) VALUES ('{stream}', '{payload}', 'p')")
}

async fn what_a_client_missed_is_what_another_server_gives_it(database: &support::Database) {
    let url = database.url();
    let (mut here, mut there) = (Follower::start(&url).await, Follower::start(&url).await);
    let late = database.begin(&insert("a", "1"));
    let also_late = database.begin(&insert("a", "2"));
    database.sql(&insert("a", "3"));
    database.sql(&insert("b", "4"));
    here.until("4").await;
    late.commit();
    here.until("1").await;

    // The client leaves with what it has, and three more come, one of them late.
    let word = here.word_after("1");
    also_late.commit();
    database.sql(&insert("a", "5"));
    database.sql(&insert("b", "6"));

    let missed = there.missed(&["a"], &word).await.unwrap();
    assert_eq!(payloads(&missed), ["2", "5"]);

    // Halfway through it goes back to the first one.
    let rest = here.missed(&["a"], &missed[0].token.word).await.unwrap();
    assert_eq!(payloads(&rest), ["5"]);
    assert_eq!(here.missed(&["a"], &rest[0].token.word).await.unwrap(), []);
}

async fn the_latest_are_those_that_were_released(database: &support::Database) {
    let mut server = Follower::start(&database.url()).await;
    for payload in ["1", "2", "3", "4"] {
        database.sql(&insert("a", payload));
    }
    let open = database.begin(&insert("a", "5"));
    database.sql(&insert("b", "6"));

    let cut = server.cut().await;
    open.commit();
    let latest = server.bus.log.latest(&stream("a"), &cut, 3, usize::MAX).await.unwrap();
    assert_eq!(payloads(&latest), ["2", "3", "4"], "5 is still to be released");
    assert_eq!(server.bus.log.latest(&stream("nobody"), &cut, 3, usize::MAX).await.unwrap(), []);

    let missed = server.missed(&["a"], &latest[2].token.word).await.unwrap();
    assert_eq!(payloads(&missed), ["5"], "and comes next");
}

async fn a_late_message_is_superseded_by_a_newer_one_of_its_stream(database: &support::Database) {
    let mut server = Follower::start(&database.url()).await;
    let late = database.begin(&format!("{}; {}", insert("a", "1"), insert("b", "2")));
    database.sql(&insert("a", "3"));
    server.until("3").await;

    late.commit();
    server.until("2").await;

    assert_eq!(server.superseded, BTreeSet::from(["1".to_owned()]));
}

/// A table, wherever it is, with ids from 1 on.
struct Table {
    url: String,
    run: Box<dyn Fn(&str) -> String>,
}

impl Table {
    fn of(database: support::Database) -> Self {
        Self { url: database.url(), run: Box::new(move |sql| database.sql(sql)) }
    }

    fn in_file(path: &Path) -> Self {
        let file = path.to_owned();
        Self {
            url: format!("sqlite:{}", path.display()),
            run: Box::new(move |sql| support::sqlite3(&file, sql)),
        }
    }

    async fn follow(&self) -> Follower {
        Follower::start(&self.url).await
    }

    fn sql(&self, sql: &str) -> String {
        (self.run)(sql)
    }

    fn publish(&self, stream: &str, payloads: impl IntoIterator<Item = impl Display>) {
        let inserts: Vec<String> =
            payloads.into_iter().map(|payload| insert(stream, &payload.to_string())).collect();
        self.sql(&inserts.join(";\n"));
    }

    /// Rows with the hash of a stream that are another channel's, and the newest of all.
    fn collide(&self, stream: &str) {
        let hash = channel_hash(format!("p:{stream}").as_bytes());
        self.sql(&format!(
            "INSERT INTO solid_cable_messages (channel, payload, created_at, channel_hash)
             VALUES ('p:other', '0', '2026-01-01 00:00:00', {hash})"
        ));
    }

    fn double_those_that_collide(&self, times: usize) {
        for _ in 0..times {
            self.sql(
                "INSERT INTO solid_cable_messages (channel, payload, created_at, channel_hash)
                 SELECT channel, payload, created_at, channel_hash FROM solid_cable_messages WHERE channel = 'p:other'",
            );
        }
    }
}

fn numbers(range: impl Iterator<Item = i64>) -> Vec<String> {
    range.map(|number| number.to_string()).collect()
}

async fn what_two_streams_have_missed_comes_in_pages_in_the_order_of_ids(table: Table) {
    let mut server = table.follow().await;
    table.publish("a", ["0"]);
    server.until("0").await;
    let word = server.word_after("0");
    for number in 0..110 {
        table.publish(["a", "b", "c"][number % 3], [number]);
    }
    let missed = server.missed(&["a", "b"], &word).await.unwrap();
    let expected = numbers((0..110).filter(|number| number % 3 < 2));
    assert_eq!(payloads(&missed), expected);
    assert!(
        missed.iter().all(
            |message| message.stream == stream(["a", "b"][message.payload.parse::<usize>().unwrap() % 3])
        )
    );

    // From wherever it was interrupted the rest is the rest.
    for from in [0, 63, 64, 72] {
        let rest = server.missed(&["a", "b"], &missed[from].token.word).await.unwrap();
        assert_eq!(payloads(&rest), expected[from + 1..]);
    }
    let cut = server.cut().await;
    let from = cut.accept(&word, None).unwrap();
    let mut replay =
        server.bus.log.missed(vec![stream("a"), stream("b")], from, cut, Most::OrNone(1000)).await.unwrap();
    assert_eq!(replay.page(1).await.unwrap().len(), 1);
    // What came along for the next page is read again.
    replay.let_go();
    assert_eq!(replay.page(usize::MAX).await.unwrap().len(), 64);
    assert_eq!(replay.page(usize::MAX).await.unwrap().len(), 9);
    assert!(replay.page(usize::MAX).await.unwrap().is_empty());
}

async fn more_than_the_limit_is_refused_before_anything_is_given(table: Table) {
    let mut server = table.follow().await;
    table.publish("a", ["0"]);
    server.until("0").await;
    let word = server.word_after("0");
    table.publish("a", 1..=70);
    table.publish("b", 71..=140);
    let cut = server.cut().await;
    for (max, streams, fits) in
        [(70, "a", true), (69, "a", false), (3, "a", false), (140, "ab", true), (139, "ab", false)]
    {
        let streams = streams.chars().map(|name| stream(&name.to_string())).collect();
        let from = cut.accept(&word, None).unwrap();
        match server.bus.log.missed(streams, from, cut.clone(), Most::OrNone(max)).await {
            Ok(replay) => assert_eq!((fits, all(replay).await.unwrap().len()), (true, max)),
            Err(error) => assert_eq!((fits, error), (false, Rejection::TooMany(max))),
        }
    }
}

async fn what_was_written_since_a_time_is_found_among_what_is_older(table: Table) {
    let mut server = table.follow().await;
    table.publish("a", 1..=300);
    table.publish("b", [301]);
    table.publish("a", 302..=310);
    table
        .sql("UPDATE solid_cable_messages SET created_at = '2026-01-01 00:00:00' WHERE id BETWEEN 1 AND 299");
    table.sql(
        "UPDATE solid_cable_messages SET created_at = '2026-01-01 01:00:00' WHERE id BETWEEN 300 AND 306",
    );
    // Another clock of a writer's.
    table.sql("UPDATE solid_cable_messages SET created_at = '2026-01-01 00:59:30' WHERE id = 304");
    table.sql("UPDATE solid_cable_messages SET created_at = '2026-01-01 02:00:00' WHERE id >= 307");
    let midnight: i64 = 1_767_225_600;
    let cut = server.cut().await;
    let log = server.bus.log.clone();
    let since = async |time, max| {
        let replay = log.since(vec![stream("a"), stream("b")], midnight + time, 0, cut.clone(), max).await?;
        all(replay).await
    };
    let found = since(3600, 100).await.unwrap();
    let expected = numbers((300..=310).filter(|number| *number != 304));
    assert_eq!(payloads(&found), expected);
    assert_eq!(payloads(&since(7200, 100).await.unwrap()), numbers(307..=310));
    assert_eq!(since(7201, 100).await.unwrap(), []);
    assert_eq!(since(0, 310).await.unwrap().len(), 310);
    assert_eq!(since(0, 309).await.unwrap_err(), Rejection::TooMany(309));

    let at_least =
        log.since(vec![stream("a"), stream("b")], midnight + 7201, 5, cut.clone(), 100).await.unwrap();
    assert_eq!(payloads(&all(at_least).await.unwrap()), ["301", "306", "307", "308", "309", "310"]);

    let rest = server.missed(&["a", "b"], &found[4].token.word).await.unwrap();
    assert_eq!(payloads(&rest), expected[5..]);
}

async fn what_is_no_message_is_passed(table: Table) {
    let mut server = table.follow().await;
    table.publish("a", 1..=5);
    server.until("5").await;
    let word = server.word_after("2");
    table.sql("UPDATE solid_cable_messages SET payload = 'no JSON' WHERE id IN (4, 5)");
    table.collide("a");
    table.double_those_that_collide(11);
    table.publish("b", ["6"]);
    let cut = server.cut().await;
    let latest = server.bus.log.latest(&stream("a"), &cut, 2, usize::MAX).await.unwrap();
    assert_eq!(payloads(&latest), ["2", "3"]);
    assert_eq!(payloads(&server.missed(&["a", "b"], &word).await.unwrap()), ["3", "6"]);
    let first = server.bus.log.latest(&stream("a"), &cut, 1, usize::MAX).await.unwrap();
    assert_eq!(server.missed(&["a"], &first[0].token.word).await.unwrap(), []);

    // So many that it isn't worth it.
    table.double_those_that_collide(3);
    let cut = server.cut().await;
    assert_eq!(payloads(&server.bus.log.latest(&stream("a"), &cut, 1, usize::MAX).await.unwrap()), [""; 0]);
    assert_eq!(server.missed(&["a", "b"], &word).await.unwrap_err(), Rejection::TooMany(10_000));
    assert_eq!(payloads(&server.missed(&["b"], &word).await.unwrap()), ["6"]);
}

/// Many gaps and many streams: ranges that lie near to one another are looked for together.
async fn a_position_with_many_gaps_is_gone_on_from_in_many_streams(table: Table) {
    const STREAMS: i64 = 30;
    let mut server = table.follow().await;
    let inserts: Vec<String> =
        (1..=400).map(|number| insert(&format!("s{}", number % STREAMS), &number.to_string())).collect();
    table.sql(&inserts.join(";\n"));
    let cut = server.cut().await;
    let mut position = Position::decode(&cut.token().word).unwrap();
    let first = position.ids.high - 399;
    // Of the later ones the client lacks each third, and at the end ten.
    position.ids.high -= 10;
    let lacks = |number: &i64| *number > 390 || *number > 150 && number % 3 == 0;
    let gaps = (1..=390).filter(lacks).map(|number| first + number - 1);
    position.ids.gaps = gaps.map(|id| IdRange { first: id, last: id }).collect();
    assert!(position.ids.gaps.len() as i64 * STREAMS > 2000);

    let names: Vec<String> = (0..STREAMS).map(|of| format!("s{of}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let missed = server.missed(&names, &position.encode().unwrap()).await.unwrap();
    assert_eq!(payloads(&missed), numbers((1..=400).filter(lacks)));
}

async fn large_payloads_come_in_small_pages(table: Table) {
    let mut server = table.follow().await;
    table.publish("a", ["0"]);
    server.until("0").await;
    let word = server.word_after("0");
    let large: Vec<String> =
        (10..22).map(|number| format!("[{number},\"{}\"]", "x".repeat(40_000))).collect();
    for payload in &large {
        table.publish("a", [payload]);
    }
    let cut = server.cut().await;
    let from = cut.accept(&word, None).unwrap();
    let mut replay =
        server.bus.log.missed(vec![stream("a")], from, cut.clone(), Most::OrNone(20)).await.unwrap();
    // As large as who asks can take, and no larger than all may be.
    let sizes = [(1, 1), (40_000, 1), (100_000, 2), (usize::MAX, 3), (usize::MAX, 3), (usize::MAX, 2)];
    let mut expected = &large[..];
    for (bytes, count) in sizes {
        let (page, rest) = expected.split_at(count);
        assert!(payloads(&replay.page(bytes).await.unwrap()) == page, "{count} of {bytes} bytes");
        expected = rest;
    }
    assert!(replay.page(usize::MAX).await.unwrap().is_empty());
    assert!(payloads(&server.bus.log.latest(&stream("a"), &cut, 3, usize::MAX).await.unwrap()) == large[9..]);

    // All that are asked for are held in memory at once.
    for payload in large.iter().cycle().take(9 * large.len()) {
        table.publish("a", [payload]);
    }
    let cut = server.cut().await;
    let latest = server.bus.log.latest(&stream("a"), &cut, 1000, usize::MAX).await.unwrap();
    assert_eq!(latest.len(), 105, "of 40,000 bytes until they are 4 MiB");
    assert!(payloads(&latest)[104] == large[11]);
    let latest = server.bus.log.latest(&stream("a"), &cut, 1000, 100_000).await.unwrap();
    assert!(payloads(&latest) == large[9..], "or until they are more than what was asked for");
}

async fn the_latest_of_many_streams_are_read_together(table: Table) {
    let mut server = table.follow().await;
    for number in 0..3 {
        let inserts: Vec<String> =
            (0..300).map(|of| insert(&format!("s{of}"), &format!("[{of},{number}]"))).collect();
        table.sql(&inserts.join(";\n"));
    }
    let cut = server.cut().await;
    let asked: Vec<(Stream, usize)> = (0..300).map(|of| (stream(&format!("s{of}")), of % 3)).collect();
    let mut latest: Vec<Vec<Replayed>> = vec![Vec::new(); asked.len()];
    server.bus.log.latest_of(&asked, &cut, |of, found| latest[of] = found).await.unwrap();
    for (of, found) in latest.iter().enumerate() {
        let expected: Vec<String> = (3 - of % 3..3).map(|number| format!("[{of},{number}]")).collect();
        assert_eq!(payloads(found), expected);
    }
    // Of each stream all is there, whatever came in others.
    let rest = server.missed(&["s1", "s2"], &latest[2][0].token.word).await.unwrap();
    assert_eq!(payloads(&rest), ["[1,2]", "[2,2]"]);

    // Many at once, in turn.
    let log = server.bus.log.clone();
    let asking = (0..50).map(|of| {
        let (log, cut) = (log.clone(), cut.clone());
        tokio::spawn(
            async move { log.latest(&stream(&format!("s{of}")), &cut, 1, usize::MAX).await.unwrap() },
        )
    });
    for (of, latest) in asking.collect::<Vec<_>>().into_iter().enumerate() {
        assert_eq!(payloads(&latest.await.unwrap()), [format!("[{of},2]")]);
    }
}

async fn a_life_of_the_table_keeps_its_name(table: Table) {
    let mut server = table.follow().await;
    table.publish("a", ["1"]);
    server.until("1").await;
    let word = server.word_after("1");
    drop(server);
    table.publish("a", ["2"]);

    let mut again = table.follow().await;
    assert_eq!(payloads(&again.missed(&["a"], &word).await.unwrap()), ["2"]);
    let cut = again.cut().await;
    assert_eq!(cut.accept("none", None).unwrap_err(), Rejection::TooManyGaps);
    assert!(cut.accept(&cut.token().word, Some(Duration::ZERO)).is_ok());
    tokio::time::sleep(Duration::from_millis(2100)).await;
    let cut = again.cut().await;
    assert_eq!(cut.accept(&word, Some(Duration::from_secs(1))).unwrap_err(), Rejection::TooOld);
}

/// `anew` makes the table another one.
async fn is_another_life(table: &Table, anew: impl FnOnce()) {
    let mut server = table.follow().await;
    table.publish("a", ["1"]);
    server.until("1").await;
    let word = server.word_after("1");

    anew();

    let mut starts = table.follow().await;
    server.until_new_history().await;
    table.publish("a", 2..=5);
    for server in [&mut server, &mut starts] {
        assert_eq!(server.missed(&["a"], &word).await.unwrap_err(), Rejection::AnotherHistory);
    }
    // What the new life gives is good on both.
    let given = starts.cut().await.token().word;
    table.publish("a", ["6"]);
    for server in [&mut server, &mut starts] {
        assert_eq!(payloads(&server.missed(&["a"], &given).await.unwrap()), ["6"]);
    }
}

macro_rules! on_each_database {
    ($($promise:ident),*) => {
        mod postgres {
            $(#[tokio::test] async fn $promise() {
                super::$promise(&crate::support::postgres::shared().database()).await;
            })*
        }
        mod mariadb {
            $(#[tokio::test] async fn $promise() {
                super::$promise(&crate::support::mariadb::shared().database()).await;
            })*
        }
    };
}

on_each_database!(
    what_a_client_missed_is_what_another_server_gives_it,
    the_latest_are_those_that_were_released,
    a_late_message_is_superseded_by_a_newer_one_of_its_stream
);

macro_rules! on_each_table {
    ($($promise:ident),*) => {
        mod table_of_postgres {
            $(#[tokio::test] async fn $promise() {
                super::$promise(super::Table::of(crate::support::postgres::shared().database())).await;
            })*
        }
        mod table_of_mariadb {
            $(#[tokio::test] async fn $promise() {
                super::$promise(super::Table::of(crate::support::mariadb::shared().database())).await;
            })*
        }
        mod table_of_sqlite {
            $(#[tokio::test] async fn $promise() {
                let folder = tempfile::tempdir().unwrap();
                super::$promise(super::Table::in_file(&folder.path().join("log.db"))).await;
            })*
        }
    };
}

on_each_table!(
    what_two_streams_have_missed_comes_in_pages_in_the_order_of_ids,
    more_than_the_limit_is_refused_before_anything_is_given,
    what_was_written_since_a_time_is_found_among_what_is_older,
    what_is_no_message_is_passed,
    a_position_with_many_gaps_is_gone_on_from_in_many_streams,
    large_payloads_come_in_small_pages,
    the_latest_of_many_streams_are_read_together,
    a_life_of_the_table_keeps_its_name
);

#[tokio::test]
async fn a_pooler_in_between_changes_nothing() {
    let database = support::postgres::shared().database();
    let pooler = support::PgBouncer::in_front_of(&database);
    let table = Table::of(database);
    let mut direct = table.follow().await;
    table.publish("a", 1..=3);
    direct.until("3").await;

    let mut pooled = Follower::open(config(&pooler.url())).await;
    let missed = pooled.missed(&["a", "b"], &direct.word_after("1")).await.unwrap();
    assert_eq!(payloads(&missed), ["2", "3"]);
    let cut = pooled.cut().await;
    assert_eq!(
        payloads(&pooled.bus.log.latest(&stream("a"), &cut, 2, usize::MAX).await.unwrap()),
        ["2", "3"]
    );
    assert_eq!(payloads(&direct.missed(&["a"], &missed[0].token.word).await.unwrap()), ["3"]);
}

#[tokio::test]
async fn a_table_of_postgresql_that_was_made_anew_leads_another_life() {
    for anew in ["DROP TABLE solid_cable_messages CASCADE", "TRUNCATE solid_cable_messages RESTART IDENTITY"]
    {
        let table = Table::of(support::postgres::shared().database());
        is_another_life(&table, || drop(table.sql(anew))).await;
    }
}

#[tokio::test]
async fn a_table_of_mariadb_that_was_made_anew_leads_another_life() {
    for anew in ["DROP TABLE solid_cable_messages", "TRUNCATE solid_cable_messages"] {
        let table = Table::of(support::mariadb::shared().database());
        is_another_life(&table, || drop(table.sql(anew))).await;
    }
}

#[tokio::test]
async fn a_table_of_sqlite_that_was_made_anew_leads_another_life() {
    for anew in ["DROP TABLE solid_cable_messages", "DELETE FROM solid_cable_messages"] {
        let folder = tempfile::tempdir().unwrap();
        let table = Table::in_file(&folder.path().join("log.db"));
        is_another_life(&table, || drop(table.sql(anew))).await;
    }
}

#[tokio::test]
async fn a_backup_that_was_moved_into_place_leads_another_life() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log.db");
    let table = Table::in_file(&path);
    is_another_life(&table, || {
        let backup = folder.path().join("backup.db");
        table.sql(&format!("VACUUM INTO '{}'", backup.display()));
        for suffix in ["-wal", "-shm"] {
            let _ = std::fs::remove_file(folder.path().join(format!("log.db{suffix}")));
        }
        std::fs::rename(&backup, &path).unwrap();
    })
    .await;
}

#[tokio::test]
async fn a_file_of_sqlite_that_was_vacuumed_and_altered_leads_the_same_life() {
    let folder = tempfile::tempdir().unwrap();
    let table = Table::in_file(&folder.path().join("log.db"));
    let mut server = table.follow().await;
    table.publish("a", ["1"]);
    server.until("1").await;
    let word = server.word_after("1");
    table.sql("VACUUM; ALTER TABLE solid_cable_messages ADD COLUMN more text; DELETE FROM solid_cable_messages WHERE id = 1");
    table.publish("a", ["2"]);

    assert_eq!(
        table.sql("SELECT id FROM solid_cable_messages WHERE CAST(payload AS text) = '2'"),
        "2",
        "no id is moved"
    );
    assert_eq!(payloads(&server.missed(&["a"], &word).await.unwrap()), ["2"]);
}

/// There is nothing late on SQLite, and a file is no server.
#[tokio::test]
async fn a_client_of_sqlite_gets_what_it_missed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log.db");
    let url = format!("sqlite:{}", path.display());
    let (mut here, mut there) = (Follower::start(&url).await, Follower::start(&url).await);
    support::sqlite3(&path, &insert("a", "1"));
    here.until("1").await;
    let word = here.word_after("1");
    for (stream, payload) in [("a", "2"), ("b", "3"), ("a", "4")] {
        support::sqlite3(&path, &insert(stream, payload));
    }

    let missed = there.missed(&["a"], &word).await.unwrap();
    assert_eq!(payloads(&missed), ["2", "4"]);
    let cut = there.cut().await;
    assert_eq!(payloads(&there.bus.log.latest(&stream("a"), &cut, 2, usize::MAX).await.unwrap()), ["2", "4"]);
}
