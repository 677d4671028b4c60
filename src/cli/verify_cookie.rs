use std::io::Read;
use std::time::SystemTime;

use anyhow::{Context, anyhow};
use clap::{Arg, ArgMatches, Command};
use serde_json::Value;
use tablecast_protocol::signed::Digest;

use super::{Failure, Outcome, finish};
use crate::config::{CookieKind, Group, RailsCookie, RailsSecrets, Values, args};
use crate::identity::rails::keys::Kdf;
use crate::identity::rails::{Binding, CookieError, form_decoded, named};

pub fn command() -> Command {
    Command::new("verify-cookie")
        .about("Read one cookie of a Rails application, and say how, or why it can't be (exit status 1)")
        .long_about(
            "Reads one cookie of a Rails application as a server with these settings would.\n\n\
             Where that fails, other settings are tried with the same secrets, and those that read it \
             are named. Of what the cookie holds only the id at --rails-identity is shown, and where \
             nothing is there the names of its keys.",
        )
        .arg(Arg::new("value").value_name("VALUE").required(true).help(
            "The text of a Cookie header, or the cookie's value; - reads it from standard input, where other users don't see it",
        ))
        .args(args(&[Group::Connecting, Group::Operation]))
}

/// What is read of standard input: more than any browser sends.
const MAX_INPUT_BYTES: u64 = 1 << 20;

pub fn run(matches: &ArgMatches, mut values: Values) -> Outcome {
    let secrets = RailsSecrets::resolve(&mut values);
    let settings = RailsCookie::resolve(&mut values, &secrets);
    finish(values)?;
    let settings = settings.ok_or_else(|| {
        Failure::Usage(anyhow!("which cookie? --rails-cookie says, such as signed:session_id"))
    })?;
    let text = match matches.get_one::<String>("value").expect("it is required").as_str() {
        "-" => {
            let mut text = String::new();
            std::io::stdin().take(MAX_INPUT_BYTES).read_to_string(&mut text).context("standard input")?;
            text
        }
        value => value.to_owned(),
    };
    let value = cookie_value(&text, &settings.name).map_err(Failure::Failed)?;
    report(&settings, &value)
}

/// The cookie's value in a header's text, or a value alone, as a browser's tools show it: with
/// its escapes or without.
fn cookie_value(text: &str, name: &str) -> anyhow::Result<String> {
    let text = text.trim();
    let field = text.get(..7).filter(|head| head.eq_ignore_ascii_case("cookie:"));
    let field = field.map_or(text, |head| text[head.len()..].trim_start());
    let decoded = match named(field.as_bytes(), name) {
        Some(raw) => form_decoded(raw),
        None if field.len() < text.len() || field.contains(';') => {
            return Err(anyhow!("there is no cookie named {name} in this header"));
        }
        // Without escapes a + is itself.
        None if !text.contains('%') => Ok(text.to_owned()),
        None => form_decoded(text.as_bytes()),
    };
    decoded.map_err(|error| anyhow!("the cookie can't be read: {error}"))
}

fn report(settings: &RailsCookie, value: &str) -> Outcome {
    let now = SystemTime::now();
    let configured = settings.cookie().open(value, now);
    let mut best = configured.as_ref().err().copied();
    let mut found = None;
    for attempt in attempts(settings) {
        match attempt.settings.cookie().open(value, now) {
            Ok(opened) => {
                found = Some((attempt, opened));
                break;
            }
            // What is wrong behind a key that fits says more than that others don't.
            Err(error) if error.is_authentic() && best.is_none_or(says_less) => best = Some(error),
            Err(_) => {}
        }
    }
    let Some((attempt, opened)) = found else {
        let error = best.expect("the settings' own keys were tried");
        println!("the cookie {} can't be read: {error}", settings.name);
        if !error.is_authentic() {
            println!(
                "no key that was given fits, derived with sha256 or sha1, as a signed cookie or an encrypted one"
            );
        }
        return Err(Failure::Code(1));
    };
    if configured.is_err() {
        println!("with these settings the cookie {} can't be read", settings.name);
        println!("it can with {}: {}", attempt.flags(settings).join(" "), attempt.key);
        return Err(Failure::Code(1));
    }
    println!("the cookie {} is good: {}", settings.name, attempt.key);
    match settings.path.id(&opened.value) {
        Ok(Some(id)) => println!("id: {id}"),
        Ok(None) => println!("no id: its visitor is anonymous. {}", keys_of(&opened.value)),
        Err(error) => {
            println!("wrong: {error}. {}", keys_of(&opened.value));
            return Err(Failure::Code(1));
        }
    }
    Ok(())
}

/// Whether a reason is only that a key doesn't fit, or that a switch is missing.
fn says_less(error: CookieError) -> bool {
    !error.is_authentic() || error == CookieError::Unbound
}

