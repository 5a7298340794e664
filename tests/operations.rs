//! What operators meet: an engine that cannot work.

#![expect(clippy::unwrap_used, reason = "a test stops where it cannot go on")]

use serde_json::{Value, json};
use std::fs;
use std::path::PathBuf;
use tests::{PATIENCE, Server, root};

/// A folder of a test's own, removed when dropped.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("sconce-{name}-{}", std::process::id()));
        drop(fs::remove_dir_all(&path));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.0));
    }
}

/// Heads that attention has no kernel for: the model loads, and every step fails. Each request hears
/// of it, and the process ends, so that whoever started it starts it elsewhere.
#[test]
fn an_engine_that_only_fails_ends_the_process() {
    let folder = Folder::new("broken");
    let config = fs::read(root().join("models/golden/qwen3/config.json")).unwrap();
    let mut config: Value = serde_json::from_slice(&config).unwrap();
    config["head_dim"] = json!(12);
    fs::write(folder.0.join("config.json"), config.to_string()).unwrap();
    for file in ["tokenizer.json", "tokenizer_config.json"] {
        fs::copy(root().join("models/spark").join(file), folder.0.join(file)).unwrap();
    }
    // A delay for load balancers makes no sense where nothing can be served.
    let delay = PATIENCE.as_secs().to_string();
    let args = ["--load-format", "dummy", "--max-model-len", "64", "--drain-delay", &delay];
    let server = Server::start(&[&[folder.0.to_str().unwrap()], &args[..]].concat());
    for _ in 0..5 {
        let prompt = json!({"model": folder.0, "prompt": [5], "max_tokens": 2});
        let (status, answer) = server.post("/v1/completions", &prompt);
        assert_eq!((status, &answer["error"]["code"]), (500, &json!("engine_error")), "{answer}");
    }
    let (status, log) = server.wait_with_log();
    assert_eq!(status.code(), Some(1));
    let last = log.lines().last().unwrap();
    assert!(last.starts_with("sconce: the engine of ") && last.contains("head_dim"), "{last}");
}
