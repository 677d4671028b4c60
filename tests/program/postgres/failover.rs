//! A replica takes over, at the address of its primary.

use tablecast::bus::Rejection;

use super::{expect, listen, migrate, publish};
use crate::log::{Follower, payloads};
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
        let ready = get(server.internal, "/ready");
        ready.status == 503 && ready.body.contains("standby")
    });
    replica.promote();
    until("it follows", || get(server.public, "/ready").status == 200);
    database.at(replica.address).sql(&publish("2"));
    expect(&mut socket, &["2"]);
}

#[test]
fn a_word_from_before_a_failover_is_good_as_far_as_the_replica_had_the_rows() {
    // The proxy has a runtime of its own, in which none can be waited for.
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let mut primary = postgres::server().start();
    let database = primary.database();
    let mut replica = primary.replica();
    let proxy = Proxy::to(primary.address);
    let url = proxy.url(&database.url());
    let mut saw_it_lost = runtime.block_on(Follower::start(&url));
    let mut saw_less = runtime.block_on(Follower::start(&url));
    let insert = |payload: &str| crate::log::insert("s", payload);
    database.sql(&insert("1"));
    runtime.block_on(saw_it_lost.until("1"));
    runtime.block_on(saw_less.until("1"));
    replica.wait_for_replay(&primary);
    replica.stop();
    database.sql(&insert("2"));
    runtime.block_on(saw_it_lost.until("2"));
    primary.kill();
    replica.start_again();
    replica.promote();
    let database = database.at(replica.address);
    database.sql(&insert("3"));
    proxy.redirect(replica.address);
    proxy.reset_all();

    runtime.block_on(async {
        let (good, lost) = (saw_it_lost.word_after("1"), saw_it_lost.word_after("2"));
        assert_eq!(payloads(&saw_less.missed(&["s"], &good).await.unwrap()), ["3"]);
        assert_eq!(saw_less.missed(&["s"], &lost).await.unwrap_err(), Rejection::AnotherHistory);
        saw_it_lost.until_new_history().await;
        for word in [good, lost] {
            assert_eq!(saw_it_lost.missed(&["s"], &word).await.unwrap_err(), Rejection::AnotherHistory);
        }
        let newer = saw_less.missed(&["s"], &saw_less.word_after("1")).await.unwrap();
        assert_eq!(payloads(&saw_it_lost.missed(&["s"], &newer[0].token.word).await.unwrap()), [""; 0]);
    });
}
