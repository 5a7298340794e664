//! Defaults, and what is refused by the flag's name.

use super::*;
use crate::model::ModelSpec;
use crate::weights::Quantized;

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

#[test]
fn defaults_come_from_the_model_and_from_each_other() {
    let resolve = |options: EngineOptions| EngineConfig::resolve(&options, &spec()).unwrap();
    let config = resolve(EngineOptions::default());
    assert_eq!((config.max_model_len, config.dtype), (40_960, DType::BF16));
    assert_eq!((config.max_num_seqs, config.max_num_batched_tokens), (64, 512));
    assert_eq!((config.block_size, config.max_num_queued_reqs), (16, 1024));
    assert!(config.enable_prefix_caching);
    let few = EngineOptions { max_num_batched_tokens: Some(7), ..Default::default() };
    assert_eq!(resolve(few).max_num_seqs, 7);
    let many = EngineOptions { max_num_seqs: Some(1000), ..Default::default() };
    assert_eq!(resolve(many).max_num_batched_tokens, 1000);
}

#[test]
fn a_gpu_has_defaults_of_its_own() {
    let on_gpu = EngineOptions { on_gpu: true, ..EngineOptions::default() };
    let config = EngineConfig::resolve(&on_gpu, &spec()).unwrap();
    assert_eq!((config.max_num_seqs, config.max_num_batched_tokens), (256, 8192));
    let sizes = config.capture_sizes();
    assert!(sizes.is_sorted() && sizes[..3] == [1, 2, 4] && sizes.last() == Some(&256));
    let few = EngineOptions { max_num_seqs: Some(20), ..on_gpu };
    let config = EngineConfig::resolve(&few, &spec()).unwrap();
    assert_eq!(config.capture_sizes(), [1, 2, 4, 8, 16, 20]);
    let given =
        EngineOptions { cudagraph_capture_sizes: Some(vec![8, 3, 8]), ..EngineOptions::default() };
    let config = EngineConfig::resolve(&given, &spec()).unwrap();
    assert_eq!(config.capture_sizes(), [3, 8]);
}

#[test]
fn models_that_pool_record_nothing_and_split_no_more_rows() {
    for (pooling, logits_rows) in [(Pooling::Mean, 8192), (Pooling::Last, 256)] {
        let options =
            EngineOptions { on_gpu: true, pooling: Some(pooling), ..EngineOptions::default() };
        let config = EngineConfig::resolve(&options, &spec()).unwrap();
        let split_rows = 256 + SPLIT_ROWS;
        assert_eq!(config.pack_limits(), PackLimits { logits_rows, split_rows });
        assert!(config.capture_sizes().is_empty());
    }
}

#[test]
fn half_precision_checkpoints_are_widened_where_it_is_not_computed_in() {
    let f16 = ModelSpec { dtype: DType::F16, ..spec() };
    let dtype = |options: &EngineOptions, spec: &ModelSpec| {
        EngineConfig::resolve(options, spec).map(|config| config.dtype)
    };
    let on_gpu = EngineOptions { on_gpu: true, ..EngineOptions::default() };
    let narrow = EngineOptions { kv_cache_dtype: Some(DType::F8E4M3), ..on_gpu.clone() };
    assert_eq!(dtype(&EngineOptions::default(), &f16).unwrap(), DType::F32);
    assert_eq!(dtype(&on_gpu, &f16).unwrap(), DType::F16);
    assert_eq!(dtype(&narrow, &f16).unwrap(), DType::F32);
    assert_eq!(dtype(&narrow, &spec()).unwrap(), DType::BF16);

    let wide = ModelSpec { fits_f16: false, ..f16.clone() };
    assert_eq!(dtype(&on_gpu, &wide).unwrap(), DType::F32);

    let asked = EngineOptions { dtype: Some(DType::F16), ..on_gpu };
    assert_eq!(dtype(&asked, &spec()).unwrap(), DType::F16);
    let message = dtype(&asked, &wide).unwrap_err().to_string();
    assert!(message.contains("not supported for this model, whose numbers go beyond"), "{message}");
    let asked = EngineOptions { dtype: Some(DType::F16), ..narrow };
    let message = dtype(&asked, &spec()).unwrap_err().to_string();
    assert!(message.contains("--dtype float16 is not supported for fp8"), "{message}");
}

#[test]
fn experts_of_4_bits_stay_so_on_a_gpu() {
    let spec = ModelSpec { quantized: Some(Quantized::Mxfp4), ..spec() };
    let fp8 = EngineOptions { quantization: Some(Quantization::Fp8), ..EngineOptions::default() };
    assert!(EngineConfig::resolve(&fp8, &spec).is_ok());
    let on_gpu = |options| EngineOptions { on_gpu: true, ..options };
    let message = EngineConfig::resolve(&on_gpu(fp8), &spec).unwrap_err().to_string();
    assert!(message.contains("--quantization fp8 is for wider weights"), "{message}");
    assert!(EngineConfig::resolve(&on_gpu(EngineOptions::default()), &spec).is_ok());
}

