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
    assert!(config.bus.prefix.is_none() && config.publish_key.is_none() && !config.public_publish);
    assert!(config.channels.describe().is_empty());
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
fn lists_are_separated_by_commas_or_given_again() {
    let config =
        resolve(&["--public-streams=a, b*", "--public-streams", "c", "--public-channel=C=c:{id}"]).unwrap();
    assert_eq!(config.channels.describe(), ["C -> c:{id}", "streams a", "streams b*", "streams c"]);
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
    let key = config.publish_key.unwrap();
    assert_eq!(key.expose_secret(), "a239a7ca182c90fc32bdedf73703d271388cf433843affffd3a5e757041fc716");
}

/// `UPDATE_DOCS=1 cargo test` writes it anew.
#[test]
fn docs_settings_is_what_the_program_says() {
    let mut page = String::from(
        "# Settings\n\n\
         A setting is a flag, else an environment variable (of several the first that is set and not empty), \
         else a key of the settings file, else its default. The file is `--config FILE`, else `TABLECAST_CONFIG`, \
         else `./tablecast.toml` if it is there; a key is the flag's name with `_` for `-`. A list is separated by \
         commas, given by repeating the flag, or an array in the file. Times are written `100ms`, `10s`, `1d`, \
         sizes `65536` or `64KiB`. What is wrong is told all at once, with exit status 2.\n\n\
         `[[channel]]` rules stand in the file alone: see the [README](../README.md#settings) and the \
         [protocol](protocol.md). This page is made from the program's own list.\n",
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
