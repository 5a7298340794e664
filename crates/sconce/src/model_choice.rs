//! What is of one model: which it is, and how it runs. Several models share the settings that stand
//! outside of `[[models]]`, and each has its own beside them.

use crate::cli::{CacheDtypeKind, DtypeKind, LoadFormat, QuantizationKind, ServeArgs};
use crate::config::HubConfig;
use crate::pooling::PoolingChoice;
use anyhow::{Context, Result, bail};
use candle_core::DType;
use engine::Quantization;
use engine::config::EngineOptions;
use std::collections::BTreeMap;
use text::{ReasoningFormat, ToolFormat};

/// Name of the embedded model.
pub(crate) const SPARK: &str = "spark";

/// Which model, and where it comes from.
#[derive(Debug, Clone)]
pub(crate) struct ModelChoice {
    pub(crate) name: String,
    /// The model that guesses tokens ahead.
    pub(crate) draft: Option<String>,
    pub(crate) served_names: Vec<String>,
    pub(crate) load_format: LoadFormat,
    pub(crate) chat_template: Option<String>,
    pub(crate) tool_call_parser: ParserChoice<ToolFormat>,
    pub(crate) reasoning_parser: ParserChoice<ReasoningFormat>,
    pub(crate) pooling: PoolingChoice,
    pub(crate) hub: HubConfig,
    pub(crate) engine: EngineOptions,
}

/// What an entry of `[[models]]` may say.
const OF_ONE_MODEL: &[&str] = &[
    "model",
    "served-model-name",
    "revision",
    "dtype",
    "quantization",
    "kv-cache-dtype",
    "load-format",
    "seed",
    "max-model-len",
    "max-num-seqs",
    "max-num-batched-tokens",
    "max-num-queued-reqs",
    "max-num-queued-tokens",
    "block-size",
    "kv-cache-memory-bytes",
    "num-gpu-blocks-override",
    "enable-prefix-caching",
    "chat-template",
    "tool-call-parser",
    "reasoning-parser",
    "num-speculative-tokens",
    "draft-model",
    "speculate-always",
    "runner",
    "pooling-type",
    "matryoshka-dimensions",
    "auto-truncate",
];

/// Those of them that cannot be meant for several models.
const OF_ONE_ONLY: &[&str] = &["served-model-name", "revision", "draft-model"];

/// How an output format is chosen.
#[derive(Debug, Clone, Copy)]
pub(crate) enum ParserChoice<T> {
    /// By the chat template.
    Detected,
    /// Nothing is looked for.
    None,
    /// By name.
    Named(T),
}

impl<T> ParserChoice<T> {
    /// What a flag says; `known` are the names that it takes beside `none`.
    fn resolve(
        flag: &str,
        name: Option<&str>,
        from_name: impl Fn(&str) -> Option<T>,
        known: impl Iterator<Item = &'static str>,
    ) -> Result<Self> {
        let Some(name) = name else { return Ok(Self::Detected) };
        match from_name(name) {
            Some(format) => Ok(Self::Named(format)),
            None if name == "none" => Ok(Self::None),
            None => {
                let known = known.collect::<Vec<_>>().join(", ");
                bail!("{flag} {name} is not known: give none or one of {known}")
            }
        }
    }

    /// The format, given what the template shows.
    pub(crate) fn or(self, detected: Option<T>) -> Option<T> {
        match self {
            Self::Detected => detected,
            Self::None => None,
            Self::Named(format) => Some(format),
        }
    }
}

impl ModelChoice {
    /// Every model that `args` ask for.
    pub(crate) fn resolve_all(args: &ServeArgs) -> Result<Vec<Self>> {
        let mut entries = args.models.clone().unwrap_or_default();
        let named = args.model.clone().unwrap_or_default();
        if !entries.is_empty() && !named.is_empty() {
            bail!(
                "models are given as [[models]] in the configuration file and as {}, too: leave one \
                 of both out",
                named.join(", ")
            );
        }
        entries.extend(named.into_iter().map(entry));
        if entries.is_empty() {
            entries.push(entry(SPARK.to_owned()));
        }
        let general = general_settings(args, entries.len())?;
        let choices = entries.into_iter().map(|entry| {
            let model = check_entry(&entry)?;
            let mut settings = general.clone();
            settings.extend(entry);
            let settings = settings.try_into::<ServeArgs>();
            let of_model = || format!("model {model}");
            Self::resolve(&settings.with_context(of_model)?, &model).with_context(of_model)
        });
        let choices = choices.collect::<Result<Vec<_>>>()?;
        check_names(&choices)?;
        Ok(choices)
    }

