/// A client's masking key (RFC 6455, 5.3), turned to the next byte of the payload.
#[derive(Debug, Clone, Copy)]
pub struct Mask([u8; 4]);

impl Mask {
    pub fn new(key: [u8; 4]) -> Self {
        Self(key)
    }

    /// Appends a piece of the payload, unmasked.
    pub fn append(&mut self, to: &mut Vec<u8>, masked: &[u8]) {
        let start = to.len();
        to.extend_from_slice(masked);
        self.apply(&mut to[start..]);
        self.0.rotate_left(masked.len() % 4);
    }

    /// By words, of which the compiler makes vectors.
    fn apply(self, bytes: &mut [u8]) {
        let [a, b, c, d] = self.0;
        let key = u64::from_ne_bytes([a, b, c, d, a, b, c, d]);
        let (words, rest) = bytes.as_chunks_mut::<8>();
        for word in words {
            *word = (u64::from_ne_bytes(*word) ^ key).to_ne_bytes();
        }
        for (byte, key) in rest.iter_mut().zip(self.0.iter().cycle()) {
            *byte ^= key;
        }
    }
}
