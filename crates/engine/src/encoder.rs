//! The seam of models that look both ways, and how an engine runs their prompts: whole, several back
//! to back, nothing padded.

use std::collections::HashMap;
use std::time::Instant;

use candle_core::{DType, Device, Result, Tensor};
use kernels::device::upload;
use scheduler::{Plan, SeqId};
use serde_json::Value;

use crate::architecture::{ConfigError, LoadError};
use crate::config::EngineConfig;
use crate::device::check_device;
use crate::engine::Engine;
use crate::handle::EngineHandle;
use crate::layers::ClassificationHead;
use crate::memory::MemoryPlan;
use crate::model::ModelSpec;
use crate::pooling::{Pooling, mean};
use crate::ranks::Models;
use crate::runner::StepRunner;
use crate::sequence::Sequence;
use crate::speculation::Speculation;
use crate::start::StartError;
use crate::step::{Launched, StepOutput};
use crate::weights::Weights;

/// One row of the registry of encoders.
#[derive(Debug, Clone, Copy)]
pub struct EncoderArchitecture {
    /// Name in `architectures` of `config.json`.
    pub name: &'static str,
    /// Reads `config.json`.
    pub spec: fn(&Value) -> std::result::Result<EncoderSpec, ConfigError>,
    /// Builds the model from `config.json` and its tensors, for prompts of at most so many tokens.
    pub load: fn(&Value, &mut Weights, usize) -> LoadResult,
}

/// An encoder, or why there is none.
pub type LoadResult = std::result::Result<Box<dyn Encoder>, LoadError>;

/// What the engine must know of an encoder before it is loaded; all from `config.json`.
#[derive(Debug, Clone, PartialEq)]
pub struct EncoderSpec {
    /// Its shape; no layer holds keys and values.
    pub model: ModelSpec,
    /// Of a model that scores instead of giving hidden states.
    pub head: Option<HeadSpec>,
}

/// What an encoder's head makes of a prompt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeadSpec {
    /// Numbers that it gives.
    pub num_labels: usize,
    /// Which of the hidden states it reads.
    pub pooling: Pooling,
}

/// Whole prompts of several sequences back to back.
#[derive(Debug)]
pub struct EncoderBatch {
    /// Token ids. `[tokens]` u32
    pub ids: Tensor,
    /// Position of each token in its sequence. `[tokens]` u32
    pub positions: Tensor,
    /// 1 for the tokens of the second text of a pair, else 0. `[tokens]` u32
    pub segments: Tensor,
    /// Rows of each sequence: `starts[i]..starts[i + 1]`. `[seqs + 1]` u32
    pub starts: Tensor,
    /// Rows of the longest sequence.
    pub max_len: usize,
}

impl EncoderBatch {
    /// Sequences of these lengths, back to back.
    fn of(ids: &[u32], segments: &[u32], lens: &[usize], device: &Device) -> Result<Self> {
        let (mut positions, mut starts) = (Vec::new(), vec![0]);
        for len in lens {
            positions.extend(0..*len as u32);
            starts.push(positions.len() as u32);
        }
        Ok(Self {
            ids: upload(ids, device)?,
            positions: upload(&positions, device)?,
            segments: upload(segments, device)?,
            starts: upload(&starts, device)?,
            max_len: lens.iter().copied().max().unwrap_or(0),
        })
    }
}

/// A model that reads prompts whole. Only the mathematics.
pub trait Encoder: Send {
    /// The last hidden state of every token. `[tokens, hidden]`, in the dtype of the weights
    fn hidden(&self, batch: &EncoderBatch) -> Result<Tensor>;
    /// What scores a state a prompt, of a model that does.
    fn head(&self) -> Option<&ClassificationHead>;
}

impl Engine {
    /// As [`Engine::start_pooling`], for an encoder. With a head the vectors are its numbers.
    ///
    /// # Panics
    /// If the plan is one of a model that generates.
    pub fn start_encoder(
        model: Box<dyn Encoder>,
        spec: &ModelSpec,
        plan: &MemoryPlan,
        device: &Device,
    ) -> std::result::Result<EngineHandle, StartError> {
        plan.check()?;
        let pooling = plan.config.pooling.expect("the plan of a model that pools");
        let dtype = plan.config.dtype;
        let runner = EncoderRunner { model, pooling, dtype, device: device.clone() };
        runner.reserve_memory(&plan.config)?;
        let speculation = Speculation::new(&plan.config, false);
        Self::with((Box::new(runner), false), speculation, spec, plan, &[])?.spawn()
    }
}

/// Runs whole prompts. The scheduler deals prompts out in chunks, as to any model; one is computed
/// when its last chunk is due, so that a step computes at most the budget and what one prompt was
/// dealt before.
struct EncoderRunner {
    model: Box<dyn Encoder>,
    pooling: Pooling,
    dtype: DType,
    device: Device,
}

