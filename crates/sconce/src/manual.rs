//! `docs/configuration.md` is made of the command line's own definitions: `UPDATE_DOCS=1 cargo test
//! --workspace --bin sconce manual` writes it, and without `UPDATE_DOCS` the test fails when it is stale.

use crate::cli::{Cli, ServeArgs};
use clap::{Arg, Command, CommandFactory};
use std::collections::BTreeSet;
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

/// Variables that are not the command line's, which `config.rs` and `telemetry.rs` read.
const VARIABLES: &[(&str, &str)] = &[
    ("HF_HOME", "Folder of the Hugging Face cache [default: huggingface in XDG_CACHE_HOME]"),
    ("HF_HUB_CACHE", "Folder of the hub's part of it [default: hub in HF_HOME]"),
    ("HF_TOKEN", "Token for gated and private models"),
    ("HUGGING_FACE_HUB_TOKEN", "The same, by its older name"),
    ("HF_ENDPOINT", "Address of a mirror of the hub"),
    ("HF_HUB_OFFLINE", "1 for no network: models come from the cache or from folders"),
    ("XDG_CACHE_HOME", "Folder of caches [default: .cache in HOME]"),
    ("HOME", "Your folder"),
    ("NOTIFY_SOCKET", "Set by systemd for Type=notify"),
    ("OTEL_SDK_DISABLED", "true for no traces"),
    ("OTEL_TRACES_EXPORTER", "`otlp` or `none`"),
    ("OTEL_TRACES_SAMPLER", "Which requests are traced"),
    ("OTEL_TRACES_SAMPLER_ARG", "Its ratio, 0 to 1"),
    ("OTEL_SERVICE_NAME", "Name of the service in traces"),
    ("OTEL_RESOURCE_ATTRIBUTES", "Further attributes of it"),
];

const HEAD: &str = "\
# Configuration

Made from the program by `UPDATE_DOCS=1 cargo test --workspace --bin sconce manual`; `sconce VERB --help` says the same.

A setting of the server can be a flag, a variable of the environment, or a key of the TOML file given with `--config`. A flag is stronger than the environment, the
environment is stronger than the file. Keys of the file are the flags without their dashes: `max-num-seqs = 64`. Lists are separated by commas in a variable and are
arrays in the file. An unknown key or a wrong value ends the start with a line that names it.
";

fn root() -> PathBuf {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest.ancestors().nth(2).expect("crates/sconce is in the root").to_owned()
}

/// Text for one cell.
fn cell(text: &str) -> String {
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    text.replace('|', "\\|").replace(['<', '>'], "`")
}

fn flag(arg: &Arg) -> String {
    let values = arg.get_value_names().unwrap_or_default().iter().map(ToString::to_string);
    let is_switch = !arg.get_action().takes_values() || arg.is_require_equals_set();
    let value = if is_switch { String::new() } else { values.collect::<Vec<_>>().join(" ") };
    let Some(long) = arg.get_long() else { return format!("`{value}`") };
    let short = arg.get_short().map(|short| format!("`-{short}`, ")).unwrap_or_default();
    let separator = if value.is_empty() { "" } else { " " };
    format!("{short}`--{long}{separator}{}`", value.replace('|', "\\|"))
}

fn meaning(arg: &Arg) -> String {
    let mut text = cell(&arg.get_help().map(ToString::to_string).unwrap_or_default());
    let choices: Vec<_> = arg.get_possible_values();
    let choices: Vec<_> = choices.iter().map(|value| format!("`{}`", value.get_name())).collect();
    if choices.len() > 1 && arg.get_action().takes_values() && !arg.is_require_equals_set() {
        let _ = write!(text, " One of {}.", choices.join(", "));
    }
    let defaults = arg.get_default_values().iter().map(|value| value.to_string_lossy());
    let defaults = defaults.collect::<Vec<_>>().join(" ");
    if !defaults.is_empty() && arg.get_action().takes_values() {
        let _ = write!(text, " [default: {defaults}]");
    }
    text
}

fn visible(command: &Command) -> impl Iterator<Item = &Arg> {
    let hidden =
        |arg: &&Arg| arg.is_hide_set() || ["help", "version"].contains(&arg.get_id().as_str());
    command.get_arguments().filter(move |arg| !hidden(arg))
}