    fn resolve(args: &ServeArgs, name: &str) -> Result<Self> {
        let name = name.to_owned();
        let served_names = args.served_model_name.clone().unwrap_or_default();
        if served_names.iter().any(|name| name.trim().is_empty()) {
            bail!("--served-model-name has an empty name: give at least one character");
        }
        Ok(Self {
            served_names: if served_names.is_empty() { vec![name.clone()] } else { served_names },
            name,
            draft: args.draft_model.clone(),
            load_format: args.load_format.unwrap_or(LoadFormat::Auto),
            chat_template: args.chat_template.clone(),
            tool_call_parser: ParserChoice::resolve(
                "--tool-call-parser",
                args.tool_call_parser.as_deref(),
                ToolFormat::from_name,
                ToolFormat::ALL.iter().flat_map(|format| format.names().iter().copied()),
            )?,
            reasoning_parser: ParserChoice::resolve(
                "--reasoning-parser",
                args.reasoning_parser.as_deref(),
                ReasoningFormat::from_name,
                ReasoningFormat::ALL.iter().flat_map(|format| format.names().iter().copied()),
            )?,
            pooling: PoolingChoice::resolve(args)?,
            hub: HubConfig::resolve(args)?,
            engine: engine_options(args)?,
        })
    }
}

fn entry(model: String) -> toml::Table {
    toml::Table::from_iter([("model".to_owned(), model.into())])
}

/// The model of an entry, if all that it says is of one model.
fn check_entry(entry: &toml::Table) -> Result<String> {
    let model = entry.get("model").and_then(toml::Value::as_str);
    let model = model.context("[[models]]: say which model, as in `model = \"org/name\"`")?;
    if let Some(key) = entry.keys().find(|key| !OF_ONE_MODEL.contains(&key.as_str())) {
        let known = OF_ONE_MODEL.join(", ");
        bail!("[[models]] {model}: `{key}` is not a setting of one model: give one of {known}");
    }
    Ok(model.to_owned())
}

/// What holds for each model that does not say otherwise.
fn general_settings(args: &ServeArgs, num_models: usize) -> Result<toml::Table> {
    let mut general = toml::Table::try_from(args).context("settings as TOML")?;
    general.remove("models");
    if num_models > 1
        && let Some(key) = OF_ONE_ONLY.iter().find(|&&key| general.contains_key(key))
    {
        bail!(
            "--{key} is of one model, and several are served: give it in the [[models]] of the \
             configuration file"
        );
    }
    Ok(general)
}

/// A name stands for one model.
fn check_names(choices: &[ModelChoice]) -> Result<()> {
    let mut owners = BTreeMap::new();
    for choice in choices {
        for name in &choice.served_names {
            if let Some(other) = owners.insert(name, &choice.name) {
                let model = &choice.name;
                bail!(
                    "the name {name} is of {other} and of {model}: give each names of its own, with \
                     served-model-name in the [[models]] of the configuration file"
                );
            }
        }
    }
    Ok(())
}

