//! Committed means delivered, once and in order, however late a transaction commits.

use std::time::Duration;

use super::{
    expect, expect_numbers, listen, listening, migrate, migrated, others_go_on_until_it_is_old, publish,
    publish_numbers, row, serve, server_account,
};
use crate::support::{Database, PASSWORD, Socket, mariadb, pubsub, server, tablecast, until};

#[test]
fn a_late_commit_comes_after_the_early_one_and_once() {
    let (database, _server, mut socket) = listening();
    let late = database.begin(&publish("1"));
    database.sql(&publish("2"));
    expect(&mut socket, &["2"]);

    late.commit();
    expect(&mut socket, &["1"]);
    database.sql(&publish("3"));
    expect(&mut socket, &["3"]);
    socket.nothing_else();
}

#[test]
fn of_two_late_transactions_each_comes_when_it_commits() {
    let (database, _server, mut socket) = listening();
    let first = database.begin(&publish("1"));
    let second = database.begin(&publish("2"));
    database.sql(&publish("3"));
    expect(&mut socket, &["3"]);
    second.commit();
    expect(&mut socket, &["2"]);
    first.commit();
    expect(&mut socket, &["1"]);
}

#[test]
fn a_transaction_that_was_open_when_the_server_started_is_delivered() {
    let database = migrated();
    let late = database.begin(&publish("1"));
    database.sql(&publish("\"before\""));
    let server = serve(&database).start();
    let mut socket = listen(&server);
    others_go_on_until_it_is_old(&database, &mut socket);
    late.commit();
    expect(&mut socket, &["1"]);
}

#[test]
fn what_is_rolled_back_is_never_seen() {
    let (database, _server, mut socket) = listening();
    let rolled_back = database.begin(&publish("1"));
    database.sql(&publish("2"));
    expect(&mut socket, &["2"]);
    rolled_back.roll_back();
    database.sql(&publish("3"));
    expect(&mut socket, &["3"]);
    socket.nothing_else();
}

#[test]
fn a_row_that_was_deleted_under_a_savepoint_and_came_back_is_delivered() {
    let (database, _server, mut socket) = listening();
    let mut late = database.begin(&row("s", "1"));
    for sql in ["SAVEPOINT a", "DELETE FROM solid_cable_messages WHERE id = 1"] {
        late.run(sql);
    }
    database.sql(&publish("2"));
    expect(&mut socket, &["2"]);
    others_go_on_until_it_is_old(&database, &mut socket);
    late.run("ROLLBACK TO a");
    late.commit();
    expect(&mut socket, &["1"]);
}

#[test]
fn savepoints_are_parts_of_their_transaction() {
    let (database, _server, mut socket) = listening();
    let mut late = database.begin(&publish("1"));
    for sql in ["SAVEPOINT a", &publish("2"), "ROLLBACK TO a", &publish("3"), "SAVEPOINT b"] {
        late.run(sql);
    }
    late.run(&publish("4"));
    database.sql(&publish("5"));
    expect(&mut socket, &["5"]);
    late.commit();
    expect(&mut socket, &["1", "3", "4"]);
    database.sql(&publish("6"));
    expect(&mut socket, &["6"]);
}

#[test]
fn a_transaction_with_an_old_gap_and_new_rows_stays_in_order() {
    let (database, _server, mut socket) = listening();
    for _ in 0..10 {
        let mut late = database.begin(&publish("1"));
        database.sql(&publish("0"));
        expect(&mut socket, &["0"]);
        late.run(&publish("2"));
        late.commit();
        database.sql(&publish("3"));
        expect(&mut socket, &["1", "2", "3"]);
    }
}

#[test]
fn a_late_transaction_of_many_pages_arrives_whole_and_in_order() {
    let (database, _server, mut socket) = listening();
    let late = database.begin(&publish_numbers(1, 5000));
    database.sql(&publish("0"));
    expect(&mut socket, &["0"]);
    late.commit();
    expect_numbers(&mut socket, 1..=5000);
    database.sql(&publish("0"));
    expect(&mut socket, &["0"]);
}

