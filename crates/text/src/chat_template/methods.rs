//! Methods of Python's str, dict and list that templates call: minijinja-contrib's, and those it
//! lacks or where keyword arguments matter.

use minijinja::value::{Kwargs, Tuple, ValueKind, from_args};
use minijinja::{Error, ErrorKind, State, Value};
use minijinja_contrib::pycompat::unknown_method_callback;

use super::python::split_lines;

/// Calls `method` of `value`.
pub(super) fn call(
    state: &mut State<'_, '_>,
    value: &Value,
    method: &str,
    args: &[Value],
) -> Result<Value, Error> {
    let own = match (value.kind(), value.as_str()) {
        (ValueKind::String, Some(text)) => string_method(state, text, method, args)?,
        (ValueKind::Map, _) => map_method(method, value, args)?,
        (ValueKind::Seq, _) => list_method(method, value, args)?,
        _ => None,
    };
    match own {
        Some(result) => Ok(result),
        None => unknown_method_callback(state, value, method, args),
    }
}

fn string_method(
    state: &State<'_, '_>,
    text: &str,
    method: &str,
    args: &[Value],
) -> Result<Option<Value>, Error> {
    Ok(Some(match method {
        "split" => split(text, args, false)?,
        "rsplit" => split(text, args, true)?,
        "splitlines" => {
            let (keep_ends, kwargs): (Option<bool>, Kwargs) = from_args(args)?;
            let keep_ends = keep_ends.or(kwargs.get("keepends")?).unwrap_or(false);
            kwargs.assert_all_used()?;
            split_lines(text, keep_ends).into_iter().map(Value::from).collect()
        }
        "index" | "rindex" => {
            let (part,): (&str,) = from_args(args)?;
            let place = if method == "index" { text.find(part) } else { text.rfind(part) };
            let place = place.ok_or_else(|| invalid("substring not found"))?;
            Value::from(text[..place].chars().count())
        }
        "removeprefix" => {
            let (prefix,): (&str,) = from_args(args)?;
            Value::from(text.strip_prefix(prefix).unwrap_or(text))
        }
        "removesuffix" => {
            let (suffix,): (&str,) = from_args(args)?;
            Value::from(text.strip_suffix(suffix).unwrap_or(text))
        }
        "partition" | "rpartition" => {
            let (separator,): (&str,) = from_args(args)?;
            partition(text, separator, method == "rpartition")?
        }
        "swapcase" => {
            let () = from_args(args)?;
            let swap = |c: char| -> String {
                if c.is_uppercase() {
                    c.to_lowercase().collect()
                } else {
                    c.to_uppercase().collect()
                }
            };
            Value::from(text.chars().map(swap).collect::<String>())
        }
        "title" => {
            let () = from_args(args)?;
            Value::from(title(text))
        }
        "casefold" => {
            let () = from_args(args)?;
            Value::from(text.to_lowercase())
        }
        "zfill" | "ljust" | "rjust" | "center" => pad(state, text, method, args)?,
        _ => return Ok(None),
    }))
}

/// `str.title`: a letter after anything but a letter is upper case, all others lower.
fn title(text: &str) -> String {
    let mut titled = String::with_capacity(text.len());
    let mut in_word = false;
    for c in text.chars() {
        if in_word {
            titled.extend(c.to_lowercase());
        } else {
            titled.extend(c.to_uppercase());
        }
        in_word = c.is_alphabetic();
    }
    titled
}

/// `str.split` and `str.rsplit` with `sep` and `maxsplit`, by place or by name.
fn split(text: &str, args: &[Value], from_right: bool) -> Result<Value, Error> {
    let (separator, max, kwargs): (Option<Value>, Option<i64>, Kwargs) = from_args(args)?;
    let separator = match separator {
        Some(separator) => separator,
        None => kwargs.get::<Option<Value>>("sep")?.unwrap_or_else(|| Value::from(())),
    };
    let max = max.or(kwargs.get("maxsplit")?).unwrap_or(-1);
    kwargs.assert_all_used()?;
    let max = usize::try_from(max).map_or(usize::MAX, |max| max.saturating_add(1));
    let parts: Vec<&str> = match separator.as_str() {
        Some("") => return Err(invalid("empty separator")),
        Some(separator) if from_right => {
            let mut parts: Vec<&str> = text.rsplitn(max, separator).collect();
            parts.reverse();
            parts
        }
        Some(separator) => text.splitn(max, separator).collect(),
        None if separator.is_none() => split_whitespace(text, max, from_right),
        None => return Err(invalid("sep must be a string")),
    };
    Ok(parts.into_iter().map(Value::from).collect())
}

