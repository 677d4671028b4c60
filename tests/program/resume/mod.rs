//! Late, or back again: what newcomers are given of a stream's past, and how clients go on from where they were.

mod events;
mod extended;
mod failover;
mod history;
mod hostile;
mod memory;
mod newcomers;
mod position;

use serde_json::{Value, json};

use crate::support::{Builder, Database, Server, Socket, server, tablecast};

/// Rules for all that can be given: `state:1` is a state to some and events to others.
const CHANNELS: &str = r#"
[[channel]]
name = "StateChannel"
stream = "state:{id}"
allow = "public"
state = true

[[channel]]
name = "LastOfStateChannel"
stream = "state:{id}"
allow = "public"
replay = 3

[[channel]]
name = "LastChannel"
stream = "log:{id}"
allow = "public"
replay = 3

[[channel]]
name = "LastOneChannel"
stream = "log:{id}"
allow = "public"
replay = 1

[[channel]]
name = "EventChannel"
stream = "log:{id}"
allow = "public"
"#;

fn channel(name: &str, id: u32) -> String {
    json!({ "channel": name, "id": id }).to_string()
}

fn state(id: u32) -> String {
    channel("StateChannel", id)
}

fn last(id: u32) -> String {
    channel("LastChannel", id)
}

fn events(id: u32) -> String {
    channel("EventChannel", id)
}

/// A server with these rules, on a file of its own.
fn with_rules() -> Builder {
    server().config(CHANNELS).open()
}

/// The same on a database that all is made in.
fn serve(database: &Database) -> Builder {
    migrate(database);
    with_rules().database_url(&database.url())
}

fn migrate(database: &Database) {
    let migrated = tablecast().args(["migrate", "--database-url", &database.url()]).output().unwrap();
    assert!(migrated.status.success(), "{}", String::from_utf8_lossy(&migrated.stderr));
}

/// A worker's statement.
fn insert(stream: &str, data: impl std::fmt::Display) -> String {
    format!("INSERT INTO tablecast_publish (stream, data) VALUES ('{stream}', '{data}')")
}

/// Publishes numbers to a stream, and waits until they have been released.
fn publish_numbers(server: &Server, stream: &str, numbers: impl IntoIterator<Item = u32>) {
    server.publish_all(numbers.into_iter().map(|n| (stream, json!(n))));
    caught_up(server);
}

/// Waits until a server has released all that was committed before.
fn caught_up(server: &Server) {
    assert_eq!(crate::support::get(server.internal, "/position").status, 200);
}

/// What a client of the extended protocol has of a subscription.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Has {
    stream_id: String,
    epoch: String,
    offset: u64,
}

impl Has {
    /// As `@anycable/core` says it.
    fn history(&self) -> Value {
        json!({ "streams": { &self.stream_id: { "epoch": self.epoch, "offset": self.offset } } })
    }

    fn with_epoch(&self, epoch: &str) -> Self {
        Self { epoch: epoch.to_owned(), ..self.clone() }
    }
}

fn subscribe_with(socket: &mut Socket, identifier: &str, history: &Value) {
    let command = json!({ "command": "subscribe", "identifier": identifier, "history": history });
    socket.send(&command.to_string());
    assert_eq!(socket.json(), json!({ "identifier": identifier, "type": "confirm_subscription" }));
}

fn history_command(socket: &mut Socket, identifier: &str, history: &Value) {
    let command = json!({ "command": "history", "identifier": identifier, "history": history });
    socket.send(&command.to_string());
}

/// The next message of a subscription, and what its client has with it.
fn message(socket: &mut Socket, identifier: &str) -> (Value, Has) {
    let message = socket.json();
    assert_eq!(message["identifier"], identifier, "{message}");
    let text = |name: &str| message[name].as_str().unwrap_or_else(|| panic!("{message}")).to_owned();
    let has = Has {
        stream_id: text("stream_id"),
        epoch: text("epoch"),
        offset: message["offset"].as_u64().unwrap_or_else(|| panic!("{message}")),
    };
    (message["message"].clone(), has)
}

/// The next messages of a subscription are these; gives what its client has with the last.
fn expect(socket: &mut Socket, identifier: &str, messages: impl IntoIterator<Item = u32>) -> Has {
    let mut has = None;
    for expected in messages {
        let (got, with) = message(socket, identifier);
        assert_eq!(got, json!(expected));
        has = Some(with);
    }
    has.expect("there is one")
}

/// All that was missed has been given.
fn confirmed(socket: &mut Socket, identifier: &str) {
    assert_eq!(socket.json(), json!({ "identifier": identifier, "type": "confirm_history" }));
}

/// It can't be.
fn rejected(socket: &mut Socket, identifier: &str) {
    assert_eq!(socket.json(), json!({ "identifier": identifier, "type": "reject_history" }));
}

/// Runs a promise on each database server, with a database of its own.
macro_rules! on_each_database {
    ($($promise:ident),* $(,)?) => {
        mod on_postgres {
            $(#[test] fn $promise() {
                super::$promise(&crate::support::postgres::shared().database());
            })*
        }
        mod on_mariadb {
            $(#[test] fn $promise() {
                super::$promise(&crate::support::mariadb::shared().database());
            })*
        }
    };
}
use on_each_database;
