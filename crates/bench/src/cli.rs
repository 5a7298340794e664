//! `sconce bench` as typed. What runs the engine in this process also takes the settings of a
//! server, which are the binary's: it joins them.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, FromArgMatches, Subcommand, ValueEnum};

use crate::api::Api;
use crate::quantity::{Objective, Rate, RequestLimit, TokenRange, parse_duration};

/// What to measure.
#[derive(Debug, Subcommand)]
pub enum BenchCommand {
    /// Put a server under load over HTTP and measure latencies and throughput.
    #[command(after_long_help = SERVE_HELP)]
    Serve(Box<ServeArgs>),
    /// Compare two results, ours or those of `vllm bench serve`, as ratios.
    Compare(CompareArgs),
    /// Measure the start of a server: to listening, to ready, to the first token.
    Startup(StartupArgs),
    /// Make the HTML report of results written with --output.
    Report(ReportArgs),
    /// Measure this load generator itself, against a server that does nothing but stream.
    Generator(GeneratorArgs),
}

const SERVE_HELP: &str = "\
HOW THE LOAD IS MADE
  Closed loop (--concurrency): that many users, each sends its next request when the last one is
  answered. It finds throughput. It cannot show what waiting users feel: a slow server gets fewer
  requests.
  Open loop (--rate): requests are due at times drawn before the run, whatever the server does.
  It finds latency under a given load. With --concurrency as well, that many at most run at once.

WHAT IS MEASURED
  ttft   from when the request was due to the first event with text, reasoning or a tool call.
         An event with an empty text (the role, in chat) is no token.
  tpot   (last event - first event) / (output tokens - 1), by the server's count of tokens
  itl    between two events that carry output. A server may put several tokens in one.
  e2el   from when the request was due to the end of the answer
  Percentiles come from a histogram of every value, exact to 0.1 %; means are exact.

FAILURES
  Nothing is retried. Failed requests are counted by kind, with the first message of each, and are in
  no other figure. A user of a closed loop who is refused pauses first, as Retry-After says. A run
  of nothing but failures is given up. Ctrl-C shows what there is.

COORDINATED OMISSION
  If a generator waits because the server is slow, and measures only from when it got to send, the
  requests that would have suffered most are missing from its figures. Here every latency of an
  open loop begins when the request was DUE by the schedule, sent or not. How late requests were
  sent is in the result as send_lag; where the generator itself was the limit, the result says so.

EXAMPLES
  sconce bench serve --url http://localhost:8000 --concurrency 1,4,16,64 --report sweep.html
  sconce bench serve --url http://localhost:8000 --rate 4 --burstiness 0.5 --duration 2m
  sconce bench serve --url http://localhost:8000 --slo ttft_p99=500ms,tpot_p99=30ms
  sconce bench serve --url http://localhost:8000 --turns 2..6 --prefix-tokens 512 --prefixes 4";

/// `sconce bench serve`.
#[derive(Debug, Clone, Args)]
pub struct ServeArgs {
    /// The server, with or without /v1.
    #[arg(long, visible_alias = "base-url", default_value = "http://127.0.0.1:8000")]
    #[arg(help_heading = "Server")]
    pub(crate) url: String,

    /// Which API of it.
    #[arg(long, value_enum, default_value = "chat", help_heading = "Server")]
    pub(crate) api: Api,

    /// Model name to send [default: the first that the server lists]
    #[arg(long, help_heading = "Server")]
    pub(crate) model: Option<String>,

    /// Key sent as a bearer token.
    #[arg(long, env = "OPENAI_API_KEY", hide_env_values = true, help_heading = "Server")]
    pub(crate) api_key: Option<String>,

    /// Further header, `Name: value`; may be repeated.
    #[arg(long, value_name = "HEADER", help_heading = "Server")]
    pub(crate) header: Vec<String>,

    /// JSON object laid over every request, e.g. '{"temperature": 0}'.
    #[arg(long, value_name = "JSON", help_heading = "Server")]
    pub(crate) extra_body: Option<String>,

