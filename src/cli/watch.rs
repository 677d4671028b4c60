use std::collections::{HashMap, HashSet};
use std::io::Write;
use std::time::Duration;

use anyhow::{Context, anyhow};
use clap::{Arg, ArgAction, ArgMatches, Command};
use futures_util::{SinkExt, StreamExt};
use serde::Deserialize;
use serde_json::json;
use serde_json::value::RawValue;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::{Error, Message, handshake::client::Request};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};

use super::{Failure, Outcome, finish};
use crate::config::{Group, Values, args};

pub fn command() -> Command {
    Command::new("watch")
        .about("Print messages as they come, one JSON line each")
        .long_about(
            "A client: it subscribes at a server and prints what arrives, \
             {\"stream\":…,\"data\":…} or {\"identifier\":…,\"data\":…}. When the connection is lost it comes back.\n\n\
             Exit codes: 0 after --count messages, 1 failure, 2 usage, 3 a subscription was rejected or the server \
             asked not to come back, 4 no server answered within --timeout.",
        )
        .arg(Arg::new("stream").value_name("STREAM").num_args(0..).help("Streams that --public-streams of the server opens"))
        .arg(
            Arg::new("identifier")
                .long("identifier")
                .value_name("JSON")
                .action(ArgAction::Append)
                .help(r#"A subscription as Action Cable names it: '{"channel":"ProgressChannel","job_id":42}'"#),
        )
        .arg(
            Arg::new("url")
                .long("url")
                .value_name("URL")
                .default_value("ws://127.0.0.1:8080/cable")
                .help("The server's WebSocket, ws: or wss:"),
        )
        .arg(Arg::new("origin").long("origin").value_name("ORIGIN").help("The Origin to name [default: the server's own]"))
        .arg(
            Arg::new("count")
                .long("count")
                .short('n')
                .value_name("NUMBER")
                .value_parser(clap::value_parser!(u64).range(1..))
                .help("End after so many messages"),
        )
        .arg(
            Arg::new("timeout")
                .long("timeout")
                .value_name("TIME")
                .default_value("10s")
                .value_parser(|text: &str| humantime::parse_duration(text))
                .help("How long to try for a first connection"),
        )
        .args(args(&[Group::Operation]))
}

const REJECTED: u8 = 3;
const UNREACHABLE: u8 = 4;

/// The server pings each three seconds.
const SILENCE: Duration = Duration::from_secs(10);
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// For all subscriptions to be answered.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const MAX_PAUSE: Duration = Duration::from_secs(10);

pub async fn run(matches: &ArgMatches, values: Values) -> Outcome {
    finish(values)?;
    let subjects = Subjects::new(matches).map_err(Failure::Usage)?;
    let request = request(matches).map_err(Failure::Usage)?;
    // Somebody else may have installed one; then that is as good.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();

    let patience = *matches.get_one::<Duration>("timeout").expect("it has a default");
    let mut left = matches.get_one::<u64>("count").copied().unwrap_or(u64::MAX);
    let started = Instant::now();
    let mut connected_once = false;
    let mut pause = FIRST_PAUSE;
    loop {
        let lost = match timeout(HANDSHAKE_TIMEOUT, connect_async(request.clone())).await {
            Ok(Ok((socket, _))) => {
                let mut confirmed = false;
                let ended = listen(socket, &subjects, &mut left, &mut confirmed).await?;
                if confirmed {
                    // Only now is the server one to come back to at once.
                    (connected_once, pause) = (true, FIRST_PAUSE);
                }
                match ended {
                    Ended::Enough => return Ok(()),
                    Ended::Refused(why) => {
                        eprintln!("tablecast: {why}");
                        return Err(Failure::Code(REJECTED));
                    }
                    Ended::Lost(why) => why,
                }
            }
            Ok(Err(Error::Http(answer))) => format!(
                "the server answered {} instead of a WebSocket; it may not know this path, or not allow the origin {}",
                answer.status(),
                request.headers()["origin"].to_str().unwrap_or("?")
            ),
            Ok(Err(error)) => error.to_string(),
            Err(_) => "no answer".to_owned(),
        };
        if !connected_once && started.elapsed() + pause > patience {
            eprintln!("tablecast: {} can't be reached: {lost}", request.uri());
            return Err(Failure::Code(UNREACHABLE));
        }
        tracing::warn!(reason = lost, "not connected; trying again");
        sleep(pause.mul_f64(rand::random_range(0.5..=1.0))).await;
        pause = (2 * pause).min(MAX_PAUSE);
    }
}

/// What to subscribe to: the identifier as sent, and what to call it in the output.
struct Subjects(HashMap<String, String>);

impl Subjects {
    fn new(matches: &ArgMatches) -> anyhow::Result<Self> {
        let mut subjects = HashMap::new();
        for stream in matches.get_many::<String>("stream").into_iter().flatten() {
            let identifier = json!({ "channel": "$pubsub", "stream_name": stream }).to_string();
            subjects.insert(identifier, format!(r#""stream":{}"#, json!(stream)));
        }
        for identifier in matches.get_many::<String>("identifier").into_iter().flatten() {
            tablecast_protocol::Identifier::parse(identifier)
                .with_context(|| format!("--identifier {identifier}"))?;
            subjects.insert(identifier.clone(), format!(r#""identifier":{}"#, one_line(identifier)));
        }
        if subjects.is_empty() {
            return Err(anyhow!("name a stream, or an --identifier"));
        }
        Ok(Self(subjects))
    }
}

fn request(matches: &ArgMatches) -> anyhow::Result<Request> {
    let url = matches.get_one::<String>("url").expect("it has a default");
    let mut request = url.as_str().into_client_request().with_context(|| format!("--url {url}"))?;
    if !matches!(request.uri().scheme_str(), Some("ws" | "wss")) {
        anyhow::bail!("--url {url}: it begins with ws:// or wss://, such as ws://127.0.0.1:8080/cable");
    }
    let origin = match matches.get_one::<String>("origin") {
        Some(origin) => origin.clone(),
        None => {
            let scheme = if request.uri().scheme_str() == Some("wss") { "https" } else { "http" };
            let authority = request.uri().authority().map(|authority| authority.as_str()).unwrap_or_default();
            format!("{scheme}://{authority}")
        }
    };
    let headers = request.headers_mut();
    headers.insert("origin", origin.parse().context("--origin")?);
    headers.insert("sec-websocket-protocol", "actioncable-v1-json".parse()?);
    Ok(request)
}

/// How a connection ended.
enum Ended {
    Enough,
    Refused(String),
    Lost(String),
}

/// What a server sends.
#[derive(Deserialize)]
struct Incoming<'a> {
    #[serde(rename = "type")]
    kind: Option<String>,
    identifier: Option<String>,
    #[serde(borrow, default, deserialize_with = "tablecast_protocol::present")]
    message: Option<&'a RawValue>,
    reason: Option<String>,
    reconnect: Option<bool>,
}

async fn listen(
    mut socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
    subjects: &Subjects,
    left: &mut u64,
    confirmed: &mut bool,
) -> anyhow::Result<Ended> {
    let opened = Instant::now();
    let mut unanswered: HashSet<&str> = subjects.0.keys().map(String::as_str).collect();
    loop {
        if !unanswered.is_empty() && opened.elapsed() > ANSWER_TIMEOUT {
            return Ok(Ended::Lost("the server does not answer a subscription".into()));
        }
        let text = match timeout(SILENCE, socket.next()).await {
            Ok(Some(Ok(Message::Text(text)))) => text,
            Ok(Some(Ok(Message::Close(_)) | Err(_)) | None) => {
                return Ok(Ended::Lost("the server closed the connection".into()));
            }
            Ok(Some(Ok(_))) => continue,
            Err(_) => return Ok(Ended::Lost("the server fell silent".into())),
        };
        let Ok(incoming) = serde_json::from_str::<Incoming>(&text) else { continue };
        match (incoming.kind.as_deref(), incoming.identifier) {
            (Some("welcome"), _) => {
                for identifier in subjects.0.keys() {
                    let command = json!({ "command": "subscribe", "identifier": identifier });
                    if socket.send(Message::text(command.to_string())).await.is_err() {
                        return Ok(Ended::Lost("the connection broke".into()));
                    }
                }
            }
            (Some("confirm_subscription"), Some(identifier)) => {
                unanswered.remove(identifier.as_str());
                *confirmed |= unanswered.is_empty();
                if *confirmed {
                    tracing::info!("subscribed");
                }
            }
            (Some("reject_subscription"), Some(identifier)) if subjects.0.contains_key(&identifier) => {
                return Ok(Ended::Refused(format!(
                    "the subscription {identifier} was rejected; does the server have a [[channel]] for it, whose parameters are all there, or --public-streams?"
                )));
            }
            (Some("disconnect"), _) => {
                let reason = incoming.reason.unwrap_or_default();
                return Ok(if incoming.reconnect == Some(true) {
                    Ended::Lost(format!("the server ended the connection: {reason}"))
                } else {
                    Ended::Refused(format!("the server ended the connection for good: {reason}"))
                });
            }
            (None, Some(identifier)) => {
                let (Some(name), Some(message)) = (subjects.0.get(&identifier), incoming.message) else {
                    continue;
                };
                let mut output = std::io::stdout().lock();
                writeln!(output, "{{{name},\"data\":{}}}", one_line(message.get()))?;
                output.flush()?;
                *left -= 1;
                if *left == 0 {
                    return Ok(Ended::Enough);
                }
            }
            _ => {}
        }
    }
}

/// JSON on one line: a line break in it can only be between its tokens.
fn one_line(json: &str) -> String {
    json.replace(['\r', '\n'], " ")
}
