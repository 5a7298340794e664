//! RoBERTa (arXiv:1907.11692) and XLM-R (arXiv:1911.02116).
//!
//! BERT's mathematics and tensor names (see `bert.rs`), `roberta.` before them where the model has a
//! head. The table of positions begins behind the padding token's id, and the head is
//! `classifier.dense`, tanh, `classifier.out_proj`.

use engine::architecture::{ConfigError, ConfigReader};
use engine::encoder::EncoderArchitecture;
use serde_json::Value;

use super::bert::{Bert, HeadNames};
use super::bert_config::BertConfig;

/// A row of the registry.
macro_rules! row {
    ($name:literal, $has_head:literal) => {
        EncoderArchitecture {
            name: $name,
            spec: |json| Ok(config(json)?.spec($name, $has_head)),
            load: |json, weights, _| {
                let (dense, out) = ("classifier.dense", "classifier.out_proj");
                let names = HeadNames { root: "roberta", dense, out };
                Ok(Box::new(Bert::load(weights, &config(json)?, $has_head, names)?))
            },
        }
    };
}

pub(crate) const ROWS: [EncoderArchitecture; 4] = [
    row!("RobertaModel", false),
    row!("RobertaForSequenceClassification", true),
    row!("XLMRobertaModel", false),
    row!("XLMRobertaForSequenceClassification", true),
];

fn config(json: &Value) -> Result<BertConfig, ConfigError> {
    let reader = ConfigReader::new(json)?;
    let padding = reader.get("pad_token_id").map_or(Some(1), Value::as_u64);
    let padding = padding.ok_or_else(|| reader.invalid("pad_token_id", "a token id"))?;
    BertConfig::parse(json, padding as usize + 1)
}
