//! Tokens that nobody who has a key has made, or not like this: none is accepted.

use std::time::{Duration, SystemTime};

use base64::Engine;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD as BASE64};
use rand::rngs::StdRng;
use rand::{Rng, RngExt, SeedableRng};
use serde_json::{Value, json};

use super::signer::{SIGNERS, Signer};
use super::*;

const NOW: u64 = 1_795_500_000;
const LEEWAY: u64 = 10;
/// Of each kind of token.
const RANDOM_TAMPERINGS: usize = 300;

/// It has a key of every kind, and accepts every algorithm.
fn verifier() -> Verifier {
    let keys: Vec<_> = SIGNERS.iter().map(Signer::key).collect();
    Verifier::new(JwtConfig {
        algorithms: KeyKind::ALL.iter().flat_map(|kind| kind.algorithms()).copied().collect(),
        keys,
        jwks: None,
        audience: Vec::new(),
        issuer: None,
        leeway: Duration::from_secs(LEEWAY),
        asked_for: true,
    })
}

fn accepts(verifier: &Verifier, token: &str) -> bool {
    verifier.verify(token, SystemTime::UNIX_EPOCH + Duration::from_secs(NOW)).is_ok()
}

fn good(signer: &Signer) -> String {
    signer.token(&json!({ "ext": r#"{"user_id":"1"}"#, "exp": NOW + 60 }))
}

fn none_is_accepted(tokens: impl IntoIterator<Item = String>) {
    let verifier = verifier();
    for token in tokens {
        assert!(!accepts(&verifier, &token), "accepted: {token}");
    }
}

#[test]
fn what_is_tampered_with_is_good_before() {
    let verifier = verifier();
    assert!(SIGNERS.iter().all(|signer| accepts(&verifier, &good(signer))));
}

#[test]
fn no_token_is_accepted_that_was_changed_anywhere() {
    let mut random = StdRng::seed_from_u64(1);
    let verifier = verifier();
    for signer in &*SIGNERS {
        let token = good(signer);
        let mut tried = 0;
        while tried < RANDOM_TAMPERINGS {
            let changed = change(&token, &mut random);
            if changed != token {
                assert!(!accepts(&verifier, &changed), "{} accepted: {changed}", signer.algorithm);
                tried += 1;
            }
        }
    }
}

/// One of the ways in which a text becomes another.
fn change(token: &str, random: &mut impl Rng) -> String {
    let mut bytes = token.as_bytes().to_vec();
    let at = random.random_range(0..bytes.len());
    let other = random.random_range(0..bytes.len());
    match random.random_range(0..8) {
        // A bit of the text, which stays ASCII.
        0 => bytes[at] ^= 1 << random.random_range(0..7),
        1 => bytes.truncate(at),
        2 => drop(bytes.drain(..=at)),
        3 => drop(bytes.remove(at)),
        4 => bytes.swap(at, other),
        5 => bytes.insert(at, *b"+/=-_. \n\t\0%A"[..].get(random.random_range(0..12)).unwrap()),
        // A bit of what the text stands for.
        6 => {
            let mut parts: Vec<_> = token.split('.').map(|part| BASE64.decode(part).unwrap()).collect();
            let part = &mut parts[random.random_range(0..3)];
            let at = random.random_range(0..part.len());
            part[at] ^= 1 << random.random_range(0..8);
            return parts.iter().map(|part| BASE64.encode(part)).collect::<Vec<_>>().join(".");
        }
        // The bits of a part's last letter that stand for nothing.
        _ => {
            let ends: Vec<_> =
                (0..bytes.len()).filter(|at| [None, Some(&b'.')].contains(&bytes.get(at + 1))).collect();
            bytes[ends[random.random_range(0..ends.len())]] = b'A' + random.random_range(0..26);
        }
    }
    String::from_utf8(bytes).unwrap()
}

#[test]
fn no_other_writing_of_a_part_is_accepted() {
    let rewrite = |signer: &Signer| {
        let token = good(signer);
        let [header, claims, signature] =
            <[&str; 3]>::try_from(token.split('.').collect::<Vec<_>>()).unwrap();
        let standard = BASE64_STANDARD.encode(BASE64.decode(signature).unwrap());
        let mut tokens = vec![
            format!("{header}.{claims}.{standard}"),
            format!("{header}.{claims}.{}", standard.trim_end_matches('=')),
            format!("{header}.{claims}"),
            format!("{header}.{claims}."),
            format!("{header}.{signature}"),
            format!(".{claims}.{signature}"),
            format!("{header}..{signature}"),
            format!("{header}.{header}.{claims}.{signature}"),
            format!("{header}.{claims}.{claims}.{signature}"),
            format!("{header}.{claims}.{signature}.{signature}"),
            format!("{header}.{claims}.{signature}."),
            format!(".{token}"),
            format!("{claims}.{header}.{signature}"),
            format!("{header}.{claims}.{signature}.{header}.{claims}"),
            format!("{token}.{token}"),
            token.replace('.', ".."),
            token.replace('.', "%2E"),
            format!("Bearer {token}"),
            token.to_uppercase(),
        ];
        for padding in ["=", "==", " ", "\n", "\t", "\0", "\u{feff}", "A", "AA", "AAAA"] {
            tokens.push(format!("{header}{padding}.{claims}.{signature}"));
            tokens.push(format!("{header}.{claims}{padding}.{signature}"));
            tokens.push(format!("{header}.{claims}.{signature}{padding}"));
            tokens.push(format!("{padding}{header}.{claims}.{signature}"));
        }
        tokens.retain(|other| *other != token);
        tokens
    };
    none_is_accepted(SIGNERS.iter().flat_map(rewrite));
}

#[test]
fn no_algorithm_is_taken_for_another() {
    let names = [
        "none", "None", "NONE", "nOnE", "", "HS256", "hs256", "HS384", "HS512", "RS256", "RS384", "RS512",
        "PS256", "ES256", "ES256K", "ES384", "EdDSA", "Ed25519", "HS256 ", "dir",
    ];
    let swap = |signer: &'static Signer| {
        names.into_iter().filter(|name| *name != signer.algorithm).flat_map(|name| {
            let header = json!({ "alg": name }).to_string();
            let claims = json!({ "exp": NOW + 60 }).to_string();
            let signed = signer.sign(&header, &claims);
            let message = signed.rsplit_once('.').unwrap().0.to_owned();
            let moved = good(signer).rsplit_once('.').unwrap().1.to_owned();
            [
                message.clone(),
                format!("{message}."),
                format!("{message}.{moved}"),
                format!("{message}.AAAA"),
                signed,
            ]
        })
    };
    none_is_accepted(SIGNERS.iter().flat_map(swap));

    let claims = json!({ "exp": NOW + 60 }).to_string();
    let headers = [
        "{}",
        r#"{"typ":"JWT"}"#,
        r#"{"alg":null}"#,
        r#"{"alg":["HS256"]}"#,
        r#"{"alg":{}}"#,
        r#"{"ALG":"HS256"}"#,
        r#"{"alg":"none","alg":"HS256"}"#,
        r#"{"alg":"HS256","alg":"none"}"#,
        r#"["HS256"]"#,
        r#""HS256""#,
        "null",
        "",
        "{\"alg\":\"HS256\"}{}",
        "\u{feff}{\"alg\":\"HS256\"}",
        r#"{"alg":"HS256""#,
    ];
    none_is_accepted(headers.into_iter().map(|header| SIGNERS[0].sign(header, &claims)));
}

#[test]
fn what_all_may_know_of_a_key_signs_nothing() {
    let known_of = |signer: &Signer| {
        let pem = signer.key.clone();
        let der: String = pem.lines().filter(|line| !line.starts_with('-')).collect();
        let jwk = signer.jwk("a");
        let mut known = vec![pem.trim().to_owned(), pem.replace('\n', "\r\n"), pem, der, jwk.to_string()];
        known.extend(jwk.as_object().unwrap().values().map(|value| value.as_str().unwrap().to_owned()));
        known
    };
    let public = SIGNERS.iter().filter(|signer| signer.algorithm != "HS256");
    let known: Vec<_> = public.flat_map(known_of).chain([String::new(), "\0".to_owned()]).collect();
    let sign =
        |text: &String| ["HS256", "HS384", "HS512"].map(|algorithm| good(&Signer::text(algorithm, text)));
    none_is_accepted(known.iter().flat_map(sign));
}

#[test]
fn a_header_brings_no_key_of_its_own() {
    let strangers =
        [Signer::text("HS256", "of a stranger"), Signer::rsa(), Signer::p256(), Signer::ed25519()];
    let claims = json!({ "exp": NOW + 60 }).to_string();
    let own = |stranger: &Signer| {
        let ways = [
            json!({ "jwk": stranger.jwk("a") }),
            json!({ "jku": "http://127.0.0.1:9/jwks" }),
            json!({ "x5u": "http://127.0.0.1:9/certificate" }),
            json!({ "x5c": [BASE64_STANDARD.encode(&stranger.key)] }),
            json!({ "x5t": "AAAA", "x5t#S256": "AAAA" }),
            json!({ "kid": "" }),
            json!({ "kid": "../../../../dev/null" }),
            json!({ "kid": "' UNION SELECT 'of a stranger" }),
            json!({ "kid": stranger.key }),
            json!({ "kid": "http://127.0.0.1:9/jwks" }),
            json!({ "kid": null }),
            json!({ "kid": { "of": "a stranger" } }),
            json!({ "b64": false }),
            json!({ "zip": "DEF" }),
            json!({ "cty": "JWT", "enc": "A128GCM" }),
            json!({}),
        ];
        ways.map(|mut header: Value| {
            header["alg"] = stranger.algorithm.into();
            stranger.sign(&header.to_string(), &claims)
        })
    };
    none_is_accepted(strangers.iter().flat_map(own));
}

#[test]
fn no_signature_of_nothing_is_accepted() {
    let mut signatures: Vec<Vec<u8>> =
        [1, 32, 48, 64, 65, 72, 96, 256, 257].map(|bytes| vec![0; bytes]).into();
    signatures.extend([32, 64, 256].map(|bytes| vec![0xff; bytes]));
    // r and s of one, and of the curve's order; the neutral element of Edwards' curve.
    let one = |bytes: usize| [vec![0; bytes - 1], vec![1]].concat();
    signatures.push([one(32), one(32)].concat());
    let order = [
        0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xbc, 0xe6, 0xfa,
        0xad, 0xa7, 0x17, 0x9e, 0x84, 0xf3, 0xb9, 0xca, 0xc2, 0xfc, 0x63, 0x25, 0x51,
    ];
    signatures.push([order, order].concat());
    signatures.push([vec![1], vec![0; 63]].concat());
    signatures.push(vec![0x30, 0x06, 0x02, 0x01, 0x00, 0x02, 0x01, 0x00]);

    let forge = |signer: &'static Signer| {
        let message = good(signer).rsplit_once('.').unwrap().0.to_owned();
        signatures.iter().map(move |signature| format!("{message}.{}", BASE64.encode(signature)))
    };
    none_is_accepted(SIGNERS.iter().flat_map(forge));
}

#[test]
fn a_good_signature_does_not_carry_over_to_another_token() {
    let carry = |signer: &Signer| {
        let (mine, other) = (signer.token(&json!({ "sub": "me" })), signer.token(&json!({ "sub": "root" })));
        let [mine, other] = [&mine, &other].map(|token| token.rsplit_once('.').unwrap());
        [format!("{}.{}", other.0, mine.1), format!("{}.{}", mine.0, other.1)]
    };
    none_is_accepted(SIGNERS.iter().flat_map(carry));
}

#[test]
fn outside_its_time_no_token_is_accepted() {
    let outside = |signer: &Signer| {
        let late = (0..20).map(|more| json!({ "exp": NOW - LEEWAY - more * more }));
        let early = (1..20).map(|more| json!({ "nbf": NOW + LEEWAY + more * more, "exp": NOW + 1_000_000 }));
        late.chain(early).map(|claims| signer.token(&claims)).collect::<Vec<_>>()
    };
    none_is_accepted(SIGNERS.iter().flat_map(outside));
}
