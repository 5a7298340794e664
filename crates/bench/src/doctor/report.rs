//! Every check with the reason for it, and what was found, for people and for programs.

use std::fmt::Write;

use serde_json::{Value, json};

use super::subject::Subject;
use super::verdict::{Trouble, Verdict};

/// What is looked at, and which client wants it.
pub(super) const CHECKS: &[(&str, &str)] = &[
    ("models.list", "Open WebUI, LobeChat and SDKs find models by object, data and id"),
    ("models.one", "SDKs look a model up by its name"),
    (
        "chat.shape",
        "SDKs read id, object, created, model and choices by type; a wrong content type gives openai-node a string",
    ),
    ("chat.message", "LangChain, LlamaIndex and LiteLLM fail without message.role"),
    ("chat.finish", "agents go by finish_reason; what they do not know they take for stop"),
    ("chat.usage", "bills and limits add these up"),
    (
        "chat.repeats",
        "a seed at temperature 0 that gives two texts makes tests and evaluations worthless",
    ),
    (
        "stream.head",
        "browsers and proxies treat only text/event-stream as a stream, and none that is compressed",
    ),
    (
        "stream.framing",
        "clients fail at empty data, other fields than data, and what is no JSON; routers look for `data: `",
    ),
    (
        "stream.pieces",
        "readers without a buffer lose events that are cut; a stream that comes at once is none",
    ),
    ("stream.done", "without the end a cut answer is taken for a whole one"),
    (
        "stream.chunks",
        "accumulators join chunks by id and choices by index; choices:null raises in Python",
    ),
    ("stream.role", "openai-node's accumulator fails without a role in the first delta"),
    (
        "stream.finish",
        "the AI SDK fails without a finish_reason, others take a half answer for a whole one",
    ),
    ("stream.no_usage", "LangChain adds up usage that comes unasked: bills double"),
    (
        "stream.usage",
        "usage in a last chunk with choices:[]; LlamaIndex and the AI SDK fail without choices",
    ),
    ("stream.equals_whole", "the same request must say the same, streamed or not"),
    ("stream.unicode", "a character cut in two becomes U+FFFD for good"),
    ("options.max_tokens", "a cut answer must say length, or agents take it for complete"),
    ("options.stop", "ReAct agents stop at strings that must not be in the text"),
    ("options.n", "each choice has its index"),
    ("options.logprobs", "evaluation harnesses read token, logprob, bytes and top_logprobs"),
    ("options.json_schema", "programs parse what comes without looking"),
    ("tools.whole", "a call without id, type, name or with arguments as an object cannot be run"),
    ("tools.finish", "agent loops keyed on tool_calls stop early at stop"),
    ("tools.stream", "accumulators need index, id, type and name once, and join what is repeated"),
    ("tools.result", "the second half of every agent's turn"),
    ("completions.whole", "evaluation harnesses, gateways and load generators still ask here"),
    ("completions.stream", "the same text, and the end"),
    ("completions.list", "harnesses send prompts in lists and go by index"),
    ("embeddings.shape", "one vector a text, in order, all of one length, with usage"),
    ("embeddings.base64", "openai-python asks for base64 unless told otherwise"),
    ("errors.bad_json", "every error needs the envelope, or SDKs show only its number"),
    ("errors.wrong_type", "a fault of the caller must not be retried as 5xx is"),
    ("errors.missing_field", "a fault of the caller must not be retried as 5xx is"),
    ("errors.unknown_model", "gateways fall back by 404 and model_not_found"),
    ("errors.bad_key", "401 is what SDKs raise AuthenticationError for"),
    (
        "errors.too_long",
        "LangChain and LiteLLM look for context_length_exceeded and `maximum context length is`",
    ),
    ("errors.unknown_route", "404 in the envelope tells a wrong base URL from a missing model"),
    ("errors.wrong_method", "405 in the envelope, not a page of HTML"),
    ("http.cors", "browsers ask first, without a key; LobeChat and Open WebUI call from the page"),
    ("http.head", "Claude Code sends HEAD / first, and so do probes"),
    ("http.request_id", "one name for a request in the logs of client, gateway and server"),
    ("http.cancel", "a client that leaves must free its place, or nobody else gets one"),
];

