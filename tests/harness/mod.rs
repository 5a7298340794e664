//! Starts the real server on a free port and talks to it, for the end-to-end tests.

use serde_json::{Map, Value};
use std::collections::HashMap;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

/// How long a test waits for something that should be quick, on a busy machine.
pub const PATIENCE: Duration = Duration::from_mins(2);

/// What the harness sends as its key; a server started without keys does not look at it.
pub const KEY: &str = "sesame";

/// The repository.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ is in the root").to_owned()
}

/// A Python of `scripts/test`.
pub fn python(environment: &str) -> PathBuf {
    let program = root().join("target/test-env").join(environment).join("bin/python");
    assert!(program.is_file(), "{} is missing: scripts/test installs it", program.display());
    program
}

/// Runs a script of `tests/clients`, which must succeed; returns what it printed.
#[track_caller]
pub fn run_client(interpreter: &Path, script: &str, args: &[&str]) -> String {
    let mut command = Command::new(interpreter);
    command.arg(root().join("tests/clients").join(script)).args(args);
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {}\n{stderr}", output.status);
    String::from_utf8(output.stdout).expect("clients print UTF-8")
}

/// The same of a script whose last line is a JSON map.
#[track_caller]
pub fn client_answers(interpreter: &Path, script: &str, args: &[&str]) -> Map<String, Value> {
    let printed = run_client(interpreter, script, args);
    let last = printed.lines().last().unwrap_or_default();
    serde_json::from_str(last).unwrap_or_else(|error| panic!("{script}: {error}:\n{printed}"))
}

/// Waits for something that should come soon.
#[track_caller]
pub fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "never: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A folder of a test's own, removed when dropped.
#[derive(Debug)]
pub struct Folder(String);

impl Folder {
    /// An empty one, whatever an earlier run has left there.
    pub fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("sconce-{name}-{}", std::process::id()));
        drop(fs::remove_dir_all(&path));
        fs::create_dir_all(&path).expect("a folder can be made");
        Self(path.into_os_string().into_string().expect("a path in UTF-8"))
    }

    /// A model without weights: a golden configuration, changed, with spark's tokenizer, whose
    /// vocabulary is larger.
    pub fn model(name: &str, change: impl FnOnce(&mut Value)) -> Self {
        let golden = fs::read(root().join("models/golden/qwen3/config.json"));
        let mut config = serde_json::from_slice(&golden.expect("a golden")).expect("JSON");
        change(&mut config);
        let folder = Self::new(name);
        folder.file("config.json", &config.to_string());
        folder.copy("models/spark", &["tokenizer.json", "tokenizer_config.json"]);
        folder
    }

    /// Its own path.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The path of a file in it.
    pub fn path(&self, name: &str) -> String {
        format!("{}/{name}", self.0)
    }

    /// Writes a file; returns its path.
    pub fn file(&self, name: &str, text: &str) -> String {
        let path = self.path(name);
        fs::write(&path, text).expect("a file can be written");
        path
    }

    /// Copies files from a folder of the repository.
    pub fn copy(&self, from: &str, files: &[&str]) {
        for file in files {
            let source = root().join(from).join(file);
            fs::copy(source, self.path(file)).expect("a file can be copied");
        }
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.0));
    }
}

/// The server's program: built beside the tests.
pub fn binary() -> PathBuf {
    let test = std::env::current_exe().expect("a test has a path");
    let folder = test.ancestors().nth(2).expect("target/<profile>/deps/<test>");
    let binary = folder.join("sconce");
    assert!(
        binary.is_file(),
        "{} is missing: build it first (scripts/test does)",
        binary.display()
    );
    binary
}

/// The program with an environment that cannot leak into a test.
pub fn sconce(args: &[&str]) -> Command {
    let mut command = Command::new(binary());
    command.args(args).env_clear().env("HOME", std::env::temp_dir()).env("HF_HUB_OFFLINE", "1");
    command
}

/// A running server. Killed when dropped.
#[derive(Debug)]
pub struct Server {
    /// `http://127.0.0.1:<port>`, or as the server names where it listens.
    pub url: String,
    child: Child,
    log: Mutex<Receiver<String>>,
}

impl Server {
    /// Starts `sconce serve ARGS` on a free port and waits until it is ready.
    pub fn start(args: &[&str]) -> Self {
        Self::start_with(args, &[])
    }

    /// The same with these environment variables.
    pub fn start_with(args: &[&str], environment: &[(&str, &str)]) -> Self {
        let server = Self::launch_with(args, environment);
        let deadline = Instant::now() + PATIENCE;
        while server.get("/ready").0 != 200 {
            assert!(Instant::now() < deadline, "never ready:\n{}", server.log_so_far());
            std::thread::sleep(Duration::from_millis(20));
        }
        server
    }

    /// Starts it and waits only until it listens.
    pub fn launch(args: &[&str]) -> Self {
        Self::launch_with(args, &[])
    }

