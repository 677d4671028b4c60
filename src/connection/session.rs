use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::task::{Context as Task, Poll, ready};

use tablecast_protocol::{Command, DisconnectReason, Frame, History, Identifier, stream_id};
use tokio::time::Instant;

use super::replay::{From, Outcome, Replays, Request};
use super::{Agreed, Context, past};
use crate::channels::{Refusal, Target};
use crate::hub::{
    Answer, Closing, Dialect, Format, Gift, Of, Outbox, Past, Subscriber, Subscription, SubscriptionId,
};
use crate::identity::Who;
use crate::telemetry::metrics;

/// What a client has asked for. Dropping it ends its subscriptions.
pub struct Session {
    context: Arc<Context>,
    outbox: Arc<Outbox>,
    /// By the identifier's raw text: its spelling is part of its name.
    ///
    /// Boxed, since a map has room for three at least, and most clients have one.
    subscriptions: HashMap<Arc<str>, Box<Active>>,
    replays: Replays,
    last_id: u32,
    is_rails_client: bool,
    dialect: Dialect,
    who: Who,
    bucket: Bucket,
}

struct Active {
    id: SubscriptionId,
    target: Target,
    subscription: Subscription,
}

/// What a subscriber is to be given of the past.
enum Wanted {
    Nothing,
    /// The same, and it wants to hear so.
    Answer,
    /// What the hub remembers, or reads for all who come.
    Gift(Gift),
    /// What this one has missed.
    Replay(From),
}

impl Session {
    pub fn new(context: Arc<Context>, agreed: Agreed, who: Who, outbox: Arc<Outbox>) -> Self {
        let bucket = Bucket::new(context.limits.rate_limit, context.limits.rate_burst);
        let Agreed { offer, encoding } = agreed;
        let is_rails_client = offer.is_rails_client();
        let format = if offer.is_extended() { Format::Extended } else { Format::Cable };
        Self {
            context,
            outbox,
            subscriptions: HashMap::new(),
            replays: Replays::default(),
            last_id: 0,
            is_rails_client,
            dialect: Dialect { format, encoding },
            who,
            bucket,
        }
    }

    /// Carries out one command. What can't be read is counted and ignored.
    pub fn command(&mut self, text: &str) {
        if !self.within_rate() {
            // It wasn't carried out, and the client is to come back with it.
            if let Some(answer) = self.answer_last(text) {
                self.outbox.push(answer, Of::Connection);
            }
            return;
        }
        match Command::parse(text) {
            Ok(Command::Subscribe { identifier, history }) => {
                metrics().commands_subscribe.increment(1);
                self.subscribe(&identifier, history.as_ref());
            }
            Ok(Command::Unsubscribe { identifier }) => {
                metrics().commands_unsubscribe.increment(1);
                self.unsubscribe(&identifier);
            }
            Ok(Command::Message { .. }) => metrics().commands_message.increment(1),
            Ok(Command::History { identifier, history }) => {
                metrics().commands_history.increment(1);
                self.history(&identifier, &history);
            }
            Ok(Command::Presence { identifier }) => {
                metrics().commands_foreign.increment(1);
                self.outbox.push(Frame::no_presence(&identifier), Of::Connection);
            }
            Ok(Command::Foreign) => metrics().commands_foreign.increment(1),
            Ok(Command::Pong) => {}
            Err(error) => {
                metrics().commands_malformed.increment(1);
                tracing::debug!(%error, "a client's command was ignored");
            }
        }
    }

    /// Counts a control frame: one costs as much as a command, and is answered.
    pub fn control(&mut self) {
        self.within_rate();
    }

    fn within_rate(&mut self) -> bool {
        let within = self.bucket.take();
        if !within {
            metrics().refused("rate_limit");
            tracing::debug!("a client sent more than --rate-limit and was disconnected");
            self.outbox.close(Closing::Disconnect(DisconnectReason::RateLimit));
        }
        within
    }

