//! Which charts a report has.

use serde_json::Value;

use crate::quantity::{Metric, Objective, Statistic};
use crate::result::RunResult;
use crate::stored::Stored;

use super::chart::{Axis, Chart, Series, short};

fn axis(label: &str, log: bool) -> Axis {
    Axis { label: label.to_owned(), log }
}

/// What tells a run from the others of a report.
pub(super) fn run_name(run: &RunResult, stored: &[Stored]) -> String {
    let of = stored.iter().find(|benchmark| benchmark.runs.iter().any(|other| other == run));
    match of {
        Some(benchmark) if stored.len() > 1 => format!("{}, {}", benchmark.name, run.load()),
        _ => run.load(),
    }
}

/// Throughput against latency, and latency against load: a line for each benchmark of several runs.
pub(super) fn sweep(stored: &[Stored]) -> Vec<Chart> {
    let throughput = |run: &RunResult| Some(run.output_throughput);
    let mut charts = Vec::new();
    for metric in [Metric::Ttft, Metric::Tpot] {
        let title = format!("{} against throughput", metric.title());
        let chart = latency_chart(stored, metric, title, throughput);
        charts.push(Chart { x: axis("output tokens per second", false), ..chart });
    }
    let by_rate = stored.iter().flat_map(|b| &b.runs).any(|run| run.offered_rate().is_some());
    let label = if by_rate { "requests per second asked" } else { "users" };
    let load = move |run: &RunResult| {
        let users = run.about.max_concurrency.map(|users| users as f64);
        if by_rate { run.offered_rate() } else { users }
    };
    for metric in [Metric::Ttft, Metric::E2el] {
        let title = format!("{} against load", metric.title());
        let chart = latency_chart(stored, metric, title, load);
        charts.push(Chart { x: axis(label, true), ..chart });
    }
    charts.push(throughput_chart(stored, axis(label, true), load));
    charts.retain(|chart| chart.series.iter().any(|series| series.points.len() > 1));
    charts
}

/// Whether a run's figures can stand beside others: of one that was given up, only the requests
/// that were quick are known.
fn is_whole(run: &RunResult) -> bool {
    run.completed > 0 && !run.abandoned
}

fn latency_chart(
    stored: &[Stored],
    metric: Metric,
    title: String,
    x: impl Fn(&RunResult) -> Option<f64>,
) -> Chart {
    let mut series = Vec::new();
    for (colour, benchmark) in stored.iter().enumerate() {
        for (statistic, name, dashed) in [
            (Statistic::Percentile(99.0), "p99", false),
            (Statistic::Percentile(50.0), "p50", true),
        ] {
            let runs = || benchmark.runs.iter().filter(|run| is_whole(run));
            let value = |run: &RunResult| run.latency(metric).statistic(statistic);
            let tip = |run: &RunResult| {
                let (load, tokens) = (run.load(), short(run.output_throughput));
                format!("{load}: {tokens} tok/s, {} {name} {} ms", metric.name(), short(value(run)))
            };
            series.push(Series {
                name: of(benchmark, stored, name),
                points: runs().filter_map(|run| Some((x(run)?, value(run)))).collect(),
                tips: runs().filter(|run| x(run).is_some()).map(tip).collect(),
                colour,
                dashed,
            });
        }
    }
    let limits = stored.iter().filter_map(|benchmark| benchmark.slo.as_ref());
    Chart {
        title,
        caption: "Every dot is a run. Down and to the right is better.".to_owned(),
        y: axis("milliseconds", true),
        series,
        limits: limits.flat_map(|slo| objectives(slo, metric)).collect(),
        ..Chart::default()
    }
}

