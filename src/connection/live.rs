use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use dashmap::DashMap;
use parking_lot::Mutex;
use slab::Slab;
use tablecast_protocol::{DisconnectReason, Frame};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until, timeout};

use crate::bus::{Log, StatusHandle};
use crate::hub::{Closing, Hub, Manner, Of, Offered, Outbox};
use crate::identity::Who;
use crate::identity::lookup::{Ended, OpenSession};
use crate::telemetry::metrics;

/// The connections that are open: who is pinged, and who is told when the server goes.
///
/// They stand in as many slots as a beat has ticks, so that ten thousand clients are
/// not all pinged, and woken, at one instant.
pub struct Connections {
    slots: Vec<Mutex<Slab<Entry>>>,
    next_slot: AtomicUsize,
    /// Those that have a name, by it.
    named: DashMap<Arc<str>, Slab<Arc<Outbox>>>,
    /// Who comes now shook hands before the server was told to stop, and is told too.
    draining: AtomicBool,
}

struct Entry {
    outbox: Arc<Outbox>,
    manner: Manner,
    /// Until its first beat.
    is_new: bool,
    who: Who,
}

/// Rails' heartbeat. A client takes six seconds of silence for a dead connection.
const BEAT: Duration = Duration::from_secs(3);
/// How long a client of an event stream waits before it comes back.
const RETRY: Duration = Duration::from_secs(2);
const TICK: Duration = Duration::from_millis(100);

/// While draining, clients are told no faster than this, so that the servers that they
/// turn to aren't overrun; nor slower than the drain time demands.
const DISCONNECTS_PER_SECOND: u32 = 500;

impl Default for Connections {
    fn default() -> Self {
        let ticks = BEAT.as_millis() / TICK.as_millis();
        Self {
            slots: (0..ticks).map(|_| Mutex::default()).collect(),
            next_slot: AtomicUsize::new(0),
            named: DashMap::new(),
            draining: AtomicBool::new(false),
        }
    }
}

impl Connections {
    /// Welcomes a connection, and counts it in until the guard is dropped. None where its name has
    /// as many as it may.
    pub(super) fn enter(
        self: &Arc<Self>,
        outbox: &Arc<Outbox>,
        manner: Manner,
        who: &Who,
        max_per_name: Option<usize>,
    ) -> Option<Live> {
        let name = match who.as_ref().and_then(|identity| identity.name.clone()) {
            None => None,
            Some(name) => {
                let mut named = self.named.entry(name.clone()).or_default();
                if max_per_name.is_some_and(|max| named.len() >= max) {
                    return None;
                }
                let key = named.insert(outbox.clone());
                Some((name, key))
            }
        };
        // Before it is pinged, and after it can be ended: it is told of nothing else first.
        let welcome = match manner {
            Manner::Cable | Manner::Extended => Frame::welcome(),
            Manner::EventStream => Frame::retry(RETRY.as_millis() as u64),
        };
        outbox.push(welcome, Of::Connection);
        let slot = self.next_slot.fetch_add(1, Ordering::Relaxed) % self.slots.len();
        let entry = Entry { outbox: outbox.clone(), manner, is_new: true, who: who.clone() };
        let key = self.slots[slot].lock().insert(entry);
        // After it stands in its slot, into which who drains looks after setting this: one of the two sees the
        // other.
        if self.draining.load(Ordering::Acquire) {
            outbox.close(Closing::Disconnect(DisconnectReason::ServerRestart));
        }
        metrics().connections.increment(1);
        Some(Live { connections: self.clone(), slot, key, name })
    }

