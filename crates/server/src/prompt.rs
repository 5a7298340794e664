//! From messages or text to token ids that fit the model's context.

use axum::http::StatusCode;
use text::{ChatInput, TextError};

use crate::error::ApiError;
use crate::openai::chat_request::Conversation;
use crate::openai::message::check_results;
use crate::openai::sampling_fields::check_ids;
use crate::openai::tool_fields::{ToolFields, Tools};
use crate::served_model::ServedModel;

/// Normalisation may shrink a text before it is tokenised, though never by more than this.
const NORMALISATION: usize = 4;

/// Which words an error uses for the prompt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PromptField {
    Messages,
    Prompt,
}

/// One prompt, tokenised.
#[derive(Debug, Clone)]
pub(crate) struct PromptIds {
    pub(crate) ids: Vec<u32>,
    /// As the client wrote it, if it was text.
    pub(crate) text: Option<String>,
}

/// A conversation as the model reads it.
#[derive(Debug)]
pub(crate) struct ChatPrompt {
    pub(crate) text: String,
    pub(crate) ids: Vec<u32>,
    /// What may be called.
    pub(crate) tools: Tools,
    /// Whether the answer goes on with the last message.
    pub(crate) continues: bool,
}

impl ServedModel {
    /// Renders and tokenises a conversation; see [`Self::render`]. What came before with the same `salt`
    /// is not tokenised again.
    pub(crate) fn read_chat(
        &self,
        conversation: Conversation,
        fields: &ToolFields,
        trust_template: bool,
        salt: Option<&str>,
    ) -> Result<ChatPrompt, ApiError> {
        let continues = conversation.continue_final_message == Some(true);
        let add_special_tokens = conversation.add_special_tokens == Some(true);
        let (text, tools) = self.render(conversation, fields, trust_template)?;
        let ids = if add_special_tokens {
            self.encode(&text, true, PromptField::Messages)?
        } else {
            self.check_prompt_len(text.len(), PromptField::Messages)?;
            let ids = self.text().encode_chat(&text, salt);
            ids.map_err(|error| text_error(PromptField::Messages.name(), &error))?
        };
        Ok(ChatPrompt { text, ids, tools, continues })
    }

    /// Renders a conversation with the chat template, as the request's `fields` want it; returns the
    /// tools that may be called, too.
    fn render(
        &self,
        mut conversation: Conversation,
        fields: &ToolFields,
        trust_template: bool,
    ) -> Result<(String, Tools), ApiError> {
        let mut tools = fields.tools(self.text().templates().call_rules())?;
        let kwargs = conversation.chat_template_kwargs.get_or_insert_default();
        fields.add_effort(self.text().templates(), kwargs)?;
        let shown = (!tools.definitions.is_empty()).then(|| tools.definitions.clone());
        let input = ChatInput { tools: shown, ..chat_input(conversation, trust_template)? };
        let calls = input.messages.iter().filter_map(|message| message["tool_calls"].as_array());
        tools.num_called = calls.map(Vec::len).sum();
        let text = self.text().render_chat(&input);
        Ok((text.map_err(|error| text_error("messages", &error))?, tools))
    }

    /// Tokenises, unless the text is so long that it cannot fit.
    pub(crate) fn encode(
        &self,
        text: &str,
        add_special_tokens: bool,
        field: PromptField,
    ) -> Result<Vec<u32>, ApiError> {
        self.check_prompt_len(text.len(), field)?;
        self.text()
            .encode(text, add_special_tokens)
            .map_err(|error| text_error(field.name(), &error))
    }

    fn check_prompt_len(&self, len: usize, field: PromptField) -> Result<(), ApiError> {
        self.check_text_len(len, field.name(), &format!("{} have", field.plural()))
    }

    /// Refuses a text of more bytes than fit into the context. `have` is what has them.
    pub(crate) fn check_text_len(
        &self,
        len: usize,
        field: &str,
        have: &str,
    ) -> Result<(), ApiError> {
        let max_model_len = self.generator().max_model_len();
        if len > max_model_len.saturating_mul(self.longest_token()) * NORMALISATION {
            let message = format!(
                "This model's maximum context length is {max_model_len} tokens. However, your \
                 {have} {len} bytes of text, more than so many tokens can hold."
            );
            return Err(too_long(field, &message));
        }
        Ok(())
    }

    /// Checks ids that a client sent.
    pub(crate) fn check_prompt_ids(&self, ids: &[u32]) -> Result<(), ApiError> {
        check_ids("prompt", ids, self.generator().vocab_size())
    }

