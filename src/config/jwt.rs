use jsonwebtoken::Algorithm;
use secrecy::{ExposeSecret, SecretString};

use super::{Values, duration};
use crate::identity::jwt::{JwksConfig, JwtConfig, Key, KeyKind, Source};

/// All that can be accepted, by the names that tokens give them.
const ALGORITHMS: [(&str, Algorithm); 6] = [
    ("HS256", Algorithm::HS256),
    ("HS384", Algorithm::HS384),
    ("HS512", Algorithm::HS512),
    ("RS256", Algorithm::RS256),
    ("ES256", Algorithm::ES256),
    ("EdDSA", Algorithm::EdDSA),
];

/// Settings that say something about tokens and are nothing without a key.
const DETAILS: [&str; 3] = ["jwt-algorithms", "jwt-audience", "jwt-issuer"];

/// How tokens are judged; none where there is nothing to judge them by. Of `--secret` alone, which
/// has other purposes, a token that is shown is judged, and none is asked for.
pub fn jwt(values: &mut Values) -> Option<JwtConfig> {
    let refresh = values.parse("jwks-refresh", |text| match duration(text)? {
        interval if interval.as_secs() == 0 => Err("it must be a second at least".into()),
        interval => Ok(interval),
    });
    let leeway = values.parse("jwt-leeway", duration);
    let source = values.optional("jwks", |text| text.parse::<Source>().map_err(|error| error.to_string()));
    let jwks = source.map(|source| JwksConfig { source, refresh });
    let asked_for = key_setting(values) == "jwt-key";
    let keys = keys(values);
    if keys.is_empty() && jwks.is_none() {
        for key in DETAILS.into_iter().filter(|key| values.is_given(key)).collect::<Vec<_>>() {
            values.complain(format!("{} is nothing without --jwt-key, --jwks or --secret", values.name(key)));
        }
        return None;
    }
    Some(JwtConfig {
        algorithms: algorithms(values, &keys, jwks.is_some()),
        audience: values.list("jwt-audience"),
        issuer: values.optional("jwt-issuer", |text| Ok(text.to_owned())),
        keys,
        jwks,
        leeway,
        asked_for,
    })
}

/// What `tablecast token` signs with: the first key, if that is a text.
pub fn signing_secret(values: &mut Values) -> Option<SecretString> {
    let first = values.secrets(key_setting(values)).into_iter().next();
    let is_text = |secret: &SecretString| {
        Key::parse(secret.expose_secret()).is_ok_and(|key| key.kind() == KeyKind::Text)
    };
    let secret = first.filter(is_text);
    if secret.is_none() {
        values.complain("a token is made with a text that both sides know: --jwt-key, or --secret where neither --jwt-key nor --jwks is set".into());
    }
    secret
}

/// `--secret` judges no tokens where keys of their own are given.
fn key_setting(values: &Values) -> &'static str {
    if values.is_given("jwt-key") || values.is_given("jwks") { "jwt-key" } else { "secret" }
}

fn keys(values: &mut Values) -> Vec<Key> {
    let setting = key_setting(values);
    let texts = values.secrets(setting);
    let mut keys = Vec::new();
    for (number, text) in (1..).zip(&texts) {
        match Key::parse(text.expose_secret()) {
            Ok(key) => keys.push(key),
            Err(error) => {
                let which = if texts.len() == 1 { String::new() } else { format!(", number {number}") };
                values.complain(format!("{}{which}: {error}", values.name(setting)));
            }
        }
    }
    keys
}

/// Those that are named, each of which must have a key and each key one of them; else what fits
/// the keys.
fn algorithms(values: &mut Values, keys: &[Key], with_jwks: bool) -> Vec<Algorithm> {
    let given: Vec<_> =
        KeyKind::ALL.into_iter().filter(|kind| keys.iter().any(|key| key.kind() == *kind)).collect();
    let expected: Vec<_> = KeyKind::ALL
        .into_iter()
        .filter(|kind| given.contains(kind) || with_jwks && kind.is_public())
        .collect();
    let named = values.list("jwt-algorithms");
    if named.is_empty() {
        return expected.iter().map(|kind| kind.algorithms()[0]).collect();
    }
    let setting = values.name("jwt-algorithms");
    let mut algorithms = Vec::new();
    for name in &named {
        match ALGORITHMS.iter().find(|(known, _)| known == name) {
            Some((_, algorithm)) if expected.iter().any(|kind| kind.algorithms().contains(algorithm)) => {
                algorithms.push(*algorithm);
            }
            Some(_) => {
                values.complain(format!("{setting} {name:?}: no key is given that it can be used with"))
            }
            None => {
                let known = ALGORITHMS.map(|(name, _)| name).join(", ");
                values.complain(format!("{setting} {name:?}: it must be of {known}"));
            }
        }
    }
    for kind in given {
        if !kind.algorithms().iter().any(|algorithm| algorithms.contains(algorithm)) {
            let fitting = ALGORITHMS.iter().filter(|(_, algorithm)| kind.algorithms().contains(algorithm));
            let fitting: Vec<_> = fitting.map(|(name, _)| *name).collect();
            values.complain(format!(
                "{setting}: a key is given that none of them can be used with, but {}",
                fitting.join(", ")
            ));
        }
    }
    algorithms
}