    /// Pings each connection once a beat, for ever, and ends those whose sockets have taken nothing
    /// for `write_timeout`, and those whose identity has come to its end.
    ///
    /// Clients of event streams have it in each fifth beat, and where they stand with it: so a client that hears
    /// of nothing for days has a position that isn't as old.
    ///
    /// To clients of the extended protocol a ping says that they have all that was written so far, or asked for
    /// it: from the second in which it comes they ask again. Where that may not be so, they are shown that the
    /// line is up, and no more.
    pub async fn beat(
        self: Arc<Self>,
        hub: Arc<Hub>,
        log: Log,
        status: StatusHandle,
        write_timeout: Duration,
    ) {
        let keep_alive = Frame::keep_alive();
        let mut to_hand_over = Vec::new();
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        for (tick, slot) in self.slots.iter().cycle().enumerate() {
            ticks.tick().await;
            let is_fifth = tick / self.slots.len() % 5 == 4;
            let mut event_streams = Vec::new();
            let now = SystemTime::now();
            let ping = Frame::ping(now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs());
            let is_up_to_date = status.is_up_to_date();
            for (_, Entry { outbox, manner, is_new, who }) in slot.lock().iter_mut() {
                let is_new = std::mem::take(is_new);
                if outbox.is_stalled(write_timeout) {
                    outbox.close(Closing::Stalled);
                } else if has_expired(who, now) {
                    outbox.close(Closing::Disconnect(DisconnectReason::TokenExpired));
                } else if *manner == Manner::EventStream {
                    if is_fifth {
                        event_streams.push(outbox.clone());
                    }
                } else {
                    let offered = if *manner == Manner::Extended {
                        // The subscribes of one that is new may be on their way; one that holds is still being
                        // given what it asked for. What waits would come before the ping, but what is published
                        // while the ping waits would not: so there is none where anything does.
                        let may_lack = is_new || !is_up_to_date || outbox.holds();
                        outbox.offer_if_idle(if may_lack { &keep_alive } else { &ping })
                    } else {
                        outbox.offer_ping(&ping)
                    };
                    if let Offered::ToHandOver { .. } = offered {
                        to_hand_over.push(outbox.clone());
                    }
                }
            }
            hub.writers.hand_over(&mut to_hand_over);
            if !event_streams.is_empty() {
                tokio::spawn(tell_positions(event_streams, hub.clone(), log.clone()));
            }
        }
    }

    /// Asks all clients to reconnect, at once.
    pub fn disconnect_all(&self, reason: DisconnectReason) {
        for outbox in self.all() {
            outbox.close(Closing::Disconnect(reason));
        }
    }

    /// Ends the connections of this name.
    pub fn disconnect(&self, name: &str, reason: DisconnectReason) {
        // A copy: closing takes each outbox's lock, for which a shard of the map should not wait.
        let outboxes: Vec<_> = self
            .named
            .get(name)
            .iter()
            .flat_map(|named| named.iter().map(|(_, outbox)| outbox.clone()))
            .collect();
        tracing::debug!(connections = outboxes.len(), "the application ends connections");
        for outbox in outboxes {
            outbox.close(Closing::Disconnect(reason));
        }
    }

    /// The sessions that connections were let in by.
    pub fn sessions(&self) -> Vec<OpenSession> {
        let session = |entry: &Entry| entry.who.as_ref().and_then(|identity| identity.session.clone());
        self.slots
            .iter()
            .flat_map(|slot| slot.lock().iter().filter_map(|(_, e)| session(e)).collect::<Vec<_>>())
            .collect()
    }

    /// Ends the connections that were let in by sessions which say something else by now, or are over.
    pub fn sessions_ended(&self, now: &Ended) {
        let is_over = |entry: &Entry| {
            let session = entry.who.as_ref().and_then(|identity| identity.session.as_ref());
            let is_other = |session: &OpenSession| {
                now.get(&session.key).is_some_and(|row| row.as_ref() != Some(&session.row))
            };
            session.is_some_and(is_other)
        };
        for slot in &self.slots {
            for (_, entry) in slot.lock().iter().filter(|(_, entry)| is_over(entry)) {
                entry.outbox.close(Closing::Disconnect(DisconnectReason::Unauthorized));
            }
        }
    }

    /// Asks all clients to go to another server or come back, spread over `time`.
    pub async fn drain(&self, time: Duration) {
        self.draining.store(true, Ordering::Release);
        let all = self.all();
        let paced = Duration::from_secs(1) * all.len() as u32 / DISCONNECTS_PER_SECOND;
        let start = Instant::now();
        let count = all.len() as u32;
        for (index, outbox) in (0u32..).zip(all) {
            sleep_until(start + paced.min(time) * index / count).await;
            outbox.close(Closing::Disconnect(DisconnectReason::ServerRestart));
        }
    }

