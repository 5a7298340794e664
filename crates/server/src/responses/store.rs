//! Finished responses, kept in memory for a while: bounded by number, by bytes and by age.
//!
//! A conversation is a chain of turns that its responses share, so that one that is evicted or
//! deleted takes nothing from those behind it. Time comes as an argument.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use serde_json::Value;

use crate::config::StoreLimits;

/// Whose a response is: the API key that made it, where there are keys.
pub(crate) type Owner = Option<u64>;

/// What an entry and an item take besides their text, more or less.
const OVERHEAD_BYTES: usize = 256;

/// One request and its answer, behind what came before.
#[derive(Debug)]
pub(crate) struct Turn {
    previous: Option<Arc<Turn>>,
    input: Vec<Kept>,
    output: Vec<Kept>,
    size: usize,
    /// Bytes of all turns of a store that are alive.
    total: Arc<AtomicUsize>,
}

/// An item as JSON.
#[derive(Debug)]
struct Kept {
    id: String,
    json: String,
}

/// The store.
#[derive(Debug)]
pub(crate) struct ResponseStore {
    limits: StoreLimits,
    inner: Mutex<Inner>,
    turn_bytes: Arc<AtomicUsize>,
}

#[derive(Debug, Default)]
struct Inner {
    entries: HashMap<String, Entry>,
    /// Ids, the oldest first, and those longest unused first; by numbers that only grow.
    by_age: BTreeMap<u64, String>,
    by_use: BTreeMap<u64, String>,
    next_number: u64,
    /// Of the responses; their turns count themselves.
    bytes: usize,
}

#[derive(Debug)]
struct Entry {
    owner: Owner,
    made: Instant,
    age: u64,
    used: u64,
    response: Arc<str>,
    turn: Arc<Turn>,
}

impl Turn {
    /// All items of the conversation up to and with this turn.
    pub(crate) fn items(&self) -> Vec<Value> {
        let mut turns = vec![self];
        while let Some(previous) = turns.last().and_then(|turn| turn.previous.as_deref()) {
            turns.push(previous);
        }
        let kept = turns.iter().rev().flat_map(|turn| turn.input.iter().chain(&turn.output));
        kept.map(Kept::value).collect()
    }

    /// The items of the request alone.
    pub(crate) fn input(&self) -> Vec<Value> {
        self.input.iter().map(Kept::value).collect()
    }
}

impl Kept {
    fn new(item: &Value) -> Self {
        let id = item["id"].as_str().unwrap_or_default().to_owned();
        Self { id, json: item.to_string() }
    }

    fn value(&self) -> Value {
        serde_json::from_str(&self.json).expect("it was written by us")
    }

    fn size(&self) -> usize {
        self.id.len() + self.json.len() + OVERHEAD_BYTES
    }
}

impl Drop for Turn {
    /// One after the other: a long conversation must not be dropped by recursion.
    fn drop(&mut self) {
        self.total.fetch_sub(self.size, Ordering::Relaxed);
        let mut next = self.previous.take();
        while let Some(mut turn) = next.and_then(Arc::into_inner) {
            next = turn.previous.take();
        }
    }
}

impl ResponseStore {
    pub(crate) fn new(limits: StoreLimits) -> Self {
        Self { limits, inner: Mutex::default(), turn_bytes: Arc::default() }
    }

    /// Keeps the response `id`, which went on from `previous`, until something pushes it out.
    pub(crate) fn insert(
        &self,
        now: Instant,
        (id, owner): (&str, Owner),
        response: String,
        previous: Option<Arc<Turn>>,
        (input, output): (&[Value], &[Value]),
    ) {
        let [input, output] = [input, output].map(|items| items.iter().map(Kept::new).collect());
        let turn = Turn::new(previous, input, output, &self.turn_bytes);
        let mut inner = self.inner(now);
        let number = inner.number();
        inner.by_age.insert(number, id.to_owned());
        inner.by_use.insert(number, id.to_owned());
        inner.bytes += response.len() + OVERHEAD_BYTES;
        let response = response.into();
        let entry =
            Entry { owner, made: now, age: number, used: number, response, turn: Arc::new(turn) };
        inner.entries.insert(id.to_owned(), entry);
        while inner.entries.len() > self.limits.max_entries
            || inner.bytes + self.turn_bytes.load(Ordering::Relaxed) > self.limits.max_bytes
        {
            let Some((_, id)) = inner.by_use.first_key_value() else { break };
            let id = id.clone();
            inner.remove(&id);
        }
    }

