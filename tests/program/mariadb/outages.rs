//! The database may go away: connections stay, and what was committed meanwhile comes after.

use std::time::{Duration, Instant};

use super::{expect, expect_numbers, listen, migrate, migrated, publish, publish_numbers, serve};
use crate::support::{
    Database, DatabaseServer, PASSWORD, Proxy, Server, Socket, get, mariadb, pubsub, request, server, until,
};

fn is_ready(server: &Server) -> bool {
    get(server.public, "/ready").status == 200
}

fn told(server: &Server) -> [usize; 2] {
    let log = server.log();
    [log.matches("the tail lost the database").count(), log.matches("follows the table again").count()]
}

#[test]
fn a_server_that_stops_crashes_or_stalls_is_come_back_to() {
    let mut mariadb = mariadb::server().start();
    let database = mariadb.database();
    migrate(&database, &[]);
    let server = serve(&database).start();
    let mut socket = listen(&server);
    type Change = fn(&mut DatabaseServer);
    let outages: [(Change, Change); 3] = [
        (DatabaseServer::stop, DatabaseServer::start_again),
        (DatabaseServer::kill, DatabaseServer::start_again),
        (DatabaseServer::pause, DatabaseServer::resume),
    ];
    for (index, (begin, end)) in outages.into_iter().enumerate() {
        let late = database.begin(&publish("\"lost, or late\""));
        database.sql(&publish("1"));
        expect(&mut socket, &["1"]);
        begin(&mut mariadb);
        until("it says so", || !is_ready(&server));
        server.publish(r#"{"stream":"s","data":"refused"}"#).problem(503);
        end(&mut mariadb);
        database.sql(&publish("2"));
        until("it follows", || is_ready(&server));
        // What hung in the stalled server may have been committed by it.
        let next = |socket: &mut Socket| match socket.message(&pubsub("s")) {
            message if message == "\"refused\"" => socket.message(&pubsub("s")),
            message => message,
        };
        assert_eq!(next(&mut socket), "2");
        if index == 2 {
            late.commit();
            assert_eq!(next(&mut socket), "\"lost, or late\"");
        } else {
            drop(late);
        }
        database.sql(&publish("3"));
        assert_eq!(next(&mut socket), "3");
        assert_eq!(told(&server), [index + 1; 2], "{}", server.log());
    }
    assert!(!server.log().contains(&format!(":{PASSWORD}@")));
}

#[test]
fn a_restart_between_two_messages_loses_nothing() {
    let mut mariadb = mariadb::server().start();
    let database = mariadb.database();
    migrate(&database, &[]);
    let server = serve(&database).start();
    let mut socket = listen(&server);
    for _ in 0..3 {
        database.sql(&publish("1"));
        mariadb.restart();
        database.sql(&publish("2"));
        expect(&mut socket, &["1", "2"]);
    }
    socket.nothing_else();
}

fn proxied() -> (Database, Proxy, Server, Socket) {
    let database = migrated();
    let proxy = Proxy::to(database.address);
    let server = server().database_url(&proxy.url(&database.url())).open().start();
    let socket = listen(&server);
    (database, proxy, server, socket)
}

/// Others write on while the server can't read: all of it arrives, late rows in their turn.
fn nothing_is_lost(fault: fn(&Proxy), mend: fn(&Proxy)) -> Server {
    let (database, proxy, server, mut socket) = proxied();
    for key in ["first", "second"] {
        let over = database.begin(&publish("\"committed while it was away\""));
        let late = database.begin(&publish("\"late\""));
        database.sql(&publish("1"));
        expect(&mut socket, &["1"]);
        fault(&proxy);
        over.commit();
        database.sql(&publish("2"));
        database.sql(&publish_numbers(3, 2000));
        mend(&proxy);
        expect(&mut socket, &["\"committed while it was away\""]);
        expect_numbers(&mut socket, 2..=2000);
        late.commit();
        expect(&mut socket, &["\"late\""]);
        until("it follows", || is_ready(&server));
        // A connection that broke while it was used leaves a 503, which a key makes safe to repeat.
        until("it takes messages", || {
            let headers = [("Content-Type", "application/json"), ("Idempotency-Key", key)];
            request(server.internal, "POST", "/broadcast", &headers, br#"{"stream":"s","data":0}"#).status
                == 201
        });
        expect(&mut socket, &["0"]);
    }
    socket.nothing_else();
    server
}

#[test]
fn resets_lose_nothing() {
    nothing_is_lost(Proxy::reset_all, |_| {});
}

#[test]
fn half_closed_connections_lose_nothing() {
    nothing_is_lost(Proxy::half_close, |_| {});
}

#[test]
fn refused_connections_lose_nothing() {
    nothing_is_lost(Proxy::refuse, Proxy::accept_again);
}

#[test]
fn a_slow_network_loses_nothing() {
    let server =
        nothing_is_lost(|proxy| proxy.delay(Duration::from_millis(200)), |proxy| proxy.delay(Duration::ZERO));
    assert_eq!(told(&server), [0, 0], "{}", server.log());
}

#[test]
fn a_network_that_drops_everything_is_noticed_within_seconds_and_come_back_to() {
    let (database, proxy, server, mut socket) = proxied();
    let began = Instant::now();
    proxy.freeze();
    until("it says so", || !is_ready(&server));
    assert!(began.elapsed() < Duration::from_secs(12), "{:?}", began.elapsed());
    server.publish(r#"{"stream":"s","data":1}"#).problem(503);
    database.sql(&publish("2"));
    proxy.thaw();
    until("it follows", || is_ready(&server));
    database.sql(&publish("3"));
    let mut messages: Vec<String> = Vec::new();
    while messages.last().is_none_or(|last| last != "3") {
        messages.push(socket.message(&pubsub("s")));
    }
    messages.retain(|message| message != "1");
    assert_eq!(messages, ["2", "3"]);
}

#[test]
fn connections_that_are_killed_are_opened_again() {
    let (database, _proxy, server, mut socket) = proxied();
    let account = database.user("server");
    database.sql(&format!("GRANT ALL ON {}.* TO {account}", database.name));
    let of_its_own =
        crate::support::server().database_url(&database.url_as(&account, PASSWORD)).open().start();
    let mut listener = listen(&of_its_own);
    for n in 0..3 {
        database.sql(&publish("1"));
        expect(&mut listener, &["1"]);
        database.sql(&format!("KILL USER {account}"));
        database.sql(&publish("2"));
        expect(&mut listener, &["2"]);
        // A connection that rests is asked before it is used; one that was just used leaves a 503.
        until("it takes messages", || {
            let headers = [("Content-Type", "application/json"), ("Idempotency-Key", &*format!("k{n}"))];
            let body = br#"{"stream":"s","data":3}"#;
            request(of_its_own.internal, "POST", "/broadcast", &headers, body).status == 201
        });
        expect(&mut listener, &["3"]);
        expect(&mut socket, &["1", "2", "3"]);
    }
    for server in [&server, &of_its_own] {
        assert_eq!(told(server), [0, 0], "one failed look is no outage: {}", server.log());
    }
}

/// A table that another server holds, as after a failover: with the rows that were seen, and without.
#[test]
fn another_server_with_every_row_goes_on_and_one_without_is_another_history() {
    let (database, proxy, server, mut socket) = proxied();
    database.sql(&publish("1"));
    expect(&mut socket, &["1"]);
    let other = mariadb::server().start();
    let copy = |rows: &str| {
        let copy = other.database();
        migrate(&copy, &[]);
        let columns = "id, channel, payload, created_at, channel_hash";
        let values = database.sql(&format!(
            "SELECT GROUP_CONCAT('(', id, ', x''', HEX(channel), ''', x''', HEX(payload), ''', ''', created_at, ''', ', channel_hash, ')' ORDER BY id)
             FROM solid_cable_messages WHERE {rows}"
        ));
        copy.sql(&format!(
            "DELETE FROM solid_cable_messages; INSERT INTO solid_cable_messages ({columns}) VALUES {values}"
        ));
        copy
    };
    // The proxy leads to another server; the database there has this one's name.
    let name = &database.name;
    let lead_to = |copy: &Database| {
        other.sql(&format!("DROP DATABASE IF EXISTS {name}; CREATE DATABASE {name}"));
        for table in copy.sql("SHOW FULL TABLES WHERE Table_type = 'BASE TABLE'").lines() {
            let table = table.split('\t').next().unwrap();
            if table == "solid_cable_messages" {
                copy.sql(&format!("RENAME TABLE {table} TO {name}.{table}"));
            }
        }
        proxy.redirect(other.address);
        proxy.reset_all();
    };
    lead_to(&copy("TRUE"));
    let moved = other.named(name);
    moved.sql(&super::row("s", "2"));
    expect(&mut socket, &["2"]);
    let history = |database: &Database| {
        let text = database.sql("SELECT payload FROM solid_cable_messages WHERE id = -1");
        serde_json::from_str::<serde_json::Value>(&text).unwrap()
    };
    assert_eq!(history(&moved)["history"], history(&database)["history"]);

    // And back to the first one, which has never had the last row, and another one with its id.
    for _ in 0..3 {
        database.sql(&super::row("other", "0"));
    }
    proxy.redirect(database.address);
    proxy.reset_all();
    assert_eq!(socket.text(), r#"{"type":"disconnect","reason":"new_history","reconnect":true}"#);
    // Its row names the history of before, which this one isn't: whoever writes next mends that.
    let before = history(&database);
    until("it takes messages", || server.publish(r#"{"stream":"other","data":0}"#).status == 201);
    until("it has another name", || history(&database)["history"] != before["history"]);
    until("which the tail has seen", || server.log().matches("history is another one").count() == 2);
    let mut socket = listen(&server);
    database.sql(&publish("3"));
    expect(&mut socket, &["3"]);
}