/// What an examination found.
#[derive(Debug)]
pub(super) struct Report {
    url: String,
    model: String,
    findings: Vec<Finding>,
}

#[derive(Debug)]
struct Finding {
    check: &'static str,
    why: &'static str,
    verdict: Verdict,
}

impl Finding {
    fn result(&self) -> &'static str {
        match &self.verdict {
            Ok(_) => "ok",
            Err(Trouble::Wrong(_)) => "wrong",
            Err(Trouble::NotSupported(_)) => "not supported",
            Err(Trouble::NotShown(_)) => "not shown",
        }
    }

    fn seen(&self) -> &str {
        match &self.verdict {
            Ok(seen)
            | Err(Trouble::Wrong(seen) | Trouble::NotSupported(seen) | Trouble::NotShown(seen)) => {
                seen
            }
        }
    }
}

impl Report {
    pub(super) fn new(subject: &Subject) -> Self {
        let (url, model) = (subject.url.clone(), subject.model.clone());
        Self { url, model, findings: Vec::new() }
    }

    /// Writes down what a check of [`CHECKS`] found.
    pub(super) fn add(&mut self, check: &str, verdict: Verdict) {
        let listed = CHECKS.iter().find(|(listed, _)| *listed == check);
        let &(check, why) = listed.unwrap_or_else(|| panic!("{check} is not in CHECKS"));
        self.findings.push(Finding { check, why, verdict });
    }

    pub(super) fn num_checks(&self) -> usize {
        self.findings.len()
    }

    pub(super) fn num_wrong(&self) -> usize {
        self.count("wrong")
    }

    fn count(&self, result: &str) -> usize {
        self.findings.iter().filter(|finding| finding.result() == result).count()
    }

    /// For programs.
    pub(super) fn json(&self) -> Value {
        let checks = self.findings.iter().map(|finding| {
            json!({"check": finding.check, "result": finding.result(), "seen": finding.seen(),
                   "why": finding.why})
        });
        let counts = RESULTS.iter().map(|&result| (result.to_owned(), self.count(result).into()));
        json!({"url": self.url, "model": self.model, "checks": checks.collect::<Vec<_>>(),
               "counts": counts.collect::<serde_json::Map<_, _>>()})
    }

    /// For people.
    pub(super) fn table(&self) -> String {
        let mut text = format!("{} at {}\n\n", self.model, self.url);
        row(&mut text, ["check", "result", "seen", "why it matters"]);
        for finding in &self.findings {
            let result = finding.result();
            let loud = if result == "wrong" { "WRONG" } else { result };
            row(&mut text, [finding.check, loud, finding.seen(), finding.why]);
        }
        let counts = RESULTS.iter().map(|result| format!("{} {result}", self.count(result)));
        let _ = writeln!(text, "\n{}", counts.collect::<Vec<_>>().join(", "));
        text
    }
}

const RESULTS: [&str; 4] = ["ok", "wrong", "not supported", "not shown"];
/// Characters of the table's columns.
const WIDTHS: [usize; 4] = [21, 14, 44, 44];

fn row(text: &mut String, cells: [&str; 4]) {
    let cells: Vec<_> = cells.iter().zip(WIDTHS).map(|(cell, width)| wrap(cell, width)).collect();
    let height = cells.iter().map(Vec::len).max().unwrap_or(0);
    for line in 0..height {
        let columns = cells.iter().zip(WIDTHS).map(|(cell, width)| {
            format!("{:<width$}  ", cell.get(line).map_or("", String::as_str))
        });
        text.push_str(columns.collect::<String>().trim_end());
        text.push('\n');
    }
}

/// Lines of at most `width` characters, broken at spaces where there are any.
fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        let letters: Vec<char> = word.chars().collect();
        for part in letters.chunks(width) {
            let line = lines.last_mut().expect("there is a line");
            let used = line.chars().count();
            if used == 0 {
                line.extend(part);
            } else if used + 1 + part.len() <= width {
                line.push(' ');
                line.extend(part);
            } else {
                lines.push(part.iter().collect());
            }
        }
    }
    lines
}