    /// The response as JSON.
    pub(crate) fn response(&self, now: Instant, owner: Owner, id: &str) -> Option<Arc<str>> {
        self.inner(now).touch(owner, id).map(|entry| Arc::clone(&entry.response))
    }

    /// The conversation up to and with a response.
    pub(crate) fn turn(&self, now: Instant, owner: Owner, id: &str) -> Option<Arc<Turn>> {
        self.inner(now).touch(owner, id).map(|entry| Arc::clone(&entry.turn))
    }

    /// Forgets a response; whether it was there.
    pub(crate) fn remove(&self, now: Instant, owner: Owner, id: &str) -> bool {
        let mut inner = self.inner(now);
        inner.touch(owner, id).is_some() && inner.remove(id)
    }

    /// Those of the items `wanted` that stand in a response.
    pub(crate) fn items(
        &self,
        now: Instant,
        owner: Owner,
        wanted: &HashSet<&str>,
    ) -> HashMap<String, Value> {
        let inner = self.inner(now);
        let entries = inner.entries.values().filter(|entry| entry.owner == owner);
        let kept = entries.flat_map(|entry| entry.turn.input.iter().chain(&entry.turn.output));
        let found = kept.filter(|kept| wanted.contains(kept.id.as_str()));
        found.map(|kept| (kept.id.clone(), kept.value())).collect()
    }

    /// What is there, without what has become too old.
    fn inner(&self, now: Instant) -> MutexGuard<'_, Inner> {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        while let Some((_, id)) = inner.by_age.first_key_value()
            && now.saturating_duration_since(inner.entries[id].made) >= self.limits.max_age
        {
            let id = id.clone();
            inner.remove(&id);
        }
        inner
    }
}

impl Turn {
    fn new(
        previous: Option<Arc<Self>>,
        input: Vec<Kept>,
        output: Vec<Kept>,
        total: &Arc<AtomicUsize>,
    ) -> Self {
        let size = OVERHEAD_BYTES + input.iter().chain(&output).map(Kept::size).sum::<usize>();
        total.fetch_add(size, Ordering::Relaxed);
        Self { previous, input, output, size, total: Arc::clone(total) }
    }
}

impl Inner {
    fn number(&mut self) -> u64 {
        self.next_number += 1;
        self.next_number
    }

    /// The entry, if it is the owner's; it is the last to be pushed out now.
    fn touch(&mut self, owner: Owner, id: &str) -> Option<&Entry> {
        let number = self.number();
        let entry = self.entries.get_mut(id).filter(|entry| entry.owner == owner)?;
        let id = self.by_use.remove(&entry.used).expect("every entry is in the order of use");
        self.by_use.insert(number, id);
        entry.used = number;
        Some(entry)
    }

