//! What a device can do at most, as measured on it, and what a forward pass asks of it: the roofline
//! model (Williams, Waterman and Patterson, 2009).

use std::hint::black_box;
use std::time::{Duration, Instant};

use candle_core::{DType, Device, Result, Tensor};
use kernels::collectives::part;
use kernels::linear::Matrix;
use kernels::pages::advise_huge_pages;
use kernels::pool;

use crate::memory::MemoryPlan;
use crate::model::ModelSpec;
use crate::precision::Quantization;

/// For each measurement.
const BUDGET: Duration = Duration::from_millis(500);
/// Larger than all caches together.
const COLD_BYTES: usize = 256 << 20;
const COLD_BYTES_OF_GPU: usize = 512 << 20;
/// Rows and columns of matrices whose product is bound by arithmetic: on a processor they stay in the
/// caches.
const SIDE: usize = 1024;
const SIDE_OF_GPU: usize = 8192;

/// Rates of a device that no program exceeds by much.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Ceilings {
    /// Of memory: read by all threads of the pool on a processor, copied on a GPU (a byte counts once
    /// read and once written).
    pub bytes_per_second: f64,
    /// Of a matrix product, a multiplication and an addition counted as two.
    pub flops_per_second: f64,
}

impl Ceilings {
    /// Measures for about a second, at best of all tries, with products of `dtype`, of weights that are
    /// quantised if linear layers are.
    ///
    /// # Errors
    /// A device that has not the memory (256 MiB, 1 GiB of a GPU), or no such product.
    pub fn measure(
        device: &Device,
        dtype: DType,
        quantization: Option<Quantization>,
    ) -> Result<Self> {
        Ok(Self {
            bytes_per_second: if device.is_cpu() { read_rate()? } else { copy_rate(device)? },
            flops_per_second: product_rate(device, dtype, quantization)?,
        })
    }

    /// The least time that `work` can take.
    pub fn seconds(&self, work: Work) -> f64 {
        (work.bytes / self.bytes_per_second).max(work.flops / self.flops_per_second)
    }

    /// Whether memory is what bounds it, and not arithmetic.
    pub fn is_memory_bound(&self, work: Work) -> bool {
        work.bytes / self.bytes_per_second > work.flops / self.flops_per_second
    }
}

/// Shortest time of a call, in seconds.
fn shortest(device: &Device, mut call: impl FnMut() -> Result<()>) -> Result<f64> {
    call()?;
    device.synchronize()?;
    let (begun, mut shortest) = (Instant::now(), f64::INFINITY);
    while begun.elapsed() < BUDGET {
        let before = Instant::now();
        call()?;
        device.synchronize()?;
        shortest = shortest.min(before.elapsed().as_secs_f64());
    }
    Ok(shortest)
}

fn read_rate() -> Result<f64> {
    const RUN: usize = 1 << 20;
    let len = COLD_BYTES / size_of::<u64>();
    let mut words = Vec::with_capacity(len);
    advise_huge_pages(words.spare_capacity_mut());
    words.resize(len, 1u64);
    let read = || {
        pool::for_each_task(words.len() / RUN, words.len(), |i| {
            black_box(words[i * RUN..][..RUN].iter().fold(0u64, |sum, word| sum ^ word));
        });
        Ok(())
    };
    Ok(COLD_BYTES as f64 / shortest(&Device::Cpu, read)?)
}

fn copy_rate(device: &Device) -> Result<f64> {
    let bytes = Tensor::zeros(COLD_BYTES_OF_GPU, DType::U8, device)?;
    let seconds = shortest(device, || bytes.copy().map(drop))?;
    Ok(2.0 * COLD_BYTES_OF_GPU as f64 / seconds)
}

fn product_rate(device: &Device, dtype: DType, quantization: Option<Quantization>) -> Result<f64> {
    let side = if device.is_cpu() { SIDE } else { SIDE_OF_GPU };
    let x = Tensor::randn(0f32, 1.0, (side, side), device)?.to_dtype(dtype)?;
    let weight = match quantization {
        None => Matrix::new(&x)?,
        Some(quantization) => quantization.matrix(&x.to_device(&Device::Cpu)?, device)?,
    };
    let seconds = shortest(device, || black_box(weight.forward(&x, None)).map(drop))?;
    Ok(2.0 * (side as f64).powi(3) / seconds)
}

