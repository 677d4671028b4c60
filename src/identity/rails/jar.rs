use std::time::SystemTime;

use aws_lc_rs::aead::{AES_128_GCM, AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::cipher::{AES_256, DecryptionContext, PaddedBlockDecryptingKey, UnboundCipherKey};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use tablecast_protocol::signed::{Envelope, SignedError, Verifier};

use super::{CookieError, Opened};

/// What keeps visitors from writing the cookie themselves: `cookies.signed` or
/// `cookies.encrypted`, with the keys that may have done it, in the order in which they are
/// tried.
#[derive(Debug)]
pub enum Jar {
    Signed(Vec<Verifier>),
    /// The session too.
    Encrypted(Vec<EncryptedKey>),
}

impl Jar {
    /// What the jar keeps, however it is to be understood. The first key that fits decides.
    pub(super) fn open(&self, text: &str) -> Result<Vec<u8>, CookieError> {
        match self {
            Self::Signed(keys) => first_fit(keys, |key| key.open(text).map_err(CookieError::from)),
            Self::Encrypted(keys) => first_fit(keys, |key| key.open(text)),
        }
    }
}

/// Where no key fits, what the first one said.
fn first_fit<K>(
    keys: &[K],
    open: impl Fn(&K) -> Result<Vec<u8>, CookieError>,
) -> Result<Vec<u8>, CookieError> {
    let mut refusal = None;
    for key in keys {
        match open(key) {
            Err(error) if !error.is_authentic() => refusal = refusal.or(Some(error)),
            opened => return opened,
        }
    }
    Err(refusal.unwrap_or(SignedError::WrongKey.into()))
}

/// Opens values of `cookies.encrypted`.
#[derive(Debug)]
pub enum EncryptedKey {
    Gcm(LessSafeKey),
    /// As Rails did before 5.2: encrypted without a check of its own, and signed.
    Cbc(Box<CbcKey>),
}

#[derive(Debug)]
pub struct CbcKey {
    cipher: PaddedBlockDecryptingKey,
    signature: Verifier,
}

const GCM_TAG_BYTES: usize = 16;
const CBC_IV_BYTES: usize = 16;
const SEPARATOR: &str = "--";

impl EncryptedKey {
    /// AES-256-GCM, or AES-128-GCM for a key of 16 bytes; none for one of another length.
    pub fn gcm(key: &[u8]) -> Option<Self> {
        let algorithm = [&AES_256_GCM, &AES_128_GCM].into_iter().find(|it| it.key_len() == key.len())?;
        Some(Self::Gcm(LessSafeKey::new(UnboundKey::new(algorithm, key).ok()?)))
    }

    /// AES-256-CBC; none for a key that isn't 32 bytes.
    pub fn cbc(key: &[u8], signature: Verifier) -> Option<Self> {
        let key = UnboundCipherKey::new(&AES_256, key).ok()?;
        let cipher = PaddedBlockDecryptingKey::cbc_pkcs7(key).ok()?;
        Some(Self::Cbc(Box::new(CbcKey { cipher, signature })))
    }

    fn open(&self, text: &str) -> Result<Vec<u8>, CookieError> {
        match self {
            Self::Gcm(key) => {
                let [ciphertext, iv, tag] = parts(text).ok_or(CookieError::Unencrypted)?;
                // Shorter tags would be easier to guess, and some libraries let them pass.
                if ciphertext.is_empty() || iv.len() != NONCE_LEN || tag.len() != GCM_TAG_BYTES {
                    return Err(CookieError::Unencrypted);
                }
                let nonce = Nonce::try_assume_unique_for_key(&iv).map_err(|_| CookieError::Unencrypted)?;
                let mut plain = vec![0; ciphertext.len()];
                key.open_separate_gather(nonce, Aad::empty(), &ciphertext, &tag, &mut plain)
                    .map_err(|_| CookieError::Undecryptable)?;
                Ok(plain)
            }
            Self::Cbc(key) => {
                let signed = key.signature.open(text)?;
                let signed = std::str::from_utf8(&signed).map_err(|_| CookieError::Unencrypted)?;
                let [mut ciphertext, iv] = parts(signed).ok_or(CookieError::Unencrypted)?;
                let iv: [u8; CBC_IV_BYTES] = iv.try_into().map_err(|_| CookieError::Unencrypted)?;
                let plain = key.cipher.decrypt(&mut ciphertext, DecryptionContext::Iv128((&iv).into()));
                plain.map(|plain| plain.to_vec()).map_err(|_| CookieError::Undecryptable)
            }
        }
    }
}

/// Exactly so many, in base64 of the one spelling that Rails writes.
fn parts<const N: usize>(text: &str) -> Option<[Vec<u8>; N]> {
    let parts: Option<Vec<_>> = text.split(SEPARATOR).map(|part| STANDARD.decode(part).ok()).collect();
    parts?.try_into().ok()
}

/// What a value must say of the cookie it was written for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Binding {
    /// Its name, as applications with `load_defaults` from 6.0 on write it.
    Name,
    /// Its name or nothing.
    NameOrNone,
}

impl Binding {
    pub(super) fn value(self, plain: &[u8], name: &str, now: SystemTime) -> Result<Opened, CookieError> {
        let bare = || Envelope { message: plain.to_vec(), purpose: None, expires: None };
        let envelope = Envelope::open(plain, now).unwrap_or_else(|| Ok(bare()))?;
        match &envelope.purpose {
            Some(purpose) if purpose.strip_prefix("cookie.") == Some(name) => {}
            Some(_) => return Err(CookieError::OtherName),
            None if self == Self::NameOrNone => {}
            None => return Err(CookieError::Unbound),
        }
        Ok(Opened { value: envelope.value()?, expires: envelope.expires })
    }
}
