use std::collections::{HashSet, VecDeque};

use tablecast_protocol::{CloseCode, DisconnectReason, Frame};

use super::{Closing, SubscriptionId};
use crate::bus::Mark;

/// What waits for one socket: bookkeeping, to the byte.
///
/// Frames are lent for a system call, so that nobody holds a lock while writing. What is to be
/// removed of them meanwhile is marked, and removed when they are back. Of a run of messages
/// that was begun the message that was begun is finished, and no other.
#[derive(Debug, Default)]
pub(super) struct Queue {
    frames: VecDeque<Queued>,
    /// Bytes of these frames, without those of the first that were written.
    bytes: usize,
    /// Messages that wait until what comes before them has been queued.
    held: VecDeque<Held>,
    held_bytes: usize,
    /// So many subscriptions wait for that.
    holds: u32,
    /// How much of the first frame was written.
    written: usize,
    /// So many frames, the first, are out for a system call.
    lent: usize,
    /// Some frames are nobody's any more.
    marked: bool,
    closing: Option<Closing>,
    manner: Manner,
    /// It is closed, and the client's last commands are to be answered before it is told so.
    owes_answers: bool,
}

/// How a connection ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Manner {
    /// The client is told why.
    #[default]
    Cable,
    /// The same, once all its commands have been answered: AnyCable's client closes a channel for ever
    /// whose subscribe was not.
    Extended,
    /// There are no last words.
    EventStream,
}

#[derive(Debug)]
struct Queued {
    /// None while it is lent.
    frame: Option<Frame>,
    of: Of,
}

#[derive(Debug)]
struct Held {
    frame: Frame,
    of: Of,
    /// Which messages are in it.
    marks: Box<[Mark]>,
}

impl Queued {
    /// In bytes; 0 while it is lent.
    fn len(&self) -> usize {
        self.frame.as_ref().map_or(0, Frame::len)
    }
}

/// Whose a frame is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Of {
    /// The connection's own.
    Connection,
    /// A subscription's, all of whose messages count.
    Events(SubscriptionId),
    /// A subscription's, of which the latest message counts.
    State(SubscriptionId),
    /// It was withdrawn, and can't be removed yet.
    Nobody,
}

impl Of {
    pub fn messages(id: SubscriptionId, is_state: bool) -> Self {
        if is_state { Self::State(id) } else { Self::Events(id) }
    }

    pub fn subscription(self) -> Option<SubscriptionId> {
        match self {
            Self::Events(id) | Self::State(id) => Some(id),
            Self::Connection | Self::Nobody => None,
        }
    }
}

/// One system call takes so many frames,
pub(super) const BATCH_FRAMES: usize = 64;
/// and about so many bytes.
const BATCH_BYTES: usize = 256 << 10;
/// Room for so many frames stays when all are gone.
const KEPT_FRAMES: usize = 4;

/// Frames that are out for a system call.
pub(super) type Lent = [Option<Frame>; BATCH_FRAMES];

impl Queue {
    pub fn new(manner: Manner) -> Self {
        Self { manner, ..Self::default() }
    }

    pub fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    pub fn closing(&self) -> Option<Closing> {
        self.closing
    }

    /// In bytes.
    pub fn waiting(&self) -> usize {
        self.bytes
    }

    /// Queues a frame, if it fits; what doesn't, closes.
    pub fn push(&mut self, frame: Frame, of: Of, max_bytes: usize) -> bool {
        match self.make_room(frame, of, max_bytes) {
            Ok(frame) => {
                self.append(frame, of);
                true
            }
            Err(refused) => self.take_answer(refused, of, max_bytes),
        }
    }

    /// The same, behind what is held, unless it is the connection's own. `marks` are the messages'.
    pub fn push_live(
        &mut self,
        frame: Frame,
        of: Of,
        marks: impl FnOnce() -> Box<[Mark]>,
        max_bytes: usize,
    ) -> bool {
        if self.holds == 0 || of.subscription().is_none() {
            return self.push(frame, of, max_bytes);
        }
        let Ok(frame) = self.make_room(frame, of, max_bytes) else { return false };
        self.held_bytes += frame.len();
        self.held.push_back(Held { frame, of, marks: marks() });
        true
    }

    /// What is to be queued of a frame; the error, and the end, where there is no room for it.
    fn make_room(&mut self, mut frame: Frame, of: Of, max_bytes: usize) -> Result<Frame, Frame> {
        if self.closing.is_some() {
            return Err(frame);
        }
        if !self.fits(&frame, max_bytes) {
            let is_state = matches!(of, Of::State(_));
            if is_state {
                frame = frame.last();
                self.remove(|queued| queued.of == of);
            }
            self.conflate();
            if !self.fits(&frame, max_bytes) {
                // What is lent and was marked takes no room once it is back; then we look again.
                if !is_state || self.lent == 0 {
                    self.close(Closing::Disconnect(DisconnectReason::SlowConsumer));
                    return Err(frame);
                }
            }
        }
        Ok(frame)
    }

