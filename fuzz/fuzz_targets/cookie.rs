//! Whatever a browser sends for a cookie, and whatever an application has signed as one: no
//! panic, no value without a key, and an id is a text or a whole number.

#![no_main]

mod support;

use std::time::SystemTime;

use aws_lc_rs::hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY;
use axum::http::header::COOKIE;
use axum::http::{HeaderMap, HeaderValue};
use libfuzzer_sys::fuzz_target;
use tablecast::identity::rails::{Binding, Cookie, EncryptedKey, Jar, Path};
use tablecast_protocol::signed::{Digest, Verifier};

const KEY: &[u8] = b"a key of the fuzzer's";
const NOW: SystemTime = SystemTime::UNIX_EPOCH;

fuzz_target!(|data: &[u8]| {
    let verifier = || Verifier::new(KEY, Digest::Sha1);
    let encrypted =
        vec![EncryptedKey::gcm(&[7; 32]).unwrap(), EncryptedKey::cbc(&[7; 32], verifier()).unwrap()];
    let signed = support::signed(HMAC_SHA1_FOR_LEGACY_USE_ONLY, KEY, data);
    for jar in [Jar::Signed(vec![verifier()]), Jar::Encrypted(encrypted)] {
        let cookie = Cookie {
            name: "id".to_owned(),
            jar,
            binding: Binding::NameOrNone,
            path: "a.b.0".parse().unwrap(),
        };
        for field in [data.to_vec(), [b"id=", data].concat()] {
            let Ok(field) = HeaderValue::from_bytes(&field) else { continue };
            let headers = HeaderMap::from_iter([(COOKIE, field)]);
            assert!(!matches!(cookie.read(&headers, NOW), Ok(Some(_))));
        }
        let Ok(opened) = cookie.open(&signed, NOW) else { continue };
        assert!(opened.expires.is_none_or(|at| at > NOW));
        for path in [&cookie.path, &Path::default()] {
            if let Ok(Some(id)) = path.id(&opened.value) {
                assert!(id.is_string() || id.is_i64() || id.is_u64());
            }
        }
    }
});
