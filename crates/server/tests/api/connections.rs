//! Connections: every way in, clients that waste one, the limit, traces; over real sockets.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use axum::body::Body;
use axum::http::{Method, Request};
use engine::Event;
use http_body_util::BodyExt;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::{Value, json};
use server::ServerConfig;

use crate::fake::{Fake, app, app_with, chat, config, get, post_request, send};
use crate::lifecycle::{CHAT, connect, eventually, listening, read_until};

/// What HTTP/2 begins with: the preface and empty settings.
const HTTP2_START: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

fn open(address: SocketAddr, bytes: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    stream.write_all(bytes).unwrap();
    stream
}

fn read_all(stream: &mut impl Read) -> String {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).unwrap();
    String::from_utf8_lossy(&bytes).into_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_is_not_used_is_closed_however_far_it_came() {
    let config = ServerConfig { header_timeout: Duration::from_millis(50), ..config() };
    let (app, _) = app_with(Fake::default(), config);
    let (address, _stop, _) = listening(&app).await;
    let used = b"GET /version HTTP/1.1\r\nhost: x\r\n\r\n";
    for (sent, answers) in [
        (&b""[..], false),
        (b"P", false),
        (&HTTP2_START[..10], false),
        (b"GET /version HTTP/1.1\r\nhost", false),
        (HTTP2_START, true), // Its settings.
        (used, true),
    ] {
        let text = read_all(&mut open(address, sent));
        assert_eq!(!text.is_empty(), answers, "{sent:?}: {text}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn over_the_limit_a_connection_is_refused_in_words() {
    let (app, _) = app_with(Fake::default(), ServerConfig { max_connections: 1, ..config() });
    let (address, _stop, _) = listening(&app).await;
    let request = b"GET /version HTTP/1.1\r\nhost: x\r\n\r\n";
    let mut first = open(address, request);
    read_until(&mut first, "}");
    let refused = read_all(&mut open(address, request));
    let (head, body) = refused.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 503 ") && head.contains("retry-after: 1"), "{head}");
    let body: Value = serde_json::from_str(body).unwrap();
    assert_eq!(body["error"]["code"], "too_many_connections");
    drop(first);
    let served = || {
        let mut next = open(address, b"GET /version HTTP/1.0\r\n\r\n");
        read_all(&mut next).starts_with("HTTP/1.0 200 ")
    };
    eventually("there is a place again", served).await;
}

/// The client sends all of its body before it reads, as most do.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_that_is_too_large_hears_so_and_not_a_reset() {
    let (app, _) = app(Fake::default());
    let (address, _stop, _) = listening(&app).await;
    let chunk = vec![b' '; 1 << 20];
    for framing in ["content-length: 20971520", "transfer-encoding: chunked"] {
        let head = format!(
            "POST {CHAT} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n{framing}\r\n\r\n"
        );
        let mut stream = open(address, head.as_bytes());
        for _ in 0..20 {
            if framing.contains("chunked") {
                write!(stream, "{:x}\r\n", chunk.len()).unwrap();
            }
            stream.write_all(&chunk).unwrap();
            if framing.contains("chunked") {
                stream.write_all(b"\r\n").unwrap();
            }
        }
        let text = read_until(&mut stream, "}}");
        assert!(text.starts_with("HTTP/1.1 413 "), "{framing}: {text}");
        assert!(text.contains("request_too_large"), "{framing}: {text}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_that_nobody_reads_is_given_up() {
    let short = Duration::from_millis(100);
    let config = ServerConfig { stall_timeout: short, heartbeat: short / 10, ..config() };
    let (app, fake) = app_with(Fake::holding(), config);
    let (address, _stop, _) = listening(&app).await;
    let connection = connect(address, &chat(&json!({"stream": true})));
    eventually("submitted", || fake.sinks.lock().unwrap().len() == 1).await;
    // More than all buffers on the way hold.
    for _ in 0..60_000 {
        assert!(fake.send(0, Event::Token { id: 65, logprobs: None }));
    }
    eventually("aborted", || fake.aborted.lock().unwrap().len() == 1).await;
    app.idle().await;
    drop(connection);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_stream_is_no_stalled_one() {
    let short = Duration::from_millis(50);
    let config = ServerConfig {
        stall_timeout: short,
        header_timeout: short,
        heartbeat: short / 5,
        ..config()
    };
    let (app, fake) = app_with(Fake::holding(), config);
    let (address, _stop, _) = listening(&app).await;
    let mut streamed = connect(address, &chat(&json!({"stream": true})));
    let mut whole = connect(address, &chat(&json!({})));
    eventually("submitted", || fake.sinks.lock().unwrap().len() == 2).await;
    tokio::time::sleep(short * 6).await;
    for sequence in 0..2 {
        fake.say(sequence, "ok");
        fake.finish(sequence);
    }
    assert!(read_until(&mut streamed, "[DONE]").contains(": ping\n\n"));
    assert!(read_until(&mut whole, "usage").starts_with("HTTP/1.1 200 "));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn http_2_in_clear_resets_one_stream_and_no_other_and_drains() {
    let config = ServerConfig { drain_timeout: Duration::from_secs(20), ..config() };
    let (app, fake) = app_with(Fake::holding(), config);
    let (address, stop, server) = listening(&app).await;
    let stream = TokioIo::new(tokio::net::TcpStream::connect(address).await.unwrap());
    let (mut sender, connection) =
        http2::handshake::<_, _, Body>(TokioExecutor::new(), stream).await.unwrap();
    let connection = tokio::spawn(connection);
    let mut bodies = Vec::new();
    for number in 1..=2 {
        let mut request = post_request(CHAT, chat(&json!({"stream": true})).to_string());
        *request.uri_mut() = format!("http://{address}{CHAT}").parse().unwrap();
        let response = sender.send_request(request).await.unwrap();
        assert_eq!(response.status(), 200);
        assert!(response.headers().contains_key("x-request-id"));
        bodies.push(response.into_body());
        eventually("submitted", || fake.sinks.lock().unwrap().len() == number).await;
    }
    drop(bodies.remove(0));
    eventually("aborted", || *fake.aborted.lock().unwrap() == [0]).await;
    drop(stop);
    let refused = || TcpStream::connect(address).is_err();
    eventually("nothing is accepted any more", refused).await;
    fake.say(1, "on");
    fake.finish(1);
    let rest = bodies.remove(0).collect().await.unwrap().to_bytes();
    let rest = String::from_utf8(rest.to_vec()).unwrap();
    assert!(rest.contains("\"content\":\"n\"") && rest.ends_with("data: [DONE]\n\n"), "{rest}");
    server.await.unwrap().unwrap();
    connection.await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_unix_socket_serves_the_same() {
    let (app, _) = app(Fake::answering("x"));
    let path = std::env::temp_dir().join(format!("sconce-api-{}.sock", std::process::id()));
    let listener = tokio::net::UnixListener::bind(&path).unwrap();
    tokio::spawn(server::serve(listener, app, std::future::pending()));
    let mut stream = UnixStream::connect(&path).unwrap();
    stream.write_all(b"GET /version HTTP/1.0\r\n\r\n").unwrap();
    let text = tokio::task::spawn_blocking(move || read_all(&mut stream)).await.unwrap();
    assert!(text.starts_with("HTTP/1.0 200 OK"), "{text}");
    std::fs::remove_file(path).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn until_the_delay_is_over_requests_are_taken_though_ready_says_no() {
    let config = ServerConfig {
        drain_delay: Duration::from_secs(2),
        drain_timeout: Duration::from_secs(20),
        ..config()
    };
    let (app, fake) = app_with(Fake::holding(), config);
    let (address, stop, server) = listening(&app).await;
    let mut idle = open(address, b"GET /version HTTP/1.1\r\nhost: x\r\n\r\n");
    read_until(&mut idle, "}");
    drop(stop);
    let ready = || {
        let mut probe = open(address, b"GET /ready HTTP/1.0\r\n\r\n");
        read_all(&mut probe)
    };
    eventually("not ready", || ready().starts_with("HTTP/1.0 503")).await;
    let mut late = connect(address, &chat(&json!({"stream": true})));
    eventually("submitted", || fake.sinks.lock().unwrap().len() == 1).await;
    assert_eq!(read_all(&mut idle), "", "idle connections are closed after the delay");
    let refused = || match TcpStream::connect(address) {
        Err(error) => error.kind() == ErrorKind::ConnectionRefused,
        Ok(_) => false,
    };
    eventually("nothing is accepted any more", refused).await;
    assert!(!server.is_finished(), "one is still in flight");
    fake.say(0, "bye");
    fake.finish(0);
    assert!(read_until(&mut late, "[DONE]").contains("\"finish_reason\":\"length\""));
    server.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_trace_goes_on_in_the_answer() {
    let (app, _) = app(Fake::answering("x"));
    let given = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let request = |given: &str| {
        let request = Request::builder().method(Method::POST).uri(CHAT);
        let request = request.header("content-type", "application/json");
        request.header("traceparent", given).body(Body::from(chat(&json!({})).to_string())).unwrap()
    };
    let reply = send(&app, request(given)).await;
    assert_eq!(reply.status, 200);
    let ours = reply.headers["traceparent"].to_str().unwrap();
    assert_eq!((&ours[..36], &ours[52..], ours.len()), (&given[..36], "-01", 55));
    assert_ne!(&ours[36..52], &given[36..52], "a span of our own");
    let reply = send(&app, request(&given.to_uppercase())).await;
    assert_eq!(reply.status, 200, "what is malformed is left alone");
    assert!(!reply.headers.contains_key("traceparent"));
    assert!(!get(&app, "/version").await.headers.contains_key("traceparent"));
}

/// A browser shows a page no answer without these, not even an error.
#[tokio::test]
async fn errors_carry_the_headers_that_browsers_want() {
    let config = ServerConfig { api_keys: vec!["k".into()], ..config() };
    let (app, _) = app_with(Fake { panics: true, ..Fake::default() }, config);
    let long = " ".repeat(100_001);
    for (key, path, body, status) in [
        ("none", CHAT, "{}", 401),
        ("k", CHAT, "{", 400),
        ("k", CHAT, long.as_str(), 413),
        ("k", "/v1/nothing", "{}", 404),
        ("k", "/version", "{}", 405),
        ("k", CHAT, &chat(&json!({})).to_string(), 500),
    ] {
        let mut request = post_request(path, body.to_owned());
        let headers = request.headers_mut();
        headers.insert("authorization", format!("Bearer {key}").parse().unwrap());
        headers.insert("origin", "https://chat.example".parse().unwrap());
        let reply = send(&app, request).await;
        assert_eq!(reply.status, status, "{}", reply.text);
        assert!(reply.json()["error"]["message"].is_string());
        assert_eq!(reply.headers["access-control-allow-origin"], "*", "{status}");
        let exposed = reply.headers["access-control-expose-headers"].to_str().unwrap();
        assert!(exposed.contains("x-request-id"), "{status}: {exposed}");
    }
}
