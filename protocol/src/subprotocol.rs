/// A WebSocket subprotocol that a client can be answered with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Subprotocol {
    /// Action Cable's own.
    V1Json,
    /// What Rails' client offers last so as to learn that nothing else fits; it
    /// then stops for good.
    Unsupported,
}

impl Subprotocol {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::V1Json => "actioncable-v1-json",
            Self::Unsupported => "actioncable-unsupported",
        }
    }
}

/// What a client put into `Sec-WebSocket-Protocol`.
#[derive(Debug, Default, Clone, Copy)]
pub struct Offer {
    v1_json: bool,
    unsupported: bool,
}

impl Offer {
    /// Reads the header, or several of them. Unknown entries are tokens that
    /// applications smuggle in there; they are never selected.
    pub fn parse<'a>(headers: impl IntoIterator<Item = &'a str>) -> Self {
        let mut offer = Self::default();
        for name in headers.into_iter().flat_map(|header| header.split(',')).map(str::trim) {
            offer.v1_json |= name == Subprotocol::V1Json.as_str();
            offer.unsupported |= name == Subprotocol::Unsupported.as_str();
        }
        offer
    }

    /// The one to answer with; none where nothing known was offered, which is
    /// not an error: such a client is served all the same, as Rails does.
    ///
    /// Rails takes the client's first; we prefer the one that works wherever it
    /// stands, since its client gives up on any other answer.
    pub fn select(self) -> Option<Subprotocol> {
        if self.v1_json {
            Some(Subprotocol::V1Json)
        } else if self.unsupported {
            Some(Subprotocol::Unsupported)
        } else {
            None
        }
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
        assert_eq!(select(&["actioncable-unsupported"]), Some("actioncable-unsupported"));
        assert_eq!(select(&["soap, wamp"]), None);
        assert_eq!(select(&[]), None);
    }
}
