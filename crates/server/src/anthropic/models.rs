//! `GET /v1/models` and `/v1/models/{id}` as Anthropic's clients read them.

use schemars::JsonSchema;
use serde::Serialize;

use crate::served_model::ServedModel;

/// All models on one page, as there are few.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "AnthropicModelPage")]
pub(crate) struct ModelPage {
    data: Vec<ModelInfo>,
    has_more: bool,
    first_id: Option<String>,
    last_id: Option<String>,
}

#[derive(Serialize, JsonSchema)]
#[schemars(rename = "AnthropicModel")]
pub(crate) struct ModelInfo {
    id: String,
    r#type: &'static str,
    display_name: String,
    /// RFC 3339.
    created_at: String,
    lifecycle: &'static str,
    /// Tokens that prompt and answer may have together.
    max_input_tokens: usize,
    max_tokens: usize,
}

impl ModelPage {
    pub(crate) fn new(data: Vec<ModelInfo>) -> Self {
        let id = |info: Option<&ModelInfo>| info.map(|info| info.id.clone());
        Self { has_more: false, first_id: id(data.first()), last_id: id(data.last()), data }
    }
}

/// The model by one of its names.
pub(crate) fn info(model: &ServedModel, id: &str) -> ModelInfo {
    let created = jiff::Timestamp::from_second(model.created() as i64);
    let max_model_len = model.generator().max_model_len();
    ModelInfo {
        id: id.to_owned(),
        r#type: "model",
        display_name: id.to_owned(),
        created_at: created.unwrap_or_default().to_string(),
        lifecycle: "active",
        max_input_tokens: max_model_len,
        max_tokens: max_model_len,
    }
}
