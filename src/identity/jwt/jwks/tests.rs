use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::SystemTime;

use axum::Router;
use axum::extract::State;
use axum::http::header::LOCATION;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD as BASE64;
use futures_util::future::join_all;
use parking_lot::Mutex;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::time::{advance, pause, resume, sleep};

use super::*;
use crate::identity::jwt::signer::{SIGNERS, Signer};
use crate::identity::jwt::{Algorithm, JwtConfig, TokenError, Verified, Verifier};

const REFRESH: Duration = Duration::from_secs(600);

/// Whoever keeps a JWKS.
struct Keeper {
    answer: Mutex<(StatusCode, String)>,
    asked: AtomicUsize,
}

impl Keeper {
    async fn start() -> (Arc<Self>, Uri) {
        let keeper =
            Arc::new(Self { answer: Mutex::new((StatusCode::OK, set(&[]))), asked: AtomicUsize::new(0) });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/jwks.json?secret=1", listener.local_addr().unwrap()).parse().unwrap();
        let routes = Router::new().route("/jwks.json", get(Self::answer)).with_state(keeper.clone());
        tokio::spawn(async { axum::serve(listener, routes).await });
        (keeper, url)
    }

    async fn answer(State(keeper): State<Arc<Self>>) -> Response {
        keeper.asked.fetch_add(1, Ordering::Relaxed);
        let (status, text) = keeper.answer.lock().clone();
        (status, [(LOCATION, "/jwks.json")], text).into_response()
    }

    fn keeps(&self, keys: &[(&str, &Signer)]) {
        *self.answer.lock() = (StatusCode::OK, set(keys));
    }

    fn fails(&self) {
        self.answer.lock().0 = StatusCode::INTERNAL_SERVER_ERROR;
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::Relaxed)
    }
}

fn set(keys: &[(&str, &Signer)]) -> String {
    let keys: Vec<_> = keys.iter().map(|(id, signer)| signer.jwk(id)).collect();
    json!({ "keys": keys }).to_string()
}

fn verifier(source: Source) -> Arc<Verifier> {
    let verifier = Arc::new(Verifier::new(JwtConfig {
        keys: vec![SIGNERS[0].key()],
        jwks: Some(JwksConfig { source, refresh: REFRESH }),
        algorithms: vec![Algorithm::HS256, Algorithm::RS256, Algorithm::ES256, Algorithm::EdDSA],
        audience: Vec::new(),
        issuer: None,
        leeway: Duration::ZERO,
        asked_for: true,
    }));
    tokio::spawn(verifier.clone().follow());
    verifier
}

async fn judge(verifier: &Verifier, token: &str) -> Result<(), TokenError> {
    verifier.verify_with_fresh_keys(token, SystemTime::now()).await.map(|_: Verified| ())
}

/// The clock alone, while nothing is under way.
async fn pass(time: Duration) {
    pause();
    advance(time).await;
    resume();
}

