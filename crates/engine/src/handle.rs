//! The other threads' side of the engine: submit, abort, read the counters, stop.
//!
//! Callers and the engine thread meet in one mailbox under a mutex that is held only to push or
//! to take a list, so neither ever waits for the other's work. Its length is bounded: submissions
//! by the backlog's limits, aborts by the sequences alive.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use scheduler::SeqId;

use crate::backlog::{Backlog, Left};
use crate::ceilings::Ceilings;
use crate::config::EngineConfig;
use crate::limits::RequestLimits;
use crate::request::{EngineError, Request};
use crate::stats::{Counters, EngineStats};

/// How far the engine is from its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    /// Takes requests.
    Serving,
    /// Refuses new requests and finishes those it has.
    Draining,
    /// Ends at once.
    Stopping,
    /// Has ended.
    Ended,
}

/// What the callers left for the engine thread since it last looked.
#[derive(Debug)]
pub(crate) struct Commands {
    pub(crate) submitted: Vec<(SeqId, Request)>,
    pub(crate) aborted: Vec<SeqId>,
    pub(crate) phase: Phase,
}

#[derive(Debug)]
struct Mailbox {
    commands: Commands,
    /// Submitted sequences that have not run yet, here or in the scheduler.
    backlog: Backlog,
    next_id: u64,
}

/// What handles and the engine thread share.
#[derive(Debug)]
pub(crate) struct Shared {
    mailbox: Mutex<Mailbox>,
    wake: Condvar,
    pub(crate) counters: Counters,
    pub(crate) limits: RequestLimits,
    pub(crate) eos_token_ids: Vec<u32>,
    config: EngineConfig,
    /// From a panic until everybody who is left has been queued anew.
    restarting: AtomicBool,
    /// Why the engine gave up.
    fault: OnceLock<String>,
    /// Of the device, if it was measured.
    ceilings: OnceLock<Ceilings>,
}

impl Shared {
    pub(crate) fn new(
        limits: RequestLimits,
        eos_token_ids: Vec<u32>,
        config: EngineConfig,
    ) -> Self {
        let commands =
            Commands { submitted: Vec::new(), aborted: Vec::new(), phase: Phase::Serving };
        Self {
            mailbox: Mutex::new(Mailbox { commands, backlog: Backlog::default(), next_id: 0 }),
            wake: Condvar::new(),
            counters: Counters::default(),
            limits,
            eos_token_ids,
            config,
            restarting: AtomicBool::new(false),
            fault: OnceLock::new(),
            ceilings: OnceLock::new(),
        }
    }

    /// What a panic of the engine may leave wrong in it, [`recount`](Self::recount) puts right.
    fn mailbox(&self) -> MutexGuard<'_, Mailbox> {
        self.mailbox.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes what has come; if `idle`, sleeps until something does.
    pub(crate) fn take(&self, idle: bool) -> Commands {
        let mut mailbox = self.mailbox();
        while idle && mailbox.commands.is_empty() {
            mailbox = self.wake.wait(mailbox).unwrap_or_else(PoisonError::into_inner);
        }
        let commands = &mut mailbox.commands;
        Commands {
            submitted: std::mem::take(&mut commands.submitted),
            aborted: std::mem::take(&mut commands.aborted),
            phase: commands.phase,
        }
    }

    /// Takes sequences out of the queue and publishes how many wait, given the number in the
    /// scheduler.
    pub(crate) fn leave_queue(&self, left: Vec<Left>, num_waiting: usize) {
        let mut mailbox = self.mailbox();
        if !left.is_empty() {
            mailbox.backlog.pop(left, Instant::now());
            self.counters.num_waiting_tokens.set(mailbox.backlog.num_tokens());
        }
        self.counters.num_waiting.set(num_waiting + mailbox.commands.submitted.len());
    }

    /// Counts anew who waits, here and at the engine's: a fault may have lost count.
    pub(crate) fn recount(&self, engines: impl Iterator<Item = Left>) {
        let mut mailbox = self.mailbox();
        let Mailbox { commands, backlog, .. } = &mut *mailbox;
        let ours = commands.submitted.iter().map(|(_, request)| Left::waiting(request));
        backlog.recount(ours.chain(engines));
        self.counters.num_waiting_tokens.set(backlog.num_tokens());
    }

    pub(crate) fn set_ceilings(&self, ceilings: Ceilings) {
        self.ceilings.get_or_init(|| ceilings);
    }

    pub(crate) fn set_restarting(&self, restarting: bool) {
        self.restarting.store(restarting, Ordering::Release);
    }

    /// Says why the engine ends.
    pub(crate) fn set_fault(&self, reason: String) {
        self.fault.get_or_init(|| reason);
    }

    /// Moves on to `phase`, never back, and wakes the engine.
    pub(crate) fn enter(&self, phase: Phase) {
        let mut mailbox = self.mailbox();
        mailbox.commands.phase = mailbox.commands.phase.max(phase);
        self.wake.notify_one();
    }
}

