//! Servers that know less than ours, other APIs, keys.

use super::*;

#[test]
fn fields_that_the_server_refuses_are_left_out() {
    let strict = |asked: &Asked| {
        for field in ["ignore_eos", "stream_options"] {
            if asked.body.get(field).is_some() {
                let error = json!({"error": {"message": format!("unknown field {field}")}});
                return fake::json("400 Bad Request", "", &error.to_string());
            }
        }
        stream(&chat_events(asked))
    };
    let result = one(server(strict), RUN);
    assert_eq!((result.completed, result.about.ignore_eos), (6, false));
    let error = bench(server(strict), &format!("{RUN} --ignore-eos always")).err().unwrap();
    assert!(format!("{error:#}").contains("ignore_eos"), "{error:#}");
}

#[test]
fn without_usage_events_are_counted_and_it_is_said() {
    let script = server(|asked| {
        let mut events = chat_events(asked);
        events.remove(events.len() - 2);
        stream(&events)
    });
    let error = bench(Arc::clone(&script), RUN).err().unwrap();
    assert!(error.to_string().contains("--tokenizer"), "{error}");
    let file = std::env::temp_dir().join(format!("sconce-bench-{}.jsonl", std::process::id()));
    std::fs::write(&file, "{\"prompt\": \"one\"}\n{\"prompt\": \"two\"}\n").unwrap();
    let result = one(script, &format!("{RUN} --dataset {}", file.display()));
    std::fs::remove_file(file).unwrap();
    assert_eq!((result.completed, result.total_output_tokens), (6, 30));
    assert_eq!(result.output_tokens_by, "events");
    assert!(result.notes.iter().any(|note| note.contains("usage")), "{:?}", result.notes);
}

#[test]
fn completions_and_responses() {
    let script = server(|asked| {
        if asked.line == "POST /v1/completions" {
            let tokens = asked.body["max_tokens"].as_u64().unwrap();
            let mut events = vec![fake::completion_event(" w"); tokens as usize];
            events.push(json!({"choices": [], "usage": usage(asked, tokens)}).to_string());
            events.push("[DONE]".to_owned());
            return stream(&events);
        }
        assert_eq!(asked.line, "POST /v1/responses");
        let tokens = asked.body["max_output_tokens"].as_u64().unwrap();
        let created = json!({"type": "response.created", "response": {"status": "in_progress"}});
        let delta = json!({"type": "response.output_text.delta", "delta": " w"}).to_string();
        let mut events = vec![created.to_string()];
        events.extend(vec![delta; tokens as usize]);
        let usage = json!({"input_tokens": prompt_tokens(&asked.body), "output_tokens": tokens});
        let done = json!({"type": "response.incomplete", "response": {"usage": usage}});
        events.push(done.to_string());
        stream(&events)
    });
    for api in ["completions", "responses"] {
        let result = one(Arc::clone(&script), &format!("{RUN} --api {api}"));
        assert_eq!((result.completed, result.failed), (6, 0), "{:?}", result.errors_by_kind);
        assert_eq!((result.total_output_tokens, result.input_length_mismatches), (30, 0));
    }
}

#[test]
fn the_key_and_headers_are_sent() {
    let script = server(|asked| {
        if asked.head.contains("authorization: bearer sesame") && asked.head.contains("x-team: red")
        {
            stream(&chat_events(asked))
        } else {
            fake::json("401 Unauthorized", "", r#"{"error": {"message": "no key"}}"#)
        }
    });
    let error = bench(Arc::clone(&script), RUN).err().unwrap();
    assert!(format!("{error:#}").contains("no key"), "{error:#}");
    let result = one(script, &format!("{RUN} --api-key sesame --header x-team:red"));
    assert_eq!(result.completed, 6);
}
