//! Keys: what an operator says of each, checked, and how a request's key is found.
//!
//! A key is kept as its SHA-256. Slow hashes protect passwords, which can be guessed; a key has 256
//! random bits, which cannot, however fast the hash is, and a slow one would cost every request
//! milliseconds of processor time and an attacker nothing.

use std::num::NonZeroU16;

use engine::Share;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use ring::digest::{SHA256, digest};
use ring::rand::{SecureRandom, SystemRandom};
use serde::{Deserialize, Serialize};
use subtle::{Choice, ConditionallySelectable, ConstantTimeEq};

use super::limits::{InUse, Limits};
use super::usage::KeyUsage;

/// Most keys of a file. All are compared with each request's, which takes so many less than 0.1 ms.
const MAX_KEYS: usize = 4096;
const MAX_NAME_LEN: usize = 64;

/// One key, as the keys file says it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct KeySpec {
    /// Who it is for: the label in metrics and logs, and what survives a change of the key.
    pub name: String,
    /// The SHA-256 of the key in hexadecimal.
    pub sha256: String,
    /// What it may do: `inference` if nothing is said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scopes: Option<Vec<Scope>>,
    /// Names of the models that it may ask for: all, if nothing is said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub models: Option<Vec<String>>,
    /// Requests that may begin in any 60 seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub requests_per_minute: Option<u64>,
    /// Prompt and generated tokens of the requests that begin in any 60 seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tokens_per_minute: Option<u64>,
    /// Requests at once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_concurrent_requests: Option<u64>,
    /// Of its requests, as far as they name none; none may be more urgent, that is lower. 0 if nothing
    /// is said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub priority: Option<i32>,
    /// Of what the server does while several keys want more than it can: twice the weight gets twice
    /// the tokens. 1 if nothing is said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weight: Option<NonZeroU16>,
    /// From this time on it is not taken any more, as in `2027-01-31T00:00:00Z`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires: Option<String>,
}

/// What a key may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    /// The API.
    Inference,
    /// `/metrics` where it is guarded, and `/load`.
    Metrics,
    /// Everything.
    Admin,
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Inference => "inference",
            Self::Metrics => "metrics",
            Self::Admin => "admin",
        })
    }
}

/// A key that requests may bring.
#[derive(Debug)]
pub(crate) struct Key {
    pub(super) name: String,
    hash: Hash,
    scopes: Vec<Scope>,
    models: Option<Vec<String>>,
    pub(super) limits: Limits,
    /// `None`: requests may say what they like.
    pub(super) priority: Option<i32>,
    /// Its part of the engine, among others'.
    pub(super) share: Share,
    expires: Option<jiff::Timestamp>,
    pub(super) state: Arc<KeyState>,
}

/// What is known of a key beside its words: it stays when the file is read again.
#[derive(Debug, Default)]
pub(super) struct KeyState {
    pub(super) in_use: InUse,
    pub(super) usage: KeyUsage,
}

type Hash = [u64; 4];

/// Why a request may not pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unknown {
    NoKey,
    NotAKey,
    Expired,
}

/// All keys.
#[derive(Debug, Default)]
pub(crate) struct KeySet {
    pub(super) keys: Vec<Arc<Key>>,
}

impl KeySet {
    /// Keys given as they are: they may do everything. Names are `api-key-1` and so on.
    pub(super) fn plain(keys: &[String]) -> Self {
        let keys = keys.iter().zip(1..).map(|(key, number)| {
            let name = format!("api-key-{number}");
            Arc::new(Key {
                share: Share { tenant: name.as_str().into(), weight: NonZeroU16::MIN },
                name,
                hash: hash(key.as_bytes()),
                scopes: vec![Scope::Admin],
                models: None,
                limits: Limits::default(),
                priority: None,
                expires: None,
                state: Arc::default(),
            })
        });
        Self { keys: keys.collect() }
    }

    /// These keys and `specs`; a name that `before` has keeps what it had in use. Errors name the
    /// key and the field.
    pub(super) fn with(mut self, specs: &[KeySpec], before: &Self) -> Result<Self, String> {
        if specs.is_empty() {
            return Err("there is no key in it, so that nobody could come in: add one with \
                        `sconce keys new --name NAME`"
                .into());
        }
        if specs.len() > MAX_KEYS {
            return Err(format!("{} keys are more than {MAX_KEYS}", specs.len()));
        }
        let states: BTreeMap<_, _> =
            before.keys.iter().map(|key| (key.name.as_str(), &key.state)).collect();
        let mut names: BTreeMap<String, usize> =
            self.keys.iter().map(|key| (key.name.clone(), 0)).collect();
        let mut hashes = BTreeMap::new();
        for (spec, number) in specs.iter().zip(1..) {
            let key = Key::new(spec, states.get(spec.name.as_str()).copied());
            let key = key.map_err(|(field, fault)| {
                format!("key {number} ('{}'), {field}: {fault}", printable(&spec.name))
            })?;
            if names.insert(key.name.clone(), number).is_some() {
                return Err(format!("two keys have the name '{}': give each its own", key.name));
            }
            if let Some(other) = hashes.insert(key.hash, key.name.clone()) {
                return Err(format!("'{other}' and '{}' are the same key", key.name));
            }
            self.keys.push(Arc::new(key));
        }
        Ok(self)
    }

