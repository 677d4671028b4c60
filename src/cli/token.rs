use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, anyhow};
use clap::{Arg, ArgAction, ArgMatches, Command};
use jsonwebtoken::{AlgorithmFamily, EncodingKey, Header, encode};
use secrecy::ExposeSecret;
use serde_json::{Map, Value, json};

use super::{Failure, Outcome, finish};
use crate::config::{Group, Values, args, jwt, signing_secret};
use crate::identity::jwt::JwtConfig;

pub fn command() -> Command {
    Command::new("token")
        .about("Make a JWT that a server with these settings accepts, and print it")
        .long_about(
            "Makes a JWT with the first --jwt-key, else with --secret, for trying things out or where a program \
             can't make its own. It is for the first --jwt-audience and from --jwt-issuer where they are set and \
             the claims don't say otherwise.",
        )
        .arg(
            Arg::new("claims")
                .value_name("CLAIMS")
                .help(r#"What the token says, a JSON object: '{"id":42}'"#),
        )
        .arg(
            Arg::new("claim")
                .long("claim")
                .value_name("NAME=VALUE")
                .action(ArgAction::Append)
                .conflicts_with("claims")
                .help("One claim, a text; it can be repeated"),
        )
        .arg(
            Arg::new("expires")
                .long("expires")
                .value_name("TIME")
                .default_value("1h")
                .value_parser(|text: &str| humantime::parse_duration(text))
                .help("How long it is good, where the claims have no exp"),
        )
        .arg(
            Arg::new("anycable")
                .long("anycable")
                .action(ArgAction::SetTrue)
                .help("In AnyCable's form: the claims are the text of ext, the connection's identifiers"),
        )
        .args(args(&[Group::Connecting, Group::Publishing, Group::Operation]))
}

pub fn run(matches: &ArgMatches, mut values: Values) -> Outcome {
    let secret = signing_secret(&mut values);
    let config = jwt(&mut values);
    finish(values)?;
    let (secret, config) = secret.zip(config).expect("without them the settings are wrong");
    let claims = claims(matches).map_err(Failure::Usage)?;
    let lasts = *matches.get_one::<Duration>("expires").expect("it has a default");
    let expires = (SystemTime::now().duration_since(UNIX_EPOCH)?.checked_add(lasts))
        .ok_or_else(|| Failure::Usage(anyhow!("--expires is too long")))?;
    let claims = complete(claims, matches.get_flag("anycable"), expires.as_secs(), &config);
    let texts = config.algorithms.iter().find(|algorithm| algorithm.family() == AlgorithmFamily::Hmac);
    let algorithm = texts.expect("a key without an algorithm is wrong");
    println!(
        "{}",
        encode(
            &Header::new(*algorithm),
            &claims,
            &EncodingKey::from_secret(secret.expose_secret().as_bytes())
        )?
    );
    Ok(())
}

fn claims(matches: &ArgMatches) -> anyhow::Result<Map<String, Value>> {
    if let Some(text) = matches.get_one::<String>("claims") {
        return serde_json::from_str(text).context("the claims are no JSON object");
    }
    let pairs = matches.get_many::<String>("claim").unwrap_or_default();
    let pair = |text: &String| {
        let (name, value) =
            text.split_once('=').with_context(|| format!("--claim {text}: it is NAME=VALUE"))?;
        Ok((name.to_owned(), Value::from(value)))
    };
    pairs.map(pair).collect()
}

/// With what a token has besides.
fn complete(
    claims: Map<String, Value>,
    as_anycable: bool,
    expires: u64,
    config: &JwtConfig,
) -> Map<String, Value> {
    let mut claims = if as_anycable {
        Map::from_iter([("ext".to_owned(), json!(Value::Object(claims).to_string()))])
    } else {
        claims
    };
    let mut default = |name: &str, value: Option<Value>| {
        if let Some(value) = value {
            claims.entry(name).or_insert(value);
        }
    };
    default("exp", Some(expires.into()));
    default("aud", config.audience.first().map(|name| json!(name)));
    default("iss", config.issuer.as_ref().map(|name| json!(name)));
    claims
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::jwt::{Algorithm, Key};

    fn config(audience: &[&str], issuer: Option<&str>) -> JwtConfig {
        JwtConfig {
            keys: vec![Key::parse("a text").unwrap()],
            jwks: None,
            algorithms: vec![Algorithm::HS256],
            audience: audience.iter().map(|&name| name.to_owned()).collect(),
            issuer: issuer.map(str::to_owned),
            leeway: Duration::ZERO,
            asked_for: true,
        }
    }

    fn given(arguments: &[&str]) -> anyhow::Result<Value> {
        claims(&command().no_binary_name(true).get_matches_from(arguments)).map(Value::Object)
    }

    #[test]
    fn claims_are_an_object_or_pairs() {
        assert_eq!(given(&[r#"{"id":42}"#]).unwrap(), json!({ "id": 42 }));
        assert_eq!(given(&["--claim=id=42", "--claim=a=b=c"]).unwrap(), json!({ "id": "42", "a": "b=c" }));
        assert_eq!(given(&[]).unwrap(), json!({}));
        assert!(given(&["[1]"]).is_err() && given(&["--claim=id"]).is_err());
    }

    #[test]
    fn a_token_says_what_its_judge_asks_for_unless_its_claims_do() {
        let Value::Object(claims) = json!({ "id": 42, "iss": "own" }) else { unreachable!() };
        let config = config(&["cable", "other"], Some("app"));

        let plain = Value::Object(complete(claims.clone(), false, 7, &config));
        assert_eq!(plain, json!({ "id": 42, "iss": "own", "aud": "cable", "exp": 7 }));
        let anycable = Value::Object(complete(claims, true, 7, &config));
        let ext = r#"{"id":42,"iss":"own"}"#;
        assert_eq!(anycable, json!({ "ext": ext, "iss": "app", "aud": "cable", "exp": 7 }));
    }
}
