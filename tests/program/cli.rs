//! Commands and settings, right and wrong.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, Output, Stdio};
use std::time::{SystemTime, UNIX_EPOCH};

use aws_lc_rs::hmac;
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use crate::support::{Server, get, pubsub, server, tablecast, until};

fn run(arguments: &[&str], environment: &[(&str, &str)], folder: &std::path::Path) -> Output {
    tablecast().args(arguments).envs(environment.iter().copied()).current_dir(folder).output().unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn three_lines_say_where_which_database_and_what_is_open() {
    let server = server().with_prefix("staging").config(
        "public_streams = [\"progress:*\"]\n[[channel]]\nname = \"ProgressChannel\"\nstream = \"progress:{job_id}\"\nallow = \"public\"\n",
    );
    let server = server.start();

    assert!(
        server.said[0].starts_with(&format!("listening on ws://{}/cable", server.public)),
        "{:?}",
        server.said
    );
    assert_eq!(server.said[1], "SQLite tablecast.db, table solid_cable_messages, prefix staging");
    assert_eq!(
        server.said[2],
        format!(
            "open to everybody: ProgressChannel -> progress:{{job_id}}, streams progress:*, publishing at {} without a key",
            server.internal
        )
    );
}

#[test]
fn a_flag_wins_over_the_environment_that_over_the_file_and_that_over_the_default() {
    let builder = server().config("table = \"from_file\"\nchannel-prefix = \"file\"\n");
    let folder = builder.folder();
    let table = |arguments: &[&str], environment: &[(&str, &str)]| {
        let mut arguments = arguments.to_vec();
        arguments.insert(0, "migrate");
        String::from_utf8(run(&arguments, environment, folder).stdout).unwrap()
    };
    let database = |n: u32| format!("--database-url=sqlite:{n}.db");

    assert!(
        table(&[&database(1)], &[])
            .contains("table from_file is ready; an INSERT without a prefix goes to prefix file")
    );
    let environment = [("TABLECAST_TABLE", "from_environment"), ("CABLE_PREFIX", "rails")];
    let said = table(&[&database(2)], &environment);
    assert!(said.contains("table from_environment") && said.contains("prefix rails"), "{said}");
    let both = [("CABLE_PREFIX", "rails"), ("TABLECAST_CHANNEL_PREFIX", "own"), ("TABLECAST_TABLE", "")];
    let said = table(&[&database(3), "--table=from_flag"], &both);
    assert!(said.contains("table from_flag") && said.contains("prefix own"), "{said}");
    let said = table(&[], &[("DATABASE_URL", "sqlite3:four.db?pool=5&timeout=500"), ("TABLECAST_TABLE", "")]);
    assert!(said.contains("SQLite four.db: table from_file"), "an empty variable counts as none: {said}");
    let other = folder.join("other.toml");
    std::fs::write(&other, "table = \"from_other_file\"").unwrap();
    let said = table(&[&database(5), "--config=other.toml"], &[]);
    assert!(said.contains("from_other_file"), "{said}");
}

#[test]
fn what_is_wrong_with_the_settings_is_told_all_at_once() {
    let builder = server().config(
        "listn = \"x\"\nretention = 7\n[[channel]]\nname = \"A\"\nstream = \"a:{b\"\nallow = \"public\"\n\
         [[channel]]\nname = \"B\"\nstream = \"b\"\nallow = \"{a} = {user.id}\"\n",
    );
    let output = run(
        &[
            "serve",
            "--listen=nowhere",
            "--wake=loudly",
            "--max-subscriptions=0",
            "--table=a b",
            "--channel-prefix=a:b",
            "--poll-interval=0s",
        ],
        &[("TABLECAST_DRAIN_TIMEOUT", "soon"), ("TABLECAST_INTERNAL_LISTEN", "0.0.0.0:0")],
        builder.folder(),
    );

    assert_eq!(output.status.code(), Some(2));
    let error = stderr(&output);
    for part in [
        "unknown setting listn; did you mean listen?",
        "tablecast.toml: retention \"7\": it must be a time such as 100ms",
        "rule A: \"a:{b\" has a { without its }",
        "rule B: allow: \"{a} = {user.id}\", character 5: there must be ==, != or in",
        "--listen \"nowhere\": it must be an address and a port",
        "--wake \"loudly\": it must be notify, poll or auto",
        "--max-subscriptions \"0\": it must be a number from 1 on",
        "--table \"a b\": it must be a plain name",
        "--channel-prefix \"a:b\": a channel prefix holds no colon",
        "--poll-interval \"0s\": it must be more than nothing",
        "TABLECAST_DRAIN_TIMEOUT \"soon\"",
        "--internal-listen 0.0.0.0:0 can be reached from elsewhere",
    ] {
        assert!(error.contains(part), "{part} is not in\n{error}");
    }
}

#[test]
fn rules_that_say_too_little_or_too_much_are_refused() {
    let refused = |toml: &str, part: &str| {
        let builder = server().config(toml);
        let output = run(&["serve"], &[], builder.folder());
        assert_eq!(output.status.code(), Some(2));
        assert!(stderr(&output).contains(part), "{part} is not in {}", stderr(&output));
    };
    refused("[[channel]]\nname = \"A\"\nstream = \"a\"\n", "allow");
    refused("[[channel]]\nname = \"A\"\nstream = \"a\"\nallow = \"everybody\"\n", "public");
    refused("[[channel]]\nname = \"A\"\nstream = \"a\"\nallow = \"public\"\ncolour = 1\n", "colour");
    let twice = "[[channel]]\nname = \"A\"\nstream = \"a\"\nallow = \"public\"\n".repeat(2);
    refused(&twice, "two rules name the channel A");
    refused("channel = 7", "[[channel]]");
    refused("listen = [1", "tablecast.toml");
    refused("[listen]\n", "listen is text");
}

#[test]
fn what_cannot_be_read_is_an_error_that_shows_no_secret() {
    let builder = server().config("listen = \"127.0.0.1:0\"\npublish_key = \"s3cr3t-value\n");
    let output = run(&["check"], &[], builder.folder());
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("tablecast.toml, line 2"), "{}", stderr(&output));
    assert!(!stderr(&output).contains("s3cr3t"), "{}", stderr(&output));

    let builder = server();
    let key = <std::ffi::OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(b"k\xff");
    let output = tablecast()
        .arg("check")
        .env("TABLECAST_PUBLISH_KEY", key)
        .current_dir(builder.folder())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("TABLECAST_PUBLISH_KEY is not UTF-8"), "{}", stderr(&output));
}