/// A statement that draws its ids in chunks and inserts them over seconds, while others
/// publish beside it where the lock mode lets them, and behind it where not.
fn a_slow_insert_select_arrives_whole(lock_mode: &str) {
    let mariadb = mariadb::server().with("innodb-autoinc-lock-mode", lock_mode).start();
    let database = mariadb.database();
    migrate(&database, &[]);
    let server = serve(&database).start();
    let mut socket = listen(&server);
    socket.subscribe(&pubsub("other"));
    let slow = "INSERT INTO solid_cable_messages (created_at, channel, payload, channel_hash)
                SELECT UTC_TIMESTAMP(6), IF(SLEEP(0.03), '', 's'), seq, 7 FROM seq_1_to_60 ORDER BY seq";
    std::thread::scope(|scope| {
        let slow = scope.spawn(|| database.sql(slow));
        for _ in 0..20 {
            database.sql(&row("other", "0"));
        }
        slow.join().unwrap();
    });
    // Each stream comes in its order; the two come as they may.
    let (mut numbers, mut others) = (Vec::new(), 0);
    while numbers.len() < 60 || others < 20 {
        let message = socket.json();
        if message["identifier"] == pubsub("s") {
            numbers.push(message["message"].as_u64().unwrap());
        } else {
            others += 1;
        }
    }
    assert_eq!(numbers, (1..=60).collect::<Vec<_>>());
    socket.nothing_else();
}

#[test]
fn a_slow_insert_select_arrives_whole_under_the_lock_of_mode_1() {
    a_slow_insert_select_arrives_whole("1");
}

#[test]
fn a_slow_insert_select_arrives_whole_without_a_lock_in_mode_2() {
    a_slow_insert_select_arrives_whole("2");
}

#[test]
fn a_prepared_transaction_outlives_the_server_and_is_delivered() {
    let mut mariadb = mariadb::server().start();
    let database = mariadb.database();
    migrate(&database, &[]);
    let server = serve(&database).start();
    let mut socket = listen(&server);
    database.sql(&format!("XA START 'x'; {}; XA END 'x'; XA PREPARE 'x'", publish("1")));
    database.sql(&publish("2"));
    expect(&mut socket, &["2"]);
    mariadb.restart();
    others_go_on_until_it_is_old(&database, &mut socket);
    database.sql("XA COMMIT 'x'");
    expect(&mut socket, &["1"]);
    socket.nothing_else();
}

/// Whether the tail's looks still ask for ids of gaps, by what the server wrote into its log.
fn asks_for_gaps(database: &Database) -> bool {
    forget_looks(database);
    let mut looks = (0, 0);
    until("it has looked", || {
        looks = looks_so_far(database);
        looks.0 > 0
    });
    looks.1 > 0
}

fn forget_looks(database: &Database) {
    database.sql("TRUNCATE mysql.general_log");
}

/// How many there were, and how many of them asked for ids of gaps.
fn looks_so_far(database: &Database) -> (u32, u32) {
    let looks = "SELECT count(*), COALESCE(sum(argument LIKE '%BETWEEN%PRECEDING%UNION ALL (SELECT%'), 0)
                 FROM mysql.general_log WHERE argument LIKE '%bytes_before%' AND argument NOT LIKE '%general_log%'";
    let counts = database.sql(looks);
    let (all, with_gaps) = counts.split_once('\t').unwrap();
    (all.parse().unwrap(), with_gaps.parse().unwrap())
}

