//! Who asks, and what becomes of it: known wherever a request is handled.
//!
//! It travels with the task and not through arguments, so that a route that is added later cannot
//! forget it: models are checked where a model is named, tokens where a generation starts.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use axum::body::Bytes;
use axum::http::StatusCode;

use super::keys::Key;
use super::limits::Refusal;
use super::log::{Entry, MAX_BODY_BYTES};
use super::usage::Tokens;
use super::window::Taken;
use crate::error::ApiError;

tokio::task_local! {
    static CALL: Arc<Call>;
}

/// One request to the API.
#[derive(Debug)]
pub(crate) struct Call {
    pub(super) key: Option<Arc<Key>>,
    /// What the limits' times count from.
    origin: Instant,
    started: Instant,
    keeps_bodies: bool,
    record: Mutex<Record>,
}

/// What the access log says of it.
#[derive(Debug, Default)]
struct Record {
    model: Option<String>,
    tokens: Option<Tokens>,
    first_token: Option<Duration>,
    finishes: Vec<&'static str>,
    request: Option<Bytes>,
}

impl Call {
    pub(super) fn new(key: Option<Arc<Key>>, origin: Instant, keeps_bodies: bool) -> Arc<Self> {
        let started = Instant::now();
        Arc::new(Self { key, origin, started, keeps_bodies, record: Mutex::default() })
    }

    /// The request that this task handles; outside of any one without a key.
    pub(crate) fn current() -> Arc<Self> {
        let current = CALL.try_with(Arc::clone);
        current.unwrap_or_else(|_| Self::new(None, Instant::now(), false))
    }

    /// Handles it in `future`.
    pub(super) async fn run<T>(self: Arc<Self>, future: impl Future<Output = T>) -> T {
        CALL.scope(self, future).await
    }

    /// Goes on with it on another thread.
    pub(crate) fn run_here<T>(self: Arc<Self>, job: impl FnOnce() -> T) -> T {
        CALL.sync_scope(self, job)
    }

    /// The key's name.
    pub(crate) fn key_name(&self) -> Option<&str> {
        self.key.as_ref().map(|key| key.name.as_str())
    }

    /// 403 unless the key may use a model by this name, which is served.
    pub(crate) fn check_model(&self, name: &str) -> Result<(), ApiError> {
        if !self.may_use(name) {
            let message = format!("This API key may not use the model '{name}'.");
            let error = ApiError::new(StatusCode::FORBIDDEN, message);
            let code = Some("model_not_allowed");
            return Err(ApiError { param: Some("model".into()), code, ..error });
        }
        let record = &mut self.record();
        record.model.get_or_insert_with(|| name.to_owned());
        Ok(())
    }

    /// Whether the key may use a model by this name.
    pub(crate) fn may_use(&self, name: &str) -> bool {
        self.key.as_ref().is_none_or(|key| key.may_use(name))
    }

    /// The priority of a request that asks for `asked`: the key's, or a later one.
    pub(crate) fn priority(&self, asked: Option<i32>) -> Result<i32, ApiError> {
        let Some(bound) = self.key.as_ref().and_then(|key| key.priority) else {
            return Ok(asked.unwrap_or(0));
        };
        match asked {
            Some(asked) if asked < bound => {
                let message = format!(
                    "'priority' is {asked}; this API key may ask for {bound} or more, which runs \
                     later."
                );
                Err(ApiError::invalid("priority", message))
            }
            asked => Ok(asked.unwrap_or(bound)),
        }
    }

    /// Takes the most tokens that the request can use off the key's limit; the account gives back
    /// what it did not use.
    pub(crate) fn reserve(
        self: Arc<Self>,
        prompt: usize,
        completion: usize,
    ) -> Result<Account, ApiError> {
        let reserved = prompt.saturating_add(completion) as u64;
        let taken = match &self.key {
            None => None,
            Some(key) => key
                .state
                .in_use
                .reserve(self.now(), &key.limits, reserved)
                .map_err(|refusal| refused(key, refusal, (prompt, completion)))?,
        };
        Ok(Account { taken, reserved, used: Tokens::default(), call: self })
    }

    /// Keeps the request's body for the log, if that is wanted.
    pub(crate) fn keep_request(&self, body: &Bytes) {
        if self.keeps_bodies {
            let end = body.len().min(MAX_BODY_BYTES);
            // A copy: a slice would keep all of a large body.
            self.record().request = Some(Bytes::copy_from_slice(&body[..end]));
        }
    }

    pub(super) fn keeps_bodies(&self) -> bool {
        self.keeps_bodies
    }

