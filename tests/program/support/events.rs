use std::io::{BufReader, Read, Write};
use std::net::SocketAddr;

use super::Wire;

/// A client of `GET /events` by hand, over HTTP/1.1.
pub struct Events {
    wire: BufReader<Wire>,
    pub status: u16,
    pub head: String,
    /// What is left of the chunk; none: the body is told by its length.
    chunk: usize,
    is_chunked: bool,
    is_over: bool,
    /// What a browser would give back.
    pub last_id: String,
    /// How long it would wait before that.
    pub retry: Option<String>,
}

/// What stands between two empty lines.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Event {
    pub id: Option<String>,
    pub name: Option<String>,
    pub data: Option<String>,
    pub retry: Option<String>,
}

impl Events {
    /// Asks, and expects to be answered by events.
    pub fn open(address: SocketAddr, query: &str, headers: &[(&str, &str)]) -> Self {
        let events = Self::try_open(address, query, headers);
        assert_eq!(events.status, 200, "{}", events.head);
        assert_eq!(events.header("content-type"), Some("text/event-stream"));
        events
    }

    pub fn try_open(address: SocketAddr, query: &str, headers: &[(&str, &str)]) -> Self {
        Self::try_open_over(Wire::plain(address), address, &format!("/events?{query}"), headers)
    }

    /// The same on a connection that is there already.
    pub fn try_open_over(mut wire: Wire, address: SocketAddr, path: &str, headers: &[(&str, &str)]) -> Self {
        let mut request = format!("GET {path} HTTP/1.1\r\n");
        if !headers.iter().any(|(name, _)| *name == "Host") {
            request += &format!("Host: {address}\r\n");
        }
        for (name, value) in headers {
            request += &format!("{name}: {value}\r\n");
        }
        wire.write_all(format!("{request}\r\n").as_bytes()).unwrap();
        let mut wire = BufReader::with_capacity(1 << 12, wire);
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            if wire.read(&mut byte).unwrap() == 0 {
                break;
            }
            head.push(byte[0]);
        }
        let head = String::from_utf8(head).unwrap();
        let status =
            head.split(' ').nth(1).unwrap_or_else(|| panic!("no answer but {head:?}")).parse().unwrap();
        let mut events = Self {
            wire,
            status,
            head,
            chunk: 0,
            is_chunked: true,
            is_over: false,
            last_id: String::new(),
            retry: None,
        };
        if let Some(length) = events.header("content-length") {
            (events.chunk, events.is_chunked) = (length.parse().unwrap(), false);
        }
        events
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        let lines = self.head.lines().filter_map(|line| line.split_once(": "));
        lines.filter(|(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, value)| value).next()
    }

    /// The rest of an answer that is no stream of events.
    pub fn body(mut self) -> String {
        let mut body = Vec::new();
        while let Some(byte) = self.byte() {
            body.push(byte);
        }
        String::from_utf8(body).unwrap()
    }

    /// The next event, also one that is only a position or a comment. None at the end.
    pub fn event(&mut self) -> Option<Event> {
        let mut event = Event::default();
        loop {
            let line = self.line()?;
            if line.is_empty() {
                break;
            }
            let (field, value) = line.split_once(':').unwrap_or_else(|| panic!("{line:?} is no field"));
            let value = value.strip_prefix(' ').unwrap_or(value).to_owned();
            let before = match field {
                "" => continue,
                "id" => event.id.replace(value),
                "event" => event.name.replace(value),
                "data" => event.data.replace(value),
                "retry" => event.retry.replace(value),
                _ => panic!("{line:?} is no field of an event"),
            };
            assert_eq!(before, None, "twice in an event: {line:?}");
        }
        if let Some(id) = &event.id {
            self.last_id.clone_from(id);
        }
        if let Some(retry) = &event.retry {
            self.retry = Some(retry.clone());
        }
        Some(event)
    }

    /// The next one that has data. None at the end.
    pub fn with_data(&mut self) -> Option<Event> {
        loop {
            let event = self.event()?;
            if event.data.is_some() {
                return Some(event);
            }
        }
    }

    /// The data of the next message.
    pub fn message(&mut self) -> String {
        let event = self.with_data().expect("it ended");
        assert_eq!(event.name, None, "{event:?}");
        event.data.unwrap()
    }

    /// Reads until it has a position that comes without a message: all of the past has been given.
    pub fn up_to_date(&mut self) -> String {
        loop {
            match self.event().expect("it ended") {
                Event { id: Some(id), data: None, .. } => return id,
                Event { data: None, .. } => {}
                event => panic!("{event:?} instead of a position"),
            }
        }
    }

    fn line(&mut self) -> Option<String> {
        let mut line = Vec::new();
        loop {
            match self.byte()? {
                b'\n' => return Some(String::from_utf8(line).unwrap()),
                byte => line.push(byte),
            }
        }
    }

    fn byte(&mut self) -> Option<u8> {
        if self.chunk == 0 && !self.begin_chunk() {
            return None;
        }
        let mut byte = [0];
        if self.wire.read(&mut byte).expect("more, or an end, in time") == 0 {
            return None;
        }
        self.chunk -= 1;
        if self.chunk == 0 && self.is_chunked {
            let mut end = [0; 2];
            self.wire.read_exact(&mut end).unwrap();
            assert_eq!(&end, b"\r\n");
        }
        Some(byte[0])
    }

    /// Says whether there is one.
    fn begin_chunk(&mut self) -> bool {
        if self.is_over || !self.is_chunked {
            return false;
        }
        let mut line = Vec::new();
        while !line.ends_with(b"\r\n") {
            let mut byte = [0];
            if self.wire.read(&mut byte).expect("more, or an end, in time") == 0 {
                // Without the last chunk: the connection broke.
                return false;
            }
            line.push(byte[0]);
        }
        self.chunk = usize::from_str_radix(std::str::from_utf8(&line).unwrap().trim(), 16).unwrap();
        self.is_over = self.chunk == 0;
        !self.is_over
    }
}
