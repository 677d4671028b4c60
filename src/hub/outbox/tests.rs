mod holds;

use std::future::poll_fn;
use std::sync::Arc;
use std::thread;

use proptest::prelude::*;
use tokio::io::{AsyncReadExt, DuplexStream};

use super::*;
use crate::hub::Writers;

const ONE: SubscriptionId = SubscriptionId(1);
const TWO: SubscriptionId = SubscriptionId(2);

/// Two bytes longer than its text.
fn frame(text: &str) -> Frame {
    Frame::from_wire(&[&[0x81, text.len() as u8], text.as_bytes()].concat())
}

fn run(texts: &[&str]) -> Frame {
    Frame::from_wire(&texts.iter().flat_map(|text| frame(text).as_bytes().to_vec()).collect::<Vec<u8>>())
}

/// The texts of whole frames; fails if there is anything else.
fn texts(mut wire: &[u8]) -> Vec<String> {
    let mut texts = Vec::new();
    while let [_, length, rest @ ..] = wire {
        let (text, rest) = rest.split_at_checked((*length).into()).expect("whole frames alone");
        texts.push(String::from_utf8_lossy(text).into_owned());
        wire = rest;
    }
    assert!(wire.is_empty(), "half a frame");
    texts
}

/// An outbox whose socket takes `room` bytes and then nothing until they are read.
fn outbox(max_bytes: usize, room: usize) -> (Outbox, DuplexStream) {
    let (ours, theirs) = tokio::io::duplex(room);
    (Outbox::new(Box::new(Mutex::new(ours)), Manner::Cable, max_bytes), theirs)
}

fn waiting(outbox: &Outbox) -> usize {
    outbox.state.lock().queue.waiting()
}

/// Writes what the socket takes.
fn flush(outbox: &Outbox) -> Poll<io::Result<()>> {
    outbox.poll_flush(&mut Context::from_waker(Waker::noop()))
}

async fn read(mut socket: DuplexStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    socket.read_to_end(&mut bytes).await.unwrap();
    bytes
}

fn last_words() -> Vec<u8> {
    let close = Frame::close(CloseCode::Normal, "");
    [Frame::disconnect(DisconnectReason::SlowConsumer).as_bytes(), close.as_bytes()].concat()
}

#[tokio::test]
async fn frames_arrive_in_order_through_a_socket_that_takes_a_few_bytes_at_a_time() {
    let (outbox, theirs) = outbox(1 << 20, 7);
    let expected: Vec<String> = (0..500).map(|n| format!("frame {n}")).collect();
    for text in &expected {
        outbox.push(frame(text), Of::Connection);
    }
    outbox.close(Closing::Client);

    let reading = tokio::spawn(read(theirs));
    poll_fn(|cx| outbox.poll_flush(cx)).await.unwrap();
    assert_eq!(waiting(&outbox), 0);
    drop(outbox);

    assert_eq!(texts(&reading.await.unwrap()), expected);
}

#[test]
fn what_waits_is_counted_to_the_byte() {
    let (outbox, _theirs) = outbox(100, 4);
    outbox.push(frame("123456"), Of::Connection);
    outbox.push(frame("7890"), Of::Connection);
    assert_eq!(waiting(&outbox), 14);

    assert!(flush(&outbox).is_pending());

    assert_eq!(waiting(&outbox), 10);
}

#[tokio::test]
async fn a_full_queue_gives_way_to_the_word_that_it_was() {
    let (outbox, theirs) = outbox(17, 4);
    outbox.push(run(&["1234", "begun"]), Of::Events(ONE));
    outbox.push(frame("90"), Of::Events(ONE));
    assert!(flush(&outbox).is_pending());

    assert_eq!(outbox.offer(frame("123456"), Of::Events(ONE), Box::default), Offered::Refused);

    let closing = poll_fn(|cx| outbox.poll_closing(cx)).await;
    assert_eq!(closing, Closing::Disconnect(DisconnectReason::SlowConsumer));
    let reading = tokio::spawn(read(theirs));
    poll_fn(|cx| outbox.poll_flush(cx)).await.unwrap();
    drop(outbox);
    // Of the run that was begun, the message that was begun is finished.
    assert_eq!(reading.await.unwrap(), [frame("1234").as_bytes(), &last_words()].concat());
}

