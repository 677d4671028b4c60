//! Servers in this process, with connections whose identity is given instead of shown.

use std::sync::Barrier;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use axum::body::Body;
use axum::http::{Method, Request, StatusCode};
use bytes::Bytes;
use clap::Command;
use futures_util::{SinkExt, StreamExt};
use metrics_exporter_prometheus::PrometheusBuilder;
use parking_lot::Mutex;
use serde_json::{Map, Value, json};
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{Connection, SqliteConnection};
use tablecast_protocol::Offer;
use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream};
use tokio_tungstenite::{WebSocketStream, connect_async};
use tower::ServiceExt;
use tungstenite::protocol::Role;
use tungstenite::{ClientRequestBuilder, Message};

use super::*;
use crate::bus::channel_hash;
use crate::config::{Group, Values, args};
use crate::connection::{self, Agreed};
use crate::hub::Encoding;
use crate::identity::Identity;

type Client = WebSocketStream<DuplexStream>;

/// A server on a folder's table, which runs until the test ends.
async fn start(folder: &TempDir, arguments: &[&str]) -> Arc<App> {
    let server = bind(folder, arguments).await;
    let app = server.app.clone();
    tokio::spawn(server.run(std::future::pending()));
    app
}

async fn bind(folder: &TempDir, arguments: &[&str]) -> Server {
    let url = format!("--database-url=sqlite:{}", folder.path().join("t.db").display());
    let own = [url.as_str(), "--listen=127.0.0.1:0", "--internal-listen=127.0.0.1:0", "--public-streams=*"];
    let command = Command::new("test").no_binary_name(true).args(args(&Group::ALL));
    let mut values = Values::isolated(&command.get_matches_from(own.iter().chain(arguments)));
    let config = Config::resolve(&mut values);
    let prometheus = PrometheusBuilder::new().build_recorder().handle();
    Server::bind(config, Router::new(), prometheus).await.unwrap()
}

/// A client of this name, and what it is told first.
async fn connect(app: &App, name: &str) -> (Client, Value) {
    let identity = Identity { claims: Map::new(), name: Some(name.into()), expires: None, session: None };
    let agreed = Agreed { offer: Offer::default(), encoding: Encoding::Plain };
    let (ours, theirs) = tokio::io::duplex(1 << 12);
    let who = Ok(Some(Arc::new(identity)));
    tokio::spawn(connection::serve(
        Box::new(Mutex::new(ours)),
        Bytes::new(),
        agreed,
        who,
        app.context.clone(),
    ));
    let mut client = WebSocketStream::from_raw_socket(theirs, Role::Client, None).await;
    let first = next(&mut client).await;
    (client, first)
}

async fn welcomed(app: &App, name: &str) -> Client {
    let (client, first) = connect(app, name).await;
    assert_eq!(first, json!({ "type": "welcome" }));
    client
}

/// What it is told next, but for heartbeats.
async fn next<Io: AsyncRead + AsyncWrite + Unpin>(client: &mut WebSocketStream<Io>) -> Value {
    loop {
        let Message::Text(text) = client.next().await.unwrap().unwrap() else { panic!("no text") };
        let value: Value = serde_json::from_str(&text).unwrap();
        if value["type"] != "ping" {
            return value;
        }
    }
}

async fn post(app: &Arc<App>, path: &str, body: &str) -> StatusCode {
    let request = Request::builder()
        .method(Method::POST)
        .uri(path)
        .header("host", "localhost")
        .header("content-type", "application/json")
        .body(Body::from(body.to_owned()))
        .unwrap();
    http::internal(app, true).oneshot(request).await.unwrap().status()
}

/// What stands in the way of what was written before has been read, so that what was to come of it
/// has come.
async fn caught_up(app: &Arc<App>) {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let name = format!("marker-{}", COUNT.fetch_add(1, Relaxed));
    let mut marker = welcomed(app, &name).await;
    post(app, "/disconnect", &json!({ "identifier": name }).to_string()).await;
    assert_eq!(next(&mut marker).await["reason"], "remote");
}

/// A row as Rails writes it.
async fn row(folder: &TempDir, channel: &str, payload: &str) {
    let options = SqliteConnectOptions::new().filename(folder.path().join("t.db"));
    let mut rails = SqliteConnection::connect_with(&options).await.unwrap();
    let insert =
        "INSERT INTO \"solid_cable_messages\" (\"created_at\",\"channel\",\"payload\",\"channel_hash\")
                  VALUES ('2026-11-24 02:06:27.700832', ?, ?, ?) ON CONFLICT DO NOTHING RETURNING \"id\"";
    let query = sqlx::query(insert).bind(channel.as_bytes()).bind(payload.as_bytes());
    query.bind(channel_hash(channel.as_bytes())).fetch_one(&mut rails).await.unwrap();
}

fn disconnected(reconnect: bool) -> Value {
    json!({ "type": "disconnect", "reason": "remote", "reconnect": reconnect })
}

/// No end has come: the next thing that it is told is this test's.
async fn is_open(app: &App, mut client: Client, name: &str) {
    app.context.connections.disconnect(name, DisconnectReason::NewHistory);
    assert_eq!(next(&mut client).await["reason"], "new_history");
}

const USER: &str = "Z2lkOi8vYXBwL1VzZXIvMQ";

