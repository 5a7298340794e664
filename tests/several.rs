//! Several models in one process: shares of the memory, one thread pool, reloads, a start that fails.

use serde_json::{Value, json};
use std::fs;
use tests::{Folder, Server, root, sconce, wait_until};

fn answer(server: &Server, model: &str) -> Value {
    let messages = json!([{"role": "user", "content": "What is 17 + 25?"}]);
    let body = json!({"model": model, "messages": messages, "temperature": 0});
    server.ok("/v1/chat/completions", &body)
}

fn prompt(server: &Server, model: &str) -> Value {
    let messages = json!([{"role": "user", "content": "hi"}]);
    let body = json!({"model": model, "messages": messages});
    let tokens = server.ok("/tokenize", &body)["tokens"].clone();
    server.ok("/detokenize", &json!({"model": model, "tokens": tokens}))["prompt"].clone()
}

#[test]
fn two_models_answer_side_by_side() {
    let folder = Folder::new("several");
    let template = folder.file("chat.jinja", "old {{ messages[0].content }}");
    let config = folder.file(
        "sconce.toml",
        &format!(
            "num-threads = 3\n\
             [[models]]\nmodel = \"spark\"\nserved-model-name = [\"chat\", \"best\"]\n\
             kv-cache-memory-bytes = \"8MiB\"\n\
             [[models]]\nmodel = \"spark\"\nserved-model-name = \"short\"\nmax-model-len = 128\n\
             chat-template = \"{template}\"\n"
        ),
    );
    let server = Server::start(&["--config", &config]);
    let (_, models) = server.get("/v1/models");
    let models: Value = serde_json::from_str(&models).unwrap();
    let cards = models["data"].as_array().unwrap().iter();
    let cards: Vec<_> = cards.map(|card| (&card["id"], &card["root"])).collect();
    let (chat, best, short) = (&json!("chat"), &json!("best"), &json!("short"));
    assert_eq!(cards, [(chat, chat), (best, chat), (short, short)]);
    for (name, reported) in [("chat", "chat"), ("best", "chat"), ("short", "short")] {
        assert_eq!(answer(&server, name)["model"], reported);
    }
    assert_eq!(answer(&server, "best")["choices"][0]["message"]["content"], "17 + 25 = 42.");
    let (status, error) = server.post("/v1/completions", &json!({"model": "spark", "prompt": "x"}));
    assert_eq!((status, &error["error"]["code"]), (404, &json!("model_not_found")));
    let series = "vllm:request_success_total";
    assert_eq!(server.metric_with(series, "model_name=\"chat\",finished_reason=\"stop\""), 3.0);
    assert!(server.metric_with("vllm:cache_config_info", "model_name=\"short\"") > 0.0);
    #[cfg(target_os = "linux")]
    {
        let threads = fs::read_dir(format!("/proc/{}/task", server.pid())).unwrap();
        let names = threads.map(|thread| fs::read_to_string(thread.unwrap().path().join("comm")));
        let pool =
            names.filter(|name| name.as_ref().is_ok_and(|name| name.starts_with("kernels-")));
        assert_eq!(pool.count(), 2, "two workers for both, beside the engine that calls them");
    }
    // SIGHUP reads what is of one model for that model.
    let before = prompt(&server, "chat");
    assert_eq!(prompt(&server, "short"), "old hi");
    folder.file("chat.jinja", "new {{ messages[0].content }}");
    server.signal("HUP");
    wait_until("the new template", || prompt(&server, "short") == "new hi");
    assert_eq!(prompt(&server, "chat"), before);
    server.signal("TERM");
    assert!(server.wait().success());
}

#[test]
fn a_model_that_cannot_be_loaded_ends_the_start_and_is_named() {
    let folder = Folder::new("several-broken");
    folder.copy("models/golden/qwen3", &["config.json", "model.safetensors"]);
    let broken = folder.as_str();
    for models in [["--model", "spark", "--model", broken], ["serve", "spark", broken, "--port=0"]]
    {
        let mut command = sconce(&models);
        command.args(["--log-level", "error"]).env("SCONCE_HTTP_PORT", "0");
        let output = command.output().unwrap();
        assert_eq!(output.status.code(), Some(1));
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert!(stderr.contains(&format!("model {broken}: ")), "{stderr}");
        assert!(stderr.contains("tokenizer.json"), "{stderr}");
    }
}

#[test]
fn the_plan_shows_all_and_refuses_what_does_not_fit_together() {
    let folder = Folder::new("several-plan");
    let golden = root().join("models/golden/qwen3");
    let other = golden.to_str().unwrap();
    let output = sconce(&["plan", "spark", other, "--max-model-len=64"]).output().unwrap();
    let plan = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{plan}");
    for part in ["spark: ", &format!("{other}: "), "2 models: "] {
        assert!(plan.contains(part), "{part}\n{plan}");
    }
    let rows = |name: &str| plan.lines().filter(|line| line.trim().starts_with(name)).count();
    assert_eq!((rows("KV cache"), rows("available")), (2, 2), "{plan}");
    let entry = |name: &str| {
        format!(
            "[[models]]\nmodel = \"spark\"\nserved-model-name = \"{name}\"\nkv-cache-memory-bytes = \"9000GiB\"\n"
        )
    };
    let config = folder.file("sconce.toml", &format!("{}{}", entry("a"), entry("b")));
    let output = sconce(&["plan", "--config", &config]).output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(stderr.contains("the models need") && stderr.contains("together"), "{stderr}");
}

#[test]
fn what_is_for_one_model_refuses_several() {
    for args in [
        &["chat", "spark", "/x"][..],
        &["serve", "spark", "/x", "--draft-model", "spark"],
        &["serve", "spark", "--model", "/x"],
    ] {
        let output = sconce(args).output().unwrap();
        assert!(!output.status.success(), "{args:?}");
        let stderr = String::from_utf8(output.stderr).unwrap();
        let named = ["one model", "--draft-model is of one model", "cannot be used with"];
        assert!(named.iter().any(|part| stderr.contains(part)), "{args:?}: {stderr}");
    }
}