    /// Longest time for one request.
    #[arg(long, value_parser = parse_duration, default_value = "10m", help_heading = "Server")]
    pub(crate) timeout: Duration,

    /// Users of a closed loop; a list is a sweep: 1,4,16. With --rate: most requests at once.
    #[arg(long, visible_alias = "max-concurrency", value_name = "N", value_delimiter = ',')]
    #[arg(help_heading = "Load")]
    pub(crate) concurrency: Vec<usize>,

    /// Requests per second of an open loop: 4, or inf; a list is a sweep: 1,2,4; 1..16 rises evenly.
    #[arg(long, visible_alias = "request-rate", value_name = "RATE", value_delimiter = ',')]
    #[arg(help_heading = "Load")]
    pub(crate) rate: Vec<Rate>,

    /// Shape of the gamma distributed intervals: 1 is Poisson, below it come bursts, above it is even.
    #[arg(long, default_value_t = 1.0, value_name = "SHAPE", help_heading = "Load")]
    pub(crate) burstiness: f64,

    /// Requests (conversations, with --turns) of each run.
    #[arg(long, visible_alias = "num-prompts", value_name = "N", help_heading = "Load")]
    pub(crate) requests: Option<usize>,

    /// Time in which requests of a run begin [default: 30s, if --requests is not given]
    #[arg(long, value_parser = parse_duration, help_heading = "Load")]
    pub(crate) duration: Option<Duration>,

    /// Requests before each run that are not measured [default: the concurrency, at most 8]
    #[arg(long, visible_alias = "num-warmups", value_name = "N", help_heading = "Load")]
    pub(crate) warmup: Option<usize>,

    /// Everything random follows from it. A second run with the same seed asks the same, which the
    /// server may have in its prefix cache.
    #[arg(long, default_value_t = 0, help_heading = "Load")]
    pub(crate) seed: u64,

    /// Tokens of each prompt as the server counts them, chat template included: 512 or 64..1024.
    #[arg(long, visible_alias = "random-input-len", default_value = "256", value_name = "RANGE")]
    #[arg(help_heading = "Prompts and answers")]
    pub(crate) input_tokens: TokenRange,

    /// Tokens of each answer: 128 or 64..256 [default: 128, or as the dataset says]
    #[arg(long, visible_alias = "random-output-len", value_name = "RANGE")]
    #[arg(help_heading = "Prompts and answers")]
    pub(crate) output_tokens: Option<TokenRange>,

    /// Keep the model from ending early; auto: if the server takes the field.
    #[arg(long, value_enum, default_value = "auto", help_heading = "Prompts and answers")]
    pub(crate) ignore_eos: IgnoreEos,

    /// Tokens of a beginning that prompts share, before those of --input-tokens.
    #[arg(long, default_value_t = 0, value_name = "N", help_heading = "Prompts and answers")]
    pub(crate) prefix_tokens: usize,

    /// How many different shared beginnings there are.
    #[arg(long, default_value_t = 1, value_name = "N", help_heading = "Prompts and answers")]
    pub(crate) prefixes: usize,

    /// Share of the prompts that have one, 0 to 1; the others get a beginning of their own.
    #[arg(long, default_value_t = 1.0, value_name = "SHARE", help_heading = "Prompts and answers")]
    pub(crate) prefix_share: f64,

    /// Turns of each conversation: 4 or 2..6. Every turn sends all before it, with the answers.
    #[arg(long, default_value = "1", value_name = "RANGE", help_heading = "Prompts and answers")]
    pub(crate) turns: TokenRange,

    /// Pause of the user between an answer and the next turn.
    #[arg(long, value_parser = parse_duration, default_value = "0s")]
    #[arg(help_heading = "Prompts and answers")]
    pub(crate) think_time: Duration,

    /// Prompts from a file: ShareGPT's JSON, or JSONL with `prompt` or `messages` a line.
    #[arg(long, value_name = "FILE", help_heading = "Prompts and answers")]
    pub(crate) dataset: Option<PathBuf>,