fn engine_options(args: &ServeArgs) -> Result<EngineOptions> {
    let bytes = args.kv_cache_memory_bytes.as_deref().map(parse_bytes).transpose();
    Ok(EngineOptions {
        dtype: match args.dtype {
            None | Some(DtypeKind::Auto) => None,
            Some(DtypeKind::Bfloat16) => Some(DType::BF16),
            Some(DtypeKind::Float16) => Some(DType::F16),
            Some(DtypeKind::Float32) => Some(DType::F32),
        },
        quantization: args.quantization.map(|kind| match kind {
            QuantizationKind::Fp8 => Quantization::Fp8,
            QuantizationKind::Int8 => Quantization::Int8,
            QuantizationKind::Int4 => Quantization::Int4,
        }),
        kv_cache_dtype: match args.kv_cache_dtype {
            None | Some(CacheDtypeKind::Auto) => None,
            Some(CacheDtypeKind::Fp8 | CacheDtypeKind::Fp8E4m3) => Some(DType::F8E4M3),
        },
        block_size: args.block_size,
        max_num_seqs: args.max_num_seqs,
        max_num_batched_tokens: args.max_num_batched_tokens,
        max_model_len: args.max_model_len,
        kv_cache_memory_bytes: bytes.context("--kv-cache-memory-bytes")?,
        num_gpu_blocks_override: args.num_gpu_blocks_override,
        enable_prefix_caching: args.enable_prefix_caching,
        max_num_queued_reqs: args.max_num_queued_reqs,
        max_num_queued_tokens: args.max_num_queued_tokens,
        num_speculative_tokens: args.num_speculative_tokens,
        speculate_always: args.speculate_always,
        async_scheduling: args.async_scheduling,
        batch_invariant: args.batch_invariant,
        gpu_memory_utilization: args.gpu_memory_utilization,
        cudagraph_capture_sizes: match (args.enforce_eager, &args.cudagraph_capture_sizes) {
            (Some(true), Some(_)) => bail!(
                "--enforce-eager records no steps, --cudagraph-capture-sizes says which: leave one out"
            ),
            (Some(true), None) => Some(Vec::new()),
            (_, sizes) => sizes.clone(),
        },
        decode_megakernel: args.decode_megakernel,
        tensor_parallel_size: args.tensor_parallel_size,
        // Known when the device is open.
        on_gpu: false,
        max_cpu_isa: args.max_cpu_isa.map(Into::into),
        num_threads: args.num_threads,
        seed: args.seed,
        enable_mfu_metrics: args.enable_mfu_metrics,
        // What the model's files say decides it, too.
        pooling: None,
    })
}

