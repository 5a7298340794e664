//! What cannot start says so in one line and exits with an error; what can, listens at once.

#![expect(clippy::unwrap_used, reason = "a test stops where it cannot go on")]

use serde_json::{Value, json};
use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::process::Stdio;
use tests::{Folder, Server, sconce, wait_until};

/// A golden checkpoint, its configuration changed.
fn checkpoint(name: &str, change: impl FnOnce(&mut Value)) -> Folder {
    let folder = Folder::model(name, change);
    folder.copy("models/golden/qwen3", &["model.safetensors"]);
    folder
}

/// The one line on stderr of a start that must fail, log lines left out.
fn refused(args: &[&str]) -> String {
    let mut all = vec!["serve", "--port", "0", "--log-level", "error"];
    all.extend(args);
    let output = sconce(&all).stdin(Stdio::null()).output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{args:?}: {stderr}");
    let lines: Vec<_> = stderr.lines().collect();
    assert_eq!(lines.len(), 1, "{args:?}: not one line:\n{stderr}");
    assert!(!stderr.contains("panicked"), "{stderr}");
    lines[0].to_owned()
}

#[track_caller]
fn assert_says(line: &str, parts: &[&str]) {
    for part in parts {
        assert!(line.contains(part), "`{part}` is not in: {line}");
    }
}

#[test]
fn a_draft_model_must_speak_the_same_tokens() {
    let other = checkpoint("draft", |_| ());
    let line = refused(&["spark", "--draft-model", other.as_str()]);
    assert_says(&line, &["--draft-model", "vocabulary", "must be the same"]);
    let shuffled = Folder::new("shuffled");
    let files = ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"];
    shuffled.copy("models/spark", &files);
    let mut tokenizer: Value =
        serde_json::from_slice(&fs::read(shuffled.path("tokenizer.json")).unwrap()).unwrap();
    let vocab = tokenizer["model"]["vocab"].as_object_mut().unwrap();
    let (a, b) = (vocab["a"].clone(), vocab["b"].clone());
    let first = a.as_u64().min(b.as_u64()).unwrap();
    (vocab["a"], vocab["b"]) = (b, a);
    shuffled.file("tokenizer.json", &tokenizer.to_string());
    let line = refused(&["spark", "--draft-model", shuffled.as_str()]);
    assert_says(&line, &["--draft-model", &format!("its token {first} is another")]);
}

#[test]
fn a_missing_model_says_what_may_be_given() {
    assert_says(&refused(&["no-such-model"]), &["no-such-model", "config.json", "spark"]);
    assert_says(&refused(&["nobody/nothing"]), &["nobody/nothing", "HF_HUB_OFFLINE"]);
    let empty = checkpoint("empty", |_| ());
    fs::remove_file(empty.path("config.json")).unwrap();
    assert_says(&refused(&[empty.as_str()]), &["config.json"]);
}

#[test]
fn a_bad_checkpoint_names_file_tensor_and_shapes() {
    let folder = checkpoint("missing-weights", |_| ());
    fs::remove_file(folder.path("model.safetensors")).unwrap();
    assert_says(&refused(&[folder.as_str()]), &["model.safetensors"]);

    let folder = checkpoint("corrupt-weights", |_| ());
    folder.file("model.safetensors", "this is not a safetensors file");
    assert_says(&refused(&[folder.as_str()]), &["model.safetensors"]);

    let folder = checkpoint("truncated-weights", |_| ());
    let bytes = fs::read(folder.path("model.safetensors")).unwrap();
    fs::write(folder.path("model.safetensors"), &bytes[..bytes.len() - 100]).unwrap();
    assert_says(&refused(&[folder.as_str()]), &["model.safetensors"]);

    let folder = checkpoint("wrong-shape", |config| config["intermediate_size"] = json!(8));
    assert_says(&refused(&[folder.as_str()]), &["mlp", "shape"]);

    let folder = checkpoint("missing-tensor", |config| {
        config["num_hidden_layers"] = json!(config["num_hidden_layers"].as_u64().unwrap() + 1);
        config.as_object_mut().unwrap().remove("layer_types");
    });
    assert_says(&refused(&[folder.as_str()]), &["model.layers."]);
}

#[test]
fn a_bad_config_names_the_key() {
    let unknown = json!(["ParrotForCausalLM"]);
    let folder = checkpoint("architecture", |config| config["architectures"] = unknown);
    assert_says(&refused(&[folder.as_str()]), &["architectures", "ParrotForCausalLM", "supported"]);
    folder.file("config.json", "{\"architectures\": [");
    assert_says(&refused(&[folder.as_str()]), &["config.json", "line 1"]);
}

#[test]
fn a_broken_template_is_refused_at_the_start() {
    let folder = checkpoint("template", |_| ());
    folder.file("chat_template.jinja", "{% for m in messages %}{{ m.content }");
    assert_says(&refused(&[folder.as_str()]), &["template", "line 1"]);
}

