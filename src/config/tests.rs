use clap::Command;

use super::*;

fn values(arguments: &[&str]) -> Values {
    let command = Command::new("test").no_binary_name(true).args(args(&Group::ALL));
    Values::isolated(&command.get_matches_from(arguments))
}

fn resolve(arguments: &[&str]) -> Result<Config, ConfigError> {
    let mut values = values(arguments);
    LogConfig::resolve(&mut values);
    let config = Config::resolve(&mut values);
    values.finish().map(|()| config)
}

#[test]
fn every_default_is_right() {
    let config = resolve(&[]).unwrap();

    assert_eq!(config.bus.retention, Some(Duration::from_secs(24 * 3600)));
    assert_eq!(config.bus.max_payload_bytes, 1 << 20);
    assert_eq!(config.connection.max_command_bytes, 64 << 10);
    assert!(config.bus.prefix.is_none() && config.publish_keys.is_empty() && !config.public_publish);
    assert!(config.channels.describe().is_nothing());
    assert_eq!(config.facts.unsafe_combinations(), []);
}

#[test]
fn every_setting_has_a_flag_a_variable_and_a_key_of_its_own() {
    let mut names: Vec<_> =
        SETTINGS.iter().flat_map(|setting| setting.env.iter().chain([&setting.key])).collect();
    let count = names.len();
    names.sort();
    names.dedup();
    assert_eq!(names.len(), count);
    for setting in SETTINGS {
        let own = format!("TABLECAST_{}", setting.key.replace('-', "_").to_uppercase());
        assert_eq!(setting.env[0], own);
    }
}

#[test]
fn a_secret_may_stand_in_a_file_and_so_may_several() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("secret");
    std::fs::write(&path, "first, with a comma\nsecond\n").unwrap();
    let flag = format!("--secret-file={}", path.display());

    let mut read = values(&[&flag]);
    let secrets = read.secrets("secret");
    let texts: Vec<_> = secrets.iter().map(|secret| secret.expose_secret()).collect();
    assert_eq!(texts, ["first, with a comma", "second"]);

    std::fs::write(&path, "# from the vault\nsecret\n").unwrap();
    let error = resolve(&[&flag]).unwrap_err().to_string();
    assert!(error.ends_with("and every line is a secret") && error.lines().count() == 1, "{error}");

    let error = resolve(&[&flag, "--secret=x"]).unwrap_err().to_string();
    assert_eq!(error, "--secret and --secret-file: one of them is enough");
    let error = resolve(&["--publish-key-file=/nowhere/key"]).unwrap_err().to_string();
    assert!(error.starts_with("--publish-key-file /nowhere/key: "), "{error}");

    std::fs::write(&path, "postgres://u:quiet@h/a?sslmod=require\n").unwrap();
    let error = resolve(&[&format!("--database-url-file={}", path.display())]).unwrap_err().to_string();
    assert!(error.contains("--database-url-file") && !error.contains("quiet"), "{error}");
}

#[test]
fn lists_are_separated_by_commas_or_given_again() {
    let config =
        resolve(&["--public-streams=a, b*", "--public-streams", "c", "--public-channel=C=c:{id}"]).unwrap();
    let open = config.channels.describe().everybody;
    assert_eq!(open, ["C -> c:{id}", "streams a", "streams b*", "streams c"]);
}

#[test]
fn a_switch_alone_means_true() {
    assert_eq!(resolve(&["--owns-table"]).unwrap().bus.owns_table, Some(true));
    assert_eq!(resolve(&["--owns-table=false"]).unwrap().bus.owns_table, Some(false));
}

#[test]
fn a_secret_is_never_shown() {
    let config = resolve(&["--publish-key=s3cret"]).unwrap();
    assert!(!format!("{config:?}").contains("s3cret"));
}

#[test]
fn the_publish_key_is_derived_as_anycable_does() {
    use secrecy::ExposeSecret;
    let config = resolve(&["--secret=s3Krit"]).unwrap();
    let key = config.publish_keys.for_stream("s").unwrap();
    assert_eq!(key.expose_secret(), "a239a7ca182c90fc32bdedf73703d271388cf433843affffd3a5e757041fc716");
}

const KEY: &str = concat!(
    "6066f5db2ba317ff4e9bbab1bfe56396094674ec24639d3607252e684f5cab03",
    "dc024564387dea863a0d7990a3f95e6474fb4207ffb281b23d5771886b774a71"
);

