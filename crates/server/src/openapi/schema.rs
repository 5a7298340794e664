//! Schemas of requests and responses, from the types that read and write them.

use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, SchemaGenerator};
use serde_json::{Map, Value, json};

use crate::openai::refused::Route;

/// Where schemas with a name stand in the document.
const COMPONENTS: &str = "/components/schemas";

/// Both directions: what is left out of a request is optional, what is left out of a response is
/// not always there.
#[derive(Debug)]
pub(crate) struct Schemas {
    requests: SchemaGenerator,
    responses: SchemaGenerator,
}

impl Schemas {
    pub(super) fn new() -> Self {
        let settings = || {
            SchemaSettings::draft2020_12().with(|settings| {
                settings.definitions_path = COMPONENTS.into();
                settings.meta_schema = None;
            })
        };
        Self {
            requests: settings().for_deserialize().into_generator(),
            responses: settings().for_serialize().into_generator(),
        }
    }

    /// The fields of `T`, a part of a request.
    pub(crate) fn fields<T: JsonSchema>(&mut self) -> Value {
        T::json_schema(&mut self.requests).to_value()
    }

    /// A response.
    pub(crate) fn response<T: JsonSchema>(&mut self) -> Value {
        self.responses.subschema_for::<T>().to_value()
    }

    /// A response that is one or the other.
    pub(super) fn either<T: JsonSchema, U: JsonSchema>(&mut self) -> Value {
        json!({"anyOf": [self.response::<T>(), self.response::<U>()]})
    }

    /// All that have a name.
    pub(super) fn named(mut self) -> Map<String, Value> {
        let mut named = self.requests.take_definitions(true);
        for (name, schema) in self.responses.take_definitions(true) {
            let before = named.insert(name.clone(), schema.clone());
            assert!(before.is_none_or(|before| before == schema), "two types are called {name}");
        }
        named
    }
}

/// A request that has the fields of all `parts` and no others; those that `route` knows and refuses
/// may ask for nothing.
pub(crate) fn request(parts: impl IntoIterator<Item = Value>, route: Route) -> Value {
    let (mut properties, mut required) = (Map::new(), Vec::new());
    for part in parts {
        let Value::Object(mut part) = part else { unreachable!("a struct's schema is an object") };
        if let Some(Value::Object(fields)) = part.remove("properties") {
            properties.extend(fields);
        }
        if let Some(Value::Array(names)) = part.remove("required") {
            required.extend(names);
        }
    }
    for name in route.refused() {
        properties.entry(name).or_insert_with(|| refused(name));
    }
    json!({
        "type": "object",
        "properties": properties,
        "required": required,
        "additionalProperties": false,
    })
}

/// The values with which a field that is refused asks for nothing.
fn refused(name: &str) -> Value {
    let null = json!({"type": "null"});
    let neutral = match name {
        "length_penalty" | "best_of" => vec![null, json!({"const": 1})],
        "embed_dtype" => vec![null, json!({"const": "float32"})],
        "endianness" => vec![null, json!({"enum": ["native", "little"]})],
        "padding" => vec![null, json!({"const": "do_not_pad"})],
        _ => {
            let texts = match name {
                "modalities" => json!({"type": "array", "items": {"const": "text"}}),
                _ => json!({"type": "array", "maxItems": 0}),
            };
            let mut neutral = vec![null, json!({"enum": [false, "", "none"]}), texts];
            if name != "web_search_options" {
                neutral.push(json!({"type": "object", "maxProperties": 0}));
            }
            neutral
        }
    };
    json!({
        "description": "Not supported: leave it out.",
        "deprecated": true,
        "anyOf": neutral,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::openai::refused::is_neutral;

    /// `refused` says in a schema what `is_neutral` says in code.
    #[test]
    fn refused_fields_take_what_asks_for_nothing() {
        let values = [
            json!(null),
            json!(false),
            json!(true),
            json!(""),
            json!("none"),
            json!("x"),
            json!("float32"),
            json!("little"),
            json!("do_not_pad"),
            json!([]),
            json!(["text"]),
            json!(["text", "audio"]),
            json!({}),
            json!({"a": 1}),
            json!(0),
            json!(1),
            json!(2),
        ];
        for name in [
            "audio",
            "modalities",
            "length_penalty",
            "best_of",
            "web_search_options",
            "embed_dtype",
            "endianness",
            "padding",
        ] {
            let schema = jsonschema::validator_for(&refused(name)).unwrap();
            for value in &values {
                assert_eq!(schema.is_valid(value), is_neutral(name, value), "{name}: {value}");
            }
        }
    }
}
