//! A messages request as a chat request.

use serde_json::{Value, json};
use text::{ClosingTag, TextModel};

use super::conversation::LateSystem;
use super::request::MessagesRequest;
use crate::error::ApiError;

impl MessagesRequest {
    /// The body of a chat request that asks for the same, but for the length of the answer. With
    /// `late` as given; `model` is who is asked.
    ///
    /// Thinking is a permission: a model that does not think, or that cannot be told to, answers all
    /// the same, as Claude Code asks every model to think. So `thinking.budget_tokens` is kept where
    /// the model's thoughts can be ended, and elsewhere there is nothing to keep.
    pub(crate) fn chat(&self, late: LateSystem, model: &TextModel) -> Result<Vec<u8>, ApiError> {
        let mut chat = json!({
            "messages": self.conversation(late)?,
            "stream": self.stream,
            "temperature": self.temperature,
            "top_p": self.top_p,
            "top_k": self.top_k,
            "stop": self.stop_sequences,
            "include_reasoning": self.shows_thinking(),
            "continue_final_message": self.continues(),
        });
        if self.stream == Some(true) {
            chat["stream_options"] = json!({"include_usage": true});
        }
        if let Some(tools) = &self.tools {
            let tools = tools.iter().enumerate();
            let tools = tools.map(|(index, tool)| tool.function(&format!("tools[{index}]")));
            chat["tools"] = Value::Array(tools.collect::<Result<_, _>>()?);
        }
        if let Some(choice) = &self.tool_choice {
            chat["tool_choice"] = choice.chosen()?;
            chat["parallel_tool_calls"] = json!(choice.parallel());
        }
        if let Some(schema) = self.schema()? {
            let format = json!({"type": "json_schema", "json_schema": {"schema": schema}});
            chat["response_format"] = format;
        }
        if self.thinks() {
            chat["chat_template_kwargs"] = json!({"enable_thinking": true, "thinking": true});
            if model.templates().mention("reasoning_effort") {
                chat["reasoning_effort"] = json!(self.effort());
            }
            let reasoning = model.output_format().reasoning;
            let closing = reasoning.map(|format| ClosingTag::new(format, model.tokenizer()));
            if matches!(closing, Some(Ok(Some(_)))) {
                chat["thinking_token_budget"] = json!(self.budget_tokens());
            }
        } else {
            chat["reasoning_effort"] = json!("none");
        }
        Ok(chat.to_string().into_bytes())
    }
}
