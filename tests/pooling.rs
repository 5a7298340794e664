//! Embedding models and cross-encoders over HTTP: what sentence-transformers computes, and clients of
//! others.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use serde_json::{Value, json};
use std::path::Path;
use std::process::Stdio;
use tests::{KEY, Server, client_answers, python, root, sconce};

/// Largest difference of an element from sentence-transformers'; of vectors that are not scaled it may
/// be larger than 1.
const TOLERANCE: f64 = 5e-6;
const EMBEDDINGS: &str = "/v1/embeddings";

fn golden(name: &str) -> String {
    root().join("models/golden_pooling").join(name).to_str().unwrap().to_owned()
}

/// Texts and their vectors.
fn cases(name: &str) -> Vec<(String, Vec<f64>)> {
    let path = Path::new(&golden(name)).join("expected.json");
    let expected: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let case =
        |case: &Value| (case["text"].as_str().unwrap().to_owned(), numbers(&case["embedding"]));
    expected["cases"].as_array().unwrap().iter().map(case).collect()
}

fn numbers(list: &Value) -> Vec<f64> {
    serde_json::from_value(list.clone()).unwrap()
}

fn serve(name: &str, more: &[&str]) -> Server {
    let model = golden(name);
    Server::start(&[&[model.as_str(), "--served-model-name", "m"], more].concat())
}

fn is_near(found: &[f64], expected: &[f64]) {
    assert_eq!(found.len(), expected.len());
    let errors = found.iter().zip(expected).map(|(a, b)| (a - b).abs());
    let error = errors.fold(0.0, f64::max);
    assert!(error <= TOLERANCE, "off by {error}");
}

fn vectors(answer: &Value) -> Vec<Vec<f64>> {
    answer["data"].as_array().unwrap().iter().map(|item| numbers(&item["embedding"])).collect()
}

#[test]
fn embeddings_are_those_of_sentence_transformers() {
    let alone = ["qwen3_last", "llama_mean", "bert_cls", "xlm_roberta_mean", "modernbert_mean"];
    let ranks = ["qwen3_last", "llama_mean"];
    let alone = alone.map(|name| (name, "1")).into_iter();
    for (name, num_ranks) in alone.chain(ranks.map(|name| (name, "2"))) {
        let server = serve(name, &["--dtype", "float32", "--tensor-parallel-size", num_ranks]);
        let (texts, expected): (Vec<_>, Vec<_>) = cases(name).into_iter().unzip();
        let answer = server.ok(EMBEDDINGS, &json!({"model": "m", "input": texts}));
        let together = vectors(&answer);
        assert_eq!(together.len(), texts.len());
        for ((text, expected), found) in texts.iter().zip(&expected).zip(&together) {
            is_near(found, expected);
            let alone = vectors(&server.ok(EMBEDDINGS, &json!({"input": text})));
            assert_eq!(alone, std::slice::from_ref(found), "{name}, {text}: not the same bits");
        }
        // A token a byte, one at the end, and with encoders one at the beginning.
        let num_special = if ["qwen3_last", "llama_mean"].contains(&name) { 1 } else { 2 };
        let tokens: usize = texts.iter().map(|text| text.len() + num_special).sum();
        assert_eq!(answer["usage"]["total_tokens"], tokens);
    }
}

/// Pairs of texts, and their scores.
fn pairs(name: &str) -> Vec<(String, String, f64)> {
    let path = Path::new(&golden(name)).join("expected.json");
    let expected: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let text = |text: &Value| text.as_str().unwrap().to_owned();
    let pair = |case: &Value| {
        let (query, document) = (&case["pair"][0], &case["pair"][1]);
        (text(query), text(document), case["score"].as_f64().unwrap())
    };
    expected["cases"].as_array().unwrap().iter().map(pair).collect()
}

#[test]
fn scores_are_those_of_sentence_transformers() {
    for name in ["bert_score", "xlm_roberta_score", "roberta_score", "modernbert_score"] {
        let server = serve(name, &["--dtype", "float32"]);
        let pairs = pairs(name);
        let column = |of: fn(&(String, String, f64)) -> &String| {
            pairs.iter().map(|pair| json!(of(pair))).collect::<Vec<_>>()
        };
        let (queries, documents) = (column(|pair| &pair.0), column(|pair| &pair.1));
        let body = json!({"text_1": queries, "text_2": documents});
        let answer = server.ok("/v1/score", &body);
        let data = answer["data"].as_array().unwrap();
        let together: Vec<f64> = data.iter().map(|item| item["score"].as_f64().unwrap()).collect();
        for ((query, document, expected), found) in pairs.iter().zip(&together) {
            is_near(&[*found], &[*expected]);
            let alone = server.ok("/v1/score", &json!({"queries": query, "documents": document}));
            assert_eq!(alone["data"][0]["score"], *found, "{name}: not the same bits alone");
        }
        // The first two are documents of one query.
        let body = json!({"query": queries[0], "documents": [documents[0], documents[1]]});
        let ranking = server.ok("/v1/rerank", &body);
        let best = usize::from(together[1] > together[0]);
        assert_eq!(ranking["results"][0]["index"], best);
        assert_eq!(ranking["results"][0]["relevance_score"], together[best]);
        assert_eq!(ranking["results"][1]["document"]["text"], documents[1 - best]);
        let (status, refusal) = server.post(EMBEDDINGS, &json!({"input": "a"}));
        assert_eq!((status, &refusal["error"]["code"]), (400, &json!("model_task_mismatch")));
    }
}

