//! `POST /v1/chat/completions`: parse, template, tokenise, submit, answer.

use std::time::Instant;

use axum::extract::State;
use axum::response::Response;

use crate::body::JsonBytes;
use crate::error::ApiError;
use crate::generation::{Generation, Job, JobPrompt};
use crate::openai::chat_request::ChatRequest;
use crate::openai::chat_response::ChatWire;
use crate::openai::request_fields::StreamOptions;
use crate::openai::response::{Head, TokenNames};
use crate::prompt::{PromptField, truncate};
use crate::sse;
use crate::state::{App, ServedModel};

/// A request that has passed every check, ready to be submitted.
struct Prepared {
    job: Job,
    wire: ChatWire,
    stream: Option<StreamOptions>,
}

/// Handles one request. Dropping the future, as when the client goes away, aborts what runs.
pub(crate) async fn create(
    State(app): State<App>,
    JsonBytes(body): JsonBytes,
) -> Result<Response, ApiError> {
    let arrived = Instant::now();
    let in_flight = app.enter();
    let model = app.ready()?;
    let (job_model, trust_template) = (model.clone(), app.config().trust_request_chat_template);
    let prepared = app.text_pool().run(move || prepare(&job_model, &body, trust_template)).await?;
    let Prepared { job, wire, stream } = prepared;
    let generation = Generation::start(&app, &model, &job, (in_flight, arrived))?;
    sse::answer(generation, wire, stream, app.config().heartbeat).await
}

/// The part that takes time with large inputs: it runs on the text pool.
fn prepare(model: &ServedModel, body: &[u8], trust_template: bool) -> Result<Prepared, ApiError> {
    let request = ChatRequest::parse(body)?;
    let fields = &request.request;
    model.check_name(fields.model.as_deref())?;
    let defaults = model.text().generation();
    let mut sampling = request.sampling.validate(defaults, model.generator().vocab_size())?;
    let requested = request.max_tokens()?;
    let logprobs = request.logprobs()?;
    sampling.params.logprobs = logprobs;
    let prompt_logprobs = sampling.params.prompt_logprobs;
    fields.check_prompt_logprobs(prompt_logprobs)?;
    let matcher = request.structured.matcher(model)?;
    let continues_prompt = request.conversation.continue_final_message == Some(true);
    let mut ids = model.chat_prompt(request.conversation, trust_template)?;
    truncate(&mut ids, request.sampling.truncate_prompt_tokens)?;
    let max_tokens =
        model.max_tokens(ids.len(), requested, defaults.max_new_tokens, PromptField::Messages)?;
    sampling.check_min_tokens(max_tokens)?;
    let n = sampling.n;
    let wire = ChatWire {
        head: Head::new("chatcmpl-", fields.chat_object(), model),
        names: TokenNames {
            tokenizer: model.text().tokenizer().clone(),
            as_ids: fields.return_tokens_as_token_ids == Some(true),
        },
        logprobs,
        prompt_logprobs,
        prompt: ids.clone(),
        return_token_ids: fields.return_token_ids == Some(true),
        opened: vec![false; n],
    };
    let job = Job {
        prompts: vec![JobPrompt { ids, max_tokens, echo: None }],
        sampling,
        matcher,
        continues_prompt,
        priority: fields.priority.unwrap_or(0),
        cache_salt: fields.cache_salt.clone(),
    };
    Ok(Prepared { job, wire, stream: fields.stream_options() })
}
