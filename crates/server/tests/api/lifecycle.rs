//! Loading, failing, overload, clients that leave, draining: over sockets where it matters.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use engine::{EngineError, Event};
use serde_json::{Value, json};
use server::App;
use tokio::net::TcpListener;
use tokio::sync::oneshot;

use crate::fake::{Fake, app, app_with, chat, config, get, post};

pub(crate) const CHAT: &str = "/v1/chat/completions";

#[tokio::test]
async fn before_the_model_is_loaded() {
    let app = App::new(config());
    assert_eq!(get(&app, "/health").await.status, 200);
    assert_eq!(get(&app, "/metrics").await.status, 200);
    assert_eq!(get(&app, "/").await.json()["models"], json!([]));
    for reply in [
        get(&app, "/ready").await,
        get(&app, "/v1/models").await,
        post(&app, CHAT, &chat(&json!({}))).await,
    ] {
        assert_eq!(reply.status, 503);
        assert_eq!(reply.json()["error"]["code"], "loading");
        assert_eq!(reply.headers["retry-after"], "1");
    }
}

#[tokio::test]
async fn when_loading_failed() {
    let app = App::new(config());
    app.set_failed(vec!["tiny".into()], "config.json is missing");
    for path in ["/ready", "/health", "/v1/models"] {
        let reply = get(&app, path).await;
        assert_eq!(reply.status, 503, "{path}");
        assert!(reply.text.contains("config.json is missing"), "{}", reply.text);
    }
}

#[tokio::test]
async fn when_the_engine_has_ended() {
    let (app, fake) = app(Fake::default());
    assert_eq!(get(&app, "/ready").await.status, 200);
    fake.dead.store(true, std::sync::atomic::Ordering::Relaxed);
    for path in ["/ready", "/health"] {
        assert_eq!(get(&app, path).await.status, 503, "{path}");
    }
    assert_eq!(post(&app, CHAT, &chat(&json!({}))).await.status, 503);
}

#[tokio::test]
async fn while_the_engine_restarts() {
    let (app, fake) = app(Fake::answering("x"));
    fake.restarting.store(true, std::sync::atomic::Ordering::Relaxed);
    let reply = get(&app, "/ready").await;
    assert_eq!(
        (reply.status.as_u16(), &reply.headers["retry-after"]),
        (503, &"1".parse().unwrap())
    );
    assert_eq!(reply.json()["error"]["code"], "restarting");
    assert_eq!(get(&app, "/health").await.json(), json!({"status": "restarting"}));
    assert_eq!(post(&app, CHAT, &chat(&json!({}))).await.status, 200, "it waits its turn");
    fake.restarting.store(false, std::sync::atomic::Ordering::Relaxed);
    assert_eq!(get(&app, "/ready").await.status, 200);
    assert_eq!(get(&app, "/health").await.json(), json!({"status": "ok"}));
}

#[tokio::test]
async fn while_draining() {
    let (app, _) = app(Fake::answering("x"));
    app.start_draining();
    assert_eq!(get(&app, "/health").await.status, 200);
    assert_eq!(get(&app, "/v1/models").await.status, 200);
    for reply in [get(&app, "/ready").await, post(&app, CHAT, &chat(&json!({}))).await] {
        assert_eq!(reply.status, 503);
        assert_eq!(reply.json()["error"]["code"], "draining");
    }
}

#[tokio::test]
async fn refusals_of_the_engine_have_their_statuses() {
    for (refusal, status, code) in [
        (EngineError::QueueFull { waiting: 9, limit: 8 }, 429, json!("queue_full")),
        (EngineError::Stopped, 503, json!("engine_stopped")),
        (EngineError::Rejected("no such id".into()), 400, Value::Null),
    ] {
        for stream in [false, true] {
            let (app, _) = app(Fake { refusal: Some(refusal.clone()), ..Fake::default() });
            let reply = post(&app, CHAT, &chat(&json!({"stream": stream}))).await;
            assert_eq!(reply.status, status);
            assert_eq!(reply.json()["error"]["code"], code);
            if status == 429 {
                let seconds =
                    reply.headers["retry-after"].to_str().unwrap().parse::<u64>().unwrap();
                assert!((1..=60).contains(&seconds));
                let metrics = get(&app, "/metrics").await.text;
                assert!(metrics.contains(
                    "vllm:admission_rejections_total{model_name=\"tiny\",\
                         reason=\"max_num_queued_reqs\"} 1\n"
                ));
            }
        }
    }
}

#[tokio::test]
async fn a_handler_that_panics_is_a_500_and_the_server_goes_on() {
    let (app, _) = app(Fake { panics: true, ..Fake::default() });
    let reply = post(&app, CHAT, &chat(&json!({}))).await;
    assert_eq!(
        (reply.status.as_u16(), &reply.json()["error"]["type"]),
        (500, &json!("server_error"))
    );
    assert!(reply.headers.contains_key("x-request-id"));
    app.idle().await;
    assert_eq!(get(&app, "/ready").await.status, 200);
}

/// A server on a socket, until the returned sender is used or dropped.
pub(crate) async fn listening(
    app: &App,
) -> (SocketAddr, oneshot::Sender<()>, tokio::task::JoinHandle<std::io::Result<()>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (sender, receiver) = oneshot::channel::<()>();
    let shutdown = async move { drop(receiver.await) };
    let server = tokio::spawn(server::serve(listener, app.clone(), shutdown));
    (address, sender, server)
}

