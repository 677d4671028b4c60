//! A connection over a pipe, fed from a source in memory.

use std::io::{self, IoSlice};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::task::{Context as Task, Poll};

use futures_util::{SinkExt, StreamExt};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, ReadBuf};
use tokio_tungstenite::WebSocketStream;
use tungstenite::Message;
use tungstenite::protocol::Role;

use super::*;
use crate::bus::memory::{MemoryWriter, memory};
use crate::bus::{Batch, Log, Message as Row, Messages};
use crate::channels::{Doors, Pattern};
use crate::hub::{Notice, follow};
use crate::stream::{Prefix, Stream};
use tablecast_protocol::DisconnectReason;

const LIMITS: Limits = Limits {
    max_subscriptions: 10,
    max_identifier_bytes: 1 << 12,
    max_command_bytes: 1 << 16,
    send_buffer_bytes: 1 << 16,
    write_timeout: Duration::from_secs(30),
    rate_limit: 1000,
    rate_burst: 1000,
    max_connections_per_user: None,
};

const EXTENDED: &str = "actioncable-v1-ext-json";

struct Fixture {
    context: Arc<Context>,
    writer: MemoryWriter,
}

type Client = WebSocketStream<DuplexStream>;

/// A hub that follows a source in memory, and lets everybody listen to everything.
fn fixture() -> Fixture {
    fixture_with(LIMITS)
}

fn fixture_with(limits: Limits) -> Fixture {
    let everything = Doors { public_streams: vec![Pattern::new("*")], ..Doors::default() };
    let channels = Channels::new(everything, Prefix::default()).unwrap();
    let context = Arc::new(Context {
        hub: Arc::new(Hub::new(1 << 20)),
        history: History { log: Log::nowhere(), window: None, max_messages: 1000 },
        channels: Arc::new(channels),
        connections: Arc::default(),
        limits,
    });
    let (writer, source) = memory();
    let connections = context.connections.clone();
    let notice = move |_: Notice<'_>| connections.disconnect_all(DisconnectReason::NewHistory);
    let hub = context.hub.clone();
    tokio::spawn(async move { hub.writers.write().await });
    tokio::spawn(follow(source, context.hub.clone(), LIMITS.send_buffer_bytes / 4, notice));
    Fixture { context, writer }
}

impl Fixture {
    async fn connect(&self) -> Client {
        self.connect_as("actioncable-v1-json").await
    }

    async fn connect_as(&self, subprotocol: &str) -> Client {
        let (ours, theirs) = tokio::io::duplex(1 << 12);
        let offer = Offer::parse([subprotocol]);
        let agreed = Agreed { offer, encoding: Encoding::Plain };
        tokio::spawn(serve(Box::new(Mutex::new(ours)), Bytes::new(), agreed, Ok(None), self.context.clone()));
        let mut client = WebSocketStream::from_raw_socket(theirs, Role::Client, None).await;
        assert_eq!(next(&mut client).await, json!({ "type": "welcome" }));
        client
    }
}

async fn next(client: &mut Client) -> Value {
    match client.next().await.unwrap().unwrap() {
        Message::Text(text) => serde_json::from_str(&text).unwrap(),
        other => panic!("{other:?}"),
    }
}

fn identifier(stream: &Stream) -> String {
    json!({ "channel": "$pubsub", "stream_name": stream.as_str() }).to_string()
}

async fn send(client: &mut Client, command: &str, stream: &Stream) {
    let text = json!({ "command": command, "identifier": identifier(stream) }).to_string();
    client.send(Message::text(text)).await.unwrap();
}

fn stream(name: &str) -> Stream {
    Prefix::default().stream(name).unwrap()
}

#[tokio::test]
async fn a_message_follows_its_confirm_however_close_they_come() {
    let fixture = fixture();
    for round in 0..200 {
        let s = stream(&format!("s{round}"));
        let mut client = fixture.connect().await;
        send(&mut client, "subscribe", &s).await;
        // Released while the command is on its way: delivered behind the confirm, or not at all.
        fixture.writer.release(&s, &["1"]);
        let confirm = next(&mut client).await;
        assert_eq!(confirm["type"], "confirm_subscription");
        fixture.writer.release(&s, &["2"]);

        let mut messages = vec![next(&mut client).await["message"].clone()];
        if messages[0] == 1 {
            messages.push(next(&mut client).await["message"].clone());
        }
        assert_eq!(messages.last().unwrap(), 2, "what is released after the confirm is never missed");
    }
}

