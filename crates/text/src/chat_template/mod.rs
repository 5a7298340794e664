//! Chat templates, loaded and rendered as transformers does.

use serde_json::{Map, Value};

use crate::{SpecialTokens, TextError, TextFiles};

/// What a chat request asks to have rendered.
#[derive(Debug, Clone)]
pub struct ChatInput {
    /// OpenAI messages, each an object; content is a string, null, or a list of parts.
    pub messages: Vec<Value>,
    /// Tool definitions in OpenAI's form.
    pub tools: Option<Vec<Value>>,
    /// Documents for retrieval templates.
    pub documents: Option<Vec<Value>>,
    /// Opens the assistant's turn at the end (default true).
    pub add_generation_prompt: bool,
    /// Leaves the final message open-ended, for the model to go on with it (default false).
    pub continue_final_message: bool,
    /// The name of one of the model's templates, or the text of a template.
    pub chat_template: Option<String>,
    /// Further variables (`chat_template_kwargs`), such as `enable_thinking`.
    pub kwargs: Map<String, Value>,
}

impl ChatInput {
    /// `messages` with every option at its default.
    pub fn new(messages: Vec<Value>) -> Self {
        Self {
            messages,
            tools: None,
            documents: None,
            add_generation_prompt: true,
            continue_final_message: false,
            chat_template: None,
            kwargs: Map::new(),
        }
    }
}

/// The chat templates of one model, compiled. Empty for a model that has none.
#[derive(Debug)]
pub struct ChatTemplates {
    special: SpecialTokens,
}

impl ChatTemplates {
    pub(crate) fn from_files(
        _files: &TextFiles,
        _config: &Value,
        _processor: &Value,
        special: &SpecialTokens,
    ) -> Result<Self, TextError> {
        Ok(Self {
            special: special.clone(),
        })
    }

    /// Renders `input`.
    pub fn render(&self, _input: &ChatInput) -> Result<String, TextError> {
        let _ = &self.special;
        Err(TextError::NoChatTemplate)
    }

    /// Template names, sorted; empty when the model has no template.
    pub fn names(&self) -> Vec<&str> {
        Vec::new()
    }
}
