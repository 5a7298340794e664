//! `/v1/rerank` and `/v1/score`: shapes, faults, what reaches the engine.

use serde_json::{Value, json};
use server::HeadRules;

use crate::fake::{Fake, MAX_MODEL_LEN, app, pooling_app, post, scoring_app};

const HEAD: HeadRules = HeadRules { num_labels: 1, squashes: true };

fn pooling() -> Fake {
    Fake::default()
}

fn rerank(extra: &Value) -> Value {
    with(json!({"model": "tiny", "query": "b", "documents": ["ab", {"text": "b"}, "c"]}), extra)
}

fn score(extra: &Value) -> Value {
    with(json!({"text_1": "b", "text_2": ["b", "ba"]}), extra)
}

fn with(mut body: Value, extra: &Value) -> Value {
    body.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
    body
}

#[tokio::test]
async fn a_ranking_by_angles_has_the_likest_first() {
    let (app, fake) = pooling_app(pooling());
    for path in ["/v1/rerank", "/v2/rerank", "/rerank"] {
        let reply = post(&app, path, &rerank(&json!({}))).await;
        assert_eq!(reply.json()["results"][0]["index"], 1, "the query itself: {}", reply.text);
        assert_eq!(reply.json()["results"][0]["relevance_score"], 1.0);
    }
    let reply = post(&app, "/rerank", &rerank(&json!({"top_n": 1}))).await;
    let answer = reply.json();
    let id = answer["id"].as_str().unwrap();
    assert!(id.starts_with("rerank-"), "{id}");
    let rest = "\"model\":\"tiny\",\"usage\":{\"prompt_tokens\":5,\"total_tokens\":5},\"results\":\
                [{\"index\":1,\"document\":{\"text\":\"b\"},\"relevance_score\":1.0}]}";
    assert_eq!(reply.text, format!("{{\"id\":\"{id}\",{rest}"));
    let seen: Vec<_> = fake.seen.lock().unwrap().iter().map(|seen| seen.prompt.clone()).collect();
    assert_eq!(seen[..4], [vec![98], vec![97, 98], vec![98], vec![99]], "each text alone");
}

#[tokio::test]
async fn a_request_says_how_many_and_what_it_wants_back() {
    let (app, _) = pooling_app(pooling());
    for (extra, num_results) in [
        (json!({}), 3),
        (json!({"top_n": 0}), 3),
        (json!({"top_n": 2}), 2),
        (json!({"top_n": 9}), 3),
        (json!({"rank_fields": null, "max_tokens_per_doc": null}), 3),
    ] {
        let reply = post(&app, "/v1/rerank", &rerank(&extra)).await.json();
        let results = reply["results"].as_array().unwrap();
        assert_eq!(results.len(), num_results, "{extra}");
        assert_eq!(results[0]["document"], json!({"text": "b"}));
    }
    let bare = post(&app, "/v1/rerank", &rerank(&json!({"return_documents": false}))).await;
    assert!(bare.json()["results"][0].get("document").is_none(), "{}", bare.text);
}

#[tokio::test]
async fn scores_come_in_the_order_of_the_pairs() {
    let (app, _) = pooling_app(pooling());
    for body in [
        score(&json!({})),
        json!({"queries": ["b"], "documents": ["b", "ba"]}),
        json!({"queries": ["b", "b"], "items": ["b", "ba"]}),
        json!({"data_1": "b", "data_2": [{"text": "b"}, "ba"]}),
    ] {
        for path in ["/v1/score", "/score"] {
            let reply = post(&app, path, &body).await;
            let answer = reply.json();
            assert_eq!(answer["data"][0], json!({"index": 0, "object": "score", "score": 1.0}));
            assert_eq!(answer["data"][1]["index"], 1);
            assert!(answer["data"][1]["score"].as_f64().unwrap() < 1.0, "{}", reply.text);
            assert_eq!(answer["object"], "list");
        }
    }
}

