//! `POST /v1/rerank` and `/v1/score`: their fields.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{Deserializer, Error};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::pooling_request::PoolingRequest;
use crate::error::ApiError;
use crate::openapi::Schemas;

/// Most texts of a field.
const MAX_TEXTS: usize = 2048;

/// Fields of `/v1/rerank` alone.
#[derive(Debug, Deserialize, JsonSchema)]
pub(crate) struct RerankFields {
    pub(crate) query: Text,
    pub(crate) documents: Texts,
    /// Only so many of the best; 0 or none are all.
    pub(crate) top_n: Option<u64>,
    /// Whether the answer repeats the documents; true by default.
    pub(crate) return_documents: Option<bool>,
}

/// Fields of `/v1/score` alone: one of vLLM's four pairs of names.
#[derive(Debug, Deserialize, JsonSchema)]
pub(crate) struct ScoreFields {
    text_1: Option<Texts>,
    text_2: Option<Texts>,
    queries: Option<Texts>,
    documents: Option<Texts>,
    items: Option<Texts>,
    data_1: Option<Texts>,
    data_2: Option<Texts>,
}

/// A text, or an object that holds one, as Cohere's clients write documents.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Text {
    pub(crate) text: String,
}

/// One or many.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Texts(pub(crate) Vec<Text>);

/// Texts to be compared, by the names of their fields.
#[derive(Debug)]
pub(crate) struct Pairs {
    pub(crate) queries: (&'static str, Vec<Text>),
    pub(crate) documents: (&'static str, Vec<Text>),
}

/// The schema of a request of `/v1/score`. One of the pairs must be there.
pub(crate) fn request_schema(schemas: &mut Schemas) -> Value {
    let mut schema = PoolingRequest::<ScoreFields>::request_schema(schemas);
    let pairs = [["text_1", "text_2"], ["queries", "documents"], ["queries", "items"]];
    let pairs = pairs.iter().chain(&[["data_1", "data_2"]]);
    let pairs: Vec<_> = pairs.map(|pair| json!({"required": pair})).collect();
    schema["anyOf"] = pairs.into();
    schema
}

impl JsonSchema for Text {
    fn schema_name() -> Cow<'static, str> {
        "Text".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"anyOf": [
            {"type": "string"},
            {
                "type": "object", "required": ["text"], "additionalProperties": false,
                "properties": {"text": {"type": "string"}},
            },
        ]})
    }
}

impl JsonSchema for Texts {
    fn schema_name() -> Cow<'static, str> {
        "Texts".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let text = generator.subschema_for::<Text>();
        json_schema!({"anyOf": [
            text, {"type": "array", "items": text, "minItems": 1, "maxItems": MAX_TEXTS},
        ]})
    }
}

impl ScoreFields {
    /// One text and many, or as many of both.
    pub(crate) fn pairs(self) -> Result<Pairs, ApiError> {
        let Self { text_1, text_2, queries, documents, items, data_1, data_2 } = self;
        let given = [
            (("text_1", text_1), vec![("text_2", text_2)]),
            (("queries", queries), vec![("documents", documents), ("items", items)]),
            (("data_1", data_1), vec![("data_2", data_2)]),
        ];
        let mut pairs = Vec::new();
        for ((first, left), seconds) in given {
            let mut rights: Vec<_> =
                seconds.into_iter().filter_map(|(name, texts)| Some((name, texts?))).collect();
            match (left, rights.pop()) {
                (None, None) => {}
                (Some(left), Some((second, right))) if rights.is_empty() => {
                    pairs.push(Pairs { queries: (first, left.0), documents: (second, right.0) });
                }
                (Some(_), Some((name, _))) => return Err(too_many(name)),
                (Some(_), None) => return Err(ApiError::missing(other_of(first))),
                (None, Some(_)) => return Err(ApiError::missing(first)),
            }
        }
        let last = pairs.pop().ok_or_else(|| ApiError::missing("text_1"))?;
        match pairs.pop() {
            None => last.check(),
            Some(_) => Err(too_many(last.queries.0)),
        }
    }
}

fn other_of(first: &str) -> &'static str {
    match first {
        "queries" => "documents",
        "data_1" => "data_2",
        _ => "text_2",
    }
}

fn too_many(name: &str) -> ApiError {
    let message = format!(
        "'{name}' says twice what is to be compared: give 'text_1' and 'text_2', or 'queries' and \
         'documents'."
    );
    ApiError::invalid(name, message)
}

impl Pairs {
    fn check(self) -> Result<Self, ApiError> {
        let ((first, left), (second, right)) = (&self.queries, &self.documents);
        if left.len() != 1 && left.len() != right.len() {
            let message = format!(
                "'{first}' has {} texts and '{second}' has {}: give one and many, or as many of both.",
                left.len(),
                right.len()
            );
            return Err(ApiError::invalid(*first, message));
        }
        Ok(self)
    }
}

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(
            untagged,
            deny_unknown_fields,
            expecting = "expected a string, or an object with the string `text` alone"
        )]
        enum Form {
            Plain(String),
            Object { text: String },
        }
        let text = match Form::deserialize(deserializer)? {
            Form::Plain(text) | Form::Object { text } => text,
        };
        Ok(Self { text })
    }
}

impl<'de> Deserialize<'de> for Texts {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(
            untagged,
            expecting = "expected a string or an array of strings or of objects with the string `text` alone"
        )]
        enum Form {
            One(Text),
            Many(Vec<Text>),
        }
        let texts = match Form::deserialize(deserializer)? {
            Form::One(text) => vec![text],
            Form::Many(texts) => texts,
        };
        match texts.len() {
            0 => Err(D::Error::custom("give at least one text")),
            1..=MAX_TEXTS => Ok(Self(texts)),
            many => Err(D::Error::custom(format!("{many} texts are more than {MAX_TEXTS}"))),
        }
    }
}
