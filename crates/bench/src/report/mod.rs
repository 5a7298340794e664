//! The HTML report: one file without anything from the network, drawn from results alone, so that
//! it can be made again from the JSON.

mod chart;
mod figures;

use std::fmt::Write;

use crate::quantity::Metric;
use crate::result::{About, RunResult};
use crate::stored::Stored;
use chart::{Chart, escape, short};

const STYLE: &str = include_str!("style.css");

/// A page of one or more benchmarks. Writing to a string does not fail.
pub(crate) fn html(stored: &[Stored]) -> String {
    let mut page = String::new();
    let _ = write_page(&mut page, stored);
    page
}

fn write_page(out: &mut String, stored: &[Stored]) -> std::fmt::Result {
    let runs: Vec<&RunResult> = stored.iter().flat_map(|benchmark| &benchmark.runs).collect();
    let title = title(&runs);
    writeln!(
        out,
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <title>{title}</title>\n<style>\n{STYLE}</style></head>\n<body><main>\n<h1>{title}</h1>",
    )?;
    write_subtitle(out, &runs)?;
    write_searches(out, stored)?;
    if let [run] = runs[..] {
        write_cards(out, run)?;
    }
    write_notes(out, &runs)?;
    if runs.len() > 1 {
        write_charts(out, "Throughput and latency", &figures::sweep(stored))?;
    }
    write_table(out, &runs)?;
    write_charts(out, "Distributions", &figures::distributions(stored))?;
    for run in &runs {
        let name = format!("Over time: {}", figures::run_name(run, stored));
        write_charts(out, &name, &figures::timeline(run))?;
    }
    write_errors(out, &runs)?;
    write_about(out, stored)?;
    writeln!(out, "</main></body></html>")
}

fn title(runs: &[&RunResult]) -> String {
    let mut models: Vec<_> = runs.iter().map(|run| escape(&run.about.model_id)).collect();
    models.dedup();
    format!("{}: load test", models.join(", "))
}

fn write_subtitle(out: &mut String, runs: &[&RunResult]) -> std::fmt::Result {
    let mut parts = Vec::new();
    for about in runs.iter().map(|run| &run.about) {
        let date = about.date.get(..8).map_or_else(String::new, |date| {
            format!("{}-{}-{}", &date[..4], &date[4..6], &date[6..])
        });
        let part = format!("{} ({}), {date}", about.url, about.endpoint_type);
        if !parts.contains(&part) {
            parts.push(part);
        }
    }
    writeln!(out, "<p class=\"subtitle\">{}</p>", escape(&parts.join("; ")))
}

fn write_searches(out: &mut String, stored: &[Stored]) -> std::fmt::Result {
    for slo in stored.iter().filter_map(|benchmark| benchmark.slo.as_ref()) {
        let objectives = escape(slo["objectives"].as_str().unwrap_or_default());
        match slo["max_request_rate"].as_f64() {
            Some(rate) => writeln!(
                out,
                "<p class=\"verdict\">Highest rate within <code>{objectives}</code>: \
                 <strong>{} req/s</strong></p>",
                short(rate)
            )?,
            None => {
                writeln!(out, "<p class=\"verdict\">No rate meets <code>{objectives}</code></p>")?;
            }
        }
    }
    Ok(())
}

fn write_cards(out: &mut String, run: &RunResult) -> std::fmt::Result {
    writeln!(out, "<div class=\"cards\">")?;
    let mut card = |name: &str, value: String, unit: &str| {
        writeln!(out, "<div><b>{value}</b> {unit}<span>{name}</span></div>")
    };
    card("output throughput", short(run.output_throughput), "tok/s")?;
    card("request throughput", short(run.request_throughput), "req/s")?;
    if let Some(goodput) = run.request_goodput {
        card("goodput", short(goodput), "req/s")?;
    }
    card("time to first token, median", short(run.ttft.median), "ms")?;
    card("time to first token, p99", short(run.ttft.p99), "ms")?;
    card("time per output token, median", short(run.tpot.median), "ms")?;
    card("failed", run.failed.to_string(), &format!("of {}", run.failed + run.completed))?;
    writeln!(out, "</div>")
}

