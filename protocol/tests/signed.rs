//! Names of streams, as Turbo and AnyCable sign them.

use std::time::{Duration, SystemTime};

use data_encoding::HEXLOWER;
use proptest::prelude::*;
use tablecast_protocol::signed::{Digest, SignedError, StreamKeys, Verifier};

/// What Rails derives for Turbo from the secret `0123456789abcdef`, eight times, with SHA256 and
/// with SHA1.
const TURBO_SHA256: &str = "7abcd5758752313f1d691ad878b93c5c7e9bf71bd853e9b10c3d2861233525e898d0a04aae89abc8b5da1e1ccbd749cccb3a93a9900de3d53189b40191b5a460";
const TURBO_SHA1: &str = "f2162065152bf45163868492b2f081295f938a68f7a18b6d40bc9d15e94b8ea0819b3011cf2f3c1b9228b8e722f706453e0257e9da2530eee8d59875740244a1";

fn turbo(key: &str) -> Verifier {
    Verifier::new(&HEXLOWER.decode(key.as_bytes()).unwrap(), Digest::Sha256)
}

fn anycable() -> Verifier {
    Verifier::new(b"s3Krit", Digest::Sha256)
}

fn verify(key: Verifier, token: &str) -> Result<String, SignedError> {
    StreamKeys::new(vec![key]).verify(token, SystemTime::UNIX_EPOCH)
}

#[test]
fn names_that_turbo_signed_are_read_and_signed_the_same() {
    for (key, name, token) in [
        (
            TURBO_SHA256,
            "room:1",
            "InJvb206MSI=--6c1d76619bdd8f1cfaa726276cdfb81418c54a5c1d340ae14732232ed19c41d1",
        ),
        (
            TURBO_SHA256,
            "Z2lkOi8vVGVzdEFwcC9Qb3N0LzE:é<b>",
            "IloybGtPaTh2VkdWemRFRndjQzlRYjNOMEx6RTrDqTxiPiI=--824638a75c55cc5f08dd84b092cf195e97a44ff0433e6c87bcdb80a3079a6605",
        ),
        (
            TURBO_SHA1,
            "room:1",
            "InJvb206MSI=--dc696cc67ba5ca69669375998b83977d6c10cada49e13664be787f1d40bdc53e",
        ),
    ] {
        assert_eq!(verify(turbo(key), token).as_deref(), Ok(name));
        assert_eq!(turbo(key).sign(name, None), token);
    }
    let url_safe = "InJvb20_Pn7DqTEi--e1895f14f07a3b5a6f0f88d62e33fb4dbf2ca1137e5053925d8baf08b111e279";
    assert_eq!(verify(turbo(TURBO_SHA256), url_safe).as_deref(), Ok("room?>~é1"));
}

#[test]
fn names_that_anycable_signed_are_read_and_signed_the_same() {
    for (name, token) in [
        ("chat:2021", "ImNoYXQ6MjAyMSI=--f9ee45dbccb1da04d8ceb99cc820207804370ba0d06b46fc3b8b373af1315628"),
        ("chat/2023", "ImNoYXQvMjAyMyI=--2b2e054b6413bf3bc7e8bbad2f68962aa2ba19821800ccbd8de6fd7314e8320c"),
        ("x?>~é1", "Ing/Pn7DqTEi--3b5d8ace83d6dfa2f8759f228511ee9ddaf99d82b3b528d91d2e1e0de8793bb6"),
    ] {
        assert_eq!(verify(anycable(), token).as_deref(), Ok(name));
        assert_eq!(anycable().sign(name, None), token);
    }
    let url_safe = "Ing_Pn7DqTEi--359400324116bb7f8dddb44a46faa811a4a325ff2a20a4f2da0d9fea9a3810c2";
    assert_eq!(verify(anycable(), url_safe).as_deref(), Ok("x?>~é1"));
}

#[test]
fn only_a_text_names_a_stream() {
    let array =
        "WyJjaGF0LzIwMjMiLDE2ODUwMjQwMTdd--5b6661024d4c463c4936cd1542bc9a7672dd8039ac407d0b6c901697190e8aeb";
    assert_eq!(verify(anycable(), array), Err(SignedError::Name));
}

