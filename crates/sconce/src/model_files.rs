//! The files of a model: its configuration, its text side, its weights.

use crate::cli::LoadFormat;
use crate::hub::{self, Files};
use crate::model_choice::{ModelChoice, SPARK};
use anyhow::{Context, Result};
use candle_core::Device;
use engine::EngineConfig;
use engine::model::{Communicator, ModelSpec};
use engine::weights::Weights;
use models::spark;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use text::{OutputFormat, TextFiles, TextModel};

/// Where the files of a model are.
#[derive(Debug, Clone)]
pub(crate) enum ModelFiles {
    /// In this program.
    Embedded,
    /// In a folder, the user's or the hub cache's.
    Folder(PathBuf),
}

impl ModelFiles {
    pub(crate) fn locate(name: &str, choice: &ModelChoice, files: Files) -> Result<Self> {
        if name == SPARK {
            return Ok(Self::Embedded);
        }
        let files = if choice.load_format == LoadFormat::Dummy { Files::Metadata } else { files };
        Ok(Self::Folder(hub::locate(name, &choice.hub, files)?))
    }

    pub(crate) fn folder(&self) -> Option<&Path> {
        match self {
            Self::Embedded => None,
            Self::Folder(folder) => Some(folder),
        }
    }

    pub(crate) fn config(&self) -> Result<Value> {
        match self {
            Self::Embedded => Ok(serde_json::from_slice(spark::CONFIG)?),
            Self::Folder(folder) => {
                let path = folder.join("config.json");
                let show = path.display();
                let text = std::fs::read(&path).with_context(|| {
                    format!("{show} cannot be read: is this the folder of a transformers model?")
                })?;
                serde_json::from_slice(&text).with_context(|| format!("{show} is not JSON"))
            }
        }
    }

    pub(crate) fn text(&self, choice: &ModelChoice) -> Result<TextModel> {
        let text = TextModel::from_files(&self.text_files(choice)?)?;
        Ok(with_parsers(text, choice))
    }

    /// `text` with the chat templates as they are now.
    pub(crate) fn with_templates(
        &self,
        choice: &ModelChoice,
        text: &TextModel,
    ) -> Result<TextModel> {
        Ok(with_parsers(text.with_templates_of(&self.text_files(choice)?)?, choice))
    }

    fn text_files(&self, choice: &ModelChoice) -> Result<TextFiles> {
        let mut files = match self {
            Self::Embedded => TextFiles {
                tokenizer: spark::TOKENIZER.to_vec(),
                tokenizer_config: Some(spark::TOKENIZER_CONFIG.to_vec()),
                generation_config: Some(spark::GENERATION_CONFIG.to_vec()),
                config: Some(spark::CONFIG.to_vec()),
                ..TextFiles::default()
            },
            Self::Folder(folder) => TextFiles::read(folder)?,
        };
        if let Some(template) = &choice.chat_template {
            files.override_chat_template(template).context("--chat-template")?;
        }
        Ok(files)
    }

    pub(crate) fn weights(
        &self,
        choice: &ModelChoice,
        (engine, spec): (&EngineConfig, &ModelSpec),
        (device, communicator): (&Device, Option<Arc<Communicator>>),
    ) -> Result<Weights> {
        let dtype = engine.dtype;
        let weights = match (choice.load_format, self) {
            (LoadFormat::Dummy, _) => Weights::dummy(engine.seed, device, dtype)?,
            (_, Self::Embedded) => Weights::embedded(SPARK, spark::WEIGHTS, device, dtype)?,
            (_, Self::Folder(folder)) => Weights::open(folder, device, dtype)?,
        };
        let weights =
            weights.with_quantized(spec.quantized).with_quantization(engine.quantization_of(spec));
        let weights = weights.with_communicator(communicator);
        Ok(weights.with_batch_invariance(engine.batch_invariant))
    }
}

/// Output formats that were chosen are stronger than those that the template shows.
fn with_parsers(mut text: TextModel, choice: &ModelChoice) -> TextModel {
    let detected = *text.output_format();
    text.set_output_format(OutputFormat {
        tools: choice.tool_call_parser.or(detected.tools),
        reasoning: choice.reasoning_parser.or(detected.reasoning),
    });
    text
}