    fn all(&self) -> Vec<Arc<Outbox>> {
        let slots = self.slots.iter();
        slots
            .flat_map(|slot| slot.lock().iter().map(|(_, entry)| entry.outbox.clone()).collect::<Vec<_>>())
            .collect()
    }
}

/// In the moment of a cut, since a position is that of all that was queued before it and of nothing else.
async fn tell_positions(outboxes: Vec<Arc<Outbox>>, hub: Arc<Hub>, log: Log) {
    let offer_to_all = |outboxes: &[Arc<Outbox>], hub: &Hub, frame: &Frame| {
        let is_to_hand_over =
            |outbox: &&Arc<Outbox>| matches!(outbox.offer_if_idle(frame), Offered::ToHandOver { .. });
        hub.writers.hand_over(&mut outboxes.iter().filter(is_to_hand_over).cloned().collect());
    };
    let told = {
        let (outboxes, hub) = (outboxes.clone(), hub.clone());
        log.cut(move |cut| {
            // One whose messages are held stands somewhere else.
            let (held, free): (Vec<_>, Vec<_>) = outboxes.into_iter().partition(|outbox| outbox.holds());
            let position = cut.has_position().then(|| Frame::position(&cut.token().word));
            offer_to_all(&free, &hub, &position.unwrap_or_else(Frame::comment));
            offer_to_all(&held, &hub, &Frame::comment());
        })
    };
    // The database may be away: then the line is shown to be up, and no more.
    if timeout(BEAT, told).await.is_err() {
        offer_to_all(&outboxes, &hub, &Frame::comment());
    }
}

pub(super) struct Live {
    connections: Arc<Connections>,
    slot: usize,
    key: usize,
    name: Option<(Arc<str>, usize)>,
}

fn has_expired(who: &Who, now: SystemTime) -> bool {
    who.as_ref().and_then(|identity| identity.expires).is_some_and(|expires| expires <= now)
}

