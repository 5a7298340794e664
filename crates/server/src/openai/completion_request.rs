//! `POST /v1/completions`: its fields.

use std::borrow::Cow;
use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{Deserialize, Deserializer, Error, SeqAccess, Visitor};
use serde_json::Value;

use super::body::{check_fields, read};
use super::field_names::field_names;
use super::refused::Route;
use super::request_fields::RequestFields;
use super::sampling_fields::{MAX_TOP_LOGPROBS, SamplingFields, integer};
use super::structured_fields::StructuredFields;
use crate::error::ApiError;
use crate::openapi::{Schemas, request};

/// Answers are this long when the request does not say, as at OpenAI.
pub(crate) const DEFAULT_MAX_TOKENS: usize = 16;
/// Most prompts in one request.
const MAX_PROMPTS: usize = 2048;

/// The whole request.
#[derive(Debug)]
pub(crate) struct CompletionRequest {
    pub(crate) request: RequestFields,
    pub(crate) sampling: SamplingFields,
    pub(crate) structured: StructuredFields,
    pub(crate) completion: CompletionFields,
}

/// Fields of this route alone.
#[derive(Debug, serde::Deserialize, JsonSchema)]
pub(crate) struct CompletionFields {
    pub(crate) prompt: Prompt,
    /// Put the prompt before the answer, with its log-probabilities if those are asked for.
    pub(crate) echo: Option<bool>,
    /// Report log-probabilities with this many alternatives, 0 to 20.
    #[schemars(range(min = 0, max = MAX_TOP_LOGPROBS))]
    logprobs: Option<i64>,
    /// Only as large as `n`: this server does not sample more choices than it returns.
    best_of: Option<i64>,
    /// vLLM: let the tokenizer add its special tokens (BOS) to text prompts; true by default.
    pub(crate) add_special_tokens: Option<bool>,
}

/// One or many prompts, as text or as token ids.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Prompt {
    Text(String),
    Texts(Vec<String>),
    Ids(Vec<u32>),
    IdLists(Vec<Vec<u32>>),
}

impl CompletionRequest {
    /// Reads a body; every fault names its field.
    pub(crate) fn parse(body: &[u8]) -> Result<Self, ApiError> {
        let honoured = [
            field_names::<RequestFields>(),
            field_names::<SamplingFields>(),
            field_names::<StructuredFields>(),
            field_names::<CompletionFields>(),
        ];
        check_fields(body, Route::Completions, &honoured)?;
        let request = Self {
            request: read(body)?,
            sampling: read(body)?,
            structured: read(body)?,
            completion: read(body)?,
        };
        request.request.validate()?;
        Ok(request)
    }

    /// What [`Self::parse`] takes.
    pub(crate) fn request_schema(schemas: &mut Schemas) -> Value {
        let parts = [
            schemas.fields::<RequestFields>(),
            schemas.fields::<SamplingFields>(),
            schemas.fields::<StructuredFields>(),
            schemas.fields::<CompletionFields>(),
        ];
        request(parts, Route::Completions)
    }

    /// The longest answer; `None` asks for the default.
    pub(crate) fn max_tokens(&self) -> Result<Option<usize>, ApiError> {
        let max_tokens = integer("max_tokens", self.sampling.max_tokens, 0, i64::MAX)?;
        Ok(max_tokens.map(|count| count as usize))
    }

    /// The number of alternatives at each position, or `None` for no log-probabilities.
    pub(crate) fn logprobs(&self) -> Result<Option<u32>, ApiError> {
        let top = integer("logprobs", self.completion.logprobs, 0, MAX_TOP_LOGPROBS)?;
        Ok(top.map(|count| count as u32))
    }

    /// Refuses a `best_of` other than `n`.
    pub(crate) fn check_best_of(&self, n: usize) -> Result<(), ApiError> {
        match self.completion.best_of {
            Some(best_of) if best_of != n as i64 => {
                let message =
                    format!("'best_of' is {best_of}; only the value of 'n', {n}, is supported.");
                Err(ApiError::invalid("best_of", message))
            }
            _ => Ok(()),
        }
    }
}

impl JsonSchema for Prompt {
    fn schema_name() -> Cow<'static, str> {
        "Prompt".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let ids = generator.subschema_for::<Vec<u32>>();
        json_schema!({"anyOf": [
            {"type": "string"},
            {"type": "array", "items": {"type": "string"}, "minItems": 1, "maxItems": MAX_PROMPTS},
            {"allOf": [ids], "minItems": 1},
            {"type": "array", "items": ids, "minItems": 1, "maxItems": MAX_PROMPTS},
        ]})
    }
}

impl<'de> Deserialize<'de> for Prompt {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(PromptVisitor)
    }
}

const EXPECTED: &str = "a string, an array of strings, an array of token ids, \
                        or an array of arrays of token ids, none of them empty";

struct PromptVisitor;

impl<'de> Visitor<'de> for PromptVisitor {
    type Value = Prompt;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(EXPECTED)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Prompt, E> {
        Ok(Prompt::Text(text.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Prompt, A::Error> {
        let Some(first) = items.next_element::<Item>()? else {
            return Err(A::Error::invalid_length(0, &self));
        };
        Ok(match first {
            Item::Id(id) => Prompt::Ids(rest_of(vec![id], items, usize::MAX)?),
            Item::Text(text) => Prompt::Texts(rest_of(vec![text], items, MAX_PROMPTS)?),
            Item::Ids(ids) => Prompt::IdLists(rest_of(vec![ids], items, MAX_PROMPTS)?),
        })
    }
}

/// Collects the remaining elements, all of the type of the first.
fn rest_of<'de, T: Deserialize<'de>, A: SeqAccess<'de>>(
    mut list: Vec<T>,
    mut items: A,
    limit: usize,
) -> Result<Vec<T>, A::Error> {
    while let Some(item) = items.next_element()? {
        if list.len() == limit {
            return Err(A::Error::custom(format!("more than {limit} prompts in one request")));
        }
        list.push(item);
    }
    Ok(list)
}

/// The first element of a prompt array, which decides what the others must be.
enum Item {
    Id(u32),
    Text(String),
    Ids(Vec<u32>),
}

impl<'de> Deserialize<'de> for Item {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ItemVisitor)
    }
}

struct ItemVisitor;

impl<'de> Visitor<'de> for ItemVisitor {
    type Value = Item;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string, a token id, or an array of token ids")
    }

    fn visit_u64<E: Error>(self, id: u64) -> Result<Item, E> {
        let id = u32::try_from(id).map_err(|_| E::custom(format!("{id} is not a token id")))?;
        Ok(Item::Id(id))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Item, E> {
        Ok(Item::Text(text.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, items: A) -> Result<Item, A::Error> {
        Ok(Item::Ids(rest_of(Vec::new(), items, usize::MAX)?))
    }
}