    /// tokenizer.json of the model [default: the server's /tokenize, else its usage counts]
    #[arg(long, value_name = "FILE", help_heading = "Prompts and answers")]
    pub(crate) tokenizer: Option<PathBuf>,

    /// Limits that make a request a good one: ttft=200ms,tpot=20ms,e2el=2s
    #[arg(long, value_delimiter = ',', num_args = 1.., value_name = "LIMITS")]
    #[arg(help_heading = "Results")]
    pub(crate) goodput: Vec<RequestLimit>,

    /// Find the highest rate that meets these: ttft_p99=500ms,tpot_p99=30ms,errors=1%
    #[arg(long, value_delimiter = ',', num_args = 1.., value_name = "OBJECTIVES")]
    #[arg(conflicts_with_all = ["rate", "requests"], help_heading = "Results")]
    pub(crate) slo: Vec<Objective>,

    /// Where the search for --slo begins, in requests per second.
    #[arg(long, default_value_t = 1.0, requires = "slo", value_name = "RATE")]
    #[arg(help_heading = "Results")]
    pub(crate) slo_start: f64,

    /// How close the search for --slo gets: 0.05 is 5 %.
    #[arg(long, default_value_t = 0.05, requires = "slo", value_name = "SHARE")]
    #[arg(help_heading = "Results")]
    pub(crate) slo_tolerance: f64,

    /// Write the result as JSON, in the field names of `vllm bench serve`; `-` is stdout.
    #[arg(long, short, visible_alias = "result-filename", value_name = "FILE")]
    #[arg(help_heading = "Results")]
    pub(crate) output: Option<PathBuf>,

    /// Write a report with charts: one HTML file that needs no network.
    #[arg(long, value_name = "FILE", help_heading = "Results")]
    pub(crate) report: Option<PathBuf>,

    /// Put every request into the JSON: ttfts, itls, input_lens, output_lens, start_times, errors.
    #[arg(long, help_heading = "Results")]
    pub(crate) save_detailed: bool,

    /// Name of the run in tables and reports.
    #[arg(long, help_heading = "Results")]
    pub(crate) label: Option<String>,

    /// Show no progress.
    #[arg(long, short, help_heading = "Results")]
    pub(crate) quiet: bool,
}

impl Default for ServeArgs {
    /// As if nothing had been typed.
    fn default() -> Self {
        let command = Self::augment_args(clap::Command::new("serve").no_binary_name(true));
        let matches = command.get_matches_from(std::iter::empty::<&str>());
        Self::from_arg_matches(&matches).expect("nothing has to be typed")
    }
}

/// `--ignore-eos`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum IgnoreEos {
    /// If the server takes the field.
    Auto,
    /// Fail if it does not.
    Always,
    /// Answers end where the model ends them.
    Never,
}

/// `sconce bench compare`.
#[derive(Debug, Args)]
pub struct CompareArgs {
    /// Result to compare with.
    pub(crate) base: PathBuf,
    /// Result that is compared.
    pub(crate) new: PathBuf,
}

/// `sconce bench report`.
#[derive(Debug, Args)]
pub struct ReportArgs {
    /// Results as --output wrote them; several are drawn into the same charts.
    #[arg(required = true)]
    pub(crate) results: Vec<PathBuf>,
    /// The HTML file to write.
    #[arg(long, short, default_value = "report.html")]
    pub(crate) output: PathBuf,
}

/// `sconce bench startup`.
#[derive(Debug, Args)]
pub struct StartupArgs {
    /// How often it is started.
    #[arg(long, default_value_t = 5)]
    pub(crate) runs: usize,
    /// Where the command will listen [default: a free port, and `--port` given to this program]
    #[arg(long, requires = "program")]
    pub(crate) url: Option<String>,
    /// Key sent as a bearer token.
    #[arg(long, env = "OPENAI_API_KEY", hide_env_values = true)]
    pub(crate) api_key: Option<String>,
    /// Path that answers 200 when the model is loaded [default: /ready, then /health]
    #[arg(long, value_name = "PATH")]
    pub(crate) ready_path: Option<String>,
    /// Longest time for one start.
    #[arg(long, value_parser = parse_duration, default_value = "10m")]
    pub(crate) timeout: Duration,
    /// Write the result as JSON; `-` is stdout.
    #[arg(long, short, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
    /// Command line to start [default: this program with its embedded model]
    #[arg(last = true, value_name = "COMMAND")]
    pub(crate) program: Vec<String>,
}

