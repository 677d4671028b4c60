//! Whatever stands for a signed name: no panic, and nothing is good that its key didn't sign.
//! What was signed is read as it was, and whatever else an application signs can be told from
//! a name.

#![no_main]

mod support;

use std::time::SystemTime;

use aws_lc_rs::hmac::HMAC_SHA256;
use libfuzzer_sys::fuzz_target;
use tablecast_protocol::signed::{Digest, StreamKeys, Verifier};

const KEY: &[u8] = b"a key of the fuzzer's";

fuzz_target!(|data: &[u8]| {
    let key = Verifier::new(KEY, Digest::Sha256);
    let keys = StreamKeys::new(vec![key.clone()]);
    let now = SystemTime::UNIX_EPOCH;

    if let Ok(text) = std::str::from_utf8(data) {
        assert!(keys.verify(text, now).is_err());
        assert_eq!(keys.verify(&key.sign(text, None), now).as_deref(), Ok(text));
    }
    let token = support::signed(HMAC_SHA256, KEY, data);
    assert!(data.is_empty() || key.open(&token).as_deref() == Ok(data));
    let _ = keys.verify(&token, now);
    let _ = key.verify(&token, Some("purpose"), now);
});
