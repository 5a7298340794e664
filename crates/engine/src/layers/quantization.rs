//! `quantization_config` of a checkpoint: whether its linear layers are e4m3, in one of the forms that
//! are read.

use serde_json::Value;

use crate::architecture::{ConfigError, ConfigReader};

/// Layers that are not quantised here either.
const KEPT: &[&str] = &["lm_head", "model.embed_tokens", "embed_tokens"];

/// Whether the linear layers are stored as e4m3 with a scale a tensor or a row. Rows of activations get
/// theirs when they are computed, whatever the checkpoint says of them.
pub(super) fn is_fp8(config: &ConfigReader) -> Result<bool, ConfigError> {
    let Some(quantization) = config.nested("quantization_config")? else { return Ok(false) };
    let method = quantization.text("quant_method")?;
    match quantization.required("quant_method", method)? {
        "fp8" => check_fp8(&quantization)?,
        "compressed-tensors" => check_compressed_tensors(&quantization)?,
        other => {
            return Err(quantization.unsupported("quant_method", other, "fp8, compressed-tensors"));
        }
    }
    Ok(true)
}

/// As vLLM and transformers write it.
fn check_fp8(config: &ConfigReader) -> Result<(), ConfigError> {
    one_of(config, "activation_scheme", &["dynamic", "static"])?;
    if let Some(block) = config.get("weight_block_size") {
        let supported = "a scale for a tensor or for each of its rows";
        return Err(config.unsupported("weight_block_size", &block.to_string(), supported));
    }
    for key in ["ignored_layers", "modules_to_not_convert"] {
        only_kept(config, key)?;
    }
    Ok(())
}

/// As llm-compressor writes it.
fn check_compressed_tensors(config: &ConfigReader) -> Result<(), ConfigError> {
    one_of(config, "format", &["float-quantized"])?;
    only_kept(config, "ignore")?;
    let sparsity = config.nested("sparsity_config")?;
    if let Some(sparsity) = sparsity.filter(|sparsity| sparsity.keys().next().is_some()) {
        one_of(&sparsity, "format", &["dense"])?;
    }
    let groups = config.nested("config_groups")?;
    let groups = config.required("config_groups", groups)?;
    for name in groups.keys() {
        let Some(group) = groups.nested(name)? else { continue };
        if let Some(targets) = group.get("targets").filter(|targets| **targets != json_linear()) {
            return Err(group.unsupported("targets", &targets.to_string(), "[\"Linear\"]"));
        }
        for part in ["weights", "input_activations"] {
            let numbers = group.required(part, group.nested(part)?)?;
            one_of(&numbers, "type", &["float"])?;
            let bits = numbers.required("num_bits", numbers.count("num_bits")?)?;
            if bits != 8 {
                return Err(numbers.unsupported("num_bits", &bits.to_string(), "8"));
            }
            let strategies: &[&str] =
                if part == "weights" { &["channel", "tensor"] } else { &["token", "tensor"] };
            one_of(&numbers, "strategy", strategies)?;
        }
        if let Some(outputs) = group.get("output_activations") {
            return Err(group.unsupported("output_activations", &outputs.to_string(), "null"));
        }
    }
    Ok(())
}

fn json_linear() -> Value {
    Value::from(vec!["Linear"])
}

fn one_of(config: &ConfigReader, key: &str, supported: &[&str]) -> Result<(), ConfigError> {
    let value = config.required(key, config.text(key)?)?;
    if supported.contains(&value) {
        return Ok(());
    }
    Err(config.unsupported(key, value, &supported.join(", ")))
}

/// Refuses a list of layers that would have to stay as they are.
fn only_kept(config: &ConfigReader, key: &str) -> Result<(), ConfigError> {
    let layers = config.get(key).and_then(Value::as_array).into_iter().flatten();
    for layer in layers {
        if !layer.as_str().is_some_and(|layer| KEPT.contains(&layer)) {
            return Err(config.unsupported(key, &layer.to_string(), &KEPT.join(", ")));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read(config: Value) -> Result<bool, ConfigError> {
        let config = Value::from_iter([("quantization_config", config)]);
        is_fp8(&ConfigReader::new(&config).unwrap())
    }

    fn compressed() -> Value {
        let numbers = |strategy: &str, dynamic: bool| {
            json!({
                "num_bits": 8, "type": "float", "strategy": strategy, "symmetric": true,
                "dynamic": dynamic, "group_size": null, "block_structure": null,
            })
        };
        json!({
            "quant_method": "compressed-tensors", "format": "float-quantized", "ignore": ["lm_head"],
            "quantization_status": "compressed", "kv_cache_scheme": null, "sparsity_config": {},
            "config_groups": {"group_0": {
                "targets": ["Linear"], "weights": numbers("channel", false),
                "input_activations": numbers("token", true), "output_activations": null,
            }},
        })
    }

    #[test]
    fn what_vllm_and_llm_compressor_write_is_read() {
        assert_eq!(read(Value::Null), Ok(false));
        for scheme in ["static", "dynamic"] {
            let config = json!({
                "quant_method": "fp8", "activation_scheme": scheme, "ignored_layers": ["lm_head"],
            });
            assert_eq!(read(config), Ok(true));
        }
        assert_eq!(read(compressed()), Ok(true));
    }

    #[test]
    fn everything_else_is_refused_by_name() {
        let refused = |config: Value, needle: &str| {
            let error = read(config).unwrap_err().to_string();
            assert!(error.contains(&format!("`quantization_config.{needle}")), "{error}");
        };
        refused(json!({"quant_method": "awq", "bits": 4}), "quant_method` = awq");
        refused(json!({"bits": 4}), "quant_method` is missing");
        let fp8 = |key: &str, value: Value| {
            let mut config = json!({"quant_method": "fp8", "activation_scheme": "dynamic"});
            config[key] = value;
            config
        };
        refused(fp8("weight_block_size", json!([128, 128])), "weight_block_size` = [128,128]");
        refused(fp8("activation_scheme", json!("odd")), "activation_scheme` = odd");
        let layer = "model.layers.0.mlp.down_proj";
        refused(fp8("ignored_layers", json!([layer])), "ignored_layers` = \"model.layers.0");
        for (path, value, needle) in [
            ("/format", json!("pack-quantized"), "format` = pack-quantized"),
            ("/ignore", json!(["re:.*mlp.*"]), "ignore` = \"re:.*mlp.*\""),
            ("/config_groups", Value::Null, "config_groups` is missing"),
            ("/config_groups/group_0/targets", json!(["Conv"]), "config_groups.group_0.targets"),
            (
                "/config_groups/group_0/weights/num_bits",
                json!(4),
                "config_groups.group_0.weights.num_bits` = 4",
            ),
            (
                "/config_groups/group_0/weights/type",
                json!("int"),
                "config_groups.group_0.weights.type` = int",
            ),
            (
                "/config_groups/group_0/weights/strategy",
                json!("block"),
                "config_groups.group_0.weights.strategy` = block",
            ),
            (
                "/config_groups/group_0/input_activations",
                Value::Null,
                "config_groups.group_0.input_activations` is missing",
            ),
            ("/sparsity_config", json!({"format": "sparse-24-bitmask"}), "sparsity_config.format"),
        ] {
            let mut config = compressed();
            *config.pointer_mut(path).unwrap() = value;
            refused(config, needle);
        }
    }
}