fn throughput_chart(
    stored: &[Stored],
    x_axis: Axis,
    x: impl Fn(&RunResult) -> Option<f64>,
) -> Chart {
    let series = stored.iter().enumerate().map(|(colour, benchmark)| Series {
        name: of(benchmark, stored, "output"),
        points: benchmark
            .runs
            .iter()
            .filter(|run| is_whole(run))
            .filter_map(|run| Some((x(run)?, run.output_throughput)))
            .collect(),
        tips: benchmark
            .runs
            .iter()
            .filter(|run| is_whole(run) && x(run).is_some())
            .map(|run| format!("{}: {} tok/s", run.load(), short(run.output_throughput)))
            .collect(),
        colour,
        dashed: false,
    });
    Chart {
        title: "Throughput against load".to_owned(),
        caption: "Where the line bends, the server is at its limit.".to_owned(),
        x: x_axis,
        y: axis("output tokens per second", false),
        series: series.collect(),
        ..Chart::default()
    }
}

fn of(benchmark: &Stored, stored: &[Stored], name: &str) -> String {
    if stored.len() > 1 { format!("{} {name}", benchmark.name) } else { name.to_owned() }
}

/// The limits on a metric, with their names.
fn objectives(slo: &Value, metric: Metric) -> Vec<(f64, String)> {
    let all = slo["objectives"].as_str().unwrap_or_default().split(',');
    all.filter_map(|text| match text.parse().ok()? {
        Objective::Latency { metric: of, limit, .. } if of == metric => {
            Some((limit.as_secs_f64() * 1e3, text.to_owned()))
        }
        _ => None,
    })
    .collect()
}

/// Each metric's cumulative distribution, a line a run.
pub(super) fn distributions(stored: &[Stored]) -> Vec<Chart> {
    let runs = || stored.iter().flat_map(|benchmark| &benchmark.runs);
    let each = |metric: Metric| {
        let with_values = runs().enumerate().filter(|(_, run)| run.latency(metric).count > 0);
        let series: Vec<_> = with_values
            .map(|(colour, run)| {
                let percents = (0..=100).map(f64::from).chain([99.9, 99.99]);
                let curve = run.latency(metric).curve.iter().copied();
                // The lowest value of all would stretch the scale for nothing.
                let mut points: Vec<_> = curve.zip(percents).skip(1).collect();
                points.sort_by(|a, b| a.1.total_cmp(&b.1));
                Series { name: run_name(run, stored), points, colour, ..Series::default() }
            })
            .collect();
        Chart {
            title: metric.title().to_owned(),
            caption: "Share of the values that are at most so long.".to_owned(),
            x: axis("milliseconds", true),
            y: axis("percent", false),
            series,
            ..Chart::default()
        }
    };
    Metric::ALL.map(each).into_iter().filter(|chart| !chart.series.is_empty()).collect()
}

/// Throughput, requests running and time to first token over a run.
pub(super) fn timeline(run: &RunResult) -> Vec<Chart> {
    let timeline = &run.timeline;
    if timeline.running.len() < 2 {
        return Vec::new();
    }
    let time = |index: usize| index as f64 * timeline.interval_s;
    let line = |values: &[f64], colour: usize| Series {
        points: values.iter().enumerate().map(|(index, value)| (time(index), *value)).collect(),
        colour,
        ..Series::default()
    };
    let chart = |title: &str, y: &str, series: Series| Chart {
        title: title.to_owned(),
        x: axis("seconds", false),
        y: axis(y, false),
        series: vec![series],
        ..Chart::default()
    };
    let ttft = timeline.ttft_ms.iter().enumerate();
    let ttft = ttft.filter_map(|(index, ms)| Some((time(index), (*ms)?))).collect();
    let ttft = Series { points: ttft, colour: 2, ..Series::default() };
    vec![
        chart("Output throughput", "tokens per second", line(&timeline.output_throughput, 0)),
        chart("Requests running", "requests", line(&timeline.running, 1)),
        Chart {
            caption: "By when the requests were due.".to_owned(),
            ..chart("Mean time to first token", "milliseconds", ttft)
        },
    ]
}