#[test]
fn publishing_cannot_be_opened_to_the_world_without_a_key() {
    let builder = server();
    let output = run(&["serve", "--public-publish"], &[], builder.folder());
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("--public-publish needs a --publish-key"));
}

#[test]
fn a_taken_address_is_named_with_its_flag() {
    let server = server().start();
    let output = run(&["serve", &format!("--listen={}", server.public)], &[], server.folder());
    assert_eq!(output.status.code(), Some(1));
    let error = stderr(&output);
    assert!(error.contains(&format!("--listen {}", server.public)) && error.contains("in use"), "{error}");
}

#[test]
fn serving_is_what_it_does_without_a_command() {
    let builder = server();
    let mut child = tablecast()
        .args(["--listen=127.0.0.1:0", "--internal-listen=127.0.0.1:0"])
        .current_dir(builder.folder())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(line.starts_with("listening on ws://127.0.0.1:"), "{line}");
}

#[test]
fn help_groups_every_setting_with_its_default_and_variable() {
    let builder = server();
    let help = String::from_utf8(run(&["serve", "--help"], &[], builder.folder()).stdout).unwrap();
    for part in [
        "Listeners:",
        "Database:",
        "Who may listen:",
        "Publishing by HTTP:",
        "Limits:",
        "Following the table:",
        "Operation:",
        "--listen <ADDRESS>",
        "[default: 127.0.0.1:8080]",
        "TABLECAST_DATABASE_URL, DATABASE_URL",
        "TABLECAST_CHANNEL_PREFIX, CABLE_PREFIX",
        "--send-buffer-bytes",
        "RUST_LOG",
    ] {
        assert!(help.contains(part), "{part} is not in\n{help}");
    }
}