fn write_settings(page: &mut String, serve: &Command) {
    let file = serde_json::to_value(ServeArgs::default()).expect("it is what the file says");
    page.push_str("\n## The server: `sconce serve`, and `sconce` alone\n\n");
    page.push_str("| flag | environment | in the file | |\n|---|---|---|---|\n");
    for arg in visible(serve) {
        let variable = arg.get_env().map(|name| format!("`{}`", name.to_string_lossy()));
        let key = arg.get_long().unwrap_or(arg.get_id().as_str());
        let in_file = if file.get(key).is_some() { "yes" } else { "no" };
        let (flag, meaning) = (flag(arg), meaning(arg));
        let _ =
            writeln!(page, "| {flag} | {} | {in_file} | {meaning} |", variable.unwrap_or_default());
    }
    page.push_str("\nBesides, read from the environment alone:\n\n| variable | |\n|---|---|\n");
    for (name, meaning) in VARIABLES {
        let _ = writeln!(page, "| `{name}` | {} |", cell(meaning));
    }
    page.push_str("| `OTEL_EXPORTER_OTLP_*` | Where traces go: [operations](operations.md) |\n");
}

/// The other verbs; where one takes the settings of the server, too, it says so once.
fn write_verb(page: &mut String, path: &str, verb: &Command, settings: &BTreeSet<&str>) {
    let ids: BTreeSet<_> = visible(verb).map(|arg| arg.get_id().as_str()).collect();
    let takes_settings = settings.is_subset(&ids);
    let own: Vec<_> = visible(verb)
        .filter(|arg| !(takes_settings && settings.contains(arg.get_id().as_str())))
        .collect();
    let _ = writeln!(
        page,
        "\n## `{path}`\n\n{}",
        cell(&verb.get_about().map(ToString::to_string).unwrap_or_default())
    );
    if takes_settings {
        page.push_str("\nTakes the settings of the server.\n");
    }
    if !own.is_empty() {
        page.push_str("\n| flag | |\n|---|---|\n");
    }
    for arg in own {
        let variable = arg.get_env().map(|name| format!(" [`{}`]", name.to_string_lossy()));
        let _ =
            writeln!(page, "| {} | {}{} |", flag(arg), meaning(arg), variable.unwrap_or_default());
    }
    for inner in verb.get_subcommands().filter(|inner| inner.get_name() != "help") {
        write_verb(page, &format!("{path} {}", inner.get_name()), inner, settings);
    }
}

fn page() -> String {
    let mut command = Cli::command();
    command.build();
    let serve = command.find_subcommand("serve").expect("the verb");
    let settings = visible(serve).map(|arg| arg.get_id().as_str()).collect();
    let mut page = HEAD.to_owned();
    write_settings(&mut page, serve);
    for verb in command.get_subcommands() {
        if !["serve", "help"].contains(&verb.get_name()) {
            write_verb(&mut page, &format!("sconce {}", verb.get_name()), verb, &settings);
        }
    }
    page
}

#[test]
#[expect(clippy::disallowed_methods, reason = "a switch of this test alone")]
fn the_page_of_settings_is_what_the_program_says() {
    let path = root().join("docs/configuration.md");
    let page = page();
    if std::env::var_os("UPDATE_DOCS").is_some() {
        fs::write(&path, &page).expect("docs/ is there");
    }
    let found = fs::read_to_string(&path).unwrap_or_default();
    let stale = page.lines().find(|line| !found.lines().any(|found| found == *line));
    let how = "UPDATE_DOCS=1 cargo test --workspace --bin sconce manual";
    assert!(found == page, "docs/configuration.md is stale, run `{how}`: {stale:?}");
}

#[test]
fn every_variable_that_is_read_is_on_it() {
    let source = |file| fs::read_to_string(root().join("crates/sconce/src").join(file));
    let text = ["config.rs", "telemetry.rs"].map(|file| source(file).expect(file)).concat();
    let calls = text.split("variable(\"").skip(1);
    let read: BTreeSet<_> = calls.filter_map(|rest| rest.split('"').next()).collect();
    let listed: BTreeSet<_> = VARIABLES.iter().map(|(name, _)| *name).collect();
    assert_eq!(read, listed);
}