#[test]
fn a_megakernel_is_refused_where_there_is_none() {
    let asked = EngineOptions { decode_megakernel: Some(true), ..EngineOptions::default() };
    let on_gpu = EngineOptions { on_gpu: true, ..asked.clone() };
    let megakernel = |options: &EngineOptions| {
        EngineConfig::resolve(options, &spec()).unwrap().decode_megakernel
    };
    assert_eq!(megakernel(&on_gpu), Megakernel::Demanded);
    let never = EngineOptions { decode_megakernel: Some(false), ..on_gpu.clone() };
    assert_eq!(megakernel(&never), Megakernel::Never);
    let unsaid = EngineOptions { decode_megakernel: None, ..on_gpu.clone() };
    assert_eq!(megakernel(&unsaid), Megakernel::WhereMeasured);
    let cases = [
        (asked, "needs a GPU"),
        (EngineOptions { batch_invariant: Some(true), ..on_gpu.clone() }, "--batch-invariant"),
        (
            EngineOptions { quantization: Some(Quantization::Fp8), ..on_gpu.clone() },
            "--quantization",
        ),
        (
            EngineOptions { cudagraph_capture_sizes: Some(Vec::new()), ..on_gpu.clone() },
            "--enforce-eager",
        ),
        (
            EngineOptions { tensor_parallel_size: Some(2), ..on_gpu.clone() },
            "--tensor-parallel-size",
        ),
        (EngineOptions { pooling: Some(Pooling::Last), ..on_gpu }, "models that generate"),
    ];
    for (options, needle) in cases {
        let message = EngineConfig::resolve(&options, &spec()).unwrap_err().to_string();
        assert!(
            message.starts_with("--decode-megakernel ") && message.contains(needle),
            "{message}"
        );
        let unsaid = EngineOptions { decode_megakernel: None, ..options };
        assert_eq!(megakernel(&unsaid), Megakernel::Never, "{needle}");
    }
}

#[test]
fn errors_name_the_flag() {
    let none = EngineOptions::default;
    let cases = [
        (EngineOptions { max_model_len: Some(40_961), ..none() }, "--max-model-len is 40961"),
        (EngineOptions { max_model_len: Some(0), ..none() }, "--max-model-len is 0"),
        (EngineOptions { block_size: Some(0), ..none() }, "--block-size is 0"),
        (EngineOptions { max_num_seqs: Some(0), ..none() }, "--max-num-seqs is 0"),
        (
            EngineOptions { max_num_seqs: Some(9), max_num_batched_tokens: Some(8), ..none() },
            "--max-num-seqs is 9 but must be between 1 and 8",
        ),
        (
            EngineOptions { max_num_batched_tokens: Some(0), ..none() },
            "--max-num-batched-tokens is 0",
        ),
        (
            EngineOptions { tensor_parallel_size: Some(0), ..none() },
            "--tensor-parallel-size is 0 but must be between 1 and 8",
        ),
        (
            EngineOptions { tensor_parallel_size: Some(3), ..none() },
            "cannot be shared out evenly: use 1, 2, 4, 8",
        ),
        (EngineOptions { max_num_queued_reqs: Some(0), ..none() }, "--max-num-queued-reqs"),
        (EngineOptions { max_num_queued_tokens: Some(0), ..none() }, "--max-num-queued-tokens"),
        (EngineOptions { num_gpu_blocks_override: Some(0), ..none() }, "--num-gpu-blocks"),
        (EngineOptions { num_threads: Some(0), ..none() }, "--num-threads is 0"),
        (
            EngineOptions { gpu_memory_utilization: Some(1.5), ..none() },
            "--gpu-memory-utilization is 1.5 but must be above 0",
        ),
        (
            EngineOptions { cudagraph_capture_sizes: Some(vec![1, 65]), ..none() },
            "--cudagraph-capture-sizes is 65 but must be between 1 and 64",
        ),
        (
            EngineOptions { dtype: Some(DType::F16), ..none() },
            "--dtype float16 is not supported on the CPU",
        ),
        (
            EngineOptions { quantization: Some(Quantization::Int8), on_gpu: true, ..none() },
            "--quantization int8 is for the CPU: use fp8",
        ),
    ];
    for (options, needle) in cases {
        let message = EngineConfig::resolve(&options, &spec()).unwrap_err().to_string();
        assert!(message.contains(needle), "{message} does not say {needle}");
    }
    let is_narrow = ModelSpec { quantized: Some(Quantized::Fp8Rows), ..spec() };
    let options = EngineOptions { quantization: Some(Quantization::Int4), ..none() };
    let message = EngineConfig::resolve(&options, &is_narrow).unwrap_err().to_string();
    assert!(message.starts_with("--quantization int4 is for wider weights"), "{message}");
    let encoder = ModelSpec { num_layers: 0, ..spec() };
    for (options, needle) in [
        (EngineOptions { quantization: Some(Quantization::Fp8), ..none() }, "--quantization"),
        (EngineOptions { kv_cache_dtype: Some(DType::F8E4M3), ..none() }, "--kv-cache-dtype"),
    ] {
        let message = EngineConfig::resolve(&options, &encoder).unwrap_err().to_string();
        assert!(message.contains(&format!("{needle} is not for encoders")), "{message}");
    }
}