/// What a forward pass takes at least: each byte once, and the multiplications and additions of linear
/// layers, attention and logits.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Work {
    /// Of memory.
    pub bytes: f64,
    /// A multiplication and an addition counted as two.
    pub flops: f64,
}

/// What steps of a model cost, as its shape and its memory plan say.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Costs {
    /// Bytes of weights that a step reads, those of experts aside.
    weight_bytes: f64,
    /// Those of all experts, and their part that a token does not go to.
    experts: Option<(f64, f64)>,
    /// Bytes of the cache for each key that a sequence sees.
    key_bytes: f64,
    /// Of the linear layers, for a token.
    token_flops: f64,
    /// Of attention, for a key that a token sees: its score, and its part of the sum of values.
    seen_flops: f64,
    /// Of the layers with a window, the keys that a token sees, and their part of all layers.
    window: Option<(f64, f64)>,
    /// Of a row of logits.
    logits_flops: f64,
}

impl Costs {
    /// Of a model that generates, in the memory of a plan; of several ranks those of one.
    pub fn of(spec: &ModelSpec, plan: &MemoryPlan) -> Self {
        let num_ranks = plan.config.tensor_parallel_size;
        let (spec, rows) = (&spec.of_rank(num_ranks), part(spec.vocab_size, 0, num_ranks).len());
        // What is gathered is held in the dtype of activations, whatever linear layers are held in.
        let gathered_bytes = spec.num_gathered * plan.config.dtype.size_in_bytes();
        let head = (rows * spec.hidden_size) as f64;
        let mut weight_bytes = (plan.weight_bytes - gathered_bytes) as f64;
        let used = (spec.active_parameters() - spec.num_gathered) as f64 - head;
        let experts = spec.experts.map(|experts| {
            let missed = 1.0 - experts.per_token as f64 / experts.num_experts as f64;
            let bytes = plan.config.expert_bytes(spec) as f64;
            weight_bytes -= bytes;
            (bytes, missed)
        });
        Self {
            weight_bytes,
            experts,
            key_bytes: plan.block_bytes as f64 / plan.config.block_size as f64,
            token_flops: 2.0 * used,
            seen_flops: 4.0 * (spec.num_layers * spec.num_heads * spec.head_dim) as f64,
            window: spec.window.map(|window| {
                (window.num_keys as f64, window.num_layers as f64 / spec.num_layers as f64)
            }),
            logits_flops: 2.0 * head,
        }
    }

    /// A step, given of each sequence how many tokens it computes and how many keys the last of them
    /// sees, itself included. Of each, the last token's logits are asked for. Of experts those count that
    /// as many tokens are expected to go to.
    pub fn of_step(&self, sequences: impl IntoIterator<Item = (usize, usize)>) -> Work {
        let mut work = Work { bytes: self.weight_bytes, flops: 0.0 };
        let mut all_tokens = 0.0;
        for (tokens, keys) in sequences {
            let (tokens, keys) = (tokens as f64, keys as f64);
            let all = |tokens: f64, keys: f64| tokens * keys - tokens * (tokens - 1.0) / 2.0;
            let (mut read, mut seen) = (keys, all(tokens, keys));
            if let Some((window, share)) = self.window {
                let full = (keys - window).clamp(0.0, tokens); // Tokens that see a whole window.
                let within = full * window + all(tokens - full, keys - full);
                read += share * (keys.min(window + tokens - 1.0) - keys);
                seen += share * (within - seen);
            }
            all_tokens += tokens;
            work.bytes += read * self.key_bytes;
            work.flops += tokens * self.token_flops + seen * self.seen_flops + self.logits_flops;
        }
        if let Some((bytes, missed)) = self.experts {
            // Of tokens that choose independently of each other.
            work.bytes += bytes * (1.0 - missed.powf(all_tokens));
        }
        work
    }
}

impl std::ops::Add for Work {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self { bytes: self.bytes + other.bytes, flops: self.flops + other.flops }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{EngineConfig, EngineOptions};
    use crate::model::{MixtureOfExperts, SlidingWindow};

    /// Of two layers, with an embedding beside the head.
    fn spec() -> ModelSpec {
        let (layer, head) = (1_000, 8 * 100);
        ModelSpec {
            architecture: "TwoForCausalLM".into(),
            num_layers: 2,
            num_heads: 4,
            num_kv_heads: 2,
            head_dim: 2,
            hidden_size: 8,
            intermediate_size: 16,
            vocab_size: 100,
            max_position_embeddings: 64,
            num_parameters: 2 * layer + 2 * head,
            num_gathered: head,
            window: None,
            experts: None,
            num_rotary_tables: 1,
            fits_f16: true,
            quantized: None,
            dtype: DType::F32,
        }
    }