    fn subscribe(&mut self, raw: &str, history: Option<&History<'_>>) {
        if self.subscriptions.contains_key(raw) {
            metrics().subscribes_repeated.increment(1);
            // Rails' client repeats a subscribe each 500 ms until it is answered, for a
            // second object with one identifier for ever. Others may take a second confirm
            // for something else, so they get none, as from Rails.
            if self.is_rails_client {
                self.outbox.push(Frame::confirm_subscription(raw), Of::Connection);
            }
            return;
        }
        let identifier = match Identifier::parse(raw) {
            Ok(identifier) => identifier,
            Err(error) => {
                metrics().commands_malformed.increment(1);
                tracing::debug!(%error, "a client's subscribe was ignored");
                return;
            }
        };
        let target = match self.allowed(raw, &identifier) {
            Ok(target) => target,
            Err(refusal) => return self.reject(raw, refusal),
        };
        self.last_id = self.last_id.wrapping_add(1);
        let id = SubscriptionId(self.last_id);
        let of = Of::messages(id, target.is_state);
        let raw: Arc<str> = raw.into();
        let history = history.filter(|_| self.dialect.format == Format::Extended);
        let wanted = wanted(history, &raw, past(&target));
        if let Wanted::Answer | Wanted::Replay(_) = wanted {
            self.outbox.hold();
        }
        let (gift, wanted) = match wanted {
            Wanted::Gift(gift) => (Some(gift), Wanted::Nothing),
            wanted => (None, wanted),
        };
        let subscriber = Subscriber { identifier: &raw, of, dialect: self.dialect, outbox: &self.outbox };
        let confirm = Some(Frame::confirm_subscription(&raw));
        let subscription = self.context.hub.subscribe(&target.stream, subscriber, confirm, gift);
        match wanted {
            Wanted::Nothing | Wanted::Gift(_) => {}
            Wanted::Answer => {
                self.outbox.push(Frame::confirm_history(&raw), Of::Connection);
                self.outbox.release();
            }
            Wanted::Replay(from) => self.replays.push(self.request(id, &raw, &target, from)),
        }
        self.subscriptions.insert(raw, Box::new(Active { id, target, subscription }));
        metrics().subscribes_confirmed.increment(1);
    }

    fn allowed(&self, raw: &str, identifier: &Identifier<'_>) -> Result<Target, Refusal> {
        if raw.len() > self.context.limits.max_identifier_bytes {
            return Err(Refusal::TooLong);
        }
        let target = self.context.channels.resolve(identifier, self.who.as_deref())?;
        if self.subscriptions.len() >= self.context.limits.max_subscriptions {
            return Err(Refusal::TooMany);
        }
        Ok(target)
    }

    fn request(&self, id: SubscriptionId, raw: &Arc<str>, target: &Target, from: From) -> Request {
        Request {
            id,
            of: Of::messages(id, target.is_state),
            identifier: raw.clone(),
            dialect: self.dialect,
            stream: target.stream.clone(),
            from,
            past: past(target),
        }
    }

    /// What a subscription missed, once more. What is on its way to the client meanwhile may come twice: this
    /// protocol's clients ask so only where a server has kept their subscriptions for them, which none
    /// of ours does.
    fn history(&mut self, raw: &str, history: &History<'_>) {
        let Some((raw, active)) = self.subscriptions.get_key_value(raw) else {
            metrics().not_resumed("not_subscribed");
            self.outbox.push(Frame::reject_history(raw), Of::Connection);
            return;
        };
        let from = match wanted(Some(history), raw, None) {
            Wanted::Replay(from) => from,
            Wanted::Nothing | Wanted::Answer | Wanted::Gift(_) => From::Unreadable,
        };
        if self.replays.awaits(active.id) {
            // It is being answered.
            return;
        }
        self.outbox.hold();
        let request = self.request(active.id, raw, &active.target, from);
        self.replays.push(request);
    }

