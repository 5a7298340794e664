//! Charts as SVG, drawn here so that a report needs nothing from anywhere.

use std::fmt::Write;

const WIDTH: f64 = 560.0;
const HEIGHT: f64 = 300.0;
const LEFT: f64 = 62.0;
const RIGHT: f64 = 16.0;
const TOP: f64 = 14.0;
const BOTTOM: f64 = 44.0;
/// Colours in the style sheet.
const NUM_COLOURS: usize = 8;

/// One chart.
#[derive(Debug, Clone, Default)]
pub(super) struct Chart {
    pub(super) title: String,
    /// What is drawn, and how to read it.
    pub(super) caption: String,
    pub(super) x: Axis,
    pub(super) y: Axis,
    pub(super) series: Vec<Series>,
    /// Horizontal lines: a limit and its name.
    pub(super) limits: Vec<(f64, String)>,
}

/// A direction of it.
#[derive(Debug, Clone, Default)]
pub(super) struct Axis {
    pub(super) label: String,
    pub(super) log: bool,
}

/// A line.
#[derive(Debug, Clone, Default)]
pub(super) struct Series {
    pub(super) name: String,
    pub(super) points: Vec<(f64, f64)>,
    /// Shown at each point when the mouse is over it; without any there are no dots.
    pub(super) tips: Vec<String>,
    pub(super) colour: usize,
    pub(super) dashed: bool,
}

/// From values to pixels.
#[derive(Debug, Clone, Copy)]
struct Scale {
    low: f64,
    high: f64,
    log: bool,
    from: f64,
    to: f64,
}

impl Scale {
    fn new(values: impl Iterator<Item = f64>, log: bool, from: f64, to: f64) -> Self {
        let values = values.filter(|value| value.is_finite() && (!log || *value > 0.0));
        let (mut low, mut high) =
            values.fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), v| (l.min(v), h.max(v)));
        if low > high {
            (low, high) = (1.0, 10.0);
        }
        if log {
            // A flat line lies in the middle of a decade.
            if high / low < 2.0 {
                (low, high) = (low / 2.0, high * 2.0);
            }
        } else {
            low = low.min(0.0);
            high = if high <= low { low + 1.0 } else { high * 1.04 };
        }
        Self { low, high, log, from, to }
    }

    fn pixel(self, value: f64) -> f64 {
        let share = if self.log {
            (value.max(self.low) / self.low).ln() / (self.high / self.low).ln()
        } else {
            (value - self.low) / (self.high - self.low)
        };
        self.from + share.clamp(0.0, 1.0) * (self.to - self.from)
    }

    /// Round values within the scale.
    fn ticks(self) -> Vec<f64> {
        if self.log {
            let decades = self.low.log10().floor() as i32..=self.high.log10().ceil() as i32;
            let steps: &[f64] =
                if self.high / self.low > 200.0 { &[1.0] } else { &[1.0, 2.0, 5.0] };
            let all = decades.flat_map(|d| steps.iter().map(move |s| s * 10f64.powi(d)));
            return all.filter(|tick| (self.low..=self.high).contains(tick)).collect();
        }
        let rough = (self.high - self.low) / 5.0;
        let magnitude = 10f64.powf(rough.log10().floor());
        let step = [1.0, 2.0, 2.5, 5.0, 10.0].map(|s| s * magnitude);
        let step = step.into_iter().find(|step| *step >= rough).unwrap_or(rough);
        let numbers = (self.low / step).ceil() as i64..=(self.high / step).floor() as i64;
        numbers.map(|number| number as f64 * step).collect()
    }
}

/// A number short enough for an axis.
pub(super) fn short(value: f64) -> String {
    let size = value.abs();
    let text = if size >= 1e6 {
        return format!("{}M", short(value / 1e6));
    } else if size >= 1e4 {
        return format!("{}k", short(value / 1e3));
    } else if size >= 100.0 || size == 0.0 {
        return format!("{value:.0}");
    } else if size >= 1.0 {
        format!("{value:.2}")
    } else {
        format!("{value:.4}")
    };
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// Text inside HTML.
pub(super) fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            c => escaped.push(c),
        }
    }
    escaped
}

impl Chart {
    /// The chart with its title and legend, as HTML. Writing to a string does not fail.
    pub(super) fn html(&self) -> String {
        let mut out = String::new();
        let _ = self.write(&mut out);
        out
    }

    fn write(&self, out: &mut String) -> std::fmt::Result {
        let points = || self.series.iter().flat_map(|series| &series.points);
        let x = Scale::new(points().map(|p| p.0), self.x.log, LEFT, WIDTH - RIGHT);
        let limits = self.limits.iter().map(|limit| limit.0);
        let y_values = points().map(|p| p.1).chain(limits);
        let y = Scale::new(y_values, self.y.log, HEIGHT - BOTTOM, TOP);
        writeln!(
            out,
            "<figure><h3>{}</h3><svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" \
             aria-label=\"{}\">",
            escape(&self.title),
            escape(&self.title)
        )?;
        self.write_grid(out, x, y)?;
        for (limit, name) in &self.limits {
            let at = y.pixel(*limit);
            writeln!(
                out,
                "<line class=\"limit\" x1=\"{LEFT}\" x2=\"{}\" y1=\"{at:.1}\" y2=\"{at:.1}\"/>\
                 <text class=\"limit\" x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
                WIDTH - RIGHT,
                WIDTH - RIGHT,
                at - 4.0,
                escape(name)
            )?;
        }
        for series in &self.series {
            series.write(out, x, y)?;
        }
        writeln!(out, "</svg>")?;
        self.write_legend(out)?;
        writeln!(out, "<figcaption>{}</figcaption></figure>", escape(&self.caption))
    }

