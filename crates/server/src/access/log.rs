//! The access log: one JSON object a line for each request to the API.
//!
//! A request hands its entry to a thread that writes; it never waits. What does not fit between the
//! two is dropped and counted, and so is what cannot be written.

use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};
use std::thread;

use axum::body::Bytes;
use serde::Serialize;
use tokio::sync::oneshot;

/// Entries between requests and the thread, and the bytes of bodies in them.
const MAX_ENTRIES: usize = 8192;
const MAX_QUEUED_BYTES: usize = 32 << 20;
/// Bytes of a body that are logged.
pub(super) const MAX_BODY_BYTES: usize = 64 << 10;

/// Where the log goes and what is in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccessLogConfig {
    /// A file, appended to; `None` is the standard output.
    pub path: Option<PathBuf>,
    /// Whether the bodies of requests and answers are in it, which have the users' texts.
    pub bodies: bool,
}

/// One line.
#[derive(Debug, Default, Serialize)]
pub(super) struct Entry {
    /// When the request came.
    pub(super) time: String,
    pub(super) request_id: String,
    /// The key's name.
    pub(super) key: Option<String>,
    pub(super) method: String,
    pub(super) route: String,
    pub(super) model: Option<String>,
    /// 499 if the client was gone before there was one.
    pub(super) status: u16,
    pub(super) prompt_tokens: Option<u64>,
    pub(super) cached_tokens: Option<u64>,
    pub(super) completion_tokens: Option<u64>,
    pub(super) ttft_ms: Option<f64>,
    pub(super) duration_ms: f64,
    /// Of several choices all that differ, with commas between.
    pub(super) finish_reason: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "as_text")]
    pub(super) request: Option<Bytes>,
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "as_text")]
    pub(super) response: Option<Bytes>,
}

impl Entry {
    fn num_bytes(&self) -> usize {
        let bodies = [&self.request, &self.response];
        bodies.into_iter().flatten().map(Bytes::len).sum()
    }
}

#[expect(clippy::ref_option, reason = "serde's signature")]
fn as_text<S: serde::Serializer>(body: &Option<Bytes>, serializer: S) -> Result<S::Ok, S::Error> {
    match body {
        Some(body) => serializer.serialize_str(&String::from_utf8_lossy(body)),
        None => serializer.serialize_none(),
    }
}

/// The requests' side. Clones share it.
#[derive(Debug, Clone)]
pub(crate) struct AccessLog {
    sender: SyncSender<Message>,
    shared: Arc<Shared>,
    pub(super) bodies: bool,
}

#[derive(Debug, Default)]
struct Shared {
    dropped: AtomicU64,
    queued_bytes: AtomicUsize,
    reopen: AtomicBool,
}

#[derive(Debug)]
enum Message {
    Entry(Box<Entry>),
    /// Look at `reopen`.
    Wake,
    /// Answer when everything before is written.
    Flush(oneshot::Sender<()>),
}

impl AccessLog {
    /// Opens the log and starts its thread.
    pub(super) fn start(config: &AccessLogConfig) -> io::Result<Self> {
        let sink = match &config.path {
            Some(path) => Sink::File(BufWriter::new(open(path)?)),
            None => Sink::Stdout,
        };
        let (sender, receiver) = sync_channel(MAX_ENTRIES);
        let shared = Arc::new(Shared::default());
        let writer = Writer {
            sink,
            path: config.path.clone(),
            shared: Arc::clone(&shared),
            is_failing: false,
        };
        thread::Builder::new().name("access-log".into()).spawn(move || writer.run(&receiver))?;
        Ok(Self { sender, shared, bodies: config.bodies })
    }

