use std::sync::Arc;
use std::time::{Duration, SystemTime};

use jsonwebtoken::errors::{Error, ErrorKind};
use jsonwebtoken::{Algorithm, AlgorithmFamily, Validation, decode, decode_header};
use serde_json::{Map, Value};

use super::claims::Claims;
use super::{Jwks, JwtConfig, Key, TokenError};

/// Judges tokens.
pub struct Verifier {
    keys: Vec<Key>,
    jwks: Option<Jwks>,
    /// One for each algorithm that is accepted.
    rules: Vec<Validation>,
    leeway: Duration,
}

/// What a good token says.
#[derive(Debug, Clone, PartialEq)]
pub struct Verified {
    /// The members of AnyCable's `ext`, else all claims of the token.
    pub claims: Map<String, Value>,
    /// By which the connection can be disconnected from afar: the text of `ext` to the byte (of an
    /// `ext` that is an object its JSON, names sorted, without spaces), else `sub`, else `id`, a text or a whole number.
    pub name: Option<String>,
    /// From when on the token isn't accepted any more, leeway included.
    pub expires: Option<SystemTime>,
}

/// The longest token that is looked at.
pub const MAX_TOKEN_BYTES: usize = 8 << 10;

impl Verifier {
    pub fn new(config: JwtConfig) -> Self {
        let rules = config.algorithms.iter().map(|algorithm| rules(*algorithm, &config)).collect();
        Self { keys: config.keys, jwks: config.jwks.map(Jwks::new), rules, leeway: config.leeway }
    }

    /// Keeps the JWKS up to date, for ever; without it a token that needs one is `KeysAway`.
    pub async fn follow(self: Arc<Self>) {
        match &self.jwks {
            Some(jwks) => jwks.follow().await,
            None => std::future::pending().await,
        }
    }

    /// Judges a token by the keys at hand.
    pub fn verify(&self, token: &str, now: SystemTime) -> Result<Verified, TokenError> {
        if token.len() > MAX_TOKEN_BYTES {
            return Err(TokenError::TooLong);
        }
        let header = decode_header(token).map_err(|_| TokenError::Malformed)?;
        if header.crit.is_some() {
            return Err(TokenError::Critical);
        }
        let rules = self.rules.iter().find(|rules| rules.algorithms == [header.alg]);
        let rules = rules.ok_or(TokenError::Algorithm)?;
        let fits = |key: &&Key| key.fits(header.alg, header.kid.as_deref());
        let jwks = self.jwks.as_ref().filter(|_| header.alg.family() != AlgorithmFamily::Hmac);
        let (fetched, failure) = match jwks.map(Jwks::keys) {
            None => (None, TokenError::Signature),
            Some(None) => (None, TokenError::KeysAway),
            // It may be meant for a key that came since.
            Some(Some(keys)) if header.kid.is_none() => (Some(keys), TokenError::UnknownKey),
            Some(Some(keys)) if keys.iter().any(|key| fits(&key)) => (Some(keys), TokenError::Signature),
            Some(Some(_)) => (None, TokenError::UnknownKey),
        };
        for key in self.keys.iter().chain(fetched.iter().flat_map(|keys| keys.iter())).filter(fits) {
            match decode::<Claims>(token, &key.decoding, rules) {
                Ok(token) => return token.claims.judge(now, self.leeway),
                Err(error) if *error.kind() == ErrorKind::InvalidSignature => {}
                Err(error) => return Err(reason(&error)),
            }
        }
        Err(failure)
    }

    /// As [`verify`](Self::verify), and where the token's key isn't at hand the JWKS is looked at
    /// again first, for which it waits some seconds at most.
    ///
    /// `UnknownKey` is then what the set itself says; where it can't be asked now, or was just asked
    /// for another such token, the answer is `KeysAway`.
    pub async fn verify_with_fresh_keys(&self, token: &str, now: SystemTime) -> Result<Verified, TokenError> {
        match (self.verify(token, now), &self.jwks) {
            (Err(TokenError::UnknownKey | TokenError::KeysAway), Some(jwks)) => {
                if jwks.look_again().await {
                    self.verify(token, now)
                } else {
                    Err(TokenError::KeysAway)
                }
            }
            (judged, _) => judged,
        }
    }
}

/// Times are left to [`Claims::judge`].
fn rules(algorithm: Algorithm, config: &JwtConfig) -> Validation {
    let mut rules = Validation::new(algorithm);
    rules.required_spec_claims.clear();
    rules.validate_exp = false;
    rules.validate_nbf = false;
    rules.validate_aud = !config.audience.is_empty();
    if rules.validate_aud {
        rules.set_audience(&config.audience);
        rules.required_spec_claims.insert("aud".to_owned());
    }
    if let Some(issuer) = &config.issuer {
        rules.set_issuer(&[issuer]);
        rules.required_spec_claims.insert("iss".to_owned());
    }
    rules
}

fn reason(error: &Error) -> TokenError {
    match error.kind() {
        ErrorKind::InvalidAudience => TokenError::Audience,
        ErrorKind::InvalidIssuer => TokenError::Issuer,
        ErrorKind::MissingRequiredClaim(name) if name == "aud" => TokenError::Audience,
        ErrorKind::MissingRequiredClaim(_) => TokenError::Issuer,
        _ => TokenError::Malformed,
    }
}
