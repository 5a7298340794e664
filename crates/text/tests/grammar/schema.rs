//! Whether a value is what a schema says: as much of JSON Schema as these tests use.

use serde_json::{Map, Value};

/// Why `value` does not follow `schema`, whose definitions are in `root`.
pub(crate) fn check(root: &Value, schema: &Value, value: &Value) -> Result<(), String> {
    let fail = |why: &str| Err(format!("{value} is not {why} of {schema}"));
    if let Some(path) = schema["$ref"].as_str() {
        return check(root, root.pointer(&path[1..]).unwrap(), value);
    }
    if let Some(schemas) = schema["anyOf"].as_array()
        && !schemas.iter().any(|schema| check(root, schema, value).is_ok())
    {
        return fail("any");
    }
    if schema["enum"].as_array().is_some_and(|values| !values.contains(value)) {
        return fail("one of the values");
    }
    if schema.get("const").is_some_and(|only| only != value) {
        return fail("the value");
    }
    let is = |name: &str| match name {
        "string" => value.is_string(),
        "integer" => value.as_f64().is_some_and(|number| number.fract() == 0.0),
        "number" => value.is_number(),
        "boolean" => value.is_boolean(),
        "null" => value.is_null(),
        "object" => value.is_object(),
        "array" => value.is_array(),
        name => panic!("no type: {name}"),
    };
    let typed = match &schema["type"] {
        Value::String(name) => is(name),
        Value::Array(names) => names.iter().any(|name| is(name.as_str().unwrap())),
        _ => true,
    };
    if !typed {
        return fail("of the type");
    }
    let bound = |name: &str| schema[name].as_f64();
    if let Some(number) = value.as_f64()
        && (bound("minimum").is_some_and(|least| number < least)
            || bound("maximum").is_some_and(|most| number > most))
    {
        return fail("in the bounds");
    }
    if let Some(text) = value.as_str() {
        let len = text.chars().count() as f64;
        if bound("minLength").is_some_and(|least| len < least)
            || bound("maxLength").is_some_and(|most| len > most)
        {
            return fail("as long");
        }
        let pattern = schema["pattern"].as_str();
        if pattern.is_some_and(|pattern| !matches(pattern, text)) {
            return fail("a match");
        }
        if schema["format"] == "date" && !matches("date", text) {
            return fail("a date");
        }
    }
    if let Some(items) = value.as_array() {
        if bound("minItems").is_some_and(|least| (items.len() as f64) < least)
            || bound("maxItems").is_some_and(|most| items.len() as f64 > most)
        {
            return fail("as many items");
        }
        if schema["items"].is_object() {
            items.iter().try_for_each(|item| check(root, &schema["items"], item))?;
        }
    }
    match value.as_object() {
        Some(fields) => check_fields(root, schema, fields),
        None => Ok(()),
    }
}

fn check_fields(root: &Value, schema: &Value, fields: &Map<String, Value>) -> Result<(), String> {
    let fail = |why: &str| Err(format!("{fields:?} is not {why} of {schema}"));
    for name in schema["required"].as_array().into_iter().flatten() {
        if !fields.contains_key(name.as_str().unwrap()) {
            return fail("complete, an object");
        }
    }
    for (name, field) in fields {
        match schema["properties"].get(name) {
            Some(schema) => check(root, schema, field)?,
            None if schema["additionalProperties"] == false => return fail("of known keys"),
            None => {}
        }
    }
    Ok(())
}

fn matches(pattern: &str, text: &str) -> bool {
    match pattern {
        "^[a-z]{2,4}$" => {
            (2..=4).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_lowercase())
        }
        "[0-9]" => text.bytes().any(|b| b.is_ascii_digit()),
        "date" => {
            let parts: Vec<_> = text.split('-').map(|part| part.parse::<u32>().unwrap()).collect();
            parts.len() == 3 && (1..=12).contains(&parts[1]) && (1..=31).contains(&parts[2])
        }
        pattern => panic!("no pattern: {pattern}"),
    }
}