fn keys_of(value: &Value) -> String {
    match value {
        Value::Object(members) => {
            let names: Vec<_> = members.keys().map(String::as_str).collect();
            format!("Its keys: {}", names.join(", "))
        }
        Value::Array(_) => "Its value is an array".to_owned(),
        Value::Null => "Its value is null".to_owned(),
        _ => "Its value is a scalar, which has no keys".to_owned(),
    }
}

/// One key with all that there is to choose beside it.
struct Attempt {
    settings: RailsCookie,
    /// Which key it is, in words.
    key: String,
}

impl Attempt {
    /// What would have to be added to the settings that were given.
    fn flags(&self, given: &RailsCookie) -> Vec<String> {
        let tried = &self.settings;
        let mut flags = Vec::new();
        if tried.kind != given.kind {
            flags.push(format!("--rails-cookie {}:{}", tried.kind.as_str(), tried.name));
        }
        for &kdf in tried.secrets.kdfs.iter().filter(|kdf| !given.secrets.kdfs.contains(kdf)) {
            flags.push(format!("--rails-key-digest {}", kdf_name(kdf)));
        }
        if tried.kind == CookieKind::Signed && tried.digest != given.digest {
            flags.push(format!("--rails-cookie-digest {}", digest_name(tried.digest)));
        }
        if tried.binding != given.binding {
            flags.push("--rails-unbound-cookies".to_owned());
        }
        if tried.cbc && !given.cbc {
            flags.push("--rails-cbc-cookies".to_owned());
        }
        flags
    }
}

/// All that one could mean by these secrets, what was asked for before what wasn't.
fn attempts(given: &RailsCookie) -> Vec<Attempt> {
    let other = match given.kind {
        CookieKind::Signed => CookieKind::Encrypted,
        CookieKind::Encrypted | CookieKind::Session => CookieKind::Signed,
    };
    let mut bindings = vec![given.binding];
    bindings.extend((given.binding == Binding::Name).then_some(Binding::NameOrNone));
    let mut attempts = Vec::new();
    for binding in bindings {
        for kind in [given.kind, other] {
            let one = RailsCookie { kind, binding, ..given.clone() };
            attempts.extend(with_each_key(&one));
        }
    }
    attempts
}

fn with_each_key(given: &RailsCookie) -> Vec<Attempt> {
    let is_signed = given.kind == CookieKind::Signed;
    let mut digests = vec![given.digest];
    digests.extend([Digest::Sha1, Digest::Sha256].into_iter().filter(|&it| is_signed && it != given.digest));
    let mut kdfs = given.secrets.kdfs.clone();
    kdfs.extend([Kdf::Sha256, Kdf::Sha1].into_iter().filter(|it| !given.secrets.kdfs.contains(it)));

    let none = RailsCookie {
        secrets: RailsSecrets { bases: Vec::new(), kdfs: Vec::new() },
        signed_keys: Vec::new(),
        encrypted_keys: Vec::new(),
        cbc: false,
        ..given.clone()
    };
    let mut attempts = Vec::new();
    for &digest in &digests {
        let how = if is_signed { format!(", signed with {}", digest_name(digest)) } else { String::new() };
        let none = RailsCookie { digest, ..none.clone() };
        let pasted = if is_signed { &given.signed_keys } else { &given.encrypted_keys };
        for (n, key) in pasted.iter().enumerate() {
            let mut settings = none.clone();
            let keys = if is_signed { &mut settings.signed_keys } else { &mut settings.encrypted_keys };
            keys.push(key.clone());
            let key = format!("key {} of {}{how}", n + 1, given.kind.key_flag());
            attempts.push(Attempt { settings, key });
        }
        for (n, base) in given.secrets.bases.iter().enumerate() {
            for &kdf in &kdfs {
                let secrets = RailsSecrets { bases: vec![base.clone()], kdfs: vec![kdf] };
                let key = format!("key {} of --secret-key-base, derived with {}{how}", n + 1, kdf_name(kdf));
                let settings = RailsCookie { secrets, ..none.clone() };
                attempts.push(Attempt { settings: settings.clone(), key: key.clone() });
                if !is_signed {
                    let settings = RailsCookie { cbc: true, ..settings };
                    attempts.push(Attempt { settings, key: format!("{key}, AES-256-CBC") });
                }
            }
        }
    }
    attempts
}

fn kdf_name(kdf: Kdf) -> &'static str {
    match kdf {
        Kdf::Sha1 => "sha1",
        Kdf::Sha256 => "sha256",
    }
}

fn digest_name(digest: Digest) -> &'static str {
    match digest {
        Digest::Sha1 => "sha1",
        Digest::Sha256 => "sha256",
        Digest::Sha512 => "sha512",
    }
}
