//! A server that does everything right, then one for each thing that can be wrong: the check that is
//! meant for it finds it, and no other check does.

mod faults;
mod healthy;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::json;

use super::report::{CHECKS, Report};
use super::subject::Subject;
use super::{DoctorArgs, examine};
use crate::fake::{self, Asked, Script};
use crate::serve::block_on;
use faults::{COMPANIONS, FAULTS, NO_ENVELOPE, PLAIN, REFUSED, STREAM};
use healthy::{CHAT, COMPLETIONS, EMBEDDINGS, KEY, State, Told, healthy};

/// What is wrong with a server: it changes answers.
type Fault = Box<dyn Fn(&Asked, &mut Told) + Send + Sync>;

fn examined(fault: Fault) -> Report {
    let state = State::default();
    let script: Arc<Script> = Arc::new(move |asked| {
        let mut told = healthy(asked, &state);
        fault(asked, &mut told);
        told.steps()
    });
    block_on(async {
        let args = DoctorArgs {
            url: fake::serve(script).await?,
            model: Some("fake".to_owned()),
            api_key: Some(KEY.to_owned()),
            timeout: Duration::from_secs(30),
            json: false,
        };
        let mut subject = Subject::connect(&args).await?;
        subject.freed_within = Duration::from_millis(200);
        Ok(examine(&subject).await)
    })
    .unwrap()
}

fn results(report: &Report, result: &str) -> Vec<String> {
    let json = report.json();
    let checks = json["checks"].as_array().unwrap().iter();
    let checks = checks.filter(|check| check["result"] == result);
    checks.map(|check| check["check"].as_str().unwrap().to_owned()).collect()
}

/// Every fault, with a name and the check that is meant to find it.
fn faults() -> Vec<(String, &'static str, Fault)> {
    let rows = FAULTS.iter().copied();
    let refused = REFUSED
        .iter()
        .flat_map(|(check, when)| NO_ENVELOPE.iter().map(|change| (*check, *when, *change)));
    let mut faults: Vec<(String, _, Fault)> = Vec::new();
    for (check, when, change) in rows.chain(refused) {
        let fault = move |asked: &Asked, told: &mut Told| {
            if when(asked) {
                change.make(told);
            }
        };
        faults.push((format!("{change:?}"), check, Box::new(fault)));
    }
    let num_asked = AtomicUsize::new(0);
    let varies = move |asked: &Asked, told: &mut Told| {
        if PLAIN(asked) && num_asked.fetch_add(1, Ordering::Relaxed) > 0 {
            told.json["choices"][0]["message"]["content"] = json!("nine");
        }
    };
    faults.push(("another text".to_owned(), "chat.repeats", Box::new(varies)));
    let has_begun = AtomicBool::new(false);
    let never_frees = move |asked: &Asked, told: &mut Told| {
        has_begun.fetch_or(told.hangs, Ordering::Relaxed);
        if asked.line == "GET /metrics" && has_begun.load(Ordering::Relaxed) {
            told.text = Some("vllm:num_requests_running 1\n".to_owned());
        }
    };
    faults.push(("runs on".to_owned(), "http.cancel", Box::new(never_frees)));
    faults
}

#[test]
fn a_healthy_server_passes_every_check() {
    let report = examined(Box::new(|_, _| ()));
    let passed: BTreeSet<_> = results(&report, "ok").into_iter().collect();
    let expected: BTreeSet<_> = CHECKS.iter().map(|(check, _)| (*check).to_owned()).collect();
    assert_eq!(passed, expected, "{}", report.table());
    assert_eq!(report.num_checks(), CHECKS.len(), "each once");
    let table = report.table();
    let counts = format!("{} ok, 0 wrong, 0 not supported, 0 not shown", CHECKS.len());
    assert!(table.contains(&counts), "{table}");
    assert!(table.lines().all(|line| line.chars().count() < 140), "{table}");
}

