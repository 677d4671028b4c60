//! What a crowd is to be given, or doesn't read, is in nobody's memory but in what the settings allow.

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

use super::{caught_up, channel, state, with_rules};
use crate::support::{Events, Server};

/// So many texts of so many bytes, the `i`th to the stream of this SQL, in one transaction.
fn publish_large(server: &Server, stream: &str, count: u32, bytes: usize) {
    server.sql(&format!(
        "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {count})
         INSERT INTO tablecast_publish (stream, data)
         SELECT {stream}, '\"' || printf('%.*c', {bytes} - 2, 'x') || '\"' FROM n"
    ));
    caught_up(server);
}

fn named(identifiers: impl IntoIterator<Item = String>) -> String {
    let encoded = |identifier: String| utf8_percent_encode(&identifier, NON_ALPHANUMERIC).to_string();
    let each = identifiers.into_iter().map(|identifier| format!("identifier={}", encoded(identifier)));
    each.collect::<Vec<_>>().join("&")
}

fn grown(server: &Server, before: u64) -> u64 {
    (server.peak_memory() - before) >> 20
}

#[test]
fn what_is_read_for_many_newcomers_is_held_stream_by_stream() {
    const STREAMS: u32 = 80;
    const BYTES: usize = 500_000;
    let server = with_rules().arg("--replay-memory-bytes=64KiB").start();
    publish_large(&server, "'state:' || i", STREAMS + 1, BYTES);
    let before = server.peak_memory();

    // Who leaves at once has no share in what its outbox may hold.
    let mut socket = server.connect();
    for n in 1..=STREAMS {
        socket.command("subscribe", &state(n));
        socket.command("unsubscribe", &state(n));
    }
    let mut confirmed = 0;
    while confirmed < STREAMS {
        confirmed += u32::from(socket.json()["type"] == "confirm_subscription");
    }
    // It is read behind those.
    socket.subscribe(&state(STREAMS + 1));
    assert_eq!(socket.message(&state(STREAMS + 1)).len(), BYTES);

    let grown = grown(&server, before);
    assert!(grown < 20, "{grown} MiB, of 40 that were read");
}

#[test]
fn newcomers_to_many_streams_that_read_nothing_hold_no_more_than_their_outboxes() {
    const STREAMS: u32 = 40;
    const BYTES: usize = 500_000;
    let server = with_rules().start();
    publish_large(&server, "'state:' || i", STREAMS, BYTES);
    let before = server.peak_memory();

    let query = named((1..=STREAMS).map(state));
    let _stalled: Vec<Events> = (0..3).map(|_| Events::open(server.public, &query, &[])).collect();
    let mut reads = Events::open(server.public, &query, &[]);
    for _ in 0..STREAMS {
        assert_eq!(reads.message().len(), BYTES);
    }

    let grown = grown(&server, before);
    assert!(grown < 32, "{grown} MiB, of 80 that four were to be given");
}

#[test]
fn who_comes_back_and_reads_nothing_holds_no_more_than_its_outbox() {
    const CROWD: usize = 40;
    // More than the kernel takes for who doesn't read.
    const MISSED: u32 = 600;
    const BYTES: usize = 15_000;
    let server = with_rules().start();
    let query = named([channel("EventChannel", 1)]);
    let mut before_all = Events::open(server.public, &query, &[]);
    before_all.up_to_date();
    let id = before_all.last_id.clone();
    drop(before_all);
    publish_large(&server, "'log:1'", MISSED, BYTES);
    let before = server.peak_memory();

    let query = format!("{query}&last-event-id={id}");
    let _stalled: Vec<Events> = (0..CROWD).map(|_| Events::open(server.public, &query, &[])).collect();
    let mut reads = Events::open(server.public, &query, &[]);
    for _ in 0..MISSED {
        assert_eq!(reads.message().len(), BYTES);
    }
    reads.up_to_date();

    let grown = grown(&server, before);
    assert!(grown < 30, "{grown} MiB, of 40 if each has 1");
}
