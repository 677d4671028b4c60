//! What is promised to those above the bus and can't be seen from outside yet: positions within
//! batches, barriers, reading back. The bus itself is run, on each database.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tablecast::bus::position::Ids;
use tablecast::bus::{Batch, Bus, BusConfig, Database, DatabaseUrl, Migration, Source, Wake, sqlite};
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
    /// Payloads with the set that a client has with each.
    got: Vec<(String, Ids)>,
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
            for (index, message) in batch.messages.iter().enumerate() {
                if message.superseded {
                    self.superseded.insert(message.payload.to_string());
                }
                self.got.push((message.payload.to_string(), batch.released_with(index)));
            }
        }
    }

    /// Follows until a barrier that is asked for now has passed.
    async fn barrier(&mut self) -> Ids {
        let log = self.bus.log.clone();
        let mut barrier = std::pin::pin!(timeout(PATIENCE, log.barrier()));
        loop {
            tokio::select! {
                released = &mut barrier => return released.expect("it passes").unwrap(),
                batch = self.bus.tail.next() => drop(batch),
            }
        }
    }

    fn position_after(&self, payload: &str) -> Ids {
        self.got.iter().find(|(got, _)| got == payload).unwrap().1.clone()
    }
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
    let position = here.position_after("1");
    also_late.commit();
    database.sql(&insert("a", "5"));
    database.sql(&insert("b", "6"));

    let released = Arc::new(there.barrier().await);
    let missed = there.bus.log.missed(&stream("a"), position, released.clone(), 100).await.unwrap();
    let payloads: Vec<&str> = missed.messages.iter().map(|message| &*message.payload).collect();
    assert_eq!(payloads, ["2", "5"]);

    // Halfway through it goes back to the first one.
    let halfway = missed.position_after(0);
    let released = Arc::new(here.barrier().await);
    let rest = here.bus.log.missed(&stream("a"), halfway, released.clone(), 100).await.unwrap();
    let payloads: Vec<&str> = rest.messages.iter().map(|message| &*message.payload).collect();
    assert_eq!(payloads, ["5"]);
    let end = here.bus.log.missed(&stream("a"), rest.position_after(0), released, 100).await.unwrap();
    assert!(end.messages.is_empty());
}

async fn the_latest_are_those_that_were_released(database: &support::Database) {
    let mut server = Follower::start(&database.url()).await;
    for payload in ["1", "2", "3", "4"] {
        database.sql(&insert("a", payload));
    }
    let open = database.begin(&insert("a", "5"));
    database.sql(&insert("b", "6"));

    let released = Arc::new(server.barrier().await);
    open.commit();
    let latest = server.bus.log.latest(&stream("a"), released.clone(), 3).await.unwrap();
    let payloads: Vec<&str> = latest.messages.iter().map(|message| &*message.payload).collect();
    assert_eq!(payloads, ["2", "3", "4"], "5 is still to be released");
    let none = server.bus.log.latest(&stream("nobody"), released.clone(), 3).await.unwrap();
    assert!(none.messages.is_empty());

    let end = latest.position_after(2);
    let released = Arc::new(server.barrier().await);
    let missed = server.bus.log.missed(&stream("a"), end, released, 3).await.unwrap();
    assert_eq!(missed.messages.len(), 1, "and comes next");
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
    let position = here.position_after("1");
    for (stream, payload) in [("a", "2"), ("b", "3"), ("a", "4")] {
        support::sqlite3(&path, &insert(stream, payload));
    }

    let released = Arc::new(there.barrier().await);
    let missed = there.bus.log.missed(&stream("a"), position, released.clone(), 100).await.unwrap();
    let payloads: Vec<&str> = missed.messages.iter().map(|message| &*message.payload).collect();
    assert_eq!(payloads, ["2", "4"]);
    let latest = there.bus.log.latest(&stream("a"), released, 2).await.unwrap();
    assert_eq!(latest.messages, missed.messages);
}