    /// Gives what was missed, for ever.
    pub fn poll_replays(&mut self, cx: &mut Task<'_>) -> Poll<Infallible> {
        loop {
            let (id, outcome) = ready!(self.replays.poll_next(cx, &self.context, &self.outbox));
            let Some((raw, active)) = self.subscriptions.iter().find(|(_, active)| active.id == id) else {
                continue;
            };
            match outcome {
                Outcome::Given => {}
                Outcome::Give(gift) => self.context.hub.give(&active.subscription, gift),
                Outcome::Refused => {
                    self.outbox.push(Frame::reject_history(raw), Of::Connection);
                    self.outbox.release();
                }
                Outcome::Unavailable => {
                    self.outbox.close(Closing::Disconnect(DisconnectReason::HistoryUnavailable));
                }
            }
        }
    }

    /// Ends all subscriptions, of a client that is leaving.
    pub fn leave(&mut self) {
        for (_, active) in self.subscriptions.drain() {
            let Active { id, subscription, .. } = *active;
            self.replays.cancel(id);
            self.context.hub.unsubscribe(subscription);
        }
    }

    /// The answer to a command of a client that is leaving and doesn't know yet, if there is one to give.
    pub fn answer_last(&mut self, text: &str) -> Option<Frame> {
        let Ok(Command::Subscribe { identifier: raw, .. }) = Command::parse(text) else { return None };
        let identifier = Identifier::parse(&raw).ok()?;
        Some(match self.allowed(&raw, &identifier) {
            Ok(_) => Frame::confirm_subscription(&raw),
            Err(_) => Frame::reject_subscription(&raw),
        })
    }

    fn reject(&self, raw: &str, refusal: Refusal) {
        metrics().subscribes_rejected.increment(1);
        metrics().refused(refusal.name());
        tracing::debug!(%refusal, "a subscription was rejected");
        self.outbox.push(Frame::reject_subscription(raw), Of::Connection);
    }

    /// Nothing answers it, and nothing more of the subscription is sent: what waits for a
    /// slow client would otherwise arrive in the midst of its next subscription.
    fn unsubscribe(&mut self, raw: &str) {
        if let Some(active) = self.subscriptions.remove(raw) {
            let Active { id, subscription, .. } = *active;
            self.context.hub.unsubscribe(subscription);
            self.outbox.withdraw(id);
            if self.replays.cancel(id) {
                self.outbox.release();
            }
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.leave();
    }
}

/// `history` is what a client of the extended protocol has.
fn wanted(history: Option<&History<'_>>, raw: &str, past: Option<Past>) -> Wanted {
    let gift = |past, answer| Wanted::Gift(Gift { past, unless: None, answer });
    let Some(history) = history else { return past.map_or(Wanted::Nothing, |past| gift(past, None)) };
    // By its identifier where the client was told a position and has had no message with a stream_id yet.
    let epoch = history.epochs.get(stream_id(raw).as_str()).or_else(|| history.epochs.get(raw));
    match (epoch, history.since) {
        (Some(Some(word)), _) => Wanted::Replay(From::Word(word.clone().into_owned())),
        // It has something, and not ours.
        _ if !history.epochs.is_empty() => Wanted::Replay(From::Unreadable),
        (_, since) => match (past, since) {
            (Some(Past::Latest), _) => gift(Past::Latest, Some(Answer::Confirm)),
            (_, Some(since)) => Wanted::Replay(From::Since(since)),
            (Some(past), None) if history.is_new => gift(past, Some(Answer::Confirm)),
            (None, None) if history.is_new => Wanted::Answer,
            (_, None) => Wanted::Replay(From::Unreadable),
        },
    }
}

/// A token bucket.
struct Bucket {
    tokens: f64,
    per_second: f64,
    burst: f64,
    filled: Instant,
}

impl Bucket {
    fn new(per_second: u32, burst: u32) -> Self {
        Self {
            tokens: burst.into(),
            per_second: per_second.into(),
            burst: burst.into(),
            filled: Instant::now(),
        }
    }

    fn take(&mut self) -> bool {
        let now = Instant::now();
        let since = now.duration_since(self.filled).as_secs_f64();
        self.filled = now;
        self.tokens = (self.tokens + since * self.per_second).min(self.burst);
        let enough = self.tokens >= 1.0;
        if enough {
            self.tokens -= 1.0;
        }
        enough
    }
}
