//! Models that also see, served as the language models in them.

use engine::architecture::{ConfigError, ConfigReader};
use serde_json::Value;

/// The language model's part of a `config.json` that describes more, with what is said of all.
pub(crate) fn of_text(json: &Value) -> Result<Value, ConfigError> {
    let reader = ConfigReader::new(json)?;
    reader.required("text_config", reader.nested("text_config")?)?;
    let mut text = json["text_config"].clone();
    for key in ["dtype", "torch_dtype", "quantization_config"] {
        if let Some(value) = reader.get(key) {
            text[key] = value.clone();
        }
    }
    Ok(text)
}
