//! Signed stream names and JWTs: those that `tablecast sign` makes, and those of the lines in
//! docs/signing.md.

use std::path::Path;
use std::process::{Command, Output};
use std::time::{Duration, SystemTime};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use tablecast::identity::jwt::{Algorithm, JwtConfig, Key, Verifier};

use crate::support::tablecast;

/// Names that Rails and AnyCable have signed.
const SECRET_KEY_BASE: (&str, &str) = (
    "SECRET_KEY_BASE",
    "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef\
     0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef",
);
const TURBO_SIGNED: &str = "InJvb206MSI=--6c1d76619bdd8f1cfaa726276cdfb81418c54a5c1d340ae14732232ed19c41d1";
const TURBO_SIGNED_SHA1: &str =
    "InJvb206MSI=--dc696cc67ba5ca69669375998b83977d6c10cada49e13664be787f1d40bdc53e";
const SECRET: (&str, &str) = ("TABLECAST_SECRET", "s3Krit");
const ANYCABLE_SIGNED: &str =
    "ImNoYXQ6MjAyMSI=--f9ee45dbccb1da04d8ceb99cc820207804370ba0d06b46fc3b8b373af1315628";

const JWT_KEY: &str = "a key of thirty-two bytes or more";

fn sign(arguments: &[&str], environment: &[(&str, &str)]) -> Output {
    let folder = tempfile::tempdir().unwrap();
    let mut command = tablecast();
    command.arg("sign").args(arguments).envs(environment.iter().copied()).current_dir(folder.path());
    command.output().unwrap()
}

fn signed(arguments: &[&str], environment: &[(&str, &str)]) -> String {
    let output = sign(arguments, environment);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let line = String::from_utf8(output.stdout).unwrap();
    line.strip_suffix('\n').expect("it is a line").to_owned()
}

/// What is said of a command line that can't be done, with nothing on standard output.
fn refusal(arguments: &[&str], environment: &[(&str, &str)]) -> String {
    let output = sign(arguments, environment);
    assert_eq!((output.status.code(), output.stdout.as_slice()), (Some(2), &b""[..]));
    String::from_utf8(output.stderr).unwrap()
}

#[test]
fn a_name_is_signed_with_the_one_key_that_is_there() {
    assert_eq!(signed(&["room:1"], &[SECRET_KEY_BASE]), TURBO_SIGNED);
    assert_eq!(signed(&["room:1", "--rails-key-digest=sha1"], &[SECRET_KEY_BASE]), TURBO_SIGNED_SHA1);
    assert_eq!(signed(&["chat:2021"], &[SECRET]), ANYCABLE_SIGNED);
    // With AnyCable Turbo signs with its secret too.
    assert_eq!(signed(&["chat:2021", "--turbo"], &[SECRET]), ANYCABLE_SIGNED);
}

#[test]
fn of_two_keys_a_flag_says_which_one_signs() {
    let both = [SECRET_KEY_BASE, SECRET];

    assert_eq!(signed(&["room:1", "--turbo"], &both), TURBO_SIGNED);
    assert_eq!(signed(&["chat:2021", "--anycable"], &both), ANYCABLE_SIGNED);
    let said = refusal(&["room:1"], &both);
    for named in ["--turbo", "--secret-key-base", "--anycable", "--secret "] {
        assert!(said.contains(named), "{named} in {said}");
    }
    refusal(&["room:1", "--turbo", "--anycable"], &both);
}

#[test]
fn a_key_that_is_missing_is_named() {
    let said = refusal(&["room:1"], &[]);
    assert!(said.contains("--secret-key-base (SECRET_KEY_BASE)") && said.contains("--secret "), "{said}");
    let said = refusal(&["room:1", "--turbo"], &[]);
    assert!(said.contains("--turbo signs with --secret-key-base"), "{said}");
    let said = refusal(&["room:1", "--anycable"], &[SECRET_KEY_BASE]);
    assert!(said.contains("--anycable signs with --secret (TABLECAST_SECRET)"), "{said}");
}

#[test]
fn a_name_that_no_stream_has_is_not_signed() {
    for name in ["", "action_cable/1", &"a".repeat(1025)] {
        let said = refusal(&[name], &[SECRET]);
        assert!(said.contains("stream"), "{said}");
    }
}

