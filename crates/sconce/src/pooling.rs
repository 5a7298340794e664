//! Which models pool, and how: what sentence-transformers wrote beside the weights, and the flags,
//! which are stronger.

use crate::cli::{PoolingKind, Runner, ServeArgs};
use anyhow::{Context, Result, bail};
use engine::encoder::HeadSpec;
use engine::model::ModelSpec;
use engine::{EngineOptions, Pooling};
use serde_json::Value;
use server::{HeadRules, Matryoshka, PoolingRules};
use std::fmt;
use std::path::Path;

/// What the flags say.
#[derive(Debug, Clone)]
pub(crate) struct PoolingChoice {
    runner: Runner,
    kind: Option<Pooling>,
    matryoshka: Option<Matryoshka>,
    truncates: bool,
}

/// How a model pools.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct PoolingPlan {
    kind: Pooling,
    normalizes: bool,
    lowercases: bool,
    /// Longest prompt that the model was trained on, if less than its positions.
    max_len: Option<usize>,
    /// Of a model that scores.
    head: Option<HeadRules>,
}

impl PoolingChoice {
    pub(crate) fn resolve(args: &ServeArgs) -> Result<Self> {
        Ok(Self {
            runner: args.runner.unwrap_or(Runner::Auto),
            kind: args.pooling_type.map(|kind| match kind {
                PoolingKind::Last => Pooling::Last,
                PoolingKind::Mean => Pooling::Mean,
                PoolingKind::Cls => Pooling::Cls,
            }),
            matryoshka: args.matryoshka_dimensions.as_deref().map(matryoshka).transpose()?,
            truncates: args.auto_truncate.unwrap_or(false),
        })
    }

    /// How the decoder pools whose files are in `folder`, or `None` if it is to generate. `is_trunk`:
    /// it has nothing to generate with.
    pub(crate) fn of_decoder(
        &self,
        folder: Option<&Path>,
        is_trunk: bool,
    ) -> Result<Option<PoolingPlan>> {
        if self.runner == Runner::Generate {
            return Ok(None);
        }
        let files = folder.map(SentenceTransformer::read).transpose()?.flatten();
        let pools = files.is_some() || is_trunk || self.runner == Runner::Pooling;
        Ok(pools.then(|| self.merged(&files.unwrap_or_default(), Pooling::Last)))
    }

    /// How the encoder pools whose files are in `folder`; `head` is what its head needs to know.
    pub(crate) fn of_encoder(
        &self,
        folder: Option<&Path>,
        config_json: &Value,
        head: Option<&HeadSpec>,
    ) -> Result<PoolingPlan> {
        if self.runner == Runner::Generate {
            bail!("--runner generate: the model is an encoder and has nothing to generate with");
        }
        if let Some(head) = head {
            if self.kind.is_some() {
                bail!("--pooling-type: the model's head reads what it was trained to read");
            }
            return Ok(PoolingPlan {
                kind: head.pooling,
                normalizes: false,
                lowercases: false,
                max_len: None,
                head: Some(head_rules(folder, config_json, head.num_labels)?),
            });
        }
        let files = folder.map(SentenceTransformer::read).transpose()?.flatten();
        // As sentence-transformers does with a model that brings no files of its own.
        Ok(self.merged(&files.unwrap_or_default(), Pooling::Mean))
    }

    fn merged(&self, files: &SentenceTransformer, default: Pooling) -> PoolingPlan {
        PoolingPlan {
            kind: self.kind.or(files.pooling).unwrap_or(default),
            normalizes: files.normalizes,
            lowercases: files.lowercases,
            max_len: files.max_len,
            head: None,
        }
    }

    /// What becomes of the vectors, of `size` elements.
    pub(crate) fn rules(
        &self,
        plan: &PoolingPlan,
        config_json: &Value,
        size: usize,
    ) -> PoolingRules {
        let matryoshka = self.matryoshka.clone();
        PoolingRules {
            size,
            normalizes: plan.normalizes,
            matryoshka: matryoshka.unwrap_or_else(|| matryoshka_of(config_json)),
            lowercases: plan.lowercases,
            truncates: self.truncates,
            head: plan.head.clone(),
        }
    }
}

impl PoolingPlan {
    /// Puts into `options` what follows from it, for a model of this shape.
    pub(crate) fn apply(&self, options: &mut EngineOptions, spec: &ModelSpec) {
        options.pooling = Some(self.kind);
        let max_len = self.max_len.map(|len| len.min(spec.max_position_embeddings));
        options.max_model_len = options.max_model_len.or(max_len);
    }
}

impl fmt::Display for PoolingPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(head) = &self.head {
            return write!(f, "scores: {} of each pair", head.num_labels);
        }
        let kind = match self.kind {
            Pooling::Last => "the state of the last token",
            Pooling::Mean => "the average of all states",
            Pooling::Cls => "the state of the first token",
        };
        let scaled = if self.normalizes { ", scaled to length 1" } else { "" };
        write!(f, "embeddings: {kind}{scaled}")
    }
}

