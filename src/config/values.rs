use std::collections::HashMap;
use std::env::VarError;
use std::fmt;
use std::path::{Path, PathBuf};

use clap::ArgMatches;
use secrecy::SecretString;
use serde::Deserialize;

use super::publish_keys;
use super::settings::{Kind, SETTINGS, Setting};
use crate::channels::Rule;

/// What was given for each setting, as text, with where it came from; and what is wrong.
#[derive(Debug, Default)]
pub struct Values {
    given: HashMap<&'static str, Given>,
    rules: Vec<Rule>,
    publish_keys: Vec<publish_keys::Table>,
    errors: Vec<String>,
}

/// What a file says, by the setting's key.
type FileSettings = HashMap<&'static str, (PathBuf, Vec<String>)>;

#[derive(Debug)]
struct Given {
    texts: Vec<String>,
    origin: Origin,
}

#[derive(Debug)]
enum Origin {
    Flag,
    Environment(&'static str),
    File(PathBuf),
    /// A file of its own, which another setting names.
    SecretFile(PathBuf),
    Default,
}

/// All that is wrong with the settings, one line each.
#[derive(Debug, thiserror::Error)]
pub struct ConfigError(Vec<String>);

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("\n"))
    }
}

impl Values {
    /// Flag, else environment, else file, else default.
    pub fn gather(flags: &ArgMatches) -> Self {
        let mut values = Self::default();
        let flag = flags.try_get_one::<String>("config").ok().flatten();
        let path = flag
            .cloned()
            .or_else(|| values.noted(environment("TABLECAST_CONFIG")).filter(|path| !path.is_empty()));
        let file = match path {
            Some(path) => values.read_file(Path::new(&path)),
            None if Path::new(DEFAULT_FILE).exists() => values.read_file(Path::new(DEFAULT_FILE)),
            None => HashMap::new(),
        };
        values.collect(flags, &file, environment);
        values
    }

    fn noted<T>(&mut self, result: Result<Option<T>, String>) -> Option<T> {
        result.unwrap_or_else(|error| {
            self.errors.push(error);
            None
        })
    }

    fn collect(
        &mut self,
        flags: &ArgMatches,
        file: &FileSettings,
        environment: impl Fn(&str) -> Result<Option<String>, String>,
    ) {
        for setting in SETTINGS {
            let from_flag = || {
                let known = flags.try_contains_id(setting.key).unwrap_or(false);
                let texts = if known { flags.get_many::<String>(setting.key)? } else { return None };
                Some(Given { texts: texts.cloned().collect(), origin: Origin::Flag })
            };
            let mut from_environment = || {
                // An empty secret is told, and not taken for none: what it should close would be open.
                let counts = |text: &String| !text.is_empty() || matches!(setting.kind, Kind::Secrets(_));
                let found = setting
                    .env
                    .iter()
                    .find_map(|name| Some((name, self.noted(environment(name)).filter(counts)?)));
                found.map(|(name, text)| Given { texts: vec![text], origin: Origin::Environment(name) })
            };
            let from_file = || {
                let (path, texts) = file.get(setting.key)?;
                Some(Given { texts: texts.clone(), origin: Origin::File(path.clone()) })
            };
            let from_default =
                || Some(Given { texts: vec![setting.default?.to_owned()], origin: Origin::Default });
            let found = from_flag().or_else(&mut from_environment).or_else(from_file).or_else(from_default);
            if let Some(found) = found {
                self.given.insert(setting.key, found);
            }
        }
        for setting in SETTINGS {
            self.read_secret(setting.key);
        }
    }

