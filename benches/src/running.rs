//! A scheduler all of whose running sequences decode.

use crate::Result;
use scheduler::{Limits, NewSequence, Outcome, Scheduler, SeqId, Share};
use std::num::NonZeroU16;

const BLOCK_SIZE: usize = 16;
const PROMPT_LEN: usize = 32;
/// Prompts are read within a few steps.
const MAX_NUM_BATCHED_TOKENS: usize = 512;

/// So many sequences run and wait, of so many tenants, and may decode `steps` times. The prompts of
/// those that run have been read.
///
/// # Errors
/// Limits that mean nothing.
pub fn scheduler(running: usize, waiting: usize, tenants: u64, steps: usize) -> Result<Scheduler> {
    // While the prompts of the last are read, the first decode.
    let num_reading = running * (PROMPT_LEN + running) / MAX_NUM_BATCHED_TOKENS + 2;
    let max_model_len = PROMPT_LEN + num_reading + steps + 1;
    let mut scheduler = Scheduler::new(Limits {
        num_blocks: running * (max_model_len.div_ceil(BLOCK_SIZE) + 1),
        block_size: BLOCK_SIZE,
        max_num_seqs: running,
        max_num_batched_tokens: MAX_NUM_BATCHED_TOKENS,
        max_model_len,
        enable_prefix_caching: true,
    })?;
    for id in 0..(running + waiting) as u64 {
        let prompt = (0..PROMPT_LEN as u32).map(|i| (id as u32 * 32 + i) % 50_000).collect();
        let share = || Share { tenant: (id % tenants).to_string().into(), weight: NonZeroU16::MIN };
        scheduler.submit(NewSequence {
            id: SeqId(id),
            prompt,
            max_new_tokens: max_model_len - PROMPT_LEN,
            priority: 0,
            share: (tenants > 1).then(share),
            salt: None,
            need_prompt_logits: false,
        })?;
    }
    while step(&mut scheduler) != running {}
    Ok(scheduler)
}

/// Plans a step and commits it; returns how many tokens it had.
///
/// # Panics
/// If nothing runs any more.
pub fn step(scheduler: &mut Scheduler) -> usize {
    let plan = scheduler.schedule().expect("sequences run");
    let outcome = |entry: &scheduler::Entry| Outcome {
        id: entry.id,
        tokens: entry.samples.then_some(7).into(),
        finished: false,
    };
    let outcomes: Vec<_> = plan.entries.iter().map(outcome).collect();
    scheduler.commit(&plan, &outcomes);
    plan.num_tokens
}