    pub(super) fn now(&self) -> Duration {
        self.origin.elapsed()
    }

    /// Completes `entry` with what has become of the request.
    pub(super) fn describe(&self, entry: &mut Entry) {
        let ms = |time: Duration| (time.as_secs_f64() * 1e6).round() / 1e3;
        let record = &mut *self.record();
        entry.key = self.key_name().map(str::to_owned);
        entry.model = record.model.take();
        if let Some(tokens) = record.tokens {
            entry.prompt_tokens = Some(tokens.prompt);
            entry.cached_tokens = Some(tokens.cached);
            entry.completion_tokens = Some(tokens.completion);
        }
        entry.ttft_ms = record.first_token.map(ms);
        entry.duration_ms = ms(self.started.elapsed());
        let finishes = std::mem::take(&mut record.finishes);
        entry.finish_reason = (!finishes.is_empty()).then(|| finishes.join(","));
        entry.request = record.request.take();
    }

    fn record(&self) -> MutexGuard<'_, Record> {
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The tokens of one generation. Dropped, it is settled.
#[derive(Debug)]
pub(crate) struct Account {
    call: Arc<Call>,
    taken: Option<Taken>,
    reserved: u64,
    used: Tokens,
}

impl Account {
    /// A token came; the first of all counts.
    pub(crate) fn token(&self) {
        let record = &mut self.call.record();
        record.first_token.get_or_insert_with(|| self.call.started.elapsed());
    }

    /// A choice ended.
    pub(crate) fn end(&self, reason: &'static str) {
        let record = &mut self.call.record();
        if !record.finishes.contains(&reason) {
            record.finishes.push(reason);
        }
    }

    /// What was used in all.
    pub(crate) fn used(&mut self, tokens: Tokens) {
        self.used = tokens;
        self.call.record().tokens = Some(tokens);
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        let Some(key) = &self.call.key else { return };
        key.state.usage.add(self.used);
        if let Some(taken) = self.taken {
            let used = self.used.prompt + self.used.completion;
            key.state.in_use.settle(self.call.now(), taken, self.reserved.saturating_sub(used));
        }
    }
}

/// The answer to a request past a limit of its key: it names the limit.
pub(super) fn refused(key: &Key, refusal: Refusal, tokens: (usize, usize)) -> ApiError {
    key.state.usage.refuse(refusal);
    let (name, limits, (prompt, completion)) = (&key.name, &key.limits, tokens);
    let limit = |limit: Option<u64>| limit.unwrap_or_default();
    let per_minute = limit(limits.tokens_per_minute);
    let (message, wait) = match refusal {
        Refusal::Requests(wait) => {
            let limit = limit(limits.requests_per_minute);
            let message = format!(
                "Rate limit reached for the key '{name}': {limit} requests per minute \
                 (requests-per-minute)."
            );
            (message, wait)
        }
        Refusal::Tokens(wait) => {
            let message = format!(
                "Rate limit reached for the key '{name}': {per_minute} tokens per minute \
                 (tokens-per-minute); this request may need {prompt} in the prompt and \
                 {completion} in the completion."
            );
            (message, wait)
        }
        Refusal::Concurrent => {
            let limit = limit(limits.max_concurrent_requests);
            let message = format!(
                "The key '{name}' may have {limit} requests at once (max-concurrent-requests)."
            );
            (message, Duration::ZERO)
        }
        // Waiting would not help: no rate limit error, which clients try again.
        Refusal::TooManyTokens if completion == 0 => {
            let message = format!(
                "This request has {prompt} tokens, more than the key '{name}' has in any minute: \
                 {per_minute} (tokens-per-minute). Send less in one request."
            );
            let code = Some("tokens_per_minute_exceeded");
            return ApiError { code, ..ApiError::invalid("input", message) };
        }
        Refusal::TooManyTokens => {
            let message = format!(
                "This request may need {prompt} tokens in the prompt and {completion} in the \
                 completion, more than the key '{name}' has in any minute: {per_minute} \
                 (tokens-per-minute). Set a lower 'max_tokens'."
            );
            let code = Some("tokens_per_minute_exceeded");
            return ApiError { code, ..ApiError::invalid("max_tokens", message) };
        }
    };
    let seconds = (wait.as_millis().div_ceil(1000) as u64).max(1);
    let message = format!("{message} Try again in {seconds} s.");
    let error = ApiError::new(StatusCode::TOO_MANY_REQUESTS, message);
    ApiError { code: Some("rate_limit_exceeded"), retry_after: Some(seconds), ..error }
}
