//! The command line, as typed. Names follow vLLM's where it has one.

use crate::chat::ChatArgs;
pub(crate) use crate::flag_values::{
    CacheDtypeKind, CpuIsaKind, DtypeKind, LoadFormat, LogFormat, PoolingKind, QuantizationKind,
    Runner,
};
use clap::{Args, Parser, Subcommand};
use engine::device::DeviceKind;
use serde::{Deserialize, Deserializer, Serialize};
use std::num::{NonZeroU32, NonZeroU64};
use std::path::PathBuf;

/// An LLM inference server in one binary. Without a command it serves the embedded demo model.
#[derive(Debug, Parser)]
#[command(name = "sconce", version, max_term_width = 100)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
    /// `sconce` alone is `sconce serve`.
    #[command(flatten)]
    pub(crate) serve: ServeArgs,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Serve one or several models over the OpenAI API.
    Serve(Box<ServeArgs>),
    /// Talk to a model in the terminal, in this process or on a server.
    Chat(Box<ChatArgs>),
    /// Print the memory plan without loading weights.
    Plan(Box<ServeArgs>),
    /// Make keys for `--api-keys-file`.
    Keys {
        /// What to do.
        #[command(subcommand)]
        command: KeysCommand,
    },
    /// Measure servers under load: latency, throughput, the highest rate within limits.
    Bench {
        /// What to measure.
        #[command(subcommand)]
        command: BenchCommand,
    },
    /// Examine a server: would its answers break clients of the OpenAI API?
    Doctor(bench::doctor::DoctorArgs),
}

/// `sconce keys`.
#[derive(Debug, Subcommand)]
pub(crate) enum KeysCommand {
    /// Print a fresh key, which is kept nowhere, and the lines for the keys file.
    New {
        /// Who it is for: the label in metrics and in the access log.
        #[arg(long)]
        name: String,
        /// Print the entry as JSON.
        #[arg(long)]
        json: bool,
    },
}

/// What to measure.
#[derive(Debug, Subcommand)]
pub(crate) enum BenchCommand {
    /// Benchmarks of servers, over HTTP.
    #[command(flatten)]
    Server(bench::cli::BenchCommand),
    /// Measure the engine without HTTP: tokens per second, everything at once.
    Throughput(Box<EngineBench<bench::cli::ThroughputArgs>>),
    /// Measure the engine without HTTP: the time of a batch.
    Latency(Box<EngineBench<bench::cli::LatencyArgs>>),
    /// Measure the machine, and what the engine reaches of what it can do.
    Roofline(Box<EngineBench<bench::cli::RooflineArgs>>),
}

/// `sconce bench throughput` and `latency`: what is measured, and of what.
#[derive(Debug, Args)]
pub(crate) struct EngineBench<A: Args> {
    #[command(flatten)]
    pub(crate) bench: A,
    /// The model, and how to run it.
    #[command(flatten)]
    pub(crate) serve: ServeArgs,
}

