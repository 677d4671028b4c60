//! What a Rust team would write in an afternoon: axum's WebSocket with its defaults, one task
//! for each connection, and a broadcast channel.

use std::error::Error;
use std::io::BufRead;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::Router;
use axum::extract::State;
use axum::extract::ws::{Message, Utf8Bytes, WebSocket, WebSocketUpgrade};
use axum::http::StatusCode;
use axum::response::Response;
use axum::routing::{get, post};
use axum::serve::ListenerExt;
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;
use tokio::net::TcpListener;
use tokio::sync::broadcast;

use super::Running;
use crate::client::dialect::{Dialect, Door};
use crate::harness::clients::{STREAM, identifier};
use crate::harness::process::{Process, die_with_parent};
use crate::publish::{Inlet, Way};

pub const ROLE: &str = "afternoon";

pub fn start(_data: &str) -> Running {
    let mut process = Process::spawn(&mut Process::this(ROLE));
    let mut address = String::new();
    process.stdout().read_line(&mut address).expect("it says where it listens");
    let address = address.trim().parse().expect("it says no more");
    Running {
        door: Door { address, dialect: Dialect::action_cable() },
        inlet: Inlet::Http(address, Way::Broadcast),
        processes: vec![process.0.id()],
        _held: Box::new(process),
    }
}

/// How far a client may be behind before it loses messages. The bench stays below it.
const CAPACITY: usize = 1024;

#[derive(Clone)]
struct App {
    messages: broadcast::Sender<Utf8Bytes>,
}

#[derive(Deserialize)]
struct Published {
    data: Box<RawValue>,
}

/// The role.
pub fn main() {
    die_with_parent();
    rlimit::increase_nofile_limit(u64::MAX).expect("a limit may be raised to its maximum");
    tokio::runtime::Runtime::new().expect("there are threads").block_on(serve());
}

async fn serve() {
    let app = App { messages: broadcast::Sender::new(CAPACITY) };
    let routes = Router::new().route("/cable", get(cable)).route("/broadcast", post(publish)).with_state(app);
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("there are free ports");
    println!("{}", listener.local_addr().expect("it is bound"));
    // Without this the kernel would hold messages back until earlier ones are acknowledged.
    let listener = listener.tap_io(|socket| socket.set_nodelay(true).expect("it is TCP"));
    axum::serve(listener, routes).await.expect("it never ends");
}

async fn cable(upgrade: WebSocketUpgrade, State(app): State<App>) -> Response {
    upgrade.protocols(["actioncable-v1-json"]).on_upgrade(async move |mut socket| {
        // The client left, or was too slow.
        let _ = converse(&mut socket, app.messages.subscribe()).await;
    })
}

async fn converse(
    socket: &mut WebSocket,
    mut messages: broadcast::Receiver<Utf8Bytes>,
) -> Result<(), Box<dyn Error + Send + Sync>> {
    socket.send(r#"{"type":"welcome"}"#.into()).await?;
    let mut heartbeats = tokio::time::interval(Duration::from_secs(3));
    let mut is_subscribed = false;
    loop {
        tokio::select! {
            message = messages.recv() => {
                let message = message?;
                if is_subscribed {
                    socket.send(Message::Text(message)).await?;
                }
            }
            command = socket.recv() => match command {
                Some(Ok(Message::Text(_))) => {
                    socket.send(Message::Text(confirm().into())).await?;
                    is_subscribed = true;
                }
                Some(Ok(_)) => {}
                _ => return Ok(()),
            },
            _ = heartbeats.tick() => {
                let seconds = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
                socket.send(format!(r#"{{"type":"ping","message":{seconds}}}"#).into()).await?;
            }
        }
    }
}

async fn publish(State(app): State<App>, body: String) -> StatusCode {
    let published = match serde_json::from_str(&body) {
        Ok(many) => many,
        Err(_) => match serde_json::from_str::<Published>(&body) {
            Ok(one) => vec![one],
            Err(_) => return StatusCode::BAD_REQUEST,
        },
    };
    for Published { data } in published {
        let message = format!(r#"{{"identifier":{},"message":{data}}}"#, quoted_identifier());
        // Nobody may be listening.
        let _ = app.messages.send(message.into());
    }
    StatusCode::CREATED
}

fn confirm() -> String {
    format!(r#"{{"identifier":{},"type":"confirm_subscription"}}"#, quoted_identifier())
}

/// As JSON text: an identifier is JSON itself.
fn quoted_identifier() -> Value {
    identifier(STREAM).into()
}
