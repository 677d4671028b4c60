//! The database may go away: connections stay, and what was committed meanwhile comes after.

use std::time::{Duration, Instant};

use super::{expect, listen, migrate, migrated, publish, serve};
use crate::support::{
    Database, DatabaseServer, PASSWORD, Proxy, Server, Socket, get, postgres, pubsub, request, until,
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
    let mut postgres = postgres::server().start();
    let database = postgres.database();
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
        begin(&mut postgres);
        until("it says so", || !is_ready(&server));
        let answer = server.publish(r#"{"stream":"s","data":"refused"}"#);
        answer.problem(503);
        end(&mut postgres);
        // What hung in the stalled server may have been committed by it.
        let mut next = || loop {
            let message = socket.message(&pubsub("s"));
            if message != "\"refused\"" {
                return message;
            }
        };
        database.sql(&publish("2"));
        assert_eq!(next(), "2");
        if index == 2 {
            late.commit();
            assert_eq!(next(), "\"lost, or late\"");
        } else {
            drop(late);
        }
        database.sql(&publish("3"));
        assert_eq!(next(), "3");
        until("it follows", || is_ready(&server));
        until("the log tells it once", || told(&server) == [index + 1; 2]);
    }
    assert!(!server.log().contains(&format!(":{PASSWORD}@")));
}

#[test]
fn a_restart_between_two_messages_loses_nothing() {
    let mut postgres = postgres::server().start();
    let database = postgres.database();
    migrate(&database, &[]);
    let server = serve(&database).start();
    let mut socket = listen(&server);
    for _ in 0..3 {
        database.sql(&publish("1"));
        postgres.restart();
        database.sql(&publish("2"));
        expect(&mut socket, &["1", "2"]);
    }
    socket.nothing_else();
}

fn proxied() -> (Database, Proxy, Server, Socket) {
    let database = migrated();
    let proxy = Proxy::to(database.address);
    let server = crate::support::server().database_url(&proxy.url(&database.url())).open().start();
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
        database.sql(
            "INSERT INTO tablecast_publish (stream, data) SELECT 's', n FROM generate_series(3, 2000) AS n",
        );
        mend(&proxy);
        expect(&mut socket, &["\"committed while it was away\""]);
        let numbers: Vec<String> = (2..=2000).map(|n| n.to_string()).collect();
        expect(&mut socket, &numbers.iter().map(String::as_str).collect::<Vec<_>>());
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
        nothing_is_lost(|proxy| proxy.delay(Duration::from_millis(300)), |proxy| proxy.delay(Duration::ZERO));
    assert_eq!(told(&server), [0, 0], "{}", server.log());
}

#[test]
fn a_network_that_drops_everything_loses_nothing() {
    nothing_is_lost(Proxy::freeze, Proxy::thaw);
}

#[test]
fn a_network_that_drops_everything_is_noticed_within_seconds() {
    let (database, proxy, server, mut socket) = proxied();
    for round in 1..=2 {
        proxy.freeze();
        let started = Instant::now();
        until("it says so", || !is_ready(&server));
        assert!(started.elapsed() < Duration::from_secs(9), "{:?}", started.elapsed());
        assert!(
            get(server.internal, "/ready").body.contains("did not answer"),
            "{:?}",
            get(server.internal, "/ready")
        );
        // Not for everybody.
        assert_eq!(get(server.public, "/ready").body, "the tail lost the database\n");
        proxy.thaw();
        until("it follows", || is_ready(&server));
        database.sql(&publish("1"));
        expect(&mut socket, &["1"]);
        until("the log tells it once", || told(&server) == [round; 2]);
    }
}

#[test]
fn a_password_that_was_changed_is_said_and_works_again_once_it_is_right() {
    let database = migrated();
    let proxy = Proxy::to(database.address);
    let role = database.user("server");
    database.sql(&format!("ALTER ROLE {role} SUPERUSER"));
    let url = proxy.url(&database.url_as(&role, PASSWORD));
    let server = crate::support::server().database_url(&url).open().start();
    let mut socket = listen(&server);
    database.sql(&format!("ALTER ROLE {role} PASSWORD 'another'"));
    proxy.reset_all();
    until("it says so", || {
        let ready = get(server.internal, "/ready");
        ready.status == 503 && ready.body.contains("refused the login")
    });
    database.sql(&publish("1"));
    database.sql(&format!("ALTER ROLE {role} PASSWORD '{PASSWORD}'"));
    expect(&mut socket, &["1"]);
    assert_eq!(server.publish(r#"{"stream":"s","data":2}"#).status, 201);
    expect(&mut socket, &["2"]);
    assert!(!server.log().contains(&format!(":{PASSWORD}@")), "{}", server.log());
}

#[test]
fn a_table_that_is_locked_for_long_is_waited_for_by_one_connection() {
    let database = migrated();
    let server = serve(&database).start();
    let mut socket = listen(&server);
    let mut lock = database.begin("LOCK TABLE solid_cable_messages IN ACCESS EXCLUSIVE MODE");
    lock.run(&publish("1"));
    for _ in 0..2 {
        until("it says so", || !is_ready(&server));
        let started = Instant::now();
        while started.elapsed() < Duration::from_secs(5) {
            let sql = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'tablecast' AND datname = current_database()";
            assert!(database.sql(sql).parse::<u32>().unwrap() <= 4);
        }
    }
    lock.commit();
    expect(&mut socket, &["1"]);
    until("it follows", || is_ready(&server));
    until("the log tells it once", || told(&server) == [1, 1]);
}

#[test]
fn where_no_connection_is_left_it_waits_for_one() {
    let database = migrated();
    let proxy = Proxy::to(database.address);
    let role = database.user("server");
    database.sql(&format!(
        "GRANT SELECT, INSERT, DELETE ON solid_cable_messages TO {role}; GRANT SELECT, USAGE ON SEQUENCE solid_cable_messages_id_seq TO {role}"
    ));
    let url = proxy.url(&database.url_as(&role, PASSWORD));
    let server = crate::support::server().database_url(&url).open().start();
    let mut socket = listen(&server);
    database.sql(&format!("ALTER ROLE {role} CONNECTION LIMIT 0"));
    proxy.reset_all();
    until("it says so", || {
        let ready = get(server.internal, "/ready");
        ready.status == 503 && ready.body.contains("takes no more connections")
    });
    server.publish(r#"{"stream":"s","data":1}"#).problem(503);
    database.sql(&publish("2"));
    database.sql(&format!("ALTER ROLE {role} CONNECTION LIMIT 5"));
    expect(&mut socket, &["2"]);
    assert_eq!(server.publish(r#"{"stream":"s","data":3}"#).status, 201);
    expect(&mut socket, &["3"]);
    socket.nothing_else();
}