#[test]
fn the_digest_is_of_lowercase_digits_and_of_all_of_them() {
    let (text, digest) = ("InJvb206MSI=", "6c1d76619bdd8f1cfaa726276cdfb81418c54a5c1d340ae14732232ed19c41d1");
    let refused = |token: &str| verify(turbo(TURBO_SHA256), token).unwrap_err();

    assert_eq!(refused(&format!("{text}--{}", digest.to_uppercase())), SignedError::WrongKey);
    assert_eq!(refused(&format!("{text}--{}", &digest[1..])), SignedError::Unsigned);
    assert_eq!(refused(&format!("{text}-{digest}")), SignedError::Unsigned);
    assert_eq!(refused(&format!("{text}--{digest}--{digest}")), SignedError::WrongKey);
    for token in ["", "--", digest, &format!("--{digest}"), text] {
        assert_eq!(refused(token), SignedError::Unsigned, "{token}");
    }
}

#[test]
fn a_name_that_expires_is_written_as_rails_does() {
    let in_2036 = SystemTime::UNIX_EPOCH + Duration::from_secs(2_082_758_400);
    assert_eq!(
        turbo(TURBO_SHA256).sign("room:1", Some(in_2036)),
        "eyJfcmFpbHMiOnsiZGF0YSI6InJvb206MSIsImV4cCI6IjIwMzYtMDEtMDFUMDA6MDA6MDAuMDAwWiJ9fQ==--9363c864a1be28c79095d90b06dda9c08874b5f22db9bb555d74bba5176cd288"
    );
}

#[test]
fn the_first_key_signs_and_each_verifies() {
    let keys = StreamKeys::new(vec![turbo(TURBO_SHA256), anycable()]);
    let now = SystemTime::UNIX_EPOCH;

    assert_eq!(keys.sign("a", None), Some(turbo(TURBO_SHA256).sign("a", None)));
    assert_eq!(keys.verify(&anycable().sign("a", None), now).as_deref(), Ok("a"));
    assert_eq!(keys.verify(&turbo(TURBO_SHA1).sign("a", None), now), Err(SignedError::WrongKey));

    let none = StreamKeys::default();
    assert_eq!(none.sign("a", None), None);
    assert_eq!(none.verify(&anycable().sign("a", None), now), Err(SignedError::WrongKey));
}

#[test]
fn a_time_that_no_calendar_holds_is_the_last_one() {
    let expires = SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(1 << 40)).unwrap();
    let keys = StreamKeys::new(vec![anycable()]);
    let token = keys.sign("a", Some(expires)).unwrap();
    assert_eq!(keys.verify(&token, SystemTime::UNIX_EPOCH).as_deref(), Ok("a"));
}

proptest! {
    #[test]
    fn a_signed_name_is_good_under_its_key_alone(name in ".*", key in prop::collection::vec(any::<u8>(), 0..100)) {
        let now = SystemTime::UNIX_EPOCH;
        let (own, other) = (Verifier::new(&key, Digest::Sha256), Verifier::new(b"another", Digest::Sha256));
        let token = own.sign(&name, None);

        prop_assert_eq!(verify(own, &token), Ok(name));
        prop_assert_eq!(StreamKeys::new(vec![other]).verify(&token, now), Err(SignedError::WrongKey));
    }

    #[test]
    fn a_signed_name_is_good_until_it_expires(name in ".*", expires in 1..4_000_000_000_000u64, early in 1..1_000_000u64, late in 1..1_000_000u64) {
        let at = |milliseconds| SystemTime::UNIX_EPOCH + Duration::from_millis(milliseconds);
        let keys = StreamKeys::new(vec![anycable()]);
        let token = keys.sign(&name, Some(at(expires))).unwrap();

        for good in [expires - 1, expires.saturating_sub(early)] {
            prop_assert_eq!(keys.verify(&token, at(good)), Ok(name.clone()));
        }
        for over in [expires, expires + late] {
            prop_assert_eq!(keys.verify(&token, at(over)), Err(SignedError::Expired));
        }
    }

    #[test]
    fn whatever_stands_for_a_token_is_refused(token in ".*") {
        prop_assert!(verify(anycable(), &token).is_err());
    }
}
