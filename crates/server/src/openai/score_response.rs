//! What `/v1/rerank` and `/v1/score` answer, in the shapes of Jina, Cohere and vLLM.

use schemars::JsonSchema;
use serde::Serialize;

use super::embedding_response::PoolingUsage;
use super::score_request::Text;
use crate::random::random_id;
use crate::state::unix_seconds;

/// Documents, the best first.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct Ranking {
    id: String,
    model: String,
    usage: PoolingUsage,
    results: Vec<Ranked>,
}

#[derive(Debug, Serialize, JsonSchema)]
struct Ranked {
    /// Place among the documents of the request.
    index: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<std::collections::BTreeMap<String, String>>")]
    document: Option<Text>,
    relevance_score: f32,
}

/// A score for each pair, in order.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct ScoreList {
    id: String,
    object: &'static str,
    created: u64,
    model: String,
    data: Vec<Score>,
    usage: PoolingUsage,
}

#[derive(Debug, Serialize, JsonSchema)]
#[expect(clippy::struct_field_names, reason = "the names are the wire's")]
struct Score {
    index: usize,
    object: &'static str,
    score: f32,
}

impl Ranking {
    /// The first `top_n` of the documents, which have these scores; those of equal scores stay in
    /// their order. `documents` are repeated if they are given.
    pub(crate) fn new(
        scores: &[f32],
        documents: Option<&[Text]>,
        top_n: usize,
        (model, usage): (String, PoolingUsage),
    ) -> Self {
        let mut order: Vec<usize> = (0..scores.len()).collect();
        order.sort_by(|a, b| scores[*b].total_cmp(&scores[*a]));
        order.truncate(top_n);
        let ranked = |index: usize| Ranked {
            index,
            document: documents.map(|documents| documents[index].clone()),
            relevance_score: scores[index],
        };
        let results = order.into_iter().map(ranked).collect();
        Self { id: random_id("rerank-"), model, usage, results }
    }
}

impl ScoreList {
    pub(crate) fn new(scores: Vec<f32>, model: String, usage: PoolingUsage) -> Self {
        let score = |(index, score)| Score { index, object: "score", score };
        let data = scores.into_iter().enumerate().map(score).collect();
        let (id, created) = (random_id("score-"), unix_seconds());
        Self { id, object: "list", created, model, data, usage }
    }
}
