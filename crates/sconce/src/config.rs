//! From flags, environment and file to one checked configuration. The only reader of the
//! environment (with `cli.rs`, where clap reads the `SCONCE_*` variables).

use crate::cli::{DtypeKind, LoadFormat, LogFormat, ServeArgs};
use crate::listen::Listen;
use anyhow::{Context, Result, bail};
use candle_core::DType;
use engine::config::EngineOptions;
use server::AccessLogConfig;
use std::path::{Path, PathBuf};
use std::time::Duration;
use text::{ReasoningFormat, ToolFormat};

/// Name of the embedded model.
pub(crate) const SPARK: &str = "spark";

/// A complete, checked configuration.
#[derive(Debug)]
pub(crate) struct Config {
    pub(crate) model: ModelChoice,
    pub(crate) listen: Listen,
    pub(crate) server: server::ServerConfig,
    pub(crate) api_keys_file: Option<PathBuf>,
    pub(crate) access_log: Option<AccessLogConfig>,
    pub(crate) engine: EngineOptions,
    pub(crate) log_level: String,
    pub(crate) log_format: LogFormat,
    /// Where systemd wants to hear how far the service is.
    pub(crate) notify_socket: Option<String>,
}

/// Which model, and where it comes from.
#[derive(Debug)]
pub(crate) struct ModelChoice {
    pub(crate) name: String,
    /// The model that guesses tokens ahead.
    pub(crate) draft: Option<String>,
    pub(crate) served_names: Vec<String>,
    pub(crate) load_format: LoadFormat,
    pub(crate) chat_template: Option<String>,
    pub(crate) tool_call_parser: ParserChoice<ToolFormat>,
    pub(crate) reasoning_parser: ParserChoice<ReasoningFormat>,
    pub(crate) hub: HubConfig,
}

/// The Hugging Face variables that users already have.
#[derive(Debug)]
pub(crate) struct HubConfig {
    pub(crate) revision: String,
    pub(crate) cache_dir: PathBuf,
    pub(crate) token: Option<String>,
    pub(crate) endpoint: Option<String>,
    pub(crate) offline: bool,
}

impl Config {
    /// Merges and checks. Errors name the flag, variable or file key at fault.
    pub(crate) fn resolve(typed: ServeArgs) -> Result<Self> {
        let args = merge(typed)?;
        let model = ModelChoice::resolve(&args)?;
        Ok(Self {
            listen: Listen::resolve(&args)?,
            server: server_config(&args),
            api_keys_file: args.api_keys_file.clone(),
            access_log: access_log(&args)?,
            engine: engine_options(&args)?,
            log_level: args.log_level.unwrap_or_else(|| "info".to_owned()),
            log_format: args.log_format.unwrap_or(LogFormat::Pretty),
            notify_socket: variable("NOTIFY_SOCKET"),
            model,
        })
    }
}

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
    fn resolve(args: &ServeArgs) -> Result<Self> {
        let name = args.model.clone().unwrap_or_else(|| SPARK.to_owned());
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
            hub: HubConfig::resolve(args)?,
        })
    }
}

impl HubConfig {
    fn resolve(args: &ServeArgs) -> Result<Self> {
        let home = variable("HF_HOME").map(PathBuf::from).or_else(|| {
            let cache = variable("XDG_CACHE_HOME").map(PathBuf::from);
            let cache = cache.or_else(|| Some(PathBuf::from(variable("HOME")?).join(".cache")));
            Some(cache?.join("huggingface"))
        });
        let home =
            home.context("neither HF_HOME nor HOME is set: set HF_HOME to a cache folder")?;
        let cache_dir = args.download_dir.clone();
        let cache_dir = cache_dir.or_else(|| variable("HF_HUB_CACHE").map(PathBuf::from));
        let token = variable("HF_TOKEN").or_else(|| variable("HUGGING_FACE_HUB_TOKEN"));
        Ok(Self {
            revision: args.revision.clone().unwrap_or_else(|| "main".to_owned()),
            cache_dir: cache_dir.unwrap_or_else(|| home.join("hub")),
            token: token.or_else(|| token_file(&home)),
            endpoint: variable("HF_ENDPOINT"),
            offline: variable("HF_HUB_OFFLINE").is_some_and(|value| truthy(&value)),
        })
    }
}

/// The token that `hf auth login` leaves.
fn token_file(home: &Path) -> Option<String> {
    let token = std::fs::read_to_string(home.join("token")).ok()?;
    Some(token.trim().to_owned()).filter(|token| !token.is_empty())
}

