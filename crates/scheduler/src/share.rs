//! Who a sequence is computed for, and what computing costs its tenant.

use std::num::NonZeroU16;
use std::sync::Arc;

/// What a prompt token costs that is computed; one from the prefix cache costs nothing.
pub const PROMPT_TOKEN_COST: u64 = 1;

/// What a generated token costs. Each takes a step of its own, in which its sequence holds a place in
/// the batch and reads its whole cache, where a prompt's tokens share a few steps: twice a prompt
/// token is what Sheng et al. chose, below what providers charge.
pub const GENERATED_TOKEN_COST: u64 = 2;

/// The tenant of a sequence and its part of the machine: while two tenants wait, they are served in
/// proportion to their weights.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Share {
    /// The tenant. Sequences without a share are together one more.
    pub tenant: Arc<str>,
    /// Its weight; the one of its last submission holds.
    pub weight: NonZeroU16,
}
