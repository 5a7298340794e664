//! `sconce bench startup`: from the start of a process to listening, to ready, to the first token.

use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use hyper::Method;
use serde::Serialize;
use serde_json::json;

use crate::api::{Api, Input};
use crate::cli::StartupArgs;
use crate::client::Client;
use crate::failure::{Failure, FailureKind};
use crate::output::say;
use crate::request::{Asked, ask};
use crate::serve::{block_on, write_json};
use crate::server::{Server, first_model};

/// Between two looks: what a figure may be late by.
const LOOK_EVERY: Duration = Duration::from_millis(1);
/// How long a server may take to end before it is killed.
const END_WITHIN: Duration = Duration::from_secs(10);
/// Lines of a failed server's log that are shown.
const LOG_LINES: usize = 8;

/// One start, in milliseconds from the start of the process.
#[derive(Debug, Clone, Copy, Serialize)]
#[expect(
    clippy::struct_field_names,
    reason = "they are the names in the JSON, where units stand last"
)]
struct Start {
    /// It accepts connections.
    listening_ms: f64,
    /// It says that it can answer.
    ready_ms: f64,
    /// The first token of the first answer has arrived.
    first_token_ms: f64,
}

/// Measures and prints: on stdout, unless the JSON goes there.
pub(crate) fn run(args: &StartupArgs) -> Result<()> {
    if args.runs == 0 {
        bail!("--runs 0: wants at least 1");
    }
    if !args.program.is_empty() && args.url.is_none() {
        bail!("--url: say where the command will listen, e.g. --url http://127.0.0.1:8000");
    }
    let to_stderr = args.output.as_deref() == Some(Path::new("-"));
    let say = |line: String| {
        if to_stderr {
            eprintln!("{line}");
            return Ok(());
        }
        say(&(line + "\n"))
    };
    say(format!("{:<10}{:>16}{:>16}{:>16}", "(ms)", "listening", "ready", "first token"))?;
    let mut starts = Vec::new();
    for number in 1..=args.runs {
        let start = measure(args)?;
        say(line(&format!("start {number}"), start))?;
        starts.push(start);
    }
    let median = Start {
        listening_ms: median(starts.iter().map(|start| start.listening_ms)),
        ready_ms: median(starts.iter().map(|start| start.ready_ms)),
        first_token_ms: median(starts.iter().map(|start| start.first_token_ms)),
    };
    say(line("median", median))?;
    if let Some(path) = &args.output {
        let program = if args.program.is_empty() { None } else { Some(args.program.join(" ")) };
        write_json(path, &json!({"command": program, "median": median, "starts": starts}))?;
    }
    Ok(())
}

fn line(name: &str, start: Start) -> String {
    let Start { listening_ms, ready_ms, first_token_ms } = start;
    format!("{name:<10}{listening_ms:>16.1}{ready_ms:>16.1}{first_token_ms:>16.1}")
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    if values.len() % 2 == 1 {
        values[middle]
    } else {
        f64::midpoint(values[middle - 1], values[middle])
    }
}

/// Starts the program once and ends it again.
fn measure(args: &StartupArgs) -> Result<Start> {
    let (mut command, url) = command(args)?;
    let client = Arc::new(Client::new(&url, args.api_key.as_deref(), &[])?);
    block_on(async {
        if client.get_status("/").await.is_ok() {
            bail!("something listens at {url} already");
        }
        let mut process = Process::start(&mut command)?;
        let watched = watch(&client, &url, args, &mut process);
        let start = tokio::time::timeout(args.timeout, watched).await;
        start.unwrap_or_else(|_| {
            bail!("no first token within {:?} (--timeout){}", args.timeout, process.log())
        })
    })
}

fn command(args: &StartupArgs) -> Result<(Command, String)> {
    if let (Some(url), [program, rest @ ..]) = (&args.url, &args.program[..]) {
        let mut command = Command::new(program);
        command.args(rest);
        return Ok((command, url.clone()));
    }
    let free = TcpListener::bind(("127.0.0.1", 0)).context("a free port")?;
    let port = free.local_addr().context("a free port")?.port();
    let mut command = Command::new(std::env::current_exe().context("this program's path")?);
    command.args(["serve", "--port", &port.to_string()]);
    Ok((command, format!("http://127.0.0.1:{port}")))
}