#[tokio::test]
async fn a_client_that_needs_its_answers_gets_them_however_slowly_it_reads() {
    let (ours, theirs) = tokio::io::duplex(4);
    let outbox = Outbox::new(Box::new(Mutex::new(ours)), Manner::Extended, 17);
    outbox.push(frame("begun"), Of::Events(ONE));
    outbox.push(frame("yes"), Of::Connection);
    assert!(flush(&outbox).is_pending());
    outbox.push(frame("lost"), Of::Events(ONE));
    assert!(!outbox.is_closing());

    // The last straw is one itself, and one comes while somebody else has just closed.
    assert!(outbox.push(frame("no"), Of::Connection));
    assert!(outbox.is_closing());
    assert!(outbox.push(frame("yes"), Of::Connection));
    assert!(!outbox.push(frame("late"), Of::Events(ONE)));
    outbox.answer_last(vec![frame("last")]);

    let reading = tokio::spawn(read(theirs));
    poll_fn(|cx| outbox.poll_flush(cx)).await.unwrap();
    drop(outbox);
    let expected: Vec<u8> = ["begun", "yes", "no", "yes", "last"]
        .iter()
        .flat_map(|text| frame(text).as_bytes().to_vec())
        .collect();
    assert_eq!(reading.await.unwrap(), [expected, last_words()].concat());
}

#[test]
fn one_message_of_any_size_fits_where_little_waits() {
    let (outbox, _theirs) = outbox(10, 1);
    assert!(outbox.push(frame("123"), Of::Connection));
    assert!(outbox.push(frame("a large message"), Of::Events(ONE)));
    assert!(!outbox.push(frame("1"), Of::Events(ONE)));
}

#[test]
fn withdrawing_spares_other_subscriptions_and_half_written_messages() {
    let (outbox, _theirs) = outbox(100, 2);
    outbox.push(run(&["half", "gone"]), Of::Events(ONE));
    outbox.push(frame("gone"), Of::State(ONE));
    outbox.push(frame("kept"), Of::Events(TWO));
    assert!(flush(&outbox).is_pending());

    outbox.withdraw(ONE);

    assert_eq!(waiting(&outbox), 4 + 6);
    assert_eq!(outbox.drain(), [frame("half"), frame("kept")]);
}

#[test]
fn where_much_waits_the_latest_of_each_state_stays() {
    let (outbox, _theirs) = outbox(30, 1);
    for n in 1..100 {
        assert!(outbox.push(run(&[&format!("a{n}"), &format!("a{n}+")]), Of::State(ONE)));
        assert!(outbox.push(frame(&format!("b{n}")), Of::State(TWO)));
    }

    let left: Vec<Frame> = outbox.drain().iter().flat_map(Frame::each).collect();

    let of = |letter: u8| left.iter().filter(|frame| frame.as_bytes()[2] == letter).collect::<Vec<_>>();
    assert_eq!(of(b'a').last(), Some(&&frame("a99+")));
    assert_eq!(of(b'b').last(), Some(&&frame("b99")));
    assert!(left.iter().map(Frame::len).sum::<usize>() <= 30);
}

/// Rails' clients before 7.2 reconnect after six seconds without a heartbeat, whatever else comes.
#[test]
fn a_heartbeat_waits_behind_what_waits_and_is_never_the_last_straw() {
    let (outbox, _theirs) = outbox(64, 1);
    outbox.push(frame("a message"), Of::Events(ONE));
    outbox.offer_if_idle(&frame("the line is up"));
    outbox.offer_ping(&frame("ping"));
    assert_eq!(outbox.drain(), ["a message", "ping"].map(frame));

    outbox.push(frame(&"x".repeat(60)), Of::Events(ONE));
    assert_eq!(outbox.offer_ping(&frame("ping")), Offered::Queued { is_much: false });
    assert_eq!(outbox.drain(), [frame(&"x".repeat(60))]);
    assert!(outbox.push(frame("a message"), Of::Events(ONE)));
}

#[test]
fn a_socket_that_takes_nothing_is_stalled_and_one_that_takes_a_little_is_not() {
    let (outbox, mut theirs) = outbox(1 << 20, 1);
    outbox.push(frame(&"x".repeat(100)), Of::Connection);
    let pause = Duration::from_millis(20);
    assert!(flush(&outbox).is_pending());
    thread::sleep(pause);
    assert!(outbox.is_stalled(pause));

    let mut byte = [0];
    let mut cx = Context::from_waker(Waker::noop());
    let mut into = tokio::io::ReadBuf::new(&mut byte);
    assert!(tokio::io::AsyncRead::poll_read(std::pin::Pin::new(&mut theirs), &mut cx, &mut into).is_ready());
    assert!(flush(&outbox).is_pending());

    assert!(!outbox.is_stalled(pause));
}

