//! `tests/vectors/rails.json` has what Rails of six versions wrote and answered, and what a
//! strict reader has to say of it.

use std::time::Duration;

use axum::http::header::COOKIE;
use axum::http::{HeaderMap, HeaderValue};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use data_encoding::HEXLOWER;
use proptest::prelude::*;
use proptest::sample::Index;
use secrecy::ExposeSecret;
use serde::Deserialize;
use serde_json::json;
use tablecast_protocol::signed::{Digest, SignedError, StreamKeys, Verifier};

use super::keys::{Kdf, SecretKeyBase};
use super::*;

#[derive(Deserialize)]
struct Vector {
    name: String,
    kind: Kind,
    secret_key_base: String,
    kdf_digest: String,
    #[serde(default)]
    rotations: Option<Vec<Rotation>>,
    #[serde(default)]
    signed_digest: Option<String>,
    #[serde(default)]
    cipher: Option<String>,
    #[serde(default)]
    cookie_name: String,
    #[serde(default)]
    cookie_header: String,
    #[serde(default)]
    salt: Option<String>,
    #[serde(default)]
    length: usize,
    #[serde(default)]
    digest: String,
    #[serde(default)]
    purpose: Option<String>,
    #[serde(default)]
    token: String,
    verdict: Verdict,
    expected: Value,
    /// The switches with which it is to be read all the same, and what it says then.
    #[serde(default)]
    option: Vec<Switch>,
    #[serde(default)]
    expected_with_option: Value,
    /// Both verdicts are safe.
    #[serde(default)]
    either: bool,
}

#[derive(Deserialize, PartialEq)]
#[serde(rename_all = "snake_case")]
enum Kind {
    Key,
    Signed,
    Encrypted,
    Session,
    MessageVerifier,
}

#[derive(Deserialize, PartialEq)]
#[serde(rename_all = "snake_case")]
enum Verdict {
    Ok,
    Reject,
}

#[derive(Deserialize, PartialEq, Clone, Copy)]
#[serde(rename_all = "snake_case")]
enum Switch {
    Unbound,
    Cbc,
}

#[derive(Deserialize)]
struct Rotation {
    kdf: String,
}

/// 2027-01-15T08:00:00Z, when the vectors that haven't expired are still good.
fn then() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000)
}

fn vectors(kinds: &[Kind]) -> Vec<Vector> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/vectors/rails.json");
    let all: Vec<Vector> = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    all.into_iter().filter(|vector| kinds.contains(&vector.kind) && !vector.either).collect()
}

fn kdf(name: &str) -> Kdf {
    match name {
        "SHA1" => Kdf::Sha1,
        "SHA256" => Kdf::Sha256,
        _ => panic!("{name}"),
    }
}

fn digest(name: &str) -> Digest {
    match name {
        "SHA1" => Digest::Sha1,
        "SHA256" => Digest::Sha256,
        "SHA512" => Digest::Sha512,
        _ => panic!("{name}"),
    }
}

impl Vector {
    fn cookie(&self, switches: &[Switch]) -> Cookie {
        let secret = SecretKeyBase::from(self.secret_key_base.as_str());
        let rotated = self.rotations.iter().flatten().map(|rotation| rotation.kdf.as_str());
        let kdfs: Vec<_> = std::iter::once(self.kdf_digest.as_str()).chain(rotated).map(kdf).collect();
        let jar = if self.kind == Kind::Signed {
            let digest = digest(self.signed_digest.as_deref().unwrap());
            Jar::Signed(kdfs.iter().map(|kdf| kdf.signed_cookie(&secret, digest)).collect())
        } else {
            let short = self.cipher.as_deref() == Some("aes-128-gcm");
            let mut keys = Vec::new();
            for kdf in kdfs {
                keys.push(if short {
                    let key = kdf.derive(&secret, "authenticated encrypted cookie", 16);
                    EncryptedKey::gcm(key.expose_secret()).unwrap()
                } else {
                    kdf.encrypted_cookie(&secret)
                });
                if switches.contains(&Switch::Cbc) {
                    keys.push(kdf.cbc_cookie(&secret));
                }
            }
            Jar::Encrypted(keys)
        };
        let binding = if switches.contains(&Switch::Unbound) { Binding::NameOrNone } else { Binding::Name };
        Cookie { name: self.cookie_name.clone(), jar, binding, path: Path::default() }
    }