#[test]
fn logs_are_json_lines_where_they_are_asked_for() {
    let builder = server();
    let mut child = tablecast()
        .args(["serve", "--listen=127.0.0.1:0", "--internal-listen=127.0.0.1:0", "--log=json"])
        .current_dir(builder.folder())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stderr = BufReader::new(child.stderr.take().unwrap());
    for part in ["listening on", "SQLite tablecast.db", "open to everybody"] {
        let mut line = String::new();
        stderr.read_line(&mut line).unwrap();
        let log: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(log["level"], "INFO");
        assert!(log["message"].as_str().unwrap().contains(part), "{log}");
    }
    child.kill().unwrap();
    assert!(child.wait_with_output().unwrap().stdout.is_empty());
}

/// `tablecast publish` in the server's folder, and its standard input.
fn publish(server: &Server, arguments: &[&str]) -> (Child, ChildStdin) {
    let mut command = tablecast();
    command.arg("publish").args(arguments).current_dir(server.folder());
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let stdin = child.stdin.take().unwrap();
    (child, stdin)
}

#[test]
fn publish_takes_an_argument_or_lines_and_stops_at_what_is_no_json() {
    let server = server().open().start();
    let mut socket = server.connect();
    let identifier = pubsub("s");
    socket.subscribe(&identifier);
    let publish = |arguments: &[&str], input: &str| {
        let (child, mut stdin) = publish(&server, arguments);
        stdin.write_all(input.as_bytes()).unwrap();
        drop(stdin);
        child.wait_with_output().unwrap()
    };
    let url = format!("http://{}", server.internal);

    for way in [vec![], vec!["--url", &url]] {
        let with = |more: &[&'static str]| [&["s"], more, &way].concat();
        assert!(publish(&with(&["1"]), "").status.success());
        assert!(publish(&with(&[]), "2\n\n  {\"n\": 3}  \n4").status.success());
        let output = publish(&with(&[]), "5\nnot json\n6\n");
        assert_eq!(output.status.code(), Some(1));
        assert!(stderr(&output).contains("line 2 is not JSON"), "{}", stderr(&output));
        let output = publish(&with(&["not json"]), "");
        assert_eq!(output.status.code(), Some(2));
        let output = publish(&[&["action_cable/1", "1"], way.as_slice()].concat(), "");
        assert!(stderr(&output).contains("action_cable/"), "{}", stderr(&output));
        for payload in ["1", "2", r#"{"n": 3}"#, "4", "5"] {
            assert_eq!(socket.message(&identifier), payload);
        }
    }
    socket.nothing_else();
}

#[test]
fn publish_sends_large_lines_in_requests_that_a_server_takes() {
    let server = server().open().start();
    let url = format!("http://{}", server.internal);
    let (mut child, mut stdin) = publish(&server, &["s", "--url", &url]);
    let line = format!("\"{}\"\n", "x".repeat(100_000));
    for _ in 0..200 {
        stdin.write_all(line.as_bytes()).unwrap();
    }
    drop(stdin);
    assert!(child.wait().unwrap().success());
    assert_eq!(server.sql("SELECT count(*) FROM solid_cable_messages WHERE id > 0"), "200");
}

#[test]
fn publish_refuses_a_line_that_is_too_long_whatever_it_holds() {
    let server = server().start();
    for line in [format!("\"{}\"", "x".repeat(2 << 20)), format!("1{}2", " ".repeat(2 << 20))] {
        let (child, mut stdin) = publish(&server, &["s"]);
        // It may end before all of it is read.
        let _ = stdin.write_all(line.as_bytes());
        drop(stdin);
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(1));
        assert!(stderr(&output).contains("line 1 is longer"), "{}", stderr(&output));
    }
    assert_eq!(server.sql("SELECT count(*) FROM solid_cable_messages WHERE id > 0"), "0");
}

#[test]
fn publish_keeps_the_order_of_many_lines() {
    let server = server().open().start();
    let mut socket = server.connect();
    socket.subscribe(&pubsub("s"));
    let (mut child, mut stdin) = publish(&server, &["s"]);
    let writing = std::thread::spawn(move || {
        for n in 0..5000 {
            writeln!(stdin, "{n}").unwrap();
        }
    });
    for n in 0..5000 {
        assert_eq!(socket.message(&pubsub("s")), n.to_string());
    }
    writing.join().unwrap();
    assert!(child.wait().unwrap().success());
}

