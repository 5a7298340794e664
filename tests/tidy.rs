//! The rules of the workspace, as tests: who may know whom, how long things may get, where
//! features and models may be named. `CONTRIBUTING.md` gives the reasons.

#![expect(clippy::unwrap_used, reason = "a test stops where it cannot go on")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use syn::visit::Visit;

/// Who may depend on whom. `benches` and `tests` may know everybody.
const GRAPH: &[(&str, &[&str])] = &[
    ("cuda-host", &[]),
    // In its tests.
    ("kernels", &["cuda-host"]),
    ("scheduler", &[]),
    ("text", &[]),
    ("engine", &["kernels", "scheduler"]),
    ("models", &["engine"]),
    ("server", &["engine", "text"]),
    ("bench", &["engine", "text"]),
    ("sconce", &["bench", "engine", "models", "server", "text"]),
];

const MAX_FILE_LINES: usize = 400;
const MAX_MODEL_LINES: usize = 250;
const MAX_MAIN_LINES: usize = 80;
const MAX_FUNCTION_LINES: usize = 70;
const BANNED_NAMES: &[&str] = &["utils", "util", "helpers", "helper", "common", "misc", "manager"];

/// The six files of one request, in reading order, and how long they may be together.
const REQUEST_WALK: &[&str] = &[
    "crates/server/src/routes/chat.rs",
    "crates/engine/src/engine.rs",
    "crates/scheduler/src/scheduler/mod.rs",
    "crates/engine/src/runner.rs",
    "crates/engine/src/layers/decoder.rs",
    "crates/text/src/detokenizer.rs",
];
const MAX_WALK_LINES: usize = 1_700;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ is in the root").to_owned()
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Every file below `folder` with this extension, build output left out.
fn files(folder: &Path, extension: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display())) {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() {
            if !["target", "node_modules"].contains(&name.as_str()) && !name.starts_with('.') {
                found.extend(files(&path, extension));
            }
        } else if path.extension().is_some_and(|e| e == extension) {
            found.push(path);
        }
    }
    found.sort();
    found
}

fn rust_files() -> Vec<PathBuf> {
    let found = files(&root(), "rs");
    assert!(found.len() > 40, "only {} files found: is the root right?", found.len());
    found
}

fn relative(path: &Path) -> String {
    path.strip_prefix(root()).unwrap().to_string_lossy().replace('\\', "/")
}

/// Code that only tests run may be as long as its table of cases.
fn is_test(path: &Path) -> bool {
    let path = relative(path);
    path.contains("/tests/")
        || path.starts_with("tests/")
        || path.ends_with("/tests.rs")
        || path.ends_with("/cuda_tests.rs")
        || path.ends_with("/testing.rs")
}

/// A file up to the `#[cfg(test)]` module that ends it.
fn code(text: &str) -> &str {
    text.split("\n#[cfg(test)]\nmod tests {").next().expect("split yields one")
}

fn code_lines(text: &str) -> usize {
    code(text).lines().count()
}

fn assert_none(broken: &[String], rule: &str) {
    assert!(broken.is_empty(), "{rule}:\n  {}", broken.join("\n  "));
}

#[test]
fn crates_know_only_whom_they_may() {
    let allowed: BTreeMap<_, _> = GRAPH.iter().copied().collect();
    let mut seen = 0;
    let mut broken = Vec::new();
    for manifest in files(&root(), "toml") {
        if manifest.file_name().unwrap() != "Cargo.toml" {
            continue;
        }
        let table: toml::Table = toml::from_str(&read(&manifest)).unwrap();
        let Some(name) = table.get("package").and_then(|p| p["name"].as_str()) else { continue };
        if name == "benches" || name == "tests" {
            continue;
        }
        seen += 1;
        let allowed = allowed.get(name).unwrap_or_else(|| panic!("{name} is not in GRAPH"));
        for section in ["dependencies", "dev-dependencies", "build-dependencies"] {
            let Some(dependencies) = table.get(section).and_then(toml::Value::as_table) else {
                continue;
            };
            for dependency in dependencies.keys() {
                let ours = GRAPH.iter().any(|(member, _)| member == dependency);
                if ours && !allowed.contains(&dependency.as_str()) {
                    broken.push(format!("{name} -> {dependency}"));
                }
            }
        }
    }
    assert_eq!(seen, GRAPH.len(), "a crate of GRAPH is gone");
    assert_none(&broken, "crates that know one they may not (GRAPH in tests/tidy.rs)");
}

#[test]
fn the_scheduler_is_pure_std() {
    let table: toml::Table =
        toml::from_str(&read(&root().join("crates/scheduler/Cargo.toml"))).unwrap();
    let dependencies = table.get("dependencies").and_then(toml::Value::as_table);
    assert!(dependencies.is_none_or(toml::Table::is_empty), "the scheduler has dependencies");
}

