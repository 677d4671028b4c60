/// Solid Cable's `channel_hash`: the first eight bytes of SHA-256 over the channel,
/// prefix included, as a signed big-endian number.
///
/// Rails selects rows by it, so a row with another is never delivered there.
/// Source: `app/models/solid_cable/message.rb`.
pub fn channel_hash(channel: &[u8]) -> i64 {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, channel);
    let first = digest.as_ref().first_chunk().expect("SHA-256 has 32 bytes");
    i64::from_be_bytes(*first)
}

/// A number for what identifies a table's life: the same on each server, and in each version.
pub fn life_name(identity: &str) -> u64 {
    channel_hash(identity.as_bytes()) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_what_solid_cable_computes() {
        assert_eq!(channel_hash(b"room:1"), 4762459634708996067);
        assert_eq!(channel_hash(b"action_cable/1"), -108848227552927621);
        assert_eq!(channel_hash("é".as_bytes()), 5375421630974772051);
        assert_eq!(channel_hash(b""), -2039914840885289964);
    }
}