    /// Puts what stands in the file of `--KEY-file` in the place of `--KEY`.
    fn read_secret(&mut self, file_key: &'static str) {
        let Some(key) =
            SETTINGS.iter().map(|s| s.key).find(|key| file_key.strip_suffix(FILE_SUFFIX) == Some(key))
        else {
            return;
        };
        let Some(path) = self.optional(file_key, |text| Ok(PathBuf::from(text))) else { return };
        if self.is_given(key) {
            self.errors.push(format!(
                "{} and {}: one of them is enough",
                self.name(key),
                self.name(file_key)
            ));
            return;
        }
        match std::fs::read_to_string(&path) {
            Ok(text) => {
                let texts = vec![text.trim_end_matches(['\r', '\n']).to_owned()];
                self.given.insert(key, Given { texts, origin: Origin::SecretFile(path) });
            }
            Err(error) => self.errors.push(format!("{} {}: {error}", self.name(file_key), path.display())),
        }
    }

    /// Flag, else default: for what must run the same wherever it is started.
    pub fn isolated(flags: &ArgMatches) -> Self {
        let mut values = Self::default();
        values.collect(flags, &HashMap::new(), |_| Ok(None));
        values
    }

    /// A setting that has a default. Where it is wrong, that is noted and something else given
    /// back, so that the next can be looked at.
    pub(super) fn parse<T>(&mut self, key: &'static str, parse: impl Fn(&str) -> Result<T, String>) -> T {
        let parsed = self.optional(key, &parse);
        let default = || find(key).default.and_then(|text| parse(text).ok());
        parsed.or_else(default).expect("a setting that is parsed has a default that is right")
    }

    /// A setting that may be absent.
    pub(super) fn optional<T>(
        &mut self,
        key: &'static str,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Option<T> {
        let given = self.given.get(key)?;
        let text = match given.texts.as_slice() {
            [text] => text,
            _ => {
                self.errors.push(format!("{}: it takes one value", given.name(key)));
                return None;
            }
        };
        match parse(text) {
            Ok(value) => Some(value),
            Err(reason) => {
                let shown = match find(key).kind {
                    Kind::Secrets(_) => "…".to_owned(),
                    _ if key.ends_with("database-url") || key == "jwks" => without_password(text),
                    _ => text.to_owned(),
                };
                self.errors.push(format!("{} {shown:?}: {reason}", given.name(key)));
                None
            }
        }
    }

    /// A setting with several values.
    pub(super) fn list(&self, key: &'static str) -> Vec<String> {
        let texts = self.given.get(key).map(|given| given.texts.as_slice()).unwrap_or_default();
        let items = texts.iter().flat_map(|text| {
            let mut in_braces = false;
            // `{gid(Post, id)}` is one thing.
            text.split(move |character| {
                in_braces = character == '{' || (in_braces && character != '}');
                character == ',' && !in_braces
            })
        });
        items.map(str::trim).filter(|item| !item.is_empty()).map(str::to_owned).collect()
    }

    /// A setting with secrets, each as it was given: a flag, an item of the file's list, a line of
    /// the variable.
    pub(super) fn secrets(&mut self, key: &'static str) -> Vec<SecretString> {
        let Some(given) = self.given.get(key) else { return Vec::new() };
        let secrets: Result<Vec<_>, _> = match given.origin {
            Origin::Environment(_) | Origin::SecretFile(_) => {
                given.texts.iter().map(|text| secrets_of_lines(text)).collect()
            }
            Origin::Flag | Origin::File(_) | Origin::Default => Ok(vec![given.texts.clone()]),
        };
        let secrets = secrets.map(|secrets| secrets.concat());
        let fault = match &secrets {
            Err(reason) => Some(*reason),
            Ok(secrets) if secrets.is_empty() || secrets.iter().any(String::is_empty) => Some("it is empty"),
            Ok(_) => None,
        };
        if let Some(fault) = fault {
            let error = format!("{}: {fault}", given.name(key));
            // Several settings are made of one secret.
            if !self.errors.contains(&error) {
                self.errors.push(error);
            }
        }
        secrets.unwrap_or_default().into_iter().map(SecretString::from).collect()
    }

