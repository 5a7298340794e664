//! What is asked: seeds, conversations, lengths of prompts.

use std::sync::Mutex;

use super::*;

#[test]
fn sweeps_ask_every_run_something_new_and_a_seed_the_same_again() {
    let prompts = || {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let keep = Arc::clone(&seen);
        let script = after_looking(move |asked| {
            keep.lock().unwrap().push(asked.body["messages"][0]["content"].to_string());
            stream(&chat_events(asked))
        });
        let flags = "--rate 500,1000 --requests 20 --warmup 3 --output-tokens 5 --seed 5";
        let results = bench(script, flags).unwrap();
        assert_eq!(results.iter().map(|r| r.completed).collect::<Vec<_>>(), [20, 20]);
        assert_eq!(results[1].load(), "1000 req/s");
        let mut seen = seen.lock().unwrap().clone();
        seen.sort();
        seen
    };
    let first = prompts();
    assert_eq!(first.len(), 46);
    let mut different = first.clone();
    different.dedup();
    assert_eq!(different.len(), 46);
    assert_eq!(first, prompts());
}

#[test]
fn conversations_carry_the_answers() {
    let bodies = Arc::new(Mutex::new(Vec::new()));
    let keep = Arc::clone(&bodies);
    let script = after_looking(move |asked| {
        keep.lock().unwrap().push(asked.body["messages"].clone());
        stream(&chat_events(asked))
    });
    let flags =
        "--concurrency 1 --requests 2 --turns 3 --warmup 0 --output-tokens 5 --think-time 1ms";
    let result = one(script, flags);
    assert_eq!((result.completed, result.failed), (6, 0));
    let bodies = bodies.lock().unwrap();
    let lengths: Vec<_> = bodies.iter().map(|m| m.as_array().unwrap().len()).collect();
    assert_eq!(lengths, [1, 3, 5, 1, 3, 5]);
    assert_eq!(bodies[1][0], bodies[0][0]);
    assert_eq!(bodies[1][1], json!({"role": "assistant", "content": "w0 w1 w2 w3 w4 "}));
    assert_eq!(bodies[2][2]["role"], "user");
}

#[test]
fn prompts_are_as_long_as_asked_by_every_way_to_count() {
    let answer = |asked: &Asked| stream(&chat_events(asked));
    let flags = "--requests 30 --concurrency 4 --input-tokens 20..60 --output-tokens 5 \
                 --prefix-tokens 15 --prefixes 2 --prefix-share 0.5";
    let by_usage = one(server(answer), flags);
    assert_eq!(by_usage.about.token_source.as_deref(), Some("server_usage"));

    let plain = server(answer);
    let with_tokenizer: Arc<Script> = Arc::new(move |asked| {
        if asked.line != "POST /tokenize" {
            return plain(asked);
        }
        let body = json!({"count": prompt_tokens(&asked.body), "tokens": []});
        fake::json("200 OK", "", &body.to_string())
    });
    let by_tokenizer = one(with_tokenizer, flags);
    assert_eq!(by_tokenizer.about.token_source.as_deref(), Some("server_tokenizer"));

    for result in [&by_usage, &by_tokenizer] {
        assert_eq!((result.completed, result.input_length_mismatches), (30, 0));
        assert!((30 * 35..=30 * 75).contains(&result.total_input_tokens));
    }
    assert_eq!(by_usage.total_input_tokens, by_tokenizer.total_input_tokens);
    let error = bench(server(answer), "--input-tokens 4 --requests 1").err().unwrap();
    assert!(error.to_string().contains("shortest prompt has 8"), "{error}");
}