async fn watch(
    client: &Arc<Client>,
    url: &str,
    args: &StartupArgs,
    process: &mut Process,
) -> Result<Start> {
    let since = |process: &Process| process.started.elapsed().as_secs_f64() * 1e3;
    let ready = args.ready_path.clone().map_or_else(
        || vec!["/ready".to_owned(), "/health".to_owned(), client.api_path("/models")],
        |path| vec![path],
    );
    let mut ready = ready.iter().peekable();
    while let Err(failure) = client.get_status(ready.peek().map_or("/", |path| path)).await {
        if failure.kind != FailureKind::Connect {
            break;
        }
        process.check()?;
        tokio::time::sleep(LOOK_EVERY).await;
    }
    let listening_ms = since(process);
    while let Some(path) = ready.peek() {
        match client.get_status(path).await {
            Ok(200) => break,
            // Not known here: the next path may be.
            Ok(404) => drop(ready.next()),
            _ => tokio::time::sleep(LOOK_EVERY).await,
        }
        process.check()?;
    }
    if ready.peek().is_none() {
        bail!("the server has none of the paths that tell when it is ready: give --ready-path");
    }
    let ready_ms = since(process);
    let model = first_model(client, url).await?;
    let server = Server::unchecked(Arc::clone(client), Api::Chat, model, args.timeout);
    let input = Input::Text("Say something.".to_owned());
    loop {
        let asked = Asked { prompt_tokens: None, output_tokens: 1, keep_text: false };
        let started = process.started;
        let sample = ask(&server, &input, asked, started, Instant::now(), args.timeout).await;
        if let Some(first) = sample.chunks.first() {
            return Ok(Start { listening_ms, ready_ms, first_token_ms: first.as_secs_f64() * 1e3 });
        }
        match sample.failure {
            // Some servers listen, and even say that they are ready, before they are.
            Some(failure) if failure.kind == FailureKind::ServerError => {}
            Some(failure) => return Err(failure.into()),
            None => bail!("the first answer had no token"),
        }
        process.check()?;
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

impl Client {
    async fn get_status(self: &Arc<Self>, path: &str) -> Result<u16, Failure> {
        let answer = self.send(Method::GET, path, bytes::Bytes::new()).await?;
        let status = answer.status();
        answer.whole().await?;
        Ok(status)
    }
}

/// The program under test. Ended when dropped.
struct Process {
    child: Child,
    started: Instant,
    log: Arc<Mutex<Vec<String>>>,
}

impl Process {
    fn start(command: &mut Command) -> Result<Self> {
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let started = Instant::now();
        let program = command.get_program().to_string_lossy().into_owned();
        let mut child = command.spawn().with_context(|| format!("{program} cannot be started"))?;
        let log = Arc::new(Mutex::new(Vec::new()));
        if let Some(stderr) = child.stderr.take() {
            let kept = Arc::clone(&log);
            thread::spawn(move || {
                for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                    let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
                    kept.push(line);
                    if kept.len() > LOG_LINES {
                        kept.remove(0);
                    }
                }
            });
        }
        Ok(Self { child, started, log })
    }

    /// Fails if the program has ended.
    fn check(&mut self) -> Result<()> {
        match self.child.try_wait().context("the process")? {
            None => Ok(()),
            Some(status) => {
                // The reader of the log may be a moment behind.
                thread::sleep(Duration::from_millis(50));
                bail!("the server ended ({status}){}", self.log())
            }
        }
    }

    fn log(&self) -> String {
        let lines = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        if lines.is_empty() { String::new() } else { format!("; it said: {}", lines.join(" | ")) }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // The number of a process that has ended may be another's by now.
        if !matches!(self.child.try_wait(), Ok(None)) {
            return;
        }
        // A polite end first: servers have children of their own to end.
        let id = self.child.id().to_string();
        drop(Command::new("kill").args(["-TERM", &id]).status());
        let deadline = Instant::now() + END_WITHIN;
        while Instant::now() < deadline {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return;
            }
            thread::sleep(Duration::from_millis(5));
        }
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians() {
        assert_eq!(median([3.0, 1.0, 2.0].into_iter()), 2.0);
        assert_eq!(median([4.0, 1.0, 2.0, 3.0].into_iter()), 2.5);
    }

    fn args(program: &[&str]) -> StartupArgs {
        StartupArgs {
            runs: 1,
            url: Some("http://127.0.0.1:9".to_owned()),
            api_key: None,
            ready_path: None,
            timeout: Duration::from_millis(500),
            output: None,
            program: program.iter().map(|&word| word.to_owned()).collect(),
        }
    }

    #[test]
    fn a_server_that_ends_or_never_listens_is_told_of() {
        let error = measure(&args(&["sh", "-c", "echo no weights >&2; exit 3"])).unwrap_err();
        let error = format!("{error:#}");
        assert!(error.contains("exit status: 3") && error.contains("no weights"), "{error}");
        let error = measure(&args(&["sleep", "60"])).unwrap_err().to_string();
        assert!(error.contains("--timeout"), "{error}");
        let error = format!("{:#}", measure(&args(&["/no/such/server"])).unwrap_err());
        assert!(error.contains("/no/such/server"), "{error}");
    }
}
