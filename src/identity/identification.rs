//! How a server finds out who connects.

use std::sync::Arc;
use std::time::SystemTime;

use axum::http::HeaderMap;
use serde_json::{Map, Value};
use tablecast_protocol::Identifier;

use super::jwt::{self, JwtConfig, TokenError, Verified};
use super::lookup::{Key, Lookup, LookupConfig, OpenSession};
use super::{Identity, Unidentified, Who, rails};
use crate::channels::{Asked, GlobalIdApp, Template};
use crate::telemetry::metrics;

/// What is asked of those who connect.
#[derive(Debug, Default)]
pub struct IdentificationConfig {
    /// None where there is no key to judge a token by.
    pub jwt: Option<JwtConfig>,
    pub cookie: Option<rails::Cookie>,
    /// What the cookie's id stands for.
    pub lookup: Option<LookupConfig>,
    /// Who shows nothing is let in, though a token or a cookie is asked for.
    pub allow_anonymous: bool,
    /// A connection's name, made from its claims; none: what the token says, or the user's id.
    pub name: Option<Template>,
    pub global_id_app: Option<GlobalIdApp>,
}

/// By a token, else by a cookie; who shows neither is let in where neither is asked for, or
/// the operator says so.
#[derive(Default)]
pub struct Identification {
    tokens: Option<Arc<jwt::Verifier>>,
    cookie: Option<rails::Cookie>,
    lookup: Option<Lookup>,
    admits_anonymous: bool,
    name: Option<Template>,
    global_id_app: Option<GlobalIdApp>,
}

/// The claim that a cookie's id is, and of a row the first column, whatever its name.
const ID: &str = "id";

impl IdentificationConfig {
    /// Whether something says who is connected, asked for or not.
    pub fn can_identify(&self) -> bool {
        self.jwt.is_some() || self.cookie.is_some()
    }

    fn asks(&self) -> bool {
        self.jwt.as_ref().is_some_and(|jwt| jwt.asked_for) || self.cookie.is_some()
    }
}

impl Identification {
    /// To be called within a runtime. Databases and key sets may be away; they are needed later.
    pub fn new(config: IdentificationConfig) -> Self {
        Self {
            admits_anonymous: config.allow_anonymous || !config.asks(),
            tokens: config.jwt.map(|jwt| Arc::new(jwt::Verifier::new(jwt))),
            cookie: config.cookie,
            lookup: config.lookup.as_ref().map(Lookup::new),
            name: config.name,
            global_id_app: config.global_id_app,
        }
    }

    pub fn tokens(&self) -> Option<Arc<jwt::Verifier>> {
        self.tokens.clone()
    }

    pub fn lookup(&self) -> Option<Lookup> {
        self.lookup.clone()
    }

    /// Who sends this handshake. It may wait for a database or for keys, some seconds at most.
    ///
    /// A token that is shown must be good. A cookie that can't be read is as good as none: browsers
    /// bring what they have, and to Rails it is nil.
    pub async fn identify(&self, query: Option<&str>, headers: &HeaderMap) -> Result<Who, Unidentified> {
        let now = SystemTime::now();
        if let Some(tokens) = &self.tokens
            && let Some(token) = jwt::find(query, headers)
        {
            let verified = tokens.verify_with_fresh_keys(&token, now).await.map_err(refused)?;
            return self.bearer(verified).map(Some);
        }
        if let Some(cookie) = &self.cookie {
            match cookie.read(headers, now) {
                Ok(Some(opened)) => {
                    if let Some(holder) = self.holder(opened).await? {
                        return Ok(Some(holder));
                    }
                }
                Ok(None) => {}
                Err(error) => {
                    metrics().cookie_unreadable(error.label());
                    tracing::debug!(%error, "a cookie can't be read");
                }
            }
        }
        if self.admits_anonymous {
            return Ok(None);
        }
        metrics().refused("unidentified");
        Err(Unidentified::Missing)
    }

    fn bearer(&self, Verified { claims, name, expires }: Verified) -> Result<Arc<Identity>, Unidentified> {
        self.named(Identity { claims, name: name.map(Arc::from), expires, session: None })
    }

    /// Whose cookie it is, for as long as it is good; nobody's, if its session is over.
    async fn holder(
        &self,
        rails::Opened { value: id, expires }: rails::Opened,
    ) -> Result<Option<Arc<Identity>>, Unidentified> {
        let Some(lookup) = &self.lookup else {
            let claims = Map::from_iter([(ID.to_owned(), id.clone())]);
            return self.named(Identity { claims, name: text(&id), expires, session: None }).map(Some);
        };
        let Some(key) = Key::new(&id) else { return Ok(None) };
        let row = lookup.ask(&key).await.map_err(|error| {
            metrics().refused("session_lookup");
            tracing::debug!(%error, "a session can't be looked up");
            Unidentified::Unavailable
        })?;
        row.map(|row| {
            let mut claims = row.claims.clone();
            claims.entry(ID).or_insert_with(|| row.user.clone());
            let name = text(&row.user);
            self.named(Identity { claims, name, expires, session: Some(OpenSession { key, row }) })
        })
        .transpose()
    }

    /// By the operator's template, where there is one: without its claims there is no name, and who
    /// has none can neither be ended nor counted.
    fn named(&self, mut identity: Identity) -> Result<Arc<Identity>, Unidentified> {
        if let Some(template) = &self.name {
            let nothing = Identifier::parse("{}").expect("it is an object");
            let asked = Asked { identifier: &nothing, who: Some(&identity) };
            let name = template.fill(&asked, self.global_id_app.as_ref()).map_err(|missing| {
                metrics().refused("connection_name");
                tracing::debug!(%missing, "an identity lacks what --connection-name is made of");
                Unidentified::Missing
            })?;
            identity.name = Some(name.into());
        }
        Ok(Arc::new(identity))
    }
}

fn text(id: &Value) -> Option<Arc<str>> {
    match id {
        Value::String(text) => Some(text.as_str().into()),
        Value::Number(number) => Some(number.to_string().into()),
        _ => None,
    }
}

fn refused(error: TokenError) -> Unidentified {
    metrics().refused(error.reason());
    tracing::debug!(%error, "a token was refused");
    match error {
        TokenError::Expired => Unidentified::Expired,
        error if error.is_retryable() => Unidentified::Unavailable,
        _ => Unidentified::Missing,
    }
}