#[test]
fn a_rails_cookie_wants_a_key_and_a_session_a_path() {
    let complaint = |arguments: &[&str]| resolve(arguments).unwrap_err().to_string();

    assert!(complaint(&["--rails-cookie=signed:id"]).contains("--rails-signed-key or --secret-key-base"));
    // The other jar's key opens nothing of this one.
    let other = ["--rails-cookie=encrypted:id", &format!("--rails-signed-key={KEY}")];
    assert!(complaint(&other).contains("--rails-encrypted-key"));
    assert!(complaint(&["--rails-cookie=session:_a", "--secret-key-base=x"]).contains("--rails-identity"));
    for kind_and_name in ["id", "signed:", "marshal:id", "signed:a b", "signed:a=b", ":id"] {
        let complaint = complaint(&[&format!("--rails-cookie={kind_and_name}"), "--secret-key-base=x"]);
        assert!(complaint.contains("signed:NAME"), "{complaint}");
    }
    assert!(complaint(&["--rails-key-digest=md5"]).contains("sha256 or sha1"));
    assert!(complaint(&["--rails-key-digest="]).contains("sha256, sha1 or both"));
    assert!(complaint(&["--rails-identity=a..b"]).contains("dots between them"));

    let good = ["--rails-cookie=session:_a", "--secret-key-base=x", "--rails-identity=user_id"];
    assert!(resolve(&good).unwrap().identification.cookie.is_some());
    assert!(resolve(&["--secret-key-base=x"]).unwrap().identification.cookie.is_none());
}

#[test]
fn keys_of_rails_are_as_long_as_rails_makes_them_and_never_shown() {
    use crate::identity::rails::Jar;
    let cookie = |keys: &str| {
        let config = resolve(&["--rails-cookie=signed:id", &format!("--rails-signed-key={keys}")])?;
        Ok::<_, ConfigError>(config.identification.cookie.unwrap())
    };

    let two = cookie(&format!("{KEY}, {}", KEY.to_uppercase())).unwrap();
    assert!(matches!(&two.jar, Jar::Signed(keys) if keys.len() == 2));
    for wrong in [&KEY[1..], &KEY[2..], &KEY.replace('6', "g")] {
        let complaint = cookie(&format!("{KEY},{wrong}")).unwrap_err().to_string();
        assert_eq!(complaint, "--rails-signed-key, number 2: it must be 128 hexadecimal digits");
    }
    let mut values =
        values(&["--rails-cookie=signed:id", &format!("--rails-signed-key={KEY}"), "--secret-key-base=6066"]);
    let secrets = RailsSecrets::resolve(&mut values);
    let shown = format!("{two:?} {:?}", RailsCookie::resolve(&mut values, &secrets));
    assert!(!shown.contains("6066") && !shown.contains("96, 102"), "{shown}");
}

#[test]
fn a_secret_key_base_is_taken_to_the_letter() {
    use std::time::SystemTime;
    let keys = |secrets: &[&str]| {
        let flags: Vec<_> = secrets.iter().map(|secret| format!("--secret-key-base={secret}")).collect();
        names(&flags.iter().map(String::as_str).collect::<Vec<_>>()).turbo
    };
    let verifies =
        |token: &str, secrets: &[&str]| keys(secrets).verify(token, SystemTime::UNIX_EPOCH).is_ok();
    let token = keys(&[" a,b\n"]).sign("room:1", None).unwrap();

    assert!(verifies(&token, &["other", " a,b\n"]));
    for near in [" a,b", "a,b\n", "a,b", "b\n", " a"] {
        assert!(!verifies(&token, &[near]), "{near:?}");
    }
}

fn names(arguments: &[&str]) -> crate::channels::SignedNames {
    let mut values = values(arguments);
    let rails = RailsSecrets::resolve(&mut values);
    signed_names(&mut values, &rails)
}

#[test]
fn names_of_streams_are_good_under_the_keys_of_their_channels() {
    use std::time::SystemTime;
    let streams = names(&["--secret=s3Krit", "--secret-key-base=x", "--rails-key-digest=sha256,sha1"]);
    let is_good = |keys: &tablecast_protocol::signed::StreamKeys, token: &str| {
        keys.verify(token, SystemTime::UNIX_EPOCH).is_ok()
    };
    let turbos = streams.turbo.sign("room:1", None).unwrap();
    let anycables = streams.anycable.sign("room:1", None).unwrap();

    assert!(is_good(&streams.turbo, &turbos) && !is_good(&streams.anycable, &turbos));
    assert!(is_good(&streams.turbo, &anycables) && is_good(&streams.anycable, &anycables));
    let sha1 = names(&["--secret-key-base=x", "--rails-key-digest=sha1"]);
    assert!(is_good(&streams.turbo, &sha1.turbo.sign("room:1", None).unwrap()));
    assert!(names(&[]).turbo.is_empty());
}