#[tokio::test]
async fn a_cross_encoder_reads_both_texts_at_once() {
    for (extra, squashes, expected) in [
        (json!({}), false, 97.0),
        (json!({}), true, 1.0),
        (json!({"use_activation": false}), true, 97.0),
        (json!({"use_activation": true}), false, 97.0),
    ] {
        let (app, fake) = scoring_app(pooling(), HeadRules { squashes, ..HEAD });
        let body = with(json!({"text_1": "A", "text_2": "xy"}), &extra);
        let answer = post(&app, "/v1/score", &body).await.json();
        assert_eq!(answer["data"][0]["score"], expected, "{extra} {squashes}");
        assert_eq!(answer["usage"], json!({"prompt_tokens": 3, "total_tokens": 3}));
        let seen = fake.last();
        assert_eq!(seen.prompt, [97, 120, 121], "in lower case, as this model wants it");
        assert_eq!(seen.params.second_text, Some(1));
    }
    let (app, fake) = scoring_app(pooling(), HEAD);
    let body = json!({"text_1": "ab", "text_2": "vwxyz", "truncate_prompt_tokens": 4});
    assert_eq!(post(&app, "/v1/score", &body).await.status, 200);
    assert_eq!(fake.last().prompt, [97, 98, 118, 119], "the longer one is cut");
}

#[tokio::test]
async fn faults_are_told_by_field_and_reach_no_engine() {
    let long = "x".repeat(MAX_MODEL_LEN);
    let table = [
        ("/v1/rerank", rerank(&json!({"query": null})), "query", "string `text`"),
        ("/v1/rerank", rerank(&json!({"query": ["a", "b"]})), "query", "string `text`"),
        ("/v1/rerank", rerank(&json!({"documents": []})), "documents", "at least one text"),
        ("/v1/rerank", rerank(&json!({"documents": ["a", 5]})), "documents", "array of strings"),
        (
            "/v1/rerank",
            rerank(&json!({"documents": [{"text": "a", "title": "A"}]})),
            "documents",
            "`text` alone",
        ),
        ("/v1/rerank", rerank(&json!({"documents": ["a", long]})), "documents", "number 1 has 201"),
        ("/v1/rerank", rerank(&json!({"documents": vec!["a"; 2049]})), "documents", "2049"),
        ("/v1/rerank", rerank(&json!({"top_n": -1})), "top_n", "-1"),
        (
            "/v1/rerank",
            rerank(&json!({"max_tokens_per_doc": 5})),
            "max_tokens_per_doc",
            "supported",
        ),
        ("/v1/rerank", rerank(&json!({"top_k": 5})), "top_k", "Unrecognized"),
        ("/v1/score", json!({}), "text_1", "Missing"),
        ("/v1/score", json!({"text_1": "a"}), "text_2", "Missing"),
        ("/v1/score", json!({"documents": "a"}), "queries", "Missing"),
        ("/v1/score", score(&json!({"queries": "a", "documents": "b"})), "queries", "twice"),
        ("/v1/score", json!({"queries": "a", "documents": "b", "items": "c"}), "items", "twice"),
        ("/v1/score", score(&json!({"text_1": ["a", "b", "c"]})), "text_1", "as many of both"),
    ];
    for (path, body, param, says) in table {
        let (app, fake) = scoring_app(pooling(), HEAD);
        let reply = post(&app, path, &body).await;
        assert_eq!(reply.status, 400, "{body}: {}", reply.text);
        let error = &reply.json()["error"];
        assert_eq!(error["param"], param, "{body}: {error}");
        assert!(error["message"].as_str().unwrap().contains(says), "{body}: {error}");
        assert!(fake.seen.lock().unwrap().is_empty(), "{body}");
    }
}

#[tokio::test]
async fn each_model_says_what_it_is_for() {
    let (scoring, _) = scoring_app(pooling(), HEAD);
    let (kinds, _) = scoring_app(pooling(), HeadRules { num_labels: 3, squashes: false });
    let (generating, _) = app(Fake::answering("x"));
    for (app, path, body, says) in [
        (&scoring, "/v1/embeddings", json!({"input": "a"}), "ask it at /v1/rerank or /v1/score"),
        (&scoring, "/v1/completions", json!({"prompt": "a"}), "ask it at /v1/rerank or /v1/score"),
        (&kinds, "/v1/score", score(&json!({})), "no single score"),
        (&generating, "/v1/rerank", rerank(&json!({})), "serve a cross-encoder"),
    ] {
        let reply = post(app, path, &body).await;
        assert_eq!(reply.status, 400, "{path}: {}", reply.text);
        let error = &reply.json()["error"];
        assert_eq!(
            (&error["param"], &error["code"]),
            (&json!("model"), &json!("model_task_mismatch"))
        );
        assert!(error["message"].as_str().unwrap().contains(says), "{path}: {error}");
    }
}