#[test]
fn every_file_says_what_it_is() {
    let broken: Vec<_> = rust_files()
        .iter()
        .filter(|path| !read(path).starts_with("//!"))
        .map(|p| relative(p))
        .collect();
    assert_none(&broken, "files that do not open with a //! header");
}

#[test]
fn files_are_short() {
    let mut broken = Vec::new();
    for path in rust_files().iter().filter(|path| !is_test(path)) {
        let lines = code_lines(&read(path));
        let name = relative(path);
        let limit = if name.ends_with("/main.rs") {
            MAX_MAIN_LINES
        } else if name.starts_with("models/src/") {
            MAX_MODEL_LINES
        } else {
            MAX_FILE_LINES
        };
        if lines > limit {
            broken.push(format!("{name}: {lines} lines, {limit} allowed"));
        }
    }
    assert_none(&broken, "long files (tests not counted)");
}

/// Collects functions whose body is longer than the limit.
#[derive(Default)]
struct LongFunctions(Vec<String>);

impl LongFunctions {
    fn check(&mut self, name: &syn::Ident, block: &syn::Block) {
        let span = block.brace_token.span;
        let lines = span.close().end().line - span.open().start().line + 1;
        if lines > MAX_FUNCTION_LINES {
            self.0.push(format!("{name}: {lines} lines at line {}", span.open().start().line));
        }
    }
}

impl<'ast> Visit<'ast> for LongFunctions {
    fn visit_item_fn(&mut self, item: &'ast syn::ItemFn) {
        self.check(&item.sig.ident, &item.block);
        syn::visit::visit_item_fn(self, item);
    }

    fn visit_impl_item_fn(&mut self, item: &'ast syn::ImplItemFn) {
        self.check(&item.sig.ident, &item.block);
        syn::visit::visit_impl_item_fn(self, item);
    }
}

#[test]
fn functions_are_short() {
    let mut broken = Vec::new();
    for path in rust_files().iter().filter(|path| !is_test(path)) {
        let file =
            syn::parse_file(&read(path)).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let mut long = LongFunctions::default();
        long.visit_file(&file);
        broken.extend(long.0.into_iter().map(|found| format!("{}: {found}", relative(path))));
    }
    assert_none(&broken, "functions over 70 lines");
}

#[test]
fn features_are_named_in_few_places() {
    let mut broken = Vec::new();
    for path in rust_files() {
        let name = relative(&path);
        let allowed = name.starts_with("crates/kernels/")
            || ["crates/engine/src/device.rs", "crates/engine/src/graph.rs", "tests/tidy.rs"]
                .contains(&name.as_str());
        if !allowed && read(&path).contains("cfg(feature") {
            broken.push(name);
        }
    }
    assert_none(&broken, "cfg(feature) outside kernels and the device");
}

#[test]
fn unsafe_code_stays_in_its_rooms() {
    let mut broken = Vec::new();
    for path in rust_files() {
        let name = relative(&path);
        let allowed = name.starts_with("crates/kernels/")
            || name.starts_with("crates/cuda-host/")
            || name.starts_with("crates/engine/src/weights/")
            || name == "tests/tidy.rs";
        if !allowed && read(&path).contains("unsafe {") {
            broken.push(name);
        }
    }
    assert_none(&broken, "unsafe outside kernels and the weights' mmap");
}

#[test]
fn op_folders_are_complete() {
    let source = root().join("crates/kernels/src");
    let mut ops = 0;
    let mut broken = Vec::new();
    for entry in fs::read_dir(&source).unwrap() {
        let folder = entry.unwrap().path();
        // `simd` and `cuda` are what the ops' forwards are written in.
        if !folder.is_dir() || folder.ends_with("simd") || folder.ends_with("cuda") {
            continue;
        }
        ops += 1;
        // The others in one launch: on the CPU, it is them.
        let is_composed = folder.ends_with("decode_step");
        for file in ["mod.rs", "cpu.rs", "tests.rs"] {
            let is_needed = !is_composed || file != "cpu.rs";
            if is_needed && !folder.join(file).is_file() {
                broken.push(format!("{} has no {file}", relative(&folder)));
            }
        }
        let of_cuda = ["kernel.cu", "cuda.rs", "cuda_tests.rs"];
        // Long ones are folders.
        let is_there = |file: &&str| {
            let long = folder.join(file.trim_end_matches(".rs")).join("mod.rs");
            folder.join(file).is_file() || long.is_file()
        };
        let (has, lacks): (Vec<&str>, Vec<&str>) = of_cuda.into_iter().partition(is_there);
        if !has.is_empty() && !lacks.is_empty() {
            broken.push(format!("{} has {has:?} and no {lacks:?}", relative(&folder)));
        }
        let module = read(&folder.join(if is_composed { "forward.rs" } else { "mod.rs" }));
        if !module.contains("impl CustomOp") && !module.contains("impl InplaceOp") {
            broken.push(format!("{} implements no candle op", relative(&folder)));
        }
    }
    assert!(ops >= 6, "only {ops} ops found");
    assert_none(&broken, "incomplete op folders");
}

