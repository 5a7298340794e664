//! Whole benchmarks against a server in this process, whose every byte and pause is known.

mod failures;
mod figures;
mod servers;
mod workload;

use std::sync::Arc;

use clap::Parser;
use serde_json::{Value, json};

use crate::cli::{BenchCommand, ServeArgs};
use crate::fake::{self, Asked, Script, Step, event, stream_end, stream_head, write};
use crate::result::RunResult;
use crate::serve::Bench;

#[derive(Debug, Parser)]
struct Cli {
    #[command(subcommand)]
    command: BenchCommand,
}

fn args(url: &str, flags: &str) -> ServeArgs {
    let words = ["bench", "serve", "--quiet", "--url", url].into_iter();
    let cli = Cli::try_parse_from(words.chain(flags.split_whitespace()));
    match cli.unwrap_or_else(|error| panic!("{error}")).command {
        BenchCommand::Serve(args) => *args,
        other => panic!("{other:?}"),
    }
}

/// Runs `sconce bench serve FLAGS` against the script.
fn bench(script: Arc<Script>, flags: &str) -> anyhow::Result<Vec<RunResult>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let url = fake::serve(script).await.unwrap();
        let args = args(&url, flags);
        let bench = Bench::connect(&args).await?;
        let outcome = bench.sweep().await;
        outcome.ended.map(|()| outcome.runs)
    })
}

fn one(script: Arc<Script>, flags: &str) -> RunResult {
    let mut results = bench(script, flags).unwrap_or_else(|error| panic!("{error:#}"));
    assert_eq!(results.len(), 1);
    results.remove(0)
}

/// Tokens of a text to the fake server: words of more than three letters are two.
fn num_tokens(text: &str) -> usize {
    text.split_whitespace().map(|word| if word.len() > 3 { 2 } else { 1 }).sum()
}

/// The prompt, of any API, and seven tokens of a template.
fn prompt_tokens(body: &Value) -> usize {
    let text = |value: &Value| num_tokens(value.as_str().unwrap_or(""));
    let messages = body["messages"].as_array().or(body["input"].as_array());
    let messages = messages.map_or(0, |m| m.iter().map(|m| text(&m["content"])).sum());
    7 + text(&body["prompt"]) + messages
}

fn usage(asked: &Asked, completion_tokens: u64) -> Value {
    json!({"prompt_tokens": prompt_tokens(&asked.body), "completion_tokens": completion_tokens})
}

/// The events of a good chat answer: the role, a word a token, the end, the usage.
fn chat_events(asked: &Asked) -> Vec<String> {
    let tokens = asked.body["max_tokens"].as_u64().unwrap();
    let delta = |delta: Value| json!({"choices": [{"index": 0, "delta": delta}]}).to_string();
    let mut events = vec![delta(json!({"role": "assistant", "content": ""}))];
    events.extend((0..tokens).map(|number| delta(json!({"content": format!("w{number} ")}))));
    let end = json!({"choices": [{"delta": {}, "finish_reason": "length"}]});
    events.push(end.to_string());
    events.push(json!({"choices": [], "usage": usage(asked, tokens)}).to_string());
    events.push("[DONE]".to_owned());
    events
}

fn stream(events: &[String]) -> Vec<Step> {
    let mut steps = vec![stream_head()];
    steps.extend(events.iter().map(|data| write(event(data))));
    steps.push(stream_end());
    steps
}

/// A server with one model and no tokenizer, whose generation is `answer`.
fn server(answer: impl Fn(&Asked) -> Vec<Step> + Send + Sync + 'static) -> Arc<Script> {
    Arc::new(move |asked| match asked.line.as_str() {
        "GET /v1/models" => fake::json("200 OK", "", r#"{"data": [{"id": "fake"}]}"#),
        line if line.starts_with("POST /v1/") => answer(asked),
        _ => fake::json("404 Not Found", "", r#"{"error": {"message": "no such path"}}"#),
    })
}

/// The same, but only the requests of the run itself get `answer`: those before are well served.
/// Warm-ups are to be switched off.
fn after_looking(answer: impl Fn(&Asked) -> Vec<Step> + Send + Sync + 'static) -> Arc<Script> {
    server(move |asked| {
        // No look at the server asks for as many tokens.
        let looking = asked.body["max_tokens"].as_u64() != Some(5);
        if looking { stream(&chat_events(asked)) } else { answer(asked) }
    })
}

const RUN: &str = "--requests 6 --concurrency 2 --warmup 0 --input-tokens 20..30 --output-tokens 5";
