/// A WebSocket subprotocol that a client can be answered with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Subprotocol {
    /// Action Cable's own.
    V1Json,
    /// AnyCable's extension of it: messages have positions, and a client that comes back gives them back.
    V1ExtJson,
    /// What Rails' client offers last so as to learn that nothing else fits; it
    /// then stops for good.
    Unsupported,
}

impl Subprotocol {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::V1Json => "actioncable-v1-json",
            Self::V1ExtJson => "actioncable-v1-ext-json",
            Self::Unsupported => "actioncable-unsupported",
        }
    }
}

/// What a client put into `Sec-WebSocket-Protocol`.
#[derive(Debug, Default, Clone, Copy)]
pub struct Offer {
    /// The first that is served.
    served: Option<Subprotocol>,
    unsupported: bool,
}

impl Offer {
    /// Reads the header, or several of them. Unknown entries are tokens that
    /// applications smuggle in there; they are never selected.
    pub fn parse<'a>(headers: impl IntoIterator<Item = &'a str>) -> Self {
        let mut offer = Self::default();
        for name in headers.into_iter().flat_map(|header| header.split(',')).map(str::trim) {
            let served = [Subprotocol::V1Json, Subprotocol::V1ExtJson];
            let served = served.into_iter().find(|protocol| protocol.as_str() == name);
            offer.served = offer.served.or(served);
            offer.unsupported |= name == Subprotocol::Unsupported.as_str();
        }
        offer
    }

    /// The one to answer with; none where nothing known was offered, which is
    /// not an error: such a client is served all the same, as Rails does.
    ///
    /// The client's first of those that are served, wherever `actioncable-unsupported` stands: Rails' client
    /// gives up on that answer.
    pub fn select(self) -> Option<Subprotocol> {
        self.served.or(self.unsupported.then_some(Subprotocol::Unsupported))
    }

    /// Whether messages are to have positions.
    pub fn is_extended(self) -> bool {
        self.served == Some(Subprotocol::V1ExtJson)
    }

    /// Whether this is Rails' own client, the only one that offers it. It repeats
    /// a subscribe each 500 ms until it is confirmed (rails/rails#44652).
    pub fn is_rails_client(self) -> bool {
        self.unsupported
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_working_protocol_is_selected_wherever_it_stands() {
        let select =
            |headers: &[&str]| Offer::parse(headers.iter().copied()).select().map(Subprotocol::as_str);

        assert_eq!(select(&["actioncable-v1-json, actioncable-unsupported"]), Some("actioncable-v1-json"));
        assert_eq!(select(&["actioncable-unsupported,actioncable-v1-json"]), Some("actioncable-v1-json"));
        assert_eq!(select(&["token.abc", "actioncable-v1-json"]), Some("actioncable-v1-json"));
        assert_eq!(select(&["actioncable-v1-ext-json", "anycable-token.x"]), Some("actioncable-v1-ext-json"));
        assert_eq!(
            select(&["actioncable-v1-msgpack,actioncable-v1-json", "actioncable-v1-ext-json"]),
            Some("actioncable-v1-json"),
            "the client's first"
        );
        assert_eq!(select(&["actioncable-unsupported"]), Some("actioncable-unsupported"));
        assert_eq!(select(&["soap, wamp"]), None);
        assert_eq!(select(&[]), None);
    }
}
