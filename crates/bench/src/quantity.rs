//! Quantities as typed on the command line: durations, token ranges, rates, latency limits.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use rand::Rng;

/// Splits `500ms` into number and unit.
fn split_unit(text: &str) -> Result<(f64, &str), String> {
    let text = text.trim();
    let at = text.find(|c: char| c.is_ascii_alphabetic() || c == '%').unwrap_or(text.len());
    let number = text[..at].trim().parse::<f64>();
    let number = number.map_err(|_| format!("`{text}` does not begin with a number"))?;
    if !number.is_finite() || number < 0.0 {
        return Err(format!("`{text}` is not a finite number of at least 0"));
    }
    Ok((number, &text[at..]))
}

/// A duration such as `90s`, `500ms`, `2m`. A number alone is seconds.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, String> {
    duration_with_default_unit(text, "s")
}

fn duration_with_default_unit(text: &str, default: &str) -> Result<Duration, String> {
    let (number, unit) = split_unit(text)?;
    let scale = match if unit.is_empty() { default } else { unit } {
        "us" => 1e-6,
        "ms" => 1e-3,
        "s" => 1.0,
        "m" | "min" => 60.0,
        "h" => 3600.0,
        other => return Err(format!("`{other}` is no unit of time: use us, ms, s, m or h")),
    };
    Duration::try_from_secs_f64(number * scale).map_err(|_| format!("`{text}` is too long"))
}

/// A number of tokens, or a range from which each request draws its own: `128`, `64..256`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TokenRange {
    /// The fewest.
    pub(crate) low: usize,
    /// The most, included.
    pub(crate) high: usize,
}

impl TokenRange {
    /// Always so many.
    pub(crate) fn exactly(tokens: usize) -> Self {
        Self { low: tokens, high: tokens }
    }

    /// One draw, uniform with both ends included.
    pub(crate) fn draw(self, rng: &mut impl Rng) -> usize {
        rng.random_range(self.low..=self.high)
    }
}

impl FromStr for TokenRange {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = |part: &str| {
            let number = part.trim().replace('_', "").parse::<usize>();
            number.map_err(|_| format!("`{text}` is neither a number nor a range such as 64..256"))
        };
        let (low, high) = match text.split_once("..").or_else(|| text.split_once('-')) {
            Some((low, high)) => (number(low)?, number(high.trim_start_matches('='))?),
            None => (number(text)?, number(text)?),
        };
        if low == 0 || low > high {
            return Err(format!("`{text}`: wants at least 1, and the smaller number first"));
        }
        Ok(Self { low, high })
    }
}

impl fmt::Display for TokenRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.low == self.high {
            write!(f, "{}", self.low)
        } else {
            write!(f, "{}..{}", self.low, self.high)
        }
    }
}

/// Requests per second: steady (`4`), everything at once (`inf`), or rising evenly (`1..16`).
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Rate {
    /// At the beginning of the run.
    pub(crate) from: f64,
    /// At its end.
    pub(crate) to: f64,
}

impl Rate {
    /// The same from the first request to the last.
    pub(crate) fn steady(rate: f64) -> Self {
        Self { from: rate, to: rate }
    }

    /// Over the whole run.
    pub(crate) fn mean(self) -> f64 {
        f64::midpoint(self.from, self.to)
    }
}

impl FromStr for Rate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = |part: &str| match part.trim() {
            "inf" => Ok(f64::INFINITY),
            part => match part.parse::<f64>() {
                Ok(rate) if rate > 0.0 && rate.is_finite() => Ok(rate),
                _ => Err(format!("`{text}`: wants requests per second, above 0, or inf")),
            },
        };
        match text.split_once("..") {
            None => number(text).map(Self::steady),
            Some((from, to)) => {
                let rate = Self { from: number(from)?, to: number(to)? };
                if rate.mean().is_finite() {
                    Ok(rate)
                } else {
                    Err(format!("`{text}`: a ramp runs between finite rates"))
                }
            }
        }
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.from == self.to {
            write!(f, "{}", self.from)
        } else {
            write!(f, "{}..{}", self.from, self.to)
        }
    }
}

/// What is measured of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Metric {
    /// Time to the first token.
    Ttft,
    /// Time per output token after the first.
    Tpot,
    /// Time between two chunks with text.
    Itl,
    /// The whole request.
    E2el,
}

impl Metric {
    /// In the order of every table.
    pub(crate) const ALL: [Self; 4] = [Self::Ttft, Self::Tpot, Self::Itl, Self::E2el];

    /// As it stands in field names.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Ttft => "ttft",
            Self::Tpot => "tpot",
            Self::Itl => "itl",
            Self::E2el => "e2el",
        }
    }

    /// As people write it.
    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::Ttft => "Time to first token",
            Self::Tpot => "Time per output token",
            Self::Itl => "Inter-token latency",
            Self::E2el => "End-to-end latency",
        }
    }
}

impl FromStr for Metric {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|metric| metric.name() == text);
        let found = found.or((text == "e2e").then_some(Self::E2el));
        found.ok_or_else(|| format!("`{text}` is no metric: use ttft, tpot, itl or e2el"))
    }
}

