//! `sconce bench` as people run it, against a real server and a real engine. No figure of speed is
//! looked at.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use serde_json::Value;
use std::fs;
use std::path::PathBuf;
use tests::{Server, sconce};

/// Runs `sconce bench ARGS -o FILE` and reads the file.
fn bench(name: &str, args: &[&str]) -> (Value, String) {
    let file = temporary(&format!("{name}.json"));
    let mut all = vec!["bench"];
    all.extend(args);
    all.extend(["--output", file.to_str().unwrap()]);
    let output = sconce(&all).output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{args:?}: {stderr}");
    let json = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    fs::remove_file(file).unwrap();
    (json, String::from_utf8(output.stdout).unwrap())
}

fn temporary(name: &str) -> PathBuf {
    std::env::temp_dir().join(format!("sconce-bench-{}-{name}", std::process::id()))
}

#[test]
fn prompts_have_the_length_that_the_server_counts() {
    let server = Server::start(&[]);
    for api in ["chat", "completions"] {
        let (json, text) = bench(
            api,
            &[
                "serve",
                "--url",
                &server.url,
                "--api",
                api,
                "--requests",
                "12",
                "--concurrency",
                "3",
                "--input-tokens",
                "40..90",
                "--output-tokens",
                "4..9",
                "--warmup",
                "1",
                "--prefix-tokens",
                "20",
                "--seed",
                "3",
            ],
        );
        assert_eq!(json["completed"], 12, "{text}");
        assert_eq!(json["failed"], 0);
        assert_eq!(json["token_source"], "server_tokenizer");
        assert_eq!(json["input_length_mismatches"], 0);
        assert_eq!(json["output_length_mismatches"], 0);
        let tokens = json["total_input_tokens"].as_u64().unwrap();
        assert!((12 * 60..=12 * 110).contains(&tokens), "{tokens}");
        assert!(text.contains("Time to first token"), "{text}");
    }
    // The server saw what the generator says it sent: twelve and a warm-up each, and the look at
    // the server before.
    assert!(server.metric("vllm:request_success_total") >= 26.0);
}

#[test]
fn conversations_sweeps_and_a_report() {
    let server = Server::start(&[]);
    let report = temporary("report.html");
    let args = [
        "serve",
        "--url",
        &server.url,
        "--rate",
        "50,inf",
        "--requests",
        "4",
        "--turns",
        "2",
        "--input-tokens",
        "40",
        "--output-tokens",
        "4",
        "--report",
        report.to_str().unwrap(),
    ];
    let (json, _) = bench("sweep", &args);
    for run in json["runs"].as_array().unwrap() {
        assert_eq!((&run["completed"], &run["failed"]), (&8.into(), &0.into()), "{run}");
    }
    let html = fs::read_to_string(&report).unwrap();
    fs::remove_file(report).unwrap();
    assert!(html.contains("<svg") && !html.contains("<script"));
}

#[test]
fn the_engine_alone() {
    let lengths = ["--input-tokens", "16", "--output-tokens", "5"];
    let latency = ["latency", "spark", "--batch-size", "3", "--iterations", "2"];
    let (json, _) = bench("latency", &[&latency[..], &lengths[..]].concat());
    assert_eq!(json["completed"], 6);
    assert_eq!(json["total_output_tokens"], 30);
    assert_eq!(json["latencies"].as_array().unwrap().len(), 2);
    let throughput = ["throughput", "spark", "--requests", "7"];
    let (json, _) = bench("throughput", &[&throughput[..], &lengths[..]].concat());
    assert_eq!((&json["num_requests"], &json["total_num_tokens"]), (&7.into(), &147.into()));
}

#[test]
fn a_start_is_measured_in_order() {
    let (json, _) = bench("startup", &["startup", "--runs", "1"]);
    let at = |name: &str| json["starts"][0][name].as_f64().unwrap();
    assert!(at("listening_ms") > 0.0 && at("listening_ms") <= at("ready_ms"), "{json}");
    assert!(at("ready_ms") < at("first_token_ms"), "{json}");
}
