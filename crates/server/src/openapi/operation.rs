//! One method of one path, as it is described.

use serde_json::{Value, json};

use super::schema::Schemas;

/// Makes the schema of a body.
pub(super) type MakeSchema = fn(&mut Schemas) -> Value;

/// One method of one path.
#[derive(Debug)]
pub(super) struct Operation {
    pub(super) method: &'static str,
    pub(super) path: &'static str,
    pub(super) tag: &'static str,
    pub(super) summary: &'static str,
    pub(super) description: &'static str,
    query: &'static [Parameter],
    /// Schema and example of the request.
    pub(super) body: Option<(MakeSchema, fn() -> Value)>,
    pub(super) answer: Answer,
    /// Whether it never wants a key.
    pub(super) is_open: bool,
}

/// Of the query.
#[derive(Debug)]
pub(super) struct Parameter {
    pub(super) name: &'static str,
    pub(super) description: &'static str,
    pub(super) schema: fn() -> Value,
}

/// What comes back.
#[derive(Debug, Clone, Copy)]
pub(super) enum Answer {
    Json(MakeSchema),
    /// JSON, or events if the request says `stream`.
    Events {
        whole: MakeSchema,
        event: MakeSchema,
    },
    /// Of these content types, as the client accepts.
    Text(&'static [&'static str]),
}

impl Operation {
    pub(super) fn new(
        method: &'static str,
        path: &'static str,
        tag: &'static str,
        answer: Answer,
    ) -> Self {
        Self {
            method,
            path,
            tag,
            summary: "",
            description: "",
            query: &[],
            body: None,
            answer,
            is_open: false,
        }
    }

    /// What it is for, in few words and in more.
    pub(super) fn says(self, summary: &'static str, description: &'static str) -> Self {
        Self { summary, description, ..self }
    }

    pub(super) fn takes(self, schema: MakeSchema, example: fn() -> Value) -> Self {
        Self { body: Some((schema, example)), ..self }
    }

    pub(super) fn with_query(self, query: &'static [Parameter]) -> Self {
        Self { query, ..self }
    }

    pub(super) fn open(self) -> Self {
        Self { is_open: true, ..self }
    }

    /// Such as `post_v1_chat_completions`.
    fn id(&self) -> String {
        let path = self.path.replace(['{', '}'], "").replace(['/', '.'], "_");
        format!("{}{}", self.method, path.trim_end_matches('_'))
    }

    fn parameters(&self) -> Vec<Value> {
        let in_path = self.path.split('{').skip(1).filter_map(|rest| rest.split('}').next());
        let in_path = in_path.map(|name| {
            let schema = json!({"type": "string", "minLength": 1});
            json!({"name": name, "in": "path", "required": true, "schema": schema})
        });
        let in_query = self.query.iter().map(|Parameter { name, description, schema }| {
            json!({"name": name, "in": "query", "description": description, "schema": schema()})
        });
        in_path.chain(in_query).collect()
    }

    pub(super) fn described(&self, schemas: &mut Schemas) -> Value {
        let error = if self.path.starts_with("/v1/messages") {
            "#/components/schemas/AnthropicError"
        } else {
            "#/components/schemas/Error"
        };
        let mut value = json!({
            "operationId": self.id(),
            "tags": [self.tag],
            "summary": self.summary,
            "description": self.description,
        });
        if self.is_open {
            value["security"] = json!([]);
        }
        let parameters = self.parameters();
        if !parameters.is_empty() {
            value["parameters"] = parameters.into();
        }
        if let Some((schema, example)) = self.body {
            let content = json!({"schema": schema(schemas), "example": example()});
            value["requestBody"] =
                json!({"required": true, "content": {"application/json": content}});
        }
        value["responses"] = json!({
            "200": {"description": "As asked.", "content": self.answer.content(schemas)},
            "default": {
                "description": "What is wrong, and what to do.",
                "content": {"application/json": {"schema": {"$ref": error}}},
            },
        });
        value
    }
}

/// What stands in the place of a stream's schema in OpenAPI 3.1: that of each of its events.
fn one_event(data: &Value) -> Value {
    json!({
        "type": "object",
        "required": ["data"],
        "properties": {
            "event": {"type": "string"},
            "data": {
                "type": "string",
                "contentMediaType": "application/json",
                "contentSchema": data,
            },
        },
    })
}

impl Answer {
    fn content(self, schemas: &mut Schemas) -> Value {
        match self {
            Self::Json(schema) => json!({"application/json": {"schema": schema(schemas)}}),
            Self::Events { whole, event } => json!({
                "application/json": {"schema": whole(schemas)},
                "text/event-stream": {"schema": one_event(&event(schemas))},
            }),
            Self::Text(types) => {
                let text =
                    |name: &&str| ((*name).to_owned(), json!({"schema": {"type": "string"}}));
                Value::Object(types.iter().map(text).collect())
            }
        }
    }
}
