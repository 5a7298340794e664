//! `sconce plan`: the memory plan of each model, from its `config.json` alone.

use crate::config::Config;
use crate::hub::Files;
use crate::load;
use anyhow::Result;
use engine::memory::{MemoryPlan, Size};

/// Prints the plans; fails as `serve` would if the models do not fit together.
#[expect(clippy::print_stdout, reason = "this is what the command is for")]
pub(crate) fn run(config: &Config) -> Result<()> {
    let planned = load::plan(config, Files::Metadata)?;
    for planned in &planned {
        let spec = planned.spec();
        let billions = spec.num_parameters as f64 / 1e9;
        print!("{}: {}, {billions:.2} billion parameters, ", planned.name(), spec.architecture);
        match spec.num_layers {
            0 => println!("encoder, {} heads of {}", spec.num_heads, spec.head_dim),
            num_layers => println!(
                "{num_layers} layers, {} query and {} key-value heads of {}",
                spec.num_heads, spec.num_kv_heads, spec.head_dim,
            ),
        }
        if let Some(pooling) = planned.pooling() {
            println!("{pooling}");
        }
        println!("{}", planned.memory);
    }
    if planned.len() > 1 {
        let sum = |bytes: fn(&MemoryPlan) -> usize| planned.iter().map(|p| bytes(&p.memory)).sum();
        let total = Size(sum(MemoryPlan::total_bytes));
        let available = Size(sum(|plan| plan.available_bytes));
        println!("{} models: {total} of {available}, in shares", planned.len());
    }
    Ok(())
}
