//! Plans of known shapes, and what does not fit.

use super::*;
use crate::config::EngineOptions;
use crate::model::MixtureOfExperts;

const GIB: usize = 1 << 30;

/// Qwen3-0.6B.
fn spec() -> ModelSpec {
    ModelSpec {
        architecture: "Qwen3ForCausalLM".into(),
        num_layers: 28,
        num_heads: 16,
        num_kv_heads: 8,
        head_dim: 128,
        hidden_size: 1024,
        intermediate_size: 3072,
        vocab_size: 151_936,
        max_position_embeddings: 40_960,
        num_parameters: 596_049_920,
        num_gathered: 0,
        window: None,
        experts: None,
        num_rotary_tables: 1,
        fits_f16: true,
        dtype: DType::BF16,
        quantized: None,
    }
}

fn plan(options: &EngineOptions, available: usize) -> Result<MemoryPlan, OptionError> {
    let config = EngineConfig::resolve(options, &spec()).unwrap();
    let plan = MemoryPlan::compute(&spec(), &config, available);
    plan.check().map(|()| plan)
}

#[test]
fn sizes_follow_from_the_shapes() {
    let plan = plan(&EngineOptions::default(), 64 * GIB).unwrap();
    assert_eq!(plan.weight_bytes, 596_049_920 * 2);
    assert_eq!(plan.block_bytes, 16 * 2 * 28 * 8 * 128 * 2);
    assert_eq!(plan.logits_bytes, 64 * 151_936 * 4);
    // 4 hidden through the layer, then 4 hidden and 3 intermediate in the MLP.
    assert_eq!(plan.activation_bytes, 512 * (8 * 1024 + 3 * 3072) * 2);
    assert_eq!(plan.total_bytes(), plan.fixed_bytes() + plan.kv_bytes());
}

#[test]
fn fp8_takes_a_byte_a_number() {
    let wide = plan(&EngineOptions::default(), 64 * GIB).unwrap();
    let options = EngineOptions {
        quantization: Some(crate::Quantization::Fp8),
        kv_cache_dtype: Some(DType::F8E4M3),
        ..EngineOptions::default()
    };
    let narrow = plan(&options, 64 * GIB).unwrap();
    assert_eq!(narrow.block_bytes, wide.block_bytes / 2);
    // All but the embedding, the norms of the layers and of their heads, and the last one.
    let others = 151_936 * 1024 + 28 * (2 * 1024 + 2 * 128) + 1024;
    let scales = 28 * (4096 + 1024 + 6144 + 1024) * 4;
    let linears = 596_049_920 - others;
    assert_eq!(narrow.weight_bytes, wide.weight_bytes - linears + scales);
    assert_eq!(narrow.activation_bytes, wide.activation_bytes);
    let text = narrow.to_string();
    assert!(text.contains(" M parameters, bf16, linear layers in fp8\n"), "{text}");
    assert!(text.contains(" blocks of 16, fp8 "), "{text}");
    let on_gpu = |options| EngineOptions { on_gpu: true, ..options };
    let wide = plan(&on_gpu(EngineOptions::default()), 64 * GIB).unwrap();
    let narrow = plan(&on_gpu(options), 64 * GIB).unwrap();
    assert_eq!(narrow.activation_bytes, wide.activation_bytes + 8192 * (3072 + 4));
    let checkpoint = ModelSpec { quantized: Some(Quantized::Fp8Rows), ..spec() };
    let config = EngineConfig::resolve(&EngineOptions::default(), &checkpoint).unwrap();
    let as_stored = MemoryPlan::compute(&checkpoint, &config, 64 * GIB);
    assert_eq!(as_stored.weight_bytes, narrow.weight_bytes);
    // What no product takes is widened.
    let checkpoint = ModelSpec { quantized: Some(Quantized::Awq), ..spec() };
    let widened = MemoryPlan::compute(&checkpoint, &config, 64 * GIB);
    let text = widened.to_string();
    assert!(text.contains(", bf16; the checkpoint has linear layers in 4 bits (AWQ)\n"), "{text}");
    assert_eq!(
        widened.weight_bytes,
        plan(&EngineOptions::default(), 64 * GIB).unwrap().weight_bytes
    );
}

