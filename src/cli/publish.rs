use std::collections::VecDeque;
use std::io::IsTerminal;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use clap::{Arg, ArgMatches, Command};
use http_body_util::{BodyExt, Full};
use hyper::header::{AUTHORIZATION, CONTENT_TYPE};
use hyper::{Method, Request, StatusCode, Uri};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use indicatif::{ProgressBar, ProgressStyle};
use secrecy::{ExposeSecret, SecretString};
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, BufReader};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::{Instant, sleep};

use super::{Failure, Outcome, finish};
use crate::bus::{Answer, BusConfig, Database, Outgoing, Publisher};
use crate::config::{Group, Values, args, publish_keys};
use crate::stream::{Prefix, Stream};

pub fn command() -> Command {
    Command::new("publish")
        .about("Publish one message, or one for each line of standard input")
        .long_about(
            "Publishes into the database, as a worker would, or with --url to a server.\n\n\
             Without JSON each line of standard input is a message. Lines are sent as they come, and \
             together where they come quickly.",
        )
        .arg(
            Arg::new("stream")
                .value_name("STREAM")
                .required(true)
                .help("The stream, without a prefix: progress:42"),
        )
        .arg(Arg::new("json").value_name("JSON").help("The message"))
        .arg(
            Arg::new("url")
                .long("url")
                .value_name("URL")
                .help("Publish by HTTP to this server's internal listener, such as http://127.0.0.1:8081"),
        )
        .args(args(&[Group::Database, Group::Publishing, Group::Operation]))
}

/// What goes into one transaction or one request: so many messages, or a little more than so
/// many bytes.
const BATCH: usize = 500;
const BATCH_BYTES: usize = 1 << 20;
/// What has been read and not yet published.
const READ_AHEAD_BYTES: usize = 4 << 20;
/// Batches that wait for the database.
const IN_FLIGHT: usize = 4;
/// How long a server that doesn't take a message is asked again.
const PATIENCE: Duration = Duration::from_secs(60);
const FIRST_PAUSE: Duration = Duration::from_millis(100);

pub async fn run(matches: &ArgMatches, mut values: Values) -> Outcome {
    let config = BusConfig::resolve(&mut values);
    let keys = publish_keys(&mut values, &mut Vec::new());
    finish(values)?;
    let name = matches.get_one::<String>("stream").expect("it is required");
    let (sender, messages) = mpsc::channel(2 * BATCH);
    let room = Arc::new(Semaphore::new(READ_AHEAD_BYTES));
    match matches.get_one::<String>("json") {
        Some(json) if !tablecast_protocol::is_json(json) => {
            return Err(Failure::Usage(anyhow!("the message is not JSON: {json}")));
        }
        Some(json) => {
            sender.send(Line::new(Ok(json.clone()), &room).await).await?;
            drop(sender);
        }
        None => drop(tokio::spawn(read_lines(tokio::io::stdin(), config.max_payload_bytes, room, sender))),
    }
    match matches.get_one::<String>("url") {
        Some(url) => {
            Remote::new(url, name, keys.for_stream(name).cloned())
                .map_err(Failure::Usage)?
                .publish(messages)
                .await?
        }
        None => publish_into_database(config, name, messages).await?,
    }
    Ok(())
}

type Messages = mpsc::Receiver<Line>;

/// A message that was read, or why there is none; with its share of what may be read ahead.
struct Line {
    message: anyhow::Result<String>,
    _room: OwnedSemaphorePermit,
}

impl Line {
    async fn new(message: anyhow::Result<String>, room: &Arc<Semaphore>) -> Self {
        let bytes = message.as_ref().map_or(0, String::len).min(READ_AHEAD_BYTES);
        let room = room.clone().acquire_many_owned(bytes as u32).await;
        Self { message, _room: room.expect("the semaphore is never closed") }
    }
}

/// A million lines at the memory of a few.
async fn read_lines(
    input: impl AsyncRead + Unpin,
    max_bytes: usize,
    room: Arc<Semaphore>,
    sender: mpsc::Sender<Line>,
) {
    let mut input = BufReader::with_capacity(64 << 10, input);
    let mut line = Vec::new();
    for number in 1u64.. {
        line.clear();
        let read = (&mut input).take(max_bytes as u64 + 2).read_until(b'\n', &mut line).await;
        let message = match read {
            Ok(0) => return,
            Ok(_) => {
                let text = line.trim_ascii();
                match std::str::from_utf8(text) {
                    // What is cut isn't the end of the line.
                    _ if line.len() > max_bytes && !line.ends_with(b"\n") => {
                        Err(anyhow!("line {number} is longer than {max_bytes} bytes (--max-payload-bytes)"))
                    }
                    Ok("") => continue,
                    Ok(text) if tablecast_protocol::is_json(text) => Ok(text.to_owned()),
                    _ => Err(anyhow!("line {number} is not JSON; the lines before it were published")),
                }
            }
            Err(error) => Err(anyhow!(error).context("standard input")),
        };
        let last = message.is_err();
        if sender.send(Line::new(message, &room).await).await.is_err() || last {
            return;
        }
    }
}

/// What is there, without a wait for more: messages, and what is wrong with the one behind them.
/// None at the end.
async fn next_batch(messages: &mut Messages) -> Option<(Vec<String>, Option<anyhow::Error>)> {
    let mut payloads = Vec::new();
    let mut bytes = 0;
    let mut next = Some(messages.recv().await?);
    while let Some(line) = next {
        match line.message {
            Ok(payload) => {
                bytes += payload.len();
                payloads.push(payload);
            }
            Err(error) => return Some((payloads, Some(error))),
        }
        let full = payloads.len() >= BATCH || bytes >= BATCH_BYTES;
        next = if full { None } else { messages.try_recv().ok() };
    }
    Some((payloads, None))
}

