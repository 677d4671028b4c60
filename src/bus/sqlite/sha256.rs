//! SHA-256 as a SQL expression, for a database that has none.
//!
//! A row's `channel_hash` must be right at the moment it is committed: a Rails process
//! on the same file selects by it and does not look again. So the publishing trigger has to
//! compute it, in any SQLite from 3.38 on, with nothing loaded. A trigger may hold no
//! loop, but a scalar subquery in it may hold a recursive CTE; this one runs the 64 rounds
//! of each block as 64 rows (about 0.35 ms), and a memo table keeps the results.
//!
//! Names are those of FIPS 180-4, section 6.2: the schedule's window `w0 … w15`, the
//! working variables `a … h`, the hash so far `h0 … h7`. SQLite computes with signed
//! 64-bit numbers: words are kept below 2^32 by [`low`], and there is no XOR.

/// The expression for the first 64 bits, big-endian, of SHA-256 over the bytes of the SQL
/// expression `message`: Solid Cable's `channel_hash`.
pub(super) fn first_64_bits(message: &str) -> String {
    let constants = list(0..64, |i| format!("({i},{})", ROUND_CONSTANTS[i]));
    let window = list(0..16, |i| format!("w{i}"));
    let variables = "a, b, c, d, e, f, g, h";
    let so_far = list(0..8, |i| format!("h{i}"));
    let initial = list(0..8, |i| INITIAL_HASH[i].to_string());
    let added = list(0..8, |i| low(&format!("h{i} + {}", VARIABLES[i])));

    // One round: everything moves down by one, w16, a and e are new.
    let next_window = list(1..16, |i| format!("w{i}"));
    let next_word = low(&format!("{} + w9 + {} + w0", small_sigma_1("w14"), small_sigma_0("w1")));
    let t1 = format!("h + {} + {} + k.value + w0", big_sigma_1("e"), choose("e", "f", "g"));
    let t2 = format!("{} + {}", big_sigma_0("a"), majority("a", "b", "c"));
    let next_a = low(&format!("{t1} + {t2}"));
    let next_e = low(&format!("d + {t1}"));

    format!(
        "(WITH RECURSIVE
    k (round, value) AS (VALUES {constants}),
    -- The message in hexadecimal, padded to whole blocks of 128 digits.
    padded (message) AS (SELECT {padded}),
    s (block, round, message, {window}, {variables}, {so_far}) AS (
      SELECT 0, 0, message, {first_words}, {initial}, {initial} FROM padded
      UNION ALL -- the next round of a block
      SELECT block, s.round + 1, message, {next_window}, {next_word},
             {next_a}, a, b, c, {next_e}, e, f, g, {so_far}
      FROM s JOIN k ON k.round = s.round
      UNION ALL -- the next block
      SELECT block + 1, 0, message, {later_words}, {added}, {added}
      FROM s WHERE round = 64 AND (block + 1) * 128 < length(message)
    )
    SELECT ({high} << 32) | {low} FROM s WHERE round = 64 AND (block + 1) * 128 = length(message))",
        padded = padded(message),
        first_words = list(0..16, |i| word("0", i)),
        later_words = list(0..16, |i| word("block + 1", i)),
        high = low("h0 + a"),
        low = low("h1 + b"),
    )
}

const VARIABLES: [&str; 8] = ["a", "b", "c", "d", "e", "f", "g", "h"];

/// 5.1.1: a one bit, zeros, and the length in bits as a 64-bit number.
fn padded(message: &str) -> String {
    format!(
        "hex({message}) || '80' || substr(hex(zeroblob(64)), 1, 2 * ((119 - length({message}) % 64) % 64)) \
         || printf('%016X', 8 * length({message}))"
    )
}

/// The `index`-th word of a block: eight hexadecimal digits. Zero is the digit
/// that `instr` doesn't find.
fn word(block: &str, index: usize) -> String {
    let digits: Vec<String> = (0..8)
        .map(|digit| {
            let at = format!("128 * ({block}) + {}", 8 * index + digit + 1);
            format!("(instr('123456789ABCDEF', substr(message, {at}, 1)) << {})", 28 - 4 * digit)
        })
        .collect();
    format!("({})", digits.join(" | "))
}

fn choose(x: &str, y: &str, z: &str) -> String {
    format!("(({x} & {y}) + (~{x} & {z}))")
}

fn majority(x: &str, y: &str, z: &str) -> String {
    format!("(({x} & ({y} | {z})) | ({y} & {z}))")
}

fn big_sigma_0(x: &str) -> String {
    low(&xor(&xor(&rotated(x, 2), &rotated(x, 13)), &rotated(x, 22)))
}

fn big_sigma_1(x: &str) -> String {
    low(&xor(&xor(&rotated(x, 6), &rotated(x, 11)), &rotated(x, 25)))
}

fn small_sigma_0(x: &str) -> String {
    low(&xor(&xor(&rotated(x, 7), &rotated(x, 18)), &format!("({x} >> 3)")))
}

fn small_sigma_1(x: &str) -> String {
    low(&xor(&xor(&rotated(x, 17), &rotated(x, 19)), &format!("({x} >> 10)")))
}

/// A rotation to the right, with rubbish above bit 31 that [`low`] takes off later.
fn rotated(x: &str, bits: u32) -> String {
    format!("(({x} | ({x} << 32)) >> {bits})")
}

/// `x XOR y`, exact for any 64 bits: the bits of `x & y` are among those of `x | y`.
fn xor(x: &str, y: &str) -> String {
    format!("(({x} | {y}) - ({x} & {y}))")
}

/// The low 32 bits.
fn low(x: &str) -> String {
    format!("(({x}) & 4294967295)")
}

fn list(range: std::ops::Range<usize>, item: impl Fn(usize) -> String) -> String {
    range.map(item).collect::<Vec<_>>().join(", ")
}

/// 5.3.3.
const INITIAL_HASH: [u32; 8] =
    [0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19];

/// 4.2.2.
#[rustfmt::skip]
const ROUND_CONSTANTS: [u32; 64] = [
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2,
];

#[cfg(test)]
mod tests {
    use sqlx::{AssertSqlSafe, Connection, SqliteConnection};

    use super::*;
    use crate::bus::channel_hash;

    #[tokio::test]
    async fn it_is_sha256_for_every_length_around_the_block_and_word_bounds() {
        let mut sqlite = SqliteConnection::connect("sqlite::memory:").await.unwrap();
        let sql = format!("SELECT {} FROM (SELECT ?1 AS channel)", first_64_bits("channel"));
        let lengths = (0..=130).chain([183, 184, 191, 192, 255, 256, 1000, 1023, 1024]);

        for length in lengths {
            let channel: Vec<u8> = (0..length).map(|i: usize| (i * 131 + length * 7) as u8).collect();
            let hash: i64 = sqlx::query_scalar(AssertSqlSafe(sql.clone()))
                .bind(&channel)
                .fetch_one(&mut sqlite)
                .await
                .unwrap();
            assert_eq!(hash, channel_hash(&channel), "{length} bytes");
        }
    }
}