/// Linear layers and the vocabulary are shared out, norms are not.
#[test]
fn ranks_take_their_parts() {
    let of_ranks = |num_ranks, quantization| {
        let tensor_parallel_size = Some(num_ranks);
        let options =
            EngineOptions { quantization, tensor_parallel_size, ..EngineOptions::default() };
        plan(&options, 64 * GIB).unwrap()
    };
    let norms = 28 * (2 * 1024 + 2 * 128) + 1024;
    let linears = 28 * (4096 * 1024 + 1024 * 2048 + 6144 * 1024 + 1024 * 3072);
    let (alone, four) = (of_ranks(1, None), of_ranks(4, None));
    assert_eq!(four.weight_bytes, (norms + (linears + 151_936 * 1024) / 4) * 2);
    assert_eq!(four.block_bytes, alone.block_bytes / 4);
    assert_eq!(four.logits_bytes, alone.logits_bytes * 5 / 4);
    // The stream is whole, and each sum stands beside what it is a sum of.
    assert_eq!(four.activation_bytes, 512 * (9 * 1024 + 3 * 768) * 2);
    let text = four.to_string();
    assert!(text.contains(" 596.0 M parameters, bf16, of which each of 4 ranks takes\n"), "{text}");
    // Integers of the head's part, with a scale for 128 inputs.
    let int8 = of_ranks(4, Some(crate::Quantization::Int8));
    let head = 151_936 / 4 * (1024 + 1024 / 128 * 4);
    assert_eq!(int8.weight_bytes, norms * 2 + head + linears / 4 + linears / 4 / 128 * 4);

    // A key head that two ranks share is held by both.
    let shared = ModelSpec { num_kv_heads: 2, ..spec() };
    let options = EngineOptions { tensor_parallel_size: Some(4), ..EngineOptions::default() };
    let config = EngineConfig::resolve(&options, &shared).unwrap();
    let shared = MemoryPlan::compute(&shared, &config, 64 * GIB);
    assert_eq!(shared.block_bytes, 16 * 2 * 28 * 128 * 2);
}

#[test]
fn a_draft_model_that_ranks_cannot_share_is_refused() {
    let options = EngineOptions { tensor_parallel_size: Some(2), ..EngineOptions::default() };
    let config = EngineConfig::resolve(&options, &spec()).unwrap();
    let draft = ModelSpec { num_heads: 3, num_kv_heads: 3, ..spec() };
    let plan = MemoryPlan::compute(&spec(), &config, 64 * GIB);
    let error = plan.with_draft(&spec(), &draft).unwrap_err().to_string();
    assert!(
        error.contains("--draft-model: --tensor-parallel-size 2: its 3 query heads"),
        "{error}"
    );
}

#[test]
fn integers_take_a_byte_or_half_of_one_and_their_scales() {
    let plan_of = |quantization| {
        let quantization = Some(quantization);
        plan(&EngineOptions { quantization, ..EngineOptions::default() }, 64 * GIB).unwrap()
    };
    // Norms of the layers, of their heads, and the last one; the head, which is the embedding, too.
    let norms = (28 * (2 * 1024 + 2 * 128) + 1024) * 2;
    let head = 151_936 * (1024 + 1024 / 128 * 4);
    let linears = 28 * (4096 * 1024 + 1024 * 2048 + 6144 * 1024 + 1024 * 3072);
    let int8 = plan_of(crate::Quantization::Int8);
    assert_eq!(int8.weight_bytes, norms + head + linears + linears / 128 * 4);
    let text = int8.to_string();
    assert!(text.contains(" M parameters, bf16, linear layers and head in int8\n"), "{text}");
    let int4 = plan_of(crate::Quantization::Int4);
    assert_eq!(int4.weight_bytes, norms + head + linears / 2 + linears / 128 * 4);
    let text = int4.to_string();
    assert!(text.contains(", linear layers in int4, head in int8\n"), "{text}");
}

#[test]
fn the_cache_takes_4_gib_or_half_of_what_remains_and_no_more_than_it_needs() {
    let most = |options: &EngineOptions, available| plan(options, available).unwrap().num_blocks;
    let short = EngineOptions { max_model_len: Some(8192), ..EngineOptions::default() };
    assert_eq!(most(&short, 64 * GIB), 4 * GIB / (16 * 114_688));
    let half = plan(&short, 5 * GIB).unwrap();
    let remaining = half.available_bytes - half.fixed_bytes();
    assert!(half.kv_bytes() <= remaining / 2);
    assert!(half.kv_bytes() > remaining / 2 - remaining / 50);
    let few = EngineOptions {
        max_num_seqs: Some(4),
        max_model_len: Some(1000),
        ..EngineOptions::default()
    };
    assert_eq!(most(&few, 64 * GIB), 4 * 63, "four sequences of 63 blocks");
    // One sequence of full length needs 4.4 GiB: more than 4 GiB and than half of what 8 GiB leave.
    for available in [8 * GIB, 64 * GIB] {
        assert_eq!(most(&EngineOptions::default(), available), 40_960 / 16);
    }
    let given = EngineOptions { kv_cache_memory_bytes: Some(5 * GIB), ..Default::default() };
    assert_eq!(most(&given, 64 * GIB), 5 * GIB / (16 * 114_688));
    let blocks = EngineOptions { num_gpu_blocks_override: Some(3000), ..Default::default() };
    assert_eq!(most(&blocks, 64 * GIB), 3000);
}

