//! `sconce bench serve`: looks at the server, then warms it up and measures it at each load.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::cli::ServeArgs;
use crate::collect::{Collector, RunFacts};
use crate::cpu::CpuClock;
use crate::drive::{Ended, Live, Load, Plan, drive};
use crate::interrupt::watch_for_interrupt;
use crate::output::say;
use crate::progress::Progress;
use crate::quantity::Rate;
use crate::report;
use crate::result::{About, RunResult};
use crate::server::Server;
use crate::slo;
use crate::stored::Stored;
use crate::table;
use crate::workload::Workload;

pub(crate) const DEFAULT_DURATION: Duration = Duration::from_secs(30);
const MOST_DEFAULT_WARMUPS: usize = 8;
/// Sessions of a run; the next run begins with another number.
const SESSIONS_OF_A_RUN: u64 = 1 << 32;
/// Warm-ups have numbers of their own.
const WARMUP_SESSIONS: u64 = 1 << 62;

/// Runs to the end or to Ctrl-C.
pub(crate) fn run(args: &ServeArgs) -> Result<()> {
    check(args)?;
    block_on(async {
        let bench = Bench::connect(args).await?;
        let outcome =
            if args.slo.is_empty() { bench.sweep().await } else { slo::search(&bench).await? };
        bench.publish(&outcome)?;
        outcome.ended
    })
}

/// Runs on this thread alone.
pub(crate) fn block_on<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.context("the network cannot be used")?.block_on(work)
}

fn check(args: &ServeArgs) -> Result<()> {
    if !(args.burstiness > 0.0 && args.burstiness.is_finite()) {
        bail!("--burstiness {}: wants a number above 0", args.burstiness);
    }
    if args.concurrency.contains(&0) {
        bail!("--concurrency 0: wants at least 1");
    }
    if args.rate.len() > 1 && args.concurrency.len() > 1 {
        bail!("--rate and --concurrency: only one of them can be a list");
    }
    if args.rate.iter().any(|rate| rate.mean().is_infinite()) && args.requests.is_none() {
        bail!("--rate inf sends everything at once: say how many with --requests");
    }
    if args.requests == Some(0) {
        bail!("--requests 0: wants at least 1");
    }
    Ok(())
}

/// What a benchmark gave, and what ended it before its time: a server that dies in the third run
/// must not cost the first two.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) runs: Vec<RunResult>,
    /// What `--slo` found.
    pub(crate) slo: Option<Value>,
    pub(crate) ended: Result<()>,
}

/// A server, what to ask it and what was typed.
pub(crate) struct Bench<'a> {
    pub(crate) args: &'a ServeArgs,
    server: Arc<Server>,
    workload: Arc<Workload>,
    stop: watch::Receiver<bool>,
}

impl<'a> Bench<'a> {
    pub(crate) async fn connect(args: &'a ServeArgs) -> Result<Self> {
        Self::connect_with(args, watch_for_interrupt()?).await
    }

    /// `stop` ends a measurement when it becomes true.
    pub(crate) async fn connect_with(
        args: &'a ServeArgs,
        stop: watch::Receiver<bool>,
    ) -> Result<Self> {
        let server = Arc::new(Server::connect(args).await?);
        let workload = Arc::new(Workload::new(args, &server).await?);
        Ok(Self { args, server, workload, stop })
    }

    pub(crate) fn is_stopped(&self) -> bool {
        *self.stop.borrow()
    }

    /// Every load that was asked for, in order.
    pub(crate) async fn sweep(&self) -> Outcome {
        let mut runs = Vec::new();
        for (number, load) in loads(self.args).into_iter().enumerate() {
            let run = self.measure(load, self.args.duration, number as u64, &|_| false).await;
            match run {
                Err(error) => return Outcome { runs, slo: None, ended: Err(error) },
                Ok(run) => {
                    self.say(&table::run(&run));
                    runs.push(run);
                }
            }
            if self.is_stopped() {
                break;
            }
        }
        Outcome { runs, slo: None, ended: Ok(()) }
    }

