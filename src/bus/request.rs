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
    /// Of what is published and of who does, so that a key can't be taken for another message, and
    /// nobody is given another's answer.
    pub fingerprint: Vec<u8>,
    /// What the fingerprint was before it told who publishes: rows have it that were written then.
    pub former: Vec<u8>,
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