/// Overlays what was typed (and the environment, which clap has read) on the file.
fn merge(mut typed: ServeArgs) -> Result<ServeArgs> {
    if typed.no_async_scheduling {
        typed.async_scheduling = Some(false);
    }
    if typed.no_enable_prefix_caching {
        typed.enable_prefix_caching = Some(false);
    }
    let Some(path) = typed.config.clone() else { return Ok(typed) };
    let show = path.display();
    let text = std::fs::read_to_string(&path).with_context(|| {
        format!("--config {show}: cannot be read; give the path of a TOML file")
    })?;
    // Parsed once as settings for errors with line numbers, once as a table to overlay.
    toml::from_str::<ServeArgs>(&text).with_context(|| format!("--config {show}"))?;
    let file: toml::Table = toml::from_str(&text).with_context(|| format!("--config {show}"))?;
    let mut merged = file;
    let stronger = toml::Table::try_from(&typed).context("settings as TOML")?;
    merged.extend(stronger);
    merged.try_into().with_context(|| format!("--config {show}"))
}

fn server_config(args: &ServeArgs) -> server::ServerConfig {
    let mut config = server::ServerConfig::default();
    if let Some(seconds) = args.drain_timeout {
        config.drain_timeout = Duration::from_secs(seconds);
    }
    if let Some(seconds) = args.drain_delay {
        config.drain_delay = Duration::from_secs(seconds);
    }
    if let Some(seconds) = args.heartbeat_interval {
        config.heartbeat = Duration::from_secs(seconds.get());
    }
    if let Some(limit) = args.max_connections {
        config.max_connections = limit.get() as usize;
    }
    if let Some(origins) = &args.allowed_origins {
        let any = origins.iter().any(|origin| origin == "*");
        config.allowed_origins = (!any).then(|| origins.clone());
    }
    config.api_keys = args.api_key.clone().unwrap_or_default();
    config.guard_metrics = args.guard_metrics.unwrap_or(false);
    config.trust_request_chat_template = args.trust_request_chat_template.unwrap_or(false);
    config
}

fn access_log(args: &ServeArgs) -> Result<Option<AccessLogConfig>> {
    let bodies = args.access_log_bodies.unwrap_or(false);
    let Some(path) = &args.access_log else {
        if bodies {
            bail!("--access-log-bodies: there is no access log; give --access-log FILE, too");
        }
        return Ok(None);
    };
    let path = (path.as_os_str() != "-").then(|| path.clone());
    Ok(Some(AccessLogConfig { path, bodies }))
}

fn engine_options(args: &ServeArgs) -> Result<EngineOptions> {
    let bytes = args.kv_cache_memory_bytes.as_deref().map(parse_bytes).transpose();
    Ok(EngineOptions {
        dtype: match args.dtype {
            None | Some(DtypeKind::Auto) => None,
            Some(DtypeKind::Bfloat16) => Some(DType::BF16),
            Some(DtypeKind::Float32) => Some(DType::F32),
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
        num_threads: args.num_threads,
        seed: args.seed,
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

/// As huggingface_hub reads its switches.
fn truthy(value: &str) -> bool {
    matches!(value.to_ascii_uppercase().as_str(), "1" | "ON" | "YES" | "TRUE")
}

#[expect(clippy::disallowed_methods, reason = "this module is the reader of the environment")]
fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_with_units() {
        assert_eq!(parse_bytes("4GiB").unwrap(), 4 << 30);
        assert_eq!(parse_bytes("1.5 M").unwrap(), 1_500_000);
        assert_eq!(parse_bytes("1_000").unwrap(), 1000);
        assert!(parse_bytes("4 parsecs").unwrap_err().to_string().contains("parsecs"));
        assert!(parse_bytes("GiB").is_err());
    }

    #[test]
    fn a_flag_is_stronger_than_the_file() {
        let path = std::env::temp_dir().join(format!("sconce-config-{}.toml", std::process::id()));
        std::fs::write(&path, "max-num-seqs = 3\nport = 9000\n").unwrap();
        let typed = ServeArgs { port: Some(1), config: Some(path.clone()), ..Default::default() };
        let merged = merge(typed).unwrap();
        assert_eq!((merged.max_num_seqs, merged.port), (Some(3), Some(1)));
        std::fs::write(&path, "max-nun-seqs = 3\n").unwrap();
        let typed = ServeArgs { config: Some(path.clone()), ..Default::default() };
        let error = format!("{:#}", merge(typed).unwrap_err());
        assert!(error.contains("max-nun-seqs") && error.contains("max-num-seqs"), "{error}");
        std::fs::remove_file(path).unwrap();
    }
}