    /// The whole value; none where there is none for the application either.
    fn read(&self, switches: &[Switch]) -> Option<Value> {
        let cookie = self.cookie(switches);
        let headers = headers(&self.cookie_header);
        let whole = header::value(&headers, &self.cookie_name)
            .and_then(|text| text.map(|text| Ok(cookie.open(&text, then())?.value)).transpose());

        // Its id, where it is one, is the same.
        let id = cookie.read(&headers, then()).map(|id| id.map(|id| id.value));
        match &whole {
            Ok(whole) => {
                assert_eq!(id, cookie.path.id(whole.as_ref().unwrap_or(&Value::Null)), "{}", self.name)
            }
            Err(error) => assert_eq!(id, Err(*error), "{}", self.name),
        }
        whole.ok().flatten().filter(|value| !value.is_null())
    }
}

fn headers(field: &str) -> HeaderMap {
    HeaderMap::from_iter([(COOKIE, HeaderValue::from_bytes(field.as_bytes()).unwrap())])
}

#[test]
fn keys_are_derived_as_rails_does() {
    let vectors = vectors(&[Kind::Key]);
    assert_eq!(vectors.len(), 36);
    for vector in vectors {
        let secret = SecretKeyBase::from(vector.secret_key_base.as_str());
        let key = kdf(&vector.kdf_digest).derive(&secret, vector.salt.as_deref().unwrap(), vector.length);
        assert_eq!(
            HEXLOWER.encode(key.expose_secret()),
            vector.expected.as_str().unwrap(),
            "{}",
            vector.name
        );
    }
}

#[test]
fn every_cookie_of_the_vectors_gets_its_verdict() {
    let vectors = vectors(&[Kind::Signed, Kind::Encrypted, Kind::Session]);
    assert_eq!(vectors.len(), 171);
    for vector in vectors {
        let expected = (vector.verdict == Verdict::Ok).then(|| vector.expected.clone());
        assert_eq!(vector.read(&[]), expected, "{}", vector.name);
    }
}

#[test]
fn unbound_and_cbc_cookies_are_read_with_their_switches_alone() {
    let vectors = vectors(&[Kind::Signed, Kind::Encrypted, Kind::Session]);
    let with_option: Vec<_> = vectors.iter().filter(|vector| !vector.option.is_empty()).collect();
    assert_eq!(with_option.len(), 22);
    for vector in with_option {
        assert_eq!(vector.read(&vector.option), Some(vector.expected_with_option.clone()), "{}", vector.name);
        for missing in &vector.option {
            let others: Vec<_> =
                [Switch::Unbound, Switch::Cbc].into_iter().filter(|it| it != missing).collect();
            assert_eq!(vector.read(&others), None, "{}", vector.name);
        }
    }
    // And what is to be refused is refused with all of them.
    for vector in vectors.iter().filter(|it| it.verdict == Verdict::Reject && it.option.is_empty()) {
        assert_eq!(vector.read(&[Switch::Unbound, Switch::Cbc]), None, "{}", vector.name);
    }
}

#[test]
fn every_message_of_the_vectors_gets_its_verdict() {
    let vectors = vectors(&[Kind::MessageVerifier]);
    assert_eq!(vectors.len(), 32);
    for vector in vectors {
        let secret = SecretKeyBase::from(vector.secret_key_base.as_str());
        let key = kdf(&vector.kdf_digest).derive(&secret, vector.salt.as_deref().unwrap(), 64);
        let verifier = Verifier::new(key.expose_secret(), digest(&vector.digest));

        let read = verifier.verify(&vector.token, vector.purpose.as_deref(), then());

        let expected = (vector.verdict == Verdict::Ok).then_some(vector.expected);
        assert_eq!(read.ok(), expected, "{}", vector.name);
    }
}

