//! Clients that come back after the database failed over.

use super::{
    Has, caught_up, confirmed, events, expect, insert, migrate, rejected, subscribe_with, with_rules,
};
use crate::support::{Proxy, Server, get, postgres, until};

fn goes_on(server: &Server, has: &Has, messages: impl IntoIterator<Item = u32>) {
    let mut socket = server.connect_extended();
    subscribe_with(&mut socket, &events(1), &has.history());
    expect(&mut socket, &events(1), messages);
    confirmed(&mut socket, &events(1));
}

fn refuses(server: &Server, has: &Has) {
    let before = server.resumes("position_another_history");
    let mut socket = server.connect_extended();
    subscribe_with(&mut socket, &events(1), &has.history());
    rejected(&mut socket, &events(1));
    assert_eq!(server.resumes("position_another_history"), before + 1.0);
}

/// One server has shown a row that is lost, one has shown less, and one comes later.
#[test]
fn after_a_failover_who_had_what_is_lost_is_told_so_on_every_server() {
    let mut primary = postgres::server().start();
    let database = primary.database();
    migrate(&database);
    let mut replica = primary.replica();
    let proxies = [Proxy::to(primary.address), Proxy::to(primary.address)];
    let serve = |proxy: &Proxy| with_rules().database_url(&proxy.url(&database.url())).start();
    let [saw_it_lost, saw_less] = [serve(&proxies[0]), serve(&proxies[1])];
    let mut socket = saw_it_lost.connect_extended();
    socket.subscribe(&events(1));
    database.sql(&insert("log:1", 1));
    let had_one = expect(&mut socket, &events(1), [1]);
    caught_up(&saw_less);
    replica.wait_for_replay(&primary);
    replica.stop();
    proxies[1].freeze();
    database.sql(&insert("log:1", 2));
    let had_two = expect(&mut socket, &events(1), [2]);

    primary.kill();
    replica.start_again();
    replica.promote();
    let after = database.at(replica.address);
    after.sql(&insert("log:1", 3));
    for proxy in &proxies {
        proxy.redirect(replica.address);
        proxy.reset_all();
    }
    proxies[1].thaw();
    assert_eq!(socket.json()["reason"], "new_history");
    for server in [&saw_it_lost, &saw_less] {
        until("it follows", || get(server.public, "/ready").status == 200);
    }

    goes_on(&saw_less, &had_one, [3]);
    refuses(&saw_less, &had_two);
    // Who can't tell any more which is which doesn't guess.
    let came_later = serve(&proxies[0]);
    for server in [&saw_it_lost, &came_later] {
        refuses(server, &had_one);
        refuses(server, &had_two);
    }

    // What is given from now on is good everywhere.
    let mut socket = came_later.connect_extended();
    socket.subscribe(&events(1));
    after.sql(&insert("log:1", 4));
    let had_four = expect(&mut socket, &events(1), [4]);
    after.sql(&insert("log:1", 5));
    for server in [&saw_it_lost, &saw_less, &came_later] {
        goes_on(server, &had_four, [5]);
    }
}