    /// A command that is carried out while somebody else closes, or whose answer is the last straw, is answered
    /// all the same.
    fn take_answer(&mut self, frame: Frame, of: Of, max_bytes: usize) -> bool {
        let is_owed = self.owes_answers && of == Of::Connection && self.bytes <= 2 * max_bytes;
        if is_owed {
            self.append(frame, of);
        }
        is_owed
    }

    /// Where less than half of the bound waits one frame of any size fits, or the largest could
    /// never be delivered.
    fn fits(&self, frame: &Frame, max_bytes: usize) -> bool {
        let waiting = self.bytes + self.held_bytes;
        waiting + frame.len() <= max_bytes || waiting <= max_bytes / 2
    }

    /// Messages that come from now on wait for a [`Self::release`].
    pub fn hold(&mut self) {
        self.holds += 1;
    }

    pub fn holds(&self) -> bool {
        self.holds > 0
    }

    /// Ends one hold. With the last one what was held follows what has been queued meanwhile.
    pub fn release(&mut self) {
        self.holds = self.holds.saturating_sub(1);
        if self.holds == 0 {
            self.bytes += std::mem::take(&mut self.held_bytes);
            let held = std::mem::take(&mut self.held);
            self.frames.extend(held.into_iter().map(|held| Queued { frame: Some(held.frame), of: held.of }));
        }
    }

    /// The messages of a subscription that are held, oldest first.
    pub fn held(&self, id: SubscriptionId) -> impl Iterator<Item = Mark> {
        let of_it = self.held.iter().filter(move |held| held.of.subscription() == Some(id));
        of_it.flat_map(|held| held.marks.iter().copied())
    }

    /// How many frames are held of a subscription.
    pub fn held_frames(&self, id: SubscriptionId) -> usize {
        self.held.iter().filter(|held| held.of.subscription() == Some(id)).count()
    }

    /// Removes the first so many frames that are held of a subscription.
    pub fn forget_held(&mut self, id: SubscriptionId, mut frames: usize) {
        let bytes = &mut self.held_bytes;
        self.held.retain(|held| {
            let goes = frames > 0 && held.of.subscription() == Some(id);
            if goes {
                *bytes -= held.frame.len();
                frames -= 1;
            }
            !goes
        });
    }

    /// Whether the last frame doesn't fit, which it may be let in for while others are lent.
    fn is_overfull(&self, max_bytes: usize) -> bool {
        let last = self.frames.back().map_or(0, Queued::len);
        self.bytes > max_bytes && self.bytes - last > max_bytes / 2
    }

    fn append(&mut self, frame: Frame, of: Of) {
        self.bytes += frame.len();
        self.frames.push_back(Queued { frame: Some(frame), of });
    }

    /// Withdraws what waits for a subscription.
    pub fn withdraw(&mut self, id: SubscriptionId) {
        self.forget_held(id, usize::MAX);
        self.remove(|queued| queued.of.subscription() == Some(id));
    }

    /// Of each state only the latest message stays. O(frames).
    fn conflate(&mut self) {
        let mut seen = HashSet::new();
        let bytes = &mut self.held_bytes;
        let mut kept = VecDeque::new();
        for mut held in std::mem::take(&mut self.held).into_iter().rev() {
            if let Of::State(_) = held.of {
                *bytes -= held.frame.len();
                if !seen.insert(held.of) {
                    continue;
                }
                held.frame = held.frame.last();
                *bytes += held.frame.len();
            }
            kept.push_front(held);
        }
        self.held = kept;
        let fixed = self.fixed();
        for index in (0..self.frames.len()).rev() {
            let queued = &mut self.frames[index];
            let Of::State(_) = queued.of else { continue };
            if !seen.insert(queued.of) {
                queued.of = Of::Nobody;
                self.marked = true;
            } else if index >= fixed
                && let Some(frame) = &mut queued.frame
            {
                self.bytes -= frame.len();
                *frame = frame.last();
                self.bytes += frame.len();
            }
        }
        self.settle();
    }

