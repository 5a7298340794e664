//! What is logged, and how.

use std::io::IsTerminal;

use anyhow::{Context, Result, bail};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

use crate::cli::LogFormat;
use crate::config::Config;

/// What others say that is news to nobody who does not ask for it: how tokenizers 1.0 lays out a vocabulary, and
/// that it tries again.
const QUIET: &str = "tk_encode=warn,ptr_hash=error";

/// Logs to stderr from now on.
pub(crate) fn start(config: &Config) -> Result<()> {
    let level = &config.log_level;
    let filter = filter(level).with_context(|| format!("--log-level {level}"))?;
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr);
    match config.log_format {
        LogFormat::Pretty => log.with_target(false).init(),
        LogFormat::Json => log.json().init(),
    }
    Ok(())
}

/// A word alone that is no level would be taken for the name of something to log, and nothing else would be.
fn filter(level: &str) -> Result<EnvFilter> {
    for word in level.split(',').filter(|word| !word.contains(['=', '['])) {
        if word.trim().is_empty() || word.trim().parse::<LevelFilter>().is_err() {
            bail!("`{word}` is none of error, warn, info, debug, trace, off");
        }
    }
    Ok(EnvFilter::try_new(format!("{QUIET},{level}"))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_level_that_there_is_not_is_refused() {
        for level in ["info", "DEBUG", "engine=debug", "warn,server=trace", "off"] {
            assert!(filter(level).is_ok(), "{level}");
        }
        for level in ["warning", "nope", "info,engine", "engine=loud", ""] {
            assert!(filter(level).is_err(), "{level}");
        }
        let error = filter("warning").unwrap_err().to_string();
        assert!(error.contains("`warning`") && error.contains("warn,"), "{error}");
    }
}
