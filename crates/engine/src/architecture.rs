//! The seam that injects models: a row per architecture, and reading `config.json` by key.

use candle_core::DType;
use serde_json::{Map, Value};

use crate::model::{CausalLm, ModelSpec};
use crate::weights::{Weights, WeightsError};

/// One row of the registry of models.
#[derive(Debug, Clone, Copy)]
pub struct Architecture {
    /// Name in `architectures` of `config.json`.
    pub name: &'static str,
    /// Reads `config.json`.
    pub spec: fn(&Value) -> Result<ModelSpec, ConfigError>,
    /// Builds the model from `config.json` and its tensors, for contexts of at most so many tokens
    /// (`max_model_len`).
    pub load: fn(&Value, &mut Weights, usize) -> LoadResult,
}

impl Architecture {
    /// The row for a `config.json`: the first of its `architectures` that is known.
    pub fn find<'a>(rows: &'a [Self], config: &Value) -> Result<&'a Self, ConfigError> {
        let names = config
            .get("architectures")
            .and_then(Value::as_array)
            .ok_or_else(|| ConfigError::Missing { key: "architectures".to_owned() })?;
        names
            .iter()
            .find_map(|name| rows.iter().find(|row| name.as_str() == Some(row.name)))
            .ok_or_else(|| ConfigError::Unsupported {
                key: "architectures".to_owned(),
                value: Value::from(names.as_slice()).to_string(),
                supported: rows.iter().map(|row| row.name).collect::<Vec<_>>().join(", "),
            })
    }
}

/// The `config.json` of the same model without its output head, for pooling.
///
/// # Errors
/// A model that looks ahead: here only encoders do.
pub fn without_head(config: &Value) -> Result<Value, ConfigError> {
    let reader = ConfigReader::new(config)?;
    let looks_ahead = reader.get("is_causal").is_some_and(|causal| causal == false);
    if looks_ahead || reader.flag("use_bidirectional_attention")? {
        let key = if looks_ahead { "is_causal" } else { "use_bidirectional_attention" };
        let value = config[key].to_string();
        return Err(reader.unsupported(key, &value, "decoders that look back only"));
    }
    let mut config = config.clone();
    // A tied head is the embedding: nothing is loaded for it.
    config["tie_word_embeddings"] = true.into();
    Ok(config)
}

/// A model, or why there is none.
pub type LoadResult = Result<Box<dyn CausalLm>, LoadError>;

/// Why a model could not be built.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// `config.json` is at fault.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The checkpoint is at fault.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// A tensor could not be made.
    #[error(transparent)]
    Tensor(#[from] candle_core::Error),
}

/// What is wrong with a `config.json`, naming the key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// A key that is needed is absent or null.
    #[error("config.json: `{key}` is missing")]
    Missing {
        /// The key, with dots for nesting.
        key: String,
    },
    /// A value is of the wrong type or range.
    #[error("config.json: `{key}` must be {expected}, not {found}")]
    Invalid {
        /// The key.
        key: String,
        /// What it must be.
        expected: String,
        /// What it is.
        found: String,
    },
    /// A value asks for something that is not supported.
    #[error("config.json: `{key}` = {value} is not supported (supported: {supported})")]
    Unsupported {
        /// The key.
        key: String,
        /// What it asks for.
        value: String,
        /// What it may ask for.
        supported: String,
    },
}

/// Reads keys of `config.json`; null counts as absent, as in transformers.
#[derive(Debug)]
pub struct ConfigReader<'a> {
    object: &'a Map<String, Value>,
    /// Keys that lead here, each with its dot.
    prefix: String,
}

impl<'a> ConfigReader<'a> {
    /// Starts at the root of `config.json`.
    pub fn new(config: &'a Value) -> Result<Self, ConfigError> {
        let object = config.as_object().ok_or_else(|| ConfigError::Invalid {
            key: "(root)".to_owned(),
            expected: "an object".to_owned(),
            found: config.to_string(),
        })?;
        Ok(Self { object, prefix: String::new() })
    }

