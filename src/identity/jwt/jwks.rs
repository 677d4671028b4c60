use std::fmt;
use std::io;
use std::net::IpAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty, LengthLimitError, Limited};
use hyper::header::ACCEPT;
use hyper::{Request, StatusCode, Uri};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::{self, Client};
use hyper_util::rt::TokioExecutor;
use serde::Deserialize;
use serde_json::{Map, Value};
use tokio::io::AsyncReadExt;
use tokio::sync::{Notify, OnceCell, watch};
use tokio::time::{Instant, sleep_until, timeout};

use super::{JwksConfig, Key};
use crate::telemetry::OnceAMinute;

/// A set of public keys that somebody else keeps (RFC 7517), as it was when last it could be
/// read. `follow` alone reads it, so that there is never more than one look at a time, and no
/// client that leaves can break one off.
pub struct Jwks {
    source: Source,
    refresh: Duration,
    client: OnceCell<HttpClient>,
    looks: watch::Sender<Looks>,
    wanted: Notify,
}

/// Where the set is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    File(PathBuf),
    Url(Uri),
}

/// The looks at the set, up to now.
#[derive(Default)]
struct Looks {
    keys: Option<Arc<[Key]>>,
    /// When the last one was begun.
    begun: Option<Instant>,
    is_running: bool,
    ended: u64,
    has_succeeded: bool,
}

/// Why a set could not be read.
#[derive(Debug, thiserror::Error)]
pub enum JwksError {
    #[error("no answer within {TIMEOUT:?}")]
    Timeout,
    #[error("the request failed")]
    Request(#[from] legacy::Error),
    #[error("the answer broke off: {0}")]
    Body(Box<dyn std::error::Error + Send + Sync>),
    #[error("the answer is {0} and not 200")]
    Status(StatusCode),
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("it is longer than {MAX_BYTES} bytes")]
    TooLarge,
    #[error("it is no JWKS, an object with an array of keys: {0}")]
    NotJwks(#[from] serde_json::Error),
}

type HttpClient = Client<HttpsConnector<HttpConnector>, Empty<Bytes>>;

/// For one look, all of it.
const TIMEOUT: Duration = Duration::from_secs(5);
const MAX_BYTES: usize = 1 << 20;
/// A token without a `kid` is tried with each of its kind.
const MAX_KEYS: usize = 64;
/// Anybody can make up names of keys, or sign with one of their own: they are looked for only so often.
const UNKNOWN_KEY_INTERVAL: Duration = Duration::from_secs(30);
/// After a look that failed.
const RETRY_INTERVAL: Duration = Duration::from_secs(10);

impl Jwks {
    pub fn new(config: JwksConfig) -> Self {
        Self {
            source: config.source,
            refresh: config.refresh,
            client: OnceCell::new(),
            looks: watch::Sender::default(),
            wanted: Notify::new(),
        }
    }

    /// The keys of the last look that succeeded; none before the first.
    pub fn keys(&self) -> Option<Arc<[Key]>> {
        self.looks.borrow().keys.clone()
    }

    /// Waits for a look that ends from now on. False where it fails, or where the last one was
    /// just now.
    pub async fn look_again(&self) -> bool {
        let mut looks = self.looks.subscribe();
        let ended = {
            let looks = looks.borrow();
            if !looks.is_running && !looks.may_be_asked() {
                return false;
            }
            looks.ended
        };
        self.wanted.notify_one();
        let look = looks.wait_for(|looks| looks.ended != ended);
        // Longer than any look takes.
        timeout(2 * TIMEOUT, look).await.is_ok_and(|look| look.is_ok_and(|look| look.has_succeeded))
    }

    /// Looks at once, then whenever it is time, for ever.
    pub async fn follow(&self) {
        let mut told = OnceAMinute::default();
        loop {
            let begun = Instant::now();
            self.looks.send_modify(|looks| {
                looks.begun = Some(begun);
                looks.is_running = true;
            });
            let read = timeout(TIMEOUT, self.read()).await.unwrap_or(Err(JwksError::Timeout));
            let pause = match &read {
                Ok(_) => self.refresh,
                Err(error) => {
                    if told.is_due() {
                        let has_keys = self.keys().is_some();
                        tracing::warn!(
                            jwks = %self.source,
                            error = error as &dyn std::error::Error,
                            has_keys,
                            "the JWKS can't be read and is tried again; without keys no token is accepted"
                        );
                    }
                    RETRY_INTERVAL.min(self.refresh)
                }
            };
            self.looks.send_modify(|looks| {
                looks.is_running = false;
                looks.ended += 1;
                looks.has_succeeded = read.is_ok();
                looks.keys = read.ok().map(Arc::from).or(looks.keys.take());
            });
            tokio::select! {
                () = sleep_until(begun + pause) => {}
                () = self.asked() => {}
            }
        }
    }

