//! `sconce bench generator`: how fast this load generator itself is, against a server in this
//! process that does nothing but stream. What a benchmark shows beyond this is not to be believed.

use std::fmt::Write;
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::thread;

use anyhow::{Context, Result, bail};
use serde_json::json;

use crate::api::Api;
use crate::cli::{GeneratorArgs, ServeArgs};
use crate::drive::Load;
use crate::fake::{self, Script, Step, event, stream_end, stream_head, write};
use crate::output::say;
use crate::quantity::TokenRange;
use crate::result::RunResult;
use crate::serve::{Bench, block_on};

/// Measures and prints.
pub(crate) fn run(args: &GeneratorArgs) -> Result<()> {
    if args.concurrency == 0 || args.chunks < 2 {
        bail!("--concurrency wants at least 1, --chunks at least 2");
    }
    let serve = ServeArgs {
        url: start_server()?,
        api: Api::Completions,
        input_tokens: TokenRange { low: 16, high: 16 },
        output_tokens: Some(TokenRange { low: args.chunks, high: args.chunks }),
        quiet: true,
        ..ServeArgs::default()
    };
    let result = block_on(async {
        let bench = Bench::connect(&serve).await?;
        let load = Load::Closed(args.concurrency);
        bench.measure(load, Some(args.duration), 0, &|_| false).await
    })?;
    say(&(describe(&result) + "\n"))
}

fn describe(result: &RunResult) -> String {
    let per_second = result.total_events as f64 / result.duration;
    let mut text = format!(
        "{} chunks in {:.2} s: {per_second:.0} chunks/s, {} of {} requests failed",
        result.total_events,
        result.duration,
        result.failed,
        result.failed + result.completed
    );
    if let Some(share) = result.generator_health.cpu_share.filter(|share| *share > 0.0) {
        let _ = write!(
            text,
            "\nthe generator's thread used {:.0} % of a core: {:.0} chunks/s on a core of its own, \
             {:.2} us each",
            share * 100.0,
            per_second / share,
            share / per_second * 1e6
        );
    }
    text
}

/// Starts the server on a thread of its own and returns its URL.
fn start_server() -> Result<String> {
    let (sender, receiver) = channel();
    thread::Builder::new().name("fake server".to_owned()).spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let Ok(runtime) = runtime else { return };
        runtime.block_on(async {
            // The receiver waits for it.
            drop(sender.send(fake::serve(script()).await));
            std::future::pending::<()>().await;
        });
    })?;
    receiver.recv().context("the fake server did not start")?
}

/// As many chunks as tokens are asked, each in a write of its own and the streams in turn, as a
/// server sends them.
fn script() -> Arc<Script> {
    let chunk = write(event(&fake::completion_event(" word")));
    Arc::new(move |asked| match asked.line.as_str() {
        "GET /v1/models" => fake::json("200 OK", "", r#"{"data": [{"id": "fake"}]}"#),
        "POST /v1/completions" => {
            let tokens = asked.body["max_tokens"].as_u64().unwrap_or(1);
            let prompt = asked.body["prompt"].as_str().unwrap_or_default();
            let prompt_tokens = prompt.split_whitespace().count();
            let usage = json!({"prompt_tokens": prompt_tokens, "completion_tokens": tokens});
            let usage = json!({"choices": [], "usage": usage}).to_string();
            let mut steps = vec![stream_head()];
            steps.extend((0..tokens).flat_map(|_| [chunk.clone(), Step::Yield]));
            steps.extend([&*usage, "[DONE]"].map(|data| write(event(data))));
            steps.push(stream_end());
            steps
        }
        _ => fake::json("404 Not Found", "", "{}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fake_server_streams_what_is_asked() {
        let asked = |line: &str| fake::Asked {
            line: line.to_owned(),
            head: String::new(),
            body: json!({"max_tokens": 5, "prompt": "a b"}),
        };
        let steps = script()(&asked("POST /v1/completions"));
        let bytes: Vec<u8> = steps
            .iter()
            .flat_map(|step| match step {
                Step::Write(bytes) => bytes.to_vec(),
                Step::Yield => Vec::new(),
                other => panic!("{other:?}"),
            })
            .collect();
        let text = String::from_utf8(bytes).unwrap();
        assert_eq!(text.matches(" word").count(), 5);
        assert!(text.contains(r#""prompt_tokens":2"#) && text.ends_with("0\r\n\r\n"), "{text}");
    }
}
