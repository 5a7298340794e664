//! From flags, environment and file to one checked configuration. The only reader of the
//! environment (with `cli.rs`, where clap reads the `SCONCE_*` variables).

use crate::cli::{LogFormat, ServeArgs};
use crate::listen::Listen;
use crate::model_choice::ModelChoice;
use crate::restart::{self, Restarts};
use anyhow::{Context, Result, bail};
use clap::Args;
use engine::device::DeviceKind;
use server::AccessLogConfig;
use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A complete, checked configuration.
#[derive(Debug)]
pub(crate) struct Config {
    /// What is served, at least one.
    pub(crate) models: Vec<ModelChoice>,
    /// Where all of them run.
    pub(crate) device: DeviceKind,
    pub(crate) listen: Listen,
    pub(crate) server: server::ServerConfig,
    pub(crate) api_keys_file: Option<PathBuf>,
    pub(crate) access_log: Option<AccessLogConfig>,
    pub(crate) log_level: String,
    pub(crate) log_format: LogFormat,
    /// Set, and no setting's.
    pub(crate) unknown_variables: Vec<String>,
    /// Where systemd wants to hear how far the service is.
    pub(crate) notify_socket: Option<String>,
    pub(crate) restarts: Restarts,
}

/// The Hugging Face variables that users already have.
#[derive(Debug, Clone)]
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
        if args.api_key.iter().flatten().any(String::is_empty) {
            bail!(
                "--api-key: a key is empty, and no client can send it: leave the flag and SCONCE_API_KEY out to serve without"
            );
        }
        let models = ModelChoice::resolve_all(&args)?;
        let restarts = variable(restart::VARIABLE).as_deref().map(Restarts::parse).transpose()?;
        let restarts = restarts.unwrap_or_default();
        Ok(Self {
            device: args.device.unwrap_or_default(),
            listen: Listen::resolve(&args)?.at_former(restarts.port),
            server: server::ServerConfig { restarted_at: restarts.last(), ..server_config(&args) },
            api_keys_file: args.api_keys_file.clone(),
            access_log: access_log(&args)?,
            log_level: args.log_level.unwrap_or_else(|| "info".to_owned()),
            log_format: args.log_format.unwrap_or(LogFormat::Pretty),
            notify_socket: variable("NOTIFY_SOCKET"),
            unknown_variables: unknown_variables(
                std::env::vars_os().filter_map(|(name, _)| name.into_string().ok()),
            ),
            restarts,
            models,
        })
    }

    /// Of all models, for people.
    pub(crate) fn model_names(&self) -> String {
        self.models.iter().map(|model| model.name.as_str()).collect::<Vec<_>>().join(", ")
    }
}

impl HubConfig {
    pub(crate) fn resolve(args: &ServeArgs) -> Result<Self> {
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
    // Clap lets one of both be given only.
    typed.model = typed.model.or(typed.model_flag.take());
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

/// Names of variables that look like settings and are none, by a slip of the hand. Those that Kubernetes sets for a
/// service whose name begins like ours are not meant, nor those of builds.
fn unknown_variables(names: impl IntoIterator<Item = String>) -> Vec<String> {
    let known = ServeArgs::augment_args(clap::Command::new("serve"));
    let known: HashSet<&str> =
        known.get_arguments().filter_map(|arg| arg.get_env()?.to_str()).collect();
    let others = ["SCONCE_NVCC", "SCONCE_CUDA_ARCHS", restart::VARIABLE];
    let is_unknown = |name: &String| {
        name.starts_with("SCONCE_")
            && !known.contains(name.as_str())
            && !others.contains(&name.as_str())
            && !name.contains("_SERVICE_")
            && !name.contains("_PORT")
    };
    names.into_iter().filter(is_unknown).collect()
}

/// As huggingface_hub reads its switches.
fn truthy(value: &str) -> bool {
    matches!(value.to_ascii_uppercase().as_str(), "1" | "ON" | "YES" | "TRUE")
}

#[expect(clippy::disallowed_methods, reason = "this module is the reader of the environment")]
pub(crate) fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_variable_with_a_slip_is_noticed() {
        let names = [
            "SCONCE_MAX_NUM_SEQ",
            "SCONCE_MAX_NUM_SEQS",
            "SCONCE_HTTP_PORT",
            "SCONCE_PORT_8000_TCP_ADDR",
            "SCONCE_PORT",
            "SCONCE_ROUTER_SERVICE_HOST",
            "SCONCE_RESTARTED",
            "PATH",
        ];
        assert_eq!(unknown_variables(names.map(str::to_owned)), ["SCONCE_MAX_NUM_SEQ"]);
    }

    #[test]
    fn a_key_that_is_empty_is_refused() {
        for keys in [vec![""], vec!["a", ""]] {
            let api_key = Some(keys.into_iter().map(str::to_owned).collect());
            let typed =
                ServeArgs { api_key, model: Some(vec!["spark".into()]), ..Default::default() };
            let error = Config::resolve(typed).err().map(|error| error.to_string());
            assert!(
                error.as_ref().is_some_and(|error| error.starts_with("--api-key")),
                "{error:?}"
            );
        }
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
