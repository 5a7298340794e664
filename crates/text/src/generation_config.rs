//! generation_config.json: the sampling defaults a model's authors chose, and the ids that end it.

use serde_json::Value;

use crate::TextError;

const FILE: &str = "generation_config.json";

/// Defaults for fields that a request leaves out. `None` means the server's own default.
///
/// As in vLLM, `do_sample` is not looked at: a file that says `false` beside no temperature is what
/// transformers writes by itself, and a request that wants greedy decoding says `temperature: 0`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct GenerationConfig {
    /// Softmax temperature; 0 is greedy.
    pub temperature: Option<f32>,
    /// Nucleus mass, in (0, 1].
    pub top_p: Option<f32>,
    /// Number of candidates; 0 is all.
    pub top_k: Option<u32>,
    /// Least probability relative to the best candidate, in [0, 1].
    pub min_p: Option<f32>,
    /// Divides the logits of seen tokens; 1 is none.
    pub repetition_penalty: Option<f32>,
    /// Tokens to generate when the request names no limit.
    pub max_new_tokens: Option<usize>,
    /// Ids that end a text, sorted, without duplicates. Empty: nothing but the length ends it.
    pub eos_token_ids: Vec<u32>,
}

impl GenerationConfig {
    /// Reads generation_config.json (`generation`) with config.json (`model`) as fallback for EOS;
    /// `tokenizer_eos` always counts too, as in vLLM. `Null` stands for an absent file.
    pub(crate) fn from_json(
        generation: &Value,
        model: &Value,
        tokenizer_eos: Option<u32>,
    ) -> Result<Self, TextError> {
        let number = |name: &str, low: f64, high: f64| -> Result<Option<f64>, TextError> {
            match generation.get(name) {
                None | Some(Value::Null) => Ok(None),
                Some(value) => match value.as_f64() {
                    Some(number) if (low..=high).contains(&number) => Ok(Some(number)),
                    _ => Err(invalid(FILE, name, value, &format!("a number from {low} to {high}"))),
                },
            }
        };
        let single = |name: &str, low: f64, high: f64| {
            number(name, low, high).map(|value| value.map(|number| number as f32))
        };
        let mut eos_token_ids = eos_ids(FILE, generation)?;
        if eos_token_ids.is_empty() {
            eos_token_ids = eos_ids("config.json", model)?;
        }
        if eos_token_ids.is_empty() {
            eos_token_ids = eos_ids("config.json", &model["text_config"])?;
        }
        eos_token_ids.extend(tokenizer_eos);
        eos_token_ids.sort_unstable();
        eos_token_ids.dedup();
        Ok(Self {
            temperature: single("temperature", 0.0, 100.0)?,
            top_p: single("top_p", 0.0, 1.0)?.filter(|top_p| *top_p > 0.0),
            // -1 is another spelling of "all".
            top_k: number("top_k", -1.0, f64::from(u32::MAX))?.map(|top_k| top_k.max(0.0) as u32),
            min_p: single("min_p", 0.0, 1.0)?,
            repetition_penalty: single("repetition_penalty", 0.0, 100.0)?.filter(|p| *p > 0.0),
            max_new_tokens: number("max_new_tokens", 1.0, 1e12)?.map(|tokens| tokens as usize),
            eos_token_ids,
        })
    }
}

fn eos_ids(file: &str, config: &Value) -> Result<Vec<u32>, TextError> {
    let expected = "an id or a list of ids";
    let id = |value: &Value| {
        let id = value.as_u64().and_then(|id| u32::try_from(id).ok());
        id.ok_or_else(|| invalid(file, "eos_token_id", value, expected))
    };
    match config.get("eos_token_id") {
        None | Some(Value::Null) => Ok(Vec::new()),
        Some(Value::Array(ids)) => ids.iter().map(id).collect(),
        Some(value) => Ok(vec![id(value)?]),
    }
}

fn invalid(file: &str, field: &str, value: &Value, expected: &str) -> TextError {
    TextError::invalid(format!("{file}: {field}"), format!("got {value}, expected {expected}"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(
        generation: &Value,
        model: &Value,
        eos: Option<u32>,
    ) -> Result<GenerationConfig, TextError> {
        GenerationConfig::from_json(generation, model, eos)
    }

    #[test]
    fn takes_the_defaults_that_are_there() {
        let generation = json!({"temperature": 0.6, "top_p": 0.95, "top_k": 20, "do_sample": true,
            "max_new_tokens": 100, "repetition_penalty": 1.05, "eos_token_id": [5, 3]});
        let config = read(&generation, &json!({"eos_token_id": 9}), Some(3)).unwrap();
        assert_eq!(config.temperature, Some(0.6));
        assert_eq!(config.top_p, Some(0.95));
        assert_eq!((config.top_k, config.max_new_tokens), (Some(20), Some(100)));
        assert_eq!((config.min_p, config.repetition_penalty), (None, Some(1.05)));
        assert_eq!(config.eos_token_ids, [3, 5]);
    }

    #[test]
    fn eos_falls_back_to_the_model_and_counts_the_tokenizers() {
        let ids = |generation: Value, model: Value, eos| {
            read(&generation, &model, eos).unwrap().eos_token_ids
        };
        assert_eq!(ids(Value::Null, json!({"eos_token_id": 9}), Some(2)), [2, 9]);
        assert_eq!(ids(json!({"eos_token_id": 1}), json!({"eos_token_id": 9}), None), [1]);
        assert_eq!(ids(json!({}), json!({"text_config": {"eos_token_id": [4]}}), None), [4]);
        assert_eq!(ids(Value::Null, Value::Null, Some(7)), [7]);
        assert!(ids(Value::Null, Value::Null, None).is_empty());
    }

    #[test]
    fn minus_one_top_k_is_all_and_nonsense_is_refused_by_name() {
        assert_eq!(read(&json!({"top_k": -1}), &Value::Null, None).unwrap().top_k, Some(0));
        let error = read(&json!({"temperature": "hot"}), &Value::Null, None).unwrap_err();
        assert_eq!(
            error.to_string(),
            "generation_config.json: temperature is invalid: got \"hot\", expected a number from 0 to 100"
        );
        let error = read(&json!({"eos_token_id": [1, -2]}), &Value::Null, None).unwrap_err();
        assert!(
            error
                .to_string()
                .starts_with("generation_config.json: eos_token_id is invalid: got -2")
        );
    }
}
