use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

use super::{TokenError, Verified};
use crate::identity::id_text;

/// A JSON object in which no name stands twice, at whatever depth: readers differ in which of
/// the two they believe.
pub struct Claims(Map<String, Value>);

impl Claims {
    /// What they say of their bearer, if it is their time.
    pub fn judge(self, now: SystemTime, leeway: Duration) -> Result<Verified, TokenError> {
        let expires = self.time("exp")?;
        if expires.is_some_and(|at| now.duration_since(at).is_ok_and(|late| late >= leeway)) {
            return Err(TokenError::Expired);
        }
        if self.time("nbf")?.is_some_and(|at| at.duration_since(now).is_ok_and(|early| early > leeway)) {
            return Err(TokenError::TooEarly);
        }
        let expires = expires.map(|at| at.checked_add(leeway).ok_or(TokenError::Malformed)).transpose()?;
        let Self(mut claims) = self;
        let (claims, name) = match claims.remove("ext") {
            None => {
                let name = claims.get("sub").or_else(|| claims.get("id")).and_then(id_text);
                (claims, name)
            }
            Some(Value::String(text)) => {
                let Self(identifiers) = serde_json::from_str(&text).map_err(|_| TokenError::Malformed)?;
                (identifiers, Some(text))
            }
            Some(Value::Object(identifiers)) => {
                let name = serde_json::to_string(&identifiers).expect("a map of values is JSON");
                (identifiers, Some(name))
            }
            Some(_) => return Err(TokenError::Malformed),
        };
        Ok(Verified { claims, name, expires })
    }

    /// Seconds since 1970, whole or not.
    fn time(&self, name: &str) -> Result<Option<SystemTime>, TokenError> {
        let Some(value) = self.0.get(name) else { return Ok(None) };
        let seconds = value.as_f64().and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
        let time = seconds.and_then(|seconds| UNIX_EPOCH.checked_add(seconds));
        time.map(Some).ok_or(TokenError::Malformed)
    }
}

impl<'de> Deserialize<'de> for Claims {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match Strict::deserialize(deserializer)? {
            Strict(Value::Object(claims)) => Ok(Self(claims)),
            Strict(_) => Err(Error::custom("claims are an object")),
        }
    }
}

struct Strict(Value);

impl<'de> Deserialize<'de> for Strict {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(StrictVisitor).map(Self)
    }
}

struct StrictVisitor;

impl<'de> Visitor<'de> for StrictVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut values = Vec::new();
        while let Some(Strict(value)) = items.next_element()? {
            values.push(value);
        }
        Ok(Value::Array(values))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Value, A::Error> {
        let mut object = Map::new();
        while let Some((name, Strict(value))) = members.next_entry::<String, _>()? {
            if object.insert(name, value).is_some() {
                return Err(Error::custom("a name stands twice in an object"));
            }
        }
        Ok(Value::Object(object))
    }
}
