//! How a run is going, on stderr: a bar in a terminal, a line now and then elsewhere.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use crate::collect::Collector;
use crate::drive::{Live, Plan};
use crate::quantity::Metric;

const PLAIN_EVERY: Duration = Duration::from_secs(10);

/// Shows one run.
#[derive(Debug)]
pub(crate) struct Progress {
    kind: Kind,
    name: String,
    plan: Option<Plan>,
    begun: Instant,
    /// Events with output, and when they were counted: for the current rate.
    before: (u64, Instant),
    rate: f64,
}

#[derive(Debug)]
enum Kind {
    Quiet,
    Bar(ProgressBar),
    Plain { next: Instant },
}

impl Progress {
    pub(crate) fn new(name: &str, plan: Option<Plan>, quiet: bool) -> Self {
        let now = Instant::now();
        let kind = if quiet {
            Kind::Quiet
        } else if std::io::stderr().is_terminal() {
            let total = plan.map_or(0, |plan| match (plan.requests, plan.duration) {
                (Some(requests), _) => requests as u64,
                (None, duration) => duration.map_or(0, |duration| duration.as_millis() as u64),
            });
            let style = "{prefix} {bar:24} {percent:>3}% {msg}";
            let style = ProgressStyle::with_template(style).expect("the template is a constant");
            Kind::Bar(ProgressBar::new(total).with_style(style).with_prefix(name.to_owned()))
        } else {
            Kind::Plain { next: now + PLAIN_EVERY }
        };
        Self { kind, name: name.to_owned(), plan, begun: now, before: (0, now), rate: 0.0 }
    }

    pub(crate) fn show(&mut self, collector: &Collector, live: &Live, num_events: u64) {
        if matches!(self.kind, Kind::Quiet) {
            return;
        }
        let now = Instant::now();
        let (events, then) = self.before;
        let seconds = now.duration_since(then).as_secs_f64();
        if seconds >= 1.0 {
            self.rate = num_events.saturating_sub(events) as f64 / seconds;
            self.before = (num_events, now);
        }
        let ttft = collector.times(Metric::Ttft);
        let failed = collector.failures().total();
        let message = format!(
            "{} done, {} running{} | {:.0} tok/s | ttft p50 {:.0} ms, p99 {:.0} ms",
            collector.completed(),
            live.running(),
            if failed > 0 { format!(", {failed} FAILED") } else { String::new() },
            self.rate,
            ttft.percentile_ms(50.0),
            ttft.percentile_ms(99.0),
        );
        match &mut self.kind {
            Kind::Quiet => {}
            Kind::Bar(bar) => {
                let done = collector.completed() + failed;
                let by_number = self.plan.is_some_and(|plan| plan.requests.is_some());
                let elapsed = self.begun.elapsed().as_millis() as u64;
                bar.set_position(if by_number { done as u64 } else { elapsed });
                bar.set_message(message);
            }
            Kind::Plain { next } => {
                if now >= *next {
                    *next = now + PLAIN_EVERY;
                    let elapsed = self.begun.elapsed().as_secs();
                    eprintln!("{} {elapsed:>4} s: {message}", self.name);
                }
            }
        }
    }

    pub(crate) fn end(self) {
        if let Kind::Bar(bar) = self.kind {
            bar.finish_and_clear();
        }
    }
}
