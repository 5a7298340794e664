//! The control plane: which tokens of which sequences run in the next step, and in which blocks of
//! the KV cache. Pure data and pure std: no device, clock, thread or IO.
//!
//! There is no prefill phase and no decode phase. A sequence has tokens, of which some are
//! computed; each step hands out a budget of tokens until all have caught up.
//!
//! * **Budget.** Each running sequence that lacks one token gets it; what remains of the budget
//!   goes to longer remainders in chunks, then to waiting sequences.
//! * **Order within a tenant.** Lower priority values first, then arrival; but the oldest waiting
//!   sequence is overtaken at most [`MAX_OVERTAKEN`] times in a row. So one that has `n` older
//!   ones of its tenant before it is admitted after at most `(n + 1) * (MAX_OVERTAKEN + 1)`
//!   admissions of its tenant, whatever arrives meanwhile. Who names no tenant shares one: with that
//!   alone, these are all admissions.
//! * **Order between tenants.** Each has a counter: what it was served over its weight, that is the
//!   prompt tokens computed for it and, counting [more](GENERATED_TOKEN_COST), those generated; what
//!   came from the prefix cache or is computed again costs it nothing. The most urgent sequence goes
//!   first, among equally urgent ones that of the smallest counter; but the tenant with the smallest
//!   counter of all is passed over at most [`MAX_OVERTAKEN`] times in a row, however urgent the
//!   others are. Who begins to wait is lifted to the smallest counter of those who do (or of the
//!   last who did): nobody saves up by not asking, and nobody pays for having been alone.
//! * **What that guarantees.** Let `L` be the most that a sequence costs, `w` a weight, `R` the
//!   [`Limits::max_num_seqs`]. *Shares*: while two tenants wait with equally urgent sequences, their
//!   counters differ by at most `R * L / w` of the one ahead. For when it was last chosen its
//!   counter was not above the other's, and since then it was only served what its at most `R` running
//!   sequences lacked. (The bound of Sheng et al., whose sequences run to their end, too.)
//!   *Delay*: a tenant that arrives has the smallest counter, so beside a flood of another tenant,
//!   as urgent as it, at most one new sequence is admitted before its first one, and one more that was
//!   chosen already and waits for blocks. *No starvation*: of `MAX_OVERTAKEN + 1` admissions in a row one is
//!   of the tenant with the smallest counter. A counter stands still while its tenant only waits, and
//!   each admission raises one by `1 / w` or more. So among `K` tenants, one that is ahead of the
//!   smallest counter by `D` is admitted after at most `(MAX_OVERTAKEN + 1) * K * (D * w + 1)`
//!   admissions, `w` the largest weight.
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
mod share;
mod stats;

pub use ids::{BlockId, SeqId, TokenId, Tokens};
pub use limits::{Limits, LimitsError};
pub use plan::{Entry, Outcome, Plan};
pub use queue::MAX_OVERTAKEN;
pub use scheduler::{MAX_PLANS_IN_FLIGHT, Scheduler};
pub use sequence::{NewSequence, Sequence, State, SubmitError};
pub use share::{GENERATED_TOKEN_COST, PROMPT_TOKEN_COST, Share};
pub use stats::Stats;