    /// Takes an entry if there is room.
    pub(super) fn write(&self, entry: Entry) {
        let num_bytes = entry.num_bytes();
        let queued = self.shared.queued_bytes.fetch_add(num_bytes, Ordering::Relaxed);
        let fits = queued + num_bytes <= MAX_QUEUED_BYTES;
        if !fits || self.sender.try_send(Message::Entry(Box::new(entry))).is_err() {
            self.shared.queued_bytes.fetch_sub(num_bytes, Ordering::Relaxed);
            self.shared.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Entries that were not written.
    pub(super) fn dropped(&self) -> u64 {
        self.shared.dropped.load(Ordering::Relaxed)
    }

    /// Opens the file anew: it may have been moved away.
    pub(super) fn reopen(&self) {
        self.shared.reopen.store(true, Ordering::Release);
        // A full channel wakes the thread by itself.
        drop(self.sender.try_send(Message::Wake));
    }

    /// Resolves when all entries so far are written.
    pub(super) async fn flush(&self) {
        let (done, flushed) = oneshot::channel();
        let sender = self.sender.clone();
        let sent = tokio::task::spawn_blocking(move || sender.send(Message::Flush(done)));
        if sent.await.is_ok_and(|sent| sent.is_ok()) {
            // Without an answer the thread is gone, and there is nothing to wait for.
            let _ = flushed.await;
        }
    }
}

/// The thread's side.
#[derive(Debug)]
struct Writer {
    sink: Sink,
    path: Option<PathBuf>,
    shared: Arc<Shared>,
    /// So that a full disk is said once.
    is_failing: bool,
}

#[derive(Debug)]
enum Sink {
    File(BufWriter<File>),
    Stdout,
}

impl Writer {
    fn run(mut self, receiver: &Receiver<Message>) {
        loop {
            // Lines leave together as long as there are more, and at once where there are none.
            let message = match receiver.try_recv() {
                Ok(message) => message,
                Err(TryRecvError::Disconnected) => return,
                Err(TryRecvError::Empty) => {
                    self.flush();
                    let Ok(message) = receiver.recv() else { return };
                    message
                }
            };
            if self.shared.reopen.swap(false, Ordering::Acquire) {
                self.open_again();
            }
            match message {
                Message::Entry(entry) => {
                    self.shared.queued_bytes.fetch_sub(entry.num_bytes(), Ordering::Relaxed);
                    if let Err(error) = self.write(&entry) {
                        self.shared.dropped.fetch_add(1, Ordering::Relaxed);
                        self.fail(&error);
                    }
                }
                Message::Wake => {}
                Message::Flush(done) => {
                    self.flush();
                    // Whoever asked may have stopped waiting.
                    let _ = done.send(());
                }
            }
        }
    }

    fn write(&mut self, entry: &Entry) -> io::Result<()> {
        let mut line = serde_json::to_vec(entry)?;
        line.push(b'\n');
        match &mut self.sink {
            Sink::File(file) => file.write_all(&line),
            Sink::Stdout => io::stdout().write_all(&line),
        }
    }

    fn flush(&mut self) {
        let flushed = match &mut self.sink {
            Sink::File(file) => file.flush(),
            Sink::Stdout => io::stdout().flush(),
        };
        match flushed {
            Ok(()) => self.is_failing = false,
            Err(error) => self.fail(&error),
        }
    }

    fn open_again(&mut self) {
        let Some(path) = self.path.clone() else { return };
        self.flush();
        match open(&path) {
            Ok(file) => self.sink = Sink::File(BufWriter::new(file)),
            Err(error) => {
                let path = path.display();
                tracing::error!("--access-log {path}: {error}; the file open so far is kept");
            }
        }
    }

    fn fail(&mut self, error: &io::Error) {
        if !std::mem::replace(&mut self.is_failing, true) {
            let path = self.path.as_ref().map_or("-".into(), |path| path.display().to_string());
            tracing::error!("--access-log {path} cannot be written: {error}");
        }
    }
}

/// Others of the machine may not read who asks what.
fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).mode(0o640).open(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(name: &str, bodies: bool) -> (AccessLog, PathBuf) {
        let path = std::env::temp_dir().join(format!("sconce-{name}-{}.log", std::process::id()));
        drop(std::fs::remove_file(&path));
        let config = AccessLogConfig { path: Some(path.clone()), bodies };
        (AccessLog::start(&config).unwrap(), path)
    }

    fn entry(route: &str) -> Entry {
        Entry { route: route.into(), ..Entry::default() }
    }

    #[tokio::test]
    async fn a_moved_file_is_left_and_a_new_one_begun() {
        let (log, path) = log("rotated", false);
        let old = path.with_extension("1");
        log.write(entry("/old"));
        log.flush().await;
        std::fs::rename(&path, &old).unwrap();
        log.reopen();
        log.write(entry("/new"));
        log.flush().await;
        for (path, route) in [(&old, "/old"), (&path, "/new")] {
            let text = std::fs::read_to_string(path).unwrap();
            let line: serde_json::Value = serde_json::from_str(&text).unwrap();
            assert_eq!(line["route"], route, "one line each");
            std::fs::remove_file(path).unwrap();
        }
        assert_eq!(log.dropped(), 0);
    }

    #[tokio::test]
    async fn what_does_not_fit_is_dropped_and_counted() {
        let (log, path) = log("full", true);
        let body = Some(Bytes::from(vec![b'x'; MAX_QUEUED_BYTES + 1]));
        log.write(Entry { request: body, ..entry("/large") });
        assert_eq!(log.dropped(), 1);
        log.write(entry("/small"));
        log.flush().await;
        assert_eq!(std::fs::read_to_string(&path).unwrap().lines().count(), 1);
        assert_eq!(log.shared.queued_bytes.load(Ordering::Relaxed), 0);
        std::fs::remove_file(&path).unwrap();
    }

    #[tokio::test]
    async fn a_full_disk_is_counted_and_ends_nothing() {
        let config = AccessLogConfig { path: Some("/dev/full".into()), bodies: false };
        let log = AccessLog::start(&config).unwrap();
        for _ in 0..1000 {
            log.write(entry("/lost"));
        }
        log.flush().await;
        assert!(log.dropped() > 900, "{}", log.dropped());
    }
}
