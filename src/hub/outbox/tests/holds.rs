//! What waits until what comes before it has been queued.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Wake;

use super::*;
use crate::bus::memory::mark;

fn offer(outbox: &Outbox, text: &str, of: Of, marks: &[i64]) -> Offered {
    outbox.offer(frame(text), of, || marks.iter().map(|id| mark(*id)).collect())
}

fn drained(outbox: &Outbox) -> Vec<Frame> {
    outbox.drain()
}

#[test]
fn what_is_held_follows_what_is_queued_meanwhile_and_a_heartbeat_does_not_wait() {
    let (outbox, _theirs) = outbox(1 << 10, 1);
    outbox.hold();
    offer(&outbox, "new 1", Of::Events(ONE), &[1]);
    offer(&outbox, "new 2", Of::State(TWO), &[2]);
    assert!(drained(&outbox).is_empty());

    assert!(matches!(outbox.offer_ping(&frame("ping")), Offered::ToHandOver { .. }));
    assert_eq!(drained(&outbox), [frame("ping")]);
    outbox.push(frame("old"), Of::Events(ONE));
    outbox.push(frame("answer"), Of::Connection);
    offer(&outbox, "new 3", Of::Events(ONE), &[3]);
    assert_eq!(waiting(&outbox), frame("old").len() + frame("answer").len());

    outbox.release();
    assert_eq!(drained(&outbox), ["old", "answer", "new 1", "new 2", "new 3"].map(frame));
    offer(&outbox, "new 4", Of::Events(ONE), &[4]);
    assert_eq!(drained(&outbox), [frame("new 4")]);
}

#[test]
fn the_last_hold_to_end_ends_them_all() {
    let (outbox, _theirs) = outbox(1 << 10, 1);
    outbox.hold();
    outbox.hold();
    offer(&outbox, "1", Of::Events(ONE), &[1]);

    outbox.release();
    assert!(outbox.holds());
    offer(&outbox, "2", Of::Events(ONE), &[2]);
    assert!(drained(&outbox).is_empty());
    outbox.release();

    assert!(!outbox.holds());
    assert_eq!(drained(&outbox), ["1", "2"].map(frame));
}

#[test]
fn of_one_subscription_the_oldest_that_is_held_is_forgotten() {
    let (outbox, _theirs) = outbox(1 << 10, 1);
    outbox.hold();
    offer(&outbox, "a1", Of::Events(ONE), &[1]);
    offer(&outbox, "b2", Of::Events(TWO), &[2]);
    offer(&outbox, "a3", Of::Events(ONE), &[3, 4]);
    let frames = outbox.held_frames(ONE);
    offer(&outbox, "a5", Of::Events(ONE), &[5]);
    assert_eq!(frames, 2);
    assert_eq!(outbox.held(ONE), [1, 3, 4, 5].map(mark).into());

    outbox.forget_held(ONE, frames);

    assert_eq!(outbox.held(ONE), [mark(5)].into());
    outbox.release();
    assert_eq!(drained(&outbox), ["b2", "a5"].map(frame));
}

#[test]
fn withdrawing_takes_what_is_held_as_well() {
    let (outbox, _theirs) = outbox(1 << 10, 1);
    outbox.push(frame("a0"), Of::Events(ONE));
    outbox.hold();
    offer(&outbox, "a1", Of::Events(ONE), &[1]);
    offer(&outbox, "b2", Of::Events(TWO), &[2]);

    outbox.withdraw(ONE);
    outbox.release();

    assert_eq!(drained(&outbox), [frame("b2")]);
}

