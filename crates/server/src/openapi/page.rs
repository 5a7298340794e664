//! The description as a page for people: one piece of HTML without scripts, which loads nothing.

use std::fmt::Write;

use serde_json::{Map, Value};

const STYLE: &str = include_str!("page.css");

/// A page with every route, field and example of `document`.
pub(super) fn render(document: &Value) -> String {
    let text = |value: &Value| escape(value.as_str().unwrap_or_default());
    let info = &document["info"];
    let mut html = format!(
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" \
         content=\"width=device-width\"><title>{title} {version}</title><style>{STYLE}</style></head>\
         <body><nav>{contents}</nav><main><h1>{title} <small>{version}</small></h1>\
         <p>{description} The same for programs: <a href=\"openapi.json\">openapi.json</a>.</p>",
        title = text(&info["title"]),
        version = text(&info["version"]),
        description = marked(&text(&info["description"])),
        contents = contents(document),
    );
    let mut tag = "";
    for (path, method, operation) in operations(document) {
        let own = operation["tags"][0].as_str().unwrap_or_default();
        if own != tag {
            tag = own;
            push(&mut html, format_args!("<h2>{}</h2>", escape(tag)));
        }
        push_operation(&mut html, path, method, operation);
    }
    html += "<h2>Objects</h2>";
    for (name, schema) in object(&document["components"]["schemas"]) {
        let name = escape(name);
        push(&mut html, format_args!("<section id=\"{name}\"><h3><code>{name}</code></h3>"));
        push_schema(&mut html, schema);
        html += "</section>";
    }
    html + "</main></body></html>\n"
}

fn contents(document: &Value) -> String {
    let links = operations(document).map(|(path, method, operation)| {
        let id = escape(operation["operationId"].as_str().unwrap_or_default());
        format!("<a href=\"#{id}\"><b>{method}</b> {}</a>", escape(path))
    });
    links.collect()
}

/// Path, method and description of each.
fn operations(document: &Value) -> impl Iterator<Item = (&str, &str, &Value)> {
    object(&document["paths"]).flat_map(|(path, methods)| {
        object(methods).map(move |(method, operation)| (path, method, operation))
    })
}

fn object(value: &Value) -> impl Iterator<Item = (&str, &Value)> {
    value.as_object().into_iter().flatten().map(|(name, value)| (name.as_str(), value))
}

fn push_operation(html: &mut String, path: &str, method: &str, operation: &Value) {
    let text = |field: &str| escape(operation[field].as_str().unwrap_or_default());
    push(
        html,
        format_args!(
            "<section id=\"{}\"><h3><b>{method}</b> <code>{}</code></h3><p><strong>{}.</strong> {}</p>",
            text("operationId"),
            escape(path),
            text("summary"),
            marked(&text("description")),
        ),
    );
    let parameters: Map<String, Value> = operation["parameters"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|parameter| {
            let mut schema = parameter["schema"].clone();
            schema["description"] = parameter["description"].clone();
            (parameter["name"].as_str().unwrap_or_default().to_owned(), schema)
        })
        .collect();
    if !parameters.is_empty() {
        *html += "<h4>Parameters</h4>";
        push_fields(html, &parameters, &[]);
    }
    let body = &operation["requestBody"]["content"]["application/json"];
    if body.is_object() {
        *html += "<h4>Request</h4>";
        let example = serde_json::to_string_pretty(&body["example"]).unwrap_or_default();
        push(html, format_args!("<pre>{}</pre>", escape(&example)));
        push_schema(html, &body["schema"]);
    }
    *html += "<h4>Answer</h4><ul>";
    for (status, response) in object(&operation["responses"]) {
        for (kind, content) in object(&response["content"]) {
            let event = content["schema"]["properties"]["data"].get("contentSchema");
            let shape = event.map_or_else(
                || shape(&content["schema"]),
                |event| format!("with `stream`, the data of each event {}", shape(event)),
            );
            let status = if status == "default" { "otherwise" } else { status };
            push(html, format_args!("<li>{status}: {kind}, {}</li>", marked(&shape)));
        }
    }
    *html += "</ul></section>";
}

