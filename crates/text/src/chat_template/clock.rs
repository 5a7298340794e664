//! `strftime_now`: the local time in a template's own format.

use jiff::ZonedDateTime;
use jiff::civil::DateTime;
use jiff::fmt::strtime;

/// The local time now.
pub(super) fn now() -> DateTime {
    ZonedDateTime::now().datetime()
}

/// `time` in `format`, in C's notation; an unknown directive is an error.
pub(super) fn strftime(format: &str, time: DateTime) -> Result<String, jiff::Error> {
    strtime::format(format, time)
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    #[test]
    fn formats_as_python_does() {
        let cases: Vec<Value> =
            serde_json::from_str(include_str!("../../tests/goldens/clock.json")).unwrap();
        assert!(cases.len() >= 20);
        for case in cases {
            let time: DateTime = case["time"].as_str().unwrap().parse().unwrap();
            let text = strftime(case["format"].as_str().unwrap(), time).unwrap();
            assert_eq!(text, case["expected"], "{case}");
        }
    }

    #[test]
    fn an_unknown_directive_is_an_error() {
        assert!(strftime("%Y", now()).unwrap().parse::<u32>().unwrap() >= 2026);
        assert!(strftime("%!", now()).is_err());
    }
}