#[test]
fn where_much_is_held_the_latest_of_each_state_stays() {
    let (outbox, _theirs) = outbox(40, 1);
    outbox.hold();
    offer(&outbox, "e", Of::Events(SubscriptionId(3)), &[0]);
    for n in 1..100 {
        for (letter, of) in [("a", Of::State(ONE)), ("b", Of::State(TWO))] {
            assert!(!matches!(offer(&outbox, &format!("{letter}{n}"), of, &[n]), Offered::Refused));
        }
    }
    let held = outbox.state.lock().queue.waiting();
    assert_eq!(held, 0, "none of it is to be written");
    outbox.release();
    assert!(waiting(&outbox) <= 40);

    let left = drained(&outbox);
    assert_eq!(left[0], frame("e"));
    for letter in ["a", "b"] {
        let first = letter.as_bytes()[0];
        let of: Vec<&Frame> = left.iter().filter(|frame| frame.as_bytes()[2] == first).collect();
        assert_eq!(of.last(), Some(&&frame(&format!("{letter}99"))));
    }
}

#[test]
fn who_is_held_for_too_long_is_asked_to_come_back() {
    let (outbox, _theirs) = outbox(40, 1);
    outbox.hold();
    let mut refused = false;
    for n in 10..50 {
        refused = refused || offer(&outbox, &format!("e{n}"), Of::Events(ONE), &[n]) == Offered::Refused;
    }

    assert!(refused && outbox.is_closing());
    assert!(outbox.held(ONE).is_empty());
    outbox.release();
    let last: Vec<u8> = drained(&outbox).iter().flat_map(|frame| frame.as_bytes().to_vec()).collect();
    assert_eq!(last, last_words());
}

#[test]
fn what_is_given_of_the_past_and_what_is_held_share_the_bound() {
    let (outbox, _theirs) = outbox(40, 1);
    outbox.hold();
    offer(&outbox, &"h".repeat(30), Of::Events(ONE), &[1]);

    assert!(!outbox.push(frame(&"p".repeat(20)), Of::Events(ONE)));
    assert!(outbox.is_closing());
}

#[test]
fn an_outbox_that_closes_while_it_holds_ends_without_what_it_held() {
    let (outbox, _theirs) = outbox(1 << 10, 1);
    outbox.push(frame("confirm"), Of::Connection);
    outbox.hold();
    offer(&outbox, "1", Of::Events(ONE), &[1]);

    outbox.close(Closing::Disconnect(DisconnectReason::ServerRestart));
    assert_eq!(offer(&outbox, "2", Of::Events(ONE), &[2]), Offered::Refused);
    outbox.release();
    outbox.release();

    let words = [
        frame("confirm"),
        Frame::disconnect(DisconnectReason::ServerRestart),
        Frame::close(CloseCode::Normal, ""),
    ];
    assert_eq!(drained(&outbox), words);
}

struct Count(AtomicUsize);

