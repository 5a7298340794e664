//! Keys and limits in the real server: the key that `sconce keys new` prints, SIGHUP in the middle of
//! a stream, a broken file, the access log moved away.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use tests::{Folder, KEY, PATIENCE, Server, sconce, wait_until};

/// `printf sesame | sha256sum`: of the key that the harness sends.
const KEY_SHA256: &str = "d0c04f4b1951e4aeaaec8223ed2039e542f3aae805a6fa7f6d794e5afff5d272";

/// What `sconce keys new` prints: a key, and its entry for the file.
fn new_key(args: &[&str]) -> (String, String) {
    let output = sconce(&[&["keys", "new"], args].concat()).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let told = String::from_utf8(output.stderr).unwrap();
    (told.lines().next().unwrap().to_owned(), String::from_utf8(output.stdout).unwrap())
}

/// GET or POST with a key: status, and the body once it has ended.
fn ask(
    server: &Server,
    key: &str,
    path: &str,
    body: Option<&Value>,
) -> (u16, BufReader<TcpStream>) {
    let mut socket = TcpStream::connect(server.url.trim_start_matches("http://")).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let (method, body) = body.map_or(("GET", String::new()), |body| ("POST", body.to_string()));
    write!(
        socket,
        "{method} {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {key}\r\nconnection: close\r\n\
         content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
    .unwrap();
    let mut answer = BufReader::new(socket);
    let mut line = String::new();
    answer.read_line(&mut line).unwrap();
    (line.split(' ').nth(1).unwrap().parse().unwrap(), answer)
}

/// What `/tokenize` gives.
fn tokens(server: &Server, key: &str, body: &Value) -> Value {
    let (_, mut answer) = ask(server, key, "/tokenize", Some(body));
    let mut text = String::new();
    answer.read_to_string(&mut text).unwrap();
    let answer: Value = serde_json::from_str(text.split_once("\r\n\r\n").unwrap().1).unwrap();
    assert!(answer["tokens"].is_array(), "{answer}");
    answer["tokens"].clone()
}

/// The lines of an access log.
fn lines(path: &str) -> Vec<Value> {
    let text = std::fs::read_to_string(path).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn status(server: &Server, key: &str) -> u16 {
    ask(server, key, "/v1/models", None).0
}

#[test]
fn a_printed_key_opens_the_server_in_either_format() {
    let folder = Folder::new("printed");
    let (key, entry) = new_key(&["--name", "alice"]);
    assert!(!entry.contains(&key));
    // Entries can be put one behind the other.
    let toml = folder.file("keys.toml", &format!("{}{entry}", new_key(&["--name", "other"]).1));
    let (json_key, entry) = new_key(&["--name", "bob", "--json"]);
    assert_eq!(entry.lines().count(), 1, "{entry}");
    let json = folder.file("keys.json", &format!("{{\"keys\": [{entry}]}}"));
    for (file, right, wrong) in [(&toml, &key, &json_key), (&json, &json_key, &key)] {
        let server = Server::start(&["--api-keys-file", file]);
        assert_eq!((status(&server, right), status(&server, wrong)), (200, 401));
        assert_eq!(server.metric_with("sconce:key_requests_total", "key="), 0.0);
    }
    let refused = sconce(&["keys", "new", "--name", "a b"]).output().unwrap();
    assert!(!refused.status.success());
    assert!(String::from_utf8_lossy(&refused.stderr).contains("--name: 'a b' is not a name"));
    let broken = folder.file("broken.toml", "[[keys]]\nname = \"a\"\nsha256 = \"1\"\n");
    let refused = sconce(&["serve", "--port", "0", "--api-keys-file", &broken]).output().unwrap();
    let error = String::from_utf8_lossy(&refused.stderr);
    assert!(error.contains(&broken) && error.contains("key 1 ('a'), sha256"), "{error}");
}

#[test]
fn sighup_reloads_keys_templates_and_log_without_dropping_a_stream() {
    let folder = Folder::new("sighup");
    let (fresh, fresh_entry) = new_key(&["--name", "fresh"]);
    let old = format!("[[keys]]\nname = \"old\"\nsha256 = \"{KEY_SHA256}\"\n");
    let keys = folder.file("keys.toml", &old);
    let template = folder.file("chat.jinja", "old {{ messages[0].content }}");
    let log = folder.path("access.log");
    let server = Server::start(&[
        "--api-keys-file",
        &keys,
        "--chat-template",
        &template,
        "--access-log",
        &log,
        "--num-speculative-tokens",
        "0",
    ]);
    let body = json!({
        "model": "spark", "prompt": "count", "max_tokens": 1500, "n": 4, "ignore_eos": true,
        "stream": true, "stream_options": {"include_usage": true}, "seed": 7,
    });
    let (code, mut stream) = ask(&server, KEY, "/v1/completions", Some(&body));
    assert_eq!(code, 200);
    let mut text = String::new();
    while !text.contains("data: ") {
        stream.read_line(&mut text).unwrap();
    }
    // Everything changes while the stream runs.
    folder.file("keys.toml", &fresh_entry);
    folder.file("chat.jinja", "new {{ messages[0].content }}!");
    let moved = folder.path("access.log.1");
    std::fs::rename(&log, &moved).unwrap();
    server.signal("HUP");
    wait_until("the old key is gone", || status(&server, KEY) == 401);
    assert_eq!(status(&server, &fresh), 200);
    wait_until("the new template", || {
        let message = json!({"messages": [{"role": "user", "content": "hi"}]});
        tokens(&server, &fresh, &message) == tokens(&server, &fresh, &json!({"prompt": "new hi!"}))
    });
    assert_eq!(server.metric("vllm:num_requests_running"), 4.0, "the stream goes on");
    // A broken file changes nothing and is said once.
    folder.file("keys.toml", "[[keys]]\nname = \"x\"\nkey = \"sk-secret\"\n");
    folder.file("chat.jinja", "{% if %}");
    drop(server.log_so_far());
    server.signal("HUP");
    let mut said = String::new();
    wait_until("the fault is logged", || {
        said += &server.log_so_far();
        said.contains("chat template of spark:")
    });
    let errors: Vec<_> = said.lines().filter(|line| line.contains("ERROR")).collect();
    assert_eq!(errors.len(), 2, "one line each: {said}");
    assert!(errors[0].contains("keys.toml: line 3: unknown field `key`"), "{said}");
    assert!(!said.contains("sk-secret"), "{said}");
    assert_eq!((status(&server, &fresh), status(&server, KEY)), (200, 401));
    stream.read_to_string(&mut text).unwrap();
    assert!(text.contains("\"completion_tokens\":6000"), "not all of it came");
    assert!(text.contains("data: [DONE]"));
    // What ended before the reload is in the file that was moved, the stream in the new one.
    server.signal("TERM");
    assert!(server.wait().success());
    let lines = lines(&log);
    let streamed = lines.iter().find(|line| line["route"] == "/v1/completions").unwrap();
    assert_eq!(streamed["key"], "old");
    assert_eq!(streamed["completion_tokens"], 6000);
    assert_eq!(streamed["finish_reason"], "length");
    assert!(lines.iter().any(|line| line["key"] == "fresh"));
    assert!(std::fs::exists(&moved).unwrap());
}

#[test]
fn limits_over_the_wire() {
    let folder = Folder::new("limits");
    let entry = format!(
        "[[keys]]\nname = \"small\"\nsha256 = \"{KEY_SHA256}\"\ntokens-per-minute = 60\n\
         max-concurrent-requests = 1\n"
    );
    let keys = folder.file("keys.toml", &entry);
    let server = Server::start(&["--api-keys-file", &keys]);
    let body = json!({"model": "spark", "prompt": "count", "max_tokens": 30, "ignore_eos": true});
    let used = server.ok("/v1/completions", &body)["usage"]["total_tokens"].as_u64().unwrap();
    let (code, answer) = server.post("/v1/completions", &body);
    assert!(used > 30 && code == 429, "{used}, {answer}");
    let message = answer["error"]["message"].as_str().unwrap();
    assert!(message.contains("60 tokens per minute"), "{message}");
    // What is left can be used.
    let mut body = body;
    body["max_tokens"] = json!(60 - used - (used - 30));
    assert_eq!(server.ok("/v1/completions", &body)["usage"]["total_tokens"], 60 - used);
    let total = server.metric("sconce:key_prompt_tokens_total")
        + server.metric("sconce:key_generation_tokens_total");
    assert_eq!(total, 60.0);
}
