//! `POST /v1/completions`: parse, tokenise, submit, answer.

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;

use crate::body::JsonBytes;
use crate::error::ApiError;
use crate::generation::{Echo, Generation, Job, JobPrompt};
use crate::openai::completion_request::{CompletionRequest, DEFAULT_MAX_TOKENS};
use crate::openai::completion_response::CompletionWire;
use crate::openai::prompt::Prompt;
use crate::openai::request_fields::StreamOptions;
use crate::openai::response::{Head, TokenNames};
use crate::prompt::{PromptField, PromptIds, truncate};
use crate::registry::Registry;
use crate::served_model::ServedModel;
use crate::sse;
use crate::state::App;
use crate::terms::Terms;

/// A request that has passed every check, ready to be submitted.
struct Prepared {
    job: Job,
    wire: CompletionWire,
    stream: Option<StreamOptions>,
}

/// Handles one request. Dropping the future, as when the client goes away, aborts what runs.
pub(crate) async fn create(
    State(app): State<App>,
    terms: Terms,
    JsonBytes(body): JsonBytes,
) -> Result<Response, ApiError> {
    let prepared = move |models: &Registry| {
        let request = CompletionRequest::parse(&body)?;
        let model = models.generating(request.request.model.as_deref())?;
        Ok((prepare(&model, request)?, model))
    };
    let ((Prepared { job, wire, stream }, model), entered) = app.admit(terms, prepared).await?;
    let generation = Generation::start(&app, &model, &job, entered)?;
    sse::answer(generation, wire, stream, app.config().heartbeat).await
}

/// The part that takes time with large inputs: it runs on the text pool.
fn prepare(model: &ServedModel, request: CompletionRequest) -> Result<Prepared, ApiError> {
    let fields = &request.request;
    let defaults = model.text().generation();
    let mut sampling = request.sampling.validate(defaults, model.generator().vocab_size())?;
    request.check_best_of(sampling.n)?;
    let requested = request.max_tokens()?;
    let logprobs = request.logprobs()?;
    sampling.params.logprobs = logprobs;
    let prompt_logprobs = sampling.params.prompt_logprobs;
    fields.check_prompt_logprobs(prompt_logprobs)?;
    let constraint = request.structured.constraint(model.text().tokenizer())?;
    let held = constraint.map(|constraint| model.hold(&constraint)).transpose()?;
    let echo = request.completion.echo == Some(true);
    if echo {
        sampling.params.prompt_logprobs = logprobs.max(prompt_logprobs);
    }
    let add_special_tokens = request.completion.add_special_tokens != Some(false);
    let encoded = encode(model, request.completion.prompt, add_special_tokens)?;
    let mut prompts = Vec::with_capacity(encoded.len());
    for PromptIds { mut ids, mut text } in encoded {
        if truncate(&mut ids, request.sampling.truncate_prompt_tokens)? {
            text = None;
        }
        let default = Some(DEFAULT_MAX_TOKENS);
        let max_tokens = model.max_tokens(ids.len(), requested, default, PromptField::Prompt)?;
        sampling.check_min_tokens(max_tokens)?;
        let skip = sampling.text.skip_special_tokens;
        let echo = echo.then(|| Arc::new(Echo::new(model, &ids, text, skip)));
        prompts.push(JobPrompt { ids, max_tokens, echo });
    }
    let wire = CompletionWire {
        head: Head::new("cmpl-", "text_completion", model),
        names: TokenNames {
            tokenizer: model.text().tokenizer().clone(),
            as_ids: fields.return_tokens_as_token_ids == Some(true),
        },
        logprobs,
        prompt_logprobs,
        prompts: prompts.iter().map(|prompt| prompt.ids.clone()).collect(),
        n: sampling.n,
        return_token_ids: fields.return_token_ids == Some(true),
        opened: vec![false; prompts.len() * sampling.n],
    };
    let job = Job {
        prompts,
        sampling,
        held,
        thinking: None,
        output: None,
        continues_prompt: true,
        priority: fields.priority,
        cache_salt: fields.cache_salt.clone(),
    };
    Ok(Prepared { job, wire, stream: fields.stream_options() })
}

/// Every prompt as ids.
fn encode(
    model: &ServedModel,
    prompt: Prompt,
    add_special_tokens: bool,
) -> Result<Vec<PromptIds>, ApiError> {
    let text = |text: String| {
        let ids = model.encode(&text, add_special_tokens, PromptField::Prompt)?;
        Ok(PromptIds { ids, text: Some(text) })
    };
    let ids = |ids: Vec<u32>| {
        model.check_prompt_ids(&ids)?;
        Ok(PromptIds { ids, text: None })
    };
    match prompt {
        Prompt::Text(prompt) => Ok(vec![text(prompt)?]),
        Prompt::Texts(prompts) => prompts.into_iter().map(text).collect(),
        Prompt::Ids(prompt) => Ok(vec![ids(prompt)?]),
        Prompt::IdLists(prompts) => prompts.into_iter().map(ids).collect(),
    }
}
