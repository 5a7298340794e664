//! What the answer must look like: OpenAI's `response_format` and vLLM's `structured_outputs`.

use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Map, Value};
use text::{Grammar, StructuralTag, TagError, Tokenizer};

use crate::constraint::{Constraint, Part};
use crate::error::ApiError;

/// Fields of both generation routes; at most one of them may ask for something.
#[derive(Debug, Default, Deserialize, JsonSchema)]
pub(crate) struct StructuredFields {
    /// OpenAI: `text`, `json_object` or `json_schema`, which is enforced whether `strict` or not.
    /// vLLM: `structural_tag`.
    response_format: Option<ResponseFormat>,
    /// vLLM: exactly one kind of constraint.
    structured_outputs: Option<StructuredOutputs>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[schemars(extend(
    "if" = {"properties": {"type": {"const": "json_schema"}}},
    "then" = {
        "required": ["json_schema"],
        "properties": {"json_schema": {
            "required": ["schema"], "properties": {"schema": {"not": {"type": "null"}}},
        }},
    },
))]
struct ResponseFormat {
    r#type: FormatType,
    json_schema: Option<SchemaFormat>,
    /// What only a structural tag has.
    #[serde(flatten)]
    other: Map<String, Value>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[schemars(rename = "ResponseFormatType")]
#[serde(rename_all = "snake_case")]
enum FormatType {
    Text,
    JsonObject,
    JsonSchema,
    StructuralTag,
}

#[derive(Debug, Deserialize, schemars::JsonSchema)]
#[schemars(rename = "JsonSchemaFormat")]
#[serde(deny_unknown_fields)]
struct SchemaFormat {
    schema: Option<Value>,
    #[expect(dead_code, reason = "a label: checked for its type only")]
    name: Option<String>,
    #[expect(dead_code, reason = "a label: checked for its type only")]
    description: Option<String>,
    #[expect(dead_code, reason = "every schema is enforced")]
    strict: Option<bool>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct StructuredOutputs {
    /// A JSON schema, as an object or as its text.
    json: Option<Value>,
    /// Any JSON object.
    json_object: Option<bool>,
    /// The whole answer matches.
    regex: Option<String>,
    /// The answer is one of these.
    choice: Option<Vec<String>>,
    /// A context-free grammar in llguidance's dialect of Lark.
    grammar: Option<String>,
    /// Free text with tags, as an object or as its text.
    structural_tag: Option<Value>,
}

impl StructuredFields {
    /// What either field asks for; special tokens in tags are those of `tokenizer`.
    pub(crate) fn constraint(&self, tokenizer: &Tokenizer) -> Result<Option<Constraint>, ApiError> {
        let format = self.response_format.as_ref();
        let format = format.map(|format| format.constraint(tokenizer)).transpose()?;
        let outputs = self.structured_outputs.as_ref();
        let outputs = outputs.map(|outputs| outputs.constraint(tokenizer)).transpose()?;
        match (format.flatten(), outputs) {
            (Some(_), Some(_)) => {
                let message = "'response_format' and 'structured_outputs' both constrain the \
                               answer; give one of them.";
                Err(ApiError::invalid("structured_outputs", message))
            }
            (format, outputs) => Ok(format.or(outputs)),
        }
    }
}

impl ResponseFormat {
    fn constraint(&self, tokenizer: &Tokenizer) -> Result<Option<Constraint>, ApiError> {
        let is_tag = self.r#type == FormatType::StructuralTag;
        let misplaced = self.other.iter().find(|(_, value)| !is_tag && !value.is_null());
        if let Some((name, _)) = misplaced {
            return Err(ApiError::unsupported(&format!("response_format.{name}")));
        }
        match (self.r#type, &self.json_schema) {
            (FormatType::Text, _) => Ok(None),
            (FormatType::JsonObject, _) => {
                Ok(Some(Constraint::new("response_format", Grammar::json_object())))
            }
            (FormatType::StructuralTag, None) => {
                let tag = Value::Object(self.other.clone());
                structural_tag("response_format", &tag, tokenizer).map(Some)
            }
            (FormatType::StructuralTag, Some(_)) => {
                Err(ApiError::unsupported("response_format.json_schema"))
            }
            (FormatType::JsonSchema, Some(SchemaFormat { schema: Some(schema), .. })) => {
                let field = "response_format.json_schema.schema";
                Ok(Some(Constraint::new(field, Grammar::JsonSchema(schema.clone()))))
            }
            (FormatType::JsonSchema, format) => {
                let field = match format {
                    None => "response_format.json_schema",
                    Some(_) => "response_format.json_schema.schema",
                };
                Err(ApiError::missing(field))
            }
        }
    }
}

impl StructuredOutputs {
    fn constraint(&self, tokenizer: &Tokenizer) -> Result<Constraint, ApiError> {
        let json = |schema| Ok(("json", Grammar::JsonSchema(schema)));
        let given = [
            self.json.as_ref().map(|value| from_text("json", value).and_then(json)).transpose()?,
            (self.json_object == Some(true)).then(|| ("json_object", Grammar::json_object())),
            self.regex.clone().map(|regex| ("regex", Grammar::Regex(regex))),
            self.choice.clone().map(|texts| ("choice", Grammar::Choice(texts))),
            self.grammar.clone().map(|grammar| ("grammar", Grammar::Lark(grammar))),
        ];
        let mut given = given.into_iter().flatten();
        match (given.next(), given.next(), &self.structural_tag) {
            (Some((_, Grammar::Choice(texts))), None, None)
                if texts.is_empty() || texts.iter().any(String::is_empty) =>
            {
                let message = "'structured_outputs.choice' must list texts, none of them empty.";
                Err(ApiError::invalid("structured_outputs.choice", message))
            }
            (Some((name, grammar)), None, None) => {
                Ok(Constraint::new(&format!("structured_outputs.{name}"), grammar))
            }
            (None, None, Some(tag)) => {
                let tag = from_text("structural_tag", tag)?;
                structural_tag("structured_outputs.structural_tag", &tag, tokenizer)
            }
            _ => {
                let message = "'structured_outputs' must have exactly one of 'json', \
                               'json_object', 'regex', 'choice', 'grammar' and 'structural_tag'.";
                Err(ApiError::invalid("structured_outputs", message))
            }
        }
    }
}

/// A JSON value that may have been sent as its text.
fn from_text(name: &str, value: &Value) -> Result<Value, ApiError> {
    let Value::String(text) = value else { return Ok(value.clone()) };
    serde_json::from_str(text).map_err(|error| {
        let field = format!("structured_outputs.{name}");
        let message = format!("'{field}' is not valid JSON: {error}.");
        ApiError::invalid(field, message)
    })
}

fn structural_tag(
    field: &str,
    value: &Value,
    tokenizer: &Tokenizer,
) -> Result<Constraint, ApiError> {
    let path = |inner: &str| {
        if inner.is_empty() { field.to_owned() } else { format!("{field}.{inner}") }
    };
    let tag = StructuralTag::parse(value).map_err(|TagError { path: inner, message }| {
        let path = path(&inner);
        let message = format!("'{path}' cannot be used to constrain: {message}.");
        ApiError::invalid(path, message)
    })?;
    let part = |(inner, leaf): &(String, Grammar)| Part::Grammar(path(inner), leaf.clone());
    let parts = tag.leaves().iter().map(part).collect();
    let grammar = tag.grammar(tokenizer).map_err(|error| {
        ApiError::invalid(field, format!("'{field}' cannot be used to constrain: {error}."))
    })?;
    Ok(Constraint { field: field.to_owned(), grammar, parts })
}
