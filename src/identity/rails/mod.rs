//! The cookies of a Rails application, read without Rails.
//!
//! A [`Cookie`] is one that Rails has signed or encrypted, and the place in it where the id
//! stands that a connection is known by: [`header`] finds its text as Rack would, [`jar`] opens
//! that under the application's [`keys`], [`path`] walks to the id. It is stricter than Rails:
//! nothing but JSON is read, a value must be bound to the cookie's name, and whatever could
//! make an id of something else is refused. Which keys there are is settled at the start; a
//! cookie costs no derivation.
//!
//! Cookies' values are as good as passwords: errors tell a reason and never a value.

mod error;
mod header;
mod jar;
pub mod keys;
mod path;
#[cfg(test)]
mod tests;

use std::time::SystemTime;

use axum::http::HeaderMap;
use serde_json::Value;

pub use error::CookieError;
pub use header::{form_decoded, named};
pub use jar::{Binding, EncryptedKey, Jar};
pub use path::Path;

/// The cookie that says who a visitor is.
#[derive(Debug)]
pub struct Cookie {
    pub name: String,
    pub jar: Jar,
    pub binding: Binding,
    /// Where the id stands in the cookie's value.
    pub path: Path,
}

/// Of a cookie that is good.
#[derive(Debug, Clone, PartialEq)]
pub struct Opened {
    pub value: Value,
    /// From when on the cookie isn't good any more; none if it doesn't say.
    pub expires: Option<SystemTime>,
}

impl Cookie {
    /// The id, a text or a whole number, that a request's cookie gives at its path, for as long as the
    /// cookie is good.
    ///
    /// None where the request has no such cookie, or a good one without the path: that is an
    /// anonymous visitor. A cookie that is there and can't be believed is an error.
    pub fn read(&self, headers: &HeaderMap, now: SystemTime) -> Result<Option<Opened>, CookieError> {
        let Some(text) = header::value(headers, &self.name)? else { return Ok(None) };
        let Opened { value, expires } = self.open(&text, now)?;
        Ok(self.path.id(&value)?.map(|id| Opened { value: id, expires }))
    }

    /// All that the cookie holds; `text` is its value, decoded from the header.
    pub fn open(&self, text: &str, now: SystemTime) -> Result<Opened, CookieError> {
        let plain = self.jar.open(text)?;
        self.binding.value(&plain, &self.name, now)
    }
}
