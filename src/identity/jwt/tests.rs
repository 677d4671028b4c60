use std::time::SystemTime;

use serde_json::{Value, json};

use super::signer::{SIGNERS, Signer};
use super::*;

const NOW: u64 = 1_795_500_000;
const LEEWAY: u64 = 10;

fn at(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
}

fn config(keys: Vec<Key>) -> JwtConfig {
    let algorithms = keys.iter().flat_map(|key| key.kind().algorithms()).copied().collect();
    JwtConfig {
        keys,
        jwks: None,
        algorithms,
        audience: Vec::new(),
        issuer: None,
        leeway: Duration::from_secs(LEEWAY),
        asked_for: true,
    }
}

/// Judges by the text of the tests alone.
fn judge(claims: Value) -> Result<Verified, TokenError> {
    let signer = &SIGNERS[0];
    Verifier::new(config(vec![signer.key()])).verify(&signer.token(&claims), at(NOW))
}

#[test]
fn a_token_of_every_kind_of_key_is_accepted() {
    let verifier = Verifier::new(config(SIGNERS.iter().map(Signer::key).collect()));
    let text = &SIGNERS[0].key;
    let more = [Signer::text("HS384", text), Signer::text("HS512", text)];

    for signer in SIGNERS.iter().chain(&more) {
        let verified = verifier.verify(&signer.token(&json!({ "sub": "42" })), at(NOW)).unwrap();
        assert_eq!(verified.name.as_deref(), Some("42"), "{}", signer.algorithm);
    }
}