    /// Warms up and measures one load, until `is_lost` says that it is no use.
    pub(crate) async fn measure(
        &self,
        load: Load,
        duration: Option<Duration>,
        number: u64,
        is_lost: &dyn Fn(&Collector) -> bool,
    ) -> Result<RunResult> {
        let default = if self.args.requests.is_none() { Some(DEFAULT_DURATION) } else { None };
        let plan = Plan {
            load,
            requests: self.args.requests,
            duration: duration.or(default),
            seed: self.args.seed,
            first_session: number * SESSIONS_OF_A_RUN,
        };
        let mut about = self.about(&plan);
        let name = about_load(&about);
        about.num_warmups = self.warm_up(load, number).await?;

        let mut collector = Collector::new(self.args.goodput.clone(), self.args.save_detailed);
        let live = Arc::new(Live::default());
        let mut progress = Progress::new(&name, Some(plan), self.args.quiet);
        let opened = self.server.client.num_opened();
        let clock = CpuClock::start();
        let target = (&self.server, &self.workload);
        let shown = (&live, &mut progress);
        let stop = self.stop.clone();
        let ended = drive(target, plan, stop, shown, &mut collector, is_lost).await;
        let cpu = clock.stop();
        progress.end();

        let mut notes = self.workload.notes();
        if ended == Ended::Hopeless {
            notes.push("the run was given up: nothing but failures".to_owned());
        }
        let facts = RunFacts {
            interrupted: ended == Ended::Interrupted,
            abandoned: ended == Ended::Abandoned,
            max_running: live.max_running(),
            connections: self.server.client.num_opened() - opened,
            cpu,
            notes,
        };
        Ok(collector.finish(about, &facts))
    }

    /// Requests that are not measured: caches, clocks and connections come up to speed.
    async fn warm_up(&self, load: Load, number: u64) -> Result<usize> {
        let users = match load {
            Load::Closed(users) => users,
            Load::Open { cap, .. } => cap.unwrap_or(1),
        };
        let default = users.min(MOST_DEFAULT_WARMUPS);
        let requests = self.args.warmup.unwrap_or(default);
        if requests == 0 || self.is_stopped() {
            return Ok(0);
        }
        let plan = Plan {
            load: Load::Closed(users.min(requests)),
            requests: Some(requests),
            duration: None,
            seed: self.args.seed,
            first_session: WARMUP_SESSIONS + number * SESSIONS_OF_A_RUN,
        };
        let mut collector = Collector::default();
        let live = Arc::new(Live::default());
        let mut progress = Progress::new("warm-up", Some(plan), self.args.quiet);
        let shown = (&live, &mut progress);
        let target = (&self.server, &self.workload);
        let stop = self.stop.clone();
        let ended = drive(target, plan, stop, shown, &mut collector, &|_| false).await;
        progress.end();
        let failures = collector.failures().list();
        if let (Ended::Done | Ended::Hopeless, 0, Some(first)) =
            (ended, collector.completed(), failures.first())
        {
            bail!("every warm-up request failed ({}): {}", first.kind.name(), first.first);
        }
        Ok(requests)
    }

    fn about(&self, plan: &Plan) -> About {
        let args = self.args;
        let (loop_kind, request_rate, burstiness, max_concurrency) = match plan.load {
            Load::Closed(users) => ("closed", json!("inf"), 1.0, Some(users)),
            Load::Open { rate, burstiness, cap } => ("open", rate_json(rate), burstiness, cap),
        };
        let joined = |items: Vec<String>| (!items.is_empty()).then(|| items.join(","));
        let random = args.dataset.is_none();
        let output = args.output_tokens.map(|range| range.to_string());
        About {
            date: now(),
            endpoint_type: self.server.api.endpoint_type().to_owned(),
            label: args.label.clone(),
            model_id: self.server.model.clone(),
            tokenizer_id: args.tokenizer.as_ref().map(|path| path.display().to_string()),
            url: args.url.clone(),
            server_version: self.server.version.clone(),
            generator: concat!("sconce ", env!("CARGO_PKG_VERSION")).to_owned(),
            num_prompts: plan.requests,
            duration_limit: plan.duration.map(|duration| duration.as_secs_f64()),
            request_rate,
            burstiness,
            max_concurrency,
            loop_kind: loop_kind.to_owned(),
            num_warmups: 0,
            input_tokens: random.then(|| args.input_tokens.to_string()),
            output_tokens: output.or_else(|| random.then(|| "128".to_owned())),
            prefix: (args.prefix_tokens > 0).then_some((
                args.prefix_tokens,
                args.prefixes,
                args.prefix_share,
            )),
            turns: args.turns.to_string(),
            think_time: args.think_time.as_secs_f64(),
            dataset: args.dataset.as_ref().map(|path| path.display().to_string()),
            token_source: self.workload.token_source().and_then(name_of),
            ignore_eos: self.server.fields.ignore_eos,
            extra_body: args.extra_body.clone(),
            goodput: joined(args.goodput.iter().map(ToString::to_string).collect()),
            seed: args.seed,
        }
    }