fn write_notes(out: &mut String, runs: &[&RunResult]) -> std::fmt::Result {
    let limited = runs.iter().any(|run| run.generator_health.limited);
    let class = if limited { "notes warning" } else { "notes" };
    let mut notes: Vec<String> = Vec::new();
    for run in runs {
        for note in &run.notes {
            let load = if runs.len() > 1 { format!("{}: ", run.load()) } else { String::new() };
            notes.push(format!("{load}{note}"));
        }
        if run.interrupted {
            notes.push(format!("{}: interrupted", run.load()));
        }
        if run.abandoned {
            notes.push(format!("{}: ended early, its objective was lost", run.load()));
        }
    }
    if notes.is_empty() {
        return Ok(());
    }
    writeln!(out, "<ul class=\"{class}\">")?;
    for note in notes {
        writeln!(out, "<li>{}</li>", escape(&note))?;
    }
    writeln!(out, "</ul>")
}

fn write_charts(out: &mut String, title: &str, charts: &[Chart]) -> std::fmt::Result {
    if charts.is_empty() {
        return Ok(());
    }
    writeln!(out, "<h2>{}</h2><div class=\"charts\">", escape(title))?;
    for chart in charts {
        out.push_str(&chart.html());
    }
    writeln!(out, "</div>")
}

fn write_table(out: &mut String, runs: &[&RunResult]) -> std::fmt::Result {
    writeln!(
        out,
        "<h2>Figures</h2><div class=\"scroll\"><table><thead><tr><th>load</th><th>req/s</th>\
         <th>tok/s</th><th>goodput</th><th>done</th><th>failed</th>"
    )?;
    for metric in Metric::ALL {
        let name = metric.name();
        writeln!(out, "<th>{name} mean</th><th>{name} p50</th><th>{name} p99</th>")?;
    }
    writeln!(out, "</tr></thead><tbody>")?;
    for run in runs {
        let goodput = run.request_goodput.map_or_else(|| "-".to_owned(), short);
        let label = run.about.label.as_ref().map(|label| format!("{label}, "));
        writeln!(
            out,
            "<tr><td>{}{}</td><td>{}</td><td>{}</td><td>{goodput}</td><td>{}</td><td>{}</td>",
            escape(&label.unwrap_or_default()),
            escape(&run.load()),
            short(run.request_throughput),
            short(run.output_throughput),
            run.completed,
            run.failed
        )?;
        for metric in Metric::ALL {
            let times = run.latency(metric);
            for ms in [times.mean, times.median, times.p99] {
                write!(out, "<td>{}</td>", short(ms))?;
            }
        }
        writeln!(out, "</tr>")?;
    }
    writeln!(out, "</tbody></table></div><p class=\"caption\">Latencies in milliseconds.</p>")
}

fn write_errors(out: &mut String, runs: &[&RunResult]) -> std::fmt::Result {
    if runs.iter().all(|run| run.errors_by_kind.is_empty()) {
        return Ok(());
    }
    writeln!(
        out,
        "<h2>Failures</h2><table><thead><tr><th>load</th><th>kind</th><th>count</th>\
         <th>first</th></tr></thead><tbody>"
    )?;
    for run in runs {
        for failures in &run.errors_by_kind {
            writeln!(
                out,
                "<tr><td>{}</td><td>{}</td><td>{}</td><td class=\"text\">{}</td></tr>",
                escape(&run.load()),
                failures.kind.name(),
                failures.count,
                escape(&failures.first)
            )?;
        }
    }
    writeln!(out, "</tbody></table>")
}

