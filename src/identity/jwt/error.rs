/// Why a token isn't accepted. It never holds anything of the token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    #[error("the token is longer than {} bytes", super::MAX_TOKEN_BYTES)]
    TooLong,
    #[error("it is no token, or its header or claims can't be read")]
    Malformed,
    #[error("the token's algorithm is none of --jwt-algorithms")]
    Algorithm,
    #[error("the token's header asks for extensions (crit), and none is known here")]
    Critical,
    #[error("the token was signed by none of the keys (--jwt-key, --jwks)")]
    Signature,
    #[error(
        "the token was signed by none of the keys (--jwt-key, --jwks), or names one (kid) that isn't in --jwks"
    )]
    UnknownKey,
    /// It may be good: ask again later.
    #[error("the keys of --jwks can't be had right now")]
    KeysAway,
    #[error("the token has expired")]
    Expired,
    #[error("the token is not valid yet (nbf)")]
    TooEarly,
    #[error("the token is for somebody else (aud): --jwt-audience")]
    Audience,
    #[error("the token is from somebody else (iss): --jwt-issuer")]
    Issuer,
}

impl TokenError {
    /// One word for the metrics.
    pub fn reason(self) -> &'static str {
        match self {
            Self::TooLong => "token_too_long",
            Self::Malformed => "token_malformed",
            Self::Algorithm => "token_algorithm",
            Self::Critical => "token_critical",
            Self::Signature => "token_signature",
            Self::UnknownKey => "token_unknown_key",
            Self::KeysAway => "token_keys_away",
            Self::Expired => "token_expired",
            Self::TooEarly => "token_too_early",
            Self::Audience => "token_audience",
            Self::Issuer => "token_issuer",
        }
    }

    /// Whether the same token may be accepted in a while, for reasons that aren't its bearer's.
    pub fn is_retryable(self) -> bool {
        self == Self::KeysAway
    }
}
