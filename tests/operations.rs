//! What operators meet: an engine that cannot work, metrics, and what is made of them.

#![expect(clippy::unwrap_used, reason = "a test stops where it cannot go on")]

use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};
use tests::{KEY, PATIENCE, Server, root};

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

/// A server that has answered, so that everything that it can count has come up.
fn used(folder: &Folder) -> Server {
    let log = folder.0.join("access.jsonl");
    let log = log.to_str().unwrap();
    let server = Server::start(&["--api-key", KEY, "--access-log", log, "--dtype", "float32"]);
    let question = json!([{"role": "user", "content": "What is the capital of France?"}]);
    let body = json!({"messages": question, "n": 2, "max_tokens": 8, "temperature": 0});
    server.ok("/v1/chat/completions", &body);
    server.stream("/v1/chat/completions", &body);
    // A request is counted when its answer has left.
    let count = || server.metric_with("http_requests_total", "chat");
    let deadline = Instant::now() + PATIENCE;
    while count() < 2.0 {
        assert!(Instant::now() < deadline, "the requests are not counted");
        std::thread::sleep(Duration::from_millis(10));
    }
    server
}

/// Prometheus' parsers read the page in both formats, and the dashboard and the alerts ask for
/// nothing that is not there.
#[test]
fn metrics_are_read_by_those_who_ask_for_them() {
    let folder = Folder::new("scraped");
    let server = used(&folder);
    let python = root().join("target/test-env/python-metrics/bin/python");
    let script = root().join("tests/clients/metrics_reader.py");
    let output = Command::new(&python).arg(script).arg(&server.url).arg(root()).output();
    let output = output.unwrap_or_else(|error| panic!("{}: {error}", python.display()));
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}");
    let found: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(found["exposed"].as_u64() > Some(60) && found["asked"].as_u64() > Some(30), "{found}");
}

/// `docs/operations.md` has every family of a running server, with its help and its buckets.
#[test]
fn metrics_are_documented() {
    let folder = Folder::new("documented");
    let (_, page) = used(&folder).get("/metrics");
    let mut families: BTreeMap<&str, [&str; 2]> = BTreeMap::new();
    let mut bounds: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for line in page.lines() {
        if let Some((name, help)) = line.strip_prefix("# HELP ").and_then(|it| it.split_once(' ')) {
            families.insert(name, ["", help]);
        } else if let Some((name, kind)) =
            line.strip_prefix("# TYPE ").and_then(|it| it.split_once(' '))
        {
            families.get_mut(name).unwrap()[0] = kind;
        } else if let Some((name, labels)) = line.split_once("_bucket{") {
            let bound = labels.split_once("le=\"").unwrap().1.split_once('"').unwrap().0;
            let bounds = bounds.entry(name).or_default();
            if bound != "+Inf" && !bounds.contains(&bound) {
                bounds.push(bound);
            }
        }
    }
    let rows = families.iter().map(|(name, [kind, help])| {
        let buckets = bounds.get(name).map(|bounds| bounds.join(" ")).unwrap_or_default();
        // These go as far as the model's context does.
        let tokens = "1 2 5 10 20 50 100 200 500 1000 2000";
        let buckets = if buckets.starts_with(tokens) {
            "1 2 5 10 20 50 ... as far as `--max-model-len`".to_owned()
        } else {
            buckets
        };
        format!("| `{name}` | {kind} | {help} | {buckets} |\n")
    });
    let table =
        "| name | type | | bounds |\n|---|---|---|---|\n".to_owned() + &rows.collect::<String>();
    let docs = fs::read_to_string(root().join("docs/operations.md")).unwrap();
    let (_, rest) = docs.split_once("<!-- metrics: written by tests/operations.rs -->\n").unwrap();
    let (written, _) = rest.split_once("<!-- end of metrics -->").unwrap();
    assert!(written == table, "docs/operations.md should have\n{table}");
}