    /// Shows something for people: on stdout, unless the JSON goes there. Whoever reads it may leave: the
    /// results are written all the same.
    pub(crate) fn say(&self, text: &str) {
        if self.args.output.as_deref() == Some(Path::new("-")) {
            eprint!("{text}");
        } else {
            drop(say(text));
        }
    }

    /// Writes what was asked for. A benchmark without a single answer is an error.
    pub(crate) fn publish(&self, outcome: &Outcome) -> Result<()> {
        let (results, slo) = (&outcome.runs[..], outcome.slo.as_ref());
        if results.is_empty() {
            return Ok(());
        }
        if results.len() > 1 {
            self.say(&format!("\n{}", table::sweep(results)));
        }
        if let Some(path) = &self.args.output {
            write_json(path, &to_json(results, slo))?;
        }
        if let Some(path) = &self.args.report {
            let name = self.args.label.clone().unwrap_or_else(|| self.server.model.clone());
            let stored = Stored { name, runs: results.to_vec(), slo: slo.cloned() };
            let show = path.display();
            std::fs::write(path, report::html(&[stored]))
                .with_context(|| format!("--report {show}"))?;
            self.say(&format!("\nreport: {show}\n"));
        }
        if results.iter().all(|result| result.completed == 0 && !result.interrupted) {
            bail!("no request was answered");
        }
        Ok(())
    }
}

/// One run as it is; several, or a search, as `{"runs": [...]}`.
fn to_json(results: &[RunResult], slo: Option<&Value>) -> Value {
    let runs: Vec<_> = results.iter().map(RunResult::to_json).collect();
    match (slo, results) {
        (None, [result]) => result.to_json(),
        (None, _) => json!({"runs": runs}),
        (Some(slo), _) => json!({"slo": slo, "runs": runs}),
    }
}

pub(crate) fn write_json(path: &Path, json: &Value) -> Result<()> {
    let text = serde_json::to_string_pretty(json).context("the result as JSON")? + "\n";
    if path == Path::new("-") {
        return say(&text);
    }
    std::fs::write(path, text).with_context(|| format!("--output {}", path.display()))
}

fn rate_json(rate: Rate) -> Value {
    if rate.from == rate.to && rate.from.is_finite() {
        json!(rate.from)
    } else {
        json!(rate.to_string())
    }
}

fn name_of(source: crate::workload::TokenSource) -> Option<String> {
    serde_json::to_value(source).ok()?.as_str().map(str::to_owned)
}

/// As vLLM writes it.
pub(crate) fn now() -> String {
    let time = jiff::ZonedDateTime::now().datetime();
    jiff::fmt::strtime::format("%Y%m%d-%H%M%S", time).unwrap_or_default()
}

fn about_load(about: &About) -> String {
    RunResult { about: about.clone(), ..RunResult::default() }.load()
}

/// The loads that were typed. Without any: one user.
fn loads(args: &ServeArgs) -> Vec<Load> {
    let burstiness = args.burstiness;
    if args.rate.is_empty() {
        let users = if args.concurrency.is_empty() { &[1][..] } else { &args.concurrency };
        return users.iter().map(|&users| Load::Closed(users)).collect();
    }
    let caps: Vec<_> = if args.concurrency.is_empty() {
        vec![None]
    } else {
        args.concurrency.iter().copied().map(Some).collect()
    };
    let each = |&rate: &Rate| {
        caps.iter().map(move |&cap| Load::Open { rate, burstiness, cap }).collect::<Vec<_>>()
    };
    args.rate.iter().flat_map(each).collect()
}
