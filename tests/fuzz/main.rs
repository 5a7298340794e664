//! Inputs of strangers, changed at random: request bodies, chat templates, what models write. Seeds are
//! in `fuzz/corpus` (templates: those of the goldens); a change cuts, repeats, moves and joins pieces
//! of them. `PROPTEST_CASES` says how many are tried, 256 else; what fails is made small and kept in
//! `fuzz/regressions`, and is tried first from then on.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

/// Whose failures are kept under this name.
macro_rules! config {
    ($name:literal) => {
        $crate::config(concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz/regressions/", $name, ".txt"))
    };
}

mod bodies;
mod change;
mod outputs;
mod templates;

use std::fs;
use std::path::PathBuf;

use proptest::test_runner::{Config, FileFailurePersistence};
use tests::root;

fn config(regressions: &'static str) -> Config {
    let persistence = FileFailurePersistence::Direct(regressions);
    Config {
        failure_persistence: Some(Box::new(persistence)),
        max_shrink_iters: 500,
        ..Config::default()
    }
}

/// The files of a folder with this extension, by name.
fn seeds(folder: &str, extension: &str) -> Vec<String> {
    let folder: PathBuf = root().join(folder);
    let entries = fs::read_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    let mut paths: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| path.extension().is_some_and(|found| found == extension));
    paths.sort();
    assert!(paths.len() > 5, "only {} seeds in {}", paths.len(), folder.display());
    paths.iter().map(|path| fs::read_to_string(path).unwrap()).collect()
}
