use crate::CloseCode;

/// What a client did that ends its connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Violation {
    /// RFC 6455, 5.1.
    #[error("a frame that is not masked")]
    Unmasked,
    /// RFC 6455, 5.2: no extension that was agreed on gives these a meaning here.
    #[error("a frame with reserved bits")]
    ReservedBits,
    #[error("a frame of a reserved kind")]
    ReservedOpcode,
    /// RFC 6455, 5.5, as the next.
    #[error("a control frame in fragments")]
    FragmentedControl,
    #[error("a control frame of more than 125 bytes")]
    LongControl,
    /// RFC 6455, 5.4, as the next.
    #[error("a continuation of no message")]
    NothingToContinue,
    #[error("a new message before the end of the one before")]
    Interrupted,
    /// RFC 6455, 5.5.1.
    #[error("a Close of one byte")]
    ClosePayload,
    /// RFC 6455, 7.4.
    #[error("a Close with a code that is never sent")]
    CloseCode,
    /// RFC 6455, 8.1.
    #[error("text that is not UTF-8")]
    NotUtf8,
    /// RFC 7692, 7.2.2.
    #[error("a compressed message that can't be inflated")]
    NotDeflate,
    #[error("a message that is larger than what is taken")]
    TooBig,
}

impl Violation {
    /// What the client is told.
    pub fn close_code(self) -> CloseCode {
        match self {
            Self::Unmasked
            | Self::ReservedBits
            | Self::ReservedOpcode
            | Self::FragmentedControl
            | Self::LongControl
            | Self::NothingToContinue
            | Self::Interrupted
            | Self::ClosePayload
            | Self::CloseCode => CloseCode::Protocol,
            Self::NotUtf8 | Self::NotDeflate => CloseCode::InvalidData,
            Self::TooBig => CloseCode::TooBig,
        }
    }

    /// One word, for a metric's label.
    pub fn name(self) -> &'static str {
        match self {
            Self::Unmasked => "unmasked",
            Self::ReservedBits => "reserved_bits",
            Self::ReservedOpcode => "reserved_opcode",
            Self::FragmentedControl => "fragmented_control",
            Self::LongControl => "long_control",
            Self::NothingToContinue => "nothing_to_continue",
            Self::Interrupted => "interrupted_message",
            Self::ClosePayload => "close_payload",
            Self::CloseCode => "close_code",
            Self::NotUtf8 => "not_utf8",
            Self::NotDeflate => "not_deflate",
            Self::TooBig => "too_big",
        }
    }
}
