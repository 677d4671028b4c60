use crate::stream::Stream;

/// A message on its way into the table.
#[derive(Debug, Clone)]
pub struct Outgoing {
    pub stream: Stream,
    /// A JSON document; who makes one has checked it.
    pub payload: String,
}

/// What makes a publish safe to repeat, on any server that shares the table.
#[derive(Debug, Clone)]
pub struct IdempotencyKey {
    pub key: String,
    /// SHA-256 of what is published, so that a key can't be taken for another message.
    pub fingerprint: Vec<u8>,
}

/// Messages to be committed, all or nothing.
#[derive(Debug)]
pub struct Request {
    pub messages: Vec<Outgoing>,
    pub key: Option<IdempotencyKey>,
}

/// What became of a request once its transaction was committed.
#[derive(Debug, Clone)]
pub enum Outcome {
    /// The ids of its messages, in order.
    Committed(Vec<i64>),
    /// Its key was committed before, with the same content.
    Replayed(Vec<i64>),
    /// Its key was committed before, with other content.
    KeyReused,
}
