//! `POST /v1/embeddings`: parse, tokenise, submit, answer.

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use text::Cut;

use crate::body::JsonBytes;
use crate::error::ApiError;
use crate::openai::embedding_request::{EmbeddingFields, EncodingFormat};
use crate::openai::embedding_response::{EmbeddingList, PoolingUsage};
use crate::openai::pooling_request::PoolingRequest;
use crate::openai::prompt::Prompt;
use crate::openai::sampling_fields::check_ids;
use crate::pooling::{PoolingJob, PoolingPrompt, PoolingRun, cut_ids, shaped};
use crate::registry::Registry;
use crate::served_model::ServedModel;
use crate::state::App;
use crate::terms::Terms;

/// Whose faults are those of a prompt.
const FIELD: &str = "input";

/// A request that has passed every check, ready to be submitted.
struct Prepared {
    job: PoolingJob,
    dimensions: usize,
    normalizes: bool,
    format: EncodingFormat,
}

/// Handles one request. Dropping the future, as when the client goes away, aborts what runs.
pub(crate) async fn create(
    State(app): State<App>,
    terms: Terms,
    JsonBytes(body): JsonBytes,
) -> Result<Response, ApiError> {
    let prepared = move |models: &Registry| {
        let request = PoolingRequest::parse(&body)?;
        let model = models.embedding(request.pooling.model.as_deref())?;
        Ok((prepare(&model, request)?, model))
    };
    let ((prepared, model), entered) = app.admit(terms, prepared).await?;
    let Prepared { job, dimensions, normalizes, format } = prepared;
    let usage = PoolingUsage::new(job.num_tokens());
    let vectors = PoolingRun::vectors(&app, &model, job, entered).await?;
    // Numbers by the million are not written on the threads that serve connections.
    let answer = move || {
        let shaped = |vector| shaped(vector, dimensions, normalizes);
        let vectors = vectors.into_iter().map(shaped).collect();
        let name = model.names()[0].clone();
        Ok(Json(EmbeddingList::new(vectors, format, name, usage)).into_response())
    };
    app.text_pool().run(answer).await
}

/// The part that takes time with large inputs: it runs on the text pool.
fn prepare(
    model: &ServedModel,
    request: PoolingRequest<EmbeddingFields>,
) -> Result<Prepared, ApiError> {
    let PoolingRequest { pooling, fields } = request;
    let rules = model.pooling_rules();
    let cut = pooling.cut(model.generator().max_model_len(), rules.truncates)?;
    let add_special_tokens = fields.add_special_tokens != Some(false);
    let job = PoolingJob {
        prompts: encode(model, fields.input, add_special_tokens, cut)?,
        priority: pooling.priority,
        cache_salt: pooling.cache_salt,
    };
    Ok(Prepared {
        job,
        dimensions: rules.dimensions(fields.dimensions)?,
        normalizes: pooling.use_activation.unwrap_or(rules.normalizes),
        format: fields.encoding_format.unwrap_or(EncodingFormat::Float),
    })
}

/// Every input as ids.
fn encode(
    model: &ServedModel,
    input: Prompt,
    add_special_tokens: bool,
    cut: Option<Cut>,
) -> Result<Vec<PoolingPrompt>, ApiError> {
    let text = |(index, text): (usize, String)| {
        model.encode_pooled(&text, add_special_tokens, cut, (FIELD, index))
    };
    let ids = |(index, mut ids): (usize, Vec<u32>)| {
        check_ids(FIELD, &ids, model.generator().vocab_size())?;
        if let Some(cut) = cut {
            cut_ids(&mut ids, cut);
        }
        model.check_pooled_len((FIELD, index), &ids)?;
        Ok(PoolingPrompt::of(ids))
    };
    match input {
        Prompt::Text(input) => Ok(vec![text((0, input))?]),
        Prompt::Texts(inputs) => inputs.into_iter().enumerate().map(text).collect(),
        Prompt::Ids(input) => Ok(vec![ids((0, input))?]),
        Prompt::IdLists(inputs) => inputs.into_iter().enumerate().map(ids).collect(),
    }
}
