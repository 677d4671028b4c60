//! Who may connect, and under which keys names of streams are good.

use data_encoding::HEXLOWER_PERMISSIVE;
use secrecy::ExposeSecret;
use tablecast_protocol::signed::{Digest, StreamKeys, Verifier};

use super::{Values, jwt::jwt, switch};
use crate::bus::DatabaseUrl;
use crate::channels::{GlobalIdApp, SignedNames, Template, TemplateError};
use crate::identity::IdentificationConfig;
use crate::identity::lookup::LookupConfig;
use crate::identity::rails::keys::{CIPHER_KEY_BYTES, Kdf, Key, SIGNING_KEY_BYTES, SecretKeyBase};
use crate::identity::rails::{Binding, Cookie, EncryptedKey, Jar, Path};

/// The secrets of Rails applications, and how keys are derived from them.
#[derive(Debug, Clone)]
pub struct RailsSecrets {
    pub bases: Vec<SecretKeyBase>,
    pub kdfs: Vec<Kdf>,
}

impl RailsSecrets {
    pub fn resolve(values: &mut Values) -> Self {
        let names = values.list("rails-key-digest");
        if names.is_empty() {
            values.complain("--rails-key-digest: it must be sha256, sha1 or both".into());
        }
        let mut kdfs = Vec::new();
        for name in names {
            match name.as_str() {
                "sha256" => kdfs.push(Kdf::Sha256),
                "sha1" => kdfs.push(Kdf::Sha1),
                _ => values.complain(format!("--rails-key-digest {name:?}: it must be sha256 or sha1")),
            }
        }
        Self { bases: values.secrets("secret-key-base"), kdfs }
    }

    /// Each secret with each digest that a key may be derived with.
    fn sources(&self) -> impl Iterator<Item = (&SecretKeyBase, Kdf)> {
        self.bases.iter().flat_map(|base| self.kdfs.iter().map(move |&kdf| (base, kdf)))
    }
}

/// The keys of signed stream names: for Turbo what Rails derives from `secret_key_base`, then the
/// application's secret, which AnyCable has Turbo sign with; for AnyCable that secret as it is.
pub fn signed_names(values: &mut Values, rails: &RailsSecrets) -> SignedNames {
    let secrets = values.secrets("secret");
    let own = secrets.iter().map(|secret| Verifier::new(secret.expose_secret().as_bytes(), Digest::Sha256));
    let own: Vec<_> = own.collect();
    let derived = rails.sources().map(|(base, kdf)| kdf.turbo_streams(base));
    SignedNames {
        turbo: StreamKeys::new(derived.chain(own.iter().cloned()).collect()),
        anycable: StreamKeys::new(own),
    }
}

/// What is asked of those who connect.
pub fn identification(
    values: &mut Values,
    cookie: Option<&RailsCookie>,
    global_id_app: Option<GlobalIdApp>,
    messages: &DatabaseUrl,
) -> IdentificationConfig {
    let config = IdentificationConfig {
        jwt: jwt(values),
        cookie: cookie.map(RailsCookie::cookie),
        lookup: LookupConfig::resolve(values, messages),
        allow_anonymous: values.parse("allow-anonymous", switch),
        name: values.optional("connection-name", |text| {
            let name: Template = text.parse().map_err(|error: TemplateError| error.to_string())?;
            if name.has_parameters() {
                return Err("it is made of claims alone, such as {user.id} or {gid(User, user.id)}".into());
            }
            Ok(name)
        }),
        global_id_app,
    };
    if config.lookup.is_some() && config.cookie.is_none() {
        values.complain("--session-query is nothing without --rails-cookie, whose id it looks up".into());
    }
    let names_records = config.name.as_ref().is_some_and(Template::has_global_ids);
    if names_records && config.global_id_app.is_none() {
        values.complain("--connection-name: gid() needs --global-id-app".into());
    }
    config
}

