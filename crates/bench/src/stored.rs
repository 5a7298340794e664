//! Results as they lie in files: one run, or several with what a search found.

use std::path::Path;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::histogram::Summary;
use crate::quantity::Metric;
use crate::result::{About, RunResult};

/// A benchmark of one or more runs.
#[derive(Debug, Clone)]
pub(crate) struct Stored {
    /// The label, or the file's name.
    pub(crate) name: String,
    pub(crate) runs: Vec<RunResult>,
    /// What `--slo` found.
    pub(crate) slo: Option<Value>,
}

impl Stored {
    /// Reads what `--output` wrote.
    pub(crate) fn read(path: &Path) -> Result<Self> {
        let show = path.display();
        let text = std::fs::read_to_string(path).with_context(|| format!("{show}"))?;
        let json = serde_json::from_str(&text).with_context(|| format!("{show} is not JSON"))?;
        let file = path.file_stem().map(|stem| stem.to_string_lossy().into_owned());
        Self::from_json(&json, file.unwrap_or_default()).with_context(|| format!("{show}"))
    }

    fn from_json(json: &Value, file: String) -> Result<Self> {
        let runs = match &json["runs"] {
            Value::Array(runs) => runs.clone(),
            _ => vec![json.clone()],
        };
        let runs: Result<Vec<RunResult>> = runs.into_iter().map(run_from_json).collect();
        let runs = runs.context("not a result of `bench serve`")?;
        let Some(first) = runs.first() else { bail!("holds no run") };
        let slo = json.get("slo").cloned();
        Ok(Self { name: first.about.label.clone().unwrap_or(file), runs, slo })
    }
}

/// A run of ours, or one of vLLM's, which has the flat names only.
fn run_from_json(json: Value) -> Result<RunResult> {
    if json["request_throughput"].as_f64().is_none() {
        bail!("`request_throughput` is missing");
    }
    let theirs = json.get("ttft").is_none();
    let flat = |statistic: &str, metric: Metric| {
        json[format!("{statistic}_{}_ms", metric.name())].as_f64().unwrap_or(0.0)
    };
    let summary = |metric| Summary {
        mean: flat("mean", metric),
        median: flat("median", metric),
        std: flat("std", metric),
        p90: flat("p90", metric),
        p95: flat("p95", metric),
        p99: flat("p99", metric),
        ..Summary::default()
    };
    let [ttft, tpot, itl, e2el] = Metric::ALL.map(summary);
    let run: RunResult = serde_json::from_value(json)?;
    if !theirs {
        return Ok(run);
    }
    // To vLLM a closed loop is an infinite rate with a limit on concurrency.
    let closed = run.about.request_rate == "inf" && run.about.max_concurrency.is_some();
    let loop_kind = if closed { "closed" } else { "open" }.to_owned();
    let about = About { loop_kind, ..run.about };
    Ok(RunResult { about, ttft, tpot, itl, e2el, ..run })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quantity::Statistic;
    use serde_json::json;

    #[test]
    fn one_run_or_several() {
        let mut run = RunResult { completed: 3, ..RunResult::default() };
        let read = |json: &Value| Stored::from_json(json, "file".to_owned());
        let one = read(&run.to_json()).unwrap();
        assert_eq!((one.name.as_str(), &one.runs[..]), ("file", &[run.clone()][..]));
        run.about.label = Some("mine".to_owned());
        let several = read(&json!({"runs": [run.to_json(), run.to_json()], "slo": {}})).unwrap();
        assert_eq!((several.name.as_str(), several.runs.len()), ("mine", 2));
        assert!(several.slo.is_some());
        let theirs = json!({"date": "20251123-101112", "backend": "vllm", "model_id": "m",
            "request_rate": "inf", "burstiness": 1.0, "max_concurrency": 8, "num_prompts": 100,
            "duration": 3.5, "completed": 100, "failed": 0, "request_throughput": 28.5,
            "request_goodput": null, "output_throughput": 3000.0, "mean_ttft_ms": 20.0,
            "median_ttft_ms": 19.0, "p99_ttft_ms": 40.0, "median_tpot_ms": 8.0,
            "errors": [""], "ttfts": [0.02], "input_lens": [3]});
        let theirs = read(&theirs).unwrap().runs.remove(0);
        assert_eq!((theirs.load().as_str(), theirs.completed), ("8 users", 100));
        assert_eq!((theirs.ttft.p99, theirs.tpot.median), (40.0, 8.0));
        let ttft = |percent| theirs.ttft.statistic(Statistic::Percentile(percent));
        assert_eq!([50.0, 90.0, 99.0].map(ttft), [19.0, 40.0, 40.0], "the next that it has");
        assert!(read(&json!({"runs": []})).is_err());
        let error = format!("{:#}", read(&json!({"mean_ttft_ms": 3})).unwrap_err());
        assert!(error.contains("request_throughput"), "{error}");
    }
}