#[test]
fn a_gap_is_given_up_when_all_have_ended_who_could_fill_it_and_not_before() {
    let mariadb = mariadb::server().start();
    mariadb.sql("SET GLOBAL log_output = 'TABLE'; SET GLOBAL general_log = 1");
    let database = mariadb.database();
    migrate(&database, &[]);
    database.sql("CREATE TABLE other (n INT) ENGINE = InnoDB");
    let server = serve(&database).start();
    let mut socket = listen(&server);

    let open = database.begin("INSERT INTO other VALUES (1)");
    database.begin(&publish("1")).roll_back();
    database.sql(&publish("2"));
    expect(&mut socket, &["2"]);
    others_go_on_until_it_is_old(&database, &mut socket);
    assert!(asks_for_gaps(&database), "it could be the other one's, which has been open all along");

    open.commit();
    until("it is given up", || !asks_for_gaps(&database));
    // Readers hold up nothing.
    let reader = database.begin("SELECT count(*) FROM solid_cable_messages");
    database.begin(&publish("1")).roll_back();
    forget_looks(&database);
    database.sql(&publish("3"));
    until("it asks again", || looks_so_far(&database).1 > 0);
    until("and gives up", || !asks_for_gaps(&database));
    reader.commit();
}

#[test]
fn without_the_process_privilege_late_commits_are_delivered_and_the_grant_is_named() {
    let database = migrated();
    let account = server_account(&database);
    let url = database.url_as(&account, PASSWORD);
    let server = server().database_url(&url).open().start();
    let grant = format!("GRANT PROCESS ON *.* TO '{account}'@'%'");
    until("it is said", || server.log().contains(&grant));

    let mut socket = listen(&server);
    let late = database.begin(&publish("1"));
    others_go_on_until_it_is_old(&database, &mut socket);
    late.commit();
    expect(&mut socket, &["1"]);
    assert_eq!(server.log().matches("WARN").count(), 1, "{}", server.log());

    let check = tablecast().args(["check", "--public-streams=*", "--database-url", &url]).output().unwrap();
    assert!(String::from_utf8_lossy(&check.stdout).contains(&grant), "{check:?}");
    database.sql(&grant);
    let check = tablecast().args(["check", "--public-streams=*", "--database-url", &url]).output().unwrap();
    assert_eq!(check.status.code(), Some(0), "{check:?}");
}

#[test]
fn explicit_ids_are_delivered_above_all_others_and_in_a_gap() {
    let (database, _server, mut socket) = listening();
    database.sql(&publish("1"));
    let with_id = |id: u64, payload: &str| {
        database.sql(&format!(
            "INSERT INTO solid_cable_messages (id, created_at, channel, payload, channel_hash)
             VALUES ({id}, UTC_TIMESTAMP(6), 's', '{payload}', 7)"
        ))
    };
    with_id(1000, "2");
    expect(&mut socket, &["1", "2"]);
    database.sql(&publish("3"));
    expect(&mut socket, &["3"]);
    with_id(500, "4");
    expect(&mut socket, &["4"]);
    // The last id but one that there is.
    with_id((1 << 63) - 3, "5");
    database.sql(&publish("6"));
    expect(&mut socket, &["5", "6"]);
    socket.nothing_else();
}

