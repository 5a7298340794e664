//! `POST /v1/chat/completions`: parse, template, tokenise, submit, answer.

use std::mem;

use axum::extract::State;
use axum::response::Response;
use text::ClosingTag;

use crate::body::JsonBytes;
use crate::error::ApiError;
use crate::generation::{Generation, Job, JobPrompt, OutputRules, ThinkingBudget};
use crate::openai::chat_request::{ChatRequest, THINKING_BUDGET};
use crate::openai::chat_response::ChatWire;
use crate::openai::request_fields::StreamOptions;
use crate::openai::response::{Head, TokenNames};
use crate::openai::sampling_fields::Sampling;
use crate::prompt::{ChatPrompt, PromptField, truncate};
use crate::registry::Registry;
use crate::served_model::ServedModel;
use crate::sse;
use crate::state::App;
use crate::terms::Terms;

/// A request that has passed every check, ready to be submitted.
pub(crate) struct Prepared {
    pub(crate) job: Job,
    pub(crate) wire: ChatWire,
    stream: Option<StreamOptions>,
}

/// Handles one request. Dropping the future, as when the client goes away, aborts what runs.
pub(crate) async fn create(
    State(app): State<App>,
    terms: Terms,
    JsonBytes(body): JsonBytes,
) -> Result<Response, ApiError> {
    let trust_template = app.config().trust_request_chat_template;
    let prepared = move |models: &Registry| {
        let request = ChatRequest::parse(&body)?;
        let model = models.generating(request.request.model.as_deref())?;
        Ok((prepare(&model, request, trust_template)?, model))
    };
    let ((Prepared { job, wire, stream }, model), entered) = app.admit(terms, prepared).await?;
    let generation = Generation::start(&app, &model, &job, entered)?;
    sse::answer(generation, wire, stream, app.config().heartbeat).await
}

/// The part that takes time with large inputs: it runs on the text pool.
pub(crate) fn prepare(
    model: &ServedModel,
    mut request: ChatRequest,
    trust_template: bool,
) -> Result<Prepared, ApiError> {
    let sampling = sampling(model, &request)?;
    let requested = request.max_tokens()?;
    request.request.check_prompt_logprobs(sampling.params.prompt_logprobs)?;
    let conversation = mem::take(&mut request.conversation);
    let salt = request.request.cache_salt.as_deref();
    let mut prompt = model.read_chat(conversation, &request.tools, trust_template, salt)?;
    truncate(&mut prompt.ids, request.sampling.truncate_prompt_tokens)?;
    let default = model.text().generation().max_new_tokens;
    let max_tokens =
        model.max_tokens(prompt.ids.len(), requested, default, PromptField::Messages)?;
    sampling.check_min_tokens(max_tokens)?;
    let fields = &request.request;
    let wire = ChatWire {
        head: Head::new("chatcmpl-", fields.chat_object(), model),
        names: TokenNames {
            tokenizer: model.text().tokenizer().clone(),
            as_ids: fields.return_tokens_as_token_ids == Some(true),
        },
        logprobs: sampling.params.logprobs,
        prompt_logprobs: sampling.params.prompt_logprobs,
        prompt: prompt.ids.clone(),
        return_token_ids: fields.return_token_ids == Some(true),
        opened: vec![false; sampling.n],
    };
    let stream = fields.stream_options();
    let job = job(model, &request, sampling, prompt, max_tokens)?;
    Ok(Prepared { job, wire, stream })
}

/// How to sample the answers that `request` asks for.
pub(crate) fn sampling(model: &ServedModel, request: &ChatRequest) -> Result<Sampling, ApiError> {
    let (defaults, vocab_size) = (model.text().generation(), model.generator().vocab_size());
    let mut sampling = request.sampling.validate(defaults, vocab_size)?;
    sampling.params.logprobs = request.logprobs()?;
    Ok(sampling)
}

/// What the engine is to do for `request`, whose conversation has become `prompt`.
pub(crate) fn job(
    model: &ServedModel,
    request: &ChatRequest,
    sampling: Sampling,
    prompt: ChatPrompt,
    max_tokens: usize,
) -> Result<Job, ApiError> {
    let ChatPrompt { text, ids, tools, continues } = prompt;
    let asked = request.structured.constraint(model.text().tokenizer())?;
    let is_plain = asked.is_some() && !tools.forced;
    let constraint = model.constraint(&text, asked, &tools)?;
    let held = constraint.map(|constraint| model.hold(&constraint)).transpose()?;
    let thinking = request.thinking_budget()?.map(|limit| budget(model, limit)).transpose()?;
    let format = *model.text().output_format();
    let output = OutputRules {
        format,
        tools: tools.definitions,
        in_reasoning: format.reasoning.is_some_and(|reasoning| reasoning.is_open_in(&text)),
        shows_reasoning: request.tools.shows_reasoning(),
        parallel: tools.parallel,
        ids: tools.ids,
        is_plain,
    };
    Ok(Job {
        prompts: vec![JobPrompt { ids, max_tokens, echo: None }],
        sampling,
        held,
        thinking,
        output: Some(output),
        continues_prompt: continues,
        priority: request.request.priority,
        cache_salt: request.request.cache_salt.clone(),
    })
}

/// At most `limit` tokens of reasoning, for a model whose reasoning can be told and ended.
fn budget(model: &ServedModel, limit: usize) -> Result<ThinkingBudget, ApiError> {
    let refuse = |why: &str| {
        let message = format!("'{THINKING_BUDGET}' is not supported by this model, {why}.");
        Err(ApiError::invalid(THINKING_BUDGET, message))
    };
    let Some(format) = model.text().output_format().reasoning else {
        return refuse("whose reasoning is not told from its answers");
    };
    let Ok(Some(closing)) = ClosingTag::new(format, model.text().tokenizer()) else {
        let name = format.name();
        return refuse(&format!(
            "whose tokenizer does not bring back the tag that ends it in the format {name}"
        ));
    };
    Ok(ThinkingBudget::new(limit, closing))
}
