use std::io::{BufReader, Read, Write};
use std::net::SocketAddr;
use std::time::Instant;

use serde_json::{Value, json};

use super::{PATIENCE, Wire};

/// What a client of the extended protocol is sent in place of a ping while it may lack something.
const KEEP_ALIVE: &str = r#"{"identifier":"keep-alive","type":"confirm_history"}"#;

/// A WebSocket client by hand, so that every byte can be wrong.
pub struct Socket {
    /// Reads in large pieces, as browsers do.
    wire: BufReader<Wire>,
    /// The answer to the handshake.
    pub head: String,
}

#[derive(Debug, PartialEq, Eq)]
pub enum Frame {
    Text(String),
    Ping(Vec<u8>),
    Pong(Vec<u8>),
    /// Code and reason; 1005 where there is none.
    Close(u16, String),
    /// The end of the TCP connection.
    End,
}

impl Socket {
    /// Connects as a page of the same host would, and expects 101.
    pub fn open(address: SocketAddr, path: &str, headers: &[(&str, &str)]) -> Self {
        let socket = Self::try_open(address, path, headers);
        assert!(socket.head.starts_with("HTTP/1.1 101 "), "{}", socket.head);
        socket
    }

    /// Sends a handshake; headers given here come instead of the usual ones, and a header
    /// without a value is left out.
    pub fn try_open(address: SocketAddr, path: &str, headers: &[(&str, &str)]) -> Self {
        Self::try_open_over(Wire::plain(address), address, path, headers)
    }