#[test]
fn what_is_not_json_is_refused_with_the_setting_that_changes_it() {
    let vectors = vectors(&[Kind::Signed, Kind::Encrypted, Kind::Session]);
    let error = |name: &str| {
        let vector = vectors.iter().find(|vector| vector.name == name).unwrap();
        vector.cookie(&[]).read(&headers(&vector.cookie_header), then()).unwrap_err()
    };

    for (name, label) in [
        ("ld61-marshal-signed", "marshal"),
        ("ld61-marshal-session", "marshal"),
        ("msgpack-enc", "message_pack"),
    ] {
        assert_eq!(error(name).label(), label, "{name}");
        assert!(error(name).to_string().contains("cookies_serializer"), "{name}");
    }
}

#[test]
fn a_reason_tells_what_is_wrong() {
    let vectors = vectors(&[Kind::Signed, Kind::Encrypted, Kind::Session]);
    for (name, expected) in [
        ("signed-tampered", CookieError::Signed(SignedError::WrongKey)),
        ("signed-exp-past", CookieError::Signed(SignedError::Expired)),
        ("signed-exp-integer", CookieError::Signed(SignedError::Expiry)),
        ("signed-wrong-name", CookieError::OtherName),
        ("signed-no-metadata", CookieError::Unbound),
        ("signed-digest-missing", CookieError::Signed(SignedError::Unsigned)),
        ("signed-false", CookieError::NotAnId("true or false")),
        ("enc-sha1-kdf", CookieError::Undecryptable),
        ("enc-tag-12-bytes", CookieError::Unencrypted),
        ("signed-non-utf8-cookie", CookieError::Utf8),
    ] {
        let vector = vectors.iter().find(|vector| vector.name == name).unwrap();
        let read = vector.cookie(&[]).read(&headers(&vector.cookie_header), then());
        assert_eq!(read, Err(expected), "{name}");
    }
}

#[test]
fn a_session_gives_the_id_at_its_path() {
    let vectors = vectors(&[Kind::Session]);
    let id = |name: &str, path: &str| {
        let vector = vectors.iter().find(|vector| vector.name == name).unwrap();
        let cookie = Cookie { path: path.parse().unwrap(), ..vector.cookie(&[]) };
        cookie.read(&headers(&vector.cookie_header), then()).map(|id| id.map(|id| id.value))
    };

    assert_eq!(id("session-warden", "warden.user.user.key.0.0"), Ok(Some(json!(7))));
    assert_eq!(id("session-user-id", "user_id"), Ok(Some(json!(7))));
    assert_eq!(id("session-csrf", "user_id"), Ok(None));
    assert_eq!(id("session-warden", "warden.user.user.key"), Err(CookieError::NotAnId("an array")));
}

#[test]
fn a_request_without_the_cookie_is_anonymous() {
    let vectors = vectors(&[Kind::Signed]);
    let cookie = vectors[0].cookie(&[]);

    assert_eq!(cookie.read(&HeaderMap::new(), then()), Ok(None));
    assert_eq!(cookie.read(&headers("other=1"), then()), Ok(None));
    assert!(cookie.read(&headers("session_id="), then()).is_err());
}

/// One way to change a token.
#[derive(Debug, Clone)]
enum Tampering {
    /// Of seven bits, so that it stays text.
    Flip(Index, u32),
    CutEnd(Index),
    CutStart(Index),
    Insert(Index, char),
    Remove(Index),
    /// In the other base64 alphabet, or with other padding.
    OtherAlphabet,
    Pad,
    Unpad,
    /// A last character that stands for the same bytes.
    OtherBits(Index),
    /// The digits of digests, say.
    OtherCase(Index),
    RepeatPart(Index),
    DropPart(Index),
    SwapParts(Index, Index),
    /// A part of another good token.
    Splice(Index),
    Twice,
    Quote,
}

const INSERTED: &[char] = &[' ', '\n', '\r', '\t', '\0', '-', '=', '+', '/', '_', '%', 'A', 'é', '.'];

fn tampering() -> impl Strategy<Value = Tampering> {
    use Tampering::*;
    let at = any::<Index>;
    prop_oneof![
        3 => (at(), 0..7u32).prop_map(|(at, bit)| Flip(at, bit)),
        1 => at().prop_map(CutEnd),
        1 => at().prop_map(CutStart),
        2 => (at(), proptest::sample::select(INSERTED)).prop_map(|(at, what)| Insert(at, what)),
        1 => at().prop_map(Remove),
        1 => Just(OtherAlphabet),
        1 => Just(Pad),
        1 => Just(Unpad),
        2 => at().prop_map(OtherBits),
        1 => at().prop_map(OtherCase),
        1 => at().prop_map(RepeatPart),
        1 => at().prop_map(DropPart),
        1 => (at(), at()).prop_map(|(a, b)| SwapParts(a, b)),
        1 => at().prop_map(Splice),
        1 => Just(Twice),
        1 => Just(Quote),
    ]
}

