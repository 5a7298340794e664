//! What operators meet: an engine that cannot work, metrics, and what is made of them.

use serde_json::json;
use std::collections::BTreeMap;
use std::fs;
use tests::{Folder, KEY, PATIENCE, Server, client_answers, python, root, wait_until};

/// Heads that attention has no kernel for: the model loads, and every step fails. Each request hears
/// of it, and the server begins anew at the same port. When that has not helped three times, the process
/// ends, so that whoever started it starts it elsewhere.
#[test]
fn an_engine_that_only_fails_begins_anew_and_at_last_ends() {
    let folder = Folder::model("broken", |config| config["head_dim"] = json!(12));
    // A delay for load balancers makes no sense where nothing can be served.
    let delay = PATIENCE.as_secs().to_string();
    let args = ["--load-format", "dummy", "--max-model-len", "64", "--drain-delay", &delay];
    let server = Server::start(&[&[folder.as_str()], &args[..]].concat());
    let mut log = String::new();
    for num_restarts in 0..4 {
        wait_until("the server begins anew", || {
            log += &server.log_so_far();
            log.matches("begins anew in its place").count() == num_restarts
        });
        wait_until("the server is ready", || server.try_get("/ready") == Some(200));
        let has_begun_anew =
            server.get("/metrics").1.contains("\nsconce:server_restart_time_seconds 1");
        assert_eq!(has_begun_anew, num_restarts > 0);
        for _ in 0..5 {
            let prompt = json!({"model": folder.as_str(), "prompt": [5], "max_tokens": 2});
            let (status, answer) = server.post("/v1/completions", &prompt);
            let code = &answer["error"]["code"];
            assert_eq!((status, code), (500, &json!("engine_error")), "{answer}");
        }
    }
    let (status, log) = server.wait_with_log();
    assert_eq!(status.code(), Some(1));
    // Threads that prepare something may log behind it until the process is gone.
    let reason = log.lines().find(|line| line.starts_with("sconce: "));
    let tells =
        |line: &str| line.starts_with("sconce: the engine of ") && line.contains("head_dim");
    assert!(reason.is_some_and(tells), "{log}");
}

/// A server that has answered, so that everything that it can count has come up.
fn used(folder: &Folder) -> Server {
    let log = folder.path("access.jsonl");
    let args = ["--access-log", &log, "--dtype", "float32", "--enable-mfu-metrics"];
    let server = Server::start(&[&["--api-key", KEY], &args[..]].concat());
    let question = json!([{"role": "user", "content": "What is the capital of France?"}]);
    let body = json!({"messages": question, "n": 2, "max_tokens": 8, "temperature": 0});
    server.ok("/v1/chat/completions", &body);
    server.stream("/v1/chat/completions", &body);
    // A request is counted when its answer has left.
    let count = || server.metric_with("http_requests_total", "chat");
    wait_until("the requests are counted", || count() >= 2.0);
    server
}

/// Prometheus' parsers read the page in both formats, and the dashboard and the alerts ask for
/// nothing that is not there.
#[test]
fn metrics_are_read_by_those_who_ask_for_them() {
    let folder = Folder::new("scraped");
    let server = used(&folder);
    let root = root();
    let args = [server.url.as_str(), root.to_str().unwrap()];
    let found = client_answers(&python("python-metrics"), "metrics_reader.py", &args);
    let counts = (found["exposed"].as_u64(), found["asked"].as_u64());
    assert!(counts.0 > Some(60) && counts.1 > Some(30), "{found:?}");
}

#[test]
fn what_steps_ask_of_the_device_is_counted() {
    let server = used(&Folder::new("counted"));
    let read = || server.metric("vllm:estimated_read_bytes_per_gpu_total");
    let flops = || server.metric("vllm:estimated_flops_per_gpu_total");
    let steps = || server.metric("sconce:engine_steps_total");
    // Of spark, whose weights every step reads: 3.7 million of them here, of four bytes.
    let per_step = read() / steps();
    assert!((14e6..20e6).contains(&per_step), "{per_step}");
    assert!(flops() > 2.0 * 3e6 * 20.0, "{}", flops());
    for rate in ["sconce:device_bytes_per_second", "sconce:device_flops_per_second"] {
        assert!(server.metric(rate) > 1e7, "{rate}");
    }
    let (_, page) = Server::start(&[]).get("/metrics");
    assert!(!page.contains("estimated_") && !page.contains("sconce:device_"), "{page}");
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
