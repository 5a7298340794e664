//! The keys file, and `sconce keys new`.

use crate::cli::KeysCommand;
use anyhow::{Context, Result, anyhow};
use serde::{Deserialize, Serialize};
use server::{KeySpec, new_key};
use std::path::Path;

/// `[[keys]]` in TOML, `{"keys": [...]}` in JSON.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct KeysFile {
    keys: Vec<KeySpec>,
}

/// Reads the keys file. Nothing that stands in it comes into errors, which are logged, but names of fields: by
/// mistake it may hold a key.
pub(crate) fn read(path: &Path) -> Result<Vec<KeySpec>> {
    let flag = || format!("--api-keys-file {}", path.display());
    let text = std::fs::read_to_string(path).with_context(flag)?;
    parse(&text, is_json(path)).with_context(flag)
}

fn is_json(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("json"))
}

fn parse(text: &str, json: bool) -> Result<Vec<KeySpec>> {
    if json {
        let file = serde_json::from_str::<KeysFile>(text);
        return Ok(file.map_err(|error| anyhow!(without_values(&error.to_string())))?.keys);
    }
    let file = toml::from_str::<KeysFile>(text).map_err(|error| {
        let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
        let line = before.matches('\n').count() + 1;
        anyhow!("line {line}: {}", without_values(&error.message().replace('\n', " ")))
    })?;
    Ok(file.keys)
}

/// An error of serde's without what it quotes: values in `"` or, if they are numbers, in backticks. A name of a
/// field, which has letters alone, stays.
fn without_values(message: &str) -> String {
    let is_name = |quoted: &str| {
        quoted.len() < 20 && quoted.chars().all(|c| c == '_' || c.is_ascii_lowercase())
    };
    let mut shown = String::new();
    let mut rest = message;
    while let Some(start) = rest.find(['"', '`']) {
        let (before, quoted) = rest.split_at(start);
        let (quote, quoted) = quoted.split_at(1);
        // Within `"` others are escaped: the last one ends it.
        let end = if quote == "`" { quoted.find('`') } else { quoted.rfind('"') };
        let (value, behind) = quoted.split_at(end.unwrap_or(quoted.len()));
        let value = if quote == "`" && is_name(value) { value } else { "…" };
        shown.extend([before, quote, value, quote]);
        rest = behind.strip_prefix(quote).unwrap_or_default();
    }
    shown + rest
}

/// Prints a fresh key for the user on stderr, and on stdout what stands for it in the file, so that
/// `>> keys.toml` puts no key into it.
pub(crate) fn run(command: &KeysCommand) -> Result<()> {
    let KeysCommand::New { name, json } = command;
    let (key, spec) = new_key(name).map_err(|error| anyhow!("--name: {error}"))?;
    eprintln!("{key}\n\nThis is the key, shown this once. For the file of --api-keys-file:\n");
    bench::say(&if *json {
        serde_json::to_string(&spec)? + "\n"
    } else {
        format!("\n{}", toml::to_string(&KeysFile { keys: vec![spec] })?)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_is_read_and_has_every_field() {
        let example = include_str!("../../../deploy/keys.toml");
        let keys = parse(example, false).unwrap();
        let again = serde_json::to_string(&KeysFile { keys: keys.clone() }).unwrap();
        assert_eq!(parse(&again, true).unwrap(), keys, "JSON says the same");
        let first = serde_json::to_value(&keys[0]).unwrap();
        assert_eq!(first.as_object().unwrap().len(), 10, "{first}");
    }

    #[test]
    fn errors_name_line_and_field_and_show_no_key() {
        let text = "[[keys]]\nname = \"a\"\nkey = \"sk-secret\"\n";
        let error = format!("{:#}", parse(text, false).unwrap_err());
        assert!(error.contains("line 3") && error.contains("`key`"), "{error}");
        assert!(!error.contains("sk-secret"), "{error}");
        let text = "{\"keys\": [{\"name\": \"a\", \"key\": \"sk-secret\"}]}";
        let error = format!("{:#}", parse(text, true).unwrap_err());
        assert!(error.contains("`key`") && !error.contains("sk-secret"), "{error}");
        for (text, json) in [
            ("keys = \"sk-secret\"", false),
            ("[[keys]]\nsk-secret = 1", false),
            ("[[keys]]\nname = sk-secret", false),
            ("[[keys]]\nname = \"a\"\nweight = \"\\\"sk-secret\\\" `x`\"", false),
            ("sk-secret", false),
            ("[\"sk-secret\"]", true),
            ("{\"keys\": \"sk-secret\"}", true),
            ("{\"keys\": [{\"sk-secret\": 1}]}", true),
            ("{\"keys\": [{\"name\": \"sk-secret\", \"weight\": \"sk-secret\"}]}", true),
            ("sk-secret", true),
        ] {
            let error = format!("{:#}", parse(text, json).unwrap_err());
            assert!(error.contains("line ") && !error.contains("secret"), "{error}");
        }
        let error = parse("{\"keys\": \"sk-secret\"}", true).unwrap_err().to_string();
        assert!(error.contains("string \"…\", expected a sequence"), "{error}");
        let text = "[[keys]]\nname = \"a\"\nsha256 = \"\"\nweight = 0\n";
        let error = format!("{:#}", parse(text, false).unwrap_err());
        assert!(error.contains("line 4"), "{error}");
    }
}
