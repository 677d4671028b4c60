//! One transaction for the requests of many: which of them are new, and what each is answered.

use std::collections::HashMap;

use super::channel_hash;
use super::request::{IdempotencyKey, Outcome, Request};
use crate::stream::Prefix;

/// What a group needs of its transaction.
pub trait Transaction {
    /// What each of these keys, which are distinct and sorted, was answered before, here or on
    /// another server. Where that is nothing the key is this transaction's from now on: another
    /// one that claims it waits until this one has ended.
    async fn claim(
        &mut self,
        prefix: &Prefix,
        keys: &[&IdempotencyKey],
    ) -> Result<Vec<Option<Answered>>, sqlx::Error>;

    /// Inserts rows, and gives back their ids in the same order.
    async fn insert(&mut self, rows: &[NewRow<'_>]) -> Result<Vec<i64>, sqlx::Error>;

    /// Keeps what keys that were claimed are answered.
    async fn remember(
        &mut self,
        prefix: &Prefix,
        answers: &[(&IdempotencyKey, &[i64])],
    ) -> Result<(), sqlx::Error>;
}

/// What the database keeps of a key.
#[derive(Debug, Clone)]
pub struct Answered {
    pub fingerprint: Vec<u8>,
    /// A JSON array.
    pub ids: String,
}

pub struct NewRow<'a> {
    pub channel: Vec<u8>,
    pub payload: &'a [u8],
    pub hash: i64,
}

/// Writes a group of requests, in their order, and says what each is to be answered once
/// the transaction is committed.
pub async fn write(
    transaction: &mut impl Transaction,
    prefix: &Prefix,
    group: &[Request],
) -> Result<Vec<Outcome>, sqlx::Error> {
    // Sorted, so that two servers claim in the same order and never wait for one another.
    let mut keys: Vec<&IdempotencyKey> = group.iter().filter_map(|request| request.key.as_ref()).collect();
    keys.sort_by(|a, b| a.key.cmp(&b.key));
    keys.dedup_by(|a, b| a.key == b.key);
    let mut answered: HashMap<&str, Answered> = HashMap::new();
    if !keys.is_empty() {
        let found = transaction.claim(prefix, &keys).await?;
        answered =
            keys.iter().zip(found).filter_map(|(key, found)| Some((key.key.as_str(), found?))).collect();
    }

    let mut firsts: HashMap<&str, usize> = HashMap::new();
    let mut plans = Vec::with_capacity(group.len());
    for (index, request) in group.iter().enumerate() {
        plans.push(match &request.key {
            None => Plan::Insert,
            Some(key) => match (answered.get(key.key.as_str()), firsts.get(key.key.as_str())) {
                (Some(before), _) => Plan::Known(before.outcome(key)?),
                (None, Some(first)) => Plan::Repeat(*first),
                (None, None) => {
                    firsts.insert(&key.key, index);
                    Plan::Insert
                }
            },
        });
    }

    let inserts = group.iter().zip(&plans).filter(|(_, plan)| matches!(plan, Plan::Insert));
    let rows: Vec<NewRow> = inserts
        .flat_map(|(request, _)| &request.messages)
        .map(|message| {
            let channel = prefix.channel(&message.stream).into_bytes();
            NewRow { hash: channel_hash(&channel), channel, payload: message.payload.as_bytes() }
        })
        .collect();
    let mut ids = if rows.is_empty() { Vec::new() } else { transaction.insert(&rows).await? }.into_iter();

    let mut outcomes: Vec<Outcome> = Vec::with_capacity(group.len());
    for (request, plan) in group.iter().zip(plans) {
        outcomes.push(match plan {
            Plan::Known(outcome) => outcome,
            Plan::Repeat(first) => match (&outcomes[first], &group[first].key, &request.key) {
                (Outcome::Committed(ids), Some(first), Some(key)) if first.fingerprint == key.fingerprint => {
                    Outcome::Replayed(ids.clone())
                }
                _ => Outcome::KeyReused,
            },
            Plan::Insert => Outcome::Committed(ids.by_ref().take(request.messages.len()).collect()),
        });
    }

    let answers: Vec<(&IdempotencyKey, &[i64])> = group
        .iter()
        .zip(&outcomes)
        .filter_map(|(request, outcome)| match (&request.key, outcome) {
            (Some(key), Outcome::Committed(ids)) => Some((key, ids.as_slice())),
            _ => None,
        })
        .collect();
    if !answers.is_empty() {
        transaction.remember(prefix, &answers).await?;
    }
    Ok(outcomes)
}

/// What is to be done for one request of a group.
enum Plan {
    Insert,
    /// Its key stands in this group before, at this place.
    Repeat(usize),
    Known(Outcome),
}

impl Answered {
    fn outcome(&self, key: &IdempotencyKey) -> Result<Outcome, sqlx::Error> {
        if ![&key.fingerprint, &key.former].contains(&&self.fingerprint) {
            return Ok(Outcome::KeyReused);
        }
        let ids = serde_json::from_str(&self.ids);
        Ok(Outcome::Replayed(ids.map_err(|error| sqlx::Error::Decode(error.into()))?))
    }
}