impl StepRunner for EncoderRunner {
    fn launch(
        &mut self,
        plan: &Plan,
        sequences: &HashMap<SeqId, Sequence>,
        _before: Option<(&Plan, &Launched)>,
    ) -> Result<Launched> {
        let mut output = StepOutput::of(plan);
        let begun = Instant::now();
        let entries = plan.entries.iter().enumerate();
        let (due, prompts): (Vec<_>, Vec<_>) = entries
            .map(|(index, entry)| (index, entry.start + entry.len, &sequences[&entry.id]))
            .filter(|(_, end, sequence)| *end == sequence.prompt_len())
            .map(|(index, _, sequence)| (index, sequence))
            .unzip();
        if !due.is_empty() {
            let vectors = self.vectors(&prompts)?;
            for (index, vector) in due.into_iter().zip(vectors) {
                output.entries[index].pooled = Some(vector);
            }
        }
        output.forward = begun.elapsed();
        Ok(Launched::done(output))
    }

    fn check_device(&self) -> Result<()> {
        check_device(&self.device)
    }

    /// There is nothing but the weights.
    fn reset(&mut self) -> Result<()> {
        Ok(())
    }

    fn unload(&mut self) {
        unreachable!("nothing is lost at a reset")
    }

    fn install(&mut self, _models: &mut dyn Iterator<Item = Models>) {
        unreachable!("nothing is lost at a reset")
    }
}

impl EncoderRunner {
    fn vectors(&self, prompts: &[&Sequence]) -> Result<Vec<Vec<f32>>> {
        let lens: Vec<usize> = prompts.iter().map(|prompt| prompt.prompt_len()).collect();
        self.vectors_of(&self.lay_out(prompts)?, &lens)
    }

    /// Of sequences of these lengths.
    fn vectors_of(&self, batch: &EncoderBatch, lens: &[usize]) -> Result<Vec<Vec<f32>>> {
        let hidden = self.model.hidden(batch)?; // [tokens, hidden]
        let pooled = self.pool(&hidden, lens)?;
        let Some(head) = self.model.head() else { return Ok(pooled) };
        let shape = (lens.len(), hidden.dim(1)?);
        let states = Tensor::from_vec(pooled.concat(), shape, &self.device)?;
        head.forward(&states.to_dtype(self.dtype)?)?.to_vec2()
    }

    fn lay_out(&self, prompts: &[&Sequence]) -> Result<EncoderBatch> {
        let (mut ids, mut segments, mut lens) = (Vec::new(), Vec::new(), Vec::new());
        for prompt in prompts {
            let second = prompt.second_text().unwrap_or(prompt.prompt_len());
            ids.extend_from_slice(prompt.tokens());
            segments.extend((0..prompt.prompt_len()).map(|at| u32::from(at >= second)));
            lens.push(prompt.prompt_len());
        }
        EncoderBatch::of(&ids, &segments, &lens, &self.device)
    }

    /// Runs the largest step there can be, on a device with memory of its own: what it allocates stays with
    /// the process, so that no later step can lack it.
    fn reserve_memory(&self, config: &EngineConfig) -> Result<()> {
        if self.device.is_cpu() {
            return Ok(());
        }
        let EngineConfig { max_num_batched_tokens, max_model_len, .. } = *config;
        // What one prompt was dealt before comes on top of the budget.
        let num_tokens = max_num_batched_tokens + max_model_len;
        let mut lens = vec![max_model_len; num_tokens / max_model_len];
        lens.extend([num_tokens % max_model_len].into_iter().filter(|len| *len > 0));
        let zeros = vec![0; num_tokens];
        let batch = EncoderBatch::of(&zeros, &zeros, &lens, &self.device)?;
        self.vectors_of(&batch, &lens).map(drop)
    }

    /// A state a prompt.
    fn pool(&self, hidden: &Tensor, lens: &[usize]) -> Result<Vec<Vec<f32>>> {
        let ends = lens.iter().scan(0, |end, len| {
            *end += len;
            Some(*end)
        });
        let rows: Vec<u32> = match self.pooling {
            Pooling::Last => ends.map(|end| end as u32 - 1).collect(),
            Pooling::Cls => ends.zip(lens).map(|(end, len)| (end - len) as u32).collect(),
            Pooling::Mean => {
                let mut rows = hidden.to_dtype(DType::F32)?.to_vec2()?.into_iter();
                return Ok(lens.iter().map(|len| mean(rows.by_ref().take(*len), *len)).collect());
            }
        };
        let rows = Tensor::new(rows, &self.device)?;
        hidden.index_select(&rows, 0)?.to_dtype(DType::F32)?.to_vec2()
    }
}