    #[test]
    fn the_work_of_a_step_is_counted_by_hand() {
        let spec = spec();
        let config = EngineConfig::resolve(&EngineOptions::default(), &spec).unwrap();
        let plan = MemoryPlan::compute(&spec, &config, 1 << 30);
        // A token's keys and values: 2 layers, 2 heads of 2, twice, 4 bytes.
        let cached = 2.0 * 2.0 * 2.0 * 2.0 * 4.0;
        let costs = Costs::of(&spec, &plan);
        let decode = costs.of_step([(1, 10); 3]);
        assert_eq!(decode.bytes, 4.0 * 2_800.0 + 3.0 * 10.0 * cached);
        // Four query heads of 2 in two layers, 10 keys, a score and a sum each.
        assert_eq!(decode.flops, 3.0 * (2.0 * 2_800.0 + 4.0 * 16.0 * 10.0));
        // Rows of a prompt see 1, 2, 3 and 4 keys; one of them has logits.
        let prefill = costs.of_step([(4, 4)]);
        assert_eq!(prefill.bytes, 4.0 * 2_800.0 + 4.0 * cached);
        assert_eq!(prefill.flops, 4.0 * 2.0 * 2_000.0 + 4.0 * 16.0 * 10.0 + 2.0 * 800.0);
        // With a window of 2 in one of the layers that one reads the last 2 keys of 10, or of 4 rows all of 5; rows that
        // saw 2, 3, 4 and 5 keys see 2.
        let window = Some(SlidingWindow { num_keys: 2, num_layers: 1 });
        let costs = Costs::of(&ModelSpec { window, ..spec.clone() }, &plan);
        assert_eq!(costs.of_step([(1, 10)]).bytes, 4.0 * 2_800.0 + 6.0 * cached);
        assert_eq!(costs.of_step([(4, 5)]).bytes, 4.0 * 2_800.0 + 5.0 * cached);
        let flops = 4.0 * 2.0 * 2_000.0 + 4.0 * 8.0 * (14.0 + 8.0) + 2.0 * 800.0;
        assert_eq!(costs.of_step([(4, 5)]).flops, flops);
        // Of 4 experts of 8 x 5 in one of the layers, 480 parameters, a token goes to one; a second one finds it
        // taken once in four times.
        let experts = MixtureOfExperts {
            num_experts: 4,
            per_token: 1,
            intermediate_size: 5,
            shared_size: 0,
            num_layers: 1,
        };
        let costs = Costs::of(&ModelSpec { experts: Some(experts), ..spec }, &plan);
        let one = costs.of_step([(1, 10)]);
        assert_eq!(one.bytes, 4.0 * (2_800.0 - 360.0) + 10.0 * cached);
        assert_eq!(one.flops, 2.0 * (2_800.0 - 360.0) + 4.0 * 16.0 * 10.0);
        let two = costs.of_step([(1, 10); 2]);
        assert_eq!(two.bytes, 4.0 * (2_800.0 - 270.0) + 20.0 * cached);
    }

    #[test]
    fn the_slower_of_both_ceilings_counts() {
        let ceilings = Ceilings { bytes_per_second: 10.0, flops_per_second: 100.0 };
        let (reads, computes) =
            (Work { bytes: 10.0, flops: 50.0 }, Work { bytes: 10.0, flops: 500.0 });
        assert_eq!((ceilings.seconds(reads), ceilings.is_memory_bound(reads)), (1.0, true));
        assert_eq!((ceilings.seconds(computes), ceilings.is_memory_bound(computes)), (5.0, false));
        assert_eq!(ceilings.seconds(reads + computes), 5.5);
    }

    #[test]
    fn rates_are_measured() {
        let ceilings = Ceilings::measure(&Device::Cpu, DType::F32, None).unwrap();
        // Any machine since 2005, in any profile, and none yet.
        assert!((1e8..1e14).contains(&ceilings.bytes_per_second), "{ceilings:?}");
        assert!((1e7..1e16).contains(&ceilings.flops_per_second), "{ceilings:?}");
    }
}
