//! Whatever is shown as a token: no panic, none is accepted that no key has signed, and of what a
//! key has signed none that is too long or out of its time.

#![no_main]

use std::sync::LazyLock;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use jsonwebtoken::crypto::sign;
use jsonwebtoken::{Algorithm, EncodingKey};
use libfuzzer_sys::fuzz_target;
use tablecast::identity::jwt::{JwtConfig, Key, KeyKind, MAX_TOKEN_BYTES, Verifier};

const SECRET: &str = "the text of the fuzz target";
const NOW: Duration = Duration::from_secs(1_795_500_000);

/// Their private halves are gone.
const PUBLIC_KEYS: [&str; 3] = [
    "-----BEGIN PUBLIC KEY-----
MIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8AMIIBCgKCAQEApWI1EOwhNp3NLZQP1Fsy
Qyvj4CdA1w2w298L2KZOdHqLLCzskkYaLmE9bjmkx+hmsLGwI74pfohdtP2e8v5o
qYVRw57uBx+s6RpSaMV2RtfEhc/6QiefQHs1hfkSXuSAtUmssAT//MI+l9jRh/Dc
yDvG/J5ZD9uIsED3x0PNspqWkMX4ReLRzGcHyuyholHZYIDZ0va09L4O7J82jn7z
i7TzgRuevHt/sEzQ958LO3vK90/dPGIba7MaLJwrZHuiZ1Ch5AzvmbXvmGO7PVp1
784shuivKw4gCmdPRS++5jZ0j8gmvGo1x/s/q04TyelXZPoN4fRBIzlyyWs9iW4v
7QIDAQAB
-----END PUBLIC KEY-----",
    "-----BEGIN PUBLIC KEY-----
MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEw9UOAX5uUa4nwPCIs42HLJi3V9da
l3Q2tnYhN5OVuT6JIxndI+JsiMi/Kg4bsDfBdm6WZN4LalbsPR2ZC6OOjA==
-----END PUBLIC KEY-----",
    "-----BEGIN PUBLIC KEY-----
MCowBQYDK2VwAyEAYER27Z67sYz3mWh5H/vh3rSwRuXGsYiZ04bIzpG1Hhc=
-----END PUBLIC KEY-----",
];

static VERIFIER: LazyLock<Verifier> = LazyLock::new(|| {
    let keys = [SECRET].iter().chain(&PUBLIC_KEYS).map(|key| Key::parse(key).unwrap());
    Verifier::new(JwtConfig {
        keys: keys.collect(),
        jwks: None,
        algorithms: KeyKind::ALL.iter().flat_map(|kind| kind.algorithms()).copied().collect(),
        audience: Vec::new(),
        issuer: None,
        leeway: Duration::ZERO,
        asked_for: true,
    })
});

fuzz_target!(|data: &[u8]| {
    let Some((&how, data)) = data.split_first() else { return };
    let now: SystemTime = UNIX_EPOCH + NOW;
    if how & 1 == 0 {
        if let Ok(token) = str::from_utf8(data) {
            assert!(VERIFIER.verify(token, now).is_err());
        }
        return;
    }
    // Its parts as they are, and signed.
    let mut parts = data.splitn(2, |&byte| byte == 0);
    let [header, claims] = [(); 2].map(|()| BASE64_URL_SAFE_NO_PAD.encode(parts.next().unwrap_or_default()));
    let message = format!("{header}.{claims}");
    let key = EncodingKey::from_secret(SECRET.as_bytes());
    let token = format!("{message}.{}", sign(message.as_bytes(), &key, Algorithm::HS256).unwrap());
    if let Ok(verified) = VERIFIER.verify(&token, now) {
        assert!(token.len() <= MAX_TOKEN_BYTES);
        assert!(verified.expires.is_none_or(|at| at > now));
        assert!(verified.name.is_none_or(|name| name.len() <= MAX_TOKEN_BYTES));
    }
});
