//! What the answer must look like: OpenAI's `response_format` and vLLM's `structured_outputs`.

use serde::Deserialize;
use serde_json::Value;
use text::Grammar;

use crate::error::ApiError;

/// Fields of both generation routes; at most one of them may ask for something.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct StructuredFields {
    /// OpenAI: `text`, `json_object` or `json_schema`, which is enforced whether `strict` or not.
    response_format: Option<ResponseFormat>,
    /// vLLM: exactly one kind of constraint.
    structured_outputs: Option<StructuredOutputs>,
}

#[derive(Debug, Deserialize)]
struct ResponseFormat {
    r#type: FormatType,
    json_schema: Option<JsonSchema>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum FormatType {
    Text,
    JsonObject,
    JsonSchema,
}

#[derive(Debug, Deserialize)]
struct JsonSchema {
    schema: Option<Value>,
    #[expect(dead_code, reason = "a label: checked for its type only")]
    name: Option<String>,
    #[expect(dead_code, reason = "a label: checked for its type only")]
    description: Option<String>,
    #[expect(dead_code, reason = "every schema is enforced")]
    strict: Option<bool>,
}

#[derive(Debug, Deserialize)]
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
}

impl StructuredFields {
    /// The grammar with the path of the field that gives it.
    pub(crate) fn grammar(&self) -> Result<Option<(&'static str, Grammar)>, ApiError> {
        let format = self.response_format.as_ref().map(ResponseFormat::grammar).transpose()?;
        let outputs = self.structured_outputs.as_ref().map(StructuredOutputs::grammar);
        match (format.flatten(), outputs.transpose()?) {
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
    fn grammar(&self) -> Result<Option<(&'static str, Grammar)>, ApiError> {
        match (self.r#type, &self.json_schema) {
            (FormatType::Text, _) => Ok(None),
            (FormatType::JsonObject, _) => Ok(Some(("response_format", Grammar::json_object()))),
            (FormatType::JsonSchema, Some(JsonSchema { schema: Some(schema), .. })) => {
                let field = "response_format.json_schema.schema";
                Ok(Some((field, Grammar::JsonSchema(schema.clone()))))
            }
            (FormatType::JsonSchema, format) => {
                let field = match format {
                    None => "response_format.json_schema",
                    Some(_) => "response_format.json_schema.schema",
                };
                let message = format!("Missing required field '{field}'.");
                let code = Some("missing_required_parameter");
                Err(ApiError { code, ..ApiError::invalid(field, message) })
            }
        }
    }
}

impl StructuredOutputs {
    fn grammar(&self) -> Result<(&'static str, Grammar), ApiError> {
        let mut given = [
            self.json.as_ref().map(|schema| schema_of(schema)).transpose()?,
            (self.json_object == Some(true))
                .then(|| ("structured_outputs.json_object", Grammar::json_object())),
            self.regex
                .as_ref()
                .map(|regex| ("structured_outputs.regex", Grammar::Regex(regex.clone()))),
            self.choice
                .as_ref()
                .map(|texts| ("structured_outputs.choice", Grammar::Choice(texts.clone()))),
            self.grammar
                .as_ref()
                .map(|grammar| ("structured_outputs.grammar", Grammar::Lark(grammar.clone()))),
        ]
        .into_iter()
        .flatten();
        let (Some(grammar), None) = (given.next(), given.next()) else {
            let message = "'structured_outputs' must have exactly one of 'json', 'json_object', \
                           'regex', 'choice' and 'grammar'.";
            return Err(ApiError::invalid("structured_outputs", message));
        };
        if let Grammar::Choice(texts) = &grammar.1
            && (texts.is_empty() || texts.iter().any(String::is_empty))
        {
            let message = "'structured_outputs.choice' must list texts, none of them empty.";
            return Err(ApiError::invalid("structured_outputs.choice", message));
        }
        Ok(grammar)
    }
}

fn schema_of(schema: &Value) -> Result<(&'static str, Grammar), ApiError> {
    let field = "structured_outputs.json";
    let schema = match schema {
        Value::String(text) => serde_json::from_str(text).map_err(|error| {
            ApiError::invalid(field, format!("'{field}' is not valid JSON: {error}."))
        })?,
        schema => schema.clone(),
    };
    Ok((field, Grammar::JsonSchema(schema)))
}
