//! `quantization_config` of a checkpoint: in which form its linear layers are stored, of those that are read.

use serde_json::Value;

use crate::architecture::{ConfigError, ConfigReader};
use crate::weights::{Quantized, decoder_layer};

/// Layers that are not quantised here either.
const KEPT: &[&str] = &["lm_head", "model.embed_tokens", "embed_tokens"];

/// How the names of others end.
const ROUTERS: &[&str] = &["mlp.gate", "block_sparse_moe.gate", "mlp.router"];

/// What models see with, which is not loaded. The names of its parts begin so.
const EYES: &[&str] = &["vision_tower", "multi_modal_projector"];

/// In what the linear layers are stored, if not as they are. Rows of activations are rounded, if at all, when they
/// are computed, whatever the checkpoint says of them. Layers that it leaves as they are have tensors that say so,
/// but for e4m3 by rows, which they would be brought to.
pub(super) fn quantized(config: &ConfigReader) -> Result<Option<Quantized>, ConfigError> {
    let Some(quantization) = config.nested("quantization_config")? else { return Ok(None) };
    let num_layers = config.count("num_hidden_layers")?.unwrap_or(usize::MAX);
    let method = quantization.text("quant_method")?;
    let quantized = match quantization.required("quant_method", method)? {
        "fp8" => fp8(&quantization, num_layers)?,
        "compressed-tensors" => compressed_tensors(&quantization, num_layers)?,
        "gptq" => gptq(&quantization)?,
        "awq" => awq(&quantization)?,
        "mxfp4" => Quantized::Mxfp4,
        other => {
            let supported = "awq, compressed-tensors, fp8, gptq, mxfp4";
            return Err(quantization.unsupported("quant_method", other, supported));
        }
    };
    Ok(Some(quantized))
}

/// As vLLM and transformers write it.
fn fp8(config: &ConfigReader, num_layers: usize) -> Result<Quantized, ConfigError> {
    one_of(config, "activation_scheme", &["dynamic", "static"])?;
    if let Some(blocks) = blocks(config, "weight_block_size")? {
        return Ok(blocks);
    }
    for key in ["ignored_layers", "modules_to_not_convert"] {
        only_kept(config, key, num_layers)?;
    }
    Ok(Quantized::Fp8Rows)
}

/// Output features and inputs that share a scale.
fn blocks(config: &ConfigReader, key: &str) -> Result<Option<Quantized>, ConfigError> {
    let Some(value) = config.get(key) else { return Ok(None) };
    let sizes: Option<Vec<usize>> = value.as_array().and_then(|sizes| {
        sizes
            .iter()
            .map(|size| usize::try_from(size.as_u64()?).ok().filter(|size| *size > 0))
            .collect()
    });
    match sizes.as_deref() {
        Some(&[rows, columns]) => Ok(Some(Quantized::Fp8Blocks { rows, columns })),
        _ => Err(config.invalid(key, "two positive integers")),
    }
}

/// As AutoGPTQ, GPTQModel and Optimum write it.
fn gptq(config: &ConfigReader) -> Result<Quantized, ConfigError> {
    let bits = bits(config, "bits", &[2, 4, 8])?;
    if let Some(dynamic) =
        config.nested("dynamic")?.filter(|dynamic| dynamic.keys().next().is_some())
    {
        let layers = dynamic.keys().collect::<Vec<_>>().join(", ");
        return Err(config.unsupported("dynamic", &layers, "layers of one form"));
    }
    if config.get("is_marlin_format") == Some(&Value::Bool(true)) {
        return Err(config.unsupported("is_marlin_format", "true", "false"));
    }
    let zeros_less_one = match config.text("checkpoint_format")? {
        None | Some("gptq") => true,
        Some("gptq_v2") => false,
        Some(other) => return Err(config.unsupported("checkpoint_format", other, "gptq, gptq_v2")),
    };
    Ok(Quantized::Gptq { bits, zeros_less_one })
}