#[test]
fn rows_of_others_and_rows_that_are_no_messages_are_passed() {
    let database = migrated();
    let server = serve(&database).with_prefix("a").arg("--max-payload-bytes=1KiB").start();
    let mut socket = listen(&server);
    for (channel, payload) in [
        ("a:s", "1"),
        ("b:s", "\"another prefix\""),
        ("ab:s", "\"another prefix\""),
        ("s", "\"none\""),
        ("A:s", "\"another case\""),
        ("a:s", "not JSON"),
        ("a:s", &format!("\"{}\"", "x".repeat(2000))),
        ("a:s", ""),
        ("a:s ", "\"another name\""),
        ("a:s", "2"),
    ] {
        database.sql(&row(channel, payload));
    }
    database.sql(
        "INSERT INTO solid_cable_messages (created_at, channel, payload, channel_hash)
         VALUES (UTC_TIMESTAMP(6), x'613aff', '1', 7), ('2999-01-01', 'a:s', x'22ff22', 7), ('2999-01-01', 'a:s', '3', 7)",
    );
    expect(&mut socket, &["1", "2", "3"]);
    socket.nothing_else();
    assert_eq!(server.metric(r#"tablecast_rows_total{result="not_json"}"#), 3.0);
    assert_eq!(server.metric(r#"tablecast_rows_total{result="too_large"}"#), 1.0);
    assert_eq!(server.metric(r#"tablecast_rows_total{result="not_a_name"}"#), 1.0);
}

#[test]
fn a_page_is_bounded_by_bytes_too() {
    let (database, _server, mut socket) = listening();
    database.sql(
        "INSERT INTO tablecast_publish (stream, data) SELECT 's', CONCAT('\"', REPEAT('x', 900000), seq, '\"') FROM seq_1_to_12 ORDER BY seq",
    );
    for n in 1..=12 {
        assert!(socket.message(&pubsub("s")).ends_with(&format!("x{n}\"")), "{n}");
    }
}

#[test]
fn a_list_of_transactions_that_others_keep_alive_is_not_taken_for_a_new_one() {
    let mariadb = mariadb::server().start();
    let database = mariadb.database();
    migrate(&database, &[]);
    let server = serve(&database).start();
    let mut socket = listen(&server);
    // InnoDB makes a new list only after nobody has read it for 100 ms. It ends with the server.
    let monitor = database.at(database.address);
    std::thread::spawn(move || {
        while monitor.try_sql("SELECT COUNT(*) FROM information_schema.innodb_trx").status.success() {
            std::thread::sleep(Duration::from_millis(20));
        }
    });
    let late = database.begin(&publish("1"));
    others_go_on_until_it_is_old(&database, &mut socket);
    late.commit();
    expect(&mut socket, &["1"]);
}

#[test]
fn busy_writers_of_every_kind_lose_and_double_nothing() {
    let (database, server, _) = listening();
    let writers = 8;
    let mut sockets: Vec<Socket> = (0..writers)
        .map(|writer| {
            let mut socket = server.connect();
            socket.subscribe(&pubsub(&format!("w{writer}")));
            socket
        })
        .collect();
    std::thread::scope(|scope| {
        for (writer, socket) in sockets.iter_mut().enumerate() {
            let database = &database;
            scope.spawn(move || {
                let publish = |n: u32| {
                    format!("INSERT INTO tablecast_publish (stream, data) VALUES ('w{writer}', '{n}')")
                };
                let mut expected = Vec::new();
                for n in (0..90).step_by(3) {
                    let mut transaction = database.begin(&publish(n));
                    transaction.run("SAVEPOINT a");
                    transaction.run(&publish(n + 1));
                    if n % 2 == 0 {
                        transaction.run("ROLLBACK TO a");
                    }
                    transaction.run(&publish(n + 2));
                    match (n as usize / 3 + writer) % 4 {
                        0 => transaction.roll_back(),
                        1 => drop(transaction),
                        _ => {
                            expected.extend((n..n + 3).filter(|m| n % 2 != 0 || *m != n + 1));
                            transaction.commit();
                        }
                    }
                }
                let identifier = pubsub(&format!("w{writer}"));
                let arrived: Vec<u32> =
                    expected.iter().map(|_| socket.message(&identifier).parse().unwrap()).collect();
                assert_eq!(arrived, expected);
                socket.nothing_else();
            });
        }
    });
}

/// InnoDB reads all of a payload to tell its length.
#[test]
fn a_backlog_of_large_messages_comes_in_pieces_that_it_can_read_in_time() {
    // Of its own: what it writes would keep others' waiting for the disk.
    let mariadb = mariadb::server().with("innodb-buffer-pool-size", "512M").start();
    let database = mariadb.database();
    migrate(&database, &[]);
    let server = serve(&database).start();
    let mut socket = listen(&server);
    database.sql(
        "INSERT INTO solid_cable_messages (created_at, channel, payload, channel_hash)
         SELECT UTC_TIMESTAMP(6), 'other', CONCAT('\"', REPEAT('a', 1000000), '\"'), 7 FROM seq_1_to_300",
    );
    database.sql(&publish("1"));

    expect(&mut socket, &["1"]);
    assert_eq!(server.metric(r#"tablecast_rows_total{result="released"}"#), 301.0);
    assert!(!server.log().contains("did not answer"), "{}", server.log());
}