#[test]
fn what_is_unsafe_together_is_seen_in_the_settings() {
    use safety::Unsafe;

    let found = |arguments: &[&str]| resolve(arguments).unwrap().facts.unsafe_combinations();
    let long = "0123456789abcdef0123456789abcdef";
    assert_eq!(found(&["--listen=0.0.0.0:8080", "--public-streams=a*,*"]), [Unsafe::EveryStream]);
    assert_eq!(found(&["--listen=[::]:8080", "--public-streams=*"]), [Unsafe::EveryStream]);
    for safe in [
        &["--listen=127.0.0.1:8080", "--public-streams=*"],
        &["--listen=[::1]:8080", "--public-streams=*"],
        &["--listen=0.0.0.0:8080", "--public-streams=a*"],
    ] {
        assert_eq!(found(safe), [], "{safe:?}");
    }
    let keyed = format!("--publish-key={long}");
    assert_eq!(found(&["--listen=0.0.0.0:8080", "--public-streams=*", &keyed]), []);
    assert_eq!(
        found(&["--secret=short", "--publish-key=shorter"]),
        [
            Unsafe::WeakSecret { setting: "--secret", bytes: 5 },
            Unsafe::WeakSecret { setting: "--publish-key", bytes: 7 }
        ]
    );
    assert!(resolve(&["--allowed-origins=*"]).unwrap().facts.takes_any_origin);

    let base = format!("--secret-key-base={long}");
    let (signing, encrypting) =
        (format!("--rails-signed-key={KEY}"), format!("--rails-encrypted-key={}", &KEY[..64]));
    let cbc = |cookie: &[&str]| found(&[cookie, &["--rails-cbc-cookies"]].concat());
    assert_eq!(cbc(&["--rails-cookie=encrypted:id", &encrypting]), [Unsafe::CbcInVain]);
    assert_eq!(cbc(&["--rails-cookie=signed:id", &signing, &base]), [Unsafe::CbcInVain]);
    assert_eq!(cbc(&["--rails-cookie=encrypted:id", &encrypting, &base]), []);

    let url = || "http://idp.example.com/keys".to_owned();
    let plain = Unsafe::PlainJwks { url: url() };
    assert_eq!(
        found(&["--jwks", &format!("{}?key=s3cret", url())]),
        [plain.clone(), Unsafe::TokensForOthers]
    );
    assert_eq!(found(&["--jwks", &url(), "--jwt-audience=a"]), [plain]);
    assert_eq!(found(&["--jwks=https://idp.example.com/keys", "--jwt-audience=a"]), []);

    assert_eq!(
        found(&["--public-streams=o*", "--public-channel=C=own:{id}"]),
        [],
        "both are open to everybody"
    );
}

#[test]
fn the_name_in_global_ids_is_checked() {
    let channel = "--public-channel=C=c:{gid(Post, id)}";
    assert!(resolve(&[channel, "--global-id-app=my-app"]).is_ok());
    let error = resolve(&[channel]).unwrap_err().to_string();
    assert!(error.contains("rule C: gid() needs --global-id-app"), "{error}");
    let error = resolve(&["--global-id-app=my_app"]).unwrap_err().to_string();
    assert!(error.contains("--global-id-app \"my_app\": it must be letters"), "{error}");
}

#[test]
fn a_public_channel_names_no_user() {
    let error = resolve(&["--public-channel=C=c:{user.id}"]).unwrap_err().to_string();
    assert!(error.contains("public lets in everybody"), "{error}");
}

/// `UPDATE_DOCS=1 cargo test` writes it anew.
#[test]
fn docs_settings_is_what_the_program_says() {
    let mut page = String::from(
        "# Settings\n\n\
         A setting is a flag, else an environment variable (of several the first that is set and not empty), \
         else a key of the settings file, else its default. The file is `--config FILE`, else `TABLECAST_CONFIG`, \
         else `./tablecast.toml` if it is there; a key is the flag's name with `_` for `-`. A list is separated by \
         commas, given by repeating the flag, or an array in the file; of secrets nothing is separated by commas, and \
         several stand in a variable one a line, where an empty one is an error. Times are written `100ms`, `10s`, `1d`, \
         sizes `65536` or `64KiB`. What is wrong is told all at once, with exit status 2.\n\n\
         `[[channel]]` rules stand in the file alone: see [Channels](channels.md). This page is made from the program's own list.\n",
    );
    let mut group = None;
    for setting in SETTINGS {
        if group != Some(setting.group) {
            group = Some(setting.group);
            page += &format!(
                "\n## {}\n\n| flag | environment | default | |\n|---|---|---|---|\n",
                setting.group.heading()
            );
        }
        let env: Vec<_> = setting.env.iter().map(|name| format!("`{name}`")).collect();
        let default = setting.default.map_or("none".to_owned(), |default| format!("`{default}`"));
        let (help, default) = match setting.help.rsplit_once(" [default: ") {
            Some((help, default)) => (help, default.trim_end_matches(']').to_owned()),
            None => (setting.help, default),
        };
        page += &format!(
            "| `--{}` | {} | {default} | {} |\n",
            setting.key,
            env.join(", "),
            help.replace('|', "\\|")
        );
    }

    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/settings.md");
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(path, &page).unwrap();
    }
    assert_eq!(std::fs::read_to_string(path).unwrap_or_default(), page, "run UPDATE_DOCS=1 cargo test");
}