#[tokio::test]
async fn a_request_ends_the_connections_of_a_name_on_every_server_of_the_table() {
    let folder = TempDir::new().unwrap();
    let servers = [start(&folder, &[]).await, start(&folder, &[]).await];
    for (server, reconnect) in [(0, json!(true)), (1, json!(false)), (0, Value::Null)] {
        let mut theirs = [welcomed(&servers[0], USER).await, welcomed(&servers[1], USER).await];
        let other = welcomed(&servers[0], "Z2lkOi8vYXBwL1VzZXIvMTE").await;

        let mut ask = json!({ "identifier": USER });
        if !reconnect.is_null() {
            ask["reconnect"] = reconnect.clone();
        }
        assert_eq!(post(&servers[server], "/disconnect", &ask.to_string()).await, StatusCode::CREATED);

        for client in &mut theirs {
            assert_eq!(next(client).await, disconnected(reconnect.as_bool().unwrap_or(true)));
        }
        is_open(&servers[0], other, "Z2lkOi8vYXBwL1VzZXIvMTE").await;
    }
}

#[tokio::test]
async fn a_row_of_rails_ends_them_too_and_what_rails_would_ignore_ends_nobody() {
    let folder = TempDir::new().unwrap();
    let servers = [start(&folder, &[]).await, start(&folder, &[]).await];
    let mut theirs = [welcomed(&servers[0], USER).await, welcomed(&servers[1], USER).await];
    for ignored in [
        r#"{"type":"reconnect","reconnect":true}"#,
        r#"{"reconnect":true}"#,
        r#"{"type":"disconnect","reconnect":"yes"}"#,
        "[]",
        "null",
        r#""disconnect""#,
    ] {
        row(&folder, &format!("action_cable/{USER}"), ignored).await;
    }
    row(&folder, "action_cable/Z2lk", r#"{"type":"disconnect","reconnect":true}"#).await;

    row(&folder, &format!("action_cable/{USER}"), r#"{"type":"disconnect","reconnect":false}"#).await;

    for client in &mut theirs {
        assert_eq!(next(client).await, disconnected(false));
    }
}

#[tokio::test]
async fn another_prefixs_row_ends_nobody() {
    let folder = TempDir::new().unwrap();
    let staging = start(&folder, &["--channel-prefix=staging"]).await;
    let production = start(&folder, &["--channel-prefix=production"]).await;
    let client = welcomed(&production, USER).await;

    for channel in ["staging:", "", ":", "x:production:"].map(|lead| format!("{lead}action_cable/{USER}")) {
        row(&folder, &channel, r#"{"type":"disconnect","reconnect":false}"#).await;
    }
    let body = json!({ "identifier": USER }).to_string();
    assert_eq!(post(&staging, "/disconnect", &body).await, StatusCode::CREATED);
    // A name is no way into another prefix.
    let body = json!({ "identifier": format!("x:production:action_cable/{USER}") }).to_string();
    assert_eq!(post(&staging, "/disconnect", &body).await, StatusCode::CREATED);

    caught_up(&staging).await;
    caught_up(&production).await;
    is_open(&production, client, USER).await;
}

#[tokio::test]
async fn a_user_has_so_many_connections_and_is_told_which_limit_it_was() {
    let folder = TempDir::new().unwrap();
    let server = start(&folder, &["--max-connections-per-user=2"]).await;
    let (first, _second) = (welcomed(&server, USER).await, welcomed(&server, USER).await);

    let (_, told) = connect(&server, USER).await;
    assert_eq!(
        told,
        json!({ "type": "disconnect", "reason": "max_connections_per_user", "reconnect": true })
    );
    welcomed(&server, "another").await;

    drop(first);
    timeout(Duration::from_secs(20), async {
        while connect(&server, USER).await.1["type"] != "welcome" {
            tokio::task::yield_now().await;
        }
    })
    .await
    .expect("a place is given back");
}

#[tokio::test]
async fn a_message_comes_while_clients_have_no_thread_left() {
    let folder = TempDir::new().unwrap();
    let server = bind(&folder, &[]).await;
    let (app, address, threads) =
        (server.app.clone(), server.public_address(), server.clients.handle().clone());
    tokio::spawn(server.run(std::future::pending()));
    let uri = format!("ws://{address}/cable").parse().unwrap();
    let request = ClientRequestBuilder::new(uri).with_header("Origin", format!("http://{address}"));
    let (mut client, _) = connect_async(request).await.unwrap();
    assert_eq!(next(&mut client).await["type"], "welcome");
    let identifier = r#"{"channel":"$pubsub","stream_name":"s"}"#;
    let subscribe = json!({ "command": "subscribe", "identifier": identifier });
    client.send(Message::text(subscribe.to_string())).await.unwrap();
    assert_eq!(next(&mut client).await["type"], "confirm_subscription");
    assert!(threads.metrics().num_alive_tasks() >= 2, "the listener and the client");
    let count = threads.metrics().num_workers();
    let (taken, over) = (Arc::new(Barrier::new(count + 1)), Arc::new(Barrier::new(count + 1)));
    for _ in 0..count {
        let (taken, over) = (taken.clone(), over.clone());
        threads.spawn(async move {
            taken.wait();
            over.wait();
        });
    }
    taken.wait();

    assert_eq!(post(&app, "/broadcast", r#"{"stream":"s","data":1}"#).await, StatusCode::CREATED);

    assert_eq!(next(&mut client).await["message"], 1);
    over.wait();
}
