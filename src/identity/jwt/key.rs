use std::fmt;

use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ED25519, ParsedPublicKey, RSA_PKCS1_2048_8192_SHA256, VerificationAlgorithm,
};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk};
use jsonwebtoken::{Algorithm, DecodingKey, DecodingKeyKind};
use rustls::pki_types::SubjectPublicKeyInfoDer;
use rustls::pki_types::pem::PemObject;
use serde_json::{Map, Value};

/// What a token may have been signed with, on the side of who judges it.
#[derive(Clone)]
pub struct Key {
    /// By which a token may name it; a key of the settings has none and fits every name.
    id: Option<String>,
    kind: KeyKind,
    pub(super) decoding: DecodingKey,
}

/// What a key is, which says what it can be used with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyKind {
    /// A text that both sides know.
    Text,
    Rsa,
    P256,
    Ed25519,
}

impl KeyKind {
    /// The algorithms that a key of this kind is used with, the one by default first.
    pub fn algorithms(self) -> &'static [Algorithm] {
        match self {
            Self::Text => &[Algorithm::HS256, Algorithm::HS384, Algorithm::HS512],
            Self::Rsa => &[Algorithm::RS256],
            Self::P256 => &[Algorithm::ES256],
            Self::Ed25519 => &[Algorithm::EdDSA],
        }
    }

    pub const ALL: [Self; 4] = [Self::Text, Self::Rsa, Self::P256, Self::Ed25519];

    /// Whether who judges needs only what can be given away.
    pub fn is_public(self) -> bool {
        self != Self::Text
    }

    fn verification(self) -> Option<&'static dyn VerificationAlgorithm> {
        match self {
            Self::Text => None,
            Self::Rsa => Some(&RSA_PKCS1_2048_8192_SHA256),
            Self::P256 => Some(&ECDSA_P256_SHA256_FIXED),
            Self::Ed25519 => Some(&ED25519),
        }
    }

    /// Whether these bytes are a public key of this kind.
    fn takes(self, bytes: &[u8]) -> bool {
        self.verification().is_some_and(|algorithm| ParsedPublicKey::new(algorithm, bytes).is_ok())
    }
}

/// Why a key of the settings is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    #[error("it is empty")]
    Empty,
    #[error(
        "it looks like a public key, or a part of one, without its lines of PEM: as a text everybody could sign with it"
    )]
    Bare,
    #[error("it is a private key, which has no business here: give its public one (openssl pkey -pubout)")]
    Private,
    #[error("it is PEM and no public key (-----BEGIN PUBLIC KEY-----)")]
    NotPublic,
    #[error("it is neither an RSA key of 2048 bits or more, nor one of P-256, nor of Ed25519")]
    Unsupported,
}

const PEM: &str = "-----BEGIN";

/// What only who signs should have: of RSA, of curves, and of texts.
const PRIVATE_MEMBERS: [&str; 8] = ["d", "p", "q", "dp", "dq", "qi", "oth", "k"];

/// In bytes, as the algorithm takes them.
const RSA_MODULUS: std::ops::RangeInclusive<usize> = 256..=1024;

impl Key {
    /// A PEM is a public key, and never a text, so that nobody signs with what is known to all;
    /// everything else is a text.
    pub fn parse(text: &str) -> Result<Self, KeyError> {
        if text.is_empty() {
            return Err(KeyError::Empty);
        }
        let text = text.trim_start_matches('\u{feff}');
        if !text.trim_start().starts_with(PEM) {
            if is_public(text) {
                return Err(KeyError::Bare);
            }
            let decoding = DecodingKey::from_secret(text.as_bytes());
            return Ok(Self { id: None, kind: KeyKind::Text, decoding });
        }
        if text.contains("PRIVATE KEY-----") {
            return Err(KeyError::Private);
        }
        let der =
            SubjectPublicKeyInfoDer::from_pem_slice(text.as_bytes()).map_err(|_| KeyError::NotPublic)?;
        let kind = KeyKind::ALL.into_iter().find(|kind| kind.takes(&der)).ok_or(KeyError::Unsupported)?;
        let decoding = match kind {
            KeyKind::Rsa => DecodingKey::from_rsa_der(&der),
            KeyKind::P256 => DecodingKey::from_ec_der(&der),
            KeyKind::Ed25519 => DecodingKey::from_ed_der(&der),
            KeyKind::Text => unreachable!("a text is not public"),
        };
        Ok(Self { id: None, kind, decoding })
    }

    /// A member of a JWKS; none where it isn't a public key that tokens can be judged with.
    pub(super) fn from_jwk(members: Map<String, Value>) -> Option<Self> {
        if PRIVATE_MEMBERS.iter().any(|name| members.contains_key(*name)) || !is_for_signatures(&members) {
            return None;
        }
        let jwk: Jwk = serde_json::from_value(Value::Object(members)).ok()?;
        let kind = match &jwk.algorithm {
            AlgorithmParameters::RSA(_) => KeyKind::Rsa,
            AlgorithmParameters::EllipticCurve(key) if key.curve == EllipticCurve::P256 => KeyKind::P256,
            AlgorithmParameters::OctetKeyPair(key) if key.curve == EllipticCurve::Ed25519 => KeyKind::Ed25519,
            _ => return None,
        };
        let fits = |named| kind.algorithms().iter().any(|algorithm| named == (*algorithm).into());
        if !jwk.common.key_algorithm.is_none_or(fits) {
            return None;
        }
        let decoding = DecodingKey::from_jwk(&jwk).ok()?;
        let is_sound = match decoding.kind() {
            DecodingKeyKind::RsaModulusExponent { n, .. } => RSA_MODULUS.contains(&n.len()),
            DecodingKeyKind::SecretOrDer(bytes) => kind.takes(bytes),
        };
        is_sound.then_some(Self { id: jwk.common.key_id, kind, decoding })
    }

    pub fn kind(&self) -> KeyKind {
        self.kind
    }

    pub fn id(&self) -> Option<&str> {
        self.id.as_deref()
    }

    /// Whether a token of this header may have been signed with it.
    pub(super) fn fits(&self, algorithm: Algorithm, id: Option<&str>) -> bool {
        let is_meant = self.id().is_none_or(|own| id.is_none_or(|id| id == own));
        is_meant && self.kind.algorithms().contains(&algorithm)
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Key").field("id", &self.id).field("kind", &self.kind).finish_non_exhaustive()
    }
}

/// Whether a text is, or is a part of, what everybody may know: an HMAC by it would prove nothing.
fn is_public(text: &str) -> bool {
    let text = text.trim();
    let begins =
        ["{", "}", "[", "]", "\"", "ssh-", "ecdsa-", "Modulus", "Public-Key", "RSA Public-Key", "Exponent"];
    let compact: String = text.split_ascii_whitespace().collect();
    let is_key = STANDARD.decode(&compact).is_ok_and(|der| KeyKind::ALL.iter().any(|kind| kind.takes(&der)));
    is_key || text.contains("-----") || begins.iter().any(|begin| text.starts_with(begin))
}

fn is_for_signatures(members: &Map<String, Value>) -> bool {
    let verifies = |operations: &Value| {
        operations.as_array().is_some_and(|operations| operations.iter().any(|name| name == "verify"))
    };
    members.get("use").is_none_or(|usage| usage == "sig") && members.get("key_ops").is_none_or(verifies)
}