/// What `--rails-cookie` and the settings beside it say.
#[derive(Debug, Clone)]
pub struct RailsCookie {
    pub kind: CookieKind,
    pub name: String,
    pub path: Path,
    pub secrets: RailsSecrets,
    /// What cookies are signed with.
    pub digest: Digest,
    pub signed_keys: Vec<Key>,
    pub encrypted_keys: Vec<Key>,
    pub binding: Binding,
    /// Cookies of Rails before 5.2 are read too.
    pub cbc: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CookieKind {
    Signed,
    Encrypted,
    /// Encrypted, and an object.
    Session,
}

impl RailsCookie {
    /// None where no cookie is asked for, or it can't be read with what was given.
    pub fn resolve(values: &mut Values, secrets: &RailsSecrets) -> Option<Self> {
        let signed_keys = keys(values, "rails-signed-key", &[SIGNING_KEY_BYTES]);
        let encrypted_keys = keys(values, "rails-encrypted-key", &[CIPHER_KEY_BYTES, AES_128_KEY_BYTES]);
        let path = values.optional("rails-identity", |text| text.parse().map_err(|error| format!("{error}")));
        let digest = values.parse("rails-cookie-digest", |text| match text {
            "sha1" => Ok(Digest::Sha1),
            "sha256" => Ok(Digest::Sha256),
            _ => Err("it must be sha1 or sha256".into()),
        });
        let binding = match values.parse("rails-unbound-cookies", switch) {
            true => Binding::NameOrNone,
            false => Binding::Name,
        };
        let cbc = values.parse("rails-cbc-cookies", switch);
        let (kind, name) = values.optional("rails-cookie", kind_and_name)?;
        let cookie = Self {
            kind,
            name,
            path: path.unwrap_or_default(),
            secrets: secrets.clone(),
            digest,
            signed_keys,
            encrypted_keys,
            binding,
            cbc,
        };
        let pasted = match kind {
            CookieKind::Signed => &cookie.signed_keys,
            CookieKind::Encrypted | CookieKind::Session => &cookie.encrypted_keys,
        };
        if cookie.secrets.bases.is_empty() && pasted.is_empty() {
            values.complain(format!(
                "--rails-cookie needs a key to read it with: {} or --secret-key-base (SECRET_KEY_BASE)",
                kind.key_flag()
            ));
            return None;
        }
        if kind == CookieKind::Session && cookie.path.is_empty() {
            values.complain(
                "--rails-cookie session:… needs --rails-identity: where in the session the id stands, such as \
                 user_id or warden.user.user.key.0.0"
                    .into(),
            );
            return None;
        }
        Some(cookie)
    }

    /// Whether `cbc` is set and changes nothing.
    pub fn reads_cbc_in_vain(&self) -> bool {
        self.cbc && (self.kind == CookieKind::Signed || self.secrets.bases.is_empty())
    }

    /// With all its keys, the pasted ones first.
    pub fn cookie(&self) -> Cookie {
        let jar = match self.kind {
            CookieKind::Signed => {
                let pasted =
                    self.signed_keys.iter().map(|key| Verifier::new(key.expose_secret(), self.digest));
                let derived = self.secrets.sources().map(|(base, kdf)| kdf.signed_cookie(base, self.digest));
                Jar::Signed(pasted.chain(derived).collect())
            }
            CookieKind::Encrypted | CookieKind::Session => {
                let mut keys: Vec<_> = self
                    .encrypted_keys
                    .iter()
                    .filter_map(|key| EncryptedKey::gcm(key.expose_secret()))
                    .collect();
                keys.extend(self.secrets.sources().map(|(base, kdf)| kdf.encrypted_cookie(base)));
                if self.cbc {
                    keys.extend(self.secrets.sources().map(|(base, kdf)| kdf.cbc_cookie(base)));
                }
                Jar::Encrypted(keys)
            }
        };
        Cookie { name: self.name.clone(), jar, binding: self.binding, path: self.path.clone() }
    }
}

impl CookieKind {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Signed => "signed",
            Self::Encrypted => "encrypted",
            Self::Session => "session",
        }
    }

    /// The flag of the keys that open it.
    pub fn key_flag(self) -> &'static str {
        match self {
            Self::Signed => "--rails-signed-key",
            Self::Encrypted | Self::Session => "--rails-encrypted-key",
        }
    }
}

const AES_128_KEY_BYTES: usize = 16;

fn kind_and_name(text: &str) -> Result<(CookieKind, String), String> {
    let kinds = [CookieKind::Signed, CookieKind::Encrypted, CookieKind::Session];
    let found = text.split_once(':').and_then(|(kind, name)| {
        let kind = kinds.into_iter().find(|known| known.as_str() == kind)?;
        // What can't stand in a header as a name could never be found there.
        let is_name = !name.is_empty() && name.bytes().all(|b| b.is_ascii_graphic() && !b"=;,".contains(&b));
        is_name.then(|| (kind, name.to_owned()))
    });
    found.ok_or_else(|| {
        "it must be signed:NAME, encrypted:NAME or session:NAME, such as signed:session_id".into()
    })
}

/// Keys in hexadecimal digits, as long as one of `lengths`.
fn keys(values: &mut Values, key: &'static str, lengths: &[usize]) -> Vec<Key> {
    let texts = values.secrets(key);
    let texts = texts.iter().flat_map(|text| text.expose_secret().split(',')).map(str::trim);
    let mut keys = Vec::new();
    for (n, text) in texts.enumerate() {
        match HEXLOWER_PERMISSIVE.decode(text.as_bytes()) {
            Ok(key) if lengths.contains(&key.len()) => keys.push(key.into()),
            _ => {
                let digits: Vec<_> = lengths.iter().map(|bytes| (2 * bytes).to_string()).collect();
                values.complain(format!(
                    "--{key}, number {}: it must be {} hexadecimal digits",
                    n + 1,
                    digits.join(" or ")
                ));
            }
        }
    }
    keys
}