/// `sconce bench throughput`: what is asked of the engine.
#[derive(Debug, Args)]
pub struct ThroughputArgs {
    /// Sequences.
    #[arg(long, visible_alias = "num-prompts", default_value_t = 100, value_name = "N")]
    pub(crate) requests: usize,
    /// Tokens of each prompt: 256 or 64..1024.
    #[arg(long, visible_alias = "input-len", default_value = "256", value_name = "RANGE")]
    pub(crate) input_tokens: TokenRange,
    /// Tokens of each answer: 128 or 64..256.
    #[arg(long, visible_alias = "output-len", default_value = "128", value_name = "RANGE")]
    pub(crate) output_tokens: TokenRange,
    /// What prompts and lengths follow from.
    #[arg(long, default_value_t = 0, value_name = "SEED")]
    pub(crate) prompt_seed: u64,
    /// Write the result as JSON.
    #[arg(long, short, visible_alias = "output-json", value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
}

/// `sconce bench latency`: what is asked of the engine.
#[derive(Debug, Args)]
pub struct LatencyArgs {
    /// Sequences of a batch.
    #[arg(long, default_value_t = 8, value_name = "N")]
    pub(crate) batch_size: usize,
    /// Tokens of each prompt: 32 or 64..1024.
    #[arg(long, visible_alias = "input-len", default_value = "32", value_name = "RANGE")]
    pub(crate) input_tokens: TokenRange,
    /// Tokens of each answer: 128 or 64..256.
    #[arg(long, visible_alias = "output-len", default_value = "128", value_name = "RANGE")]
    pub(crate) output_tokens: TokenRange,
    /// Batches that are measured.
    #[arg(long, visible_alias = "num-iters", default_value_t = 10, value_name = "N")]
    pub(crate) iterations: usize,
    /// Batches before them.
    #[arg(long, visible_alias = "num-iters-warmup", default_value_t = 2, value_name = "N")]
    pub(crate) warmup_iterations: usize,
    /// What prompts and lengths follow from.
    #[arg(long, default_value_t = 0, value_name = "SEED")]
    pub(crate) prompt_seed: u64,
    /// Write the result as JSON.
    #[arg(long, short, visible_alias = "output-json", value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
}

/// `sconce bench roofline`: which loads.
#[derive(Debug, Args)]
pub struct RooflineArgs {
    /// Sequences that generate at once, those past --max-num-seqs left out.
    #[arg(long, value_delimiter = ',', default_values_t = [1, 4, 16, 32, 64, 128, 256])]
    #[arg(value_name = "N,N..")]
    pub(crate) streams: Vec<usize>,
    /// Tokens of each of their prompts.
    #[arg(long, visible_alias = "input-len", default_value_t = 32, value_name = "N")]
    pub(crate) input_tokens: usize,
    /// Tokens of each of their answers.
    #[arg(long, visible_alias = "output-len", default_value_t = 48, value_name = "N")]
    pub(crate) output_tokens: usize,
    /// Tokens of prompts that are computed alone, those past --max-model-len left out.
    #[arg(long, value_delimiter = ',', default_values_t = [512, 4096], value_name = "N,N..")]
    pub(crate) prompts: Vec<usize>,
    /// Write the result as JSON; `-` is stdout.
    #[arg(long, short, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
}

/// `sconce bench generator`.
#[derive(Debug, Args)]
pub struct GeneratorArgs {
    /// Streams at once.
    #[arg(long, default_value_t = 64)]
    pub(crate) concurrency: usize,
    /// Chunks of each stream.
    #[arg(long, default_value_t = 1000)]
    pub(crate) chunks: usize,
    /// How long it runs.
    #[arg(long, value_parser = parse_duration, default_value = "5s")]
    pub(crate) duration: Duration,
}