async fn publish_into_database(
    mut config: BusConfig,
    name: &str,
    mut messages: Messages,
) -> anyhow::Result<()> {
    let schema = Database::new(&config).inspect().await?;
    if config.prefix.is_none() {
        // As an INSERT would that names none.
        config.prefix = schema.default_prefix;
    }
    let stream = config.prefix.stream(name).with_context(|| format!("stream {name:?}"))?;
    let (publisher, writer) = Publisher::standalone(&config);
    let progress = progress();
    let mut in_flight: VecDeque<(usize, Answer)> = VecDeque::new();
    let settle = async |in_flight: &mut VecDeque<(usize, Answer)>| {
        let Some((count, answer)) = in_flight.pop_front() else { return Ok(()) };
        answer.await.context("the writer is gone")??;
        progress.inc(count as u64);
        anyhow::Ok(())
    };
    let mut failure = None;
    while failure.is_none() {
        let Some((payloads, error)) = next_batch(&mut messages).await else { break };
        failure = error;
        let outgoing = |payload: String| Outgoing { stream: stream.clone(), payload };
        let count = payloads.len();
        in_flight.push_back((count, publisher.enqueue(payloads.into_iter().map(outgoing).collect()).await?));
        if in_flight.len() >= IN_FLIGHT {
            settle(&mut in_flight).await?;
        }
    }
    while !in_flight.is_empty() {
        settle(&mut in_flight).await?;
    }
    publisher.close();
    writer.await?;
    progress.finish_and_clear();
    failure.map_or(Ok(()), Err)
}

/// A server's `POST /broadcast`.
struct Remote {
    client: Client<HttpsConnector<HttpConnector>, Full<bytes::Bytes>>,
    uri: Uri,
    stream: Stream,
    key: Option<SecretString>,
}

impl Remote {
    fn new(url: &str, name: &str, key: Option<SecretString>) -> anyhow::Result<Self> {
        // The server joins its own prefix.
        let stream = Prefix::default().stream(name).with_context(|| format!("stream {name:?}"))?;
        let base = url.trim_end_matches('/').trim_end_matches("/broadcast");
        let uri: Uri = format!("{base}/broadcast").parse().with_context(|| format!("--url {url}"))?;
        if !matches!(uri.scheme_str(), Some("http" | "https")) {
            bail!("--url {url}: it begins with http:// or https://");
        }
        let connector = HttpsConnectorBuilder::new()
            .with_provider_and_native_roots(rustls::crypto::aws_lc_rs::default_provider())?
            .https_or_http()
            .enable_http1()
            .build();
        Ok(Self { client: Client::builder(TokioExecutor::new()).build(connector), uri, stream, key })
    }

    async fn publish(&self, mut messages: Messages) -> anyhow::Result<()> {
        let progress = progress();
        while let Some((payloads, failure)) = next_batch(&mut messages).await {
            if !payloads.is_empty() {
                self.post(&payloads).await?;
                progress.inc(payloads.len() as u64);
            }
            if let Some(error) = failure {
                return Err(error);
            }
        }
        progress.finish_and_clear();
        Ok(())
    }

    /// Repeats with one key until it is answered, so that it is published once.
    async fn post(&self, payloads: &[String]) -> anyhow::Result<()> {
        let stream = serde_json::to_string(self.stream.as_str()).expect("text is JSON");
        let items: Vec<_> =
            payloads.iter().map(|payload| format!(r#"{{"stream":{stream},"data":{payload}}}"#)).collect();
        let body = bytes::Bytes::from(format!("[{}]", items.join(",")));
        let key = format!("{:032x}", rand::random::<u128>());
        let started = Instant::now();
        let mut pause = FIRST_PAUSE;
        loop {
            let mut request = Request::builder()
                .method(Method::POST)
                .uri(&self.uri)
                .header(CONTENT_TYPE, "application/json")
                .header("Idempotency-Key", &key);
            if let Some(key) = &self.key {
                request = request.header(AUTHORIZATION, format!("Bearer {}", key.expose_secret()));
            }
            let answer = self.client.request(request.body(Full::new(body.clone()))?).await;
            let trouble = match answer {
                Ok(answer) if answer.status() == StatusCode::CREATED => return Ok(()),
                Ok(answer) => {
                    let status = answer.status();
                    let text =
                        answer.into_body().collect().await.map(|body| body.to_bytes()).unwrap_or_default();
                    let text = format!("{} answered {status}: {}", self.uri, String::from_utf8_lossy(&text));
                    if !matches!(status, StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS) {
                        bail!(text);
                    }
                    anyhow!(text)
                }
                Err(error) => anyhow!(error).context(format!("{} can't be reached", self.uri)),
            };
            if started.elapsed() >= PATIENCE {
                return Err(trouble);
            }
            if pause == FIRST_PAUSE {
                tracing::warn!(
                    reason = format!("{trouble:#}"),
                    "publishing is tried again, for up to a minute"
                );
            }
            sleep(pause.mul_f64(rand::random_range(0.5..=1.0))).await;
            pause = (2 * pause).min(Duration::from_secs(5));
        }
    }
}

/// On a terminal, how many have been published.
fn progress() -> ProgressBar {
    if !std::io::stderr().is_terminal() || std::io::stdin().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{spinner} {human_pos} messages, {per_sec}, {elapsed}")
        .expect("a valid template");
    ProgressBar::new_spinner().with_style(style)
}
