mod places;

use std::collections::{HashMap, HashSet};
use std::io::Write;
use std::time::Duration;

use anyhow::{Context, anyhow};
use clap::{Arg, ArgAction, ArgMatches, Command};
use futures_util::{SinkExt, StreamExt};
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};
use tablecast_protocol::{Identifier, Subprotocol};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::{Error, Message, handshake::client::Request};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};

use self::places::{Places, Position, Refused};
use super::{Failure, Outcome, finish};
use crate::config::{Group, Values, args};

pub fn command() -> Command {
    Command::new("watch")
        .about("Print messages as they come, one JSON line each")
        .long_about(
            "A client: it subscribes at a server and prints what arrives, \
             {\"stream\":…,\"data\":…} or {\"identifier\":…,\"data\":…}. When the connection is lost it comes back, and \
             gets what it missed where the server keeps that (actioncable-v1-ext-json, as tablecast does).\n\n\
             A script that keeps the last line's position of --positions, and gives it to --from of a later watch of the \
             same subscriptions, gets each message once. Where the server can't go on from there, since rows may have been \
             trimmed or the table is another one, the watch says so and ends, if not --or-now.\n\n\
             Exit codes: 0 after --count messages, 1 failure, 2 usage, 3 a subscription was rejected or the server \
             asked not to come back, 4 no server answered within --timeout, 5 the server can't go on from a position.",
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
        .arg(
            Arg::new("from")
                .long("from")
                .value_name("POSITION")
                .help("Begin with what came after this position, of --positions or GET /position"),
        )
        .arg(
            Arg::new("positions")
                .long("positions")
                .action(ArgAction::SetTrue)
                .help("Print with each message the position after it: {…,\"position\":\"…\"}"),
        )
        .arg(
            Arg::new("or-now")
                .long("or-now")
                .action(ArgAction::SetTrue)
                .help("Where the server can't go on from a position, say so and go on from now"),
        )
        .args(args(&[Group::Operation]))
}

const REJECTED: u8 = 3;
const UNREACHABLE: u8 = 4;
const NOT_RESUMED: u8 = 5;

/// The server pings each three seconds.
const SILENCE: Duration = Duration::from_secs(10);
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// For all subscriptions to be answered.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const MAX_PAUSE: Duration = Duration::from_secs(10);

pub async fn run(matches: &ArgMatches, values: Values) -> Outcome {
    finish(values)?;
    let mut watch = Watch::new(matches).map_err(Failure::Usage)?;
    let request = request(matches).map_err(Failure::Usage)?;
    // Somebody else may have installed one; then that is as good.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();

    let patience = *matches.get_one::<Duration>("timeout").expect("it has a default");
    let started = Instant::now();
    let mut connected_once = false;
    let mut pause = FIRST_PAUSE;
    loop {
        let lost = match timeout(HANDSHAKE_TIMEOUT, connect_async(request.clone())).await {
            Ok(Ok((socket, answer))) => {
                let protocol = answer.headers().get("sec-websocket-protocol");
                let is_extended =
                    protocol.is_some_and(|protocol| protocol == Subprotocol::V1ExtJson.as_str());
                let mut confirmed = false;
                let ended = watch.listen(socket, is_extended, &mut confirmed).await?;
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
                    Ended::NotResumed => return Err(Failure::Code(NOT_RESUMED)),
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

/// What is watched, and how far it has come.
struct Watch {
    subjects: Vec<Subject>,
    /// By their identifiers.
    indices: HashMap<String, usize>,
    places: Places,
    /// It was asked for positions, or to begin from one.
    needs_positions: bool,
    prints_positions: bool,
    or_now: bool,
    /// So many messages more.
    left: u64,
}

/// What to subscribe to.
struct Subject {
    /// As it is sent.
    identifier: String,
    /// What to call it in the output.
    name: String,
}

impl Watch {
    fn new(matches: &ArgMatches) -> anyhow::Result<Self> {
        let mut subjects: Vec<Subject> = Vec::new();
        for stream in matches.get_many::<String>("stream").into_iter().flatten() {
            let identifier = json!({ "channel": "$pubsub", "stream_name": stream }).to_string();
            subjects.push(Subject { identifier, name: format!(r#""stream":{}"#, json!(stream)) });
        }
        for identifier in matches.get_many::<String>("identifier").into_iter().flatten() {
            Identifier::parse(identifier).with_context(|| format!("--identifier {identifier}"))?;
            let name = format!(r#""identifier":{}"#, one_line(identifier));
            subjects.push(Subject { identifier: identifier.clone(), name });
        }
        let mut named = HashSet::new();
        subjects.retain(|subject| named.insert(subject.identifier.clone()));
        if subjects.is_empty() {
            return Err(anyhow!("name a stream, or an --identifier"));
        }
        let identifiers = || subjects.iter().map(|subject| subject.identifier.clone());
        let mut places = Places::new(identifiers());
        let from = matches.get_one::<String>("from");
        if let Some(from) = from {
            places.begin_from(from)?;
        }
        let prints_positions = matches.get_flag("positions");
        Ok(Self {
            indices: identifiers().zip(0..).collect(),
            subjects,
            places,
            needs_positions: prints_positions || from.is_some(),
            prints_positions,
            or_now: matches.get_flag("or-now"),
            left: matches.get_one::<u64>("count").copied().unwrap_or(u64::MAX),
        })
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
    let protocols = [Subprotocol::V1ExtJson, Subprotocol::V1Json].map(Subprotocol::as_str);
    headers.insert("sec-websocket-protocol", protocols.join(", ").parse()?);
    Ok(request)
}

/// How a connection ended.
enum Ended {
    Enough,
    Refused(String),
    /// It has been said why.
    NotResumed,
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
    #[serde(default)]
    stream_id: Value,
    #[serde(default)]
    epoch: Value,
    #[serde(default)]
    offset: Value,
    reason: Option<String>,
    reconnect: Option<bool>,
}

impl Watch {
    async fn listen(
        &mut self,
        mut socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
        is_extended: bool,
        confirmed: &mut bool,
    ) -> anyhow::Result<Ended> {
        if self.needs_positions && !is_extended {
            anyhow::bail!(
                "this server has no positions, since it doesn't speak {}: --from and --positions can't be used with it",
                Subprotocol::V1ExtJson.as_str()
            );
        }
        self.places.reconnected();
        let opened = Instant::now();
        let mut unanswered: HashSet<usize> = (0..self.subjects.len()).collect();
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
            let index = incoming.identifier.as_ref().and_then(|identifier| self.indices.get(identifier));
            match (incoming.kind.as_deref(), index.copied()) {
                (Some("welcome"), _) => {
                    for (index, Subject { identifier, .. }) in self.subjects.iter().enumerate() {
                        let mut command = json!({ "command": "subscribe", "identifier": identifier });
                        if is_extended {
                            command["history"] = self.places.history(index);
                        }
                        if socket.send(Message::text(command.to_string())).await.is_err() {
                            return Ok(Ended::Lost("the connection broke".into()));
                        }
                    }
                }
                (Some("ping"), _) => {
                    // AnyCable can be asked for milliseconds, but wasn't.
                    let time = incoming.message.and_then(|time| serde_json::from_str(time.get()).ok());
                    self.places.heard(time);
                }
                (Some("confirm_subscription"), Some(index)) => {
                    self.places.confirmed(index);
                    unanswered.remove(&index);
                    *confirmed |= unanswered.is_empty();
                    if *confirmed {
                        tracing::info!("subscribed");
                    }
                }
                (Some("reject_subscription"), Some(index)) => {
                    return Ok(Ended::Refused(format!(
                        "the subscription {} was rejected; does the server have a [[channel]] for it, whose parameters are all there, or --public-streams?",
                        self.subjects[index].identifier
                    )));
                }
                (Some("confirm_history"), Some(index)) => self.places.history_confirmed(index),
                (Some("reject_history"), Some(index)) if !self.goes_on(index) => {
                    return Ok(Ended::NotResumed);
                }
                (Some("disconnect"), _) => {
                    let reason = incoming.reason.unwrap_or_default();
                    return Ok(if incoming.reconnect == Some(true) {
                        Ended::Lost(format!("the server ended the connection: {reason}"))
                    } else {
                        Ended::Refused(format!("the server ended the connection for good: {reason}"))
                    });
                }
                (None, Some(index)) => {
                    let Incoming { message: Some(message), stream_id, epoch, offset, .. } = incoming else {
                        continue;
                    };
                    if let (Value::String(stream_id), Value::String(epoch)) = (stream_id, epoch) {
                        self.places.received(index, Position { stream_id, epoch, offset });
                    }
                    self.print(index, message.get())?;
                    self.left -= 1;
                    if self.left == 0 {
                        return Ok(Ended::Enough);
                    }
                }
                _ => {}
            }
        }
    }

    /// Whether to, where the server doesn't go on from where a subscription was.
    fn goes_on(&mut self, index: usize) -> bool {
        let Subject { identifier, .. } = &self.subjects[index];
        match self.places.history_refused(index) {
            None => true,
            // It was a try: a server may have no history at all, and still speak the protocol.
            Some(Refused::Clock) => {
                tracing::warn!(identifier, "what came while there was no connection may be missing");
                true
            }
            Some(Refused::Position(word)) => {
                let what = format!(
                    "tablecast: {identifier}: the server can't go on from the position {word}: rows may have been trimmed \
                     since then, or it is of another table, or no position"
                );
                match self.or_now {
                    true => eprintln!("{what}; from now on (--or-now)"),
                    false => eprintln!("{what}. With --or-now it would go on from now"),
                }
                self.or_now
            }
        }
    }

    fn print(&self, index: usize, data: &str) -> anyhow::Result<()> {
        let (name, data) = (&self.subjects[index].name, one_line(data));
        let mut output = std::io::stdout().lock();
        if self.prints_positions {
            let position =
                self.places.word().context("this server's messages have no position for --from")?;
            writeln!(output, r#"{{{name},"data":{data},"position":{}}}"#, json!(position))?;
        } else {
            writeln!(output, r#"{{{name},"data":{data}}}"#)?;
        }
        Ok(output.flush()?)
    }
}

/// JSON on one line: a line break in it can only be between its tokens.
fn one_line(json: &str) -> String {
    json.replace(['\r', '\n'], " ")
}
