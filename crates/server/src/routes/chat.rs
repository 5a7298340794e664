//! `POST /v1/chat/completions`: parse, template, tokenise, submit, answer.

use std::time::Instant;

use axum::extract::State;
use axum::response::Response;
use text::{ClosingTag, Grammar};

use crate::body::JsonBytes;
use crate::error::ApiError;
use crate::generation::{Generation, Job, JobPrompt, OutputRules, ThinkingBudget};
use crate::openai::chat_request::{ChatRequest, THINKING_BUDGET};
use crate::openai::chat_response::ChatWire;
use crate::openai::request_fields::StreamOptions;
use crate::openai::response::{Head, TokenNames};
use crate::openai::tool_fields::Tools;
use crate::prompt::{PromptField, truncate, unusable};
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
    model.check_name(request.request.model.as_deref())?;
    let defaults = model.text().generation();
    let mut sampling = request.sampling.validate(defaults, model.generator().vocab_size())?;
    let requested = request.max_tokens()?;
    let logprobs = request.logprobs()?;
    let thinking = request.thinking_budget()?.map(|limit| budget(model, limit)).transpose()?;
    sampling.params.logprobs = logprobs;
    let prompt_logprobs = sampling.params.prompt_logprobs;
    request.request.check_prompt_logprobs(prompt_logprobs)?;
    let continues_prompt = request.conversation.continue_final_message == Some(true);
    let add_special_tokens = request.conversation.add_special_tokens == Some(true);
    let (text, tools) = model.render(request.conversation, &request.tools, trust_template)?;
    let grammar = constraint(model, &text, request.structured.grammar()?, &tools)?;
    let matcher = grammar.map(|(field, grammar)| model.matcher(field, &grammar)).transpose()?;
    let mut ids = model.encode(&text, add_special_tokens, PromptField::Messages)?;
    truncate(&mut ids, request.sampling.truncate_prompt_tokens)?;
    let max_tokens =
        model.max_tokens(ids.len(), requested, defaults.max_new_tokens, PromptField::Messages)?;
    sampling.check_min_tokens(max_tokens)?;
    let fields = &request.request;
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
        opened: vec![false; sampling.n],
    };
    let format = *model.text().output_format();
    let output = OutputRules {
        format,
        tools: tools.definitions,
        in_reasoning: format.reasoning.is_some_and(|reasoning| reasoning.is_open_in(&text)),
        shows_reasoning: request.tools.shows_reasoning(),
        parallel: tools.parallel,
        is_plain: matcher.is_some() && !tools.forced && !tools.strict,
    };
    let job = Job {
        prompts: vec![JobPrompt { ids, max_tokens, echo: None }],
        sampling,
        matcher,
        thinking,
        output: Some(output),
        continues_prompt,
        priority: fields.priority,
        cache_salt: fields.cache_salt.clone(),
    };
    Ok(Prepared { job, wire, stream: fields.stream_options() })
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
    match ClosingTag::new(format, model.text().tokenizer()) {
        Ok(Some(closing)) => Ok(ThinkingBudget::new(limit, closing)),
        _ => {
            refuse(&format!("whose reasoning in the format {} has no tag to end it", format.name()))
        }
    }
}

/// The grammar that the answer to `prompt` must follow, with the field that asks for it: what the
/// request says of the answer, or calls that must come; thoughts may stand before either.
fn constraint(
    model: &ServedModel,
    prompt: &str,
    asked: Option<(&'static str, Grammar)>,
    tools: &Tools,
) -> Result<Option<(&'static str, Grammar)>, ApiError> {
    let (format, tokenizer) = (model.text().output_format(), model.text().tokenizer());
    let (field, grammar) = match (asked, tools.calls()) {
        (None, None) => return Ok(None),
        (Some((field, _)), _) if !tools.definitions.is_empty() => {
            let message = format!(
                "'{field}' leaves no room for calls: leave out 'tools', or set 'tool_choice' to \
                 'none'."
            );
            return Err(ApiError::invalid(field, message));
        }
        (Some(asked), _) => asked,
        (None, Some((field, calls))) => {
            let Some(written) = format.tools else {
                let message =
                    format!("'{field}' is not supported by this model, which calls no tools.");
                return Err(ApiError::invalid(field, message));
            };
            let grammar = written.grammar(tokenizer, &tools.definitions, calls);
            (field, grammar.map_err(|error| unusable(field, &error))?)
        }
    };
    let grammar = format.after_reasoning(tokenizer, prompt, grammar);
    Ok(Some((field, grammar.map_err(|error| unusable(field, &error))?)))
}
