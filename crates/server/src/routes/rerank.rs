//! `POST /v1/rerank`: which documents answer a query best.

use axum::Json;
use axum::extract::State;

use crate::body::JsonBytes;
use crate::error::ApiError;
use crate::openai::pooling_request::PoolingRequest;
use crate::openai::score_request::{Pairs, RerankFields};
use crate::openai::score_response::Ranking;
use crate::pooling::ScoringJob;
use crate::registry::Registry;
use crate::state::App;
use crate::terms::Terms;

/// Handles one request. Dropping the future, as when the client goes away, aborts what runs.
pub(crate) async fn create(
    State(app): State<App>,
    terms: Terms,
    JsonBytes(body): JsonBytes,
) -> Result<Json<Ranking>, ApiError> {
    let prepared = move |models: &Registry| {
        let PoolingRequest { pooling, fields } = PoolingRequest::<RerankFields>::parse(&body)?;
        let model = models.scoring(pooling.model.as_deref())?;
        let pairs = Pairs {
            queries: ("query", vec![fields.query]),
            documents: ("documents", fields.documents.0),
        };
        let job = ScoringJob::prepare(&model, &pairs, &pooling)?;
        let documents = pairs.documents.1;
        let asked = fields.top_n.filter(|top_n| *top_n > 0).unwrap_or(u64::MAX);
        let top_n = usize::try_from(asked).unwrap_or(usize::MAX);
        let shown = (fields.return_documents != Some(false)).then_some(documents);
        Ok((job, shown, top_n, model))
    };
    let ((job, documents, top_n, model), entered) = app.admit(terms, prepared).await?;
    let (scores, usage) = job.scores(&app, &model, entered).await?;
    let answered_by = (model.names()[0].clone(), usage);
    Ok(Json(Ranking::new(&scores, documents.as_deref(), top_n, answered_by)))
}