/// As AutoAWQ writes it.
fn awq(config: &ConfigReader) -> Result<Quantized, ConfigError> {
    bits(config, "bits", &[4])?;
    match config.text("version")? {
        Some(version) if !version.eq_ignore_ascii_case("gemm") => {
            return Err(config.unsupported("version", version, "gemm"));
        }
        _ => {}
    }
    if is_false(config, "zero_point") {
        return Err(config.unsupported("zero_point", "false", "true"));
    }
    Ok(Quantized::Awq)
}

/// As llm-compressor writes it.
fn compressed_tensors(config: &ConfigReader, num_layers: usize) -> Result<Quantized, ConfigError> {
    one_of(config, "format", &["float-quantized", "int-quantized", "pack-quantized"])?;
    let format = config.text("format")?.unwrap_or_default();
    let sparsity = config.nested("sparsity_config")?;
    if let Some(sparsity) = sparsity.filter(|sparsity| sparsity.keys().next().is_some()) {
        one_of(&sparsity, "format", &["dense"])?;
    }
    let groups = config.nested("config_groups")?;
    let groups = config.required("config_groups", groups)?;
    let mut quantized = None;
    for name in groups.keys() {
        let Some(group) = groups.nested(name)? else { continue };
        if let Some(targets) = group.get("targets").filter(|targets| **targets != json_linear()) {
            return Err(group.unsupported("targets", &targets.to_string(), "[\"Linear\"]"));
        }
        if let Some(outputs) = group.get("output_activations") {
            return Err(group.unsupported("output_activations", &outputs.to_string(), "null"));
        }
        let of_group = match format {
            "float-quantized" => floats(&group)?,
            format => integers(&group, format)?,
        };
        if quantized.is_some_and(|quantized| quantized != of_group) {
            return Err(groups.unsupported(name, "another form than the others have", "one form"));
        }
        quantized = Some(of_group);
    }
    let quantized = config.required("config_groups", quantized)?;
    if quantized == Quantized::Fp8Rows {
        only_kept(config, "ignore", num_layers)?;
    }
    Ok(quantized)
}

fn floats(group: &ConfigReader) -> Result<Quantized, ConfigError> {
    let of_part = |part: &str, strategies: &[&str]| {
        let numbers = group.required(part, group.nested(part)?)?;
        one_of(&numbers, "type", &["float"])?;
        bits(&numbers, "num_bits", &[8])?;
        one_of(&numbers, "strategy", strategies)?;
        Ok(numbers)
    };
    let weights = of_part("weights", &["channel", "tensor", "block"])?;
    if weights.text("strategy")? == Some("block") {
        of_part("input_activations", &["group", "token", "tensor"])?;
        let blocks = blocks(&weights, "block_structure")?;
        return weights.required("block_structure", blocks);
    }
    of_part("input_activations", &["token", "tensor"])?;
    Ok(Quantized::Fp8Rows)
}

fn integers(group: &ConfigReader, format: &str) -> Result<Quantized, ConfigError> {
    let numbers = group.required("weights", group.nested("weights")?)?;
    one_of(&numbers, "type", &["int"])?;
    if format == "pack-quantized" {
        one_of(&numbers, "strategy", &["group", "channel"])?;
        let bits = bits(&numbers, "num_bits", &[4, 8])?;
        return Ok(Quantized::Packed { bits, has_zeros: is_false(&numbers, "symmetric") });
    }
    bits(&numbers, "num_bits", &[8])?;
    one_of(&numbers, "strategy", &["channel"])?;
    if is_false(&numbers, "symmetric") {
        return Err(numbers.unsupported("symmetric", "false", "true"));
    }
    Ok(Quantized::Int8)
}

/// Of what is true where nothing is said.
fn is_false(config: &ConfigReader, key: &str) -> bool {
    config.get(key) == Some(&Value::Bool(false))
}

