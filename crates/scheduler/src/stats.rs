//! Numbers for metrics and logs.

/// The state now, and what happened since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stats {
    /// Sequences that hold blocks and take part in steps.
    pub running: usize,
    /// Sequences that wait for their first step, or to be computed anew after a preemption.
    pub waiting: usize,
    /// Tenants that are remembered: those with sequences, and those ahead of the others.
    pub tenants: usize,
    /// Blocks of the cache.
    pub total_blocks: usize,
    /// Blocks that sequences hold.
    pub used_blocks: usize,
    /// All others; those of them that are findable by prefix count as free.
    pub free_blocks: usize,
    /// Blocks findable by prefix, used or free.
    pub cached_blocks: usize,
    /// Plans made.
    pub num_steps: u64,
    /// Sequences that lost their blocks, counted each time.
    pub num_preemptions: u64,
}