/// Every setting of a server. The same names are keys of the configuration file (`--config`);
/// the environment is stronger than the file, a flag stronger than the environment.
#[derive(Debug, Clone, Default, Args, Serialize, Deserialize)]
#[serde(default, rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) struct ServeArgs {
    /// Hugging Face id (org/name), a local folder, or `spark`, the embedded demo model (default).
    /// Several are served side by side, each with a share of the memory.
    #[arg(value_name = "MODEL", env = "SCONCE_MODEL", value_delimiter = ',')]
    #[serde(deserialize_with = "one_or_several")]
    pub(crate) model: Option<Vec<String>>,

    /// The same as MODEL, as a flag; may be repeated.
    #[arg(id = "model_flag", long = "model", value_name = "MODEL", conflicts_with = "model")]
    #[serde(skip)]
    pub(crate) model_flag: Option<Vec<String>>,

    /// `[[models]]` of the configuration file: models with settings of their own.
    #[arg(skip)]
    pub(crate) models: Option<Vec<toml::Table>>,

    /// TOML file with any of these settings, e.g. `max-num-seqs = 64`.
    #[arg(long, env = "SCONCE_CONFIG", value_name = "FILE")]
    #[serde(skip)]
    pub(crate) config: Option<PathBuf>,

    /// Names that clients may use for the model; the first one is reported.
    #[arg(long, env = "SCONCE_SERVED_MODEL_NAME", num_args = 1.., value_delimiter = ',')]
    #[serde(deserialize_with = "one_or_several")]
    pub(crate) served_model_name: Option<Vec<String>>,

    /// Branch, tag or commit on the hub.
    #[arg(long, env = "SCONCE_REVISION")]
    pub(crate) revision: Option<String>,

    /// Where hub downloads go (default: the Hugging Face cache).
    #[arg(long, env = "SCONCE_DOWNLOAD_DIR", value_name = "DIR")]
    pub(crate) download_dir: Option<PathBuf>,

    /// Address to listen on [default: 127.0.0.1]
    #[arg(long, env = "SCONCE_HOST")]
    pub(crate) host: Option<String>,

    // Not SCONCE_PORT: Kubernetes sets that to tcp://... for a service named sconce.
    /// Port to listen on; 0 picks a free one [default: 8000]
    #[arg(long, env = "SCONCE_HTTP_PORT")]
    pub(crate) port: Option<u16>,

    /// Listen on a unix socket at this path; --host and --port do not count then.
    #[arg(long, env = "SCONCE_UDS", value_name = "PATH")]
    pub(crate) uds: Option<PathBuf>,

    /// Permissions of the unix socket, in octal [default: 660]
    #[arg(long, env = "SCONCE_UDS_MODE", value_name = "MODE")]
    pub(crate) uds_mode: Option<String>,

    /// Serve in TLS with this certificate chain, in PEM. Read again when it changes, and on SIGHUP.
    #[arg(long, env = "SCONCE_SSL_CERTFILE", value_name = "FILE")]
    pub(crate) ssl_certfile: Option<PathBuf>,

    /// The certificate's key, in PEM, not encrypted [default: in the file of the certificate]
    #[arg(long, env = "SCONCE_SSL_KEYFILE", value_name = "FILE")]
    pub(crate) ssl_keyfile: Option<PathBuf>,

    /// Authorities of client certificates, in PEM.
    #[arg(long, env = "SCONCE_SSL_CA_CERTS", value_name = "FILE")]
    pub(crate) ssl_ca_certs: Option<PathBuf>,

    /// Client certificates: 0 not asked for, 1 checked if shown, 2 required [default: 2 with CAs, else 0]
    #[arg(long, env = "SCONCE_SSL_CERT_REQS", value_name = "0|1|2")]
    pub(crate) ssl_cert_reqs: Option<u8>,

    /// Connections at once; more get 503 [default: 16384, or what `ulimit -n` leaves room for]
    #[arg(long, env = "SCONCE_MAX_CONNECTIONS")]
    pub(crate) max_connections: Option<NonZeroU32>,

    /// Key that clients must send as a bearer token; may be repeated.
    #[arg(long, env = "SCONCE_API_KEY", hide_env_values = true, value_delimiter = ',')]
    pub(crate) api_key: Option<Vec<String>>,

    /// TOML or JSON file of hashed keys with scopes and limits, read again at SIGHUP.
    #[arg(long, env = "SCONCE_API_KEYS_FILE", value_name = "FILE")]
    pub(crate) api_keys_file: Option<PathBuf>,

    /// Ask for a key of the scope `metrics` at /metrics, too.
    #[arg(long, env = "SCONCE_GUARD_METRICS", num_args = 0..=1)]
    #[arg(require_equals = true, default_missing_value = "true")]
    pub(crate) guard_metrics: Option<bool>,

    /// Write a line of JSON for each request to this file, or to the standard output (`-`).
    #[arg(long, env = "SCONCE_ACCESS_LOG", value_name = "FILE")]
    pub(crate) access_log: Option<PathBuf>,

    /// Have the texts of requests and answers in the access log, up to 64 KiB of each.
    #[arg(long, env = "SCONCE_ACCESS_LOG_BODIES", num_args = 0..=1)]
    #[arg(require_equals = true, default_missing_value = "true")]
    pub(crate) access_log_bodies: Option<bool>,

    /// Browser origins that may call the server [default: *]
    #[arg(long, env = "SCONCE_ALLOWED_ORIGINS", num_args = 1.., value_delimiter = ',')]
    pub(crate) allowed_origins: Option<Vec<String>>,

    /// Where the model runs: cpu, cuda, cuda:N, or auto for a GPU if there is one [default: auto]
    #[arg(long, env = "SCONCE_DEVICE", value_name = "DEVICE")]
    pub(crate) device: Option<DeviceKind>,

    /// GPUs that share out each layer of a model, from that of --device on [default: 1]
    #[arg(long, visible_alias = "tp", env = "SCONCE_TENSOR_PARALLEL_SIZE", value_name = "N")]
    pub(crate) tensor_parallel_size: Option<usize>,

    /// Share of a GPU's memory that is used, of 1 [default: 0.9]
    #[arg(long, env = "SCONCE_GPU_MEMORY_UTILIZATION", value_name = "SHARE")]
    pub(crate) gpu_memory_utilization: Option<f64>,

    /// Numbers of sequences whose decode steps are recorded as CUDA graphs [default: a dozen on a GPU]
    #[arg(long, env = "SCONCE_CUDAGRAPH_CAPTURE_SIZES", value_delimiter = ',', value_name = "N")]
    pub(crate) cudagraph_capture_sizes: Option<Vec<usize>>,

    /// Record no decode steps: each operation is asked for by itself.
    #[arg(long, env = "SCONCE_ENFORCE_EAGER", num_args = 0..=1, require_equals = true)]
    #[arg(default_missing_value = "true")]
    pub(crate) enforce_eager: Option<bool>,

    /// Recorded decode steps of up to 8 sequences as one launch each [default: on a Hopper GPU, if the model fits]
    #[arg(long, env = "SCONCE_DECODE_MEGAKERNEL", num_args = 0..=1, require_equals = true)]
    #[arg(default_missing_value = "true")]
    pub(crate) decode_megakernel: Option<bool>,

    /// Data type of weights, activations and cache [default: auto, the checkpoint's own]
    #[arg(long, env = "SCONCE_DTYPE")]
    pub(crate) dtype: Option<DtypeKind>,

    /// What linear layers are brought to while they are loaded: fp8, on the CPU int8 or int4 [default: fp8 if stored so, or the dtype]
    #[arg(long, env = "SCONCE_QUANTIZATION")]
    pub(crate) quantization: Option<QuantizationKind>,

    /// Data type of the key-value cache [default: auto, that of the activations]
    #[arg(long, env = "SCONCE_KV_CACHE_DTYPE")]
    pub(crate) kv_cache_dtype: Option<CacheDtypeKind>,

    /// Where weights come from: the checkpoint, or random numbers of its shape [default: auto]
    #[arg(long, env = "SCONCE_LOAD_FORMAT")]
    pub(crate) load_format: Option<LoadFormat>,

    /// Seed of dummy weights and of requests that name none [default: 0 and random]
    #[arg(long, env = "SCONCE_SEED")]
    pub(crate) seed: Option<u64>,

    /// Longest context, prompt and answer together, in tokens [default: the model's]
    #[arg(long, env = "SCONCE_MAX_MODEL_LEN")]
    pub(crate) max_model_len: Option<usize>,

    /// Sequences that may run at once.
    #[arg(long, env = "SCONCE_MAX_NUM_SEQS")]
    pub(crate) max_num_seqs: Option<usize>,

    /// Tokens of one step, prompts and answers together.
    #[arg(long, env = "SCONCE_MAX_NUM_BATCHED_TOKENS")]
    pub(crate) max_num_batched_tokens: Option<usize>,

    /// Requests that may wait before further ones are refused with 429.
    #[arg(long, env = "SCONCE_MAX_NUM_QUEUED_REQS")]
    pub(crate) max_num_queued_reqs: Option<usize>,

    /// Tokens that the prompts of waiting requests may have together before further ones are refused
    /// with 429 [default: no bound]
    #[arg(long, env = "SCONCE_MAX_NUM_QUEUED_TOKENS", value_name = "TOKENS")]
    pub(crate) max_num_queued_tokens: Option<usize>,

    /// Tokens of one block of the key-value cache.
    #[arg(long, env = "SCONCE_BLOCK_SIZE")]
    pub(crate) block_size: Option<usize>,

    /// Bytes of the key-value cache; K, M, G and KiB, MiB, GiB are understood.
    #[arg(long, env = "SCONCE_KV_CACHE_MEMORY_BYTES")]
    pub(crate) kv_cache_memory_bytes: Option<String>,

    /// Blocks of the key-value cache, instead of a size in bytes.
    #[arg(long, env = "SCONCE_NUM_GPU_BLOCKS_OVERRIDE")]
    pub(crate) num_gpu_blocks_override: Option<usize>,

    /// Share the cache of equal prompt beginnings [default: true]
    #[arg(long, env = "SCONCE_ENABLE_PREFIX_CACHING", num_args = 0..=1, require_equals = true)]
    #[arg(default_missing_value = "true", overrides_with = "no_enable_prefix_caching")]
    pub(crate) enable_prefix_caching: Option<bool>,

    /// Do not share the cache of equal prompt beginnings.
    #[arg(long)]
    #[serde(skip)]
    pub(crate) no_enable_prefix_caching: bool,

    /// Chat template, as a file or as the text itself (default: the model's own).
    #[arg(long, env = "SCONCE_CHAT_TEMPLATE")]
    pub(crate) chat_template: Option<String>,

    /// How the model writes tool calls, by vLLM's names, or `none` [default: by its chat template]
    #[arg(long, env = "SCONCE_TOOL_CALL_PARSER", value_name = "NAME")]
    pub(crate) tool_call_parser: Option<String>,

    /// How the model marks reasoning, by vLLM's names, or `none` [default: by its chat template]
    #[arg(long, env = "SCONCE_REASONING_PARSER", value_name = "NAME")]
    pub(crate) reasoning_parser: Option<String>,

    /// Honour `chat_template` in requests. Rendering is bounded, but it is the client's program.
    #[arg(long, env = "SCONCE_TRUST_REQUEST_CHAT_TEMPLATE", num_args = 0..=1)]
    #[arg(require_equals = true, default_missing_value = "true")]
    pub(crate) trust_request_chat_template: Option<bool>,

    /// What the model is for [default: auto, by its files: pooling if it is made for embeddings]
    #[arg(long, env = "SCONCE_RUNNER")]
    pub(crate) runner: Option<Runner>,

    /// What an embedding is made of [default: as sentence-transformers' files say]
    #[arg(long, env = "SCONCE_POOLING_TYPE")]
    pub(crate) pooling_type: Option<PoolingKind>,

    /// Lengths that `dimensions` may ask for: `any`, or e.g. 256,512 [default: as config.json says]
    #[arg(long, env = "SCONCE_MATRYOSHKA_DIMENSIONS", value_name = "LENGTHS")]
    pub(crate) matryoshka_dimensions: Option<String>,

    /// Cut inputs that are too long for an embedding instead of refusing them.
    #[arg(long, env = "SCONCE_AUTO_TRUNCATE", num_args = 0..=1)]
    #[arg(require_equals = true, default_missing_value = "true")]
    pub(crate) auto_truncate: Option<bool>,

    /// Most tokens of an answer guessed ahead in a step and checked in it, from its own text or its
    /// grammar; the text stays the same. 0 guesses none [default: 16]
    #[arg(long, env = "SCONCE_NUM_SPECULATIVE_TOKENS", value_name = "TOKENS")]
    pub(crate) num_speculative_tokens: Option<usize>,

    /// Small model of the same vocabulary that guesses tokens ahead: an id or a folder, as MODEL.
    #[arg(long, env = "SCONCE_DRAFT_MODEL", value_name = "MODEL")]
    pub(crate) draft_model: Option<String>,

    /// Guess ahead even where it was measured not to pay, e.g. to compare.
    #[arg(long, env = "SCONCE_SPECULATE_ALWAYS", num_args = 0..=1)]
    #[arg(require_equals = true, default_missing_value = "true")]
    pub(crate) speculate_always: Option<bool>,

    /// Measure at the start what the device can do (a second), and count in /metrics what steps ask
    /// of it, of models that generate.
    #[arg(long, env = "SCONCE_ENABLE_MFU_METRICS", num_args = 0..=1, require_equals = true)]
    #[arg(default_missing_value = "true")]
    pub(crate) enable_mfu_metrics: Option<bool>,

    /// Ask for a step before the one before it is read, so that no device waits [default: on GPUs]
    #[arg(long, env = "SCONCE_ASYNC_SCHEDULING", num_args = 0..=1, require_equals = true)]
    #[arg(default_missing_value = "true", overrides_with = "no_async_scheduling")]
    pub(crate) async_scheduling: Option<bool>,

    /// Read each step before the next is asked for.
    #[arg(long, overrides_with = "async_scheduling")]
    #[serde(skip)]
    pub(crate) no_async_scheduling: bool,

    /// The same text in any batch on a GPU, too, for some of the speed [default: on the CPU alone]
    #[arg(long, env = "SCONCE_BATCH_INVARIANT", num_args = 0..=1, require_equals = true)]
    #[arg(default_missing_value = "true")]
    pub(crate) batch_invariant: Option<bool>,

    /// Instructions that the CPU computes with at most, for equal results of unlike processors [default: all it has]
    #[arg(long, env = "SCONCE_MAX_CPU_ISA", value_name = "ISA")]
    pub(crate) max_cpu_isa: Option<CpuIsaKind>,

    /// Threads that compute [default: the number of cores]
    #[arg(long, env = "SCONCE_NUM_THREADS")]
    pub(crate) num_threads: Option<usize>,

    /// Seconds after which a silent stream gets a comment, so that no proxy takes it for dead; less
    /// than the proxies' time-out [default: 15]
    #[arg(long, env = "SCONCE_HEARTBEAT_INTERVAL", value_name = "SECONDS")]
    pub(crate) heartbeat_interval: Option<NonZeroU64>,

    /// Seconds after SIGTERM in which requests are still taken while /ready says 503, so that load
    /// balancers see it in time [default: 0]
    #[arg(long, env = "SCONCE_DRAIN_DELAY", value_name = "SECONDS")]
    pub(crate) drain_delay: Option<u64>,

    /// Seconds that running requests get to finish after that [default: 30]
    #[arg(long, env = "SCONCE_DRAIN_TIMEOUT", value_name = "SECONDS")]
    pub(crate) drain_timeout: Option<u64>,

    /// What is logged, e.g. `info`, `debug` or `engine=debug` [default: info]
    #[arg(long, env = "SCONCE_LOG_LEVEL")]
    pub(crate) log_level: Option<String>,

    /// Log lines for people or as JSON [default: pretty]
    #[arg(long, env = "SCONCE_LOG_FORMAT")]
    pub(crate) log_format: Option<LogFormat>,
}

/// A text, or a list of texts.
fn one_or_several<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Vec<String>>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "a text or a list of texts")]
    enum Given {
        One(String),
        Several(Vec<String>),
    }
    Ok(Some(match Given::deserialize(from)? {
        Given::One(text) => vec![text],
        Given::Several(texts) => texts,
    }))
}