#[test]
fn every_architecture_has_a_golden() {
    let golden = root().join("models/golden");
    let mut covered = Vec::new();
    for entry in fs::read_dir(&golden).unwrap() {
        let folder = entry.unwrap().path();
        if !folder.is_dir() {
            continue;
        }
        let config: serde_json::Value =
            serde_json::from_str(&read(&folder.join("config.json"))).unwrap();
        assert!(folder.join("expected.json").is_file(), "{}: no expected.json", folder.display());
        covered.push(config["architectures"][0].as_str().unwrap().to_owned());
        let bytes: u64 =
            fs::read_dir(&folder).unwrap().map(|f| f.unwrap().metadata().unwrap().len()).sum();
        assert!(bytes < 700_000, "{}: {bytes} bytes", folder.display());
    }
    for entry in fs::read_dir(root().join("models/golden_pooling")).unwrap() {
        let folder = entry.unwrap().path();
        let config: serde_json::Value =
            serde_json::from_str(&read(&folder.join("config.json"))).unwrap();
        covered.push(config["architectures"][0].as_str().unwrap().to_owned());
        let files = ["model.safetensors", "tokenizer.json", "expected.json"];
        let sizes = files.map(|file| fs::metadata(folder.join(file)).unwrap().len());
        let bytes: u64 = sizes.iter().sum();
        assert!(bytes < 500_000, "{}: {bytes} bytes", folder.display());
    }
    let rows = models::registry().iter().map(|row| row.name);
    let missing: Vec<_> = rows
        .chain(models::encoders().map(|row| row.name))
        .filter(|row| !covered.iter().any(|name| name == row))
        .map(str::to_owned)
        .collect();
    assert_none(&missing, "registry rows without a golden");
}

#[test]
fn models_are_named_only_in_models() {
    let mut broken = Vec::new();
    for path in rust_files().iter().filter(|path| !is_test(path)) {
        let name = relative(path);
        if name.starts_with("models/")
            || name.starts_with("crates/text/")
            || name.starts_with("benches/")
        {
            continue;
        }
        // Comments may explain by example; code may not decide by name.
        for (number, line) in code(&read(path)).lines().enumerate() {
            let code = line.split("//").next().expect("split yields one").to_lowercase();
            if ["qwen", "forcausallm", "mistral", "gemma"].iter().any(|m| code.contains(m)) {
                broken.push(format!("{name}:{}: {}", number + 1, line.trim()));
            }
        }
    }
    assert_none(&broken, "architectures named above models/");
}

#[test]
fn no_file_is_a_drawer() {
    let mut broken = Vec::new();
    for path in rust_files() {
        let stem = path.file_stem().unwrap().to_string_lossy().into_owned();
        let folder = path.parent().unwrap().file_name().unwrap().to_string_lossy().into_owned();
        if BANNED_NAMES.contains(&stem.as_str()) || BANNED_NAMES.contains(&folder.as_str()) {
            broken.push(relative(&path));
        }
    }
    assert_none(&broken, "names that say nothing");
}

#[test]
fn decisions_are_numbered_and_complete() {
    let mut numbers = Vec::new();
    for path in files(&root().join("docs/adr"), "md") {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let number = name.get(..4).and_then(|n| n.parse::<usize>().ok());
        numbers.push(number.unwrap_or_else(|| panic!("{name} does not begin with four digits")));
        let text = read(&path);
        for section in
            ["## Context", "## Decision", "## Consequences", "## What would change our mind"]
        {
            assert!(text.contains(section), "{name} lacks `{section}`");
        }
    }
    let expected: Vec<_> = (1..=numbers.len()).collect();
    assert!(numbers.len() >= 3, "only {} decisions", numbers.len());
    assert_eq!(numbers, expected, "decisions are not numbered 1, 2, 3 ...");
}

#[test]
fn one_request_is_six_short_files() {
    let guide = read(&root().join("CONTRIBUTING.md"));
    let mut lines = 0;
    for file in REQUEST_WALK {
        assert!(guide.contains(file), "CONTRIBUTING.md does not walk through {file}");
        lines += code_lines(&read(&root().join(file)));
    }
    assert!(lines <= MAX_WALK_LINES, "the walk has {lines} lines, {MAX_WALK_LINES} allowed");
}

#[test]
fn ci_runs_what_the_readme_says() {
    let command = read(&root().join(".ci/run"));
    let command = command.lines().last().expect("a command").trim_start_matches("exec ").trim();
    assert!(command.len() > 5, ".ci/run ends with no command");
    let readme = read(&root().join("README.md"));
    assert!(
        readme.lines().any(|line| line.trim() == command),
        "README.md does not give `{command}`"
    );
}
