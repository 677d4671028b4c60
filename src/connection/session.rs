use std::collections::HashMap;
use std::sync::Arc;

use tablecast_protocol::{Command, DisconnectReason, Frame, Identifier};
use tokio::time::Instant;

use super::{Agreed, Context};
use crate::channels::{Refusal, Target};
use crate::hub::{Closing, Encoding, Of, Outbox, Subscription, SubscriptionId};
use crate::identity::Who;
use crate::telemetry::metrics;

/// What a client has asked for. Dropping it ends its subscriptions.
pub struct Session {
    context: Arc<Context>,
    outbox: Arc<Outbox>,
    /// By the identifier's raw text: its spelling is part of its name.
    subscriptions: HashMap<Arc<str>, (SubscriptionId, Subscription)>,
    last_id: u32,
    is_rails_client: bool,
    encoding: Encoding,
    who: Who,
    bucket: Bucket,
}

impl Session {
    pub fn new(context: Arc<Context>, agreed: Agreed, who: Who, outbox: Arc<Outbox>) -> Self {
        let bucket = Bucket::new(context.limits.rate_limit, context.limits.rate_burst);
        let Agreed { offer, encoding } = agreed;
        let is_rails_client = offer.is_rails_client();
        Self {
            context,
            outbox,
            subscriptions: HashMap::new(),
            last_id: 0,
            is_rails_client,
            encoding,
            who,
            bucket,
        }
    }

    /// Carries out one command. What can't be read is counted and ignored.
    pub fn command(&mut self, text: &str) {
        if !self.within_rate() {
            return;
        }
        match Command::parse(text) {
            Ok(Command::Subscribe { identifier }) => {
                metrics().commands_subscribe.increment(1);
                self.subscribe(&identifier);
            }
            Ok(Command::Unsubscribe { identifier }) => {
                metrics().commands_unsubscribe.increment(1);
                self.unsubscribe(&identifier);
            }
            Ok(Command::Message { .. }) => metrics().commands_message.increment(1),
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

    fn subscribe(&mut self, raw: &str) {
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
        if raw.len() > self.context.limits.max_identifier_bytes {
            return self.reject(raw, Refusal::TooLong);
        }
        let Target { stream, is_state } =
            match self.context.channels.resolve(&identifier, self.who.as_deref()) {
                Ok(target) => target,
                Err(refusal) => return self.reject(raw, refusal),
            };
        if self.subscriptions.len() >= self.context.limits.max_subscriptions {
            return self.reject(raw, Refusal::TooMany);
        }
        self.last_id = self.last_id.wrapping_add(1);
        let id = SubscriptionId(self.last_id);
        let of = if is_state { Of::State(id) } else { Of::Events(id) };
        let raw: Arc<str> = raw.into();
        let subscription = self.context.hub.subscribe(&stream, &raw, of, self.encoding, &self.outbox);
        self.subscriptions.insert(raw, (id, subscription));
        metrics().subscribes_confirmed.increment(1);
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
        if let Some((id, subscription)) = self.subscriptions.remove(raw) {
            self.context.hub.unsubscribe(raw, subscription);
            self.outbox.withdraw(id);
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        for (raw, (_, subscription)) in self.subscriptions.drain() {
            self.context.hub.unsubscribe(&raw, subscription);
        }
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