    fn write_grid(&self, out: &mut String, x: Scale, y: Scale) -> std::fmt::Result {
        let (bottom, right) = (HEIGHT - BOTTOM, WIDTH - RIGHT);
        for tick in y.ticks() {
            let at = y.pixel(tick);
            writeln!(
                out,
                "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{right}\" y1=\"{at:.1}\" y2=\"{at:.1}\"/>\
                 <text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
                LEFT - 6.0,
                at + 4.0,
                short(tick)
            )?;
        }
        for tick in x.ticks() {
            let at = x.pixel(tick);
            writeln!(
                out,
                "<line class=\"grid\" x1=\"{at:.1}\" x2=\"{at:.1}\" y1=\"{TOP}\" y2=\"{bottom}\"/>\
                 <text x=\"{at:.1}\" y=\"{}\" text-anchor=\"middle\">{}</text>",
                bottom + 16.0,
                short(tick)
            )?;
        }
        writeln!(
            out,
            "<text class=\"axis\" x=\"{}\" y=\"{}\" text-anchor=\"middle\">{}</text>\
             <text class=\"axis\" transform=\"translate(14 {}) rotate(-90)\" \
             text-anchor=\"middle\">{}</text>",
            f64::midpoint(LEFT, right),
            HEIGHT - 8.0,
            escape(&self.x.label),
            f64::midpoint(TOP, bottom),
            escape(&self.y.label)
        )
    }

    fn write_legend(&self, out: &mut String) -> std::fmt::Result {
        if self.series.len() < 2 {
            return Ok(());
        }
        write!(out, "<div class=\"legend\">")?;
        for series in &self.series {
            let dash = if series.dashed { " dashed" } else { "" };
            let colour = series.colour % NUM_COLOURS;
            write!(out, "<span><i class=\"c{colour}{dash}\"></i>{}</span>", escape(&series.name))?;
        }
        writeln!(out, "</div>")
    }
}

impl Series {
    fn write(&self, out: &mut String, x: Scale, y: Scale) -> std::fmt::Result {
        let drawn = |scale: Scale, value: f64| value.is_finite() && (!scale.log || value > 0.0);
        let points = self.points.iter().filter(|(px, py)| drawn(x, *px) && drawn(y, *py));
        let line: Vec<_> =
            points.map(|(px, py)| format!("{:.1},{:.1}", x.pixel(*px), y.pixel(*py))).collect();
        let dash = if self.dashed { " dashed" } else { "" };
        let colour = self.colour % NUM_COLOURS;
        let line = line.join(" ");
        writeln!(out, "<polyline class=\"c{colour}{dash}\" points=\"{line}\"/>")?;
        for ((px, py), tip) in self.points.iter().zip(&self.tips) {
            if drawn(x, *px) && drawn(y, *py) {
                writeln!(
                    out,
                    "<circle class=\"c{colour}\" cx=\"{:.1}\" cy=\"{:.1}\" r=\"3.5\">\
                     <title>{}</title></circle>",
                    x.pixel(*px),
                    y.pixel(*py),
                    escape(tip)
                )?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn numbers_are_short() {
        let cases = [(0.0, "0"), (0.05, "0.05"), (1.5, "1.5"), (20.0, "20"), (1234.0, "1234")];
        for (value, text) in cases.into_iter().chain([(12_000.0, "12k"), (2_500_000.0, "2.5M")]) {
            assert_eq!(short(value), text);
        }
    }

    #[test]
    fn names_cannot_break_out_of_the_page() {
        let series = Series {
            name: "<script>".to_owned(),
            points: vec![(1.0, 2.0)],
            tips: vec!["a\"b".to_owned()],
            ..Series::default()
        };
        let series = vec![series.clone(), series];
        let html = Chart { title: "<b>".to_owned(), series, ..Chart::default() }.html();
        assert!(!html.contains("<script>") && !html.contains("<b>"), "{html}");
        assert!(html.contains("a&quot;b") && html.contains("&lt;script&gt;"));
    }

    proptest! {
        #[test]
        fn every_point_is_inside_and_ticks_are_few(
            points in prop::collection::vec((0.0f64..1e9, -1e3f64..1e9), 0..40),
            log in any::<bool>(),
        ) {
            let x = Scale::new(points.iter().map(|p| p.0), log, LEFT, WIDTH - RIGHT);
            let y = Scale::new(points.iter().map(|p| p.1), log, HEIGHT - BOTTOM, TOP);
            for (px, py) in &points {
                prop_assert!((LEFT..=WIDTH - RIGHT).contains(&x.pixel(*px)));
                prop_assert!((TOP..=HEIGHT - BOTTOM).contains(&y.pixel(*py)));
            }
            for scale in [x, y] {
                let ticks = scale.ticks();
                prop_assert!(ticks.len() <= 20, "{ticks:?}");
                prop_assert!(ticks.iter().all(|tick| tick.is_finite()));
            }
            let series = vec![Series { points, ..Series::default() }];
            let html = Chart { series, ..Chart::default() }.html();
            prop_assert!(!html.contains("NaN") && !html.contains("inf"));
        }
    }
}
