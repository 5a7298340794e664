//! Responses at work: what a stream shows, another request may look at or cancel.

use std::collections::HashMap;
use std::ops::Deref;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use serde_json::Value;

use super::answer::Answer;
use super::store::{Owner, ResponseStore, Turn};
use crate::error::ApiError;
use crate::generation::{Canceller, Delta};
use crate::openai::response::Usage;
use crate::sse::{self, Event};

/// One response at work.
#[derive(Debug)]
pub(crate) struct Running {
    id: String,
    owner: Owner,
    answer: Mutex<Answer>,
    canceller: Canceller,
    /// `None` if nothing is to be kept.
    keep: Option<Keep>,
}

/// What the store gets besides the answer.
#[derive(Debug)]
pub(crate) struct Keep {
    pub(crate) store: Arc<ResponseStore>,
    pub(crate) previous: Option<Arc<Turn>>,
    pub(crate) input: Vec<Value>,
}

impl Running {
    pub(crate) fn new(
        answer: Answer,
        owner: Owner,
        canceller: Canceller,
        keep: Option<Keep>,
    ) -> Self {
        Self { id: answer.id().to_owned(), owner, answer: Mutex::new(answer), canceller, keep }
    }

    /// Whether it can be had by its id before it has ended.
    pub(crate) fn is_kept(&self) -> bool {
        self.keep.is_some()
    }

    /// The object as it stands, as JSON.
    pub(crate) fn object(&self) -> String {
        self.answer().object()
    }

    /// Whether it has ended.
    pub(crate) fn is_over(&self) -> bool {
        self.answer().is_over()
    }

    /// Adds a delta.
    pub(crate) fn take(&self, delta: Delta, usage: Usage) {
        let mut answer = self.answer();
        let was_over = answer.is_over();
        answer.take(delta, usage);
        if answer.is_over() && !was_over {
            self.store(&answer);
        }
    }

    /// Stops the generation; the object that is left, as JSON.
    pub(crate) fn cancel(&self) -> String {
        let mut answer = self.answer();
        if !answer.is_over() {
            answer.cancel();
            self.canceller.cancel();
            self.store(&answer);
        }
        answer.object()
    }

    fn store(&self, answer: &Answer) {
        if let Some(Keep { store, previous, input }) = &self.keep {
            let (key, items) = ((self.id.as_str(), self.owner), (&**input, &*answer.output()));
            store.insert(Instant::now(), key, answer.object(), previous.clone(), items);
        }
    }

    fn answer(&self) -> MutexGuard<'_, Answer> {
        self.answer.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// All of them, by id: as many as requests are in flight.
#[derive(Debug, Default)]
pub(crate) struct Registry(Mutex<HashMap<String, Arc<Running>>>);

/// A response that is in the registry until this is dropped.
#[derive(Debug)]
pub(crate) struct Entered {
    running: Arc<Running>,
    registry: Arc<Registry>,
}

impl Registry {
    pub(crate) fn enter(self: &Arc<Self>, running: Running) -> Entered {
        let running = Arc::new(running);
        self.all().insert(running.id.clone(), Arc::clone(&running));
        Entered { running, registry: Arc::clone(self) }
    }

    pub(crate) fn get(&self, owner: Owner, id: &str) -> Option<Arc<Running>> {
        self.all().get(id).filter(|running| running.owner == owner).cloned()
    }

    fn all(&self) -> MutexGuard<'_, HashMap<String, Arc<Running>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Deref for Entered {
    type Target = Running;

    fn deref(&self) -> &Running {
        &self.running
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        self.registry.all().remove(&self.running.id);
    }
}

impl sse::Frames for Entered {
    fn start(&mut self, _usage: Usage) -> Vec<Event> {
        self.answer().take_events()
    }

    fn events(&mut self, delta: Delta, usage: sse::UsageField) -> Vec<Event> {
        if let sse::UsageField::Known(usage) = usage {
            self.take(delta, usage);
        }
        self.answer().take_events()
    }

    /// A response that was cancelled has ended already.
    fn failure(&mut self, error: &ApiError) -> Vec<Event> {
        let mut answer = self.answer();
        answer.fail(error);
        let mut events = answer.take_events();
        events.push(sse::DONE);
        events
    }

    fn usage_event(&self, _usage: Usage) -> Option<Event> {
        None // The last event has it.
    }
}