#[test]
fn publish_sends_a_line_when_it_comes() {
    let server = server().open().start();
    let mut socket = server.connect();
    socket.subscribe(&pubsub("s"));
    let (mut child, mut stdin) = publish(&server, &["s"]);
    for n in 0..3 {
        writeln!(stdin, "{n}").unwrap();
        assert_eq!(socket.message(&pubsub("s")), n.to_string(), "without waiting for more");
    }
    drop(stdin);
    assert!(child.wait().unwrap().success());
}

#[test]
fn publish_repeats_what_a_server_could_not_take() {
    let mut server = server().open().start();
    let url = format!("http://{}", server.internal);
    server.kill();
    let mut child = tablecast()
        .args(["publish", "s", "1", "--url", &url])
        .current_dir(server.folder())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut log = BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    log.read_line(&mut line).unwrap();
    assert!(line.contains("tried again"), "{line}");

    let server = server.again();

    assert!(child.wait().unwrap().success());
    assert_eq!(server.sql("SELECT count(*) FROM solid_cable_messages WHERE id > 0"), "1");
}

#[test]
fn publish_into_a_database_that_is_not_there_says_so() {
    let builder = server();
    let output = run(&["publish", "s", "1"], &[], builder.folder());
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("tablecast.db"), "{}", stderr(&output));
    assert!(!builder.database().exists());
}

