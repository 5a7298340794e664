//! The control plane: which tokens of which sequences run in the next step, and in which blocks of
//! the KV cache. Pure data and pure std: no device, clock, thread or IO.
//!
//! There is no prefill phase and no decode phase. A sequence has tokens, of which some are
//! computed; each step hands out a budget of tokens until all have caught up.
//!
//! * **Budget.** Each running sequence that lacks one token gets it; what remains of the budget
//!   goes to longer remainders in chunks, then to waiting sequences.
//! * **Order of waiting.** Lower priority values first, then arrival; but the oldest waiting
//!   sequence is overtaken at most [`MAX_OVERTAKEN`] times in a row. So one that has `n` older
//!   ones before it is admitted after at most `(n + 1) * (MAX_OVERTAKEN + 1)` admissions, whatever
//!   arrives meanwhile.
//! * **Admission.** The head of the queue waits until the blocks of all its known tokens are free,
//!   and one more for each running sequence to grow into. They are reserved at once, so a prompt
//!   under way never lacks blocks. Nobody overtakes a head that waits for blocks.
//! * **Preemption.** Running sequences have a rank: those once preempted before the others, then
//!   lower priority values, then order of first admission. One that lacks a block takes those of
//!   the lowest rank, never of a higher one; at the lowest rank it keeps what it has and waits.
//!   The first in rank therefore always advances. A preempted sequence is computed anew, from the
//!   front of the queue, and outranks all later ones, so it cannot be preempted without end.
//! * **Prefix cache.** A block becomes findable when the step that filled it is committed, never
//!   before: a failed step leaves nothing behind. A hit compares tokens, parent and salt; the
//!   hash only finds candidates, so a collision cannot give wrong text. Unused blocks stay findable
//!   until they are needed, the least recently used go first, children before parents.
//! * **Drafts.** Speculative decoding (Leviathan et al. 2023, arXiv:2211.17192): an entry may hold
//!   guessed tokens behind the last one that is known. The outcome says how many were right; what the
//!   others wrote lies behind the end of the sequence and is written over.
//! * **One step ahead.** [`Scheduler::schedule`] may be called once more before the
//!   [`Scheduler::commit`] of the last plan. A sequence that ends meanwhile keeps its blocks until
//!   the last plan that names it is committed.

mod block_pool;
mod ids;
mod limits;
mod plan;
mod prefix_cache;
mod queue;
mod scheduler;
mod sequence;
mod stats;

pub use ids::{BlockId, SeqId, TokenId};
pub use limits::{Limits, LimitsError};
pub use plan::{Entry, Outcome, Plan};
pub use queue::MAX_OVERTAKEN;
pub use scheduler::{MAX_PLANS_IN_FLIGHT, Scheduler};
pub use sequence::{NewSequence, Sequence, State, SubmitError};
pub use stats::Stats;
