//! What a client offers in `Sec-WebSocket-Extensions`, and what it is answered (RFC 7692, 7.1).

/// The answer to the first offer of permessage-deflate that can be accepted: the response's
/// `Sec-WebSocket-Extensions`. None, and the header is left out, where there is no such offer.
///
/// Neither side carries its window over from one message to the next: so a message is
/// compressed once for all recipients, and an inflater lives no longer than a message.
/// A client may be told the latter unasked (7.1.1.2).
///
/// Offers that make no sense, or that ask for a smaller window than the one that messages are
/// compressed with, are declined, as 7.1 demands; a client then gets its next offer, or no compression.
pub fn accept_deflate<'a>(headers: impl IntoIterator<Item = &'a str>) -> Option<&'static str> {
    headers.into_iter().flat_map(|header| header.split(',')).find_map(answer)
}

fn answer(offer: &str) -> Option<&'static str> {
    let mut parameters = offer.split(';').map(str::trim);
    if parameters.next() != Some("permessage-deflate") {
        return None;
    }
    let mut seen = Vec::new();
    let mut names_server_window = false;
    for parameter in parameters {
        let (name, value) = match parameter.split_once('=') {
            Some((name, value)) => (name.trim_end(), Some(unquoted(value.trim_start()))),
            None => (parameter, None),
        };
        let is_valid = match name {
            "server_no_context_takeover" | "client_no_context_takeover" => value.is_none(),
            "client_max_window_bits" => value.is_none_or(is_window_bits),
            "server_max_window_bits" => {
                names_server_window = true;
                value == Some("15")
            }
            _ => false,
        };
        if !is_valid || seen.contains(&name) {
            return None;
        }
        seen.push(name);
    }
    Some(if names_server_window {
        // Who names it wants it confirmed (7.1.2.1).
        "permessage-deflate; server_no_context_takeover; client_no_context_takeover; server_max_window_bits=15"
    } else {
        "permessage-deflate; server_no_context_takeover; client_no_context_takeover"
    })
}

/// A decimal without leading zeros (7.1.2).
fn is_window_bits(value: &str) -> bool {
    matches!(value, "8" | "9" | "10" | "11" | "12" | "13" | "14" | "15")
}

/// A value may be quoted, and is a token then too (RFC 6455, 9.1).
fn unquoted(value: &str) -> &str {
    value.strip_prefix('"').and_then(|value| value.strip_suffix('"')).unwrap_or(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: Option<&str> =
        Some("permessage-deflate; server_no_context_takeover; client_no_context_takeover");
    const CONFIRMED: Option<&str> = Some(
        "permessage-deflate; server_no_context_takeover; client_no_context_takeover; server_max_window_bits=15",
    );

    #[test]
    fn what_makes_sense_is_accepted() {
        for (offer, answer) in [
            ("permessage-deflate", PLAIN),
            // Chromium and Firefox; Node's ws; Safari's old one beside it.
            ("permessage-deflate; client_max_window_bits", PLAIN),
            ("x-webkit-deflate-frame, permessage-deflate; client_max_window_bits", PLAIN),
            ("permessage-deflate; client_max_window_bits=10", PLAIN),
            ("permessage-deflate; client_max_window_bits=\"8\"", PLAIN),
            (" permessage-deflate ;server_no_context_takeover ; client_no_context_takeover", PLAIN),
            ("permessage-deflate; server_max_window_bits=15", CONFIRMED),
            // The RFC's example of a fall-back (7.1.3).
            ("permessage-deflate; server_max_window_bits=10, permessage-deflate", PLAIN),
            ("permessage-deflate; server_max_window_bits=\"15\" ; client_max_window_bits", CONFIRMED),
        ] {
            assert_eq!(accept_deflate([offer]), answer, "{offer}");
        }
        assert_eq!(accept_deflate(["x", "permessage-deflate"]), PLAIN, "in a second header");
    }

    #[test]
    fn what_does_not_is_declined() {
        for offer in [
            "",
            "permessage",
            "permessage-bzip2",
            "permessage-deflate;",
            "permessage-deflate; what",
            "permessage-deflate; server_no_context_takeover=1",
            "permessage-deflate; client_no_context_takeover=",
            "permessage-deflate; client_no_context_takeover; client_no_context_takeover",
            "permessage-deflate; client_max_window_bits; client_max_window_bits=9",
            "permessage-deflate; client_max_window_bits=7",
            "permessage-deflate; client_max_window_bits=16",
            "permessage-deflate; client_max_window_bits=08",
            "permessage-deflate; client_max_window_bits=",
            "permessage-deflate; server_max_window_bits",
            "permessage-deflate; server_max_window_bits=14",
            "permessage-deflate; server_max_window_bits=+15",
        ] {
            assert_eq!(accept_deflate([offer]), None, "{offer}");
        }
        assert_eq!(accept_deflate([]), None);
    }
}
