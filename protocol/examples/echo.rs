//! Echoes what it is sent, by the decoder and the deflater of this crate: the server that
//! Autobahn's fuzzing client is let loose on (`tests/autobahn`).

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};

use tablecast_protocol::{Decoder, Deflater, Event, Frame, accept_deflate};
use tungstenite::handshake::derive_accept_key;

/// Autobahn's largest message.
const MAX_BYTES: usize = 16 << 20;

fn main() -> io::Result<()> {
    let address = std::env::args().nth(1).unwrap_or("127.0.0.1:9001".into());
    let listener = TcpListener::bind(&address)?;
    println!("listening on {}", listener.local_addr()?);
    for socket in listener.incoming() {
        let socket = socket?;
        std::thread::spawn(|| {
            if let Err(error) = serve(socket) {
                eprintln!("{error}");
            }
        });
    }
    Ok(())
}

fn serve(mut socket: TcpStream) -> io::Result<()> {
    socket.set_nodelay(true)?;
    let mut reader = BufReader::new(socket.try_clone()?);
    let mut decoder = Decoder::new(MAX_BYTES);
    let mut deflater = None;
    if shake_hands(&mut reader, &mut socket)? {
        decoder = decoder.inflating();
        deflater = Some(Deflater::default());
    }
    loop {
        let mut input = reader.fill_buf()?;
        let available = input.len();
        if available == 0 {
            return Ok(());
        }
        let result = decoder.next(&mut input);
        let consumed = available - input.len();
        reader.consume(consumed);
        let answer = match result {
            Ok(None | Some(Event::Pong)) => continue,
            Ok(Some(Event::Text(text))) => message(0x81, text.as_bytes(), &mut deflater),
            Ok(Some(Event::Binary(bytes))) => message(0x82, &bytes, &mut deflater),
            Ok(Some(Event::Ping(payload))) => Frame::pong(&payload),
            Ok(Some(Event::Close { code, reason })) => {
                return end(socket, reader, &Frame::close_answer(code, &reason));
            }
            Err(violation) => return end(socket, reader, &Frame::close(violation.close_code(), "")),
        };
        socket.write_all(answer.as_bytes())?;
    }
}

/// Says whether compression was agreed on.
fn shake_hands(reader: &mut impl BufRead, socket: &mut TcpStream) -> io::Result<bool> {
    let (mut key, mut extensions) = (String::new(), Vec::new());
    for line in reader.by_ref().lines() {
        let line = line?;
        if line.is_empty() {
            break;
        }
        let (name, value) = line.split_once(':').unwrap_or_default();
        match &*name.to_ascii_lowercase() {
            "sec-websocket-key" => key = value.trim().to_owned(),
            "sec-websocket-extensions" => extensions.push(value.trim().to_owned()),
            _ => {}
        }
    }
    let accept = derive_accept_key(key.as_bytes());
    let extension = accept_deflate(extensions.iter().map(String::as_str));
    let extension_header = extension.map(|extension| format!("Sec-WebSocket-Extensions: {extension}\r\n"));
    write!(
        socket,
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: {accept}\r\n{}\r\n",
        extension_header.unwrap_or_default(),
    )?;
    Ok(extension.is_some())
}

fn message(first: u8, payload: &[u8], deflater: &mut Option<Deflater>) -> Frame {
    let length = payload.len();
    let mut bytes = vec![first];
    match length {
        0..=125 => bytes.push(length as u8),
        126..=0xffff => {
            bytes.push(126);
            bytes.extend((length as u16).to_be_bytes());
        }
        _ => {
            bytes.push(127);
            bytes.extend((length as u64).to_be_bytes());
        }
    }
    bytes.extend_from_slice(payload);
    let frame = Frame::from_wire(&bytes);
    deflater.as_mut().and_then(|deflater| deflater.deflate(&frame)).unwrap_or(frame)
}

/// Closing a socket with unread bytes would take back what was just sent.
fn end(mut socket: TcpStream, mut reader: impl Read, close: &Frame) -> io::Result<()> {
    socket.write_all(close.as_bytes())?;
    socket.shutdown(std::net::Shutdown::Write)?;
    io::copy(&mut reader, &mut io::sink()).map(|_| ())
}