fn bits(config: &ConfigReader, key: &str, supported: &[usize]) -> Result<usize, ConfigError> {
    let bits = config.required(key, config.count(key)?)?;
    if supported.contains(&bits) {
        return Ok(bits);
    }
    let supported: Vec<_> = supported.iter().map(ToString::to_string).collect();
    Err(config.unsupported(key, &bits.to_string(), &supported.join(", ")))
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

/// Refuses a list of layers that would have to stay as they are. What chooses experts does so here, too; decoder
/// layers behind the last, which guess tokens further ahead, are not loaded.
fn only_kept(config: &ConfigReader, key: &str, num_layers: usize) -> Result<(), ConfigError> {
    let layers = config.get(key).and_then(Value::as_array).into_iter().flatten();
    let is_kept = |layer: &str| {
        let name = layer.trim_end_matches('$'); // Of a pattern, `re:.*mlp.gate$`.
        let of_model = name.strip_prefix("model.").unwrap_or(name);
        KEPT.contains(&name)
            || EYES.iter().any(|eyes| of_model.starts_with(eyes))
            || ROUTERS.iter().any(|router| name.ends_with(router))
            || decoder_layer(name).is_some_and(|layer| layer >= num_layers)
    };
    for layer in layers {
        if !layer.as_str().is_some_and(is_kept) {
            let supported = [KEPT, ROUTERS].concat().join(", ");
            return Err(config.unsupported(key, &layer.to_string(), &supported));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read(config: Value) -> Result<Option<Quantized>, ConfigError> {
        let config = Value::from_iter([("quantization_config", config)]);
        quantized(&ConfigReader::new(&config).unwrap())
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
        assert_eq!(read(Value::Null), Ok(None));
        for scheme in ["static", "dynamic"] {
            let config = json!({
                "quant_method": "fp8", "activation_scheme": scheme, "ignored_layers": ["lm_head"],
            });
            assert_eq!(read(config), Ok(Some(Quantized::Fp8Rows)));
        }
        assert_eq!(read(compressed()), Ok(Some(Quantized::Fp8Rows)));
        let blocks = Quantized::Fp8Blocks { rows: 128, columns: 64 };
        let config = json!({
            "quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": [128, 64],
            "modules_to_not_convert": ["model.layers.0.mlp.down_proj"],
        });
        assert_eq!(read(config), Ok(Some(blocks)));
        let mut config = compressed();
        let weights = &mut config["config_groups"]["group_0"]["weights"];
        weights["strategy"] = json!("block");
        weights["block_structure"] = json!([128, 64]);
        assert_eq!(read(config), Ok(Some(blocks)));
    }

    /// They are never brought to fewer bits here.
    #[test]
    fn what_chooses_experts_may_be_left_out() {
        let mut config = compressed();
        config["ignore"] = json!(["lm_head", "re:.*mlp.gate$", "model.layers.1.mlp.gate"]);
        assert_eq!(read(config), Ok(Some(Quantized::Fp8Rows)));
        let left_out = ["model.layers.*.self_attn", "model.layers.*.mlp.router", "lm_head"];
        let config = json!({"quant_method": "mxfp4", "modules_to_not_convert": left_out});
        assert_eq!(read(config), Ok(Some(Quantized::Mxfp4)));
    }

    #[test]
    fn layers_that_are_not_loaded_may_be_left_out() {
        let mut config = compressed();
        config["ignore"] = json!(["lm_head", "model.vision_tower", "model.layers.46.eh_proj"]);
        let with = |num_layers: u32| {
            let json = json!({"num_hidden_layers": num_layers, "quantization_config": config});
            quantized(&ConfigReader::new(&json).unwrap())
        };
        assert_eq!(with(46), Ok(Some(Quantized::Fp8Rows)));
        let error = with(47).unwrap_err().to_string();
        assert!(error.contains("`quantization_config.ignore` = \"model.layers.46"), "{error}");
    }

    #[test]
    fn integers_are_read_in_the_forms_that_their_tools_write() {
        let gptq = |format: Value| {
            json!({
                "quant_method": "gptq", "bits": 4, "group_size": 128, "desc_act": true, "sym": true,
                "checkpoint_format": format, "dynamic": {}, "lm_head": false,
            })
        };
        for (format, zeros_less_one) in
            [(Value::Null, true), (json!("gptq"), true), (json!("gptq_v2"), false)]
        {
            let quantized = Quantized::Gptq { bits: 4, zeros_less_one };
            assert_eq!(read(gptq(format)), Ok(Some(quantized)));
        }
        let awq = json!({
            "quant_method": "awq", "bits": 4, "group_size": 128, "version": "GEMM", "zero_point": true,
            "modules_to_not_convert": null,
        });
        assert_eq!(read(awq), Ok(Some(Quantized::Awq)));
        let compressed = |format: &str, bits: usize, strategy: &str| {
            let mut config = compressed();
            config["format"] = json!(format);
            config["ignore"] = json!(["lm_head", "re:.*down_proj"]);
            config["config_groups"]["group_0"]["weights"] =
                json!({"num_bits": bits, "type": "int", "strategy": strategy, "symmetric": true});
            config["config_groups"]["group_0"]["input_activations"] = Value::Null;
            config
        };
        for (bits, strategy) in [(4, "group"), (8, "channel")] {
            let mut config = compressed("pack-quantized", bits, strategy);
            for has_zeros in [false, true] {
                config["config_groups"]["group_0"]["weights"]["symmetric"] = json!(!has_zeros);
                let quantized = Quantized::Packed { bits, has_zeros };
                assert_eq!(read(config.clone()), Ok(Some(quantized)));
            }
        }
        let mut int8 = compressed("int-quantized", 8, "channel");
        assert_eq!(read(int8.clone()), Ok(Some(Quantized::Int8)));
        int8["config_groups"]["group_1"] =
            json!({"weights": {"num_bits": 8, "type": "int", "strategy": "tensor"}});
        let error = read(int8).unwrap_err().to_string();
        assert!(error.contains("group_1.weights.strategy` = tensor"), "{error}");
    }

    #[test]
    fn everything_else_is_refused_by_name() {
        let refused = |config: Value, needle: &str| {
            let error = read(config).unwrap_err().to_string();
            assert!(error.contains(&format!("`quantization_config.{needle}")), "{error}");
        };
        refused(json!({"quant_method": "hqq", "bits": 4}), "quant_method` = hqq");
        refused(json!({"quant_method": "awq", "bits": 3}), "bits` = 3");
        refused(json!({"quant_method": "awq", "bits": 4, "version": "gemv"}), "version` = gemv");
        refused(
            json!({"quant_method": "awq", "bits": 4, "zero_point": false}),
            "zero_point` = false",
        );
        refused(json!({"quant_method": "gptq"}), "bits` is missing");
        let gptq = |key: &str, value: Value| {
            let mut config = json!({"quant_method": "gptq", "bits": 4});
            config[key] = value;
            config
        };
        refused(gptq("dynamic", json!({"-:.*down.*": {}})), "dynamic` = -:.*down.*");
        refused(gptq("checkpoint_format", json!("marlin")), "checkpoint_format` = marlin");
        refused(gptq("is_marlin_format", json!(true)), "is_marlin_format` = true");
        refused(json!({"bits": 4}), "quant_method` is missing");
        let fp8 = |key: &str, value: Value| {
            let mut config = json!({"quant_method": "fp8", "activation_scheme": "dynamic"});
            config[key] = value;
            config
        };
        refused(fp8("weight_block_size", json!([128, 0])), "weight_block_size`");
        refused(fp8("activation_scheme", json!("odd")), "activation_scheme` = odd");
        let layer = "model.layers.0.mlp.down_proj";
        refused(fp8("ignored_layers", json!([layer])), "ignored_layers` = \"model.layers.0");
        for (path, value, needle) in [
            ("/format", json!("marlin-24"), "format` = marlin-24"),
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
                "config_groups.group_0.weights.block_structure` is missing",
            ),
            (
                "/config_groups/group_0/input_activations/strategy",
                json!("group"),
                "config_groups.group_0.input_activations.strategy` = group",
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
