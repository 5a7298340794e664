//! Prometheus' text format 0.0.4, and OpenMetrics 1.0 made of it.

use std::fmt::{self, Write};

use super::histogram::Buckets;

/// Prometheus 3 refuses a scrape whose type is not exactly this.
pub(crate) const TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";
/// For those who ask for it.
pub(crate) const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The text as it grows, family by family.
#[derive(Debug)]
pub(crate) struct Page {
    out: String,
}

/// The samples of one family.
pub(crate) struct Samples<'a> {
    out: &'a mut String,
    name: &'a str,
}

impl Page {
    pub(crate) fn new(num_models: usize) -> Self {
        // About what a model takes; a page that does not fit grows.
        Self { out: String::with_capacity((num_models + 1) << 16) }
    }

    /// A family; one without samples is left out.
    pub(crate) fn family(
        &mut self,
        (kind, name, help): (&str, &str, &str),
        samples: impl FnOnce(&mut Samples<'_>),
    ) {
        let begin = self.out.len();
        write(&mut self.out, format_args!("# HELP {name} {help}\n# TYPE {name} {kind}\n"));
        let head = self.out.len();
        samples(&mut Samples { out: &mut self.out, name });
        if self.out.len() == head {
            self.out.truncate(begin);
        }
    }

    pub(crate) fn finish(self) -> String {
        self.out
    }
}

impl Samples<'_> {
    /// `labels` as they stand between the braces, values escaped.
    pub(crate) fn add(&mut self, labels: impl fmt::Display, value: f64) {
        let name = self.name;
        write(self.out, format_args!("{name}{{{labels}}} {value}\n"));
    }

    /// Without labels.
    pub(crate) fn plain(&mut self, value: f64) {
        let name = self.name;
        write(self.out, format_args!("{name} {value}\n"));
    }

    pub(super) fn histogram(&mut self, labels: &str, buckets: &Buckets<'_>) {
        let name = self.name;
        let mut total = 0;
        for (bound, count) in buckets.bounds.iter().zip(&buckets.counts) {
            total += count;
            write(self.out, format_args!("{name}_bucket{{{labels},le=\"{bound}\"}} {total}\n"));
        }
        total += buckets.counts[buckets.bounds.len()];
        let sum = buckets.sum;
        write(
            self.out,
            format_args!(
                "{name}_bucket{{{labels},le=\"+Inf\"}} {total}\n{name}_sum{{{labels}}} {sum}\n\
                 {name}_count{{{labels}}} {total}\n"
            ),
        );
    }
}

/// The same page for a reader of OpenMetrics: counters' families are called without `_total`, and the
/// end is marked.
pub(crate) fn open_metrics(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 8);
    let mut lines = text.lines().peekable();
    while let Some(line) = lines.next() {
        let kind = if line.starts_with("# HELP ") { lines.peek() } else { Some(&line) };
        let is_counter =
            kind.is_some_and(|kind| kind.starts_with("# TYPE ") && kind.ends_with(" counter"));
        let line = if is_counter { line.replacen("_total ", " ", 1) } else { line.to_owned() };
        out.push_str(&line);
        out.push('\n');
    }
    out.push_str("# EOF\n");
    out
}

fn write(out: &mut String, text: fmt::Arguments<'_>) {
    out.write_fmt(text).expect("a string takes any text");
}

/// A label value as the formats want it.
pub(super) fn escape(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::histogram::Histogram;
    use std::time::Duration;

    #[test]
    fn histograms_are_cumulative_and_count_the_bound_itself() {
        let histogram = Histogram::new(&[0.001, 0.0025, 0.005, 640.0]);
        for millis in [1, 3, 700_000] {
            histogram.observe(Duration::from_millis(millis));
        }
        let mut page = Page::new(0);
        let labels = format!("model_name=\"{}\"", escape("a\"b"));
        page.family(("histogram", "x", "Of y."), |samples| {
            samples.histogram(&labels, &histogram.times());
        });
        page.family(("gauge", "z", "Of nothing."), |_| {});
        let model = "model_name=\"a\\\"b\"";
        let bucket = |bound: &str, total| format!("x_bucket{{{model},le=\"{bound}\"}} {total}\n");
        let expected = "# HELP x Of y.\n# TYPE x histogram\n".to_owned()
            + &[("0.001", 1), ("0.0025", 1), ("0.005", 2), ("640", 2), ("+Inf", 3)]
                .map(|(bound, total)| bucket(bound, total))
                .concat()
            + &format!("x_sum{{{model}}} 700.004\nx_count{{{model}}} 3\n");
        assert_eq!(page.finish(), expected);
    }

    #[test]
    fn open_metrics_calls_counters_by_their_family() {
        let text = "# HELP a_total All a_total there is.\n# TYPE a_total counter\na_total 1\n\
                    # HELP b_total Of b.\n# TYPE b_total histogram\nb_total_count 0\n";
        let expected = "# HELP a All a_total there is.\n# TYPE a counter\na_total 1\n\
                        # HELP b_total Of b.\n# TYPE b_total histogram\nb_total_count 0\n# EOF\n";
        assert_eq!(open_metrics(text), expected);
    }
}