/// What becomes of the head's numbers, as sentence-transformers' `CrossEncoder` decides it: it has
/// written that down in three places over time.
fn head_rules(folder: Option<&Path>, config_json: &Value, num_labels: usize) -> Result<HeadRules> {
    let file = "config_sentence_transformers.json";
    let own = folder.map(|folder| json(folder, file)).transpose()?.flatten().unwrap_or_default();
    let places = [
        &own["activation_fn"],
        &config_json["sentence_transformers"]["activation_fn"],
        &config_json["sbert_ce_default_activation_function"],
    ];
    let name = places.into_iter().find_map(Value::as_str);
    let squashes = match name.and_then(|name| name.rsplit('.').next()) {
        None => num_labels == 1,
        Some("Sigmoid") => true,
        Some("Identity") => false,
        Some(other) => bail!(
            "the activation {other} of scores is not supported (supported: Sigmoid, Identity)"
        ),
    };
    Ok(HeadRules { num_labels, squashes })
}

/// `any`, or lengths with commas between them.
fn matryoshka(text: &str) -> Result<Matryoshka> {
    if text == "any" {
        return Ok(Matryoshka::Any);
    }
    let lengths = text.split(',').map(|length| match length.trim().parse() {
        Ok(length) if length > 0 => Ok(length),
        _ => bail!(
            "--matryoshka-dimensions {text}: give `any`, or lengths such as 256,512, at least 1"
        ),
    });
    Ok(Matryoshka::Of(lengths.collect::<Result<_>>()?))
}

/// As vLLM reads it off `config.json`.
fn matryoshka_of(config_json: &Value) -> Matryoshka {
    let lengths = config_json["matryoshka_dimensions"].as_array();
    let lengths = lengths.map(|lengths| lengths.iter().filter_map(Value::as_u64));
    match lengths {
        Some(lengths) => Matryoshka::Of(lengths.map(|length| length as usize).collect()),
        None if config_json["is_matryoshka"] == true => Matryoshka::Any,
        None => Matryoshka::No,
    }
}

/// What the files of sentence-transformers say of a model.
#[derive(Debug, PartialEq)]
struct SentenceTransformer {
    pooling: Option<Pooling>,
    normalizes: bool,
    lowercases: bool,
    max_len: Option<usize>,
}

impl Default for SentenceTransformer {
    /// Vectors of a model without such files are scaled, as those of OpenAI and vLLM are.
    fn default() -> Self {
        Self { pooling: None, normalizes: true, lowercases: false, max_len: None }
    }
}

impl SentenceTransformer {
    /// `None` if there is no `modules.json`.
    fn read(folder: &Path) -> Result<Option<Self>> {
        let Some(modules) = json(folder, "modules.json")? else { return Ok(None) };
        let modules = modules.as_array().context("modules.json must be an array of modules")?;
        let mut read = Self { normalizes: false, ..Self::default() };
        for (number, module) in modules.iter().enumerate() {
            let kind = module["type"].as_str().unwrap_or_default();
            let path = module["path"].as_str().unwrap_or_default();
            // The same module has stood in several Python packages.
            match kind.rsplit('.').next().unwrap_or_default() {
                "Transformer" if number == 0 => {}
                "Pooling" if number == 1 => {
                    let file = format!("{path}/config.json");
                    let config =
                        json(folder, &file)?.with_context(|| format!("{file} is missing"))?;
                    read.pooling = Some(pooling(&config).with_context(|| file)?);
                }
                "Normalize" if number > 1 => read.normalizes = true,
                _ => bail!(
                    "modules.json: the module {number}, {kind}, is not supported there (supported: \
                     Transformer, Pooling, Normalize, in this order)"
                ),
            }
        }
        // Also the name in models that are not BERT's.
        if let Some(config) = json(folder, "sentence_bert_config.json")? {
            read.lowercases = config["do_lower_case"] == true;
            read.max_len = config["max_seq_length"].as_u64().map(|len| len as usize);
        }
        Ok(Some(read))
    }
}

/// `1_Pooling/config.json`: one mode by name, or before sentence-transformers 6 a flag for each.
fn pooling(config: &Value) -> Result<Pooling> {
    let modes: Vec<&str> = match config.get("pooling_mode") {
        Some(Value::String(mode)) => vec![mode],
        Some(Value::Array(modes)) => modes.iter().filter_map(Value::as_str).collect(),
        _ => {
            let flags = config.as_object().into_iter().flatten();
            let set = flags.filter(|(_, value)| **value == true);
            set.filter_map(|(name, _)| name.strip_prefix("pooling_mode_")).collect()
        }
    };
    match modes[..] {
        ["lasttoken"] => Ok(Pooling::Last),
        ["mean" | "mean_tokens"] => Ok(Pooling::Mean),
        ["cls" | "cls_token"] => Ok(Pooling::Cls),
        _ => bail!(
            "the pooling `{}` is not supported (supported: one of lasttoken, mean, cls)",
            modes.join(" + ")
        ),
    }
}