/// `token` changed; none where this way leaves it as it is.
fn tampered(token: &str, other: &str, how: &Tampering) -> Option<String> {
    let parts: Vec<&str> = token.split("--").collect();
    let edited = |edit: &dyn Fn(&mut Vec<String>, usize)| {
        let mut parts: Vec<_> = parts.iter().map(|part| (*part).to_owned()).collect();
        let count = parts.len();
        edit(&mut parts, count);
        parts.join("--")
    };
    let bytes = |edit: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = token.as_bytes().to_vec();
        edit(&mut bytes);
        String::from_utf8(bytes).unwrap()
    };
    let each_part =
        |edit: &dyn Fn(&str) -> String| parts.iter().map(|part| edit(part)).collect::<Vec<_>>().join("--");
    let n = token.len();
    let changed = match how {
        Tampering::Flip(at, bit) => bytes(&|bytes| bytes[at.index(n)] ^= 1 << bit),
        Tampering::CutEnd(at) => token[..at.index(n)].to_owned(),
        Tampering::CutStart(at) => token[at.index(n) + 1..].to_owned(),
        Tampering::Insert(at, what) => {
            let (head, tail) = token.split_at(at.index(n + 1));
            format!("{head}{what}{tail}")
        }
        Tampering::Remove(at) => bytes(&|bytes| _ = bytes.remove(at.index(n))),
        Tampering::OtherAlphabet => each_part(&|part| part.replace('+', "-").replace('/', "_")),
        Tampering::Pad => each_part(&|part| format!("{part}=")),
        Tampering::Unpad => each_part(&|part| part.trim_end_matches('=').to_owned()),
        Tampering::OtherBits(at) => edited(&|parts, count| {
            let which = at.index(count);
            parts[which] = other_spelling(&parts[which]);
        }),
        Tampering::OtherCase(at) => bytes(&|bytes| {
            // From there on the first letter.
            let start = at.index(n);
            if let Some(letter) = bytes[start..].iter_mut().find(|byte| byte.is_ascii_alphabetic()) {
                *letter ^= b' ';
            }
        }),
        Tampering::RepeatPart(at) => edited(&|parts, count| {
            let which = at.index(count);
            parts.insert(which, parts[which].clone());
        }),
        Tampering::DropPart(at) => edited(&|parts, count| drop(parts.remove(at.index(count)))),
        Tampering::SwapParts(a, b) => edited(&|parts, count| parts.swap(a.index(count), b.index(count))),
        Tampering::Splice(at) => edited(&|parts, count| {
            let which = at.index(count);
            parts[which] = other.split("--").nth(which).unwrap().to_owned();
        }),
        Tampering::Twice => format!("{token}{token}"),
        Tampering::Quote => format!("\"{token}\""),
    };
    (changed != token).then_some(changed)
}

/// Base64 whose last character has other bits where none count: the same bytes to a reader that
/// isn't strict.
fn other_spelling(part: &str) -> String {
    let unpadded = part.trim_end_matches('=');
    let padding = &part[unpadded.len()..];
    let (head, last) = unpadded.split_at(unpadded.len().saturating_sub(1));
    const ALPHABET: &str = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    match ALPHABET.find(last) {
        Some(at) if !padding.is_empty() => format!("{head}{}{padding}", &ALPHABET[at ^ 1..][..1]),
        _ => part.to_owned(),
    }
}

/// The decoded value of a vector's cookie.
fn text_of(vector: &Vector) -> String {
    header::value(&headers(&vector.cookie_header), &vector.cookie_name).unwrap().unwrap()
}

fn good(kind: Kind, names: [&str; 2]) -> (Cookie, [String; 2]) {
    let vectors = vectors(&[kind]);
    let found = names.map(|name| vectors.iter().find(|vector| vector.name == name).unwrap());
    let cookie = found[0].cookie(&[]);
    let texts = found.map(text_of);
    assert!(cookie.open(&texts[0], then()).is_ok());
    (cookie, texts)
}

