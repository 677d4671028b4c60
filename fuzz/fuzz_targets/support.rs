use aws_lc_rs::hmac;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use data_encoding::HEXLOWER;

/// Whatever bytes, as if the application had signed them.
pub fn signed(algorithm: hmac::Algorithm, key: &[u8], bytes: &[u8]) -> String {
    let text = STANDARD.encode(bytes);
    let digest = hmac::sign(&hmac::Key::new(algorithm, key), text.as_bytes());
    format!("{text}--{}", HEXLOWER.encode(digest.as_ref()))
}
