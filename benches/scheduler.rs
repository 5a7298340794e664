//! Time of a step's scheduling for each running sequence, by how many wait and of how many tenants:
//! `cargo bench -p benches --bench scheduler`.

use scheduler::{Limits, NewSequence, Outcome, Scheduler, SeqId, Share};
use std::io::{Result, Write};
use std::num::NonZeroU16;
use std::time::{Duration, Instant};

const RUNNING: usize = 64;
const STEPS: usize = 2000;

fn main() -> Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{RUNNING} running sequences, median of {STEPS} steps")?;
    writeln!(
        out,
        "\n| waiting | tenants | µs a step | ns a running sequence |\n|---|---|---|---|"
    )?;
    for tenants in [1, 64, 1000] {
        for waiting in [1, 10, 100, 1000] {
            let step = median_step(waiting, tenants);
            let each = step.as_nanos() / RUNNING as u128;
            writeln!(out, "| {waiting} | {tenants} | {:.1} | {each} |", step.as_secs_f64() * 1e6)?;
        }
    }
    Ok(())
}

/// Planning and committing a step in which every running sequence decodes.
fn median_step(waiting: usize, tenants: u64) -> Duration {
    let mut scheduler = Scheduler::new(Limits {
        num_blocks: RUNNING * 256,
        block_size: 16,
        max_num_seqs: RUNNING,
        max_num_batched_tokens: 512,
        max_model_len: 4096,
        enable_prefix_caching: true,
    })
    .expect("the limits are sound");
    for id in 0..(RUNNING + waiting) as u64 {
        let prompt = (0..32).map(|i| (id as u32 * 32 + i) % 50_000).collect();
        let new = NewSequence {
            id: SeqId(id),
            prompt,
            max_new_tokens: 4000,
            priority: 0,
            share: (tenants > 1).then(|| share(id % tenants)),
            salt: None,
            need_prompt_logits: false,
        };
        scheduler.submit(new).expect("it fits");
    }
    let mut times = Vec::with_capacity(STEPS);
    while times.len() < STEPS {
        let begun = Instant::now();
        let plan = scheduler.schedule().expect("sequences run");
        let outcomes: Vec<_> = plan
            .entries
            .iter()
            .map(|e| Outcome {
                id: e.id,
                tokens: Vec::from_iter(e.samples.then_some(7)),
                finished: false,
            })
            .collect();
        scheduler.commit(&plan, &outcomes);
        if plan.num_tokens == RUNNING {
            times.push(begun.elapsed());
        }
    }
    times.sort_unstable();
    times[STEPS / 2]
}

fn share(tenant: u64) -> Share {
    Share { tenant: tenant.to_string().into(), weight: NonZeroU16::MIN }
}
