//! Who may connect: tokens, cookies of Rails, sessions that are looked up; and what a connection is
//! known by then.

use std::time::{Duration, SystemTime};

use aws_lc_rs::hmac;
use base64::Engine;
use base64::prelude::BASE64_STANDARD as STANDARD;
use data_encoding::HEXLOWER;
use serde_json::{Value, json};

use crate::support::{Builder, Frame, Server, Socket, request, server, sqlite3, tablecast, until};

const SECRET: &str = "0123456789abcdef0123456789abcdef";
/// The secret_key_base of the vectors that Rails made (`tests/vectors/rails.json`).
const SECRET_KEY_BASE: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
/// `cookies.signed.permanent[:session_id] = 42`, by Rails 8.1.
const SESSION_42: &str = "session_id=eyJfcmFpbHMiOnsibWVzc2FnZSI6Ik5EST0iLCJleHAiOiIyMDQ2LTExLTI0VDA2OjExOjAwLjQ0OVoiLCJwdXIiOiJjb29raWUuc2Vzc2lvbl9pZCJ9fQ%3D%3D--bdb6fc791dd29b5fb2b599158da4cadb3939e92a";

const MINE: &str = r#"
[[channel]]
name = "MineChannel"
stream = "mine:{user.id}"
allow = "identified"
"#;

/// A server that asks for a token.
fn with_tokens() -> Builder {
    server().config(MINE).arg(&format!("--jwt-key={SECRET}"))
}

fn with_cookies(rest: &[&str]) -> Builder {
    let builder = server().config(MINE).arg("--rails-cookie=signed:session_id");
    let builder = builder.arg(&format!("--secret-key-base={SECRET_KEY_BASE}"));
    rest.iter().fold(builder, |builder, argument| builder.arg(argument))
}

