//! nginx in front, with its default buffering and with the file in `deploy/`: chunks arrive when
//! they are sent, a request that waits in the queue lives on, a client that leaves is noticed.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::json;
use server::{App, ServerConfig};

use crate::fake::{Fake, app, app_with, chat, config};
use crate::lifecycle::{CHAT, eventually};

/// Longer than a heartbeat, shorter than the queue: a minute and 90 s in real life.
const READ_TIMEOUT: &str = "1s";
const HEARTBEAT: Duration = Duration::from_millis(300);
const QUEUED: Duration = Duration::from_secs(3);

/// What everybody copies: no word of buffering, HTTP/1.0 to the server.
const DEFAULT_SITE: &str = "
    server {
        listen unix:FRONT;
        location / {
            proxy_pass http://unix:BACK;
            proxy_read_timeout TIMEOUT;
        }
    }";

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap().to_owned()
}

/// The one that scripts/test unpacked, or the system's.
fn program() -> Command {
    let unpacked = root().join("target/test-env/nginx/usr/sbin/nginx");
    Command::new(if unpacked.is_file() { unpacked } else { "nginx".into() })
}

/// nginx and a server behind it, both on unix sockets. Ended when dropped.
struct Front {
    nginx: Child,
    folder: PathBuf,
}

impl Front {
    async fn start(name: &str, site: &str, app: App) -> Self {
        let folder = std::env::temp_dir().join(format!("sconce-{name}-{}", std::process::id()));
        drop(std::fs::remove_dir_all(&folder));
        std::fs::create_dir_all(&folder).unwrap();
        let path = |file: &str| folder.join(file).to_str().unwrap().to_owned();
        let listener = tokio::net::UnixListener::bind(path("back")).unwrap();
        tokio::spawn(server::serve(listener, app, std::future::pending()));
        let site = site.replace("FRONT", &path("front")).replace("BACK", &path("back"));
        let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .map(|kind| format!("{kind}_temp_path {};\n", path(kind)))
            .concat();
        let config = format!(
            "daemon off; master_process off; pid {}; error_log stderr;\n\
             events {{}}\nhttp {{ access_log off;\n{temporary}{site} }}\n",
            path("pid")
        );
        std::fs::write(path("nginx.conf"), config).unwrap();
        let nginx = program()
            .args(["-p", &path(""), "-c", &path("nginx.conf"), "-e", "stderr"])
            .stdin(Stdio::null())
            .spawn()
            .expect("nginx is installed, or unpacked by scripts/test");
        let front = Self { nginx, folder };
        eventually("nginx listens", || UnixStream::connect(front.folder.join("front")).is_ok())
            .await;
        front
    }

    fn send(&self, head: &str, body: &str) -> UnixStream {
        let mut stream = UnixStream::connect(self.folder.join("front")).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let head = format!("{head} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n");
        let length = format!("content-type: application/json\r\ncontent-length: {}", body.len());
        stream.write_all(format!("{head}{length}\r\n\r\n{body}").as_bytes()).unwrap();
        stream
    }

    fn chat(&self, stream: bool) -> UnixStream {
        self.send(&format!("POST {CHAT}"), &chat(&json!({"stream": stream})).to_string())
    }
}

impl Drop for Front {
    fn drop(&mut self) {
        drop(self.nginx.kill());
        drop(self.nginx.wait());
        drop(std::fs::remove_dir_all(&self.folder));
    }
}

/// Reads until `end` has come; what came.
fn read_until(stream: &mut UnixStream, end: &str) -> String {
    let mut text = String::new();
    let mut buffer = [0; 4096];
    while !text.contains(end) {
        let len = stream.read(&mut buffer).unwrap_or_else(|error| panic!("{error}: {text}"));
        assert!(len > 0, "closed before {end:?}: {text}");
        text += std::str::from_utf8(&buffer[..len]).unwrap();
    }
    text
}

fn read_all(mut stream: UnixStream) -> String {
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_default_buffering_chunks_pass_at_once_and_the_queue_is_survived() {
    let (app, fake) = app_with(Fake::holding(), ServerConfig { heartbeat: HEARTBEAT, ..config() });
    let site = DEFAULT_SITE.replace("TIMEOUT", READ_TIMEOUT);
    let front = Front::start("nginx-stream", &site, app).await;
    let mut stream = front.chat(true);
    eventually("submitted", || fake.sinks.lock().unwrap().len() == 1).await;
    tokio::time::sleep(QUEUED).await;
    let mut delays = Vec::new();
    for letter in ["a", "b", "c", "d", "e"] {
        let sent = Instant::now();
        fake.say(0, letter);
        let text = read_until(&mut stream, &format!("{{\"content\":\"{letter}\"}}"));
        delays.push(sent.elapsed());
        if letter == "a" {
            assert!(text.starts_with("HTTP/1.1 200 OK"), "{text}");
            assert!(text.contains(": ping\n\n"), "only comments keep it alive: {text}");
        }
    }
    // A machine that is busy for a moment does not matter; a buffer would delay them all.
    delays.sort();
    assert!(delays[2] < Duration::from_millis(200), "{delays:?}");
    fake.finish(0);
    read_until(&mut stream, "data: [DONE]\n\n");
    assert!(fake.aborted.lock().unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_leaves_nginx_aborts_its_sequence() {
    let (app, fake) = app(Fake::holding());
    let site = DEFAULT_SITE.replace("TIMEOUT", "60s");
    let front = Front::start("nginx-leave", &site, app.clone()).await;
    for (number, stream) in [true, false].into_iter().enumerate() {
        let mut connection = front.chat(stream);
        eventually("submitted", || fake.sinks.lock().unwrap().len() == number + 1).await;
        fake.say(number, "a");
        if stream {
            read_until(&mut connection, "\"a\"");
        }
        assert_eq!(fake.aborted.lock().unwrap().len(), number);
        drop(connection);
        eventually("aborted", || fake.aborted.lock().unwrap().len() == number + 1).await;
    }
    app.idle().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_site_that_we_give_away() {
    let (app, _) = app(Fake::answering("good day"));
    let site = std::fs::read_to_string(root().join("deploy/nginx.conf")).unwrap();
    let [listen, back] = ["listen 80;", "unix:/run/sconce/sconce.sock"];
    assert!(site.contains(listen) && site.contains(back));
    let site = site.replace(listen, "listen unix:FRONT;").replace(back, "unix:BACK");
    let front = Front::start("nginx-site", &site, app).await;
    for _ in 0..2 {
        let streamed = read_all(front.chat(true));
        assert!(
            streamed.contains("text/event-stream") && streamed.contains("[DONE]"),
            "{streamed}"
        );
        let whole = read_all(front.chat(false)).to_lowercase();
        assert!(whole.contains("\"content\":\"good day\""), "{whole}");
        let id = whole.split_once("x-request-id: ").unwrap().1.lines().next().unwrap();
        assert!(id.len() == 32 && !id.starts_with("req_"), "the name that nginx gave it: {id}");
    }
    let large = chat(&json!({"user": "x".repeat(2 << 20)})).to_string();
    let refused = read_all(front.send(&format!("POST {CHAT}"), &large));
    assert!(refused.contains("request_too_large"), "by Sconce, in its words: {refused}");
    assert!(read_all(front.send("GET /metrics", "")).starts_with("HTTP/1.1 403"));
}
