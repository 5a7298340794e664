//! Where a model keeps its chat templates, strongest first, as transformers looks for them.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::{TextError, TextFiles};

/// Template texts by name. An override stands alone; files of their own come before
/// tokenizer_config.json, and chat_template.json is the last resort.
pub(super) fn find(
    files: &TextFiles,
    config: &Value,
    processor: &Value,
) -> Result<BTreeMap<String, String>, TextError> {
    if let Some(text) = &files.chat_template_override {
        return Ok(BTreeMap::from([("default".to_owned(), text.clone())]));
    }
    let mut templates = files.additional_chat_templates.clone();
    if let Some(text) = &files.chat_template {
        templates.insert("default".to_owned(), text.clone());
    }
    if templates.is_empty() {
        templates = from_json("tokenizer_config.json", config)?;
    }
    if templates.is_empty() {
        templates = from_json("chat_template.json", processor)?;
    }
    Ok(templates)
}

/// The `chat_template` of a JSON file: a text, or a list (or map) of named texts.
fn from_json(file: &str, json: &Value) -> Result<BTreeMap<String, String>, TextError> {
    let invalid = || {
        TextError::invalid(
            format!("{file}: chat_template"),
            "expected a string or a list of {\"name\": .., \"template\": ..}",
        )
    };
    match json.get("chat_template") {
        None | Some(Value::Null) => Ok(BTreeMap::new()),
        Some(Value::String(text)) => Ok(BTreeMap::from([("default".to_owned(), text.clone())])),
        Some(Value::Array(list)) => {
            let named = |entry: &Value| {
                let field = |name: &str| entry.get(name)?.as_str().map(str::to_owned);
                Some((field("name")?, field("template")?))
            };
            list.iter().map(|entry| named(entry).ok_or_else(invalid)).collect()
        }
        Some(Value::Object(map)) => {
            let named =
                |(name, text): (&String, &Value)| Some((name.clone(), text.as_str()?.to_owned()));
            map.iter().map(|entry| named(entry).ok_or_else(invalid)).collect()
        }
        Some(_) => Err(invalid()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn names_and_texts(
        files: &TextFiles,
        config: &Value,
        processor: &Value,
    ) -> Vec<(String, String)> {
        find(files, config, processor).unwrap().into_iter().collect()
    }

    #[test]
    fn files_win_over_the_config_and_an_override_over_all() {
        let config = json!({"chat_template": [
            {"name": "default", "template": "c"}, {"name": "rag", "template": "r"}
        ]});
        let processor = json!({"chat_template": "p"});
        let pair = |name: &str, text: &str| (name.to_owned(), text.to_owned());
        let mut files = TextFiles::default();
        assert_eq!(names_and_texts(&files, &Value::Null, &processor), [pair("default", "p")]);
        let expected = [pair("default", "c"), pair("rag", "r")];
        assert_eq!(names_and_texts(&files, &config, &processor), expected);
        files.chat_template = Some("f".to_owned());
        assert_eq!(names_and_texts(&files, &config, &processor), [pair("default", "f")]);
        files.additional_chat_templates.insert("tool_use".to_owned(), "t".to_owned());
        let expected = [pair("default", "f"), pair("tool_use", "t")];
        assert_eq!(names_and_texts(&files, &config, &processor), expected);
        files.chat_template_override = Some("o".to_owned());
        assert_eq!(names_and_texts(&files, &config, &processor), [pair("default", "o")]);
    }

    #[test]
    fn a_list_entry_without_a_template_is_refused() {
        let config = json!({"chat_template": [{"name": "default"}]});
        let error = find(&TextFiles::default(), &config, &Value::Null).unwrap_err();
        assert!(error.to_string().starts_with("tokenizer_config.json: chat_template is invalid"));
    }
}