    /// What to call a setting so that whoever gave it finds it.
    pub(super) fn name(&self, key: &'static str) -> String {
        self.given.get(key).map_or_else(|| format!("--{key}"), |given| given.name(key))
    }

    /// Whether it was set, by whatever means.
    pub(super) fn is_given(&self, key: &'static str) -> bool {
        self.given.get(key).is_some_and(|given| !matches!(given.origin, Origin::Default))
    }

    /// The `[[publish_key]]` tables of the file.
    pub(super) fn publish_key_tables(&mut self) -> Vec<publish_keys::Table> {
        std::mem::take(&mut self.publish_keys)
    }

    /// The `[[channel]]` rules of the file.
    pub(super) fn rules(&mut self) -> Vec<Rule> {
        std::mem::take(&mut self.rules)
    }

    pub(super) fn complain(&mut self, error: String) {
        self.errors.push(error);
    }

    /// All is read: was all well?
    pub fn finish(self) -> Result<(), ConfigError> {
        if self.errors.is_empty() { Ok(()) } else { Err(ConfigError(self.errors)) }
    }

    fn read_file(&mut self, path: &Path) -> FileSettings {
        let mut settings = HashMap::new();
        let shown = path.display();
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) => {
                self.errors.push(format!("{shown}: {error}"));
                return settings;
            }
        };
        let table: toml::Table = match toml::from_str(&text) {
            Ok(table) => table,
            Err(error) => {
                // Without the line itself, which may hold a secret.
                let before = &text[..error.span().map_or(0, |span| span.start.min(text.len()))];
                let line = before.matches('\n').count() + 1;
                self.errors.push(format!("{shown}, line {line}: {}", error.message()));
                return settings;
            }
        };
        for (key, value) in table {
            if key == "channel" {
                let rules = match value {
                    toml::Value::Array(rules) => rules,
                    no_list => vec![no_list],
                };
                for rule in rules {
                    match Rule::deserialize(rule) {
                        Ok(rule) => self.rules.push(rule),
                        Err(error) => self
                            .errors
                            .push(format!("{shown}: [[channel]]: {}", error.to_string().trim_end())),
                    }
                }
                continue;
            }
            let Some(setting) = SETTINGS.iter().find(|setting| setting.key == key.replace('_', "-")) else {
                self.errors.push(format!("{shown}: unknown setting {key}{}", suggestion(&key)));
                continue;
            };
            if setting.key == "publish-key" && is_tables(&value) {
                match Vec::deserialize(value) {
                    Ok(keys) => self.publish_keys = keys,
                    Err(error) => self
                        .errors
                        .push(format!("{shown}: [[publish_key]]: {}", error.to_string().trim_end())),
                }
                continue;
            }
            match texts(&value) {
                Some(texts) => drop(settings.insert(setting.key, (path.to_owned(), texts))),
                None => self
                    .errors
                    .push(format!("{shown}: {key} is text, a number, true or false, or a list of texts")),
            }
        }
        settings
    }
}

impl Given {
    /// What to call the setting so that whoever gave it finds it.
    fn name(&self, key: &str) -> String {
        match &self.origin {
            Origin::Flag | Origin::Default => format!("--{key}"),
            Origin::Environment(name) => (*name).to_owned(),
            Origin::File(path) => format!("{}: {}", path.display(), key.replace('-', "_")),
            Origin::SecretFile(path) => format!("--{key}{FILE_SUFFIX} {}", path.display()),
        }
    }
}

/// What a setting is called that names a file with the value of another.
const FILE_SUFFIX: &str = "-file";

const DEFAULT_FILE: &str = "tablecast.toml";

fn environment(name: &str) -> Result<Option<String>, String> {
    match std::env::var(name) {
        Ok(text) => Ok(Some(text)),
        Err(VarError::NotPresent) => Ok(None),
        Err(VarError::NotUnicode(_)) => Err(format!("{name} is not UTF-8")),
    }
}