/// At most `max` words; what is left beyond them stays in one piece, its far end untrimmed.
fn split_whitespace(text: &str, max: usize, from_right: bool) -> Vec<&str> {
    let mut words = Vec::new();
    let mut rest = text;
    loop {
        rest = if from_right { rest.trim_end() } else { rest.trim_start() };
        if rest.is_empty() {
            break;
        }
        let cut = if from_right {
            rest.rfind(char::is_whitespace)
        } else {
            rest.find(char::is_whitespace)
        };
        let Some(cut) = cut.filter(|_| words.len() + 1 < max) else {
            words.push(rest);
            break;
        };
        let (left, right) = rest.split_at(cut);
        let (word, remainder) = if from_right { (right.trim_start(), left) } else { (left, right) };
        words.push(word);
        rest = remainder;
    }
    if from_right {
        words.reverse();
    }
    words
}

fn partition(text: &str, separator: &str, from_right: bool) -> Result<Value, Error> {
    if separator.is_empty() {
        return Err(invalid("empty separator"));
    }
    let parts = if from_right { text.rsplit_once(separator) } else { text.split_once(separator) };
    let parts = match parts {
        Some((left, right)) => [left, separator, right],
        None if from_right => ["", "", text],
        None => [text, "", ""],
    };
    Ok(Value::from(Tuple::from(parts.map(Value::from))))
}

fn pad(state: &State<'_, '_>, text: &str, method: &str, args: &[Value]) -> Result<Value, Error> {
    let (width, fill): (usize, Option<char>) = from_args(args)?;
    let fill = fill.unwrap_or(if method == "zfill" { '0' } else { ' ' });
    let len = text.chars().count();
    let missing = width.saturating_sub(len);
    state.consume_fuel(missing as u64 / 16)?;
    let left = match method {
        "ljust" => 0,
        // CPython puts the odd one out on the left only when the width is odd, too.
        "center" => missing / 2 + (missing & width & 1),
        _ => missing,
    };
    let signed = method == "zfill" && text.starts_with(['+', '-']);
    let (sign, body) = text.split_at(usize::from(signed));
    let mut padded = String::from(sign);
    padded.extend(std::iter::repeat_n(fill, left));
    padded.push_str(body);
    padded.extend(std::iter::repeat_n(fill, missing - left));
    Ok(Value::from(padded))
}

fn map_method(method: &str, value: &Value, args: &[Value]) -> Result<Option<Value>, Error> {
    match method {
        "copy" => {
            let () = from_args(args)?;
            Ok(Some(value.clone()))
        }
        "pop" | "update" | "setdefault" | "clear" | "popitem" => Err(immutable(method)),
        _ => Ok(None),
    }
}

fn list_method(method: &str, value: &Value, args: &[Value]) -> Result<Option<Value>, Error> {
    match method {
        "index" => {
            let (item,): (Value,) = from_args(args)?;
            let place = value.try_iter()?.position(|candidate| candidate == item);
            Ok(Some(Value::from(place.ok_or_else(|| invalid("value is not in the list"))?)))
        }
        "copy" => {
            let () = from_args(args)?;
            Ok(Some(value.clone()))
        }
        "append" | "extend" | "insert" | "remove" | "pop" | "clear" | "sort" | "reverse" => {
            Err(immutable(method))
        }
        _ => Ok(None),
    }
}

/// transformers renders in an immutable sandbox: there these are refused, too.
fn immutable(method: &str) -> Error {
    Error::new(
        ErrorKind::InvalidOperation,
        format!("{method} would change a value, which templates may not do"),
    )
}

fn invalid(message: &'static str) -> Error {
    Error::new(ErrorKind::InvalidOperation, message)
}