/// Bytes from `512M`, `4GiB`, `1_000_000` and the like.
fn parse_bytes(text: &str) -> Result<usize> {
    let text: String = text.chars().filter(|c| !matches!(c, '_' | ' ')).collect();
    let split = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let scale = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 1.0,
        "k" | "kb" => 1e3,
        "m" | "mb" => 1e6,
        "g" | "gb" => 1e9,
        "kib" => 1024.0,
        "mib" => 1024.0 * 1024.0,
        "gib" => 1024.0 * 1024.0 * 1024.0,
        _ => bail!("unknown unit `{unit}`: use K, M, G, KiB, MiB or GiB"),
    };
    let number: f64 = number.parse().with_context(|| format!("`{number}` is not a number"))?;
    Ok((number * scale) as usize)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Args;

    #[test]
    fn bytes_with_units() {
        assert_eq!(parse_bytes("4GiB").unwrap(), 4 << 30);
        assert_eq!(parse_bytes("1.5 M").unwrap(), 1_500_000);
        assert_eq!(parse_bytes("1_000").unwrap(), 1000);
        assert!(parse_bytes("4 parsecs").unwrap_err().to_string().contains("parsecs"));
        assert!(parse_bytes("GiB").is_err());
    }

    fn args(toml: &str) -> ServeArgs {
        toml::from_str(toml).unwrap_or_else(|error| panic!("{toml}: {error}"))
    }

    fn resolved(toml: &str) -> Vec<ModelChoice> {
        ModelChoice::resolve_all(&args(toml)).unwrap_or_else(|error| panic!("{toml}: {error:#}"))
    }

    fn refused(toml: &str) -> String {
        format!("{:#}", ModelChoice::resolve_all(&args(toml)).unwrap_err())
    }

    #[test]
    fn a_model_has_its_own_settings_and_those_of_all() {
        let choices = resolved(
            "max-num-seqs = 3\nblock-size = 8\n\
             [[models]]\nmodel = 'a'\nmax-num-seqs = 5\nserved-model-name = ['x', 'y']\n\
             draft-model = 'small'\nrevision = 'v1'\n\
             [[models]]\nmodel = 'b'\nkv-cache-memory-bytes = '1KiB'\nquantization = 'fp8'\n\
             kv-cache-dtype = 'fp8_e4m3'\n",
        );
        let [a, b] = choices.as_slice() else { panic!("{choices:?}") };
        assert_eq!((a.name.as_str(), &*a.served_names), ("a", &["x".into(), "y".into()][..]));
        assert_eq!((b.name.as_str(), &*b.served_names), ("b", &["b".to_owned()][..]));
        assert_eq!((a.engine.max_num_seqs, b.engine.max_num_seqs), (Some(5), Some(3)));
        assert_eq!((a.engine.block_size, b.engine.block_size), (Some(8), Some(8)));
        assert_eq!(b.engine.kv_cache_memory_bytes, Some(1024));
        assert_eq!((a.engine.quantization, a.engine.kv_cache_dtype), (None, None));
        assert_eq!(b.engine.quantization, Some(Quantization::Fp8));
        assert_eq!(b.engine.kv_cache_dtype, Some(DType::F8E4M3));
        assert_eq!((a.draft.as_deref(), b.draft.as_deref()), (Some("small"), None));
        assert_eq!((a.hub.revision.as_str(), b.hub.revision.as_str()), ("v1", "main"));
    }

    #[test]
    fn one_model_or_several_by_name_alone() {
        let names = |toml| resolved(toml).into_iter().map(|choice| choice.name).collect::<Vec<_>>();
        assert_eq!(names(""), [SPARK]);
        assert_eq!(names("model = 'a'"), ["a"]);
        assert_eq!(names("model = ['a', 'b']"), ["a", "b"]);
        let one =
            &resolved("served-model-name = ['x']\ndraft-model = 'd'\n[[models]]\nmodel = 'a'")[0];
        assert_eq!((one.served_names[0].as_str(), one.draft.as_deref()), ("x", Some("d")));
    }

    #[test]
    fn what_is_ambiguous_is_refused_by_name() {
        let several = "model = ['a', 'b']\n";
        for key in OF_ONE_ONLY {
            let value = if *key == "served-model-name" { "['x']" } else { "'x'" };
            let error = refused(&format!("{several}{key} = {value}\n"));
            assert!(error.contains(&format!("--{key}")) && error.contains("[[models]]"), "{error}");
        }
        let twice = refused("model = ['a', 'a']");
        assert!(twice.contains("the name a") && twice.contains("served-model-name"), "{twice}");
        let alias = refused(
            "[[models]]\nmodel = 'a'\n[[models]]\nmodel = 'b'\nserved-model-name = ['c', 'a']",
        );
        assert!(alias.contains("the name a is of a and of b"), "{alias}");
        let both = refused("model = 'a'\n[[models]]\nmodel = 'b'");
        assert!(both.contains("[[models]]") && both.contains("leave one of both out"), "{both}");
        let global = refused("[[models]]\nmodel = 'a'\nport = 1");
        assert!(
            global.contains("[[models]] a: `port`") && global.contains("max-num-seqs"),
            "{global}"
        );
        assert!(refused("[[models]]\nblock-size = 1").contains("say which model"));
        let wrong = refused("[[models]]\nmodel = 'a'\nblock-size = 'b'");
        assert!(wrong.contains("model a") && wrong.contains("block-size"), "{wrong}");
    }

    #[test]
    fn steps_are_recorded_or_not() {
        let recorded = |toml| resolved(toml).remove(0).engine.cudagraph_capture_sizes;
        assert_eq!(recorded("enforce-eager = true"), Some(Vec::new()));
        assert_eq!(recorded("enforce-eager = false\ncudagraph-capture-sizes = [1]"), Some(vec![1]));
        let both = refused("enforce-eager = true\ncudagraph-capture-sizes = [1, 2]");
        for says in ["--enforce-eager", "--cudagraph-capture-sizes", "leave one out"] {
            assert!(both.contains(says), "{both}");
        }
    }

    #[test]
    fn an_entry_may_say_what_is_a_setting() {
        let known = ServeArgs::augment_args(clap::Command::new("x"));
        for key in OF_ONE_MODEL {
            let is_flag = known.get_arguments().any(|arg| arg.get_long() == Some(key));
            assert!(is_flag, "--{key} is no flag");
        }
    }
}