#[test]
fn what_does_not_fit_is_refused_with_the_flag_to_change() {
    let none = EngineOptions::default;
    let bytes = |bytes| EngineOptions { kv_cache_memory_bytes: Some(bytes), ..none() };
    let blocks = |blocks| EngineOptions { num_gpu_blocks_override: Some(blocks), ..none() };
    let cases = [
        (none(), GIB, "before any KV cache but 1.00 GiB are available"),
        (none(), 3 * GIB, "lower --max-model-len to"),
        (bytes(GIB), 64 * GIB, "raise --kv-cache-memory-bytes"),
        (bytes(1), 64 * GIB, ": raise --kv-cache-memory-bytes"),
        (blocks(100), 64 * GIB, "holds 1600 tokens"),
        (bytes(80 * GIB), 64 * GIB, "the KV cache would take 80.00 GiB"),
        (EngineOptions { on_gpu: true, ..none() }, 6 * GIB, "or raise --gpu-memory-utilization"),
    ];
    for (options, available, needle) in cases {
        let message = plan(&options, available).unwrap_err().to_string();
        assert!(message.contains(needle), "{message} does not say {needle}");
    }
}

#[test]
fn an_encoder_has_no_cache_and_reads_whole_prompts() {
    let encoder =
        ModelSpec { num_layers: 0, max_position_embeddings: 512, num_rotary_tables: 0, ..spec() };
    let options = EngineOptions { pooling: Some(crate::Pooling::Cls), ..Default::default() };
    let config = EngineConfig::resolve(&options, &encoder).unwrap();
    assert!(!config.enable_prefix_caching);
    let plan = MemoryPlan::compute(&encoder, &config, 64 * GIB);
    plan.check().unwrap();
    assert_eq!((plan.kv_bytes(), plan.num_blocks), (0, 64 * 32));
    // The budget of a step, and a prompt that was dealt out before it is read.
    assert_eq!(plan.activation_bytes, (512 + 512) * (8 * 1024 + 3 * 3072) * 2);
    let text = plan.to_string();
    assert!(text.ends_with("prompts of up to 512 tokens, read whole"), "{text}");
    assert!(!text.contains("position tables"), "{text}");
}

/// A GPU multiplies experts as they are stored, where a rank has whole blocks of their inputs.
#[test]
fn experts_of_4_bits_are_held_as_they_are_or_widened() {
    let experts = Some(MixtureOfExperts {
        num_experts: 8,
        per_token: 2,
        intermediate_size: 96,
        shared_size: 0,
        num_layers: 28,
    });
    let of_experts = 28 * 8 * 3 * 1024 * 96;
    let num_parameters = 600_000_000 + of_experts;
    let quantized = Some(Quantized::Mxfp4);
    let spec = ModelSpec { num_parameters, experts, quantized, ..spec() };
    let plan = |on_gpu, num_ranks| {
        let tensor_parallel_size = Some(num_ranks);
        let options = EngineOptions { on_gpu, tensor_parallel_size, ..EngineOptions::default() };
        let config = EngineConfig::resolve(&options, &spec).unwrap();
        MemoryPlan::compute(&spec, &config, 64 * GIB)
    };
    let (wide, held) = (plan(false, 1), plan(true, 1));
    assert_eq!(wide.weight_bytes, num_parameters * 2);
    assert_eq!(held.weight_bytes, 600_000_000 * 2 + of_experts / 2 + of_experts / 32);
    assert!(
        wide.to_string().contains("; the checkpoint has experts in 4 bits (MXFP4)\n"),
        "{wide}"
    );
    assert!(held.to_string().contains(", bf16, experts in 4 bits (MXFP4)\n"), "{held}");
    // Of 48 inputs of the last product no 32 belong together.
    let gate_up = of_experts / 2 * 2 / 3;
    assert_eq!(
        plan(false, 2).weight_bytes - plan(true, 2).weight_bytes,
        gate_up * 2 - gate_up / 2 - gate_up / 32
    );
}