async fn until(what: &str, is_so: impl AsyncFn() -> bool) {
    let wait = async {
        while !is_so().await {
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(Duration::from_secs(5), wait).await.expect(what);
}

fn token(signer: &Signer, id: &str) -> String {
    signer.named(id, &json!({ "sub": "42" }))
}

#[tokio::test]
async fn a_token_of_every_kind_of_key_is_accepted_by_its_name_or_without() {
    let (keeper, url) = Keeper::start().await;
    keeper.keeps(&[("a", &SIGNERS[1]), ("b", &SIGNERS[2]), ("c", &SIGNERS[3])]);
    let verifier = verifier(Source::Url(url));

    for (id, signer) in [("a", &SIGNERS[1]), ("b", &SIGNERS[2]), ("c", &SIGNERS[3])] {
        assert_eq!(judge(&verifier, &token(signer, id)).await, Ok(()));
        assert_eq!(judge(&verifier, &signer.token(&json!({}))).await, Ok(()));
    }
    assert_eq!(
        judge(&verifier, &token(&SIGNERS[0], "a")).await,
        Ok(()),
        "keys of the settings are good beside it"
    );
    assert_eq!(keeper.asked(), 1);
}

#[tokio::test]
async fn a_name_selects_among_keys_and_makes_none_fit() {
    let (keeper, url) = Keeper::start().await;
    let other = Signer::p256();
    keeper.keeps(&[("a", &SIGNERS[2]), ("b", &other), ("c", &SIGNERS[3])]);
    let verifier = verifier(Source::Url(url));

    assert_eq!(judge(&verifier, &token(&SIGNERS[2], "b")).await, Err(TokenError::Signature));
    assert_eq!(judge(&verifier, &token(&other, "b")).await, Ok(()));
    let crossed = SIGNERS[2].sign(r#"{"alg":"EdDSA","kid":"a"}"#, "{}");
    assert!(judge(&verifier, &crossed).await.is_err());
    let public = Signer::text("HS256", &SIGNERS[2].jwk("a").to_string());
    assert_eq!(judge(&verifier, &token(&public, "a")).await, Err(TokenError::Signature));
}

#[tokio::test]
async fn a_key_that_was_rotated_in_is_looked_for_when_a_token_names_it() {
    let (keeper, url) = Keeper::start().await;
    let new = Signer::p256();
    keeper.keeps(&[("old", &SIGNERS[2])]);
    let verifier = verifier(Source::Url(url));
    assert_eq!(judge(&verifier, &token(&SIGNERS[2], "old")).await, Ok(()));
    keeper.keeps(&[("old", &SIGNERS[2]), ("new", &new)]);

    let early = judge(&verifier, &token(&new, "new")).await;
    assert_eq!((early, keeper.asked()), (Err(TokenError::KeysAway), 1), "it was just looked at");
    assert!(early.unwrap_err().is_retryable());
    pass(UNKNOWN_KEY_INTERVAL).await;

    assert_eq!(judge(&verifier, &token(&new, "new")).await, Ok(()));
    assert_eq!(keeper.asked(), 2);
}

#[tokio::test]
async fn a_key_that_was_rotated_in_is_looked_for_when_a_token_without_a_name_needs_it() {
    let (keeper, url) = Keeper::start().await;
    let new = Signer::p256();
    keeper.keeps(&[("old", &SIGNERS[2])]);
    let verifier = verifier(Source::Url(url));
    assert_eq!(judge(&verifier, &SIGNERS[2].token(&json!({}))).await, Ok(()));
    keeper.keeps(&[("old", &SIGNERS[2]), ("new", &new)]);

    let early = judge(&verifier, &new.token(&json!({}))).await;
    assert_eq!((early, keeper.asked()), (Err(TokenError::KeysAway), 1), "it was just looked at");
    pass(UNKNOWN_KEY_INTERVAL).await;

    assert_eq!(judge(&verifier, &new.token(&json!({}))).await, Ok(()));
    assert_eq!(keeper.asked(), 2);
}

#[tokio::test]
async fn many_tokens_without_a_name_that_nobody_signed_make_one_look() {
    let (keeper, url) = Keeper::start().await;
    keeper.keeps(&[("a", &SIGNERS[2])]);
    let verifier = verifier(Source::Url(url));
    assert_eq!(judge(&verifier, &token(&SIGNERS[2], "a")).await, Ok(()));
    pass(UNKNOWN_KEY_INTERVAL).await;

    let forged: Vec<_> = (0..50).map(|number| Signer::p256().token(&json!({ "id": number }))).collect();
    let judged = join_all(forged.iter().map(|token| judge(&verifier, token))).await;

    assert!(judged.iter().all(|judged| *judged == Err(TokenError::UnknownKey)), "{judged:?}");
    assert_eq!(keeper.asked(), 2);
    assert_eq!(judge(&verifier, &forged[0]).await, Err(TokenError::KeysAway));
    let by_text = Signer::text("HS256", "another text").token(&json!({}));
    assert_eq!(judge(&verifier, &by_text).await, Err(TokenError::Signature), "no set holds texts");
    assert_eq!(keeper.asked(), 2);
}

#[tokio::test]
async fn many_tokens_of_unknown_keys_make_one_look() {
    let (keeper, url) = Keeper::start().await;
    keeper.keeps(&[("a", &SIGNERS[2])]);
    let verifier = verifier(Source::Url(url));
    assert_eq!(judge(&verifier, &token(&SIGNERS[2], "a")).await, Ok(()));
    pass(UNKNOWN_KEY_INTERVAL).await;

    let tokens: Vec<_> = (0..50).map(|number| token(&SIGNERS[2], &format!("made up {number}"))).collect();
    let judged = join_all(tokens.iter().map(|token| judge(&verifier, token))).await;

    assert!(judged.iter().all(|judged| *judged == Err(TokenError::UnknownKey)), "{judged:?}");
    assert_eq!(keeper.asked(), 2);
    let at_once = timeout(Duration::from_secs(1), judge(&verifier, &tokens[0])).await;
    assert_eq!(at_once, Ok(Err(TokenError::KeysAway)));
    assert_eq!(judge(&verifier, &token(&SIGNERS[2], "a")).await, Ok(()));
    assert_eq!(keeper.asked(), 2);
}

#[tokio::test]
async fn a_client_that_leaves_does_not_break_a_look_off() {
    let (keeper, url) = Keeper::start().await;
    let verifier = verifier(Source::Url(url));
    assert_eq!(judge(&verifier, &token(&SIGNERS[2], "a")).await, Err(TokenError::UnknownKey));
    keeper.keeps(&[("a", &SIGNERS[2])]);
    pass(UNKNOWN_KEY_INTERVAL).await;

    let token = token(&SIGNERS[2], "a");
    {
        let mut leaving = std::pin::pin!(judge(&verifier, &token));
        assert!(futures_util::poll!(&mut leaving).is_pending());
    }

    assert_eq!(judge(&verifier, &token).await, Ok(()));
    assert_eq!(keeper.asked(), 2);
}

#[tokio::test]
async fn an_outage_keeps_the_keys_that_there_are() {
    let (keeper, url) = Keeper::start().await;
    keeper.keeps(&[("a", &SIGNERS[2])]);
    let verifier = verifier(Source::Url(url));
    assert_eq!(judge(&verifier, &token(&SIGNERS[2], "a")).await, Ok(()));
    keeper.fails();
    pass(REFRESH).await;

    assert_eq!(judge(&verifier, &token(&SIGNERS[2], "b")).await, Err(TokenError::KeysAway));
    assert_eq!(judge(&verifier, &token(&SIGNERS[2], "a")).await, Ok(()));
    assert_eq!(keeper.asked(), 2);
}

#[tokio::test]
async fn without_keys_a_token_may_be_tried_again_and_is_accepted_once_they_are_there() {
    let (keeper, url) = Keeper::start().await;
    keeper.fails();
    let verifier = verifier(Source::Url(url));
    let token = token(&SIGNERS[2], "a");
    assert_eq!(judge(&verifier, &token).await, Err(TokenError::KeysAway));
    assert_eq!(judge(&verifier, &SIGNERS[0].token(&json!({}))).await, Ok(()), "a text needs no set");
    keeper.keeps(&[("a", &SIGNERS[2])]);

    pass(RETRY_INTERVAL).await;

    until("the keys are there", async || judge(&verifier, &token).await == Ok(())).await;
    assert_eq!(keeper.asked(), 2);
}

#[tokio::test]
async fn a_key_that_was_taken_out_is_good_no_longer() {
    let (keeper, url) = Keeper::start().await;
    keeper.keeps(&[("a", &SIGNERS[2]), ("b", &SIGNERS[3])]);
    let verifier = verifier(Source::Url(url));
    assert_eq!(judge(&verifier, &token(&SIGNERS[2], "a")).await, Ok(()));
    keeper.keeps(&[]);

    pass(REFRESH).await;

    let token = token(&SIGNERS[2], "a");
    until("the key is gone", async || judge(&verifier, &token).await.is_err()).await;
    assert_eq!(judge(&verifier, &SIGNERS[3].token(&json!({}))).await, Err(TokenError::KeysAway));
    assert_eq!(keeper.asked(), 2);
}

#[tokio::test]
async fn a_file_is_read_as_a_url_is() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("jwks.json");
    let verifier = verifier(Source::File(path.clone()));
    assert_eq!(judge(&verifier, &token(&SIGNERS[1], "a")).await, Err(TokenError::KeysAway));

    std::fs::write(&path, set(&[("a", &SIGNERS[1])])).unwrap();
    pass(UNKNOWN_KEY_INTERVAL).await;

    assert_eq!(judge(&verifier, &token(&SIGNERS[1], "a")).await, Ok(()));
}

async fn read(source: Source) -> Result<Vec<Key>, JwksError> {
    Jwks::new(JwksConfig { source, refresh: REFRESH }).read().await
}

#[tokio::test]
async fn an_answer_that_is_no_set_is_an_error() {
    let (keeper, url) = Keeper::start().await;
    let answer = async |status: u16, text: &str| {
        *keeper.answer.lock() = (StatusCode::from_u16(status).unwrap(), text.to_owned());
        read(Source::Url(url.clone())).await
    };

    assert!(matches!(answer(200, r#"{"keys":[]}"#).await, Ok(keys) if keys.is_empty()));
    for text in ["", "<html>", "[]", "{}", r#"{"keys":{}}"#, r#"{"keys":[1]}"#] {
        assert!(matches!(answer(200, text).await, Err(JwksError::NotJwks(_))), "{text}");
    }
    let long = format!(r#"{{"keys":[],"pad":"{}"}}"#, "x".repeat(MAX_BYTES));
    assert!(matches!(answer(200, &long).await, Err(JwksError::TooLarge)));
    for status in [204, 302, 404, 503] {
        assert!(matches!(answer(status, r#"{"keys":[]}"#).await, Err(JwksError::Status(_))), "{status}");
    }
}

#[tokio::test]
async fn a_set_is_bounded_in_bytes_and_in_keys() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("jwks.json");
    let ids: Vec<_> = (0..=MAX_KEYS).map(|number| number.to_string()).collect();
    let keys: Vec<_> = ids.iter().map(|id| (id.as_str(), &SIGNERS[3])).collect();
    let text = set(&keys);

    std::fs::write(&path, &text).unwrap();
    assert_eq!(read(Source::File(path.clone())).await.unwrap().len(), MAX_KEYS);
    std::fs::write(&path, text + &" ".repeat(MAX_BYTES)).unwrap();
    assert!(matches!(read(Source::File(path)).await, Err(JwksError::TooLarge)));
}

#[tokio::test]
async fn a_keeper_that_does_not_answer_is_waited_for_five_seconds() {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", silent.local_addr().unwrap()).parse().unwrap();
    let verifier = verifier(Source::Url(url));
    pause();

    let begun = Instant::now();
    assert_eq!(judge(&verifier, &token(&SIGNERS[2], "a")).await, Err(TokenError::KeysAway));
    assert!((TIMEOUT..2 * TIMEOUT).contains(&begun.elapsed()));
}

#[test]
fn only_public_keys_for_signatures_are_taken() {
    let taken = |signer: &Signer, more: Value| {
        let mut jwk = signer.jwk("a");
        jwk.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let Value::Object(members) = jwk else { unreachable!() };
        Key::from_jwk(members).is_some()
    };
    let [text, rsa, p256, ed25519] = &*SIGNERS;

    for (signer, algorithm) in [(rsa, "RS256"), (p256, "ES256"), (ed25519, "EdDSA")] {
        assert!(taken(signer, json!({})));
        assert!(taken(signer, json!({ "alg": algorithm, "use": "sig", "key_ops": ["verify"] })));
        assert!(!taken(signer, json!({ "use": "enc" })));
        assert!(!taken(signer, json!({ "key_ops": ["sign"] })));
        assert!(!taken(signer, json!({ "key_ops": "verify" })));
        for other in ["HS256", "none", "RS512", "PS256", "ES384", "RSA-OAEP", ""] {
            assert!(!taken(signer, json!({ "alg": other })), "{other}");
        }
        for private in ["d", "p", "q", "dp", "dq", "qi", "oth", "k"] {
            assert!(!taken(signer, json!({ private: "AAAA" })), "{private}");
        }
        assert!(!taken(signer, json!({ "kty": "oct" })));
        assert!(!taken(signer, json!({ "kid": 1 })));
    }
    assert!(!taken(text, json!({})));
    assert!(!taken(p256, json!({ "crv": "P-384" })) && !taken(p256, json!({ "crv": "secp256k1" })));
    assert!(!taken(p256, json!({ "y": p256.jwk("a")["x"] })), "a point that isn't on the curve");
    assert!(!taken(ed25519, json!({ "x": "AAAA" })));
    assert!(!taken(rsa, json!({ "n": BASE64.encode([0xff; 128]) })), "of 1024 bits");
}

#[test]
fn only_plain_http_from_elsewhere_can_be_altered() {
    let can_be_altered = |source: &str| source.parse::<Source>().unwrap().can_be_altered();
    for url in ["http://idp.example.com/keys", "HTTP://10.0.0.1/", "http://localhost.example.com/"] {
        assert!(can_be_altered(url), "{url}");
    }
    for safe in [
        "keys.json",
        "https://idp.example.com/keys",
        "http://localhost:8080/",
        "http://127.8.0.1/",
        "http://[::1]:80/",
    ] {
        assert!(!can_be_altered(safe), "{safe}");
    }
}

#[test]
fn a_source_is_a_file_or_a_url_without_a_password() {
    assert_eq!("keys/jwks.json".parse(), Ok(Source::File("keys/jwks.json".into())));
    let url: Source = "https://idp.example.com/keys?token=s3cret".parse().unwrap();
    assert_eq!(url.to_string(), "https://idp.example.com/keys");
    for wrong in
        ["ftp://example.com/", "https://user:s3cret@example.com/", "file:///keys", "https:// x", "http://"]
    {
        assert_eq!(wrong.parse::<Source>(), Err(SourceError), "{wrong}");
    }
}