#[test]
fn a_model_is_used_as_the_runner_says() {
    let chat = json!({"prompt": "a", "max_tokens": 3});
    let ask = json!({"input": ["a"]});
    let server = serve("qwen3_last", &["--runner", "generate"]);
    assert_eq!(server.ok("/v1/completions", &chat)["usage"]["completion_tokens"], 3);
    let (status, refusal) = server.post(EMBEDDINGS, &ask);
    assert_eq!((status, &refusal["error"]["param"]), (400, &json!("model")));
    let server = Server::start(&["spark", "--runner", "pooling", "--pooling-type", "mean"]);
    let vector = &vectors(&server.ok(EMBEDDINGS, &ask))[0];
    let length = vector.iter().map(|x| x * x).sum::<f64>();
    assert!((length - 1.0).abs() < 1e-6, "without files of its own it is scaled: {length}");
    let (status, refusal) = server.post("/v1/completions", &chat);
    assert_eq!((status, &refusal["error"]["param"]), (400, &json!("model")));
}

#[test]
fn a_request_may_be_larger_than_the_queue() {
    let server = serve("qwen3_last", &["--max-num-queued-reqs", "4", "--max-num-seqs", "2"]);
    let input: Vec<_> = (0..300).map(|number| format!("text number {number}")).collect();
    let answer = server.ok(EMBEDDINGS, &json!({ "input": input }));
    let last = vectors(&server.ok(EMBEDDINGS, &json!({"input": input[299]})));
    assert_eq!(vectors(&answer)[299], last[0]);
    assert_eq!(answer["data"].as_array().unwrap().len(), 300);
}

#[test]
fn what_is_too_long_is_refused_or_cut() {
    let long = "x".repeat(300);
    let server = serve("llama_mean", &[]);
    let (status, refusal) = server.post(EMBEDDINGS, &json!({ "input": long }));
    assert_eq!((status, &refusal["error"]["code"]), (400, &json!("context_length_exceeded")));
    let cut = server.ok(EMBEDDINGS, &json!({"input": long, "truncate_prompt_tokens": -1}));
    assert_eq!(cut["usage"]["prompt_tokens"], 256, "the end token is kept");
    // It says so, too, where the operator wants it.
    let server = serve("llama_mean", &["--auto-truncate"]);
    let auto = server.ok(EMBEDDINGS, &json!({ "input": long }));
    assert_eq!(auto["data"], cut["data"]);
    let kept = server.ok(EMBEDDINGS, &json!({"input": "x".repeat(255)}));
    assert_eq!(kept["data"], cut["data"]);
}

#[test]
fn the_plan_says_what_the_model_is_for() {
    let output = sconce(&["plan", &golden("qwen3_last")]).stdin(Stdio::null()).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    for line in ["embeddings: the state of the last token, scaled to length 1", "hidden states"] {
        assert!(text.contains(line), "{line} is not in\n{text}");
    }
}

/// Runs a client's script, which prints in how many ways it asked for vectors, and what it got.
fn is_content(interpreter: &Path, script: &str) {
    let server = serve("qwen3_last", &["--api-key", KEY]);
    let texts: Vec<_> = cases("qwen3_last").into_iter().map(|(text, _)| text).collect();
    let expected = vectors(&server.ok(EMBEDDINGS, &json!({ "input": texts })));
    let short = vectors(&server.ok(EMBEDDINGS, &json!({"input": texts, "dimensions": 8})));
    let (base, texts) = (format!("{}/v1", server.url), json!(texts).to_string());
    let answers = client_answers(interpreter, script, &[&base, KEY, &texts]);
    for (way, found) in &answers {
        let expected = if way.contains("short") { &short } else { &expected };
        let found: Vec<Vec<f64>> = serde_json::from_value(found.clone()).unwrap();
        assert_eq!(found.len(), expected.len(), "{script}, {way}");
        for (found, expected) in found.iter().zip(expected) {
            // Some count in 64 bits: the same number has more digits then.
            let narrow = |list: &[f64]| list.iter().map(|x| *x as f32).collect::<Vec<_>>();
            assert_eq!(narrow(found), narrow(expected), "{script}, {way}");
        }
    }
    assert!(answers.len() >= 3, "{script} asked in {} ways", answers.len());
}

#[test]
fn the_openai_package_is_content() {
    is_content(&python("python"), "openai_embeddings.py");
}

#[test]
fn the_openai_package_for_node_is_content() {
    is_content(Path::new("node"), "openai_embeddings.mjs");
}

#[test]
fn langchain_is_content() {
    is_content(&python("python"), "langchain_embeddings.py");
}

#[test]
fn litellm_is_content_with_rankings() {
    let server = serve("bert_score", &["--api-key", KEY]);
    let pairs = pairs("bert_score");
    let documents: Vec<_> = pairs[..2].iter().map(|pair| &pair.1).collect();
    let body = json!({"query": pairs[0].0, "documents": documents});
    let expected = server.ok("/v1/rerank", &body);
    let args = [&server.url, KEY, &body.to_string()];
    let answers = client_answers(&python("python-openai-2"), "litellm_rerank.py", &args);
    let ranked = |results: &Value| -> Vec<(u64, f32)> {
        let one = |result: &Value| {
            let score = result["relevance_score"].as_f64().unwrap();
            (result["index"].as_u64().unwrap(), score as f32)
        };
        results.as_array().unwrap().iter().map(one).collect()
    };
    for (provider, results) in &answers {
        assert_eq!(ranked(results), ranked(&expected["results"]), "{provider}");
    }
    assert_eq!(answers.len(), 3);
}

#[test]
fn litellm_is_content() {
    is_content(&python("python-openai-2"), "litellm_embeddings.py");
}
