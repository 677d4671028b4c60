//! Makes tokens, good and bad: byte by byte, so that nothing vouches for itself.

use std::sync::LazyLock;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair, RSA_PKCS1_SHA256, RsaKeyPair,
};
use aws_lc_rs::{hmac, signature};
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD as BASE64;
use rcgen::{PKCS_ECDSA_P256_SHA256, PKCS_ED25519, PKCS_RSA_SHA256};
use serde_json::{Value, json};

use super::Key;

/// One side of a key: what its owner has.
pub struct Signer {
    /// As a token's header names it.
    pub algorithm: &'static str,
    /// What a server is given: the text, or the public key in PEM.
    pub key: String,
    secret: Secret,
}

enum Secret {
    Text(hmac::Algorithm),
    Rsa(RsaKeyPair),
    P256(EcdsaKeyPair),
    Ed25519(Ed25519KeyPair),
}

impl Signer {
    pub fn text(algorithm: &'static str, text: &str) -> Self {
        let hash = match algorithm {
            "HS256" => hmac::HMAC_SHA256,
            "HS384" => hmac::HMAC_SHA384,
            _ => hmac::HMAC_SHA512,
        };
        Self { algorithm, key: text.to_owned(), secret: Secret::Text(hash) }
    }

    pub fn rsa() -> Self {
        let pair = rcgen::KeyPair::generate_for(&PKCS_RSA_SHA256).unwrap();
        let secret = Secret::Rsa(RsaKeyPair::from_pkcs8(&pair.serialize_der()).unwrap());
        Self { algorithm: "RS256", key: pair.public_key_pem(), secret }
    }

    pub fn p256() -> Self {
        let pair = rcgen::KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
        let own = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &pair.serialize_der());
        Self { algorithm: "ES256", key: pair.public_key_pem(), secret: Secret::P256(own.unwrap()) }
    }

    pub fn ed25519() -> Self {
        let pair = rcgen::KeyPair::generate_for(&PKCS_ED25519).unwrap();
        let secret = Secret::Ed25519(Ed25519KeyPair::from_pkcs8(&pair.serialize_der()).unwrap());
        Self { algorithm: "EdDSA", key: pair.public_key_pem(), secret }
    }

    pub fn key(&self) -> Key {
        Key::parse(&self.key).unwrap()
    }

    /// Its public half, as a JWKS has it.
    pub fn jwk(&self, id: &str) -> Value {
        match &self.secret {
            Secret::Text(_) => json!({ "kty": "oct", "kid": id, "k": BASE64.encode(&self.key) }),
            Secret::Rsa(pair) => {
                let n = pair.public_key().modulus().big_endian_without_leading_zero();
                let e = pair.public_key().exponent().big_endian_without_leading_zero();
                json!({ "kty": "RSA", "kid": id, "n": BASE64.encode(n), "e": BASE64.encode(e) })
            }
            Secret::P256(pair) => {
                let (x, y) = pair.public_key().as_ref()[1..].split_at(32);
                json!({ "kty": "EC", "crv": "P-256", "kid": id, "x": BASE64.encode(x), "y": BASE64.encode(y) })
            }
            Secret::Ed25519(pair) => {
                let x = BASE64.encode(pair.public_key().as_ref());
                json!({ "kty": "OKP", "crv": "Ed25519", "kid": id, "x": x })
            }
        }
    }

    /// A token of these claims, whose header is the algorithm alone.
    pub fn token(&self, claims: &Value) -> String {
        self.sign(&json!({ "alg": self.algorithm }).to_string(), &claims.to_string())
    }

    /// A token that names its key.
    pub fn named(&self, id: &str, claims: &Value) -> String {
        self.sign(&json!({ "alg": self.algorithm, "kid": id }).to_string(), &claims.to_string())
    }

    /// A good signature of these two texts, whatever they are.
    pub fn sign(&self, header: &str, claims: &str) -> String {
        let message = format!("{}.{}", BASE64.encode(header), BASE64.encode(claims));
        let signature = self.signature(message.as_bytes());
        format!("{message}.{}", BASE64.encode(signature))
    }

    fn signature(&self, message: &[u8]) -> Vec<u8> {
        let random = SystemRandom::new();
        match &self.secret {
            Secret::Text(hash) => {
                let key = hmac::Key::new(*hash, self.key.as_bytes());
                hmac::sign(&key, message).as_ref().to_vec()
            }
            Secret::Rsa(pair) => {
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(&RSA_PKCS1_SHA256, &random, message, &mut signature).unwrap();
                signature
            }
            Secret::P256(pair) => bytes(&pair.sign(&random, message).unwrap()),
            Secret::Ed25519(pair) => bytes(&pair.sign(message)),
        }
    }
}

fn bytes(signature: &signature::Signature) -> Vec<u8> {
    signature.as_ref().to_vec()
}

/// One of each kind, the same in all tests: an RSA key takes a while to make.
pub static SIGNERS: LazyLock<[Signer; 4]> = LazyLock::new(|| {
    [
        Signer::text("HS256", "a text of the tests, long enough"),
        Signer::rsa(),
        Signer::p256(),
        Signer::ed25519(),
    ]
});