    /// The same on a connection that is there already.
    pub fn try_open_over(wire: Wire, address: SocketAddr, path: &str, headers: &[(&str, &str)]) -> Self {
        let scheme = if matches!(wire, Wire::Tls(_)) { "https" } else { "http" };
        let usual = [
            ("Host", address.to_string()),
            ("Connection", "Upgrade".into()),
            ("Upgrade", "websocket".into()),
            ("Sec-WebSocket-Version", "13".into()),
            ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==".into()),
            ("Origin", format!("{scheme}://{address}")),
        ];
        let mut request = format!("GET {path} HTTP/1.1\r\n");
        for (name, value) in &usual {
            if !headers.iter().any(|(given, _)| given == name) {
                request += &format!("{name}: {value}\r\n");
            }
        }
        for (name, value) in headers.iter().filter(|(_, value)| !value.is_empty()) {
            request += &format!("{name}: {value}\r\n");
        }
        let mut wire = BufReader::with_capacity(1 << 16, wire);
        wire.get_mut().write_all(format!("{request}\r\n").as_bytes()).unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            if wire.read(&mut byte).unwrap_or(0) == 0 {
                break;
            }
            head.push(byte[0]);
        }
        Self { wire, head: String::from_utf8(head).unwrap() }
    }

    /// What it came over.
    pub fn wire(&mut self) -> &mut Wire {
        self.wire.get_mut()
    }

    /// What follows the head of an answer that isn't 101.
    pub fn body(mut self) -> String {
        let mut body = String::new();
        let length = self
            .head
            .to_lowercase()
            .split_once("content-length: ")
            .map(|(_, rest)| rest.split("\r\n").next().unwrap().parse::<u64>().unwrap());
        (&mut self.wire).take(length.unwrap_or(u64::MAX)).read_to_string(&mut body).unwrap();
        body
    }

    pub fn send(&mut self, text: &str) {
        self.send_frame(0x81, true, text.as_bytes());
    }

    /// A frame with a first byte of one's own.
    pub fn send_frame(&mut self, first: u8, masked: bool, payload: &[u8]) {
        let mask_bit = if masked { 0x80 } else { 0 };
        let mut bytes = vec![first];
        match payload.len() {
            length @ 0..=125 => bytes.push(mask_bit | length as u8),
            length @ 126..=0xffff => {
                bytes.push(mask_bit | 126);
                bytes.extend((length as u16).to_be_bytes());
            }
            length => {
                bytes.push(mask_bit | 127);
                bytes.extend((length as u64).to_be_bytes());
            }
        }
        let mask = [0x12, 0x34, 0x56, 0x78];
        if masked {
            bytes.extend(mask);
            bytes.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
        } else {
            bytes.extend(payload);
        }
        self.send_raw(&bytes);
    }

    pub fn send_raw(&mut self, bytes: &[u8]) {
        // A server that has closed takes no more; what it said before is still to be read.
        let _ = self.wire.get_mut().write_all(bytes);
    }

    /// The next frame, whichever.
    pub fn frame(&mut self) -> Frame {
        let mut header = [0; 2];
        if self.wire.read_exact(&mut header).is_err() {
            return Frame::End;
        }
        assert_eq!(header[1] & 0x80, 0, "a server masks nothing");
        assert_eq!(header[0] & 0xf0, 0x80, "a server neither fragments nor uses reserved bits");
        let length = match header[1] {
            126 => u64::from(u16::from_be_bytes(self.bytes())),
            127 => u64::from_be_bytes(self.bytes()),
            length => u64::from(length),
        };
        let mut payload = vec![0; length as usize];
        self.wire.read_exact(&mut payload).unwrap();
        match header[0] & 0xf {
            1 => Frame::Text(String::from_utf8(payload).unwrap()),
            8 if payload.len() < 2 => Frame::Close(1005, String::new()),
            8 => {
                let code = u16::from_be_bytes([payload[0], payload[1]]);
                Frame::Close(code, String::from_utf8(payload[2..].to_vec()).unwrap())
            }
            9 => Frame::Ping(payload),
            10 => Frame::Pong(payload),
            other => panic!("opcode {other}"),
        }
    }

    fn bytes<const N: usize>(&mut self) -> [u8; N] {
        let mut bytes = [0; N];
        self.wire.read_exact(&mut bytes).unwrap();
        bytes
    }

    /// The next frame that is no heartbeat.
    pub fn next(&mut self) -> Frame {
        let started = Instant::now();
        loop {
            assert!(started.elapsed() < PATIENCE, "nothing but heartbeats");
            match self.frame() {
                Frame::Text(text) if text.starts_with(r#"{"type":"ping""#) || text == KEEP_ALIVE => {}
                frame => return frame,
            }
        }
    }

    /// The next text that is no heartbeat.
    pub fn text(&mut self) -> String {
        match self.next() {
            Frame::Text(text) => text,
            other => panic!("{other:?} instead of a text"),
        }
    }

    pub fn json(&mut self) -> Value {
        serde_json::from_str(&self.text()).unwrap()
    }

    pub fn command(&mut self, command: &str, identifier: &str) {
        self.send(&json!({ "command": command, "identifier": identifier }).to_string());
    }

    /// Subscribes, and expects to be confirmed.
    pub fn subscribe(&mut self, identifier: &str) {
        self.command("subscribe", identifier);
        assert_eq!(self.json(), json!({ "identifier": identifier, "type": "confirm_subscription" }));
    }

    /// Subscribes, and is confirmed, perhaps after messages of other subscriptions.
    pub fn subscribe_among(&mut self, identifier: &str, mut other: impl FnMut(&Value)) {
        self.command("subscribe", identifier);
        let confirm = json!({ "identifier": identifier, "type": "confirm_subscription" });
        loop {
            let json = self.json();
            if json == confirm {
                return;
            }
            other(&json);
        }
    }

    /// Subscribes, and expects to be rejected.
    pub fn rejected(&mut self, identifier: &str) {
        self.command("subscribe", identifier);
        assert_eq!(self.json(), json!({ "identifier": identifier, "type": "reject_subscription" }));
    }

    /// The next message of a subscription, as the payload's own text.
    pub fn message(&mut self, identifier: &str) -> String {
        let text = self.text();
        let head = format!(r#"{{"identifier":{},"message":"#, json!(identifier));
        let payload =
            text.strip_prefix(&head).unwrap_or_else(|| panic!("{text} is no message of {identifier}"));
        payload.strip_suffix('}').unwrap().to_owned()
    }

    /// Asserts that nothing has been sent but what was read: the answer to a subscription that
    /// is rejected comes next.
    pub fn nothing_else(&mut self) {
        self.rejected(r#"{"probe":"nothing else"}"#);
    }

    pub fn close(&mut self) {
        self.send_frame(0x88, true, &1000u16.to_be_bytes());
    }
}