    /// The value, if present and not null.
    pub fn get(&self, key: &str) -> Option<&'a Value> {
        self.object.get(key).filter(|value| !value.is_null())
    }

    /// A nested object, if present.
    pub fn nested(&self, key: &str) -> Result<Option<ConfigReader<'a>>, ConfigError> {
        let object = self.typed(key, "an object", Value::as_object)?;
        Ok(object.map(|object| Self { object, prefix: format!("{}{key}.", self.prefix) }))
    }

    /// A positive integer, if present.
    pub fn count(&self, key: &str) -> Result<Option<usize>, ConfigError> {
        self.typed(key, "a positive integer", |value| {
            value.as_u64().and_then(|n| usize::try_from(n).ok()).filter(|n| *n > 0)
        })
    }

    /// An integer that may be 0, if present.
    pub fn count_or_zero(&self, key: &str) -> Result<Option<usize>, ConfigError> {
        self.typed(key, "a positive integer or 0", |value| {
            value.as_u64().and_then(|n| usize::try_from(n).ok())
        })
    }

    /// A positive, finite number, if present.
    pub fn number(&self, key: &str) -> Result<Option<f64>, ConfigError> {
        self.typed(key, "a positive number", |value| {
            value.as_f64().filter(|x| x.is_finite() && *x > 0.0)
        })
    }

    /// A boolean; absent is false.
    pub fn flag(&self, key: &str) -> Result<bool, ConfigError> {
        Ok(self.typed(key, "true or false", Value::as_bool)?.unwrap_or(false))
    }

    /// A string, if present.
    pub fn text(&self, key: &str) -> Result<Option<&'a str>, ConfigError> {
        self.typed(key, "a string", Value::as_str)
    }

    /// The type that the checkpoint was saved in: `dtype`, before transformers 5 `torch_dtype`.
    pub fn dtype(&self) -> Result<DType, ConfigError> {
        let key = if self.get("dtype").is_some() { "dtype" } else { "torch_dtype" };
        match self.text(key)? {
            None | Some("float32") => Ok(DType::F32),
            Some("bfloat16") => Ok(DType::BF16),
            Some("float16") => Ok(DType::F16),
            Some(other) => Err(self.unsupported(key, other, "float32, bfloat16, float16")),
        }
    }

    /// The key must be present.
    pub fn required<T>(&self, key: &str, value: Option<T>) -> Result<T, ConfigError> {
        value.ok_or_else(|| ConfigError::Missing { key: self.path(key) })
    }

    /// The error for a value that is out of range or contradicts another.
    pub fn invalid(&self, key: &str, expected: &str) -> ConfigError {
        ConfigError::Invalid {
            key: self.path(key),
            expected: expected.to_owned(),
            found: self.object.get(key).unwrap_or(&Value::Null).to_string(),
        }
    }

    /// The error for a value that is understood but not supported.
    pub fn unsupported(&self, key: &str, value: &str, supported: &str) -> ConfigError {
        ConfigError::Unsupported {
            key: self.path(key),
            value: value.to_owned(),
            supported: supported.to_owned(),
        }
    }

    /// The keys of this object.
    pub fn keys(&self) -> impl Iterator<Item = &'a str> {
        self.object.keys().map(String::as_str)
    }

    fn typed<T>(
        &self,
        key: &str,
        expected: &str,
        read: impl FnOnce(&'a Value) -> Option<T>,
    ) -> Result<Option<T>, ConfigError> {
        let value = self.get(key);
        value.map(|value| read(value).ok_or_else(|| self.invalid(key, expected))).transpose()
    }

    fn path(&self, key: &str) -> String {
        format!("{}{key}", self.prefix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn errors_name_the_key() {
        let config = json!({"a": -1, "rope": {"factor": "x"}, "n": null, "dtype": "int8"});
        let reader = ConfigReader::new(&config).unwrap();
        let text = |error: ConfigError| error.to_string();
        assert_eq!(
            text(reader.count("a").unwrap_err()),
            "config.json: `a` must be a positive integer, not -1"
        );
        let rope = reader.nested("rope").unwrap().unwrap();
        assert_eq!(
            text(rope.number("factor").unwrap_err()),
            "config.json: `rope.factor` must be a positive number, not \"x\""
        );
        assert_eq!(
            text(rope.required("theta", rope.number("theta").unwrap()).unwrap_err()),
            "config.json: `rope.theta` is missing"
        );
        assert_eq!(reader.count("n").unwrap(), None);
        assert!(reader.nested("a").is_err() && reader.flag("a").is_err());
        assert_eq!(
            text(reader.dtype().unwrap_err()),
            "config.json: `dtype` = int8 is not supported (supported: float32, bfloat16, float16)"
        );
        assert!(ConfigReader::new(&json!([])).is_err());
    }

    #[test]
    fn an_unknown_architecture_is_refused_with_the_known_ones() {
        let row = Architecture {
            name: "Twig",
            spec: |_| Err(ConfigError::Missing { key: "x".to_owned() }),
            load: |_, _, _| Err(ConfigError::Missing { key: "x".to_owned() }.into()),
        };
        let find = |config: Value| Architecture::find(&[row], &config).map(|row| row.name);
        assert_eq!(find(json!({"architectures": ["Other", "Twig"]})), Ok(row.name));
        assert_eq!(
            find(json!({"architectures": ["Other"]})).unwrap_err().to_string(),
            "config.json: `architectures` = [\"Other\"] is not supported (supported: Twig)"
        );
        assert_eq!(
            find(json!({})).unwrap_err().to_string(),
            "config.json: `architectures` is missing"
        );
    }
}
