//! `sconce bench compare`: two results as ratios, and what was not equal about how they were made.

use std::fmt::Write;

use anyhow::{Result, bail};

use crate::cli::CompareArgs;
use crate::output::say;
use crate::quantity::Metric;
use crate::report::about_rows;
use crate::result::RunResult;
use crate::stored::Stored;

/// Smaller changes are called equal: runs of the same server differ by as much.
const EQUAL_WITHIN: f64 = 0.02;
/// What two runs may differ in and still be comparable.
const INCIDENTAL: [&str; 3] = ["date", "label", "generator"];

/// Prints the comparison.
pub(crate) fn run(args: &CompareArgs) -> Result<()> {
    let (base, new) = (Stored::read(&args.base)?, Stored::read(&args.new)?);
    say(&compare(&base, &new)?)
}

fn compare(base: &Stored, new: &Stored) -> Result<String> {
    let pairs: Vec<(&RunResult, &RunResult)> = match (&base.runs[..], &new.runs[..]) {
        ([base], [new]) => vec![(base, new)],
        (bases, news) => {
            let other = |run: &RunResult| news.iter().find(|new| new.load() == run.load());
            bases.iter().filter_map(|run| Some((run, other(run)?))).collect()
        }
    };
    if pairs.is_empty() {
        bail!("the two have no load in common");
    }
    let mut text = String::new();
    for (base_run, new_run) in &pairs {
        // Writing to a string does not fail.
        let _ = write_pair(&mut text, (base, base_run), (new, new_run));
    }
    let left_out = base.runs.len().max(new.runs.len()) - pairs.len();
    if left_out > 0 {
        let _ = writeln!(text, "\n{left_out} runs have no counterpart of the same load");
    }
    Ok(text)
}

fn write_pair(
    out: &mut String,
    (base, base_run): (&Stored, &RunResult),
    (new, new_run): (&Stored, &RunResult),
) -> std::fmt::Result {
    let load = if base_run.load() == new_run.load() {
        base_run.load()
    } else {
        format!("{} / {}", base_run.load(), new_run.load())
    };
    writeln!(out, "\n{load:<34}{:>14}{:>14}{:>9}", clip(&base.name), clip(&new.name), "ratio")?;
    let mut line = |name: &str, base: f64, new: f64, more_is_better: bool| {
        if base <= 0.0 && new <= 0.0 {
            return Ok(());
        }
        let (ratio, verdict) = judge(base, new, more_is_better);
        writeln!(out, "{name:<34}{base:>14.2}{new:>14.2}{ratio:>9}  {verdict}")
    };
    line("requests/s", base_run.request_throughput, new_run.request_throughput, true)?;
    line("output tokens/s", base_run.output_throughput, new_run.output_throughput, true)?;
    let goodput = |run: &RunResult| run.request_goodput.unwrap_or(0.0);
    line("goodput, requests/s", goodput(base_run), goodput(new_run), true)?;
    for metric in Metric::ALL {
        let (base, new) = (base_run.latency(metric), new_run.latency(metric));
        for (name, base, new) in [
            ("mean", base.mean, new.mean),
            ("median", base.median, new.median),
            ("p99", base.p99, new.p99),
        ] {
            line(&format!("{} {name}, ms", metric.name()), base, new, false)?;
        }
    }
    line("failed requests", base_run.failed as f64, new_run.failed as f64, false)?;
    for (stored, run) in [(base, base_run), (new, new_run)] {
        if run.generator_health.limited {
            writeln!(out, "! the load generator was a limit in {}", stored.name)?;
        }
        if run.interrupted || run.abandoned {
            writeln!(out, "! {} did not run to its end", stored.name)?;
        }
    }
    for (key, base, new) in differences(base_run, new_run) {
        writeln!(out, "! {key} differs: {base} / {new}")?;
    }
    Ok(())
}

/// The end of a name is what tells it from others.
fn clip(name: &str) -> String {
    let length = name.chars().count();
    name.chars().skip(length.saturating_sub(13)).collect()
}

/// `new / base`, and whether that is for the better.
fn judge(base: f64, new: f64, more_is_better: bool) -> (String, &'static str) {
    if base <= 0.0 || new <= 0.0 {
        return ("-".to_owned(), "");
    }
    let ratio = new / base;
    let verdict = if (ratio - 1.0).abs() <= EQUAL_WITHIN {
        ""
    } else if (ratio > 1.0) == more_is_better {
        "better"
    } else {
        "worse"
    };
    (format!("{ratio:.3}"), verdict)
}

/// What is not equal about how two runs were made: name, then both values.
fn differences(base: &RunResult, new: &RunResult) -> Vec<(String, String, String)> {
    let (base, new) = (about_rows(&base.about), about_rows(&new.about));
    let value = |rows: &[(String, String)], key: &str| {
        let found = rows.iter().find(|(name, _)| name == key);
        found.map_or_else(|| "-".to_owned(), |(_, value)| value.clone())
    };
    let mut keys: Vec<&String> = base.iter().chain(&new).map(|(key, _)| key).collect();
    keys.dedup();
    let mut found: Vec<(String, String, String)> = Vec::new();
    for key in keys {
        let (base, new) = (value(&base, key), value(&new, key));
        let known = found.iter().any(|(name, ..)| name == key);
        if base != new && !known && !INCIDENTAL.contains(&key.as_str()) {
            found.push((key.clone(), base, new));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::result::About;

    fn run(users: usize, throughput: f64) -> RunResult {
        let about = About {
            loop_kind: "closed".to_owned(),
            max_concurrency: Some(users),
            date: throughput.to_string(),
            ..About::default()
        };
        RunResult { about, output_throughput: throughput, ..RunResult::default() }
    }

    fn stored(name: &str, runs: Vec<RunResult>) -> Stored {
        Stored { name: name.to_owned(), runs, slo: None }
    }

    #[test]
    fn ratios_verdicts_and_differences() {
        let mut new = run(4, 150.0);
        new.about.seed = 7;
        new.about.server_version = Some("2".to_owned());
        let text = compare(&stored("a", vec![run(4, 100.0)]), &stored("b", vec![new])).unwrap();
        let line = text.lines().find(|line| line.starts_with("output tokens/s")).unwrap();
        assert!(line.contains("1.500") && line.ends_with("better"), "{line}");
        assert!(text.contains("! seed differs: 0 / 7"), "{text}");
        assert!(text.contains("! server_version differs: - / 2"), "{text}");
        assert!(!text.contains("date"), "{text}");
        assert_eq!(judge(10.0, 12.0, false).1, "worse");
        assert_eq!(judge(10.0, 8.0, false).1, "better");
        assert_eq!(judge(10.0, 10.1, false).1, "");
        assert_eq!(judge(0.0, 10.1, false), ("-".to_owned(), ""));
    }

    #[test]
    fn sweeps_are_paired_by_load() {
        let base = stored("a", vec![run(1, 10.0), run(4, 30.0), run(8, 50.0)]);
        let new = stored("b", vec![run(4, 33.0), run(1, 11.0)]);
        let text = compare(&base, &new).unwrap();
        assert_eq!(text.matches("1.100").count(), 2, "{text}");
        assert!(text.contains("1 runs have no counterpart"), "{text}");
        assert!(compare(&base, &stored("c", vec![run(2, 1.0), run(3, 1.0)])).is_err());
    }
}
