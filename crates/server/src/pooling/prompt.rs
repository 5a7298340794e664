//! From texts to the token ids of prompts that become vectors.

use std::borrow::Cow;

use text::{Cut, Part, Side};

use super::PoolingPrompt;
use crate::error::ApiError;
use crate::prompt::{text_error, too_long};
use crate::served_model::ServedModel;

impl ServedModel {
    /// Tokenises text number `index` of a field as the model reads it, cut to fit if that is wanted.
    pub(crate) fn encode_pooled(
        &self,
        text: &str,
        add_special_tokens: bool,
        cut: Option<Cut>,
        (field, index): (&str, usize),
    ) -> Result<PoolingPrompt, ApiError> {
        if text.is_empty() {
            return Err(is_empty(field, index));
        }
        let text = self.lowered(text);
        let ids = match cut {
            None => {
                self.check_text_len(text.len(), field, &format!("'{field}' has"))?;
                self.text().encode(&text, add_special_tokens)
            }
            Some(cut) => self.text().tokenizer().encode_cut(&text, add_special_tokens, cut),
        };
        let ids = ids.map_err(|error| text_error(field, &error))?;
        if let Some(cut) = cut {
            check_cut(ids.len(), cut)?;
        }
        self.check_pooled_len((field, index), &ids)?;
        Ok(PoolingPrompt::of(ids))
    }

    /// Tokenises a text that the model will read together with others.
    pub(crate) fn encode_part(
        &self,
        text: &str,
        cut: Option<Cut>,
        field: &str,
    ) -> Result<Part, ApiError> {
        let text = self.lowered(text);
        if cut.is_none() {
            self.check_text_len(text.len(), field, &format!("'{field}' has"))?;
        }
        self.text().tokenizer().part(&text).map_err(|error| text_error(field, &error))
    }

    /// The prompt of two texts that the model reads together. What is cut is cut of the longer one
    /// first.
    pub(crate) fn join(
        &self,
        first: &Part,
        second: &Part,
        cut: Option<Cut>,
        (field, index): (&str, usize),
    ) -> Result<PoolingPrompt, ApiError> {
        let pair = self.text().tokenizer().join(first, second, cut);
        let (ids, second_text) = pair.map_err(|error| text_error(field, &error))?;
        if let Some(cut) = cut {
            check_cut(ids.len(), cut)?;
        }
        self.check_pooled_len((field, index), &ids)?;
        Ok(PoolingPrompt { ids, second_text })
    }

    fn lowered<'a>(&self, text: &'a str) -> Cow<'a, str> {
        let lowers = self.pooling_rules().lowercases;
        if lowers { Cow::Owned(text.to_lowercase()) } else { Cow::Borrowed(text) }
    }

    /// Refuses prompt number `index` of a field if it is empty or too long.
    pub(crate) fn check_pooled_len(
        &self,
        (field, index): (&str, usize),
        ids: &[u32],
    ) -> Result<(), ApiError> {
        let (len, context) = (ids.len(), self.generator().max_model_len());
        if len == 0 {
            return Err(is_empty(field, index));
        }
        if len > context {
            let message = format!(
                "This model's maximum context length is {context} tokens. However, your '{field}' \
                 number {index} has {len} tokens. Shorten it, or have it cut with \
                 'truncate_prompt_tokens': -1."
            );
            return Err(too_long(field, &message));
        }
        Ok(())
    }
}

fn is_empty(field: &str, index: usize) -> ApiError {
    let message = format!("'{field}' number {index} is empty: give at least one token.");
    ApiError::invalid(field, message)
}

/// What is left must fit, special tokens and all.
fn check_cut(len: usize, cut: Cut) -> Result<(), ApiError> {
    if len <= cut.max_len {
        return Ok(());
    }
    let message = format!(
        "'truncate_prompt_tokens' is {}, which does not hold the special tokens of this model.",
        cut.max_len
    );
    Err(ApiError::invalid("truncate_prompt_tokens", message))
}

/// Cuts ids that a client sent.
pub(crate) fn cut_ids(ids: &mut Vec<u32>, cut: Cut) {
    match cut.side {
        Side::Right => ids.truncate(cut.max_len),
        Side::Left => drop(ids.drain(..ids.len().saturating_sub(cut.max_len))),
    }
}
