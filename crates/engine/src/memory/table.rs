//! The plan as it is printed.

use std::fmt;

use candle_core::DType;

use super::{MemoryPlan, Size, num_rows, step_tokens};
use crate::precision::Quantization;
use crate::weights::Quantized;

impl fmt::Display for MemoryPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let config = &self.config;
        let millions = self.num_parameters as f64 / 1e6;
        write!(f, "{}, {millions:.1} M parameters", self.model)?;
        if self.active_parameters < self.num_parameters {
            write!(f, " ({:.1} M for a token)", self.active_parameters as f64 / 1e6)?;
        }
        write!(f, ", {}", config.dtype.as_str())?;
        match self.quantization {
            None => {}
            Some(Quantization::Fp8) => write!(f, ", linear layers in fp8")?,
            Some(Quantization::Int8) => write!(f, ", linear layers and head in int8")?,
            Some(Quantization::Int4) => write!(f, ", linear layers in int4, head in int8")?,
        }
        if config.tensor_parallel_size > 1 {
            write!(f, ", of which each of {} ranks takes", config.tensor_parallel_size)?;
        }
        match self.stored_in {
            Some(mxfp4 @ Quantized::Mxfp4) if config.on_gpu => write!(f, ", experts in {mxfp4}")?,
            Some(mxfp4 @ Quantized::Mxfp4) => write!(f, "; the checkpoint has experts in {mxfp4}")?,
            Some(quantized) => write!(f, "; the checkpoint has linear layers in {quantized}")?,
            None => {}
        }
        writeln!(f)?;
        let mut row = |name: String, bytes| writeln!(f, "  {name:<44}{:>12}", Size(bytes));
        row("weights".into(), self.weight_bytes)?;
        if self.table_bytes > 0 {
            row(format!("position tables, {} positions", config.max_model_len), self.table_bytes)?;
        }
        let tokens = step_tokens(self.is_encoder, config);
        row(format!("activations, {tokens} tokens a step"), self.activation_bytes)?;
        let wanted = if config.pooling.is_some() { "hidden states" } else { "logits" };
        row(format!("{wanted}, {} rows", num_rows(self.is_encoder, config)), self.logits_bytes)?;
        row("tokenizer".into(), self.tokenizer_bytes)?;
        if self.draft_bytes > 0 {
            row("draft model".into(), self.draft_bytes)?;
        }
        if self.workspace_bytes > 0 {
            row("recorded steps and workspaces".into(), self.workspace_bytes)?;
        }
        row("runtime".into(), self.runtime_bytes)?;
        if !self.is_encoder {
            let dtype = if config.cache_dtype == DType::F8E4M3 { ", fp8" } else { "" };
            let (blocks, size) = (self.num_blocks, config.block_size);
            let blocks = format!("KV cache, {blocks} blocks of {size}{dtype}");
            row(blocks, self.kv_bytes())?;
        }
        row("total".into(), self.total_bytes())?;
        row("available".into(), self.available_bytes)?;
        if self.is_encoder {
            return write!(f, "  prompts of up to {} tokens, read whole", config.max_model_len);
        }
        let full = self.cache_tokens() as f64 / config.max_model_len as f64;
        write!(
            f,
            "  {} tokens of context, {} each: {full:.1} sequences of {} tokens at once",
            self.cache_tokens(),
            Size(self.block_bytes / config.block_size),
            config.max_model_len
        )
    }
}