#[test]
fn watch_prints_a_line_for_each_message_and_comes_back() {
    let server = server().open().arg("--public-channel=RoomChannel=room:{id}").start();
    let url = format!("ws://{}/cable", server.public);
    let mut child = tablecast()
        .args([
            "watch",
            "s",
            "--identifier",
            r#"{"channel":"RoomChannel","id":7}"#,
            "--url",
            &url,
            "--count",
            "5",
        ])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
    until("both are subscribed", || server.metric("tablecast_subscriptions") == 2.0);

    server.insert("s", r#"{"percent": 123456789012345678901234567890}"#);
    assert_eq!(lines.next().unwrap(), r#"{"stream":"s","data":{"percent": 123456789012345678901234567890}}"#);
    server.insert("room:7", "[1,\n2]");
    assert_eq!(lines.next().unwrap(), r#"{"identifier":{"channel":"RoomChannel","id":7},"data":[1, 2]}"#);
    server.insert("s", "null");
    assert_eq!(lines.next().unwrap(), r#"{"stream":"s","data":null}"#);

    let server = server.again();
    until("both are back", || server.metric("tablecast_subscriptions") == 2.0);
    server.insert("s", "1");
    server.insert("s", "2");
    assert_eq!(lines.next().unwrap(), r#"{"stream":"s","data":1}"#);
    assert_eq!(lines.next().unwrap(), r#"{"stream":"s","data":2}"#);
    assert!(child.wait().unwrap().success());
}

#[test]
fn watch_tells_rejected_from_unreachable() {
    let mut server = server().start();
    let url = format!("ws://{}/cable", server.public);
    let watch = |arguments: &[&str]| {
        let mut all = vec!["watch", "--url", &url, "--timeout", "300ms"];
        all.extend(arguments);
        run(&all, &[], server.folder())
    };
    let rejected = watch(&["s"]);
    assert_eq!(rejected.status.code(), Some(3), "{}", stderr(&rejected));
    assert!(stderr(&rejected).contains("was rejected"));
    assert_eq!(watch(&[]).status.code(), Some(2));
    assert_eq!(watch(&["--identifier", "nope"]).status.code(), Some(2));
    let foreign = watch(&["s", "--origin", "http://evil.example"]);
    assert_eq!(foreign.status.code(), Some(4));
    assert!(stderr(&foreign).contains("not allow the origin"), "{}", stderr(&foreign));

    server.kill();
    let unreachable = run(&["watch", "s", "--url", &url, "--timeout", "300ms"], &[], server.folder());
    assert_eq!(unreachable.status.code(), Some(4), "{}", stderr(&unreachable));
}

#[test]
fn a_token_is_made_with_the_first_key_and_printed_alone() {
    let builder = server();
    let made = |arguments: &[&str], environment: &[(&str, &str)]| {
        let arguments: Vec<_> = ["token"].iter().chain(arguments).copied().collect();
        let output = run(&arguments, environment, builder.folder());
        assert!(output.status.success(), "{}", stderr(&output));
        let said = String::from_utf8(output.stdout).unwrap();
        let token = said.strip_suffix('\n').unwrap().to_owned();
        let (message, signature) = token.rsplit_once('.').unwrap();
        let (header, claims) = message.split_once('.').unwrap();
        let [header, claims, signature] =
            [header, claims, signature].map(|part| BASE64_URL_SAFE_NO_PAD.decode(part).unwrap());
        let json = |bytes: &[u8]| serde_json::from_slice::<Value>(bytes).unwrap();
        assert_eq!(json(&header)["alg"], "HS256");
        let signed_with = |key: &str| {
            hmac::verify(&hmac::Key::new(hmac::HMAC_SHA256, key.as_bytes()), message.as_bytes(), &signature)
                .is_ok()
        };
        let key = ["first, of two", "s3Krit"].into_iter().find(|key| signed_with(key)).unwrap();
        (key, json(&claims))
    };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();

    let (key, claims) = made(&["--claim=sub=42"], &[("TABLECAST_JWT_KEY", "first, of two\nsecond")]);
    assert_eq!((key, &claims["sub"]), ("first, of two", &json!("42")));
    assert!((now + 3595..now + 3660).contains(&claims["exp"].as_u64().unwrap()));
    let (key, claims) =
        made(&["--secret=s3Krit", "--anycable", r#"{"user_id":1,"exp":2}"#, "--expires=5m"], &[]);
    assert_eq!((key, &claims["ext"]), ("s3Krit", &json!(r#"{"exp":2,"user_id":1}"#)));
    assert!((now + 295..now + 360).contains(&claims["exp"].as_u64().unwrap()));

    let refused = |arguments: &[&str], why: &str| {
        let arguments: Vec<_> = ["token"].iter().chain(arguments).copied().collect();
        let output = run(&arguments, &[], builder.folder());
        assert_eq!(output.status.code(), Some(2));
        assert!(stderr(&output).contains(why) && output.stdout.is_empty(), "{}", stderr(&output));
    };
    refused(&[], "--jwt-key");
    refused(&["--secret=s3Krit", "--jwks=keys.json"], "--jwt-key");
    refused(&["--jwt-key=a", "[1]"], "JSON object");
    refused(&["--jwt-key=a", "--claim=sub"], "NAME=VALUE");
}

#[test]
fn demo_publishes_from_another_process_and_cleans_up() {
    let builder = server();
    let mut child = tablecast()
        .args(["demo", "--listen=127.0.0.1:0", "--internal-listen=127.0.0.1:0"])
        .env("DATABASE_URL", "sqlite:must-not-be-touched.db")
        .current_dir(builder.folder())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
    let opened = lines.next().unwrap();
    let address = opened.strip_prefix("open http://").unwrap().trim_end_matches('/').parse().unwrap();
    let said = lines.next().unwrap();
    let jobs = said.rsplit(' ').next().unwrap().to_owned();

    let page = get(address, "/");
    assert!(page.status == 200 && page.body.contains("<title>"), "{page:?}");
    assert!(page.header("content-security-policy").is_some());
    let about = get(address, "/demo.json").json();
    let database = std::path::PathBuf::from(about["database"].as_str().unwrap());
    assert!(database.exists());
    let url = format!("ws://{address}/cable");
    let watched = run(&["watch", "progress:mailing", "--url", &url, "-n", "3"], &[], builder.folder());
    assert!(watched.status.success() && String::from_utf8_lossy(&watched.stdout).contains("\"mailing\""));

    let terminated = std::process::Command::new("kill").arg(child.id().to_string()).status().unwrap();
    assert!(terminated.success() && child.wait().unwrap().success());
    until("the jobs have ended", || !std::path::Path::new(&format!("/proc/{jobs}")).exists());
    assert!(!database.parent().unwrap().exists());
    assert!(!builder.folder().join("must-not-be-touched.db").exists());
}

#[test]
fn the_jobs_end_with_a_demo_that_was_killed() {
    let mut child = tablecast()
        .args(["demo", "--listen=127.0.0.1:0", "--internal-listen=127.0.0.1:0"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
    let jobs = lines.nth(1).unwrap().rsplit(' ').next().unwrap().to_owned();
    child.kill().unwrap();
    child.wait().unwrap();
    until("the jobs have ended", || !std::path::Path::new(&format!("/proc/{jobs}")).exists());
}