fn token(arguments: &[&str]) -> String {
    let output =
        tablecast().arg("token").arg(format!("--jwt-key={SECRET}")).args(arguments).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

fn connect(server: &Server, path: &str, headers: &[(&str, &str)]) -> Socket {
    let origin = format!("http://{}", server.public);
    let headers: Vec<_> = headers.iter().copied().chain([("Origin", origin.as_str())]).collect();
    let socket = Socket::try_open(server.public, path, &headers);
    assert!(socket.head.starts_with("HTTP/1.1 101"), "{}", socket.head);
    socket
}

fn welcomed(server: &Server, path: &str, headers: &[(&str, &str)]) -> Socket {
    let mut socket = connect(server, path, headers);
    assert_eq!(socket.json(), json!({"type": "welcome"}));
    socket
}

/// It hears why, and its socket is closed.
fn is_told(socket: &mut Socket, reason: &str, reconnect: bool) {
    let expected: Value = json!({"type": "disconnect", "reason": reason, "reconnect": reconnect});
    let told = std::iter::repeat_with(|| socket.json()).find(|frame| frame["type"] != "ping");
    assert_eq!(told.unwrap(), expected);
    assert!(matches!(socket.frame(), Frame::Close(..)), "a Close follows");
}

fn mine(socket: &mut Socket, server: &Server, stream: &str) {
    let identifier = r#"{"channel":"MineChannel"}"#;
    socket.subscribe(identifier);
    server.insert(stream, r#"{"for":"me"}"#);
    assert_eq!(socket.message(identifier), r#"{"for":"me"}"#);
}

#[test]
fn a_token_says_who_connects_wherever_it_stands() {
    let server = with_tokens().start();
    let token = token(&[r#"{"id":7}"#]);
    let (bearer, entry) = (format!("Bearer {token}"), format!("actioncable-v1-json, anycable-token.{token}"));

    for (path, header) in [
        (format!("/cable?jid={token}"), None),
        (format!("/cable?token={token}"), None),
        ("/cable".into(), Some(("Authorization", bearer.as_str()))),
        ("/cable".into(), Some(("X-JID", token.as_str()))),
        ("/cable".into(), Some(("Sec-WebSocket-Protocol", entry.as_str()))),
    ] {
        let headers: Vec<_> = header.into_iter().collect();
        let mut socket = welcomed(&server, &path, &headers);
        mine(&mut socket, &server, "mine:7");
        socket.close();
    }
}

#[test]
fn who_shows_no_good_token_is_told_so_and_gets_no_welcome() {
    let server = with_tokens().start();

    is_told(&mut connect(&server, "/cable", &[]), "unauthorized", false);
    is_told(&mut connect(&server, "/cable?jid=", &[]), "unauthorized", false);
    is_told(&mut connect(&server, "/cable?jid=nonsense", &[]), "unauthorized", false);
    let good = token(&["{}"]);
    is_told(
        &mut connect(&server, &format!("/cable?jid={}", &good[..good.len() - 2]), &[]),
        "unauthorized",
        false,
    );

    assert_eq!(server.refused("unidentified"), 2.0);
    assert_eq!(server.refused("token_malformed") + server.refused("token_signature"), 2.0);
    assert_eq!(server.metric("tablecast_connections"), 0.0);
    assert!(!server.log().contains(&good[..20]));
}

#[test]
fn a_token_that_ends_ends_its_connection_and_a_new_one_is_welcome() {
    let server = with_tokens().arg("--jwt-leeway=0s").start();
    let short = token(&["--expires=4s", "{}"]);

    let mut socket = welcomed(&server, &format!("/cable?jid={short}"), &[]);
    is_told(&mut socket, "token_expired", false);
    is_told(&mut connect(&server, &format!("/cable?jid={short}"), &[]), "token_expired", false);
    welcomed(&server, &format!("/cable?jid={}", token(&["{}"])), &[]);
}

#[test]
fn anycables_token_names_the_connection_by_its_ext() {
    let server = with_tokens().start();
    let token = token(&["--anycable", r#"{"user_id":"1"}"#]);
    let mut socket = welcomed(&server, &format!("/cable?jid={token}"), &[]);
    let mut other = welcomed(&server, &format!("/cable?jid={}", self::token(&["{}"])), &[]);

    let body = json!({"identifier": r#"{"user_id":"1"}"#, "reconnect": false}).to_string();
    let answer = request(
        server.internal,
        "POST",
        "/disconnect",
        &[("Content-Type", "application/json")],
        body.as_bytes(),
    );

    assert_eq!(answer.status, 201);
    is_told(&mut socket, "remote", false);
    other.nothing_else();
}

#[test]
fn the_secret_alone_judges_tokens_and_asks_for_none() {
    let server = server().config(MINE).arg(&format!("--secret={SECRET}")).start();

    welcomed(&server, "/cable", &[]).rejected(r#"{"channel":"MineChannel"}"#);
    let mut socket = welcomed(&server, &format!("/cable?jid={}", token(&[r#"{"id":"a"}"#])), &[]);
    mine(&mut socket, &server, "mine:a");
    is_told(&mut connect(&server, "/cable?jid=x.y.z", &[]), "unauthorized", false);
}

#[test]
fn a_cookie_of_rails_says_who_connects() {
    let server = with_cookies(&[]).start();

    let mut socket = welcomed(&server, "/cable", &[("Cookie", SESSION_42)]);
    mine(&mut socket, &server, "mine:42");
    is_told(&mut connect(&server, "/cable", &[]), "unauthorized", false);
    let forged = SESSION_42.replace("--bdb6", "--bdb7");
    is_told(&mut connect(&server, "/cable", &[("Cookie", &forged)]), "unauthorized", false);
    assert_eq!(server.metric("tablecast_cookies_unreadable_total{reason=\"wrong_key\"}"), 1.0);
}

const COOKIE_KEY: [u8; 64] = [7; 64];

/// `cookies.signed[:session_id] = { value: 42, expires: … }`, under a key of its own.
fn expiring_cookie(lasts: Duration) -> String {
    let exp = humantime::format_rfc3339_millis(SystemTime::now() + lasts);
    let envelope = format!(r#"{{"_rails":{{"message":"NDI=","exp":"{exp}","pur":"cookie.session_id"}}}}"#);
    let text = STANDARD.encode(envelope);
    let key_of_hmac = hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, &COOKIE_KEY);
    let digest = HEXLOWER.encode(hmac::sign(&key_of_hmac, text.as_bytes()).as_ref());
    format!("session_id={}--{digest}", text.replace('=', "%3D"))
}

#[test]
fn a_cookie_that_ends_ends_its_connection() {
    let key = format!("--rails-signed-key={}", HEXLOWER.encode(&COOKIE_KEY));
    let servers = [with_cookies(&[&key]).start(), with_sessions(&[&key]).0];

    let cookie = expiring_cookie(Duration::from_secs(2));
    let mut sockets =
        servers.each_ref().map(|server| welcomed(server, "/cable", &[("Cookie", cookie.as_str())]));
    for socket in &mut sockets {
        is_told(socket, "token_expired", false);
    }
    for server in &servers {
        is_told(&mut connect(server, "/cable", &[("Cookie", &cookie)]), "unauthorized", false);
    }
}

#[test]
fn who_may_be_anonymous_gets_what_is_public_and_nothing_of_users() {
    let server = with_cookies(&["--allow-anonymous", "--public-streams=news"]).start();

    for headers in [&[][..], &[("Cookie", "session_id=forged")]] {
        let mut socket = welcomed(&server, "/cable", headers);
        socket.rejected(r#"{"channel":"MineChannel"}"#);
        socket.subscribe(r#"{"channel":"$pubsub","stream_name":"news"}"#);
    }
    let mut socket = welcomed(&server, "/cable", &[("Cookie", SESSION_42)]);
    mine(&mut socket, &server, "mine:42");
}

/// A server whose sessions are in a database of their own: 42 is user 7's.
fn with_sessions(rest: &[&str]) -> (Server, impl Fn(&str)) {
    let builder = with_cookies(rest);
    let path = builder.folder().join("app.db");
    let change = move |sql: &str| {
        sqlite3(&path, sql);
    };
    change(
        "CREATE TABLE sessions (id INTEGER PRIMARY KEY, user_id INTEGER NOT NULL); INSERT INTO sessions VALUES (42, 7)",
    );
    let url = format!("--session-database-url=sqlite:{}", builder.folder().join("app.db").display());
    let query = "--session-query=SELECT user_id FROM sessions WHERE id = $1";
    (builder.arg(&url).arg(query).arg("--session-recheck=1s").arg("--session-cache=0").start(), change)
}

#[test]
fn a_session_is_looked_up_and_its_end_ends_the_socket() {
    let (server, change) = with_sessions(&[]);
    let mut socket = welcomed(&server, "/cable", &[("Cookie", SESSION_42)]);
    mine(&mut socket, &server, "mine:7");

    change("DELETE FROM sessions WHERE id = 42");

    is_told(&mut socket, "unauthorized", false);
    is_told(&mut connect(&server, "/cable", &[("Cookie", SESSION_42)]), "unauthorized", false);
}

#[test]
fn check_asks_the_database_of_sessions_too() {
    let builder = server();
    let check = |query: &str, database: &str| {
        let output = tablecast()
            .args(["check", "--public-streams=news", "--rails-cookie=signed:session_id"])
            .args([&format!("--secret-key-base={SECRET_KEY_BASE}"), &format!("--session-query={query}")])
            .arg(format!("--session-database-url=sqlite:{database}"))
            .current_dir(builder.folder())
            .output()
            .unwrap();
        (output.status.code().unwrap(), String::from_utf8(output.stdout).unwrap())
    };
    let migrated = tablecast().arg("migrate").current_dir(builder.folder()).output().unwrap();
    assert!(migrated.status.success());
    sqlite3(
        &builder.folder().join("app.db"),
        "CREATE TABLE sessions (id INTEGER PRIMARY KEY, user_id INTEGER NOT NULL, role TEXT)",
    );

    let (code, said) = check("SELECT user_id, role FROM sessions WHERE id = $1", "app.db");
    assert_eq!(code, 0, "{said}");
    assert!(
        said.contains("sessions in SQLite app.db: the query is good, and gives user_id, role\n"),
        "{said}"
    );

    for (query, database, wrong) in [
        ("SELECT user_id FROM session WHERE id = $1", "app.db", "no such table: session"),
        ("SELECT owner FROM sessions WHERE id = $1", "app.db", "no such column: owner"),
        ("SELECT user_id FROM sessions WHERE id = $1", "elsewhere.db", "is away"),
    ] {
        let (code, said) = check(query, database);
        let line = said.lines().find(|line| line.starts_with("wrong: ")).unwrap_or_default();
        assert!(code == 1 && line.contains("--session-query") && line.contains(wrong), "{query}: {said}");
        assert!(said.contains("table solid_cable_messages is good"), "the rest is checked too: {said}");
    }
}

#[test]
fn what_a_session_may_do_is_looked_up_again_too() {
    let (server, change) = with_sessions(&[]);
    let mut socket = welcomed(&server, "/cable", &[("Cookie", SESSION_42)]);

    change("UPDATE sessions SET user_id = 8 WHERE id = 42");

    is_told(&mut socket, "unauthorized", false);
    let mut socket = welcomed(&server, "/cable", &[("Cookie", SESSION_42)]);
    mine(&mut socket, &server, "mine:8");
}

#[test]
fn an_identity_without_what_its_name_is_made_of_is_not_let_in() {
    let server = with_tokens().arg("--connection-name={user.id}").start();

    welcomed(&server, &format!("/cable?jid={}", token(&[r#"{"id":1}"#])), &[]);
    is_told(
        &mut connect(&server, &format!("/cable?jid={}", token(&[r#"{"sub":"1"}"#])), &[]),
        "unauthorized",
        false,
    );
}

#[test]
fn a_database_of_sessions_that_is_away_refuses_and_lets_come_back() {
    let (server, change) = with_sessions(&[]);
    change("ALTER TABLE sessions RENAME TO elsewhere");
    is_told(&mut connect(&server, "/cable", &[("Cookie", SESSION_42)]), "identity_unavailable", true);

    change("ALTER TABLE elsewhere RENAME TO sessions");
    until("it is asked again", || {
        let mut socket = connect(&server, "/cable", &[("Cookie", SESSION_42)]);
        socket.json() == json!({"type": "welcome"})
    });
}

#[test]
fn rails_disconnects_a_user_by_the_name_that_the_operator_gives_it() {
    let (server, _) = with_sessions(&["--connection-name={gid(User, user.id)}", "--global-id-app=my-app"]);
    let mut socket = welcomed(&server, "/cable", &[("Cookie", SESSION_42)]);

    // What `remote_connections.where(current_user: user).disconnect` writes for user 7.
    let name = "action_cable/Z2lkOi8vbXktYXBwL1VzZXIvNw";
    server.sql(&format!(
        "INSERT INTO solid_cable_messages (channel, payload, created_at, channel_hash)
         VALUES (CAST('{name}' AS BLOB), CAST('{{\"type\":\"disconnect\"}}' AS BLOB), datetime('now'), 0)"
    ));

    is_told(&mut socket, "remote", true);
}

#[test]
fn no_secret_is_ever_printed() {
    let publish_key = "publish-0123456789abcdef0123456789";
    let secrets = [SECRET, SECRET_KEY_BASE, publish_key];
    let arguments = [
        format!("--secret={SECRET}"),
        format!("--secret-key-base={SECRET_KEY_BASE}"),
        format!("--publish-key={publish_key}"),
        "--rails-cookie=signed:session_id".into(),
        "--log-level=trace".into(),
    ];
    let builder = arguments.iter().fold(server().config(MINE), |builder, argument| builder.arg(argument));
    let server = builder.start();
    let token = token(&["{}"]);
    welcomed(&server, &format!("/cable?jid={token}"), &[("Cookie", SESSION_42)]).close();
    is_told(&mut connect(&server, &format!("/cable?jid={token}x"), &[]), "unauthorized", false);
    is_told(
        &mut connect(&server, "/cable", &[("Cookie", &SESSION_42.replace("--bd", "--be"))]),
        "unauthorized",
        false,
    );
    let wrong = [("Content-Type", "application/json"), ("Authorization", "Bearer wrong")];
    assert_eq!(request(server.internal, "POST", "/broadcast", &wrong, b"{}").status, 401);
    let metrics = request(server.internal, "GET", "/metrics", &[], b"").body;
    let check = tablecast().arg("check").args(&arguments).current_dir(server.folder()).output().unwrap();

    let printed = [
        server.log(),
        server.said.join("\n"),
        metrics,
        String::from_utf8_lossy(&check.stdout).into_owned(),
        String::from_utf8_lossy(&check.stderr).into_owned(),
    ];
    let cookie = &SESSION_42["session_id=".len()..];
    for text in printed {
        for secret in secrets.into_iter().chain([token.as_str(), cookie]) {
            assert!(!text.contains(&secret[..secret.len().min(32)]), "{text}");
        }
    }
}
