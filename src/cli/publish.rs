use std::collections::VecDeque;
use std::io::IsTerminal;
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
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};

use super::{Failure, Outcome, finish};
use crate::bus::sqlite::Database;
use crate::bus::{Answer, BusConfig, DatabaseUrl, Outgoing, Publisher};
use crate::config::{Group, Values, args, publish_key};
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

/// Messages that go into one transaction or one request.
const BATCH: usize = 500;
/// Batches that wait for the database.
const IN_FLIGHT: usize = 4;
/// How long a server that doesn't take a message is asked again.
const PATIENCE: Duration = Duration::from_secs(60);

pub async fn run(matches: &ArgMatches, mut values: Values) -> Outcome {
    let config = BusConfig::resolve(&mut values);
    let key = publish_key(&mut values);
    finish(values)?;
    let name = matches.get_one::<String>("stream").expect("it is required");
    let (sender, messages) = mpsc::channel(2 * BATCH);
    match matches.get_one::<String>("json") {
        Some(json) if !tablecast_protocol::is_json(json) => {
            return Err(Failure::Usage(anyhow!("the message is not JSON: {json}")));
        }
        Some(json) => {
            sender.send(Ok(json.clone())).await?;
            drop(sender);
        }
        None => drop(tokio::spawn(read_lines(tokio::io::stdin(), config.max_payload_bytes, sender))),
    }
    match matches.get_one::<String>("url") {
        Some(url) => Remote::new(url, name, key)?.publish(messages).await?,
        None => publish_into_database(config, name, messages).await?,
    }
    Ok(())
}

type Messages = mpsc::Receiver<anyhow::Result<String>>;

/// A million lines at the memory of a few: the channel is bounded, and so is a line.
async fn read_lines(
    input: impl AsyncRead + Unpin,
    max_bytes: usize,
    sender: mpsc::Sender<anyhow::Result<String>>,
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
                    Ok("") => continue,
                    _ if text.len() > max_bytes => {
                        Err(anyhow!("line {number} is longer than {max_bytes} bytes (--max-payload-bytes)"))
                    }
                    Ok(text) if tablecast_protocol::is_json(text) => Ok(text.to_owned()),
                    _ => Err(anyhow!("line {number} is not JSON; the lines before it were published")),
                }
            }
            Err(error) => Err(anyhow!(error).context("standard input")),
        };
        let last = message.is_err();
        if sender.send(message).await.is_err() || last {
            return;
        }
    }
}

async fn publish_into_database(
    mut config: BusConfig,
    name: &str,
    mut messages: Messages,
) -> anyhow::Result<()> {
    let DatabaseUrl::Sqlite(location) = &config.url;
    let schema = Database::new(location.clone(), &config).inspect().await?;
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
    let mut batch = Vec::new();
    while failure.is_none() && messages.recv_many(&mut batch, BATCH).await > 0 {
        let (payloads, error) = split(&mut batch);
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
        let uri = format!("{base}/broadcast").parse().with_context(|| format!("--url {url}"))?;
        let connector = HttpsConnectorBuilder::new()
            .with_provider_and_native_roots(rustls::crypto::aws_lc_rs::default_provider())?
            .https_or_http()
            .enable_http1()
            .build();
        Ok(Self { client: Client::builder(TokioExecutor::new()).build(connector), uri, stream, key })
    }

    async fn publish(&self, mut messages: Messages) -> anyhow::Result<()> {
        let progress = progress();
        let mut batch = Vec::new();
        while messages.recv_many(&mut batch, BATCH).await > 0 {
            let (payloads, failure) = split(&mut batch);
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
        let mut pause = Duration::from_millis(100);
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
            tracing::warn!(%trouble, "publishing is tried again");
            sleep(pause.mul_f64(rand::random_range(0.5..=1.0))).await;
            pause = (2 * pause).min(Duration::from_secs(5));
        }
    }
}

/// The messages up to the first that is none, and what is wrong with that.
fn split(batch: &mut Vec<anyhow::Result<String>>) -> (Vec<String>, Option<anyhow::Error>) {
    let mut payloads = Vec::with_capacity(batch.len());
    for message in batch.drain(..) {
        match message {
            Ok(payload) => payloads.push(payload),
            Err(error) => return (payloads, Some(error)),
        }
    }
    (payloads, None)
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
