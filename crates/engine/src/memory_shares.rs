//! The shares of several models of one process: each keeps to its own plan, so that none can take
//! what another was promised.

use crate::config::OptionError;
use crate::memory::{MemoryPlan, Size};

/// Divides `available_bytes` among `plans`, each of which was made as if it were alone.
///
/// A share has room for all that its model needs beside the cache. What remains after caches of a
/// given size is for the others in equal parts, and within its part each cache is sized as that of
/// a lone model; an encoder has none. The process itself counts once, in the first plan.
///
/// # Errors
/// [`OptionError::ModelsTooLarge`].
pub fn share_memory(
    plans: &mut [&mut MemoryPlan],
    available_bytes: usize,
) -> Result<(), OptionError> {
    if plans.len() < 2 {
        return Ok(());
    }
    for plan in &mut plans[1..] {
        plan.runtime_bytes = 0;
    }
    let least: usize = plans.iter().map(|plan| least_bytes(plan)).sum();
    let Some(remaining) = available_bytes.checked_sub(least) else {
        let (needed, available) = (Size(least), Size(available_bytes));
        return Err(OptionError::ModelsTooLarge { needed, available });
    };
    let num_open = plans.iter().filter(|plan| !has_fixed_cache(plan)).count();
    for plan in plans {
        let part = if has_fixed_cache(plan) { 0 } else { remaining / num_open };
        plan.within(least_bytes(plan) + part);
    }
    Ok(())
}

/// What a model takes if its cache gets nothing that was not asked for.
fn least_bytes(plan: &MemoryPlan) -> usize {
    plan.fixed_bytes() + if has_fixed_cache(plan) { plan.kv_bytes() } else { 0 }
}

/// Whether nothing of what remains goes to its cache: it was given a size, or there is none.
fn has_fixed_cache(plan: &MemoryPlan) -> bool {
    let has_given_size = plan.config.kv_cache_memory_bytes.is_some()
        || plan.config.num_gpu_blocks_override.is_some();
    plan.is_encoder || has_given_size
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{EngineConfig, EngineOptions};
    use crate::model::ModelSpec;
    use candle_core::DType;

    const GIB: usize = 1 << 30;

    fn spec(num_layers: usize) -> ModelSpec {
        ModelSpec {
            architecture: "Any".into(),
            num_layers,
            num_heads: 16,
            num_kv_heads: 8,
            head_dim: 128,
            hidden_size: 1024,
            intermediate_size: 3072,
            vocab_size: 1000,
            max_position_embeddings: 1 << 20,
            num_parameters: 100_000_000,
            num_gathered: 0,
            window: None,
            experts: None,
            num_rotary_tables: 1,
            fits_f16: true,
            dtype: DType::BF16,
            quantized: None,
        }
    }

    /// One that would take any memory for its cache.
    fn plan(num_layers: usize, cache_bytes: Option<usize>, available: usize) -> MemoryPlan {
        let options = EngineOptions {
            kv_cache_memory_bytes: cache_bytes,
            max_model_len: Some(4096),
            ..EngineOptions::default()
        };
        let spec = spec(num_layers);
        let config = EngineConfig::resolve(&options, &spec).unwrap();
        MemoryPlan::compute(&spec, &config, available)
    }

    fn share(plans: &mut [MemoryPlan], available: usize) -> Result<(), OptionError> {
        share_memory(&mut plans.iter_mut().collect::<Vec<_>>(), available)
    }

    #[test]
    fn one_model_keeps_its_plan() {
        let mut plans = [plan(28, None, 8 * GIB)];
        let before = plans[0].clone();
        share(&mut plans, 8 * GIB).unwrap();
        assert_eq!(plans[0], before);
    }

    #[test]
    fn what_remains_is_divided_in_equal_parts() {
        let available = 8 * GIB;
        let mut plans = [plan(28, None, available), plan(7, None, available)];
        share(&mut plans, available).unwrap();
        let room = |plan: &MemoryPlan| plan.available_bytes - plan.fixed_bytes();
        assert_eq!(room(&plans[0]), room(&plans[1]));
        assert_eq!(plans[1].runtime_bytes, 0);
        assert!(plans[0].runtime_bytes > 0);
        let shares: usize = plans.iter().map(|plan| plan.available_bytes).sum();
        assert!(shares <= available && shares + plans.len() > available);
        for plan in &plans {
            plan.check().unwrap();
            assert!(plan.kv_bytes() <= room(plan) / 2, "each leaves half of its part, as alone");
        }
    }

    #[test]
    fn a_cache_of_a_given_size_is_taken_off_before() {
        let available = 8 * GIB;
        let mut plans = [
            plan(28, Some(5 * GIB), available),
            plan(7, None, available),
            plan(7, None, available),
        ];
        share(&mut plans, available).unwrap();
        let slack = plans[0].available_bytes - plans[0].total_bytes();
        assert_eq!(slack, 0, "it gets what was asked for");
        assert_eq!(plans[1].num_blocks, plans[2].num_blocks);
        assert!(plans.iter().map(MemoryPlan::total_bytes).sum::<usize>() <= available);
        assert!(plans.iter().all(|plan| plan.check().is_ok()));
    }

    /// An encoder has no cache, and so no part of what is left for caches.
    #[test]
    fn an_encoder_takes_nothing_from_the_caches() {
        let available = 8 * GIB;
        let mut plans = [plan(0, None, available), plan(28, None, available)];
        share(&mut plans, available).unwrap();
        assert_eq!(plans[0].available_bytes, plans[0].fixed_bytes());
        let shares: usize = plans.iter().map(|plan| plan.available_bytes).sum();
        assert_eq!(shares, available, "all that remains is for the only cache");
        assert!(plans.iter().all(|plan| plan.check().is_ok()));
        let mut plans = [plan(0, None, available), plan(0, None, available)];
        share(&mut plans, available).unwrap();
        assert!(plans.iter().all(|plan| plan.check().is_ok()));
    }

    #[test]
    fn models_that_do_not_fit_together_are_refused() {
        let available = 8 * GIB;
        let mut plans = [plan(28, Some(5 * GIB), available), plan(28, Some(5 * GIB), available)];
        assert!(plans.iter().all(|plan| plan.check().is_ok()));
        let error = share(&mut plans, available).unwrap_err().to_string();
        assert!(error.contains("8.00 GiB are available"), "{error}");
        // Both fit, but the second has no room for one sequence.
        let mut plans = [plan(28, Some(7 * GIB + GIB / 4), available), plan(28, None, available)];
        share(&mut plans, available).unwrap();
        assert!(plans[1].check().is_err());
    }
}
