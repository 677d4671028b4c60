use std::path::PathBuf;

use data_encoding::HEXLOWER;
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;

use super::Values;
use super::values::secrets_of_lines;
use crate::channels::Pattern;
use crate::http::{PublishKey, PublishKeys, Scope};

/// A `[[publish_key]]` of the file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Table {
    key: Option<Secret>,
    /// Each of its lines is a key.
    key_file: Option<PathBuf>,
    /// What it is limited to.
    streams: Option<Vec<String>>,
}

/// A value of the file that no error may show, whatever it is.
#[derive(Deserialize)]
#[serde(transparent)]
struct Secret(toml::Value);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("…")
    }
}

/// The keys for HTTP publishing: its own, or the one that AnyCable derives from the secret. Of those of the file's
/// tables the lengths are noted.
pub fn publish_keys(values: &mut Values, lengths: &mut Vec<(&'static str, usize)>) -> PublishKeys {
    let own = values.secrets("publish-key").into_iter();
    let mut keys: Vec<_> = own.map(|secret| PublishKey { secret, opens: Scope::Everything }).collect();
    for table in values.publish_key_tables() {
        match table.keys() {
            Ok(found) => {
                let length = |key: &PublishKey| ("[[publish_key]]", key.secret.expose_secret().len());
                lengths.extend(found.iter().map(length));
                keys.extend(found);
            }
            Err(reason) => values.complain(format!("[[publish_key]]: {reason}")),
        }
    }
    if keys.is_empty() {
        let secrets = values.secrets("secret");
        let derived = secrets.iter().map(|secret| derived(secret.expose_secret()));
        keys.extend(derived.map(|secret| PublishKey { secret, opens: Scope::Everything }));
    }
    PublishKeys::new(keys).unwrap_or_else(|error| {
        values.complain(format!("--publish-key: {error}"));
        PublishKeys::default()
    })
}

fn derived(secret: &str) -> SecretString {
    let key = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, secret.as_bytes());
    let tag = aws_lc_rs::hmac::sign(&key, b"broadcast-cable");
    HEXLOWER.encode(tag.as_ref()).into()
}

impl Table {
    fn keys(self) -> Result<Vec<PublishKey>, String> {
        let secrets: Vec<SecretString> = match (self.key, self.key_file) {
            (Some(Secret(toml::Value::String(key))), None) => vec![key.into()],
            (Some(_), None) => return Err("key is text".into()),
            (None, Some(path)) => {
                let text = std::fs::read_to_string(&path);
                let text = text.map_err(|error| format!("key_file {}: {error}", path.display()))?;
                let keys = secrets_of_lines(&text)
                    .and_then(|keys| if keys.is_empty() { Err("it holds no key") } else { Ok(keys) });
                let keys = keys.map_err(|reason| format!("key_file {}: {reason}", path.display()))?;
                keys.into_iter().map(SecretString::from).collect()
            }
            _ => return Err("it has a key or a key_file".into()),
        };
        let opens = match self.streams {
            None => Scope::Everything,
            Some(patterns) => Scope::Streams(patterns.iter().map(|text| Pattern::new(text)).collect()),
        };
        Ok(secrets.into_iter().map(|secret| PublishKey { secret, opens: opens.clone() }).collect())
    }
}