#[test]
fn a_name_expires_when_it_is_told_to() {
    let token = signed(&["room:1", "--expires=1h"], &[SECRET]);
    let (text, _) = token.split_once("--").unwrap();
    let envelope: Value = serde_json::from_slice(&STANDARD.decode(text).unwrap()).unwrap();

    assert_eq!(envelope["_rails"]["data"], "room:1");
    let expires = humantime::parse_rfc3339(envelope["_rails"]["exp"].as_str().unwrap()).unwrap();
    let lasts = expires.duration_since(SystemTime::now()).unwrap();
    assert!((3590..=3600).contains(&lasts.as_secs()), "{lasts:?}");
    refusal(&["room:1", "--expires=soon"], &[SECRET]);
    refusal(&["room:1", "--expires=580000000000y"], &[SECRET]);
}

/// The page's lines in one language for one purpose, which stand behind ```` ``` ```` in its mark.
fn lines(mark: &str) -> String {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/signing.md");
    let page = std::fs::read_to_string(page).unwrap();
    let (_, block) = page.split_once(&format!("```{mark}\n")).expect("the page has it");
    block.split_once("```\n").unwrap().0.to_owned()
}

/// The two lines that a program of the page prints.
fn printed(program: &mut Command) -> [String; 2] {
    let environment = [SECRET_KEY_BASE, SECRET, ("TABLECAST_JWT_KEY", JWT_KEY)];
    let output = program.envs(environment).output().unwrap_or_else(|error| panic!("{program:?}: {error}"));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let lines: Vec<_> = String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect();
    lines.try_into().expect("it prints two lines")
}

fn run(language: &str, source: &str) -> [String; 2] {
    let folder = tempfile::tempdir().unwrap();
    let file = |ending: &str| {
        let path = folder.path().join(format!("page.{ending}"));
        std::fs::write(&path, source).unwrap();
        path
    };
    match language {
        "ruby" => printed(Command::new("ruby").arg(file("rb"))),
        "python" => printed(Command::new("python3").arg(file("py"))),
        "js" => printed(Command::new("node").arg(file("mjs"))),
        "go" => {
            // Apart from what the user's own settings of Go say.
            let cache = Path::new(env!("CARGO_TARGET_TMPDIR")).join("go-build");
            let mut go = Command::new("go");
            go.arg("run").arg(file("go")).env("GOCACHE", cache).env("GOFLAGS", "").env("GOWORK", "off");
            printed(&mut go)
        }
        _ => unreachable!("the page has no lines in {language}"),
    }
}

fn the_page_signs_names(language: &str) {
    let source = lines(&format!("{language} name"));
    for name in ["progress:42", "straße 7/ü?~ÿ"] {
        let [turbo, anycable] = run(language, &source.replace("progress:42", name));

        let both = [SECRET_KEY_BASE, SECRET];
        assert_eq!(turbo, signed(&[name, "--turbo"], &both), "{language}");
        assert_eq!(anycable, signed(&[name, "--anycable"], &both), "{language}");
    }
}

fn the_page_makes_tokens(language: &str) {
    let key = Key::parse(JWT_KEY).unwrap();
    let verifier = Verifier::new(JwtConfig {
        keys: vec![key],
        jwks: None,
        algorithms: vec![Algorithm::HS256],
        audience: Vec::new(),
        issuer: None,
        leeway: Duration::ZERO,
        asked_for: true,
    });
    let now = SystemTime::now();

    let tokens = run(language, &lines(&format!("{language} token")));

    let [own, anycable] = tokens.map(|token| verifier.verify(&token, now).unwrap());
    let lasts = own.expires.unwrap().duration_since(now).unwrap();
    assert!((3590..3660).contains(&lasts.as_secs()), "{language}: {lasts:?}");
    assert_eq!((&own.claims["sub"], own.name.as_deref()), (&json!("42"), Some("42")), "{language}");
    assert_eq!(anycable.name.as_deref(), Some(r#"{"user_id":"42"}"#), "{language}");
    assert_eq!(Value::from(anycable.claims), json!({"user_id": "42"}), "{language}");
    assert_eq!(anycable.expires, own.expires, "{language}");
}

#[test]
fn the_pages_lines_of_ruby_do_what_they_say() {
    the_page_signs_names("ruby");
    the_page_makes_tokens("ruby");
}

#[test]
fn the_pages_lines_of_python_do_what_they_say() {
    the_page_signs_names("python");
    the_page_makes_tokens("python");
}

#[test]
fn the_pages_lines_for_node_do_what_they_say() {
    the_page_signs_names("js");
    the_page_makes_tokens("js");
}

#[test]
fn the_pages_lines_of_go_do_what_they_say() {
    the_page_signs_names("go");
    the_page_makes_tokens("go");
}