/// A socket that takes a few bytes at a time, and closes or is pushed to in between.
struct Interrupted {
    takes: usize,
    taken: Arc<Mutex<Vec<u8>>>,
    meanwhile: Mutex<Vec<Box<dyn FnOnce() + Send>>>,
}

impl Socket for Interrupted {
    fn poll_read(&self, _: &mut Context<'_>, _: &mut tokio::io::ReadBuf<'_>) -> Poll<io::Result<()>> {
        Poll::Pending
    }

    fn poll_write(&self, _: &mut Context<'_>, slices: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let next = self.meanwhile.lock().pop();
        if let Some(next) = next {
            next();
        }
        let bytes: Vec<u8> = slices.iter().flat_map(|slice| slice.iter().copied()).take(self.takes).collect();
        self.taken.lock().extend_from_slice(&bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(&self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(&self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[test]
fn states_that_come_while_others_are_written_stay_within_the_bound() {
    const MAX: usize = 2000;
    let outbox = Arc::new_cyclic(|outbox: &std::sync::Weak<Outbox>| {
        let outbox = outbox.clone();
        let states = Box::new(move || {
            let outbox = outbox.upgrade().expect("it is being written");
            for id in 0..100 {
                outbox.push(frame(&"s".repeat(100)), Of::State(SubscriptionId(id)));
            }
        });
        let meanwhile = Mutex::new(vec![states as Box<dyn FnOnce() + Send>]);
        Outbox::new(Box::new(Once { meanwhile }), Manner::Cable, MAX)
    });
    for _ in 0..15 {
        outbox.push(frame(&"e".repeat(100)), Of::Events(TWO));
    }

    assert!(flush(&outbox).is_pending());

    assert!(waiting(&outbox) <= MAX, "{}", waiting(&outbox));
}

/// A socket that takes nothing, and is pushed to when it is first written to.
struct Once {
    meanwhile: Mutex<Vec<Box<dyn FnOnce() + Send>>>,
}

impl Socket for Once {
    fn poll_read(&self, _: &mut Context<'_>, _: &mut tokio::io::ReadBuf<'_>) -> Poll<io::Result<()>> {
        Poll::Pending
    }

    fn poll_write(&self, _: &mut Context<'_>, _: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let next = self.meanwhile.lock().pop();
        if let Some(next) = next {
            next();
        }
        Poll::Pending
    }

    fn poll_flush(&self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(&self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[test]
fn an_outbox_waits_for_the_writers_once() {
    let (outbox, _theirs) = outbox(1 << 20, 1 << 20);
    let outbox = Arc::new(outbox);
    let writers = Writers::default();
    for _ in 0..100 {
        if let Offered::ToHandOver { .. } = outbox.offer(frame("1"), Of::Events(ONE), Box::default) {
            writers.hand_over(&mut vec![outbox.clone()]);
        }
        // Its own task was woken by its client, and came first.
        let _ = flush(&outbox);
    }

    assert_eq!(Arc::strong_count(&outbox), 2);
}

#[derive(Debug, Clone)]
enum Act {
    Event,
    State(u32),
    Withdraw(u32),
    Close,
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let act = prop_oneof![
        6 => Just(Act::Event),
        6 => (1..3u32).prop_map(Act::State),
        1 => (1..4u32).prop_map(Act::Withdraw),
        1 => Just(Act::Close),
    ];
    proptest::collection::vec(act, 1..60)
}

proptest! {
    /// Each act comes in the middle of a system call.
    #[test]
    fn whatever_comes_while_it_is_written_whole_messages_come_out_in_order(
        acts in acts(), takes in 1..60usize, max_bytes in 20..200usize,
    ) {
        let taken = Arc::new(Mutex::new(Vec::new()));
        let outbox = Arc::new_cyclic(|outbox: &std::sync::Weak<Outbox>| {
            let meanwhile = acts.iter().enumerate().rev().map(|(n, act)| {
                let (outbox, act) = (outbox.clone(), act.clone());
                Box::new(move || {
                    let outbox = outbox.upgrade().expect("it is being written");
                    match act {
                        Act::Event => drop(outbox.push(run(&[&format!("e{n:03}"), &format!("e{n:03}+")]), Of::Events(SubscriptionId(3)))),
                        Act::State(id) => drop(outbox.push(frame(&format!("{id}{n:03}")), Of::State(SubscriptionId(id)))),
                        Act::Withdraw(id) => outbox.withdraw(SubscriptionId(id)),
                        Act::Close => outbox.close(Closing::Client),
                    }
                }) as Box<dyn FnOnce() + Send>
            });
            let socket = Interrupted { takes, taken: taken.clone(), meanwhile: Mutex::new(meanwhile.collect()) };
            Outbox::new(Box::new(socket), Manner::Cable, max_bytes)
        });
        // Something to write, for as long as something is to happen meanwhile.
        for _ in 0..acts.len() {
            outbox.push(frame("."), Of::Connection);
            let _ = flush(&outbox);
        }
        outbox.close(Closing::Client);
        prop_assert!(flush(&outbox).is_ready());

        prop_assert_eq!(waiting(&outbox), 0);
        let taken = taken.lock();
        let slow = taken.strip_suffix(last_words().as_slice());
        let came = texts(slow.unwrap_or(&taken));
        for letter in ['e', '1', '2'] {
            let came: Vec<_> = came.iter().filter(|text| text.starts_with(letter)).collect();
            prop_assert!(came.is_sorted(), "{came:?}");
            prop_assert!(came.windows(2).all(|pair| pair[0] != pair[1]), "{came:?}");
        }
        // Unless it was given up or withdrawn, all came of events, and the latest of a state.
        let end = acts.iter().position(|act| matches!(act, Act::Close)).unwrap_or(acts.len());
        let withdrawn = |of: u32| acts.iter().any(|act| matches!(act, Act::Withdraw(id) if *id == of));
        let acts = &acts[..end];
        if slow.is_none() {
            for id in [1, 2].into_iter().filter(|id| !withdrawn(*id)) {
                let last = acts.iter().rposition(|act| matches!(act, Act::State(of) if *of == id));
                let latest = came.iter().rfind(|text| text.starts_with(&id.to_string())).cloned();
                prop_assert_eq!(latest, last.map(|n| format!("{id}{n:03}")));
            }
            if !withdrawn(3) {
                let events = acts.iter().filter(|act| matches!(act, Act::Event)).count();
                prop_assert_eq!(came.iter().filter(|text| text.starts_with('e')).count(), 2 * events);
            }
        }
    }
}

/// The hub, two writers, the task and its answers, all at once, on sockets that are often full.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_who_push_and_write_lose_nothing() {
    const FRAMES: usize = 3000;
    let writers = Arc::new(Writers::default());
    for _ in 0..2 {
        let writers = writers.clone();
        tokio::spawn(async move { writers.write().await });
    }
    let mut clients = Vec::new();
    let mut outboxes = Vec::new();
    for _ in 0..8 {
        let (outbox, theirs) = outbox(1 << 20, 64);
        let outbox = Arc::new(outbox);
        outboxes.push(outbox.clone());
        clients.push(tokio::spawn(async move {
            let reading = tokio::spawn(read(theirs));
            poll_fn(|cx| outbox.poll_flush(cx)).await.unwrap();
            while Arc::strong_count(&outbox) > 1 {
                tokio::task::yield_now().await;
            }
            drop(outbox);
            reading.await.unwrap()
        }));
    }
    let hub = tokio::task::spawn_blocking(move || {
        let mut to_hand_over = Vec::new();
        for n in 0..FRAMES {
            for outbox in &outboxes {
                match outbox.offer(frame(&format!("e{n:05}")), Of::Events(ONE), Box::default) {
                    Offered::ToHandOver { .. } => to_hand_over.push(outbox.clone()),
                    Offered::Queued { .. } => {}
                    Offered::Refused => panic!("there was room"),
                }
                if n % 7 == 0 {
                    outbox.push(frame(&format!("c{n:05}")), Of::Connection);
                }
            }
            writers.hand_over(&mut to_hand_over);
        }
        for outbox in outboxes {
            outbox.close(Closing::Client);
        }
    });
    hub.await.unwrap();

    for client in clients {
        let came = texts(&client.await.unwrap());
        let of = |letter: char| came.iter().filter(|text| text.starts_with(letter)).collect::<Vec<_>>();
        assert_eq!(of('e').len(), FRAMES);
        assert_eq!(of('c').len(), FRAMES.div_ceil(7));
        assert!(of('e').is_sorted() && of('c').is_sorted());
    }
}
