//! `verify-cookie`, on cookies that Rails wrote.

use std::io::Write;
use std::path::Path;
use std::process::{Output, Stdio};

use serde_json::Value;

use crate::support::tablecast;

const SECRET: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

/// Another application's, or what it had before.
const OTHER: &str = "b2c1a4f0e9d8c7b6a59483726150403f2e1d0c1b2a39485766758493a2b1c0dfeedface0badc0ffee0ddf00d1234567890abcdefdeadbeefcafebabe00112233";

/// The Cookie header of one of the vectors.
fn header(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors/rails.json");
    let vectors: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    let vector = vectors.as_array().unwrap().iter().find(|vector| vector["name"] == name).unwrap();
    vector["cookie_header"].as_str().unwrap().to_owned()
}

fn verify(value: &str, arguments: &[&str]) -> (i32, String) {
    let output = tablecast()
        .arg("verify-cookie")
        .args(arguments)
        .args(["--secret-key-base", SECRET, "--secret-key-base", OTHER, value])
        .current_dir(std::env::temp_dir())
        .output()
        .unwrap();
    said(&output)
}

fn said(output: &Output) -> (i32, String) {
    let text = [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text));
    (output.status.code().unwrap(), text.concat())
}

#[test]
fn a_good_cookie_is_told_with_its_key_and_its_id() {
    let header = header("signed-int-permanent");
    let expected = "the cookie session_id is good: key 1 of --secret-key-base, derived with sha256, signed with sha1\nid: 42\n";

    let whole = format!("Cookie: a=1; {header}");
    let bare = header.strip_prefix("session_id=").unwrap();
    for value in [&header, &whole, bare, &bare.replace("%3D", "=")] {
        assert_eq!(verify(value, &["--rails-cookie=signed:session_id"]), (0, expected.to_owned()));
    }
}

#[test]
fn a_value_comes_from_standard_input_too() {
    let mut child = tablecast()
        .args(["verify-cookie", "--rails-cookie=signed:session_id", "-"])
        .env("SECRET_KEY_BASE", SECRET)
        .current_dir(std::env::temp_dir())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = child.stdin.take().unwrap();
    writeln!(input, "{}", header("signed-int-permanent")).unwrap();
    drop(input);

    let (code, said) = said(&child.wait_with_output().unwrap());
    assert!(code == 0 && said.ends_with("id: 42\n"), "{said}");
}

#[test]
fn the_settings_that_read_a_cookie_are_named() {
    for (vector, cookie, flags, key) in [
        ("ld61-json-signed", "signed:session_id", "--rails-key-digest sha1", 1),
        ("sha256-digest-signed", "signed:session_id", "--rails-cookie-digest sha256", 2),
        ("enc-exp-2036", "signed:fut_e", "--rails-cookie encrypted:fut_e", 1),
        ("no-metadata-signed", "signed:session_id", "--rails-unbound-cookies", 1),
        ("cbc-enc", "encrypted:data", "--rails-cbc-cookies", 1),
        (
            "ld51-json-enc",
            "encrypted:data",
            "--rails-key-digest sha1 --rails-unbound-cookies --rails-cbc-cookies",
            1,
        ),
    ] {
        let (code, said) = verify(&header(vector), &["--rails-cookie", cookie]);

        assert_eq!(code, 1, "{vector}: {said}");
        let expected = format!("it can with {flags}: key {key} of --secret-key-base");
        assert!(said.contains(&expected), "{vector}: {said}");
    }
}

#[test]
fn of_a_session_only_the_id_is_shown_and_else_the_names_of_its_keys() {
    let header = header("session-warden");
    let session = "--rails-cookie=session:_demo_session";

    let (code, said) = verify(&header, &[session, "--rails-identity=warden.user.user.key.0.0"]);
    assert!(code == 0 && said.ends_with("id: 7\n"), "{said}");

    let (code, said) = verify(&header, &[session, "--rails-identity=user_id"]);
    assert!(
        code == 0 && said.contains("anonymous") && said.contains("session_id, warden.user.user.key"),
        "{said}"
    );

    let (code, refused) = verify(&header, &[session, "--rails-identity=warden.user.user.key"]);
    assert!(code == 1 && refused.contains("an array"), "{refused}");
    for said in [said, refused] {
        assert!(!said.contains("4d27112d3e5a3143f15d9aec3cfcf9a7") && !said.contains("$2a$12$"), "{said}");
    }
}

#[test]
fn why_a_cookie_cannot_be_read_is_told() {
    for (vector, cookie, reason) in [
        ("signed-exp-past", "signed", "it has expired"),
        ("signed-tampered", "signed", "no key that was given fits"),
        ("signed-wrong-name", "signed", "another cookie's name"),
        ("ld61-marshal-signed", "signed", "cookies_serializer = :json"),
        ("msgpack-enc", "encrypted", "cookies_serializer = :json"),
    ] {
        let header = header(vector);
        let (name, value) = header.split_once('=').unwrap();
        let (code, said) = verify(&header, &["--rails-cookie", &format!("{cookie}:{name}")]);
        assert!(code == 1 && said.contains(reason), "{vector}: {said}");
        assert!(!said.contains(value) && !said.contains(SECRET), "{said}");
    }
    let (code, said) = verify("a=1; b=2", &["--rails-cookie=signed:session_id"]);
    assert!(code == 1 && said.contains("no cookie named session_id"), "{said}");
    let (code, said) = verify("x", &[]);
    assert!(code == 2 && said.contains("--rails-cookie"), "{said}");
}
