//! What the engine counts, for `/metrics` and the benches: written by one thread, read by any.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::ceilings::Work;
use crate::speculation::Source;

/// Upper bounds of [`EngineStats::step_tokens`].
pub const STEP_TOKEN_BOUNDS: [u64; 13] =
    [1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384];
/// Places of [`EngineStats::accepted_at`]; what is guessed farther ahead counts to the last.
pub const MAX_DRAFT_PLACES: usize = 16;

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident),+ $(,)?) => {
        /// A reading of every counter. Gauges say how things are; counters only grow.
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
        pub struct EngineStats {
            $($(#[$doc])* pub $name: u64,)+
            /// Steps by the tokens that they computed, the last place past all bounds.
            pub step_tokens: [u64; STEP_TOKEN_BOUNDS.len() + 1],
            /// Guesses that came about, by how far ahead they were.
            pub accepted_at: [u64; MAX_DRAFT_PLACES],
        }

        /// The counters behind [`EngineStats`].
        #[derive(Debug, Default)]
        pub(crate) struct Counters {
            $(pub(crate) $name: Counter,)+
            step_tokens: [Counter; STEP_TOKEN_BOUNDS.len() + 1],
            accepted_at: [Counter; MAX_DRAFT_PLACES],
        }

        impl Counters {
            /// Reads all, lock-free; values of one step may be seen before others of it.
            pub(crate) fn read(&self) -> EngineStats {
                EngineStats {
                    $($name: self.$name.get(),)+
                    step_tokens: self.step_tokens.each_ref().map(Counter::get),
                    accepted_at: self.accepted_at.each_ref().map(Counter::get),
                }
            }
        }
    };
}

counters! {
    /// Gauge: sequences that hold blocks and run.
    num_running,
    /// Gauge: sequences that wait, preempted ones and not yet fetched ones included.
    num_waiting,
    /// Gauge: prompt tokens of sequences that have not run.
    num_waiting_tokens,
    /// Gauge: cache blocks held by sequences.
    kv_blocks_used,
    /// Gauge: cache blocks there are.
    kv_blocks_total,
    /// Prompt tokens of requests that ran.
    prompt_tokens,
    /// Prompt tokens that came from the prefix cache.
    cached_prompt_tokens,
    /// Prompt tokens that were looked up in the prefix cache.
    prefix_queries,
    /// Tokens sampled.
    generated_tokens,
    /// Times a sequence had guesses in a step.
    draft_rounds,
    /// Tokens guessed because a grammar allowed nothing else, and computed.
    grammar_drafts,
    /// Those that came about.
    grammar_drafts_accepted,
    /// Tokens guessed from a sequence's own text, and computed.
    lookup_drafts,
    /// Those that came about.
    lookup_drafts_accepted,
    /// Tokens guessed by a draft model.
    model_drafts,
    /// Those that came about.
    model_drafts_accepted,
    /// Time in the draft model.
    guess_ns,
    /// Sequences that ended with a finish reason.
    finished,
    /// Sequences aborted by the caller.
    aborted,
    /// Sequences that ended with an error.
    failed,
    /// Those of them that were dropped because their deadline passed while they waited.
    expired,
    /// Times a sequence lost its blocks to another.
    preemptions,
    /// Steps run.
    steps,
    /// Steps that failed.
    failed_steps,
    /// Times the engine began anew after a panic.
    restarts,
    /// Tokens computed, in all steps together.
    batched_tokens,
    /// Time in the scheduler: planning and committing.
    schedule_ns,
    /// Time in packing and the model.
    forward_ns,
    /// Time in sampling and scoring.
    sample_ns,
    /// Time in whole steps, from planning to the last event; the rest of it is the engine's own.
    step_ns,
    /// Memory that steps read at least, in KiB, and their multiplications and additions, in millions
    /// of both together: bytes by the terabyte a second would soon overflow. 0 unless it is counted.
    read_kib,
    /// See `read_kib`.
    megaflops,
}

impl Counters {
    /// A step of so many tokens begins.
    pub(crate) fn begin_step(&self, num_tokens: usize) {
        self.steps.add(1);
        self.batched_tokens.add(num_tokens);
        let place = STEP_TOKEN_BOUNDS.partition_point(|bound| *bound < num_tokens as u64);
        self.step_tokens[place].add(1);
    }

    /// A step does so much.
    pub(crate) fn add_work(&self, work: Work) {
        self.read_kib.add((work.bytes / 1024.0) as usize);
        self.megaflops.add((work.flops / 1e6) as usize);
    }

    /// A step looked at the guesses of one sequence, of which the first came about.
    pub(crate) fn checked_drafts(&self, source: Source, num_drafts: usize, num_right: usize) {
        if num_drafts == 0 {
            return;
        }
        self.draft_rounds.add(1);
        let (drafts, accepted) = self.drafts(source);
        drafts.add(num_drafts);
        accepted.add(num_right);
        for place in 0..num_right {
            self.accepted_at[place.min(MAX_DRAFT_PLACES - 1)].add(1);
        }
    }

    /// Guesses of a source, and those of them that came about.
    fn drafts(&self, source: Source) -> (&Counter, &Counter) {
        match source {
            Source::Grammar => (&self.grammar_drafts, &self.grammar_drafts_accepted),
            Source::Lookup => (&self.lookup_drafts, &self.lookup_drafts_accepted),
            Source::Model => (&self.model_drafts, &self.model_drafts_accepted),
        }
    }
}

/// A number that the engine thread writes and others read.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    pub(crate) fn set(&self, value: usize) {
        self.0.store(value as u64, Ordering::Relaxed);
    }

    pub(crate) fn add(&self, value: usize) {
        self.0.fetch_add(value as u64, Ordering::Relaxed);
    }

    /// Adds nanoseconds.
    pub(crate) fn add_time(&self, time: Duration) {
        self.0.fetch_add(time.as_nanos() as u64, Ordering::Relaxed);
    }

    /// Adds the nanoseconds that have passed since `begun`.
    pub(crate) fn add_since(&self, begun: Instant) {
        self.add_time(begun.elapsed());
    }
}
