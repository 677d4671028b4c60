//! JSON Web Tokens: what an application gives a browser to show here (RFC 7515, 7517, 7519).
//!
//! [`find`] takes the token out of a handshake, [`Verifier`] says whose it is. Keys are the
//! operator's alone: texts and public keys of the settings, and a set ([`Jwks`]) that is read
//! again from time to time. Of a token's header `alg` chooses among the algorithms that are
//! pinned, and `kid` among the keys of that algorithm's own kind; whatever else stands there is
//! not followed, and a header that has `crit` is refused.
//!
//! `jsonwebtoken` takes tokens apart and checks signatures, audience and issuer; times are
//! judged here, by the clock that is given.

mod claims;
mod error;
mod jwks;
mod key;
mod token;
mod verifier;

use std::time::Duration;

pub use error::TokenError;
pub use jsonwebtoken::Algorithm;
pub use jwks::{Jwks, JwksError, Source};
pub use key::{Key, KeyError, KeyKind};
pub use token::{PARAMETERS, find};
pub use verifier::{MAX_TOKEN_BYTES, Verified, Verifier};

/// How tokens are judged.
#[derive(Debug, Clone)]
pub struct JwtConfig {
    /// Tried in order, so that one can take another's place while both are out.
    pub keys: Vec<Key>,
    pub jwks: Option<JwksConfig>,
    /// Nothing else is accepted.
    pub algorithms: Vec<Algorithm>,
    /// A token must be for one of these, where there are any.
    pub audience: Vec<String>,
    /// A token must be from it, where it is set.
    pub issuer: Option<String>,
    /// How far the clocks of servers may be apart.
    pub leeway: Duration,
    /// Whether the operator asks for tokens; else one that is shown is judged, and who shows
    /// none is not refused for that.
    pub asked_for: bool,
}

#[derive(Debug, Clone)]
pub struct JwksConfig {
    pub source: Source,
    /// How often it is read again.
    pub refresh: Duration,
}

#[cfg(test)]
mod signer;
#[cfg(test)]
mod tampering;
#[cfg(test)]
mod tests;