fn push_schema(html: &mut String, schema: &Value) {
    if let Some(description) = schema["description"].as_str() {
        push(html, format_args!("<p>{}</p>", marked(&escape(description))));
    }
    let Some(fields) = schema["properties"].as_object() else {
        push(html, format_args!("<p>{}</p>", marked(&shape(schema))));
        return;
    };
    let required: Vec<_> =
        schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let (refused, honoured): (Vec<_>, Vec<_>) =
        fields.iter().partition(|(_, field)| field["deprecated"] == true);
    let honoured = honoured.into_iter().map(|(name, field)| (name.clone(), field.clone()));
    push_fields(html, &honoured.collect(), &required);
    if !refused.is_empty() {
        let names = refused.iter().map(|(name, _)| format!("<code>{}</code>", escape(name)));
        let names = names.collect::<Vec<_>>().join(", ");
        push(html, format_args!("<p>Known and refused: {names}.</p>"));
    }
}

fn push_fields(html: &mut String, fields: &Map<String, Value>, required: &[&str]) {
    *html += "<table><tr><th>Field<th>Value<th></tr>";
    for (name, field) in fields {
        let star = if required.contains(&name.as_str()) { " *" } else { "" };
        let description = escape(field["description"].as_str().unwrap_or_default());
        push(
            html,
            format_args!(
                "<tr><td><code>{}</code>{star}<td>{}<td>{}</tr>",
                escape(name),
                marked(&shape(field)),
                marked(&description)
            ),
        );
    }
    *html += "</table>";
}

/// What a value may be, in few words.
fn shape(schema: &Value) -> String {
    if let Some(name) = schema["$ref"].as_str().and_then(|path| path.rsplit('/').next()) {
        let name = escape(name);
        return format!("<a href=\"#{name}\">{name}</a>");
    }
    if let Some(value) = schema.get("const") {
        return format!("`{}`", escape(&value.to_string()));
    }
    if let Some(values) = schema["enum"].as_array() {
        let values = values.iter().map(|value| format!("`{}`", escape(&value.to_string())));
        return values.collect::<Vec<_>>().join(" or ");
    }
    for key in ["anyOf", "oneOf", "allOf"] {
        if let Some(choices) = schema[key].as_array() {
            let choices = choices.iter().filter(|choice| choice["type"] != "null").map(shape);
            return choices.collect::<Vec<_>>().join(" or ");
        }
    }
    let kinds = match &schema["type"] {
        Value::String(kind) => vec![kind.as_str()],
        kinds => kinds.as_array().into_iter().flatten().filter_map(Value::as_str).collect(),
    };
    let kinds = kinds.into_iter().filter(|kind| *kind != "null").map(|kind| match kind {
        "array" => format!("array of {}", shape(&schema["items"])),
        kind => kind.to_owned(),
    });
    let kinds = kinds.collect::<Vec<_>>().join(" or ");
    if kinds.is_empty() { "any value".to_owned() } else { kinds + &bounds(schema) }
}

fn bounds(schema: &Value) -> String {
    let bound = |key: &str, words: &str| {
        let value = schema.get(key).filter(|value| value.is_number())?;
        Some(format!(", {words} {value}"))
    };
    [
        bound("minimum", "from"),
        bound("exclusiveMinimum", "above"),
        bound("maximum", "up to"),
        bound("minLength", "length from"),
        bound("minItems", "items from"),
        bound("maxItems", "items up to"),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn push(html: &mut String, text: std::fmt::Arguments<'_>) {
    html.write_fmt(text).expect("a string takes any text");
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// Escaped text with what stands between backticks as code.
fn marked(html: &str) -> String {
    let parts = html.split('`').enumerate();
    let parts =
        parts.map(
            |(index, part)| {
                if index % 2 == 1 { format!("<code>{part}</code>") } else { part.to_owned() }
            },
        );
    parts.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_is_shown_is_escaped() {
        let document = json!({
            "info": {"title": "<script>", "version": "\"1\"", "description": "a `b<c` & d"},
            "paths": {"/x": {"get": {"operationId": "x", "summary": "<i>"}}},
        });
        let html = render(&document);
        assert!(!html.contains("<script") && !html.contains("<i>"), "{html}");
        assert!(html.contains("a <code>b&lt;c</code> &amp; d"), "{html}");
    }

    #[test]
    fn shapes_are_said_in_words() {
        for (schema, words) in [
            (json!({"type": ["integer", "null"], "minimum": 1}), "integer, from 1"),
            (json!({"type": "array", "items": {"type": "string"}}), "array of string"),
            (json!({"anyOf": [{"$ref": "#/a/B"}, {"type": "null"}]}), "<a href=\"#B\">B</a>"),
            (json!({"enum": ["a", 1]}), "`&quot;a&quot;` or `1`"),
            (json!(true), "any value"),
        ] {
            assert_eq!(shape(&schema), words);
        }
    }
}