#[tokio::test]
async fn after_an_unsubscribe_what_waits_is_withdrawn() {
    let fixture = fixture();
    let (s, other) = (stream("s"), stream("other"));
    let mut client = fixture.connect().await;
    for stream in [&s, &other] {
        send(&mut client, "subscribe", stream).await;
        next(&mut client).await;
    }
    // More than the pipe holds, so that most of it waits in the outbox.
    let payload = format!("\"{}\"", "x".repeat(1000));
    fixture.writer.release(&s, &[payload.as_str(); 30]);
    fixture.writer.release(&other, &["\"marker\""]);
    send(&mut client, "unsubscribe", &s).await;
    while fixture.context.hub.has_subscribers(&s) {
        tokio::task::yield_now().await;
    }

    let mut before = 0;
    let marker = loop {
        let message = next(&mut client).await;
        if message["identifier"] == identifier(&other) {
            break message;
        }
        before += 1;
    };

    assert_eq!(marker["message"], "marker");
    assert!(before < 30, "only what was in the pipe: {before}");
}

/// AnyCable's client closes a channel for ever whose subscribe nobody has answered.
#[tokio::test(start_paused = true)]
async fn a_subscribe_that_is_on_its_way_is_answered_before_the_end() {
    let fixture = fixture();
    let (s, t) = (stream("s"), stream("t"));
    let mut client = fixture.connect_as(EXTENDED).await;

    fixture.context.connections.disconnect_all(DisconnectReason::ServerRestart);
    send(&mut client, "subscribe", &s).await;
    // The welcome took half a second to get there, and this takes as long.
    tokio::time::sleep(FIRST_COMMANDS - Duration::from_millis(10)).await;
    send(&mut client, "subscribe", &t).await;

    for stream in [&s, &t] {
        let confirm = json!({ "identifier": identifier(stream), "type": "confirm_subscription" });
        assert_eq!(next(&mut client).await, confirm);
    }
    assert_eq!(next(&mut client).await["reason"], "server_restart");
    assert!(!fixture.context.hub.has_subscribers(&s));
}

#[tokio::test(start_paused = true)]
async fn a_subscribe_over_the_rate_is_answered_before_the_end() {
    let fixture = fixture_with(Limits { rate_limit: 1, rate_burst: 2, ..LIMITS });
    let streams = ["a", "b", "over it", "after it"].map(stream);
    let mut client = fixture.connect_as(EXTENDED).await;

    for stream in &streams {
        send(&mut client, "subscribe", stream).await;
    }

    for stream in &streams {
        let confirm = json!({ "identifier": identifier(stream), "type": "confirm_subscription" });
        assert_eq!(next(&mut client).await, confirm);
    }
    assert_eq!(next(&mut client).await["reason"], "rate_limit");
}

#[tokio::test]
async fn who_shook_hands_before_the_drain_began_is_told_too() {
    let fixture = fixture();
    fixture.context.connections.drain(Duration::ZERO).await;

    let mut client = fixture.connect().await;

    assert_eq!(next(&mut client).await["reason"], "server_restart");
}

#[tokio::test]
async fn another_history_asks_everybody_to_come_back() {
    let fixture = fixture();
    let mut clients = [fixture.connect().await, fixture.connect().await];

    fixture.writer.send(Batch::NewHistory);

    for client in &mut clients {
        assert_eq!(
            next(client).await,
            json!({ "type": "disconnect", "reason": "new_history", "reconnect": true })
        );
        let Message::Close(Some(close)) = client.next().await.unwrap().unwrap() else { panic!("no close") };
        assert_eq!(u16::from(close.code), 1000);
    }
}

/// Nobody writes any more what waits for who is gone.
#[tokio::test(start_paused = true)]
async fn a_client_that_goes_while_much_waits_for_it_holds_nobody_up() {
    let fixture = fixture();
    let s = stream("s");
    let (mut behind, mut quick) = (fixture.connect().await, fixture.connect().await);
    for client in [&mut behind, &mut quick] {
        send(client, "subscribe", &s).await;
        next(client).await;
    }
    let payload = format!("\"{}\"", "x".repeat(1000));
    let reading = tokio::spawn(async move {
        for _ in 0..81 {
            next(&mut quick).await;
        }
    });
    // More than half of what may wait, and the hub gives the client the time to read it.
    fixture.writer.release(&s, &[payload.as_str(); 40]);
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }

    drop(behind);
    fixture.writer.release(&s, &[payload.as_str(); 40]);
    fixture.writer.release(&s, &["1"]);

    timeout(Duration::from_secs(60), reading).await.expect("all messages come").unwrap();
}

