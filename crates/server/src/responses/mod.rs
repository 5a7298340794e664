//! `/v1/responses`: a translation onto the one generation path that chats use.
//!
//! `request` reads the fields, `input` the items of a conversation, `tools` what may be called;
//! `translate` makes a chat request of them. `answer` folds the deltas of the generation into output
//! items (`item`) and, for a stream, into `events`; `object` is what a response looks like. `store` keeps
//! finished ones, `running` knows those at work.

pub(crate) mod answer;
pub(crate) mod events;
pub(crate) mod input;
mod item;
pub(crate) mod messages;
pub(crate) mod object;
pub(crate) mod request;
pub(crate) mod running;
pub(crate) mod store;
pub(crate) mod tools;
pub(crate) mod translate;

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

use crate::access::Call;
use crate::config::StoreLimits;

pub(crate) use self::running::Registry;
use self::store::Owner;
pub(crate) use self::store::ResponseStore;

/// What the server knows of responses. Clones share it.
#[derive(Debug, Clone)]
pub(crate) struct Responses {
    pub(crate) store: Arc<ResponseStore>,
    pub(crate) running: Arc<Registry>,
    /// Tells API keys apart without keeping them.
    keys: RandomState,
}

impl Responses {
    pub(crate) fn new(limits: StoreLimits) -> Self {
        Self {
            store: Arc::new(ResponseStore::new(limits)),
            running: Arc::default(),
            keys: RandomState::new(),
        }
    }

    /// Who asks: a number for the name of the call's key, where there are keys.
    pub(crate) fn owner(&self) -> Owner {
        Call::current().key_name().map(|name| self.keys.hash_one(name))
    }
}
