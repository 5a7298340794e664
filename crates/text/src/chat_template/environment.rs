//! minijinja set up to behave as the jinja2 environment of transformers.

use std::fmt::Write;

use jiff::ZonedDateTime;
use jiff::civil::DateTime;
use jiff::fmt::strtime;
use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Value, ValueKind};
use minijinja::{Environment, Error, ErrorKind, Output, State};

use super::python::{self, BoundedText};
use super::{json, methods};

/// The message of a template's `raise_exception`.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct Raised(pub(super) String);

/// An environment without templates.
pub(super) fn new() -> Environment<'static> {
    let mut environment = Environment::new();
    let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
    environment.set_syntax(syntax.expect("the default delimiters are valid"));
    environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
    // Line numbers of errors.
    environment.set_debug(true);
    environment.set_formatter(print);
    environment.set_unknown_method_callback(methods::call);
    environment.add_filter("tojson", json::tojson);
    environment.add_filter("indent", indent);
    environment.add_filter("string", string);
    environment.add_filter("int", int);
    environment.add_filter("float", float);
    environment.add_test("iterable", is_iterable);
    environment.add_test("sequence", is_sequence);
    environment.add_test("callable", is_callable);
    environment.add_function("raise_exception", raise_exception);
    environment.add_function("strftime_now", strftime_now);
    environment
}

/// Turns `{% generation %}` into `{% with %}`: transformers only marks what stands inside, for
/// training. The scope, the whitespace control and the line numbers stay as they are.
pub(super) fn rewrite_generation_tags(source: &str) -> String {
    let mut rewritten = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(start) = rest.find("{%") {
        let (before, tag) = rest.split_at(start + 2);
        rewritten.push_str(before);
        let Some(end) = tag.find("%}") else {
            rest = tag;
            break;
        };
        let inner = &tag[..end];
        match inner.trim_matches(|c: char| c.is_whitespace() || c == '-' || c == '+') {
            "generation" => rewritten.push_str(&inner.replace("generation", "with")),
            "endgeneration" => rewritten.push_str(&inner.replace("endgeneration", "endwith")),
            _ => rewritten.push_str(inner),
        }
        rest = &tag[end..];
    }
    rewritten + rest
}

/// Prints a value as `str()` in Python.
fn print(out: &mut Output<'_>, state: &mut State<'_, '_>, value: &Value) -> Result<(), Error> {
    let written = match value.as_str() {
        Some(text) => out.write_str(text),
        None => out.write_str(&text_of(state, value)?),
    };
    written.map_err(|_| Error::from(ErrorKind::WriteFailure))
}

/// `str(value)` for a value that is no string.
fn text_of(state: &State<'_, '_>, value: &Value) -> Result<String, Error> {
    match value.kind() {
        ValueKind::Seq | ValueKind::Map | ValueKind::Iterable => {
            let remaining = state.fuel_levels().map_or(u64::MAX, |(_, remaining)| remaining);
            let limit = usize::try_from(remaining.saturating_mul(4)).unwrap_or(usize::MAX);
            let mut text = BoundedText::new(limit);
            python::write_repr(&mut text, value, 0).map_err(|_| {
                Error::new(ErrorKind::InvalidOperation, "the value is too large to be printed")
            })?;
            let text = text.into_string();
            state.consume_fuel(text.len() as u64 / 4)?;
            Ok(text)
        }
        ValueKind::Number => {
            let mut text = String::new();
            python::write_number(&mut text, value).expect("writing to a String cannot fail");
            Ok(text)
        }
        _ => Ok(value.to_string()),
    }
}

fn string(state: &State<'_, '_>, value: &Value) -> Result<Value, Error> {
    if value.as_str().is_some() {
        return Ok(value.clone());
    }
    text_of(state, value).map(Value::from)
}