#[tokio::test]
async fn a_client_that_goes_without_a_word_leaves_nothing_behind() {
    let fixture = fixture();
    let s = stream("s");
    let mut client = fixture.connect().await;
    send(&mut client, "subscribe", &s).await;
    next(&mut client).await;
    assert!(fixture.context.hub.has_subscribers(&s));

    drop(client);

    while fixture.context.hub.has_subscribers(&s) {
        tokio::task::yield_now().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_that_does_not_answer_a_close_is_left_after_a_while() {
    let fixture = fixture();
    let agreed = Agreed { offer: Offer::default(), encoding: Encoding::Plain };
    let (ours, theirs) = tokio::io::duplex(1 << 12);
    let serving = tokio::spawn(serve(
        Box::new(Mutex::new(ours)),
        Bytes::new(),
        agreed,
        Ok(None),
        fixture.context.clone(),
    ));
    tokio::task::yield_now().await;

    fixture.context.connections.disconnect_all(DisconnectReason::ServerRestart);

    serving.await.unwrap();
    drop(theirs);
}

#[tokio::test(start_paused = true)]
async fn a_command_that_takes_too_long_ends_the_connection_and_a_client_that_rests_stays() {
    let fixture = fixture();
    let s = stream("s");
    let mut client = fixture.connect().await;
    tokio::time::sleep(Duration::from_secs(3600)).await;
    send(&mut client, "subscribe", &s).await;
    assert_eq!(next(&mut client).await["type"], "confirm_subscription");

    let mut loris = client.into_inner();
    let mut seconds = 0;
    for byte in std::iter::once(0x81).chain([0xfe, 0xff, 0xff, 0, 0, 0, 0]).chain(std::iter::repeat(b'x')) {
        if loris.write_all(&[byte]).await.is_err() || !fixture.context.hub.has_subscribers(&s) {
            break;
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
        seconds += 1;
    }

    assert!((31..=32).contains(&seconds), "{seconds}");
    let mut close = [0; 4];
    loris.read_exact(&mut close).await.unwrap();
    assert_eq!(close, [0x88, 2, 0x03, 0xf0], "1008");
}

/// A socket that takes everything, and shows what it has taken.
struct Recording(Arc<Mutex<Vec<u8>>>);

impl Socket for Recording {
    fn poll_read(&self, _: &mut Task<'_>, _: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Poll::Pending
    }

    fn poll_write(&self, _: &mut Task<'_>, slices: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let mut taken = self.0.lock();
        let before = taken.len();
        slices.iter().for_each(|slice| taken.extend_from_slice(slice));
        Poll::Ready(Ok(taken.len() - before))
    }

    fn poll_flush(&self, _: &mut Task<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(&self, _: &mut Task<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// RFC 6455, 5.5.1. The hub publishes while the client says goodbye.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_follows_the_answer_to_a_close() {
    let fixture = fixture();
    let streams: Vec<Stream> = (0..10).map(|n| stream(&format!("s{n}"))).collect();
    let mut early = Vec::new();
    for stream in &streams {
        let command = json!({ "command": "subscribe", "identifier": identifier(stream) }).to_string();
        early.extend([0x81, 0xfe, 0, command.len() as u8, 0, 0, 0, 0]);
        early.extend(command.bytes());
    }
    early.extend([0x88, 0x82, 0, 0, 0, 0, 0x03, 0xe8]);
    let messages: Vec<Row> = streams.iter().map(|stream| Row::new(stream.clone(), "1")).collect();
    let is_over = Arc::new(AtomicBool::new(false));
    let publishing = {
        let (hub, is_over) = (fixture.context.hub.clone(), is_over.clone());
        std::thread::spawn(move || {
            let batch = Messages::from(messages);
            while !is_over.load(Relaxed) {
                hub.publish(&batch, 0..batch.messages.len(), &mut batch.tokens());
            }
        })
    };

    let mut late = 0;
    for _ in 0..200 {
        let taken = Arc::new(Mutex::new(Vec::new()));
        let socket = Recording(taken.clone());
        let agreed = Agreed { offer: Offer::default(), encoding: Encoding::Plain };
        serve(Box::new(socket), Bytes::copy_from_slice(&early), agreed, Ok(None), fixture.context.clone())
            .await;
        let taken = taken.lock();
        late += usize::from(!taken.ends_with(&[0x88, 2, 0x03, 0xe8]));
    }
    is_over.store(true, Relaxed);
    publishing.join().unwrap();

    assert_eq!(late, 0);
}