pub(crate) fn connect(address: SocketAddr, body: &Value) -> TcpStream {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let body = body.to_string();
    let head = format!(
        "POST {CHAT} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all((head + &body).as_bytes()).unwrap();
    stream
}

/// Waits for what another thread does.
pub(crate) async fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < Duration::from_secs(20), "never: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// Reads until `end` has come; what came.
pub(crate) fn read_until(stream: &mut TcpStream, end: &str) -> String {
    let mut bytes = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        let text = String::from_utf8_lossy(&bytes).into_owned();
        if text.contains(end) {
            return text;
        }
        match stream.read(&mut buffer) {
            Ok(0) => panic!("closed before {end:?}: {text}"),
            Ok(len) => bytes.extend_from_slice(&buffer[..len]),
            Err(error) => panic!("{error} before {end:?}: {text}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_leaves_aborts_its_sequences() {
    for stream in [true, false] {
        let (app, fake) = app(Fake::holding());
        let (address, _stop, _) = listening(&app).await;
        let connection = connect(address, &chat(&json!({"stream": stream, "n": 2})));
        eventually("submitted", || fake.sinks.lock().unwrap().len() == 2).await;
        assert!(fake.send(0, Event::Token { id: 65, logprobs: None }));
        assert!(fake.aborted.lock().unwrap().is_empty());
        drop(connection);
        eventually("aborted", || fake.aborted.lock().unwrap().len() == 2).await;
        assert!(!fake.send(0, Event::Token { id: 66, logprobs: None }), "nobody listens");
        app.idle().await;
        let metrics = get(&app, "/metrics").await.text;
        assert!(metrics.contains("finished_reason=\"abort\"} 2\n"), "{metrics}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_heads_are_cut_off_and_slow_bodies_told_so() {
    let short = Duration::from_millis(30);
    let config = server::ServerConfig { header_timeout: short, body_timeout: short, ..config() };
    let (app, _) = app_with(Fake::default(), config);
    let (address, _stop, _) = listening(&app).await;
    for (sent, answer) in [
        ("POST ", ""),
        (
            "POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n\
             content-length: 9\r\n\r\n{",
            "HTTP/1.1 408 Request Timeout",
        ),
    ] {
        let mut connection = TcpStream::connect(address).unwrap();
        connection.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        connection.write_all(sent.as_bytes()).unwrap();
        let mut text = String::new();
        connection.read_to_string(&mut text).unwrap();
        assert!(text.starts_with(answer), "{text}");
        assert_eq!(text.is_empty(), answer.is_empty(), "{text}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_event_reaches_the_socket_at_once() {
    let (app, fake) = app(Fake::holding());
    let (address, _stop, _) = listening(&app).await;
    let mut connection = connect(address, &chat(&json!({"stream": true})));
    eventually("submitted", || fake.sinks.lock().unwrap().len() == 1).await;
    let head = read_until(&mut connection, "\r\n\r\n").to_lowercase();
    assert!(head.starts_with("http/1.1 200 ok"), "{head}");
    for letter in ["a", "b", "c"] {
        fake.say(0, letter);
        let text = read_until(&mut connection, &format!("{{\"content\":\"{letter}\"}}"));
        assert!(text.ends_with("\n\n\r\n"), "a whole event in a chunk of its own: {text:?}");
    }
    fake.finish(0);
    read_until(&mut connection, "data: [DONE]\n\n\r\n0\r\n\r\n");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn draining_finishes_what_is_in_flight() {
    let (app, fake) = app(Fake::holding());
    let (address, stop, server) = listening(&app).await;
    let mut connection = connect(address, &chat(&json!({"stream": true})));
    eventually("submitted", || fake.sinks.lock().unwrap().len() == 1).await;
    let mut idle = TcpStream::connect(address).unwrap();
    idle.write_all(b"GET /ready HTTP/1.1\r\nhost: x\r\n\r\n").unwrap();
    assert!(read_until(&mut idle, "}").starts_with("HTTP/1.1 200"));
    drop(stop);
    let refused = || {
        TcpStream::connect(address).is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused)
    };
    eventually("nothing is accepted any more", refused).await;
    fake.say(0, "bye");
    fake.finish(0);
    let text = read_until(&mut connection, "[DONE]");
    assert!(text.contains("\"finish_reason\":\"length\""), "{text}");
    server.await.unwrap().unwrap();
    let mut rest = Vec::new();
    assert!(idle.read_to_end(&mut rest).is_ok(), "idle connections are closed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn past_the_drain_timeout_streams_end_with_an_error() {
    let (app, fake) = app(Fake::holding());
    let (address, stop, server) = listening(&app).await;
    let mut streamed = connect(address, &chat(&json!({"stream": true})));
    let mut whole = connect(address, &chat(&json!({})));
    eventually("submitted", || fake.sinks.lock().unwrap().len() == 2).await;
    fake.say(0, "x");
    drop(stop);
    let text = read_until(&mut streamed, "[DONE]");
    assert!(
        text.contains("\"code\":\"draining\"") && !text.contains("\"finish_reason\":\""),
        "{text}"
    );
    assert!(read_until(&mut whole, "draining").starts_with("HTTP/1.1 503"));
    server.await.unwrap().unwrap();
    assert_eq!(fake.aborted.lock().unwrap().len(), 2);
}
