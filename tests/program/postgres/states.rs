//! A state that commits late is older than what its subscribers have.

use super::{migrated, publish, serve};
use crate::support::{Database, Server, Socket, pubsub};

const STATE: &str = r#"{"channel":"StateChannel"}"#;

/// Two clients that listen to stream `s`: by a state rule, and by name.
fn listening() -> (Database, Server, [Socket; 2]) {
    let rule = "[[channel]]\nname = \"StateChannel\"\nstream = \"s\"\nallow = \"public\"\nstate = true";
    let database = migrated();
    let server = serve(&database).config(rule).start();
    let mut clients = [server.connect(), server.connect()];
    clients[0].subscribe(STATE);
    clients[1].subscribe(&pubsub("s"));
    (database, server, clients)
}

#[test]
fn a_state_that_commits_after_a_newer_one_reaches_those_alone_who_want_events() {
    let (database, _server, [mut states, mut events]) = listening();
    let late = database.begin(&publish("1"));
    database.sql(&publish("2"));
    assert_eq!(states.message(STATE), "2");
    assert_eq!(events.message(&pubsub("s")), "2");

    late.commit();
    assert_eq!(events.message(&pubsub("s")), "1");
    database.sql(&publish("3"));
    assert_eq!(events.message(&pubsub("s")), "3");
    assert_eq!(states.message(STATE), "3");
    states.nothing_else();
}

#[test]
fn a_late_state_is_delivered_where_only_other_streams_have_newer_ones() {
    let (database, _server, [mut states, mut events]) = listening();
    states.subscribe(&pubsub("other"));
    let late = database.begin(&publish("1"));
    database.sql("INSERT INTO tablecast_publish (stream, data) VALUES ('other', '2')");
    assert_eq!(states.message(&pubsub("other")), "2");

    late.commit();
    assert_eq!(states.message(STATE), "1");
    assert_eq!(events.message(&pubsub("s")), "1");
}

/// Of what one late transaction brings, its last state is the newest that there is.
#[test]
fn of_a_late_transactions_states_the_last_is_delivered() {
    let (database, _server, [mut states, mut events]) = listening();
    states.subscribe(&pubsub("other"));
    let late = database.begin(&format!("{}; {}", publish("1"), publish("2")));
    database.sql("INSERT INTO tablecast_publish (stream, data) VALUES ('other', '3')");
    assert_eq!(states.message(&pubsub("other")), "3");

    late.commit();
    assert_eq!(states.message(STATE), "2");
    states.nothing_else();
    assert_eq!(events.message(&pubsub("s")), "1");
    assert_eq!(events.message(&pubsub("s")), "2");
}
