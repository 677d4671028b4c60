use serde::{Deserialize, Serialize};

/// What ends connections from afar, as a row holds it on a stream of Rails' own:
/// `{"type":"disconnect","reconnect":true}`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RemoteDisconnect {
    /// Whether their clients may come back.
    pub reconnect: bool,
}

#[derive(Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Row {
    Disconnect {
        #[serde(default = "RemoteDisconnect::reconnects_by_default")]
        reconnect: bool,
    },
}

impl RemoteDisconnect {
    /// None of what else may stand there, which Rails ignores.
    pub fn parse(payload: &str) -> Option<Self> {
        let Row::Disconnect { reconnect } = serde_json::from_str(payload).ok()?;
        Some(Self { reconnect })
    }

    pub fn payload(self) -> String {
        serde_json::to_string(&Row::Disconnect { reconnect: self.reconnect }).expect("a boolean is JSON")
    }

    /// As in Rails.
    pub fn reconnects_by_default() -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_what_rails_writes_and_reads() {
        for reconnect in [true, false] {
            let disconnect = RemoteDisconnect { reconnect };
            let payload = format!(r#"{{"type":"disconnect","reconnect":{reconnect}}}"#);
            assert_eq!(disconnect.payload(), payload);
            assert_eq!(RemoteDisconnect::parse(&payload), Some(disconnect));
        }
        let by_default = Some(RemoteDisconnect { reconnect: true });
        assert_eq!(RemoteDisconnect::parse(r#"{"type":"disconnect"}"#), by_default);
        assert_eq!(RemoteDisconnect::parse(r#"{"x":1,"type":"disconnect"}"#), by_default);
        for other in
            [r#"{"type":"x"}"#, r#"{"reconnect":true}"#, r#"{"type":"disconnect","reconnect":1}"#, "[]", "{"]
        {
            assert_eq!(RemoteDisconnect::parse(other), None, "{other}");
        }
    }
}