    /// Accepts no more, and ends with what the reason says. The first reason stays.
    pub fn close(&mut self, closing: Closing) {
        if self.closing.is_some() {
            return;
        }
        self.closing = Some(closing);
        // What is held comes after what will never come.
        (self.held, self.held_bytes) = (VecDeque::new(), 0);
        match closing {
            Closing::Disconnect(reason) => {
                if reason == DisconnectReason::SlowConsumer {
                    // What waits is lost to a client that must start anew, and would stand
                    // between it and being told so. An answer isn't lost: it ends what the client waits for.
                    let keeps_answers = self.manner == Manner::Extended;
                    self.remove(|queued| !(keeps_answers && queued.of == Of::Connection));
                }
                match self.manner {
                    Manner::Cable => self.say_why(reason),
                    Manner::Extended => self.owes_answers = true,
                    Manner::EventStream => {}
                }
            }
            Closing::Violation(code) => self.append(Frame::close(code, ""), Of::Connection),
            Closing::Client => {}
            Closing::Stalled | Closing::Gone => self.remove(|_| true),
        }
    }

    fn say_why(&mut self, reason: DisconnectReason) {
        self.append(Frame::disconnect(reason), Of::Connection);
        self.append(Frame::close(CloseCode::Normal, ""), Of::Connection);
    }

    /// Whether nothing more will come.
    pub fn is_complete(&self) -> bool {
        self.closing.is_some() && !self.owes_answers
    }

    pub fn owes_answers(&self) -> bool {
        self.owes_answers
    }

    /// Answers to commands that came before the end, and then why it is one.
    pub fn answer(&mut self, answers: Vec<Frame>) {
        if !std::mem::take(&mut self.owes_answers) {
            return;
        }
        for answer in answers {
            self.append(answer, Of::Connection);
        }
        if let Some(Closing::Disconnect(reason)) = self.closing {
            self.say_why(reason);
        }
    }

    /// Lends what one system call should write. Says how many frames, and how much of the
    /// first is written already.
    pub fn lend(&mut self, lent: &mut Lent) -> (usize, usize) {
        let mut bytes = 0;
        let mut count = 0;
        for (queued, place) in self.frames.iter_mut().zip(lent) {
            if bytes >= BATCH_BYTES {
                break;
            }
            bytes += queued.len();
            *place = queued.frame.take();
            count += 1;
        }
        self.lent = count;
        (count, self.written)
    }

    /// Takes the frames back of which so many bytes were written.
    pub fn give_back(&mut self, lent: &mut Lent, bytes: usize, max_bytes: usize) {
        self.bytes -= bytes;
        self.written += bytes;
        let mut unwritten = 0;
        for frame in lent[..self.lent].iter_mut().filter_map(Option::take) {
            if unwritten == 0 && frame.len() <= self.written {
                self.written -= frame.len();
                self.frames.pop_front();
            } else {
                self.frames[unwritten].frame = Some(frame);
                unwritten += 1;
            }
        }
        self.lent = 0;
        self.settle();
        if self.closing.is_none() && self.is_overfull(max_bytes) {
            self.conflate();
            if self.is_overfull(max_bytes) {
                self.close(Closing::Disconnect(DisconnectReason::SlowConsumer));
            }
        }
        if self.frames.is_empty() && self.frames.capacity() > KEPT_FRAMES {
            // Given back: an idle connection owns no more than it needs.
            self.frames = VecDeque::new();
        }
    }

    /// So many frames, the first, can't be removed.
    fn fixed(&self) -> usize {
        self.lent.max(usize::from(self.written > 0))
    }

    fn remove(&mut self, is_to_go: impl Fn(&Queued) -> bool) {
        for queued in self.frames.iter_mut().filter(|queued| is_to_go(queued)) {
            queued.of = Of::Nobody;
            self.marked = true;
        }
        self.settle();
    }

    /// Removes what is nobody's, as far as it can be.
    fn settle(&mut self) {
        if !self.marked {
            return;
        }
        if self.lent == 0
            && self.written > 0
            && let Some(Queued { frame: Some(frame), of: Of::Nobody }) = self.frames.front_mut()
        {
            let rest = frame.through(self.written);
            self.bytes -= frame.len() - rest.len();
            *frame = rest;
            if frame.len() == self.written {
                self.frames.pop_front();
                self.written = 0;
            }
        }
        let mut fixed = self.fixed();
        let bytes = &mut self.bytes;
        self.frames.retain(|queued| {
            let stays = fixed > 0 || queued.of != Of::Nobody;
            fixed = fixed.saturating_sub(1);
            if !stays {
                *bytes -= queued.len();
            }
            stays
        });
        self.marked = self.lent > 0;
    }

    #[cfg(test)]
    pub fn drain(&mut self) -> Vec<Frame> {
        (self.bytes, self.written) = (0, 0);
        self.frames.drain(..).filter_map(|queued| queued.frame).collect()
    }
}