    fn remove(&mut self, id: &str) -> bool {
        let Some(entry) = self.entries.remove(id) else { return false };
        self.by_age.remove(&entry.age);
        self.by_use.remove(&entry.used);
        self.bytes -= entry.response.len() + OVERHEAD_BYTES;
        true
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::json;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn store(max_entries: usize, max_bytes: usize) -> ResponseStore {
        ResponseStore::new(StoreLimits { max_entries, max_bytes, max_age: 60 * SECOND })
    }

    fn keep(store: &ResponseStore, now: Instant, id: &str, previous: Option<&str>) {
        let previous = previous.map(|id| store.turn(now, None, id).unwrap());
        let item = |id: &str| json!({"id": id, "text": "x".repeat(1000)});
        let (input, output) = ([item(&format!("in_{id}"))], [item(&format!("out_{id}"))]);
        store.insert(now, (id, None), "{}".into(), previous, (&input, &output));
    }

    fn has(store: &ResponseStore, now: Instant, id: &str) -> bool {
        store.inner(now).entries.contains_key(id)
    }

    fn bytes(store: &ResponseStore, now: Instant) -> usize {
        store.inner(now).bytes + store.turn_bytes.load(Ordering::Relaxed)
    }

    #[test]
    fn the_longest_unused_goes_first() {
        let (store, now) = (store(2, usize::MAX), Instant::now());
        keep(&store, now, "a", None);
        keep(&store, now, "b", None);
        assert!(store.response(now, None, "a").is_some());
        keep(&store, now, "c", None);
        assert_eq!(["a", "b", "c"].map(|id| has(&store, now, id)), [true, false, true]);
    }

    #[test]
    fn bytes_are_bounded_and_given_back() {
        let now = Instant::now();
        let store = store(1000, 10_000);
        for round in 0..100 {
            keep(&store, now, &format!("{round}"), None);
            assert!(bytes(&store, now) <= 10_000);
        }
        assert!(has(&store, now, "99") && !has(&store, now, "90"));
        let left: Vec<_> = store.inner(now).entries.keys().cloned().collect();
        assert!(left.len() >= 2, "{left:?}");
        for id in left {
            assert!(store.remove(now, None, &id));
        }
        assert_eq!(bytes(&store, now), 0);
    }

    #[test]
    fn what_is_larger_than_the_store_is_not_kept() {
        let (store, now) = (store(10, 1_000), Instant::now());
        keep(&store, now, "a", None);
        assert!(!has(&store, now, "a"));
        assert_eq!(bytes(&store, now), 0);
    }

    #[test]
    fn everything_goes_when_it_is_too_old_and_use_does_not_help() {
        let (store, start) = (store(10, usize::MAX), Instant::now());
        keep(&store, start, "a", None);
        keep(&store, start + 30 * SECOND, "b", None);
        assert!(store.response(start + 59 * SECOND, None, "a").is_some());
        assert!(store.response(start + 60 * SECOND, None, "a").is_none());
        assert!(store.response(start + 60 * SECOND, None, "b").is_some());
        assert!(store.response(start + 90 * SECOND, None, "b").is_none());
        assert_eq!(bytes(&store, start + 90 * SECOND), 0);
    }

    #[test]
    fn a_chain_outlives_its_first_responses_and_its_bytes_count_while_it_lives() {
        let (store, now) = (store(2, usize::MAX), Instant::now());
        keep(&store, now, "a", None);
        let one = store.turn_bytes.load(Ordering::Relaxed);
        for [id, previous] in [["b", "a"], ["c", "b"], ["d", "c"]] {
            keep(&store, now, id, Some(previous));
        }
        assert!(!has(&store, now, "a"));
        let items = store.turn(now, None, "d").unwrap().items();
        let ids: Vec<_> = items.iter().map(|item| item["id"].as_str().unwrap()).collect();
        let expected = ["in_a", "out_a", "in_b", "out_b", "in_c", "out_c", "in_d", "out_d"];
        assert_eq!(ids, expected);
        assert_eq!(store.turn_bytes.load(Ordering::Relaxed), 4 * one);
        assert!(store.remove(now, None, "d") && store.remove(now, None, "c"));
        assert_eq!(bytes(&store, now), 0);
    }

    #[test]
    fn a_long_chain_is_dropped_without_recursion() {
        let (store, now) = (store(1, usize::MAX), Instant::now());
        keep(&store, now, "0", None);
        for round in 1..100_000 {
            let previous = store.turn(now, None, &format!("{}", round - 1));
            store.insert(now, (&format!("{round}"), None), String::new(), previous, (&[], &[]));
        }
        assert!(store.remove(now, None, "99999"));
        assert_eq!(bytes(&store, now), 0);
    }

    #[test]
    fn another_owner_sees_nothing() {
        let (store, now) = (store(10, usize::MAX), Instant::now());
        let item = json!({"id": "i"});
        store.insert(now, ("a", Some(1)), "{}".into(), None, (&[item], &[]));
        for other in [None, Some(2)] {
            assert!(store.response(now, other, "a").is_none());
            assert!(store.turn(now, other, "a").is_none());
            assert!(!store.remove(now, other, "a"));
            assert!(store.items(now, other, &HashSet::from(["i"])).is_empty());
        }
        assert_eq!(store.items(now, Some(1), &HashSet::from(["i", "j"])).len(), 1);
        assert!(store.remove(now, Some(1), "a"));
    }
}