#[test]
fn a_token_that_anycable_makes_is_accepted_as_it_stands() {
    let header = r#"{"alg":"HS256"}"#;
    let claims = r#"{"ext":"{\"user_id\":\"1\", \"user\":{\"id\":7}}","exp":1795503600}"#;
    let token = SIGNERS[0].sign(header, claims);
    assert!(token.starts_with("eyJhbGciOiJIUzI1NiJ9."));

    let verified = Verifier::new(config(vec![SIGNERS[0].key()])).verify(&token, at(NOW)).unwrap();

    assert_eq!(verified.name.as_deref(), Some(r#"{"user_id":"1", "user":{"id":7}}"#));
    assert_eq!(Value::Object(verified.claims), json!({ "user_id": "1", "user": { "id": 7 } }));
    assert_eq!(verified.expires, Some(at(1_795_503_600 + LEEWAY)));
}

/// Made by another's program: RFC 7515, appendix A.1, whose key is of bytes that aren't text, was
/// signed anew with a text by `openssl dgst -sha256 -hmac`.
#[test]
fn a_token_that_openssl_signed_is_accepted() {
    let token = concat!(
        "eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9",
        ".eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ",
        ".7uKmBMmVbqFab_qCA-wpiV9fLJa310uj5f78IeJfR5c"
    );
    let verifier = Verifier::new(config(vec![Key::parse("s3Krit").unwrap()]));

    let verified = verifier.verify(token, at(1_300_819_379)).unwrap();

    assert_eq!(verified.claims["http://example.com/is_root"], true);
    assert_eq!(verifier.verify(token, at(1_300_819_390)), Err(TokenError::Expired));
}

#[test]
fn identifiers_may_be_an_object() {
    let verified = judge(json!({ "ext": { "b": 1, "a": "x" }, "sub": "9" })).unwrap();

    assert_eq!(Value::Object(verified.claims), json!({ "a": "x", "b": 1 }));
    assert_eq!(verified.name.as_deref(), Some(r#"{"a":"x","b":1}"#));
}

#[test]
fn without_identifiers_the_claims_are_the_tokens_own() {
    let verified = judge(json!({ "sub": "42", "role": "admin" })).unwrap();
    assert_eq!(Value::Object(verified.claims), json!({ "sub": "42", "role": "admin" }));
    assert_eq!((verified.name.as_deref(), verified.expires), (Some("42"), None));

    let name = |claims: Value| judge(claims).unwrap().name;
    assert_eq!(name(json!({ "sub": 42 })).as_deref(), Some("42"));
    assert_eq!(name(json!({ "id": 7 })).as_deref(), Some("7"));
}

#[test]
fn identifiers_that_are_no_object_are_refused() {
    for ext in [json!("x"), json!("[1]"), json!("{"), json!("{}{}"), json!(1), json!(null), json!([])] {
        assert_eq!(judge(json!({ "ext": ext })), Err(TokenError::Malformed), "{ext}");
    }
}

#[test]
fn a_token_is_good_from_nbf_to_exp_and_the_leeway_around() {
    let expired = Err(TokenError::Expired);
    assert_eq!(judge(json!({ "exp": NOW - LEEWAY })), expired);
    assert_eq!(judge(json!({ "exp": NOW - 1000 })), expired);
    assert_eq!(judge(json!({ "exp": 0 })), expired);
    assert_eq!(judge(json!({ "exp": NOW - LEEWAY + 1 })).unwrap().expires, Some(at(NOW + 1)));
    assert!(judge(json!({ "exp": (NOW - LEEWAY) as f64 + 0.5 })).is_ok());

    assert_eq!(judge(json!({ "nbf": NOW + LEEWAY + 1 })), Err(TokenError::TooEarly));
    assert!(judge(json!({ "nbf": NOW + LEEWAY })).is_ok());

    for wrong in
        [json!("1"), json!(null), json!(-1), json!(1e300), json!(u64::MAX), json!([NOW]), json!(true)]
    {
        assert_eq!(judge(json!({ "exp": wrong })), Err(TokenError::Malformed), "exp {wrong}");
        assert_eq!(judge(json!({ "nbf": wrong })), Err(TokenError::Malformed), "nbf {wrong}");
    }
}

#[test]
fn audience_and_issuer_are_required_where_they_are_set() {
    let signer = &SIGNERS[0];
    let strict = JwtConfig {
        audience: vec!["cable".into(), "other".into()],
        issuer: Some("app".into()),
        ..config(vec![signer.key()])
    };
    let verifier = Verifier::new(strict);
    let judge = |claims: Value| verifier.verify(&signer.token(&claims), at(NOW)).map(drop);

    assert_eq!(judge(json!({ "aud": "cable", "iss": "app" })), Ok(()));
    assert_eq!(judge(json!({ "aud": ["x", "other"], "iss": "app" })), Ok(()));
    for aud in [json!("x"), json!(["x"]), json!([]), json!(1), json!(null), json!({ "cable": 1 })] {
        assert_eq!(judge(json!({ "aud": aud, "iss": "app" })), Err(TokenError::Audience), "{aud}");
    }
    assert_eq!(judge(json!({ "iss": "app" })), Err(TokenError::Audience));
    for iss in [json!("x"), json!(1), json!(null), json!("App")] {
        assert_eq!(judge(json!({ "aud": "cable", "iss": iss })), Err(TokenError::Issuer), "{iss}");
    }
    assert_eq!(judge(json!({ "aud": "cable" })), Err(TokenError::Issuer));
}

#[test]
fn claims_of_audience_and_issuer_are_no_matter_where_none_is_set() {
    assert!(judge(json!({ "aud": "x", "iss": "y" })).is_ok());
}

#[test]
fn several_keys_are_good_at_once() {
    let (old, new) = (Signer::text("HS256", "the old one"), Signer::text("HS256", "the new one"));
    let verifier = Verifier::new(config(vec![new.key(), old.key()]));

    for signer in [&old, &new] {
        assert!(verifier.verify(&signer.token(&json!({})), at(NOW)).is_ok());
        // A name is no matter to keys that have none.
        assert!(verifier.verify(&signer.named("whichever", &json!({})), at(NOW)).is_ok());
    }
    let other = Signer::text("HS256", "another").token(&json!({}));
    assert_eq!(verifier.verify(&other, at(NOW)), Err(TokenError::Signature));
}

#[test]
fn an_algorithm_that_is_not_pinned_is_refused_though_its_key_is_known() {
    let narrow =
        JwtConfig { algorithms: vec![Algorithm::HS256], ..config(vec![SIGNERS[0].key(), SIGNERS[1].key()]) };
    let verifier = Verifier::new(narrow);
    let judge = |signer: &Signer| verifier.verify(&signer.token(&json!({})), at(NOW)).map(drop);

    assert_eq!(judge(&SIGNERS[0]), Ok(()));
    assert_eq!(judge(&Signer::text("HS512", &SIGNERS[0].key)), Err(TokenError::Algorithm));
    assert_eq!(judge(&SIGNERS[1]), Err(TokenError::Algorithm));
}

#[test]
fn a_token_of_more_than_eight_kibibytes_is_not_looked_at() {
    let token = |bytes: usize| {
        let rest = SIGNERS[0].token(&json!({ "pad": "" })).len();
        (0..)
            .map(|more| SIGNERS[0].token(&json!({ "pad": "x".repeat((bytes - rest) / 4 * 3 + more) })))
            .find(|token| token.len() >= bytes)
            .unwrap()
    };
    let verifier = Verifier::new(config(vec![SIGNERS[0].key()]));

    assert!(verifier.verify(&token(MAX_TOKEN_BYTES - 8), at(NOW)).is_ok());
    assert_eq!(verifier.verify(&token(MAX_TOKEN_BYTES + 1), at(NOW)), Err(TokenError::TooLong));
    assert_eq!(verifier.verify(&"x".repeat(1 << 20), at(NOW)), Err(TokenError::TooLong));
}

#[test]
fn a_name_that_stands_twice_is_refused_at_any_depth() {
    let verifier = Verifier::new(config(vec![SIGNERS[0].key()]));
    let judge =
        |header: &str, claims: &str| verifier.verify(&SIGNERS[0].sign(header, claims), at(NOW)).map(drop);
    let header = r#"{"alg":"HS256"}"#;

    assert_eq!(judge(header, r#"{"a":{"b":1,"c":[{"b":1}]},"b":1}"#), Ok(()));
    for claims in [
        r#"{"sub":"1","sub":"2"}"#,
        r#"{"sub":"1","s\u0075b":"2"}"#,
        r#"{"exp":1,"exp":9999999999}"#,
        r#"{"a":{"b":1,"b":1}}"#,
        r#"{"a":[{"b":1,"b":1}]}"#,
        r#"{"ext":"{\"a\":1,\"a\":1}"}"#,
        r#"{"ext":"{}","ext":"{}"}"#,
    ] {
        assert_eq!(judge(header, claims), Err(TokenError::Malformed), "{claims}");
    }
    assert_eq!(judge(r#"{"alg":"HS256","alg":"HS256"}"#, "{}"), Err(TokenError::Malformed));
    assert_eq!(judge(r#"{"alg":"HS256","kid":"a","kid":"b"}"#, "{}"), Err(TokenError::Malformed));
}

#[test]
fn a_header_that_asks_for_extensions_is_refused() {
    let verifier = Verifier::new(config(vec![SIGNERS[0].key()]));
    for header in [r#"{"alg":"HS256","crit":["exp"],"exp":1}"#, r#"{"alg":"HS256","crit":[]}"#] {
        let token = SIGNERS[0].sign(header, "{}");
        assert_eq!(verifier.verify(&token, at(NOW)), Err(TokenError::Critical), "{header}");
    }
}

#[test]
fn a_key_of_the_settings_is_a_text_or_a_public_key() {
    let kinds: Vec<_> = SIGNERS.iter().map(|signer| signer.key().kind()).collect();
    assert_eq!(kinds, KeyKind::ALL);

    let pair = rcgen::KeyPair::generate().unwrap();
    assert_eq!(Key::parse(&pair.serialize_pem()).unwrap_err(), KeyError::Private);
    let both = format!("{}{}", pair.public_key_pem(), pair.serialize_pem());
    assert_eq!(Key::parse(&both).unwrap_err(), KeyError::Private);
    let p384 = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap();
    assert_eq!(Key::parse(&p384.public_key_pem()).unwrap_err(), KeyError::Unsupported);
    let certificate = "-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n";
    assert_eq!(Key::parse(certificate).unwrap_err(), KeyError::NotPublic);
    assert_eq!(Key::parse("").unwrap_err(), KeyError::Empty);
}

#[test]
fn neither_a_key_nor_an_error_shows_a_secret() {
    assert!(!format!("{:?}", config(vec![Key::parse("s3cret").unwrap()])).contains("s3cret"));

    let token = Signer::text("HS256", "another").token(&json!({ "sub": "somebody" }));
    let error = Verifier::new(config(vec![SIGNERS[0].key()])).verify(&token, at(NOW)).unwrap_err();
    let said = format!("{error} {error:?} {}", error.reason());
    assert!(token.split('.').all(|part| !said.contains(part)) && !said.contains("somebody"), "{said}");
}

#[test]
fn what_everybody_may_know_is_no_text_to_sign_with() {
    let pem =
        "-----BEGIN PUBLIC KEY-----\nMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEAAAA\n-----END PUBLIC KEY-----";
    let body = "MCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=";
    for public in [body, "}", "{\"keys\":[", "ssh-rsa AAAA", "Modulus:", "-----END PUBLIC KEY-----", "x-----"]
    {
        assert_eq!(Key::parse(public).unwrap_err(), KeyError::Bare, "{public}");
    }
    assert_ne!(Key::parse(&format!("\u{feff}{pem}")).unwrap_err(), KeyError::Bare);
    assert!(Key::parse("0123456789abcdef0123456789abcdef").is_ok());
}
