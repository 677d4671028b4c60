//! The frames that this crate writes, read by an implementation that isn't ours,
//! and everything that a stranger could send.

use std::io::Cursor;

use proptest::prelude::*;
use tablecast_protocol::{CloseCode, Command, Frame, Identifier, MessageHead, Offer, is_json};
use tungstenite::Message;
use tungstenite::protocol::{Role, WebSocket};

/// What a client's WebSocket implementation makes of these bytes.
fn read(frame: &Frame) -> Message {
    let io = Cursor::new(frame.as_bytes().to_vec());
    WebSocket::from_raw_socket(io, Role::Client, None).read().expect("a valid frame")
}

proptest! {
    #[test]
    fn a_message_arrives_as_identifier_and_payload(identifier in ".*", text in ".{0,70000}", number in any::<i64>()) {
        let payload = serde_json::json!({ "text": text, "number": number }).to_string();

        let frame = Frame::message(&MessageHead::new(&identifier), &payload);

        let Message::Text(text) = read(&frame) else { panic!("not a text frame") };
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        prop_assert_eq!(value["identifier"].as_str(), Some(&*identifier));
        prop_assert_eq!(&value["message"], &serde_json::from_str::<serde_json::Value>(&payload).unwrap());
    }

    #[test]
    fn answers_echo_the_identifier(identifier in ".*") {
        for (frame, kind) in [
            (Frame::confirm_subscription(&identifier), "confirm_subscription"),
            (Frame::reject_subscription(&identifier), "reject_subscription"),
        ] {
            let Message::Text(text) = read(&frame) else { panic!("not a text frame") };
            let value: serde_json::Value = serde_json::from_str(&text).unwrap();
            prop_assert_eq!(value["identifier"].as_str(), Some(&*identifier));
            prop_assert_eq!(value["type"].as_str(), Some(kind));
        }
    }

    #[test]
    fn a_close_keeps_its_code_and_fits_a_control_frame(reason in ".{0,300}") {
        let Message::Close(Some(close)) = read(&Frame::close(CloseCode::TooBig, &reason)) else { panic!("not a close") };
        prop_assert_eq!(u16::from(close.code), 1009);
        prop_assert!(reason.starts_with(close.reason.as_str()));
    }

    #[test]
    fn commands_come_back_as_they_were_written(identifier in ".*", which in 0..5usize) {
        let name = ["subscribe", "unsubscribe", "message", "history", "presence"][which];
        let text = serde_json::json!({ "command": name, "identifier": identifier, "data": "{}" }).to_string();

        let command = Command::parse(&text).unwrap();

        let (parsed, back) = match &command {
            Command::Subscribe { identifier, .. } => ("subscribe", identifier),
            Command::Unsubscribe { identifier } => ("unsubscribe", identifier),
            Command::Message { identifier } => ("message", identifier),
            Command::History { identifier, .. } => ("history", identifier),
            Command::Presence { identifier } => ("presence", identifier),
            Command::Foreign | Command::Pong => panic!("it is neither"),
        };
        prop_assert_eq!(parsed, name);
        prop_assert_eq!(&**back, &*identifier);
    }

    #[test]
    fn nothing_that_a_client_sends_panics(bytes in proptest::collection::vec(any::<u8>(), 0..512), json in r#"[\{\}\[\]",:a-z0-9\\ .e+-]{0,64}"#) {
        for text in [&*String::from_utf8_lossy(&bytes), &*json] {
            let _ = Command::parse(text);
            let _ = Offer::parse([text]).select();
            let _ = is_json(text);
            if let Ok(identifier) = Identifier::parse(text) {
                let _ = (identifier.channel(), identifier.scalar("a"));
            }
        }
    }
}

#[test]
fn depth_is_no_limit_for_a_payload() {
    let deep = "[".repeat(100_000) + &"]".repeat(100_000);

    assert!(is_json(&deep));
    assert!(!is_json(&deep[1..]));
}
