//! Mixtral (arXiv:2401.04088): 8x7B, 8x22B and what was trained from them.
//!
//! Mistral's mathematics and tensor names (see `mistral.rs`), but every layer has a mixture of experts in
//! place of the MLP. A token goes to the `num_experts_per_tok` of which its logits are largest, with their
//! softmax as weights:
//! ```text
//! model.layers.N.block_sparse_moe.gate.weight               [num_local_experts, hidden_size]
//! model.layers.N.block_sparse_moe.experts.E.w{1,3}.weight   [intermediate_size, hidden_size], gate and up
//! model.layers.N.block_sparse_moe.experts.E.w2.weight       [hidden_size, intermediate_size]
//! ```

use engine::architecture::{Architecture, ConfigError, ConfigReader};
use engine::layers::{DecoderConfig, ExpertNames, ExpertTensors, ExpertsConfig};
use serde_json::Value;

const NAME: &str = "MixtralForCausalLM";

pub(crate) const ARCHITECTURE: Architecture = decoder!(NAME, config);

fn config(json: &Value) -> Result<DecoderConfig, ConfigError> {
    let json = ConfigReader::new(json)?;
    let config = DecoderConfig::parse(&json)?;
    let names = ExpertNames {
        block: "block_sparse_moe",
        router: "gate",
        router_bias: None,
        tensors: ExpertTensors::Each { gate: "w1", up: "w3", down: "w2" },
    };
    let experts = ExpertsConfig::of_every_layer(&json, &config, names)?;
    // Unlike Mistral's, files without one mean none.
    let window = json.count("sliding_window")?;
    Ok(DecoderConfig { windows: vec![window; config.num_layers], experts: Some(experts), ..config })
}