    /// Until somebody asks who may.
    async fn asked(&self) {
        loop {
            self.wanted.notified().await;
            if self.looks.borrow().may_be_asked() {
                return;
            }
        }
    }

    async fn read(&self) -> Result<Vec<Key>, JwksError> {
        let text = match &self.source {
            Source::File(path) => {
                let mut text = Vec::new();
                let file = tokio::fs::File::open(path).await?;
                file.take(MAX_BYTES as u64 + 1).read_to_end(&mut text).await?;
                if text.len() > MAX_BYTES {
                    return Err(JwksError::TooLarge);
                }
                Bytes::from(text)
            }
            Source::Url(url) => {
                let client = self.client.get_or_try_init(async || client()).await?;
                fetch(client, url).await?
            }
        };
        let Document { keys: members } = serde_json::from_slice(&text)?;
        let count = members.len();
        let keys: Vec<_> = members.into_iter().filter_map(Key::from_jwk).take(MAX_KEYS).collect();
        self.tell(&keys, count - keys.len());
        Ok(keys)
    }

    fn tell(&self, keys: &[Key], skipped: usize) {
        let ids = |keys: &[Key]| keys.iter().map(|key| key.id().map(str::to_owned)).collect::<Vec<_>>();
        if self.keys().is_some_and(|before| ids(&before) == ids(keys)) {
            return;
        }
        let jwks = &self.source;
        if keys.is_empty() {
            tracing::warn!(%jwks, skipped, "the JWKS holds no key for RS256, ES256 or EdDSA: no token of theirs is accepted");
        } else {
            tracing::info!(%jwks, keys = keys.len(), skipped, "the keys of the JWKS are others than before");
        }
    }
}

impl Looks {
    fn may_be_asked(&self) -> bool {
        self.begun.is_none_or(|at| at.elapsed() >= UNKNOWN_KEY_INTERVAL)
    }
}

#[derive(Deserialize)]
struct Document {
    keys: Vec<Map<String, Value>>,
}

fn client() -> io::Result<HttpClient> {
    let connector = HttpsConnectorBuilder::new()
        .with_provider_and_native_roots(rustls::crypto::aws_lc_rs::default_provider())?
        .https_or_http()
        .enable_http1()
        .build();
    Ok(Client::builder(TokioExecutor::new()).build(connector))
}

/// Redirects aren't followed: the keys come from where the operator said, or not at all.
async fn fetch(client: &HttpClient, url: &Uri) -> Result<Bytes, JwksError> {
    let request = Request::get(url).header(ACCEPT, "application/json").body(Empty::new());
    let answer = client.request(request.expect("a URL that was parsed makes a request")).await?;
    if answer.status() != StatusCode::OK {
        return Err(JwksError::Status(answer.status()));
    }
    match Limited::new(answer.into_body(), MAX_BYTES).collect().await {
        Ok(body) => Ok(body.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(JwksError::TooLarge),
        Err(error) => Err(JwksError::Body(error)),
    }
}

/// Why a place can't be one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("it must be a file, or a URL of http or https without a user or password")]
pub struct SourceError;

impl FromStr for Source {
    type Err = SourceError;

    fn from_str(text: &str) -> Result<Self, SourceError> {
        if !text.contains("://") {
            return Ok(Self::File(text.into()));
        }
        let url: Uri = text.parse().map_err(|_| SourceError)?;
        let is_web = matches!(url.scheme_str(), Some("http" | "https"));
        let is_plain = url.authority().is_some_and(|authority| !authority.as_str().contains('@'));
        if is_web && is_plain { Ok(Self::Url(url)) } else { Err(SourceError) }
    }
}

impl Source {
    /// Whether the keys come over a network, and in plain.
    pub fn can_be_altered(&self) -> bool {
        let Self::Url(url) = self else { return false };
        let host = url.host().unwrap_or_default().trim_matches(['[', ']']);
        let is_here = host.eq_ignore_ascii_case("localhost")
            || host.parse::<IpAddr>().is_ok_and(|address| address.to_canonical().is_loopback());
        url.scheme_str() != Some("https") && !is_here
    }
}

/// Without a URL's query, which may hold a secret.
impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => path.display().fmt(f),
            Self::Url(url) => {
                let (scheme, authority) = (url.scheme_str().unwrap_or_default(), url.authority());
                write!(f, "{scheme}://{}{}", authority.map_or("", |authority| authority.as_str()), url.path())
            }
        }
    }
}

#[cfg(test)]
mod tests;
