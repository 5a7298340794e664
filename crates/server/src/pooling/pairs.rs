//! How alike two texts are: by a cross-encoder that reads both, or by the angle between vectors.

use std::sync::Arc;
use std::time::Instant;

use text::Cut;

use super::{PoolingJob, PoolingPrompt, PoolingRun};
use crate::error::ApiError;
use crate::openai::embedding_response::PoolingUsage;
use crate::openai::pooling_request::PoolingFields;
use crate::openai::score_request::Pairs;
use crate::served_model::ServedModel;
use crate::state::{App, InFlight};

/// Pairs that have passed every check, ready to be submitted.
pub(crate) struct ScoringJob {
    job: PoolingJob,
    /// How many of the prompts are queries, and whether they are for vectors.
    num_queries: Option<usize>,
    /// Whether numbers of a cross-encoder become 0 to 1.
    squashes: bool,
}

impl ScoringJob {
    /// The part that takes time with large inputs. A single query is compared with every document.
    pub(crate) fn prepare(
        model: &ServedModel,
        pairs: &Pairs,
        fields: &PoolingFields,
    ) -> Result<Self, ApiError> {
        let rules = model.pooling_rules();
        let cut = fields.cut(model.generator().max_model_len(), rules.truncates)?;
        let prompts = if rules.head.is_some() {
            both(model, pairs, cut)?
        } else {
            let mut prompts = Vec::new();
            for (field, texts) in [&pairs.queries, &pairs.documents] {
                for (index, text) in texts.iter().enumerate() {
                    prompts.push(model.encode_pooled(&text.text, true, cut, (field, index))?);
                }
            }
            prompts
        };
        let job = PoolingJob {
            prompts,
            priority: fields.priority,
            cache_salt: fields.cache_salt.clone(),
        };
        let head = rules.head.as_ref();
        Ok(Self {
            job,
            num_queries: head.is_none().then_some(pairs.queries.1.len()),
            squashes: head.is_some_and(|head| head.squashes)
                && fields.use_activation != Some(false),
        })
    }

    /// A score for each document, and the tokens read.
    pub(crate) async fn scores(
        self,
        app: &App,
        model: &Arc<ServedModel>,
        terms: (InFlight, Instant),
    ) -> Result<(Vec<f32>, PoolingUsage), ApiError> {
        let Self { job, num_queries, squashes } = self;
        let usage = PoolingUsage::new(job.num_tokens());
        let vectors = PoolingRun::vectors(app, model, job, terms).await?;
        let scores = match num_queries {
            None => vectors.iter().map(|vector| activated(vector[0], squashes)).collect(),
            Some(num_queries) => {
                let (queries, documents) = vectors.split_at(num_queries);
                let queries = queries.iter().cycle();
                queries.zip(documents).map(|(query, document)| cosine(query, document)).collect()
            }
        };
        Ok((scores, usage))
    }
}

/// A prompt for each pair, of both texts.
fn both(
    model: &ServedModel,
    pairs: &Pairs,
    cut: Option<Cut>,
) -> Result<Vec<PoolingPrompt>, ApiError> {
    let ((of_queries, queries), (field, documents)) = (&pairs.queries, &pairs.documents);
    // A query is read with many documents, and tokenised once.
    let queries = queries.iter().map(|query| model.encode_part(&query.text, cut, of_queries));
    let queries = queries.collect::<Result<Vec<_>, _>>()?;
    let pairs = queries.iter().cycle().zip(documents).enumerate();
    pairs
        .map(|(index, (query, document))| {
            let document = model.encode_part(&document.text, cut, field)?;
            model.join(query, &document, cut, (field, index))
        })
        .collect()
}

/// `1 / (1 + exp(-x))`, or the number itself.
fn activated(x: f32, squashes: bool) -> f32 {
    if squashes { 1.0 / (1.0 + (-x).exp()) } else { x }
}

/// The cosine of the angle between two vectors.
fn cosine(a: &[f32], b: &[f32]) -> f32 {
    let dot = |a: &[f32], b: &[f32]| {
        a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>()
    };
    // As torch: nothing is alike to nothing.
    (dot(a, b) / (dot(a, a).sqrt() * dot(b, b).sqrt()).max(1e-8)) as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cosines_and_activations() {
        assert_eq!(cosine(&[3.0, 0.0], &[0.5, 0.0]), 1.0);
        assert_eq!(cosine(&[3.0, 0.0], &[0.0, 2.0]), 0.0);
        assert_eq!(cosine(&[1.0, 1.0], &[-1.0, -1.0]), -1.0);
        assert_eq!(cosine(&[0.0, 0.0], &[1.0, 0.0]), 0.0);
        assert_eq!([activated(0.0, true), activated(-3.0, false)], [0.5, -3.0]);
        assert!(activated(90.0, true) == 1.0 && activated(-90.0, true) < 1e-30);
    }
}