/// Splits `ttft=200ms` (or vLLM's `ttft:200`, a number alone being milliseconds).
fn split_limit(text: &str) -> Result<(&str, &str), String> {
    let split = text.split_once('=').or_else(|| text.split_once(':'));
    split.ok_or_else(|| format!("`{text}`: wants a name and a limit, e.g. ttft=200ms"))
}

/// `--goodput`: a request is good if it keeps to this.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct RequestLimit {
    /// What is limited.
    pub(crate) metric: Metric,
    /// How long it may take.
    pub(crate) limit: Duration,
}

impl FromStr for RequestLimit {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, limit) = split_limit(text)?;
        let metric: Metric = name.trim().parse()?;
        if metric == Metric::Itl {
            return Err("itl is not of one request: limit tpot instead".to_owned());
        }
        Ok(Self { metric, limit: duration_with_default_unit(limit, "ms")? })
    }
}

impl fmt::Display for RequestLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={:?}", self.metric.name(), self.limit)
    }
}

/// Which figure of a distribution.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Statistic {
    /// The arithmetic mean.
    Mean,
    /// A percentile, 0 to 100.
    Percentile(f64),
}

/// `--slo`: a run meets it or not.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Objective {
    /// A figure of a latency stays below a limit.
    Latency {
        /// What is limited.
        metric: Metric,
        /// Which figure of it.
        statistic: Statistic,
        /// The limit.
        limit: Duration,
    },
    /// The failed share of the requests, 0 to 1, stays below a limit.
    Errors(f64),
}

impl FromStr for Objective {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, limit) = split_limit(text)?;
        let name = name.trim();
        if name == "errors" {
            let (number, unit) = split_unit(limit)?;
            let share = if unit == "%" { number / 100.0 } else { number };
            return if share < 1.0 && matches!(unit, "" | "%") {
                Ok(Self::Errors(share))
            } else {
                Err(format!("`{text}`: wants a share such as 1% or 0.01"))
            };
        }
        // A metric alone means its 99th percentile.
        let (metric, statistic) = name.split_once('_').unwrap_or((name, "p99"));
        let statistic = match statistic {
            "mean" => Statistic::Mean,
            "median" => Statistic::Percentile(50.0),
            other => {
                let number = other.strip_prefix('p').and_then(|p| p.parse::<f64>().ok());
                let number = number.filter(|p| (0.0..=100.0).contains(p));
                Statistic::Percentile(number.ok_or_else(|| {
                    format!("`{other}` is no statistic: use mean, median, p90, p99, p99.9 ...")
                })?)
            }
        };
        let limit = duration_with_default_unit(limit, "ms")?;
        Ok(Self::Latency { metric: metric.parse()?, statistic, limit })
    }
}

impl fmt::Display for Objective {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Errors(share) => write!(f, "errors={}%", share * 100.0),
            Self::Latency { metric, statistic: Statistic::Mean, limit } => {
                write!(f, "{}_mean={limit:?}", metric.name())
            }
            Self::Latency { metric, statistic: Statistic::Percentile(p), limit } => {
                write!(f, "{}_p{p}={limit:?}", metric.name())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        assert_eq!(parse_duration("1.5").unwrap(), Duration::from_millis(1500));
        assert_eq!(parse_duration("250us").unwrap(), Duration::from_micros(250));
        assert_eq!(parse_duration(" 2 m ").unwrap(), Duration::from_mins(2));
        assert!(parse_duration("3 parsecs").unwrap_err().contains("parsecs"));
        assert!(parse_duration("-1s").is_err());
        assert!(parse_duration("1e300h").is_err());
    }

    #[test]
    fn token_ranges() {
        let parse = |text: &str| text.parse::<TokenRange>();
        assert_eq!(parse("1_024").unwrap(), TokenRange { low: 1024, high: 1024 });
        assert_eq!(parse("64..256").unwrap(), TokenRange { low: 64, high: 256 });
        assert_eq!(parse("64-256").unwrap(), parse("64..=256").unwrap());
        for wrong in ["0", "9..3", "many", "..4", ""] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn rates() {
        assert_eq!("2.5".parse::<Rate>().unwrap(), Rate::steady(2.5));
        assert!("inf".parse::<Rate>().unwrap().mean().is_infinite());
        assert_eq!("1..3".parse::<Rate>().unwrap().mean(), 2.0);
        for wrong in ["0", "-1", "1..inf", "fast", "nan"] {
            assert!(wrong.parse::<Rate>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn limits() {
        let limit: RequestLimit = "ttft:200".parse().unwrap();
        assert_eq!(limit.limit, Duration::from_millis(200));
        assert_eq!(limit, "ttft=0.2s".parse().unwrap());
        assert!("itl=3ms".parse::<RequestLimit>().is_err());
        assert!("ttft".parse::<RequestLimit>().is_err());

        let objective: Objective = "tpot_p99.9=30ms".parse().unwrap();
        assert_eq!(objective.to_string(), "tpot_p99.9=30ms");
        assert_eq!("ttft=5s".parse::<Objective>().unwrap(), "ttft_p99=5s".parse().unwrap());
        assert_eq!("errors=1%".parse::<Objective>().unwrap(), Objective::Errors(0.01));
        for wrong in ["errors=2", "ttft_p101=1s", "ttft_max=1s", "speed_p99=1s"] {
            assert!(wrong.parse::<Objective>().is_err(), "{wrong}");
        }
    }
}
