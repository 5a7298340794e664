//! `sconce plan`: the memory plan of a model, from its `config.json` alone.

use crate::config::Config;
use crate::hub::Files;
use crate::load;
use anyhow::Result;

/// Prints the plan; fails as `serve` would if the model does not fit.
#[expect(clippy::print_stdout, reason = "this is what the command is for")]
pub(crate) fn run(config: &Config) -> Result<()> {
    let planned = load::plan(config, Files::Metadata)?;
    let spec = planned.spec();
    println!(
        "{}: {}, {:.2} billion parameters, {} layers, {} query and {} key-value heads of {}",
        config.model.name,
        spec.architecture,
        spec.num_parameters as f64 / 1e9,
        spec.num_layers,
        spec.num_heads,
        spec.num_kv_heads,
        spec.head_dim,
    );
    println!("{}", planned.memory);
    Ok(())
}
