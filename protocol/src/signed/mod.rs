//! What Rails' `ActiveSupport::MessageVerifier` signs: stream names of Turbo and AnyCable, and
//! the values of signed cookies.
//!
//! A token is `TEXT--DIGEST`: TEXT the base64 of what is signed, DIGEST the HMAC over that text
//! in lowercase hexadecimal digits. Nothing of TEXT is looked at before the digest is known to
//! be right. What is signed is a JSON document, bare or in an [`Envelope`] that binds it to a
//! time or a purpose.

mod envelope;

use std::time::SystemTime;

use aws_lc_rs::{constant_time, hmac};
use base64::Engine;
use base64::alphabet::{STANDARD, URL_SAFE};
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use data_encoding::HEXLOWER;
use serde_json::Value;

pub use envelope::Envelope;

/// Signs and verifies under one key.
#[derive(Debug, Clone)]
pub struct Verifier(hmac::Key);

/// The digest of an HMAC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Digest {
    /// What cookies are signed with in every version of Rails, unless the application says else.
    Sha1,
    /// What stream names are signed with.
    Sha256,
    Sha512,
}

/// Why a token isn't believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SignedError {
    #[error("it isn't signed: it doesn't end in -- and a digest of the length that the key makes")]
    Unsigned,
    #[error("it was signed with another key, or changed since")]
    WrongKey,
    #[error("it has expired")]
    Expired,
    #[error("its exp is not a time as ISO 8601 writes it")]
    Expiry,
    #[error("it was signed for another purpose")]
    Purpose,
    #[error("what was signed is not base64")]
    Base64,
    #[error("the envelope of what was signed is not Rails'")]
    Envelope,
    #[error(
        "what was signed is Ruby's Marshal, which is never read: let the application write JSON (cookies_serializer = :json)"
    )]
    Marshal,
    #[error(
        "what was signed is MessagePack, which is not read: let the application write JSON (cookies_serializer = :json)"
    )]
    MessagePack,
    #[error("what was signed is not JSON")]
    Json,
    #[error("null was signed, which is as good as nothing")]
    Null,
    #[error("what was signed is not the name of a stream, a JSON string")]
    Name,
}

impl Verifier {
    pub fn new(key: &[u8], digest: Digest) -> Self {
        let algorithm = match digest {
            Digest::Sha1 => hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY,
            Digest::Sha256 => hmac::HMAC_SHA256,
            Digest::Sha512 => hmac::HMAC_SHA512,
        };
        Self(hmac::Key::new(algorithm, key))
    }

    /// The bytes that `token` signs, whatever they mean. TEXT may be in either alphabet of
    /// base64, padded or not, as Rails has read both since 7.2.3.
    pub fn open(&self, token: &str) -> Result<Vec<u8>, SignedError> {
        let digest_len = 2 * self.0.algorithm().digest_algorithm().output_len();
        let (text, digest) = token
            .len()
            .checked_sub(digest_len)
            .and_then(|at| token.as_bytes().split_at_checked(at))
            .ok_or(SignedError::Unsigned)?;
        let text = text.strip_suffix(SEPARATOR.as_bytes()).ok_or(SignedError::Unsigned)?;
        if text.is_empty() {
            return Err(SignedError::Unsigned);
        }
        let expected = HEXLOWER.encode(hmac::sign(&self.0, text).as_ref());
        constant_time::verify_slices_are_equal(expected.as_bytes(), digest)
            .map_err(|_| SignedError::WrongKey)?;
        decode(text)
    }

    /// The JSON value that `token` signs for `purpose` and that is still good at `now`.
    ///
    /// Without a purpose a token that is bound to one is refused, and with one a token that is
    /// bound to none.
    pub fn verify(&self, token: &str, purpose: Option<&str>, now: SystemTime) -> Result<Value, SignedError> {
        let signed = self.open(token)?;
        let envelope = match Envelope::open(&signed, now) {
            Some(opened) => opened?,
            None => Envelope::open_any(&signed, now)?,
        };
        if envelope.purpose.as_deref() != purpose {
            return Err(SignedError::Purpose);
        }
        match envelope.value()? {
            Value::Null => Err(SignedError::Null),
            value => Ok(value),
        }
    }

    /// A token that signs a stream's name, until it expires if it does. Times beyond the year
    /// 9999 are as its end.
    pub fn sign(&self, name: &str, expires: Option<SystemTime>) -> String {
        let json = Value::from(name).to_string();
        let signed = match expires {
            Some(expires) => envelope::write(&json, expires),
            None => json,
        };
        let text = base64::engine::general_purpose::STANDARD.encode(signed);
        let digest = HEXLOWER.encode(hmac::sign(&self.0, text.as_bytes()).as_ref());
        format!("{text}{SEPARATOR}{digest}")
    }
}

/// The keys under which names of streams are good, the first for signing too.
#[derive(Debug, Clone, Default)]
pub struct StreamKeys(Vec<Verifier>);

impl StreamKeys {
    pub fn new(keys: Vec<Verifier>) -> Self {
        Self(keys)
    }

    /// No name is good.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The name of the stream that `token` signs. The first key that fits decides.
    pub fn verify(&self, token: &str, now: SystemTime) -> Result<String, SignedError> {
        let mut refusal = SignedError::WrongKey;
        for key in &self.0 {
            match key.verify(token, None, now) {
                Err(error @ (SignedError::WrongKey | SignedError::Unsigned)) => refusal = error,
                Ok(Value::String(name)) => return Ok(name),
                Ok(_) => return Err(SignedError::Name),
                Err(error) => return Err(error),
            }
        }
        Err(refusal)
    }

    /// A token for `name`; none where there is no key.
    pub fn sign(&self, name: &str, expires: Option<SystemTime>) -> Option<String> {
        Some(self.0.first()?.sign(name, expires))
    }
}

const SEPARATOR: &str = "--";

const ANY_PADDING: GeneralPurposeConfig =
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
const STANDARD_ANY_PADDING: GeneralPurpose = GeneralPurpose::new(&STANDARD, ANY_PADDING);
const URL_SAFE_ANY_PADDING: GeneralPurpose = GeneralPurpose::new(&URL_SAFE, ANY_PADDING);

/// Base64 in one of the alphabets, not in a mixture of them.
fn decode(text: &[u8]) -> Result<Vec<u8>, SignedError> {
    let standard = STANDARD_ANY_PADDING.decode(text);
    standard.or_else(|_| URL_SAFE_ANY_PADDING.decode(text)).map_err(|_| SignedError::Base64)
}
