use std::time::SystemTime;

use tablecast_protocol::signed::{SignedError, StreamKeys};

/// Verifies signed stream names: those of Turbo's helper and those of AnyCable's are made with
/// keys of their own, and one is worth nothing as the other.
#[derive(Debug, Default)]
pub struct SignedNames {
    pub turbo: StreamKeys,
    pub anycable: StreamKeys,
}

/// The parameter that holds a signed name.
pub const PARAMETER: &str = "signed_stream_name";

pub const TURBO: &str = "Turbo::StreamsChannel";
pub const PUBSUB: &str = "$pubsub";

impl SignedNames {
    /// Whether there is a key for this channel's names.
    pub fn has_keys(&self, channel: &str) -> bool {
        self.keys(channel).any(|keys| !keys.is_empty())
    }

    /// The name that a signed one holds, if it is good for this channel.
    pub fn verify(&self, channel: &str, signed: &str, now: SystemTime) -> Result<String, SignedError> {
        let mut refusal = SignedError::WrongKey;
        for keys in self.keys(channel) {
            match keys.verify(signed, now) {
                Err(error @ (SignedError::WrongKey | SignedError::Unsigned)) => refusal = error,
                decided => return decided,
            }
        }
        Err(refusal)
    }

    /// The two channels that need no rule take the names of their own kind; an application's
    /// channel takes what the application has signed, either way.
    fn keys(&self, channel: &str) -> impl Iterator<Item = &StreamKeys> {
        let turbo = (channel != PUBSUB).then_some(&self.turbo);
        let anycable = (channel != TURBO).then_some(&self.anycable);
        turbo.into_iter().chain(anycable)
    }
}

#[cfg(test)]
mod tests {
    use tablecast_protocol::signed::{Digest, Verifier};

    use super::*;

    fn keys(key: &[u8]) -> StreamKeys {
        StreamKeys::new(vec![Verifier::new(key, Digest::Sha256)])
    }

    /// AnyCable's own vector.
    const CHAT: &str = "ImNoYXQ6MjAyMSI=--f9ee45dbccb1da04d8ceb99cc820207804370ba0d06b46fc3b8b373af1315628";

    #[test]
    fn each_kind_of_name_has_keys_of_its_own() {
        let names = SignedNames { turbo: keys(b"turbo"), anycable: keys(b"s3Krit") };
        let by_turbo = names.turbo.sign("chat:2021", None).unwrap();
        let verify = |channel: &str, signed: &str| names.verify(channel, signed, SystemTime::now());

        assert_eq!(verify(PUBSUB, CHAT).as_deref(), Ok("chat:2021"));
        assert_eq!(verify(TURBO, CHAT), Err(SignedError::WrongKey));
        assert_eq!(verify(TURBO, &by_turbo).as_deref(), Ok("chat:2021"));
        assert_eq!(verify(PUBSUB, &by_turbo), Err(SignedError::WrongKey));
        for signed in [CHAT, &by_turbo] {
            assert_eq!(verify("RoomChannel", signed).as_deref(), Ok("chat:2021"));
        }
    }

    #[test]
    fn a_channel_has_keys_where_its_own_kind_has() {
        let has_keys = |names: &SignedNames| [TURBO, PUBSUB, "RoomChannel"].map(|name| names.has_keys(name));

        assert_eq!(has_keys(&SignedNames::default()), [false, false, false]);
        let turbo = SignedNames { turbo: keys(b"a"), ..SignedNames::default() };
        assert_eq!(has_keys(&turbo), [true, false, true]);
        let anycable = SignedNames { anycable: keys(b"a"), ..SignedNames::default() };
        assert_eq!(has_keys(&anycable), [false, true, true]);
        assert_eq!(anycable.verify(TURBO, CHAT, SystemTime::now()), Err(SignedError::WrongKey));
    }
}