impl Commands {
    fn is_empty(&self) -> bool {
        self.submitted.is_empty() && self.aborted.is_empty() && self.phase == Phase::Serving
    }
}

/// Access to a running engine. Clones share it; when the last one is dropped the engine stops.
#[derive(Debug, Clone)]
pub struct EngineHandle {
    owner: Arc<Owner>,
}

/// Held by handles only, so that its drop tells the engine that nobody is left.
#[derive(Debug)]
struct Owner {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Drop for Owner {
    fn drop(&mut self) {
        self.shared.enter(Phase::Stopping);
    }
}

impl EngineHandle {
    pub(crate) fn new(shared: Arc<Shared>, thread: JoinHandle<()>) -> Self {
        Self { owner: Arc::new(Owner { shared, thread: Mutex::new(Some(thread)) }) }
    }

    fn shared(&self) -> &Shared {
        &self.owner.shared
    }

    /// Queues one request. Never waits for the engine.
    ///
    /// # Errors
    /// [`EngineError::Rejected`] if it can never run, [`EngineError::QueueFull`],
    /// [`EngineError::QueueTokensFull`] or [`EngineError::QueueShareFull`] if too many wait,
    /// [`EngineError::Stopped`] once the engine drains or ends. The sink is dropped unused.
    pub fn submit(&self, request: Request) -> Result<SeqId, EngineError> {
        Ok(self.submit_all(vec![request])?[0])
    }

    /// Queues all of the requests or, on an error, none; see [`submit`](Self::submit).
    pub fn submit_all(&self, requests: Vec<Request>) -> Result<Vec<SeqId>, EngineError> {
        let shared = self.shared();
        for request in &requests {
            shared.limits.check(request, &shared.eos_token_ids)?;
        }
        let num_new = requests.len();
        let mut mailbox = shared.mailbox();
        if mailbox.commands.phase != Phase::Serving {
            return Err(EngineError::Stopped);
        }
        mailbox.backlog.push(&requests, &shared.limits, Instant::now())?;
        let first = mailbox.next_id;
        mailbox.next_id += num_new as u64;
        shared.counters.num_waiting.add(num_new);
        shared.counters.num_waiting_tokens.set(mailbox.backlog.num_tokens());
        let ids = (first..mailbox.next_id).map(SeqId);
        mailbox.commands.submitted.extend(ids.clone().zip(requests));
        shared.wake.notify_one();
        Ok(ids.collect())
    }

    /// Ends the sequence within a step; no event follows. Unknown or finished ids are ignored.
    pub fn abort(&self, id: SeqId) {
        let mut mailbox = self.shared().mailbox();
        mailbox.commands.aborted.push(id);
        self.shared().wake.notify_one();
    }

    /// Reads the counters, lock-free.
    pub fn stats(&self) -> EngineStats {
        self.shared().counters.read()
    }

    /// How long those who wait now will take to leave the queue, as fast as it moved of late.
    pub fn time_to_drain(&self) -> Duration {
        self.shared().mailbox().backlog.time_to_drain(Instant::now())
    }

    /// Whether no request is running or waiting.
    pub fn is_idle(&self) -> bool {
        let counters = &self.shared().counters;
        counters.num_running.get() == 0 && counters.num_waiting.get() == 0
    }

    /// Refuses new requests, finishes those accepted, then ends. Await it with
    /// [`join`](Self::join).
    pub fn drain(&self) {
        self.shared().enter(Phase::Draining);
    }

    /// Ends after the step at hand; every living request gets
    /// [`Failed(Stopped)`](EngineError::Stopped).
    pub fn shutdown(&self) {
        self.shared().enter(Phase::Stopping);
    }

    /// Blocks until the engine thread has ended, after [`drain`](Self::drain) or
    /// [`shutdown`](Self::shutdown), and its memory is free.
    pub fn join(&self) {
        let mut thread = self.owner.thread.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(thread) = thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the engine thread panicked");
        }
    }

    /// Whether accepted requests are still answered.
    pub fn is_alive(&self) -> bool {
        self.shared().mailbox().commands.phase < Phase::Ended
    }

    /// Whether the engine is getting up again after a fault. Requests are still accepted.
    pub fn is_restarting(&self) -> bool {
        self.shared().restarting.load(Ordering::Acquire)
    }

    /// Why the engine has ended, if nobody asked it to: it failed again and again.
    pub fn fault(&self) -> Option<&str> {
        self.shared().fault.get().map(String::as_str)
    }

    /// Most tokens of a sequence, prompt and answer together.
    pub fn max_model_len(&self) -> usize {
        self.shared().limits.max_model_len
    }

    /// Token ids are below this.
    pub fn vocab_size(&self) -> usize {
        self.shared().limits.vocab_size
    }

    /// What its device can do, if that was measured (`--enable-mfu-metrics`).
    pub fn ceilings(&self) -> Option<Ceilings> {
        self.shared().ceilings.get().copied()
    }

    /// How it was started.
    pub fn config(&self) -> &EngineConfig {
        &self.shared().config
    }
}