impl Wake for Count {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

#[test]
fn there_is_room_once_little_waits() {
    let (outbox, mut theirs) = outbox(100, 20);
    let (outbox, woken) = (Arc::new(outbox), Arc::new(Count(AtomicUsize::new(0))));
    let waker = Waker::from(woken.clone());
    let mut cx = Context::from_waker(&waker);
    assert!(outbox.poll_room(&mut cx).is_ready());
    for _ in 0..2 {
        outbox.push(frame(&"x".repeat(38)), Of::Events(ONE));
    }
    assert!(outbox.poll_room(&mut cx).is_pending());
    // The socket takes 20 of 80 bytes.
    assert!(flush(&outbox).is_pending());
    assert!(outbox.poll_room(&mut cx).is_pending());

    let mut taken = [0; 100];
    let mut read = |theirs: &mut DuplexStream| {
        let mut into = tokio::io::ReadBuf::new(&mut taken);
        let mut cx = Context::from_waker(Waker::noop());
        assert!(tokio::io::AsyncRead::poll_read(std::pin::Pin::new(theirs), &mut cx, &mut into).is_ready());
    };
    for waits in [40, 20, 0] {
        read(&mut theirs);
        assert!(outbox.poll_room(&mut cx).is_pending());
        outbox.write();
        assert_eq!(waiting(&outbox), waits);
    }
    assert!(woken.0.load(Ordering::Relaxed) > 0, "its task is told");
    assert!(outbox.poll_room(&mut cx).is_ready());
    // Who has no hope of any doesn't wait.
    outbox.push(frame(&"x".repeat(70)), Of::Events(ONE));
    assert!(outbox.poll_room(&mut cx).is_pending());
    outbox.close(Closing::Client);
    assert!(outbox.poll_room(&mut cx).is_ready());
}

#[test]
fn a_writer_that_has_written_all_tells_who_waits_for_room() {
    let (outbox, _theirs) = outbox(100, 1000);
    let woken = Arc::new(Count(AtomicUsize::new(0)));
    let waker = Waker::from(woken.clone());
    let handed_over = offer(&outbox, &"x".repeat(50), Of::Events(ONE), &[1]);
    assert!(matches!(handed_over, Offered::ToHandOver { .. }));
    assert!(outbox.poll_room(&mut Context::from_waker(&waker)).is_pending());

    outbox.write();

    assert_eq!(woken.0.load(Ordering::Relaxed), 1);
    assert!(outbox.poll_room(&mut Context::from_waker(&waker)).is_ready());
    // Who doesn't wait isn't woken.
    offer(&outbox, "1", Of::Events(ONE), &[2]);
    outbox.write();
    assert_eq!(woken.0.load(Ordering::Relaxed), 1);
}

fn extended(max_bytes: usize) -> Outbox {
    let (ours, _) = tokio::io::duplex(1);
    Outbox::new(Box::new(Mutex::new(ours)), Manner::Extended, max_bytes)
}

#[test]
fn a_client_of_the_extended_protocol_is_answered_before_it_is_told_why() {
    let outbox = extended(1 << 10);
    outbox.push(frame("confirm 1"), Of::Connection);
    outbox.close(Closing::Disconnect(DisconnectReason::ServerRestart));
    assert!(outbox.owes_answers());
    // One that was being carried out in this moment.
    outbox.push(frame("confirm 2"), Of::Connection);
    assert!(!outbox.push(frame("message"), Of::Events(ONE)));

    outbox.answer_last(vec![frame("confirm 3")]);
    assert!(!outbox.owes_answers());
    // Nothing follows a Close.
    outbox.answer_last(vec![frame("confirm 4")]);
    assert!(!outbox.push(frame("confirm 5"), Of::Connection));

    let reason = Frame::disconnect(DisconnectReason::ServerRestart);
    let close = Frame::close(CloseCode::Normal, "");
    let answers = ["confirm 1", "confirm 2", "confirm 3"].map(frame);
    assert_eq!(drained(&outbox), answers.into_iter().chain([reason, close]).collect::<Vec<_>>());
}

#[test]
fn a_slow_client_of_the_extended_protocol_keeps_its_answers() {
    let outbox = extended(100);
    outbox.push(frame("confirm 1"), Of::Connection);
    outbox.push(frame(&"x".repeat(70)), Of::Events(ONE));
    outbox.push(frame("confirm 2"), Of::Connection);
    assert!(!outbox.push(frame(&"x".repeat(70)), Of::Events(ONE)));

    outbox.answer_last(Vec::new());

    let reason = Frame::disconnect(DisconnectReason::SlowConsumer);
    let expected = [frame("confirm 1"), frame("confirm 2"), reason, Frame::close(CloseCode::Normal, "")];
    assert_eq!(drained(&outbox), expected);
}

#[test]
fn a_client_that_goes_by_itself_is_owed_nothing() {
    let outbox = extended(100);
    outbox.close_with(frame("close"));
    assert!(!outbox.owes_answers());
    outbox.answer_last(vec![frame("confirm")]);
    assert_eq!(drained(&outbox), [frame("close")]);
}

#[test]
fn an_event_stream_ends_without_a_word() {
    let (ours, _) = tokio::io::duplex(1);
    let outbox = Outbox::new(Box::new(Mutex::new(ours)), Manner::EventStream, 100);
    outbox.push(frame("1"), Of::Connection);
    outbox.close(Closing::Disconnect(DisconnectReason::ServerRestart));
    assert!(!outbox.owes_answers());
    assert_eq!(drained(&outbox), [frame("1")]);
}
