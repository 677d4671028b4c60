use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde_json::json;

use crate::identity::Unidentified;

/// An error's answer: `application/problem+json` (RFC 9457).
#[derive(Debug)]
pub struct Problem {
    status: StatusCode,
    detail: String,
    /// Where in the body, as a JSON pointer (RFC 6901).
    pointer: Option<String>,
    header: Option<(&'static str, String)>,
}

impl Problem {
    pub fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        Self { status, detail: detail.into(), pointer: None, header: None }
    }

    pub fn at(mut self, pointer: impl Into<String>) -> Self {
        self.pointer = Some(pointer.into());
        self
    }

    pub fn retry_after(self, seconds: u32) -> Self {
        self.header("retry-after", seconds.to_string())
    }

    pub fn allow(self, methods: &'static str) -> Self {
        self.header("allow", methods.to_owned())
    }

    pub fn authenticate(self, scheme: &'static str) -> Self {
        self.header("www-authenticate", scheme.to_owned())
    }

    pub fn status(&self) -> StatusCode {
        self.status
    }

    fn header(mut self, name: &'static str, value: String) -> Self {
        self.header = Some((name, value));
        self
    }
}

impl From<Unidentified> for Problem {
    fn from(unidentified: Unidentified) -> Self {
        let detail = unidentified.to_string();
        match unidentified {
            Unidentified::Unavailable => Self::new(StatusCode::SERVICE_UNAVAILABLE, detail).retry_after(1),
            Unidentified::Missing | Unidentified::Expired => {
                Self::new(StatusCode::UNAUTHORIZED, detail).authenticate("Bearer")
            }
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut body = json!({
            "type": "about:blank",
            "title": self.status.canonical_reason().unwrap_or("Error"),
            "status": self.status.as_u16(),
            "detail": self.detail,
        });
        if let Some(pointer) = self.pointer {
            body["pointer"] = pointer.into();
        }
        let content_type = (CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        let mut response = (self.status, [content_type], body.to_string()).into_response();
        if let Some((name, value)) = self.header {
            let value = HeaderValue::try_from(value).expect("digits and letters");
            response.headers_mut().insert(name, value);
        }
        response
    }
}
