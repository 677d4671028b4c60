//! A replica takes over, at the address of its primary.

use super::{expect, listen, migrate, publish};
use crate::support::{Frame, Proxy, get, postgres, until};

#[test]
fn after_a_failover_to_a_replica_that_had_every_row_all_goes_on() {
    let mut primary = postgres::server().start();
    let database = primary.database();
    migrate(&database, &[]);
    let replica = primary.replica();
    let proxy = Proxy::to(primary.address);
    let server = crate::support::server().database_url(&proxy.url(&database.url())).open().start();
    let mut socket = listen(&server);
    database.sql(&publish("1"));
    expect(&mut socket, &["1"]);
    proxy.freeze();
    database.sql(&publish("2"));
    replica.wait_for_replay(&primary);
    primary.kill();
    replica.promote();
    let database = database.at(replica.address);
    database.sql(&publish("3"));
    proxy.redirect(replica.address);
    proxy.reset_all();
    proxy.thaw();

    expect(&mut socket, &["2", "3"]);
    until("it follows", || get(server.public, "/ready").status == 200);
    database.sql(&publish("4"));
    assert_eq!(server.publish(r#"{"stream":"s","data":5}"#).status, 201);
    expect(&mut socket, &["4", "5"]);
    socket.nothing_else();
    assert!(!server.log().contains("history"), "{}", server.log());
}

#[test]
fn after_a_failover_that_lost_rows_clients_are_asked_to_reconnect() {
    let mut primary = postgres::server().start();
    let database = primary.database();
    migrate(&database, &[]);
    let mut replica = primary.replica();
    let proxy = Proxy::to(primary.address);
    let server = crate::support::server().database_url(&proxy.url(&database.url())).open().start();
    let mut socket = listen(&server);
    database.sql(&publish("1"));
    expect(&mut socket, &["1"]);
    replica.wait_for_replay(&primary);
    replica.stop();
    database.sql(&publish("\"lost\""));
    expect(&mut socket, &["\"lost\""]);
    primary.kill();
    replica.start_again();
    replica.promote();
    let database = database.at(replica.address);
    database.sql(&publish("3"));
    proxy.redirect(replica.address);
    proxy.reset_all();

    assert_eq!(socket.text(), r#"{"type":"disconnect","reason":"new_history","reconnect":true}"#);
    assert_eq!(socket.next(), Frame::Close(1000, String::new()));
    let mut newcomer = listen(&server);
    database.sql(&publish("4"));
    expect(&mut newcomer, &["4"]);
}

#[test]
fn a_standby_at_the_address_is_not_followed_until_it_is_promoted() {
    let primary = postgres::server().start();
    let database = primary.database();
    migrate(&database, &[]);
    let replica = primary.replica();
    let proxy = Proxy::to(primary.address);
    let server = crate::support::server().database_url(&proxy.url(&database.url())).open().start();
    let mut socket = listen(&server);
    database.sql(&publish("1"));
    expect(&mut socket, &["1"]);
    replica.wait_for_replay(&primary);
    proxy.redirect(replica.address);
    proxy.reset_all();
    until("it says so", || {
        let ready = get(server.public, "/ready");
        ready.status == 503 && ready.body.contains("standby")
    });
    replica.promote();
    until("it follows", || get(server.public, "/ready").status == 200);
    database.at(replica.address).sql(&publish("2"));
    expect(&mut socket, &["2"]);
}
