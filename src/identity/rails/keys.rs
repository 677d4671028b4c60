//! The keys that Rails derives from `secret_key_base`.

use std::num::NonZeroU32;

use aws_lc_rs::pbkdf2;
use secrecy::{ExposeSecret, SecretSlice, SecretString};
use tablecast_protocol::signed::{Digest, Verifier};

use super::EncryptedKey;

/// The digest of the derivation, `config.active_support.key_generator_hash_digest_class`. It has
/// nothing to do with the digest that is signed with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kdf {
    /// With `load_defaults` below 7.0.
    Sha1,
    /// From 7.0 on.
    Sha256,
}

/// Bytes of a key, wiped when dropped and never shown.
pub type Key = SecretSlice<u8>;

/// `secret_key_base` is its text, whatever digits it is of.
pub type SecretKeyBase = SecretString;

/// The length of keys that sign.
pub const SIGNING_KEY_BYTES: usize = 64;
/// The length of AES-256's keys.
pub const CIPHER_KEY_BYTES: usize = 32;

const SIGNED_COOKIE: &str = "signed cookie";
const ENCRYPTED_COOKIE: &str = "authenticated encrypted cookie";
const CBC_COOKIE: &str = "encrypted cookie";
const CBC_COOKIE_MAC: &str = "signed encrypted cookie";
const TURBO_STREAMS: &str = "turbo/signed_stream_verifier_key";

/// What Rails gives cookies' and Turbo's keys; `KeyGenerator` alone would take more.
const ITERATIONS: NonZeroU32 = NonZeroU32::new(1000).expect("it is not zero");

impl Kdf {
    pub fn signed_cookie(self, secret: &SecretKeyBase, digest: Digest) -> Verifier {
        Verifier::new(self.derive(secret, SIGNED_COOKIE, SIGNING_KEY_BYTES).expose_secret(), digest)
    }

    pub fn encrypted_cookie(self, secret: &SecretKeyBase) -> EncryptedKey {
        EncryptedKey::gcm(self.derive(secret, ENCRYPTED_COOKIE, CIPHER_KEY_BYTES).expose_secret())
            .expect("it is as long as the cipher asks")
    }

    /// What Rails encrypted with before 5.2, and still reads.
    pub fn cbc_cookie(self, secret: &SecretKeyBase) -> EncryptedKey {
        let key = self.derive(secret, CBC_COOKIE, CIPHER_KEY_BYTES);
        let mac = self.derive(secret, CBC_COOKIE_MAC, SIGNING_KEY_BYTES);
        EncryptedKey::cbc(key.expose_secret(), Verifier::new(mac.expose_secret(), Digest::Sha1))
            .expect("it is as long as the cipher asks")
    }

    /// What Turbo's names of streams are signed with.
    pub fn turbo_streams(self, secret: &SecretKeyBase) -> Verifier {
        Verifier::new(self.derive(secret, TURBO_STREAMS, SIGNING_KEY_BYTES).expose_secret(), Digest::Sha256)
    }

    pub(super) fn derive(self, secret: &SecretKeyBase, salt: &str, bytes: usize) -> Key {
        let algorithm = match self {
            Self::Sha1 => pbkdf2::PBKDF2_HMAC_SHA1,
            Self::Sha256 => pbkdf2::PBKDF2_HMAC_SHA256,
        };
        let mut key = vec![0; bytes];
        let secret = secret.expose_secret().as_bytes();
        pbkdf2::derive(algorithm, ITERATIONS, salt.as_bytes(), secret, &mut key);
        key.into()
    }
}
