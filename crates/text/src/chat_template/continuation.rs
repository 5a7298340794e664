//! `continue_final_message`: the last message without what the template puts after it.
//!
//! As transformers does: a mark is appended to the final message, the chat rendered, and the prompt
//! cut where the mark came out.

use serde_json::Value;

use crate::TextError;

/// The mark, and the space that tells whether the template trimmed the message.
const MARK: &str = "CONTINUE_FINAL_MESSAGE_TAG ";

/// A marked final message.
pub(super) struct Continuation {
    final_text: String,
}

impl Continuation {
    /// Marks the text of the last message. `template` is the template's source.
    pub(super) fn open(messages: &mut [Value], template: &str) -> Result<Self, TextError> {
        let content = messages.last_mut().and_then(|message| message.get_mut("content"));
        let content =
            content.ok_or_else(|| invalid("the final message has no content to continue"))?;
        if !template.contains("content") {
            return Err(invalid("the chat template does not read content"));
        }
        let text = match content {
            Value::String(text) => Some(text),
            Value::Array(parts) => {
                let texts = parts.iter_mut().rev().find_map(|part| part.get_mut("text"));
                texts.and_then(|text| match text {
                    Value::String(text) => Some(text),
                    _ => None,
                })
            }
            _ => None,
        };
        let text = text.ok_or_else(|| invalid("the final message has no text to continue"))?;
        let final_text = text.clone();
        text.push_str(MARK);
        Ok(Self { final_text })
    }

    /// Cuts the rendered chat at the mark.
    pub(super) fn close(&self, mut rendered: String) -> Result<String, TextError> {
        let place = rendered.rfind(MARK.trim_end());
        let (Some(place), true) = (place, rendered.contains(self.final_text.trim())) else {
            return Err(invalid(
                "the chat template drops or changes the final message, so it cannot be continued",
            ));
        };
        let kept_space = rendered[place..].starts_with(MARK);
        rendered.truncate(place);
        if !kept_space {
            rendered.truncate(rendered.trim_end().len());
        }
        Ok(rendered)
    }
}

fn invalid(reason: &str) -> TextError {
    TextError::InvalidMessages(format!("continue_final_message: {reason}"))
}
