//! A model that is shared out to ranks, over HTTP: it answers as on one device.

use serde_json::{Value, json};
use tests::{Server, root, sconce, streamed_text};

const COMPLETIONS: &str = "/v1/completions";
const RANKS: &[&str] = &["--tensor-parallel-size", "2", "--dtype", "float32"];

/// Greedy and sampled, with log-probabilities, choices, and what an answer must look like.
fn requests() -> Vec<Value> {
    let schema = json!({"type": "object", "properties": {"sum": {"type": "integer"}},
        "required": ["sum"], "additionalProperties": false});
    let sampled =
        |seed: u64| json!({"prompt": "Once", "temperature": 0.9, "seed": seed, "max_tokens": 24});
    vec![
        json!({"prompt": "What is a sconce?", "temperature": 0, "max_tokens": 24, "logprobs": 2}),
        sampled(1),
        sampled(2),
        json!({"prompt": ["Hello", "What is 17 + 25?"], "temperature": 0, "max_tokens": 12, "n": 1}),
        json!({"prompt": "Two", "temperature": 0.8, "seed": 5, "n": 3, "max_tokens": 10}),
        json!({"prompt": "{", "temperature": 0.7, "seed": 9, "max_tokens": 40,
            "structured_outputs": {"json": schema}}),
    ]
}

fn texts(server: &Server) -> Vec<Value> {
    let answers = requests().into_iter().map(|mut body| {
        body["model"] = "spark".into();
        let answer = server.ok(COMPLETIONS, &body);
        let choices = answer["choices"].as_array().expect("choices").iter();
        choices.map(|choice| json!([choice["text"], choice["finish_reason"]])).collect()
    });
    answers.collect()
}

#[test]
fn ranks_answer_as_one_device_does() {
    let expected = texts(&Server::start(&["spark", "--dtype", "float32"]));
    let draft = ["--draft-model", "spark", "--speculate-always"];
    for more in [&[][..], &["--async-scheduling"], &draft] {
        let server = Server::start(&[&["spark"], RANKS, more].concat());
        assert_eq!(texts(&server), expected, "{more:?}");
        for mut body in requests() {
            body["model"] = "spark".into();
            let whole = server.ok(COMPLETIONS, &body);
            body["stream"] = true.into();
            let events = server.stream(COMPLETIONS, &body);
            for choice in whole["choices"].as_array().expect("choices") {
                let index = choice["index"].as_u64().expect("an index") as usize;
                assert_eq!(streamed_text(&events, index), choice["text"], "{body}");
            }
        }
        server.signal("TERM");
        assert!(server.wait().success());
    }
}

#[test]
fn models_that_ranks_cannot_share_are_refused_by_name() {
    let encoder = root().join("models/golden_pooling/bert_cls").display().to_string();
    for (args, reason) in [
        (&["spark", "--tensor-parallel-size", "3"][..], "use 1, 2, 4"),
        (&["spark", "--tp", "0"], "--tensor-parallel-size is 0 but must be between 1 and 8"),
        (&["spark", &encoder, "--tp", "2"], "is for one model, and spark and"),
        (&[&encoder, "--tp", "2"], "--tensor-parallel-size is not for encoders"),
    ] {
        let output = sconce(&[&["plan"], args].concat()).output().expect("sconce runs");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && said.contains(reason), "{args:?}: {said}");
    }
    let planned = sconce(&["plan", "spark", "--tp", "4"]).output().expect("sconce runs");
    let said = String::from_utf8_lossy(&planned.stdout);
    assert!(said.contains("of which each of 4 ranks takes"), "{said}");
}
