//! `POST /v1/score`: how alike the texts of pairs are.

use axum::Json;
use axum::extract::State;

use crate::body::JsonBytes;
use crate::error::ApiError;
use crate::openai::pooling_request::PoolingRequest;
use crate::openai::score_request::ScoreFields;
use crate::openai::score_response::ScoreList;
use crate::pooling::ScoringJob;
use crate::registry::Registry;
use crate::state::App;
use crate::terms::Terms;

/// Handles one request. Dropping the future, as when the client goes away, aborts what runs.
pub(crate) async fn create(
    State(app): State<App>,
    terms: Terms,
    JsonBytes(body): JsonBytes,
) -> Result<Json<ScoreList>, ApiError> {
    let prepared = move |models: &Registry| {
        let PoolingRequest { pooling, fields } = PoolingRequest::<ScoreFields>::parse(&body)?;
        let model = models.scoring(pooling.model.as_deref())?;
        Ok((ScoringJob::prepare(&model, &fields.pairs()?, &pooling)?, model))
    };
    let ((job, model), entered) = app.admit(terms, prepared).await?;
    let (scores, usage) = job.scores(&app, &model, entered).await?;
    Ok(Json(ScoreList::new(scores, model.names()[0].clone(), usage)))
}
