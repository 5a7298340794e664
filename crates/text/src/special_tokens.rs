//! The named special tokens (`bos_token`, `eos_token`, ...) of tokenizer_config.json.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::TextError;

const NAMES: [&str; 7] =
    ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];

/// Named special tokens. `add_bos_token` and `add_eos_token` are not looked at: transformers, too,
/// leaves that to the post-processor of tokenizer.json.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SpecialTokens {
    tokens: BTreeMap<String, String>,
}

impl SpecialTokens {
    /// Reads tokenizer_config.json; `map` is special_tokens_map.json, which fills what the config
    /// leaves out. Each token is a string or an `AddedToken` object.
    pub(crate) fn from_config(config: &Value, map: &Value) -> Result<Self, TextError> {
        let mut special = Self::default();
        for (file, source) in [("tokenizer_config.json", config), ("special_tokens_map.json", map)]
        {
            special.read_named(file, source)?;
            // Further names that transformers hands to templates: {"image_token": "<image>"}.
            if let Some(extra) =
                source.get("model_specific_special_tokens").and_then(Value::as_object)
            {
                for (name, token) in extra {
                    special.insert(file, name, token)?;
                }
            }
        }
        Ok(special)
    }

    fn read_named(&mut self, file: &str, source: &Value) -> Result<(), TextError> {
        for name in NAMES {
            if let Some(token) = source.get(name) {
                self.insert(file, name, token)?;
            }
        }
        Ok(())
    }

    fn insert(&mut self, file: &str, name: &str, token: &Value) -> Result<(), TextError> {
        let content = match token {
            Value::Null => return Ok(()),
            Value::Object(added) => added.get("content").and_then(Value::as_str),
            other => other.as_str(),
        };
        let content = content.ok_or_else(|| {
            TextError::invalid(
                format!("{file}: {name}"),
                "expected a string or an object with a string \"content\"",
            )
        })?;
        self.tokens.entry(name.to_owned()).or_insert_with(|| content.to_owned());
        Ok(())
    }

    /// The token called `name`, for example `bos_token`.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.tokens.get(name).map(String::as_str)
    }

    /// All names with their tokens, sorted by name: what templates see as variables.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.tokens.iter().map(|(name, token)| (name.as_str(), token.as_str()))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn reads_strings_and_added_tokens_and_fills_from_the_map() {
        let config = json!({"bos_token": "<s>", "eos_token": {"content": "</s>", "lstrip": false}, "pad_token": null});
        let map = json!({"eos_token": "other", "pad_token": "<pad>"});
        let special = SpecialTokens::from_config(&config, &map).unwrap();
        let all: Vec<_> = special.iter().collect();
        assert_eq!(all, [("bos_token", "<s>"), ("eos_token", "</s>"), ("pad_token", "<pad>")]);
    }

    #[test]
    fn a_wrong_type_names_file_and_field() {
        let error = SpecialTokens::from_config(&json!({"eos_token": 7}), &Value::Null).unwrap_err();
        assert!(error.to_string().starts_with("tokenizer_config.json: eos_token is invalid"));
    }
}