    /// The key that a request brings. Every one is compared in full, so that time tells nothing.
    pub(super) fn find(&self, given: &[u8], now: jiff::Timestamp) -> Result<&Arc<Key>, Unknown> {
        let given = hash(given);
        let mut found = u64::MAX;
        for (key, number) in self.keys.iter().zip(0_u64..) {
            found.conditional_assign(&number, same(&key.hash, &given));
        }
        let key = self.keys.get(found as usize).ok_or(Unknown::NotAKey)?;
        let is_over = key.expires.is_some_and(|expires| now >= expires);
        if is_over { Err(Unknown::Expired) } else { Ok(key) }
    }
}

impl Key {
    /// Checks what `spec` says; an error is the field and its fault.
    fn new(spec: &KeySpec, state: Option<&Arc<KeyState>>) -> Result<Self, (&'static str, String)> {
        check_name(&spec.name).map_err(|fault| ("name", fault))?;
        let scopes = spec.scopes.clone().unwrap_or_else(|| vec![Scope::Inference]);
        if scopes.is_empty() {
            return Err(("scopes", "none: leave it out for inference".into()));
        }
        if spec.models.as_ref().is_some_and(Vec::is_empty) {
            return Err(("models", "none: leave it out for all".into()));
        }
        for (field, limit) in [
            ("requests-per-minute", spec.requests_per_minute),
            ("tokens-per-minute", spec.tokens_per_minute),
            ("max-concurrent-requests", spec.max_concurrent_requests),
        ] {
            if limit == Some(0) {
                let fault = "0 would refuse everything: take the key out instead";
                return Err((field, fault.into()));
            }
        }
        let expires = spec.expires.as_ref().map(|text| {
            text.parse().map_err(|_| {
                let fault = format!("'{text}' is not a time such as 2027-01-31T00:00:00Z");
                ("expires", fault)
            })
        });
        Ok(Self {
            name: spec.name.clone(),
            hash: read_hash(&spec.sha256).ok_or_else(|| {
                let fault = "not a SHA-256: 64 hexadecimal digits, as `sconce keys new` prints";
                ("sha256", fault.to_owned())
            })?,
            scopes,
            models: spec.models.clone(),
            limits: Limits {
                requests_per_minute: spec.requests_per_minute,
                tokens_per_minute: spec.tokens_per_minute,
                max_concurrent_requests: spec.max_concurrent_requests,
            },
            priority: Some(spec.priority.unwrap_or(0)),
            share: Share {
                tenant: spec.name.as_str().into(),
                weight: spec.weight.unwrap_or(NonZeroU16::MIN),
            },
            expires: expires.transpose()?,
            state: state.map_or_else(Arc::default, Arc::clone),
        })
    }

    pub(super) fn may(&self, scope: Scope) -> bool {
        self.scopes.contains(&scope) || self.scopes.contains(&Scope::Admin)
    }

    pub(super) fn may_use(&self, model: &str) -> bool {
        self.models.as_ref().is_none_or(|models| models.iter().any(|allowed| allowed == model))
    }
}

/// A fresh key and what the keys file says of it.
///
/// # Errors
/// Says what is wrong with the name, or that the system has no random numbers.
pub fn new_key(name: &str) -> Result<(String, KeySpec), String> {
    check_name(name)?;
    let mut random = [0; 32];
    SystemRandom::new().fill(&mut random).map_err(|_| "the system gives no random numbers")?;
    let key = format!("sk-sconce-{}", hexadecimal(&random));
    let sha256 = hexadecimal(digest(&SHA256, key.as_bytes()).as_ref());
    let scopes = Some(vec![Scope::Inference]);
    Ok((key, KeySpec { name: name.to_owned(), sha256, scopes, ..KeySpec::default() }))
}

fn check_name(name: &str) -> Result<(), String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.@".contains(c);
    let is_plain = name.chars().all(plain) && !name.starts_with('_');
    if is_plain && (1..=MAX_NAME_LEN).contains(&name.len()) {
        return Ok(());
    }
    Err(format!(
        "'{}' is not a name: use 1 to {MAX_NAME_LEN} letters, digits and -_.@, the first no _",
        printable(name)
    ))
}