/// jinja2's `int(default=0, base=10)`: what is no number gives the default, not an error.
#[expect(
    clippy::needless_pass_by_value,
    reason = "the engine hands over keyword arguments by value"
)]
fn int(
    value: &Value,
    default: Option<Value>,
    base: Option<u32>,
    kwargs: Kwargs,
) -> Result<Value, Error> {
    let default = default.or(kwargs.get("default")?).unwrap_or_else(|| Value::from(0));
    let base = base.or(kwargs.get("base")?).unwrap_or(10).clamp(2, 36);
    kwargs.assert_all_used()?;
    if value.is_integer() {
        return Ok(value.clone());
    }
    let digits = value.as_str().map(str::trim).unwrap_or_default();
    let prefix = if base == 16 { "0x" } else { "" };
    let digits = digits.strip_prefix(prefix).unwrap_or(digits);
    if let Ok(number) = i64::from_str_radix(digits, base) {
        return Ok(Value::from(number));
    }
    match number_of(value).filter(|number| number.is_finite()) {
        Some(number) => Ok(Value::from(number.trunc() as i64)),
        None => Ok(default),
    }
}

/// jinja2's `float(default=0.0)`, likewise.
#[expect(
    clippy::needless_pass_by_value,
    reason = "the engine hands over keyword arguments by value"
)]
fn float(value: &Value, default: Option<Value>, kwargs: Kwargs) -> Result<Value, Error> {
    let default = default.or(kwargs.get("default")?).unwrap_or_else(|| Value::from(0.0));
    kwargs.assert_all_used()?;
    Ok(number_of(value).map_or(default, Value::from))
}

/// `float(value)`, for strings, booleans and numbers.
fn number_of(value: &Value) -> Option<f64> {
    match value.as_str() {
        Some(text) => text.trim().parse().ok(),
        None if value.kind() == ValueKind::Bool => Some(f64::from(u8::from(value.is_true()))),
        None => f64::try_from(value.clone()).ok(),
    }
}

/// jinja2's `indent(width=4, first=False, blank=False)`; the built-in one drops a last line break.
#[expect(
    clippy::needless_pass_by_value,
    reason = "the engine hands over keyword arguments by value"
)]
fn indent(
    text: &str,
    width: Option<Value>,
    first: Option<bool>,
    blank: Option<bool>,
    kwargs: Kwargs,
) -> Result<String, Error> {
    let width = width.or(kwargs.get("width")?).unwrap_or_else(|| Value::from(4));
    let first = first.or(kwargs.get("first")?).unwrap_or(false);
    let blank = blank.or(kwargs.get("blank")?).unwrap_or(false);
    kwargs.assert_all_used()?;
    let unit = match (width.as_str(), width.as_i64()) {
        (Some(text), _) => text.to_owned(),
        (None, Some(count)) => " ".repeat(count.clamp(0, 1024) as usize),
        _ => {
            return Err(Error::new(
                ErrorKind::InvalidOperation,
                "width must be a number or a string",
            ));
        }
    };
    let with_end = format!("{text}\n");
    let mut indented = String::new();
    for (index, line) in python::split_lines(&with_end, false).into_iter().enumerate() {
        let wanted = if index == 0 { first } else { blank || !line.is_empty() };
        let line_break = if index == 0 { "" } else { "\n" };
        let unit = if wanted { unit.as_str() } else { "" };
        write!(indented, "{line_break}{unit}{line}").expect("writing to a String cannot fail");
    }
    Ok(indented)
}

fn is_iterable(value: &Value) -> bool {
    !value.is_none() && value.try_iter().is_ok()
}

/// In jinja2 whatever has a length and can be indexed.
fn is_sequence(value: &Value) -> bool {
    matches!(
        value.kind(),
        ValueKind::Seq | ValueKind::Map | ValueKind::String | ValueKind::Undefined
    )
}

/// Functions and macros, and in jinja2 what is undefined.
fn is_callable(value: &Value) -> bool {
    matches!(value.kind(), ValueKind::Plain | ValueKind::Undefined)
}

fn raise_exception(message: &Value) -> Result<Value, Error> {
    let message = message.to_string();
    Err(Error::new(ErrorKind::InvalidOperation, message.clone()).with_source(Raised(message)))
}

fn strftime_now(format: &str) -> Result<String, Error> {
    strftime(format, ZonedDateTime::now().datetime())
}

/// `time` in C's `format`; an unknown directive is an error.
pub(super) fn strftime(format: &str, time: DateTime) -> Result<String, Error> {
    strtime::format(format, time).map_err(|error| {
        Error::new(ErrorKind::InvalidOperation, format!("strftime_now({format:?}): {error}"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_as_in_python() {
        let cases: Vec<serde_json::Value> =
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
        assert!(strftime_now("%Y").unwrap().parse::<u32>().unwrap() >= 2026);
        assert!(strftime_now("%!").is_err());
    }
}
