//! Results for people: a block for each run, a line each for a sweep.

use std::fmt::Write;

use crate::histogram::Summary;
use crate::quantity::Metric;
use crate::result::RunResult;

const WIDTH: usize = 78;

/// One run in full.
pub(crate) fn run(result: &RunResult) -> String {
    let mut text = String::new();
    // Writing to a string does not fail.
    let _ = write_run(&mut text, result);
    text
}

fn write_run(out: &mut String, result: &RunResult) -> std::fmt::Result {
    let title = format!(" {} of {}: {} ", result.about.model_id, result.about.url, result.load());
    writeln!(out, "\n{title:=^WIDTH$}")?;
    if result.interrupted {
        writeln!(out, "INTERRUPTED: unfinished requests are left out")?;
    }
    let mut line = |name: &str, value: String| writeln!(out, "{name:<44}{value:>16}");
    line("Successful requests", result.completed.to_string())?;
    line("Failed requests", result.failed.to_string())?;
    line("Duration (s)", format!("{:.2}", result.duration))?;
    line("Input tokens", result.total_input_tokens.to_string())?;
    line("Output tokens", result.total_output_tokens.to_string())?;
    line("Request throughput (req/s)", format!("{:.2}", result.request_throughput))?;
    if let Some(goodput) = result.request_goodput {
        line("Request goodput (req/s)", format!("{goodput:.2}"))?;
    }
    line("Output token throughput (tok/s)", format!("{:.2}", result.output_throughput))?;
    line("Total token throughput (tok/s)", format!("{:.2}", result.total_token_throughput))?;
    line("Peak output tokens in a second", format!("{:.0}", result.max_output_tokens_per_s))?;
    line("Peak concurrent requests", result.max_concurrent_requests.to_string())?;
    writeln!(
        out,
        "\n{:<28}{:>10}{:>10}{:>10}{:>10}{:>10}",
        "(ms)", "mean", "median", "p90", "p99", "max"
    )?;
    for metric in Metric::ALL {
        let title = format!("{} ({})", metric.title(), metric.name());
        write_times(out, &title, result.latency(metric))?;
    }
    write_times(out, "Sent late (send_lag)", &result.generator_health.send_lag)?;
    for failures in &result.errors_by_kind {
        let (count, kind) = (failures.count, failures.kind.name());
        writeln!(out, "\n{count} x {kind}, the first: {}", failures.first)?;
    }
    for note in &result.notes {
        writeln!(out, "\nNote: {note}")?;
    }
    writeln!(out, "{:=<WIDTH$}", "")
}

fn write_times(out: &mut String, title: &str, times: &Summary) -> std::fmt::Result {
    if times.count == 0 {
        return writeln!(out, "{title:<28}{:>10}", "-");
    }
    write!(out, "{title:<28}")?;
    for ms in [times.mean, times.median, times.p90, times.p99, times.max] {
        write!(out, "{ms:>10.2}")?;
    }
    writeln!(out)
}

/// Runs side by side.
pub(crate) fn sweep(results: &[RunResult]) -> String {
    let mut text = String::new();
    let _ = write_sweep(&mut text, results);
    text
}

fn write_sweep(out: &mut String, results: &[RunResult]) -> std::fmt::Result {
    writeln!(
        out,
        "{:<26}{:>9}{:>10}{:>11}{:>11}{:>11}{:>8}",
        "load", "req/s", "tok/s", "ttft p50", "ttft p99", "tpot p99", "failed"
    )?;
    for result in results {
        let (ttft, tpot) = (&result.ttft, &result.tpot);
        let lim = if result.generator_health.limited { " !" } else { "" };
        writeln!(
            out,
            "{:<26}{:>9.2}{:>10.1}{:>11.1}{:>11.1}{:>11.2}{:>8}{lim}",
            result.load(),
            result.request_throughput,
            result.output_throughput,
            ttft.median,
            ttft.p99,
            tpot.p99,
            result.failed
        )?;
    }
    if results.iter().any(|result| result.generator_health.limited) {
        writeln!(out, "! the load generator itself was a limit")?;
    }
    Ok(())
}
