use std::num::NonZeroU8;
use std::time::{Duration, SystemTime};

use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use time::format_description::well_known::iso8601::{Config, EncodedConfig, Iso8601, TimePrecision};

use super::{SignedError, decode};

/// A serialised value, taken out of what binds it to a time or a purpose.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Envelope {
    /// Still serialised.
    pub message: Vec<u8>,
    /// What it is good for; none if it isn't said.
    pub purpose: Option<String>,
    /// From when on it isn't good any more; none if that isn't said.
    pub expires: Option<SystemTime>,
}

impl Envelope {
    /// Opens `{"_rails":{"message":BASE64,"exp":…,"pur":…}}`, in which cookies always stand, and
    /// the messages of old applications. None where that isn't what `text` begins with, to the
    /// byte, which is how Rails tells it apart.
    ///
    /// A value that looks like an envelope itself stays as it is: one level is opened.
    pub fn open(text: &[u8], now: SystemTime) -> Option<Result<Self, SignedError>> {
        text.starts_with(MESSAGE_HEAD).then(|| {
            let Outer { rails } =
                serde_json::from_slice::<Outer<Legacy>>(text).map_err(|_| SignedError::Envelope)?;
            let message = decode(rails.message.as_bytes())?;
            Self { message, purpose: None, expires: None }.bound(rails.exp, rails.pur, now)
        })
    }

    /// Takes `text` as what messages are now: `{"_rails":{"data":VALUE,…}}` or the value alone.
    pub(super) fn open_any(text: &[u8], now: SystemTime) -> Result<Self, SignedError> {
        let Ok(Outer { rails }) = serde_json::from_slice::<Outer<&RawValue>>(text) else {
            // No object, or none with this key. What it is then, its reader says.
            return Ok(Self { message: text.to_vec(), purpose: None, expires: None });
        };
        let Current { data, exp, pur } =
            serde_json::from_str(rails.get()).map_err(|_| SignedError::Envelope)?;
        Self { message: data.get().into(), purpose: None, expires: None }.bound(exp, pur, now)
    }

    /// Refuses what is over, and notes its end and the purpose.
    fn bound(self, exp: Value, pur: Option<String>, now: SystemTime) -> Result<Self, SignedError> {
        let expires = match exp {
            Value::Null => None,
            Value::String(exp) => {
                let exp = OffsetDateTime::parse(&exp, &Rfc3339).map_err(|_| SignedError::Expiry)?;
                if at(now) >= exp {
                    return Err(SignedError::Expired);
                }
                Some(exp.into())
            }
            // Rails takes a number for a Julian day, with which nothing ever expires.
            _ => return Err(SignedError::Expiry),
        };
        Ok(Self { purpose: pur.filter(|purpose| !purpose.is_empty()), expires, ..self })
    }

    /// The value itself, which must be JSON.
    pub fn value(&self) -> Result<Value, SignedError> {
        match self.message.as_slice() {
            // Either could pass for text, and neither may be interpreted.
            [0x04, 0x08, ..] => Err(SignedError::Marshal),
            [0xcc, 0x80, ..] => Err(SignedError::MessagePack),
            json => serde_json::from_slice(json).map_err(|_| SignedError::Json),
        }
    }
}

const MESSAGE_HEAD: &[u8] = br#"{"_rails":{"message":"#;

#[derive(Deserialize)]
struct Outer<T> {
    #[serde(rename = "_rails")]
    rails: T,
}

#[derive(Deserialize)]
struct Legacy {
    message: String,
    #[serde(default)]
    exp: Value,
    pur: Option<String>,
}

#[derive(Deserialize)]
struct Current<'a> {
    #[serde(borrow)]
    data: &'a RawValue,
    #[serde(default)]
    exp: Value,
    pur: Option<String>,
}

/// `json` as Rails writes it where it expires.
pub(super) fn write(json: &str, expires: SystemTime) -> String {
    let exp = at(expires).format(&MILLISECONDS).expect("a time of four digits' years can be written");
    format!(r#"{{"_rails":{{"data":{json},"exp":"{exp}"}}}}"#)
}

const MILLISECONDS: Iso8601<MILLISECONDS_CONFIG> = Iso8601;
const MILLISECONDS_CONFIG: EncodedConfig =
    Config::DEFAULT.set_time_precision(TimePrecision::Second { decimal_digits: NonZeroU8::new(3) }).encode();

/// Before 1970 it is 1970, and after the year 9999 that year's end.
fn at(time: SystemTime) -> OffsetDateTime {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO);
    let nanoseconds = i128::try_from(since.as_nanos()).unwrap_or(i128::MAX);
    OffsetDateTime::from_unix_timestamp_nanos(nanoseconds)
        .unwrap_or(time::PrimitiveDateTime::MAX.assume_utc())
}