fn write_about(out: &mut String, stored: &[Stored]) -> std::fmt::Result {
    writeln!(out, "<h2>How it was made</h2>")?;
    for benchmark in stored {
        let Some(run) = benchmark.runs.first() else { continue };
        writeln!(out, "<details><summary>{}</summary><table>", escape(&benchmark.name))?;
        for (key, value) in about_rows(&run.about) {
            let (key, value) = (escape(&key), escape(&value));
            writeln!(out, "<tr><td>{key}</td><td class=\"text\">{value}</td></tr>")?;
        }
        writeln!(out, "</table></details>")?;
    }
    writeln!(
        out,
        "<p class=\"caption\">ttft: from when a request was due to the first event with output. \
         tpot: from the first to the last of them, over the output tokens less one. itl: between \
         two of them. e2el: from due to the end. Percentiles are within 0.1 %.</p>"
    )
}

/// Everything known of how a run was made, with what was not given left out.
pub(crate) fn about_rows(about: &About) -> Vec<(String, String)> {
    let Ok(serde_json::Value::Object(rows)) = serde_json::to_value(about) else {
        return Vec::new();
    };
    let rows = rows.into_iter().filter(|(_, value)| !value.is_null());
    rows.map(|(key, value)| {
        let text = value.as_str().map(str::to_owned);
        (key, text.unwrap_or_else(|| value.to_string()))
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::{FailureCount, FailureKind};
    use crate::histogram::Times;
    use crate::result::Timeline;
    use serde_json::json;
    use std::time::Duration;

    fn run(rate: f64, factor: u64) -> RunResult {
        let mut times = Times::default();
        for ms in 1..200 {
            times.record(Duration::from_millis(ms * factor));
        }
        let about = About {
            model_id: "a<b".to_owned(),
            date: "20260131-235959".to_owned(),
            loop_kind: "open".to_owned(),
            request_rate: json!(rate),
            ..About::default()
        };
        RunResult {
            about,
            completed: 199,
            request_throughput: rate,
            output_throughput: rate * 100.0,
            ttft: times.summary(),
            tpot: times.summary(),
            timeline: Timeline {
                interval_s: 1.0,
                output_throughput: vec![1.0, 2.0],
                running: vec![1.0, 1.0],
                ttft_ms: vec![Some(3.0), None],
                failed: vec![0, 1],
            },
            ..RunResult::default()
        }
    }

    fn page(runs: Vec<RunResult>, slo: Option<serde_json::Value>) -> String {
        html(&[Stored { name: "here".to_owned(), runs, slo }])
    }

    #[test]
    fn a_page_stands_alone_and_shows_everything() {
        let mut failing = run(4.0, 2);
        let first = "HTTP 500: <oops>".to_owned();
        failing.errors_by_kind =
            vec![FailureCount { kind: FailureKind::ServerError, count: 3, first }];
        failing.notes.push("something to know".to_owned());
        let slo = json!({"objectives": "ttft_p99=100ms", "max_request_rate": 2.0});
        let html = page(vec![run(2.0, 1), failing], Some(slo));
        for part in [
            "<svg",
            "a&lt;b",
            "2026-01-31",
            "Time to first token",
            "HTTP 500: &lt;oops&gt;",
            "something to know",
            "2 req/s",
            "ttft_p99=100ms",
            "class=\"limit\"",
            "Over time",
        ] {
            assert!(html.contains(part), "{part} is not in the page");
        }
        for outside in ["http://", "https://", "<script", "<link", "@import", "NaN"] {
            assert!(!html.contains(outside), "{outside} is in the page");
        }
        for tag in ["figure", "svg", "table", "div", "ul", "details"] {
            let count = |text: &str| html.matches(text).count();
            let opened = count(&format!("<{tag}>")) + count(&format!("<{tag} "));
            assert_eq!(opened, count(&format!("</{tag}>")), "{tag}");
        }
    }

    #[test]
    fn runs_without_any_answer_can_be_shown() {
        let html = page(vec![RunResult::default()], None);
        assert!(html.contains("</html>") && !html.contains("NaN"));
    }
}