    #[expect(clippy::zombie_processes, reason = "the drop of what is returned waits for it")]
    fn launch_with(args: &[&str], environment: &[(&str, &str)]) -> Self {
        let mut all = vec!["serve", "--port", "0"];
        all.extend(args);
        let mut command = sconce(&all);
        command.envs(environment.iter().copied()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("sconce starts");
        let stderr = BufReader::new(child.stderr.take().expect("stderr is piped"));
        let (sender, log) = channel();
        std::thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        let mut seen = String::new();
        loop {
            let line = log
                .recv_timeout(PATIENCE)
                .unwrap_or_else(|_| panic!("the server did not say where it listens:\n{seen}"));
            seen += &line;
            seen.push('\n');
            if let Some((_, url)) = line.split_once("listening on ") {
                let url = url.split([' ', ',']).next().expect("split yields one").to_owned();
                return Self { url, child, log: Mutex::new(log) };
            }
        }
    }

    /// The lines that the server has logged since the last call.
    pub fn log_so_far(&self) -> String {
        let log = self.log.lock().expect("no test panics with the log");
        log.try_iter().flat_map(|line| [line, "\n".to_owned()]).collect()
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal by name, e.g. `TERM`.
    pub fn signal(&self, name: &str) {
        let status =
            Command::new("kill").arg(format!("-{name}")).arg(self.pid().to_string()).status();
        assert!(status.expect("kill runs").success(), "the server is gone");
    }

    /// Waits for the process to end.
    pub fn wait(self) -> ExitStatus {
        self.wait_with_log().0
    }

    /// The same, with what it logged since [`log_so_far`](Self::log_so_far) was last called.
    pub fn wait_with_log(mut self) -> (ExitStatus, String) {
        let status = self.ended();
        let log = self.log.lock().expect("no test panics with the log");
        (status, log.iter().flat_map(|line| [line, "\n".to_owned()]).collect())
    }

    fn ended(&mut self) -> ExitStatus {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().expect("the child is ours") {
                return status;
            }
            assert!(Instant::now() < deadline, "the server does not end");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// GET: status and body.
    pub fn get(&self, path: &str) -> (u16, String) {
        let response =
            agent().get(format!("{}{path}", self.url)).call().expect("the server answers");
        read(response)
    }

    /// GET: the status, if a server answers.
    pub fn try_get(&self, path: &str) -> Option<u16> {
        let response = agent().get(format!("{}{path}", self.url)).call();
        response.ok().map(|response| response.status().as_u16())
    }

    /// POST of JSON: status and body as text.
    pub fn post_text(&self, path: &str, body: &str) -> (u16, String) {
        let key = format!("Bearer {KEY}");
        let (status, _, text) = self.post_with(&[("authorization", &key)], path, body);
        (status, text)
    }

    /// The same with headers, of which the answer's come back, too.
    pub fn post_with(
        &self,
        headers: &[(&str, &str)],
        path: &str,
        body: &str,
    ) -> (u16, HashMap<String, String>, String) {
        let mut request = agent().post(format!("{}{path}", self.url));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response = request.header("content-type", "application/json").send(body);
        let response = response.expect("the server answers");
        let header = |(name, value): (&ureq::http::HeaderName, &ureq::http::HeaderValue)| {
            (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned())
        };
        let headers = response.headers().iter().map(header).collect();
        let (status, text) = read(response);
        (status, headers, text)
    }

    /// POST of JSON: status and body as JSON.
    pub fn post(&self, path: &str, body: &Value) -> (u16, Value) {
        let (status, text) = self.post_text(path, &body.to_string());
        (status, serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}")))
    }

    /// POST that must succeed.
    pub fn ok(&self, path: &str, body: &Value) -> Value {
        let (status, answer) = self.post(path, body);
        assert_eq!(status, 200, "{body} -> {answer}");
        answer
    }

    /// POST with `"stream": true`: the events' JSON, `[DONE]` checked and left out.
    pub fn stream(&self, path: &str, body: &Value) -> Vec<Value> {
        let mut body = body.clone();
        body["stream"] = Value::Bool(true);
        let (status, text) = self.post_text(path, &body.to_string());
        assert_eq!(status, 200, "{text}");
        let mut events: Vec<_> = text
            .split("\n\n")
            .filter(|event| !event.is_empty() && !event.starts_with(':'))
            .map(|event| event.strip_prefix("data: ").unwrap_or_else(|| panic!("event `{event}`")))
            .collect();
        assert_eq!(events.pop(), Some("[DONE]"), "{text}");
        events.iter().map(|event| serde_json::from_str(event).expect("an event is JSON")).collect()
    }

    /// One gauge or counter of /metrics, labels ignored, summed.
    pub fn metric(&self, name: &str) -> f64 {
        self.metric_with(name, "")
    }

    /// The same, of those that have a label.
    pub fn metric_with(&self, name: &str, label: &str) -> f64 {
        let (_, text) = self.get("/metrics");
        let values: Vec<f64> = text
            .lines()
            .filter(|line| line.split(['{', ' ']).next() == Some(name) && line.contains(label))
            .map(|line| line.rsplit(' ').next().expect("a value").parse().expect("a number"))
            .collect();
        assert!(!values.is_empty(), "no metric {name} in:\n{text}");
        values.iter().sum()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Already ended is fine.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn agent() -> ureq::Agent {
    ureq::Agent::config_builder()
        .http_status_as_error(false)
        .timeout_global(Some(PATIENCE))
        .build()
        .into()
}

fn read(response: ureq::http::Response<ureq::Body>) -> (u16, String) {
    let status = response.status().as_u16();
    let mut text = String::new();
    response.into_body().into_reader().read_to_string(&mut text).expect("a whole body");
    (status, text)
}

/// The text of all deltas of one choice.
pub fn streamed_text(events: &[Value], index: usize) -> String {
    let choices = events.iter().flat_map(|event| event["choices"].as_array().into_iter().flatten());
    choices
        .filter(|choice| choice["index"] == index)
        .map(|choice| choice["delta"]["content"].as_str().or(choice["text"].as_str()).unwrap_or(""))
        .collect()
}