impl Drop for Live {
    fn drop(&mut self) {
        self.connections.slots[self.slot].lock().remove(self.key);
        if let Some((name, key)) = self.name.take() {
            self.connections.named.remove_if_mut(&name, |_, named| {
                named.remove(key);
                named.is_empty()
            });
        }
        metrics().connections.decrement(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bus::Status;
    use crate::hub::SubscriptionId;

    fn outbox(manner: Manner) -> Arc<Outbox> {
        let (ours, _) = tokio::io::duplex(1);
        Arc::new(Outbox::new(Box::new(Mutex::new(ours)), manner, 1 << 16))
    }

    fn is_position(frames: &[Frame]) -> bool {
        matches!(frames, [frame] if frame.as_bytes().starts_with(b"id: ") && frame.as_bytes().ends_with(b"\n\n"))
    }

    fn is_ping(frame: &Frame) -> bool {
        String::from_utf8_lossy(frame.as_bytes()).contains(r#"{"type":"ping""#)
    }

    #[tokio::test]
    async fn event_streams_are_told_where_they_stand_in_the_moment_of_a_cut() {
        let (log, mut cuts) = Log::with_cuts();
        let hub = Arc::new(Hub::new(1 << 20));
        let [free, busy, held] = [(); 3].map(|()| outbox(Manner::EventStream));
        held.hold();
        let all = vec![free.clone(), busy.clone(), held.clone()];
        let telling = tokio::spawn(tell_positions(all, hub, log));
        tokio::task::yield_now().await;
        assert!(free.drain().is_empty());
        // Published before the cut, and after it.
        let message = Frame::from_wire(b"id: 1\ndata: 1\n\n");
        busy.offer(message.clone(), Of::Events(SubscriptionId(1)), Box::default);
        cuts.pass(7);
        telling.await.unwrap();

        assert!(is_position(&free.drain()));
        assert_eq!(busy.drain(), [message], "that says where it stands");
        assert_eq!(held.drain(), [Frame::comment()], "it stands somewhere else");
        held.offer(Frame::comment(), Of::Events(SubscriptionId(1)), Box::default);
        held.release();
        assert_eq!(held.drain(), [Frame::comment()]);
    }

    #[tokio::test(start_paused = true)]
    async fn while_the_database_is_away_the_line_is_shown_to_be_up() {
        let (log, mut cuts) = Log::with_cuts();
        let free = outbox(Manner::EventStream);
        tell_positions(vec![free.clone()], Arc::new(Hub::new(1 << 20)), log).await;
        assert_eq!(free.drain(), [Frame::comment()]);
        // It is back, and nobody waits any more.
        cuts.pass(7);
        free.drain();
    }

    /// Each fifth beat, and a WebSocket each.
    #[tokio::test(start_paused = true)]
    async fn event_streams_beat_more_slowly() {
        let (log, mut cuts) = Log::with_cuts();
        let connections = Arc::new(Connections::default());
        let (events, cable) = (outbox(Manner::EventStream), outbox(Manner::Cable));
        let _live = connections.enter(&events, Manner::EventStream, &None, None).unwrap();
        let _live_too = connections.enter(&cable, Manner::Cable, &None, None).unwrap();
        assert_eq!(events.drain(), [Frame::retry(2000)]);
        assert_eq!(cable.drain(), [Frame::welcome()]);
        tokio::spawn(connections.clone().beat(
            Arc::new(Hub::new(1 << 20)),
            log,
            StatusHandle::default(),
            Duration::from_secs(30),
        ));

        let (mut positions, mut pings) = (0, 0);
        for _ in 0..10 * BEAT.as_millis() / TICK.as_millis() {
            tokio::time::sleep(TICK).await;
            cuts.pass(7);
            let told = events.drain();
            assert!(told.is_empty() || is_position(&told), "{told:?}");
            positions += told.len();
            pings += cable.drain().len();
        }
        assert!((9..=11).contains(&pings), "{pings}");
        assert_eq!(positions, 2);
    }

    /// AnyCable's client asks from its last ping on for what it missed.
    #[tokio::test(start_paused = true)]
    async fn a_client_that_may_lack_something_is_not_told_that_it_has_all() {
        let (log, _cuts) = Log::with_cuts();
        let connections = Arc::new(Connections::default());
        let [extended, cable] = [Manner::Extended, Manner::Cable].map(|manner| (outbox(manner), manner));
        let _live = [&extended, &cable].map(|(outbox, manner)| {
            let live = connections.enter(outbox, *manner, &None, None);
            outbox.drain();
            live
        });
        let status = StatusHandle::default();
        let hub = Arc::new(Hub::new(1 << 20));
        tokio::spawn(connections.clone().beat(hub, log, status.clone(), Duration::from_secs(30)));
        tokio::time::sleep(TICK / 2).await;

        let beat = async || {
            tokio::time::sleep(BEAT).await;
            let [told, pinged] = [&extended, &cable].map(|(outbox, _)| outbox.drain());
            assert!(matches!(&pinged[..], [frame] if is_ping(frame)), "{pinged:?}");
            let [frame] = &told[..] else { panic!("{told:?}") };
            assert!(is_ping(frame) || *frame == Frame::keep_alive(), "{frame:?}");
            is_ping(frame)
        };
        assert!(!beat().await, "its subscribes may be on their way");
        assert!(beat().await);
        extended.0.hold();
        assert!(!beat().await, "it is being given what it asked for");
        extended.0.release();
        assert!(beat().await);
        for outbox in [&extended.0, &cable.0] {
            outbox.push(Frame::comment(), Of::Connection);
        }
        tokio::time::sleep(BEAT).await;
        assert_eq!(extended.0.drain(), [Frame::comment()], "more may come before that is out");
        assert_eq!(cable.0.drain().len(), 2);
        status.set(Status::Away("gone".into()));
        assert!(!beat().await, "nobody knows what is written");
        status.set(Status::Following);
        assert!(beat().await);
        status.begin_look();
        assert!(!beat().await, "nor while a look takes so long");
        status.end_look();
        assert!(beat().await);
    }
}
