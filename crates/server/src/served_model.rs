//! One model that answers requests.

use std::sync::Arc;

use text::TextModel;

use crate::generator::Generator;
use crate::metrics::Metrics;
use crate::pooling::PoolingRules;
use crate::state::unix_seconds;

/// A model that answers requests.
#[derive(Clone)]
pub struct ServedModel {
    names: Vec<String>,
    generator: Arc<dyn Generator>,
    text: Arc<TextModel>,
    metrics: Arc<Metrics>,
    created: u64,
    longest_token: usize,
    /// Of a model that makes vectors instead of text.
    pooling: Option<PoolingRules>,
}

impl ServedModel {
    /// `names` are what requests may call it; the first is what responses say. At least one.
    pub fn new(names: Vec<String>, generator: Arc<dyn Generator>, text: Arc<TextModel>) -> Self {
        assert!(!names.is_empty(), "a served model has a name");
        let tokenizer = text.tokenizer();
        let ids = 0..tokenizer.vocab_size() as u32;
        let longest_token = ids.map(|id| tokenizer.token_bytes(id).len()).max().unwrap_or(1);
        let metrics = Arc::new(Metrics::new(generator.max_model_len()));
        let created = unix_seconds();
        Self { names, generator, text, metrics, created, longest_token, pooling: None }
    }

    /// The same, for a model that makes vectors instead of text.
    #[must_use]
    pub fn with_pooling(self, rules: PoolingRules) -> Self {
        Self { pooling: Some(rules), ..self }
    }

    /// What becomes of its vectors; `None` for a model that generates text.
    pub(crate) fn pooling(&self) -> Option<&PoolingRules> {
        self.pooling.as_ref()
    }

    /// The same with another text side.
    #[must_use]
    pub(crate) fn with_text(&self, text: TextModel) -> Self {
        Self { text: Arc::new(text), ..self.clone() }
    }

    /// The names requests may use, the reported one first.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// The engine.
    pub fn generator(&self) -> &Arc<dyn Generator> {
        &self.generator
    }

    /// Tokenizer, templates, defaults.
    pub fn text(&self) -> &Arc<TextModel> {
        &self.text
    }

    /// What is counted of it.
    pub(crate) fn metrics(&self) -> &Arc<Metrics> {
        &self.metrics
    }

    /// When it was loaded, in seconds since 1970.
    pub(crate) fn created(&self) -> u64 {
        self.created
    }

    /// No token stands for more bytes than this.
    pub(crate) fn longest_token(&self) -> usize {
        self.longest_token
    }
}

impl std::fmt::Debug for ServedModel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ServedModel").field("names", &self.names).finish_non_exhaustive()
    }
}
