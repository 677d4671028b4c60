//! What is promised to those above the bus and can't be seen from outside yet: positions within
//! batches, barriers, reading back. The bus itself is run, on each database.

use std::collections::BTreeSet;
use std::time::Duration;

use tablecast::bus::{
    Batch, Bus, BusConfig, Cut, Database, DatabaseUrl, Migration, Rejection, Replay, Replayed, Source, Wake,
    sqlite,
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
        sqlite_synchronous: sqlite::Synchronous::Normal,
    }
}

fn stream(name: &str) -> Stream {
    Prefix::new("p").unwrap().stream(name).unwrap()
}

/// A server without its sockets.
struct Follower {
    bus: Bus,
    /// Payloads with the word that a client has with each.
    got: Vec<(String, String)>,
    superseded: BTreeSet<String>,
}

impl Follower {
    async fn start(url: &str) -> Self {
        let config = config(url);
        Database::new(&config).migrate(&Migration::default()).await.unwrap();
        Self { bus: Bus::open(&config).await.unwrap(), got: Vec::new(), superseded: BTreeSet::new() }
    }

    /// Follows until this message has come.
    async fn until(&mut self, payload: &str) {
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
    async fn missed(&mut self, streams: &[&str], word: &str) -> Result<Vec<Replayed>, Rejection> {
        let cut = self.cut().await;
        let from = cut.accept(word, None)?;
        let streams = streams.iter().map(|name| stream(name)).collect();
        all(self.bus.log.missed(streams, from, cut, 10_000).await?).await
    }

    fn word_after(&self, payload: &str) -> String {
        self.got.iter().find(|(got, _)| got == payload).unwrap().1.clone()
    }
}

async fn all(mut replay: Replay) -> Result<Vec<Replayed>, Rejection> {
    let mut all = Vec::new();
    loop {
        let page = replay.page().await?;
        if page.is_empty() {
            return Ok(all);
        }
        all.extend(page);
    }
}

fn payloads(replayed: &[Replayed]) -> Vec<&str> {
    replayed.iter().map(|message| &*message.payload).collect()
}

fn insert(stream: &str, payload: &str) -> String {
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
    let latest = server.bus.log.latest(&stream("a"), &cut, 3).await.unwrap();
    assert_eq!(payloads(&latest), ["2", "3", "4"], "5 is still to be released");
    assert_eq!(server.bus.log.latest(&stream("nobody"), &cut, 3).await.unwrap(), []);

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
    assert_eq!(payloads(&there.bus.log.latest(&stream("a"), &cut, 2).await.unwrap()), ["2", "4"]);
}