    /// How many tokens may be generated after `prompt_len`: what was asked for, if it fits, or
    /// `default` and what the context leaves, whichever is less.
    pub(crate) fn max_tokens(
        &self,
        prompt_len: usize,
        requested: Option<usize>,
        default: Option<usize>,
        field: PromptField,
    ) -> Result<usize, ApiError> {
        if prompt_len == 0 {
            let message = format!("'{}' must hold at least one token.", field.name());
            return Err(ApiError::invalid(field.name(), message));
        }
        let context = self.generator().max_model_len();
        let left = context.saturating_sub(prompt_len);
        let wanted = requested.unwrap_or(1);
        if prompt_len.saturating_add(wanted) > context {
            let message = format!(
                "This model's maximum context length is {context} tokens. However, you requested \
                 {} tokens ({prompt_len} in the {}, {}{wanted} in the completion). Please reduce \
                 the length of the {} or completion.",
                prompt_len.saturating_add(wanted),
                field.name(),
                if requested.is_none() { "at least " } else { "" },
                field.plural(),
            );
            return Err(too_long(field.name(), &message));
        }
        Ok(requested.unwrap_or_else(|| default.unwrap_or(left).min(left)))
    }
}

impl PromptField {
    fn name(self) -> &'static str {
        match self {
            Self::Messages => "messages",
            Self::Prompt => "prompt",
        }
    }

    fn plural(self) -> &'static str {
        match self {
            Self::Messages => "messages",
            Self::Prompt => "prompts",
        }
    }
}

/// Keeps the last `limit` tokens (vLLM's `truncate_prompt_tokens`); whether any were dropped.
pub(crate) fn truncate(ids: &mut Vec<u32>, limit: Option<i64>) -> Result<bool, ApiError> {
    match limit {
        None => Ok(false),
        Some(limit) if limit < 1 => {
            let message = format!("'truncate_prompt_tokens' is {limit}; it must be at least 1.");
            Err(ApiError::invalid("truncate_prompt_tokens", message))
        }
        Some(limit) => {
            let num_dropped = ids.len().saturating_sub(limit as usize);
            ids.drain(..num_dropped);
            Ok(num_dropped > 0)
        }
    }
}

/// Checks what the template needs and hands it over.
fn chat_input(conversation: Conversation, trust_template: bool) -> Result<ChatInput, ApiError> {
    let messages = conversation.messages.unwrap_or_default();
    if messages.is_empty() {
        let message = "'messages' must be an array of at least one message.";
        return Err(ApiError::invalid("messages", message));
    }
    if conversation.chat_template.is_some() && !trust_template {
        let message = "'chat_template' is not accepted from requests here: the operator may allow \
                       it with --trust-request-chat-template.";
        return Err(ApiError::invalid("chat_template", message));
    }
    let continue_final = conversation.continue_final_message == Some(true);
    if continue_final && conversation.add_generation_prompt == Some(true) {
        let message = "'continue_final_message' and 'add_generation_prompt' cannot both be true.";
        return Err(ApiError::invalid("continue_final_message", message));
    }
    let kwargs = conversation.chat_template_kwargs.unwrap_or_default();
    if let Some(name) = ChatInput::RESERVED.into_iter().find(|name| kwargs.contains_key(*name)) {
        let path = format!("chat_template_kwargs.{name}");
        let message = format!("'{path}' is not allowed: '{name}' is a field of the request.");
        return Err(ApiError::invalid(path, message));
    }
    let messages = messages.into_iter().enumerate();
    let messages = messages
        .map(|(index, message)| message.template_value(&format!("messages[{index}]")))
        .collect::<Result<Vec<_>, _>>()?;
    check_results(&messages)?;
    Ok(ChatInput {
        add_generation_prompt: conversation.add_generation_prompt.unwrap_or(!continue_final),
        continue_final_message: continue_final,
        chat_template: conversation.chat_template,
        kwargs,
        ..ChatInput::new(messages)
    })
}

/// The code stands in the message, too: openai-python 3 makes its exception's text of the message
/// alone, and LangChain looks for the code in that text.
pub(crate) fn too_long(field: &str, message: &str) -> ApiError {
    let message = format!("{message} (context_length_exceeded)");
    ApiError { code: Some("context_length_exceeded"), ..ApiError::invalid(field, message) }
}

/// Who is to blame for a fault of the text side: mostly the request, sometimes the model's files.
pub(crate) fn text_error(param: &str, error: &TextError) -> ApiError {
    let message = error.to_string();
    match error {
        TextError::UnknownTemplate { .. } => ApiError::invalid("chat_template", message),
        TextError::NoChatTemplate
        | TextError::Tokenize(_)
        | TextError::TextTooLong { .. }
        | TextError::TemplateRaised(_)
        | TextError::TemplateFailed { .. }
        | TextError::TemplateSyntax { .. }
        | TextError::TemplateLimit { .. }
        | TextError::InvalidMessages(_) => ApiError::invalid(param, message),
        TextError::MissingFile { .. } | TextError::Io { .. } | TextError::InvalidFile { .. } => {
            ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, message)
        }
    }
}