#[test]
fn every_check_finds_what_it_is_meant_for_and_nothing_else() {
    let faults = faults();
    let meant: BTreeSet<_> = faults.iter().map(|(_, check, _)| *check).collect();
    for (check, _) in CHECKS {
        assert!(meant.contains(check), "nothing breaks {check}");
    }
    let mut missed = Vec::new();
    for (name, check, fault) in faults {
        let report = examined(fault);
        let mut wrong = results(&report, "wrong");
        wrong.retain(|found| !COMPANIONS.contains(&(check, found)));
        if wrong != [check] {
            missed.push(format!("{name}, meant for {check}: {wrong:?}"));
        }
    }
    assert!(missed.is_empty(), "{}", missed.join("\n"));
}

#[test]
fn what_a_server_cannot_do_is_not_wrong() {
    const FIELDS: [&str; 4] = ["n", "logprobs", "response_format", "tools"];
    let report = examined(Box::new(|asked, told| {
        let refused = FIELDS.iter().any(|field| asked.body.get(field).is_some());
        let missing = [COMPLETIONS, EMBEDDINGS, "GET /metrics", "GET /v1/models/fake"];
        if asked.line == CHAT && refused {
            *told = Told::error(400, "unsupported_parameter", "cannot do this");
        } else if missing.contains(&asked.line.as_str()) {
            *told = Told::error(404, "unknown_url", "no such route");
        }
        told.headers.clear();
    }));
    assert_eq!(report.num_wrong(), 0, "{}", report.table());
    let cannot = results(&report, "not supported").join(" ");
    assert_eq!(
        cannot,
        "models.one options.n options.logprobs options.json_schema tools.whole tools.finish \
         tools.stream tools.result completions.whole completions.stream completions.list \
         embeddings.shape embeddings.base64 http.cors http.request_id http.cancel"
    );
    // It was asked to repeat, and did not.
    assert_eq!(results(&report, "not shown"), ["stream.unicode"]);
}

#[test]
fn an_empty_stream_is_found() {
    let report = examined(Box::new(|asked, told| {
        if STREAM(asked) {
            told.pieces.as_mut().unwrap().clear();
        }
    }));
    assert!(results(&report, "wrong").contains(&"stream.done".to_owned()), "{}", report.table());
}

/// A model that talks on, or has random weights.
#[test]
fn a_call_that_is_cut_short_is_no_fault() {
    let report = examined(Box::new(|asked, told| {
        if faults::CALLS(asked) {
            told.chunks(|chunks| {
                let last = chunks.len() - 1;
                chunks[last]["choices"][0]["finish_reason"] = json!("length");
                chunks.remove(last - 1);
            });
        }
    }));
    assert_eq!(report.num_wrong(), 0, "{}", report.table());
    assert!(results(&report, "not shown").contains(&"tools.stream".to_owned()));
}

#[test]
fn a_short_context_is_no_fault() {
    for length in [1, 2, 40, 256, 300] {
        let report = examined(Box::new(move |asked, told| {
            let too_long = asked.body["messages"][0]["content"].as_str();
            if asked.line == "GET /v1/models" && told.status == 200 {
                told.json["data"][0]["max_model_len"] = json!(length);
            } else if asked.body["max_tokens"] == 0 {
                *told = Told::error(400, "invalid_value", "max_tokens is 0");
            } else if too_long.is_some_and(|text| text == "a ".repeat(length + 1)) {
                let message = format!("This model's maximum context length is {length} tokens.");
                *told = Told::error(400, "context_length_exceeded", &message);
            }
            if told.headers.is_empty() {
                told.headers = healthy(asked, &State::default()).headers;
            }
        }));
        let passed = results(&report, "ok");
        assert_eq!(passed.len(), CHECKS.len(), "{length}: {}", report.table());
    }
}

/// The user's `OPENAI_API_KEY` goes to every server, also to one that wants none.
#[test]
fn a_server_without_keys_is_not_wrong() {
    let state = State::default();
    let report = examined(Box::new(move |asked, told| {
        if told.status == 401 {
            let head = format!("{}\nauthorization: bearer {KEY}", asked.head);
            *told = healthy(&Asked { head, ..asked.clone() }, &state);
        }
    }));
    assert_eq!(report.num_wrong(), 0, "{}", report.table());
    assert_eq!(results(&report, "not supported"), ["errors.bad_key"]);
}