/// One a line, but for the lines of a PEM, which are one together. Every line counts: a comment would be
/// a secret that many know.
pub(super) fn secrets_of_lines(text: &str) -> Result<Vec<String>, &'static str> {
    let mut secrets: Vec<String> = Vec::new();
    let mut is_in_pem = false;
    for line in text.lines().filter(|line| !line.trim().is_empty()) {
        match secrets.last_mut() {
            Some(pem) if is_in_pem => {
                pem.push('\n');
                pem.push_str(line);
            }
            _ => secrets.push(line.to_owned()),
        }
        is_in_pem = if is_in_pem { !line.starts_with("-----END") } else { line.starts_with("-----BEGIN") };
    }
    if secrets.iter().any(|secret| secret.starts_with('#') || secret.trim() != secret) {
        return Err("a line begins with # or has blanks at its ends, and every line is a secret");
    }
    Ok(secrets)
}

fn find(key: &str) -> &'static Setting {
    SETTINGS.iter().find(|setting| setting.key == key).expect("a setting of the list")
}

/// A URL without its user and password, and whatever else may hold one.
fn without_password(url: &str) -> String {
    let (url, parameters) = match url.split_once('?') {
        Some((url, parameters)) if parameters.contains("password") => (url, "?…"),
        _ => (url, ""),
    };
    match url.split_once(':') {
        // The last one: a password may hold others.
        Some((scheme, rest)) => match rest.rsplit_once('@') {
            Some((_, place)) => format!("{scheme}://…@{place}{parameters}"),
            None => format!("{url}{parameters}"),
        },
        None => format!("{url}{parameters}"),
    }
}

fn texts(value: &toml::Value) -> Option<Vec<String>> {
    match value {
        toml::Value::String(text) => Some(vec![text.clone()]),
        toml::Value::Integer(number) => Some(vec![number.to_string()]),
        toml::Value::Boolean(flag) => Some(vec![flag.to_string()]),
        toml::Value::Array(items) => items.iter().map(|item| item.as_str().map(str::to_owned)).collect(),
        _ => None,
    }
}

fn is_tables(value: &toml::Value) -> bool {
    value.as_array().is_some_and(|items| !items.is_empty() && items.iter().all(toml::Value::is_table))
}

fn suggestion(key: &str) -> String {
    let key = key.replace('_', "-").to_lowercase();
    let known = SETTINGS.iter().map(|setting| setting.key).chain(["channel"]);
    let nearest =
        known.map(|known| (strsim::jaro_winkler(&key, known), known)).max_by(|a, b| a.0.total_cmp(&b.0));
    match nearest {
        Some((score, known)) if score > 0.7 => format!("; did you mean {}?", known.replace('-', "_")),
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use clap::Command;
    use secrecy::ExposeSecret;

    use super::*;

    #[test]
    fn secrets_are_split_at_nothing_but_the_lines_of_a_variable() {
        let secrets = |arguments: &[&str], variable: Option<&str>, key: &'static str| {
            let command =
                Command::new("test").no_binary_name(true).args(super::super::args(&super::super::Group::ALL));
            let mut values = Values::default();
            let environment = |_: &str| Ok(variable.map(str::to_owned));
            values.collect(&command.get_matches_from(arguments), &HashMap::new(), environment);
            values.secrets(key).iter().map(|secret| secret.expose_secret().to_owned()).collect::<Vec<_>>()
        };
        let pem = "-----BEGIN PUBLIC KEY-----\nAAAA\nBBBB\n-----END PUBLIC KEY-----";

        assert_eq!(secrets(&["--jwt-key=a, b", "--jwt-key=c\nd"], None, "jwt-key"), ["a, b", "c\nd"]);
        let lines = format!("a, b\r\n\n{pem}\n{pem}\nc\n");
        assert_eq!(secrets(&[], Some(&lines), "jwt-key"), ["a, b", pem, pem, "c"]);
        assert_eq!(secrets(&[], None, "jwt-key"), [""; 0]);
    }
}