#[cfg(test)]
mod tests {
    use clap::Command;

    use super::super::{Group, args};
    use super::*;

    fn values(arguments: &[&str]) -> Values {
        let command = Command::new("test").no_binary_name(true).args(args(&Group::ALL));
        Values::isolated(&command.get_matches_from(arguments))
    }

    fn resolve(arguments: &[&str]) -> Result<Option<JwtConfig>, String> {
        let mut values = values(arguments);
        let config = jwt(&mut values);
        values.finish().map(|()| config).map_err(|error| error.to_string())
    }

    fn kinds(config: &JwtConfig) -> Vec<KeyKind> {
        config.keys.iter().map(Key::kind).collect()
    }

    fn p256() -> String {
        rcgen::KeyPair::generate().unwrap().public_key_pem()
    }

    #[test]
    fn without_a_key_no_token_is_judged() {
        assert!(resolve(&[]).unwrap().is_none());

        let said = resolve(&["--jwt-issuer=a", "--jwt-audience=b", "--jwt-algorithms=HS256"]).unwrap_err();
        let flags = ["--jwt-algorithms", "--jwt-audience", "--jwt-issuer"];
        assert_eq!(said.lines().count(), 3, "{said}");
        assert!(
            flags.iter().all(|flag| said.contains(&format!("{flag} is nothing without --jwt-key"))),
            "{said}"
        );
    }

    #[test]
    fn the_secret_judges_tokens_and_asks_for_none() {
        let config = resolve(&["--secret=s3Krit"]).unwrap().unwrap();
        assert!(!config.asked_for);
        assert_eq!((kinds(&config), config.algorithms), (vec![KeyKind::Text], vec![Algorithm::HS256]));
    }

    #[test]
    fn keys_of_their_own_ask_for_tokens_and_the_secret_judges_none() {
        let config =
            resolve(&["--secret=s3Krit", "--jwt-key=one, two", "--jwt-key", &p256()]).unwrap().unwrap();
        assert!(config.asked_for);
        assert_eq!(kinds(&config), [KeyKind::Text, KeyKind::P256]);
        assert_eq!(config.algorithms, [Algorithm::HS256, Algorithm::ES256]);

        let config = resolve(&["--secret=s3Krit", "--jwks=https://idp.example.com/keys"]).unwrap().unwrap();
        assert!(config.asked_for && config.keys.is_empty() && config.jwks.is_some());
        assert_eq!(config.algorithms, [Algorithm::RS256, Algorithm::ES256, Algorithm::EdDSA]);
    }

    #[test]
    fn algorithms_are_those_that_are_named() {
        let config = resolve(&["--jwt-key=a", "--jwt-algorithms=HS384, HS512"]).unwrap().unwrap();
        assert_eq!(config.algorithms, [Algorithm::HS384, Algorithm::HS512]);

        let said = |arguments: &[&str]| resolve(arguments).unwrap_err();
        for name in ["none", "RS512", "hs256", "PS256"] {
            let said = said(&["--jwt-key=a", &format!("--jwt-algorithms=HS256,{name}")]);
            assert_eq!(
                said,
                format!("--jwt-algorithms {name:?}: it must be of HS256, HS384, HS512, RS256, ES256, EdDSA")
            );
        }
        assert_eq!(
            said(&["--jwt-key=a", "--jwt-algorithms=HS256,RS256"]),
            "--jwt-algorithms \"RS256\": no key is given that it can be used with"
        );
        assert_eq!(
            said(&["--jwt-key=a", "--jwks=keys.json", "--jwt-algorithms=RS256"]),
            "--jwt-algorithms: a key is given that none of them can be used with, but HS256, HS384, HS512"
        );
    }

    #[test]
    fn a_key_that_is_none_is_told_by_its_place_and_never_shown() {
        let private = rcgen::KeyPair::generate().unwrap().serialize_pem();
        let said = resolve(&["--jwt-key=s3cret", "--jwt-key", &private, "--jwt-key="]).unwrap_err();
        assert!(said.contains("--jwt-key, number 2: it is a private key"), "{said}");
        assert!(said.contains("--jwt-key, number 3: it is empty"), "{said}");
        assert!(!said.contains("s3cret") && !said.contains(private.lines().nth(1).unwrap()), "{said}");
    }

    #[test]
    fn a_token_is_made_with_the_first_text_that_judges_them() {
        let secret = |arguments: &[&str]| {
            let mut values = values(arguments);
            let secret = signing_secret(&mut values);
            values.finish().ok().and(secret).map(|secret| secret.expose_secret().to_owned())
        };
        assert_eq!(secret(&["--secret=s", "--jwt-key=a,b", "--jwt-key=c"]).as_deref(), Some("a,b"));
        assert_eq!(secret(&["--secret=s"]).as_deref(), Some("s"));
        assert_eq!(secret(&["--secret=s", "--jwks=keys.json"]), None);
        assert_eq!(secret(&["--jwt-key", &p256()]), None);
        assert_eq!(secret(&[]), None);
    }

    #[test]
    fn times_have_their_bounds() {
        assert!(resolve(&["--jwt-key=a", "--jwks-refresh=1s", "--jwt-leeway=0s"]).is_ok());
        assert!(resolve(&["--jwt-key=a", "--jwks-refresh=999ms"]).unwrap_err().contains("a second at least"));
    }
}