#[test]
fn a_missing_tokenizer_says_what_to_do() {
    let folder = checkpoint("tokenizer", |_| ());
    fs::remove_file(folder.path("tokenizer.json")).unwrap();
    assert_says(&refused(&[folder.as_str()]), &["tokenizer.json"]);
}

#[test]
fn settings_are_checked_by_name() {
    assert_says(&refused(&["--config", "/no/such.toml"]), &["--config", "/no/such.toml"]);
    let folder = Folder::new("settings");
    let config = folder.file("sconce.toml", "max-num-seqs = \"many\"\n");
    assert_says(&refused(&["--config", &config]), &["max-num-seqs"]);
    folder.file("sconce.toml", "max-nun-seqs = 3\n");
    assert_says(&refused(&["--config", &config]), &["max-nun-seqs", "max-num-seqs"]);
    assert_says(&refused(&["--host", "somewhere"]), &["--host", "somewhere"]);
    assert_says(&refused(&["--max-model-len", "99999999"]), &["--max-model-len"]);
    assert_says(&refused(&["--max-num-seqs", "0"]), &["--max-num-seqs"]);
    let recorded = ["spark", "--runner", "pooling", "--cudagraph-capture-sizes", "4"];
    assert_says(&refused(&recorded), &["--cudagraph-capture-sizes", "pools"]);
    assert_says(&refused(&["--kv-cache-memory-bytes", "3 parsecs"]), &["parsecs"]);
    assert_says(&refused(&["--num-gpu-blocks-override", "1"]), &["--num-gpu-blocks-override"]);
}

#[test]
fn a_port_in_use_says_so() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let output = sconce(&["serve", "--port", &port, "--log-level", "error"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_says(&stderr, &[&port, "in use", "--port"]);
}

#[test]
fn environment_is_stronger_than_the_file_and_flags_than_both() {
    let folder = Folder::new("precedence");
    let settings = "max-model-len = 100\nmax-num-seqs = 3\nblock-size = 8\n";
    let file = folder.file("sconce.toml", settings);
    let mut command = sconce(&["plan", "spark", "--config", &file]);
    let output = command.env("SCONCE_MAX_MODEL_LEN", "200").arg("--block-size=4").output().unwrap();
    let plan = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{plan}");
    assert_says(&plan, &["3.0 sequences of 200 tokens", "blocks of 4"]);
}

#[test]
fn it_listens_while_it_loads_and_says_so() {
    // Weights of a few hundred million parameters take seconds to make in this profile.
    let folder = Folder::model("loading", |config| {
        config["hidden_size"] = json!(1024);
        config["intermediate_size"] = json!(4096);
        config["num_hidden_layers"] = json!(12);
        config["vocab_size"] = json!(8192);
        config.as_object_mut().unwrap().remove("layer_types");
    });
    let server =
        Server::launch(&[folder.as_str(), "--load-format", "dummy", "--max-model-len", "64"]);
    let (alive, _) = server.get("/health");
    assert_eq!(alive, 200);
    let (status, body) = server.get("/ready");
    if status != 200 {
        assert_eq!(status, 503, "{body}");
        assert!(body.contains("loading"), "{body}");
    }
    wait_until("ready", || server.get("/ready").0 == 200);
    let body = json!({"prompt": [1, 2, 3], "max_tokens": 2, "ignore_eos": true});
    let answer = server.ok("/v1/completions", &body);
    assert_eq!(answer["usage"]["completion_tokens"], 2);
    let log = server.log_so_far();
    assert!(log.contains("the processor computes with "), "{log}");
    assert!(Path::new(folder.as_str()).exists());
}

#[test]
fn it_computes_with_no_more_than_it_may() {
    let server = Server::start(&["--max-cpu-isa", "portable"]);
    let body = json!({"prompt": "Once", "max_tokens": 4, "temperature": 0});
    let answer = server.ok("/v1/completions", &body);
    assert_eq!(answer["usage"]["completion_tokens"], 4);
    let log = server.log_so_far();
    assert!(log.contains("the processor computes with portable instructions"), "{log}");
}

/// As `sconce plan | head` does.
#[test]
fn who_stops_reading_the_output_ends_the_command_without_noise() {
    for command in [&["plan", "spark"][..], &["keys", "new", "--name", "a", "--json"]] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let output = sconce(command).stdout(writer).stderr(Stdio::piped()).output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success() && !stderr.contains("panic"), "{stderr}");
    }
}

/// What the plan says is there from the start: no request can be the one that finds it lacking.
#[test]
#[cfg(target_os = "linux")]
fn the_cache_is_resident_before_the_first_request() {
    let server = Server::start(&["--kv-cache-memory-bytes", "256MiB"]);
    let status = fs::read_to_string(format!("/proc/{}/status", server.pid())).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    let resident: usize = line.split_whitespace().nth(1).unwrap().parse().unwrap();
    assert!(resident >= 256 << 10, "{resident} KiB");
}
