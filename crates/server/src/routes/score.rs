//! `POST /v1/score`: how alike the texts of pairs are.

use std::time::Instant;

use axum::Json;
use axum::extract::State;

use crate::body::JsonBytes;
use crate::error::ApiError;
use crate::openai::score_request::ScoreRequest;
use crate::openai::score_response::ScoreList;
use crate::pooling::ScoringJob;
use crate::state::App;
use crate::terms::Terms;

/// Handles one request. Dropping the future, as when the client goes away, aborts what runs.
pub(crate) async fn create(
    State(app): State<App>,
    terms: Terms,
    JsonBytes(body): JsonBytes,
) -> Result<Json<ScoreList>, ApiError> {
    let arrived = Instant::now();
    let in_flight = app.enter(terms);
    let models = app.ready()?;
    let prepared = move || {
        let ScoreRequest { pooling, score } = ScoreRequest::parse(&body)?;
        let model = models.scoring(pooling.model.as_deref())?;
        Ok((ScoringJob::prepare(&model, &score.pairs()?, &pooling)?, model))
    };
    let (job, model) = app.text_pool().run(prepared).await?;
    let (scores, usage) = job.scores(&app, &model, (in_flight, arrived)).await?;
    Ok(Json(ScoreList::new(scores, model.names()[0].clone(), usage)))
}
