use tablecast_protocol::signed::SignedError;

/// Why a cookie that is there says nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CookieError {
    #[error(transparent)]
    Signed(#[from] SignedError),
    #[error("it is not UTF-8")]
    Utf8,
    #[error(
        "it isn't encrypted: it is not the base64 of a text, of 12 bytes and of 16, with -- between them"
    )]
    Unencrypted,
    #[error("it was encrypted with another key, or changed since")]
    Undecryptable,
    #[error(
        "it isn't bound to the name of its cookie, so any cookie of the application could stand in its place; --rails-unbound-cookies reads it (applications with load_defaults below 6.0 write such)"
    )]
    Unbound,
    #[error("it was written for another cookie's name")]
    OtherName,
    #[error("what stands at its --rails-identity is {0}, and an id is a text or a whole number")]
    NotAnId(&'static str),
}

impl CookieError {
    /// The reason in one word, for logs and metrics.
    pub fn label(&self) -> &'static str {
        match self {
            Self::Signed(SignedError::Unsigned) => "unsigned",
            Self::Signed(SignedError::WrongKey) | Self::Undecryptable => "wrong_key",
            Self::Signed(SignedError::Expired) => "expired",
            Self::Signed(SignedError::Marshal) => "marshal",
            Self::Signed(SignedError::MessagePack) => "message_pack",
            Self::Signed(_) => "malformed",
            Self::Utf8 => "not_utf8",
            Self::Unencrypted => "unencrypted",
            Self::Unbound => "unbound",
            Self::OtherName => "other_name",
            Self::NotAnId(_) => "not_an_id",
        }
    }

    /// Whether a key fitted: what is wrong then is with what the application has written.
    pub fn is_authentic(&self) -> bool {
        !matches!(
            self,
            Self::Signed(SignedError::Unsigned | SignedError::WrongKey)
                | Self::Utf8
                | Self::Unencrypted
                | Self::Undecryptable
        )
    }
}