/// This many different ones that change something.
const TAMPERINGS: u32 = 300;

fn all_are_refused(token: &str, other: &str, is_refused: impl Fn(&str) -> bool) {
    let config =
        ProptestConfig { max_global_rejects: 20 * TAMPERINGS, ..ProptestConfig::with_cases(TAMPERINGS) };
    let mut runner = proptest::test_runner::TestRunner::new(config);
    let seen = std::cell::RefCell::new(std::collections::HashSet::new());
    let result = runner.run(&tampering(), |how| {
        let changed = tampered(token, other, &how);
        prop_assume!(changed.as_ref().is_some_and(|it| it != other && seen.borrow_mut().insert(it.clone())));
        prop_assert!(is_refused(&changed.unwrap()));
        Ok(())
    });
    result.unwrap();
}

#[test]
fn no_tampered_signed_cookie_is_read() {
    let (cookie, [token, other]) = good(Kind::Signed, ["signed-int-permanent", "signed-exp-2036"]);
    all_are_refused(&token, &other, |text| cookie.open(text, then()).is_err());
    // Its text holds every character in which the alphabets differ.
    let (cookie, [token, other]) = good(Kind::Signed, ["signed-std-alphabet-plus-slash", "signed-exp-2036"]);
    all_are_refused(&token, &other, |text| cookie.open(text, then()).is_err());
}

#[test]
fn no_tampered_encrypted_cookie_is_read() {
    let (cookie, [token, other]) = good(Kind::Encrypted, ["enc-std-alphabet", "enc-crafted-ok"]);
    all_are_refused(&token, &other, |text| cookie.open(text, then()).is_err());
}

#[test]
fn no_tampered_name_of_a_stream_is_good() {
    let key = Verifier::new(b"s3Krit", Digest::Sha256);
    let keys = StreamKeys::new(vec![key.clone()]);
    let expires = then() + Duration::from_secs(3600);
    let other = key.sign("room:2", None);
    for token in [key.sign("x?>~é1", None), key.sign("room:1", Some(expires))] {
        assert!(keys.verify(&token, then()).is_ok());
        all_are_refused(&token, &other, |token| keys.verify(token, then()).is_err());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn a_cookie_is_good_for_its_name_before_it_expires_under_its_key_alone(
        before in 1..1_000_000u64, after in 1..1_000_000u64, name in "[a-z_]{1,12}", secret in "[ -~]{1,40}",
    ) {
        let secrets = [format!("{secret}a"), format!("{secret}b")].map(SecretKeyBase::from);
        let signing = Kdf::Sha256.derive(&secrets[0], "signed cookie", 64);
        let cookie = |secret, name: &str| Cookie {
            name: name.to_owned(),
            jar: Jar::Signed(vec![Kdf::Sha256.signed_cookie(secret, Digest::Sha1)]),
            binding: Binding::Name,
            path: Path::default(),
        };
        let envelope = format!(
            r#"{{"_rails":{{"message":"{}","exp":"2027-01-15T08:00:00.000Z","pur":"cookie.{name}"}}}}"#,
            STANDARD.encode("42"),
        );
        let text = STANDARD.encode(envelope);
        let key = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, signing.expose_secret());
        let token = format!("{text}--{}", HEXLOWER.encode(aws_lc_rs::hmac::sign(&key, text.as_bytes()).as_ref()));
        let (early, late) = (then() - Duration::from_millis(before), then() + Duration::from_millis(after));

        let opened = Opened { value: json!(42), expires: Some(then()) };
        prop_assert_eq!(cookie(&secrets[0], &name).open(&token, early), Ok(opened));
        for over in [then(), late] {
            prop_assert_eq!(cookie(&secrets[0], &name).open(&token, over), Err(SignedError::Expired.into()));
        }
        prop_assert_eq!(cookie(&secrets[1], &name).open(&token, early), Err(SignedError::WrongKey.into()));
        prop_assert_eq!(cookie(&secrets[0], &format!("{name}x")).open(&token, early), Err(CookieError::OtherName));
    }
}
