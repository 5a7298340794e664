//! `sconce plan`: the memory plan of each model, from its `config.json` alone.

use crate::config::Config;
use crate::hub::Files;
use crate::load;
use anyhow::Result;
use bench::say;
use engine::memory::{MemoryPlan, Size};
use engine::model::ModelSpec;

/// Prints the plans; fails as `serve` would if the models do not fit together.
pub(crate) fn run(config: &Config) -> Result<()> {
    let planned = load::plan(config, Files::Metadata)?;
    for planned in &planned {
        let spec = planned.spec();
        let ModelSpec { num_layers, num_heads, num_kv_heads, head_dim, .. } = *spec;
        let heads = if spec.is_encoder() {
            format!("encoder, {num_heads} heads of {head_dim}")
        } else {
            format!(
                "{num_layers} layers, {num_heads} query and {num_kv_heads} key-value heads of {head_dim}"
            )
        };
        let (name, architecture) = (planned.name(), &spec.architecture);
        let pooling = planned.pooling().map(|pooling| format!("{pooling}\n")).unwrap_or_default();
        say(&format!("{name}: {architecture}, {heads}\n{pooling}{}\n", planned.memory))?;
    }
    if planned.len() > 1 {
        let sum = |bytes: fn(&MemoryPlan) -> usize| planned.iter().map(|p| bytes(&p.memory)).sum();
        let total = Size(sum(MemoryPlan::total_bytes));
        let available = Size(sum(|plan| plan.available_bytes));
        say(&format!("{} models: {total} of {available}, in shares\n", planned.len()))?;
    }
    Ok(())
}