fn json(folder: &Path, name: &str) -> Result<Option<Value>> {
    let path = folder.join(name);
    let show = path.display();
    let text = match std::fs::read(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).with_context(|| format!("{show} cannot be read")),
    };
    serde_json::from_slice(&text).with_context(|| format!("{show} is not JSON")).map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn old_and_new_pooling_files_mean_the_same() {
        let flags = |set: &[&str]| {
            let mut config = json!({"word_embedding_dimension": 8, "include_prompt": true});
            for name in ["cls_token", "mean_tokens", "max_tokens", "lasttoken"] {
                config[format!("pooling_mode_{name}")] = set.contains(&name).into();
            }
            pooling(&config).map_err(|error| error.to_string())
        };
        let named = |mode: Value| pooling(&json!({ "pooling_mode": mode })).ok();
        assert_eq!(flags(&["cls_token"]).ok(), named(json!("cls")));
        assert_eq!(flags(&["cls_token"]), Ok(Pooling::Cls));
        assert_eq!(flags(&["mean_tokens"]), Ok(Pooling::Mean));
        assert_eq!(named(json!("mean")), Some(Pooling::Mean));
        assert_eq!(flags(&["lasttoken"]), Ok(Pooling::Last));
        assert_eq!(named(json!(["lasttoken"])), Some(Pooling::Last));
        assert_eq!(named(json!("max")), None);
        let error = flags(&["cls_token", "mean_tokens"]).unwrap_err();
        assert!(error.contains("`cls_token + mean_tokens`"), "{error}");
        assert!(flags(&[]).is_err());
    }

    #[test]
    fn modules_that_would_be_left_out_are_refused_by_name() {
        let folder = std::env::temp_dir().join(format!("sconce-modules-{}", std::process::id()));
        std::fs::create_dir_all(folder.join("1_Pooling")).unwrap();
        let pooling = json!({"pooling_mode": "mean"});
        std::fs::write(folder.join("1_Pooling/config.json"), pooling.to_string()).unwrap();
        let read = |kinds: &[&str]| {
            let module = |(number, kind): (usize, &&str)| json!({"idx": number, "path": format!("{number}_{kind}"), "type": format!("a.b.{kind}")});
            let modules: Vec<_> = kinds.iter().enumerate().map(module).collect();
            std::fs::write(folder.join("modules.json"), json!(modules).to_string()).unwrap();
            SentenceTransformer::read(&folder).map_err(|error| error.to_string())
        };
        let plain = read(&["Transformer", "Pooling"]).unwrap().unwrap();
        assert_eq!((plain.pooling, plain.normalizes), (Some(Pooling::Mean), false));
        let scaled = read(&["Transformer", "Pooling", "Normalize"]).unwrap().unwrap();
        assert_eq!(scaled, SentenceTransformer { normalizes: true, ..plain });
        let error = read(&["Transformer", "Pooling", "Dense", "Normalize"]).unwrap_err();
        assert!(error.contains("the module 2, a.b.Dense, is not supported"), "{error}");
        std::fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn numbers_of_a_head_become_what_its_files_say() {
        let squashes = |config: Value, num_labels| {
            let rules = head_rules(None, &config, num_labels);
            rules.map(|rules| rules.squashes).map_err(|error| error.to_string())
        };
        assert_eq!(squashes(json!({}), 1), Ok(true));
        assert_eq!(squashes(json!({}), 3), Ok(false));
        let named = |name: &str| json!({"sentence_transformers": {"activation_fn": name}});
        assert_eq!(squashes(named("torch.nn.modules.linear.Identity"), 1), Ok(false));
        let old =
            json!({"sbert_ce_default_activation_function": "torch.nn.modules.activation.Sigmoid"});
        assert_eq!(squashes(old, 2), Ok(true));
        let error = squashes(named("torch.nn.modules.activation.Tanh"), 1).unwrap_err();
        assert!(error.contains("Tanh"), "{error}");
    }

    #[test]
    fn lengths_are_read_off_the_flag_or_the_configuration() {
        assert_eq!(matryoshka("any").unwrap(), Matryoshka::Any);
        assert_eq!(matryoshka("64, 128").unwrap(), Matryoshka::Of(vec![64, 128]));
        for wrong in ["", "0", "64,", "all"] {
            assert!(matryoshka(wrong).is_err(), "{wrong}");
        }
        assert_eq!(matryoshka_of(&json!({})), Matryoshka::No);
        assert_eq!(matryoshka_of(&json!({"is_matryoshka": true})), Matryoshka::Any);
        let config = json!({"is_matryoshka": true, "matryoshka_dimensions": [256]});
        assert_eq!(matryoshka_of(&config), Matryoshka::Of(vec![256]));
    }
}
