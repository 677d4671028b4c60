//! `tablecast watch` as a script uses it: it prints positions, and goes on from them.

use std::io::{BufRead, BufReader, Lines, Read};
use std::net::TcpListener;
use std::process::{Child, ChildStdout, Command, Output, Stdio};
use std::sync::mpsc::{Receiver, channel};

use serde_json::{Value, json};
use tungstenite::Message;
use tungstenite::handshake::server::{Callback, ErrorResponse, Request, Response};

use crate::support::{self, Server, pubsub, server, tablecast, until};

fn watch(server: &Server, arguments: &[&str]) -> Command {
    let mut command = tablecast();
    command.args(["watch", "--url", &format!("ws://{}/cable", server.public)]).args(arguments);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn output(mut command: Command) -> Output {
    command.output().unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// What a watch prints, line by line.
struct Watch {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Watch {
    fn start(server: &Server, arguments: &[&str]) -> Self {
        let mut child = watch(server, arguments).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, lines }
    }

    /// Subscribed, to so many streams, before anything is published.
    fn start_alone(server: &Server, arguments: &[&str], streams: f64) -> Self {
        let watch = Self::start(server, arguments);
        until("it is subscribed", || server.metric("tablecast_subscriptions") == streams);
        watch
    }

    fn next(&mut self) -> Value {
        serde_json::from_str(&self.lines.next().expect("it goes on").unwrap()).unwrap()
    }

    /// The messages, and the position after the last one.
    fn take(&mut self, count: usize) -> (Vec<Value>, String) {
        let lines: Vec<Value> = (0..count).map(|_| self.next()).collect();
        let position = lines.last().unwrap()["position"].as_str().unwrap().to_owned();
        (lines.into_iter().map(|line| line["data"].clone()).collect(), position)
    }

    fn exit_code(&mut self) -> Option<i32> {
        self.child.wait().unwrap().code()
    }

    fn stderr(&mut self) -> String {
        let mut stderr = String::new();
        self.child.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
        stderr
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The messages that a watch of these arguments gets, and its last position.
fn from(server: &Server, arguments: &[&str], position: &str, count: usize) -> (Vec<Value>, String) {
    Watch::start(server, &[arguments, &["--positions", "--from", position]].concat()).take(count)
}

fn values(range: impl IntoIterator<Item = i32>) -> Vec<Value> {
    range.into_iter().map(Value::from).collect()
}

#[test]
fn a_script_that_stops_and_resumes_sees_each_message_once() {
    let server = server().open().start();
    let (got, position) = {
        let mut watch = Watch::start_alone(&server, &["s", "--positions"], 1.0);
        server.insert("s", "1");
        server.insert("other", "-1");
        server.insert("s", "2");
        watch.take(2)
    };
    assert_eq!(got, values([1, 2]));

    server.insert("s", "3");
    let server = server.again();
    server.insert("s", "4");
    let late =
        support::begin(&server.database(), "INSERT INTO tablecast_publish (stream, data) VALUES ('s', '5')");

    let (got, position) = from(&server, &["s"], &position, 1);
    assert_eq!(got, values([3]), "and it is stopped with more to come");
    late.commit();
    server.insert("s", "6");
    let (got, _) = from(&server, &["s"], &position, 3);
    assert_eq!(got, values([4, 5, 6]));
}

#[test]
fn a_transaction_that_commits_while_it_is_away_is_seen_once() {
    let database = crate::postgres::migrated();
    let server = crate::postgres::serve(&database).start();
    let insert = |stream: &str, n: i32| {
        format!("INSERT INTO tablecast_publish (stream, data) VALUES ('{stream}', '{n}')")
    };
    let mut watch = Watch::start_alone(&server, &["s", "--positions"], 1.0);
    let late = database.begin(&insert("s", 1));
    let later = database.begin(&insert("s", 2));
    database.sql(&insert("s", 3));
    let (got, position) = watch.take(1);
    assert_eq!(got, values([3]));
    drop(watch);

    late.commit();
    database.sql(&insert("s", 4));
    // On a server that has seen nothing of this.
    let server = server.again();
    let (got, position) = from(&server, &["s"], &position, 2);
    assert_eq!(got, values([1, 4]));

    later.commit();
    database.sql(&insert("s", 5));
    let (got, _) = from(&server, &["s"], &position, 2);
    assert_eq!(got, values([2, 5]));
}

#[test]
fn a_watch_of_two_streams_can_be_stopped_anywhere() {
    let database = crate::postgres::migrated();
    let server = crate::postgres::serve(&database).start();
    let insert = |n: i32| {
        let stream = ["even", "odd"][n as usize % 2];
        format!("INSERT INTO tablecast_publish (stream, data) VALUES ('{stream}', '{n}')")
    };
    let streams = ["even", "odd"];
    let mut watch = Watch::start_alone(&server, &["even", "odd", "--positions"], 2.0);
    database.sql(&insert(0));
    let (got, mut position) = watch.take(1);
    assert_eq!(got, values([0]));
    drop(watch);
    let late = database.begin(&insert(1));
    database.sql(&(2..8).map(insert).collect::<Vec<_>>().join(";"));

    // Stopped after each message, in the midst of what it has missed.
    let mut all = Vec::new();
    for _ in 2..5 {
        let (got, next) = from(&server, &streams, &position, 1);
        all.extend(got);
        position = next;
    }
    late.commit();
    for _ in 0..4 {
        let (got, next) = from(&server, &streams, &position, 1);
        all.extend(got);
        position = next;
    }
    database.sql(&insert(8));
    let (got, _) = from(&server, &streams, &position, 1);

    assert_eq!(got, values([8]), "nothing comes twice");
    all.sort_by_key(Value::as_i64);
    assert_eq!(all, values(1..8));
}

const LOG: &str = r#"
[[channel]]
name = "LogChannel"
stream = "log:{id}"
allow = "public"
replay = 3
"#;

/// What the other one is due may have been published before, and be held until then.
#[test]
fn what_is_given_of_one_stream_says_nothing_of_another() {
    let database = crate::postgres::migrated();
    let server = crate::postgres::serve(&database).config(LOG).arg("--replay-connections=1").start();
    let insert = |stream: &str, n: i32| {
        database.sql(&format!("INSERT INTO tablecast_publish (stream, data) VALUES ('{stream}', '{n}')"));
    };
    let log = |id: u32| json!({ "channel": "LogChannel", "id": id }).to_string();
    let mut others = server.connect();
    others.subscribe(&pubsub("live"));
    insert("log:1", 1);
    others.subscribe(&log(1));
    assert_eq!(others.message(&log(1)), "1");
    // Of the log nothing can be read for now, and somebody else's is read first.
    let reader = database.sql(
        "SELECT pid FROM pg_stat_activity
         WHERE datname = current_database() AND query LIKE '-- The last rows of some channels%'",
    );
    support::signal("STOP", &reader);
    others.subscribe(&log(2));
    assert_eq!(support::get(server.internal, "/position").status, 200);

    let identifier = format!("--identifier={}", log(3));
    let arguments = ["live", &identifier, "--positions"];
    insert("log:3", 2);
    let mut watch = Watch::start_alone(&server, &arguments, 5.0);
    insert("live", 3);
    assert_eq!(others.message(&pubsub("live")), "3");
    support::signal("CONT", &reader);
    let (got, position) = watch.take(1);
    assert_eq!(got, values([2]));
    drop(watch);

    (4..=5).for_each(|n| insert("live", n));
    assert_eq!(from(&server, &arguments[..2], &position, 2).0, values([3, 4]));
}

#[test]
fn what_commits_while_the_server_is_down_comes_once_it_is_back() {
    let server = server().open().start();
    let arguments = ["busy", "quiet", "--positions", "--count", "5"];
    let mut watch = Watch::start_alone(&server, &arguments, 2.0);
    server.insert("busy", "1");
    assert_eq!(watch.take(1).0, values([1]));

    let database = server.database();
    let mut server = server;
    server.kill();
    for (stream, data) in [("busy", 2), ("quiet", 3), ("elsewhere", -1)] {
        let sql = format!("INSERT INTO tablecast_publish (stream, data) VALUES ('{stream}', '{data}')");
        support::sqlite3(&database, &sql);
    }
    let server = server.again();

    let (got, _) = watch.take(2);
    assert!(got == values([2, 3]) || got == values([3, 2]), "{got:?}");
    server.insert("busy", "4");
    server.insert("quiet", "5");
    assert_eq!(watch.take(2).0, values([4, 5]), "in the order of the table, as the streams are live again");
    assert_eq!(watch.exit_code(), Some(0));
}

#[test]
fn a_stream_that_was_silent_until_the_server_went_is_caught_up_by_the_clock() {
    let mut server = server().open().start();
    let mut watch = Watch::start_alone(&server, &["s", "--positions", "--count", "2"], 1.0);

    server.kill();
    let sql = "INSERT INTO tablecast_publish (stream, data) VALUES ('s', '1')";
    support::sqlite3(&server.database(), sql);
    let server = server.again();

    assert_eq!(watch.take(1).0, values([1]));
    server.insert("s", "2");
    assert_eq!(watch.take(1).0, values([2]));
    assert_eq!(watch.exit_code(), Some(0));
}

#[test]
fn a_position_that_cannot_be_gone_on_from_is_said_so() {
    let here = server().open().start();
    let elsewhere = server().open().start();
    let mut there = Watch::start_alone(&elsewhere, &["s", "--positions"], 1.0);
    elsewhere.insert("s", "1");
    let (_, foreign) = there.take(1);
    here.insert("s", "1");
    let garbage = "a".repeat(1000);

    for position in [&*foreign, "garbage", &garbage, "{\"a\":\"\\u0000\"}", "none"] {
        let refused = output(watch(&here, &["s", "--from", position]));
        assert_eq!(refused.status.code(), Some(5), "{position}: {}", stderr(&refused));
        let said = stderr(&refused);
        assert!(said.contains(position) && said.contains("can't go on from the position"), "{said}");
        assert!(refused.stdout.is_empty());
    }

    let arguments = ["s", "--or-now", "--positions", "--count=2", "--from", &foreign];
    let mut watch = Watch::start_alone(&here, &arguments, 1.0);
    until("it is refused", || {
        here.metric("tablecast_resumes_total{result=\"position_another_history\"}") >= 2.0
    });
    here.insert("s", "2");
    let (got, position) = watch.take(1);
    assert_eq!(got, values([2]));
    let here = here.again();
    here.insert("s", "3");
    assert_eq!(watch.take(1).0, values([3]), "the one that was refused is forgotten");
    assert_eq!(watch.exit_code(), Some(0));
    assert!(watch.stderr().contains("from now on"));
    assert_eq!(from(&here, &["s"], &position, 1).0, values([3]));
}

#[test]
fn a_position_that_no_watch_could_have_printed_is_a_mistake() {
    let server = server().open().start();
    for position in ["", "p1,p2,p3"] {
        let output = output(watch(&server, &["a", "b", "--from", position]));
        assert_eq!(output.status.code(), Some(2));
        assert!(stderr(&output).contains("--from"), "{}", stderr(&output));
    }
}

/// Another server's answers to a subscribe, after which it ends the connection. Its address, and what it is sent.
fn scripted(protocol: &'static str, answers: Vec<Vec<Value>>) -> (String, Receiver<Value>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("ws://{}/cable", listener.local_addr().unwrap());
    let (sent, commands) = channel();
    std::thread::spawn(move || {
        for answer in answers {
            let (stream, _) = listener.accept().unwrap();
            // A watch may leave at once, and the next one come.
            let Ok(mut socket) = tungstenite::accept_hdr(stream, Select(protocol)) else { continue };
            let _ = socket.send(Message::text(r#"{"type":"welcome"}"#));
            let Ok(command) = socket.read() else { continue };
            sent.send(serde_json::from_str(&command.into_text().unwrap()).unwrap()).unwrap();
            for mut frame in answer {
                frame["identifier"] = json!(pubsub("s"));
                let _ = socket.send(Message::text(frame.to_string()));
            }
        }
    });
    (url, commands)
}

struct Select(&'static str);

impl Callback for Select {
    fn on_request(self, _: &Request, mut answer: Response) -> Result<Response, ErrorResponse> {
        answer.headers_mut().insert("sec-websocket-protocol", self.0.parse().unwrap());
        Ok(answer)
    }
}

fn scripted_watch(url: &str, arguments: &[&str]) -> Output {
    output({
        let mut command = tablecast();
        command.args(["watch", "s", "--url", url]).args(arguments);
        command
    })
}

const CONFIRM: &str = "confirm_subscription";

#[test]
fn a_server_of_plain_action_cable_is_watched_without_positions() {
    let answer = |n: i32| vec![json!({ "type": CONFIRM }), json!({ "message": n })];
    let (url, commands) = scripted("actioncable-v1-json", vec![answer(1), answer(2), vec![], vec![]]);

    let watched = scripted_watch(&url, &["--count=2"]);

    assert!(watched.status.success(), "{}", stderr(&watched));
    let lines = "{\"stream\":\"s\",\"data\":1}\n{\"stream\":\"s\",\"data\":2}\n";
    assert_eq!(String::from_utf8(watched.stdout).unwrap(), lines);
    for command in commands.iter().take(2) {
        assert_eq!(command, json!({ "command": "subscribe", "identifier": pubsub("s") }));
    }
    for option in ["--positions", "--from=p1"] {
        let refused = scripted_watch(&url, &[option]);
        assert_eq!(refused.status.code(), Some(1));
        assert!(stderr(&refused).contains("this server has no positions"), "{}", stderr(&refused));
    }
}

#[test]
fn another_servers_positions_are_given_back_to_it_and_to_nobody_else() {
    let positioned = json!({ "message": 1, "stream_id": "chat:1", "epoch": "e/1", "offset": 7 });
    let answers = vec![
        vec![json!({ "type": CONFIRM }), positioned.clone(), json!({ "message": 2 })],
        vec![json!({ "type": CONFIRM }), json!({ "type": "confirm_history" }), json!({ "message": 3 })],
        vec![json!({ "type": CONFIRM }), positioned],
    ];
    let (url, commands) = scripted("actioncable-v1-ext-json", answers);

    let watched = scripted_watch(&url, &["--count=3"]);

    assert!(watched.status.success(), "{}", stderr(&watched));
    let sent: Vec<Value> = commands.iter().take(2).collect();
    assert_eq!(sent[0]["history"], json!({ "streams": {} }));
    assert_eq!(sent[1]["history"], json!({ "streams": { "chat:1": { "epoch": "e/1", "offset": 7 } } }));
    let refused = scripted_watch(&url, &["--positions"]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(stderr(&refused).contains("no position for --from"), "{}", stderr(&refused));
}

#[test]
fn a_server_that_keeps_no_history_is_watched_on() {
    let answer = |n: i32| {
        vec![json!({ "type": CONFIRM }), json!({ "type": "reject_history" }), json!({ "message": n })]
    };
    let answers = vec![vec![json!({ "type": CONFIRM })], answer(1), answer(2)];
    let (url, commands) = scripted("actioncable-v1-ext-json", answers);

    let watched = scripted_watch(&url, &["--count=2"]);

    assert!(watched.status.success(), "{}", stderr(&watched));
    let sent: Vec<Value> = commands.iter().take(3).collect();
    assert!(sent[0]["history"].get("since").is_none() && sent[2]["history"]["since"].is_i64(), "{sent:?}");
    assert!(stderr(&watched).contains("may be missing"), "{}", stderr(&watched));
}