/// With experts a token has as many rows.
#[test]
fn tokens_have_rows_for_their_experts() {
    let bytes = |experts| {
        let spec = ModelSpec { experts, ..spec() };
        let config = EngineConfig::resolve(&EngineOptions::default(), &spec).unwrap();
        MemoryPlan::compute(&spec, &config, 64 * GIB).activation_bytes
    };
    let with = |per_token, shared_size| {
        let (num_experts, intermediate_size) = (16, 768);
        Some(MixtureOfExperts {
            num_experts,
            per_token,
            intermediate_size,
            shared_size,
            num_layers: 2,
        })
    };
    let experts = |per_token| with(per_token, 0);
    // One of them needs less than the MLP of the other layers.
    assert_eq!(bytes(experts(1)), bytes(None));
    let of_eight = 8 * 1024 + 8 * (1024 + 4 * 768);
    assert_eq!(bytes(experts(8)), 512 * of_eight * 2);
    // What they gave waits for one that all tokens go to.
    assert_eq!(bytes(with(8, 768)), 512 * of_eight * 2);
    assert_eq!(bytes(with(8, 16 * 768)), 512 * (7 * 1024 + (8 + 1) * 1024 + 3 * 16 * 768) * 2);
}

#[test]
fn each_rotation_has_its_tables() {
    let bytes = |num_rotary_tables| {
        let spec = ModelSpec { num_rotary_tables, ..spec() };
        let config = EngineConfig::resolve(&EngineOptions::default(), &spec).unwrap();
        MemoryPlan::compute(&spec, &config, 64 * GIB).table_bytes
    };
    assert_eq!([bytes(0), bytes(1), bytes(2)], [0, 1, 2].map(|tables| tables * 40_960 * 128 * 4));
}

#[test]
fn a_draft_model_is_planned_for() {
    let short = EngineOptions { max_model_len: Some(8192), ..EngineOptions::default() };
    let plan = plan(&short, 64 * GIB).unwrap();
    let (fixed, block_bytes) = (plan.fixed_bytes(), plan.block_bytes);
    let draft = ModelSpec { num_layers: 7, num_parameters: 1000, ..spec() };
    let with = plan.clone().with_draft(&spec(), &draft).unwrap();
    assert_eq!(with.block_bytes, block_bytes + block_bytes / 4);
    assert!(with.fixed_bytes() > fixed + 2000 && with.num_blocks < plan.num_blocks);
    let on_gpu = |cudagraph_capture_sizes| {
        let options = EngineOptions { on_gpu: true, cudagraph_capture_sizes, ..short.clone() };
        let config = EngineConfig::resolve(&options, &spec()).unwrap();
        let plan = MemoryPlan::compute(&spec(), &config, 64 * GIB);
        plan.with_draft(&spec(), &draft).unwrap().draft_bytes
    };
    assert_eq!(on_gpu(None), on_gpu(Some(Vec::new())), "only the model's steps are recorded");
    let refusal = |draft| plan.clone().with_draft(&spec(), &draft).unwrap_err().to_string();
    let short = ModelSpec { max_position_embeddings: 512, ..spec() };
    assert!(refusal(short).contains("--draft-model: it is made for contexts of 512 tokens"));
    let other = ModelSpec { vocab_size: 7, ..spec() };
    assert!(refusal(other).contains("--draft-model: its vocabulary has 7 tokens"));
}

#[test]
fn steps_that_are_one_launch_have_their_memory() {
    let fixed = |decode_megakernel| {
        let options = EngineOptions { on_gpu: true, decode_megakernel, ..EngineOptions::default() };
        let config = EngineConfig::resolve(&options, &spec()).unwrap();
        MemoryPlan::compute(&spec(), &config, 64 * GIB).fixed_bytes()
    };
    let ModelSpec { num_layers, num_heads, num_kv_heads, head_dim, .. } = spec();
    let heads = (2 * num_heads + 2 * num_kv_heads) * head_dim;
    let row = 2 * (heads + 2 * spec().hidden_size + spec().intermediate_size);
    let expected = (1 + 2 + 4 + 8) * row + 4 * num_layers * 14 * 8;
    assert_eq!(fixed(None) - fixed(Some(false)), expected);
}

#[test]
fn the_table_is_readable() {
    let options = EngineOptions { max_model_len: Some(4096), ..EngineOptions::default() };
    let table = plan(&options, 24 * GIB).unwrap().to_string();
    for line in [
        "Qwen3ForCausalLM, 596.0 M parameters, bf16",
        "  weights                                         1.11 GiB",
        "  logits, 64 rows                                 37.1 MiB",
        "  available                                      24.00 GiB",
        "112.0 KiB each",
        "sequences of 4096 tokens at once",
    ] {
        assert!(table.contains(line), "{table}\ndoes not have {line:?}");
    }
}