fn printable(name: &str) -> String {
    name.chars().take(MAX_NAME_LEN).flat_map(char::escape_default).collect()
}

fn hash(key: &[u8]) -> Hash {
    let digest = digest(&SHA256, key);
    let mut words = digest.as_ref().chunks_exact(8);
    std::array::from_fn(|_| {
        let word = words.next().and_then(|word| word.try_into().ok());
        u64::from_be_bytes(word.expect("SHA-256 has 32 bytes"))
    })
}

fn same(left: &Hash, right: &Hash) -> Choice {
    left.iter().zip(right).fold(Choice::from(1), |same, (left, right)| same & left.ct_eq(right))
}

fn read_hash(text: &str) -> Option<Hash> {
    if text.len() != 64 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    let mut hash = Hash::default();
    for (word, digits) in hash.iter_mut().zip(text.as_bytes().chunks_exact(16)) {
        *word = u64::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
    }
    Some(hash)
}

fn hexadecimal(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").expect("a string takes any text");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(name: &str) -> KeySpec {
        new_key(name).unwrap().1
    }

    fn set(specs: &[KeySpec]) -> Result<KeySet, String> {
        KeySet::default().with(specs, &KeySet::default())
    }

    #[test]
    fn a_fresh_key_is_found_by_its_hash_and_no_other_is() {
        let now = jiff::Timestamp::now();
        let (key, mut spec) = new_key("alice").unwrap();
        let (other, _) = new_key("alice").unwrap();
        assert_ne!(key, other);
        spec.sha256 = spec.sha256.to_uppercase();
        let plain = KeySet::plain(&["first".into(), "second".into()]);
        let set = plain.with(&[spec], &KeySet::default()).unwrap();
        assert_eq!(set.find(key.as_bytes(), now).unwrap().name, "alice");
        assert_eq!(set.find(b"second", now).unwrap().name, "api-key-2");
        for wrong in [other.as_str(), "", "firs", "first ", &key[1..]] {
            assert_eq!(set.find(wrong.as_bytes(), now).unwrap_err(), Unknown::NotAKey);
        }
    }

    #[test]
    fn the_hash_is_the_one_of_everybody() {
        // printf abc | sha256sum
        let known = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(read_hash(known), Some(hash(b"abc")));
    }

    #[test]
    fn a_key_expires() {
        let (key, mut spec) = new_key("alice").unwrap();
        spec.expires = Some("2027-01-31T00:00:00Z".into());
        let set = set(&[spec]).unwrap();
        let at = |text: &str| set.find(key.as_bytes(), text.parse().unwrap()).map(|_| ());
        assert_eq!(at("2027-01-30T23:59:59Z"), Ok(()));
        assert_eq!(at("2027-01-31T00:00:00Z"), Err(Unknown::Expired));
    }

    #[test]
    fn what_is_wrong_is_named() {
        let wrong = |change: &dyn Fn(&mut KeySpec), words: &[&str]| {
            let mut faulty = spec("bob");
            change(&mut faulty);
            let error = set(&[spec("alice"), faulty]).unwrap_err();
            assert!(words.iter().all(|word| error.contains(word)), "{error}");
        };
        wrong(&|key| key.name = "b\"b".into(), &["key 2", "name", "b\\\"b"]);
        wrong(&|key| key.name = "_other".into(), &["name"]);
        wrong(&|key| key.name = "alice".into(), &["two keys", "alice"]);
        wrong(&|key| key.sha256 = "abc".into(), &["key 2 ('bob')", "sha256"]);
        wrong(&|key| key.scopes = Some(Vec::new()), &["bob", "scopes"]);
        wrong(&|key| key.models = Some(Vec::new()), &["bob", "models"]);
        wrong(&|key| key.requests_per_minute = Some(0), &["bob", "requests-per-minute"]);
        wrong(&|key| key.expires = Some("soon".into()), &["bob", "expires", "soon"]);
        assert!(set(&[]).unwrap_err().contains("no key"));
        let alice = spec("alice");
        let twin = KeySpec { name: "twin".into(), ..alice.clone() };
        assert!(set(&[alice, twin]).unwrap_err().contains("the same key"));
    }

    #[test]
    fn scopes_and_models() {
        let mut some = spec("some");
        some.models = Some(vec!["a".into()]);
        let mut all = spec("all");
        all.scopes = Some(vec![Scope::Admin]);
        let set = set(&[some, all]).unwrap();
        let [some, all] = &*set.keys else { panic!("two keys") };
        assert!(some.may(Scope::Inference) && !some.may(Scope::Metrics));
        assert!(some.may_use("a") && !some.may_use("b"));
        assert!(all.may(Scope::Inference) && all.may(Scope::Metrics) && all.may_use("b"));
    }
}
