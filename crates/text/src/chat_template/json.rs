//! The `tojson` filter of transformers: `json.dumps` without HTML escaping.

use std::fmt::Write;

use minijinja::value::{Kwargs, Rest, ValueKind, ValueOrKwargs, from_args};
use minijinja::{Error, ErrorKind, State, Value};

use super::python::{BoundedText, MAX_DEPTH, float_repr};

/// The engine's price of serialising, in bytes per step of fuel.
const BYTES_PER_FUEL: u64 = 4;

/// `ensure_ascii`, `indent`, `separators`, `sort_keys`, by place or by name.
type Args = (Option<Value>, Option<Value>, Option<Value>, Option<Value>, Kwargs);

/// `json.dumps(value, ensure_ascii=False, indent=None, separators=None, sort_keys=False)`.
pub(super) fn tojson(
    state: &State,
    value: &Value,
    args: Rest<ValueOrKwargs>,
) -> Result<String, Error> {
    let args = args.into_values();
    let (ensure_ascii, indent, separators, sort_keys, kwargs): Args = from_args(&args)?;
    let given = |positional: Option<Value>, name: &str| -> Result<Value, Error> {
        match positional {
            Some(value) => Ok(value),
            None => Ok(kwargs.get::<Option<Value>>(name)?.unwrap_or_else(|| Value::from(()))),
        }
    };
    let ensure_ascii = given(ensure_ascii, "ensure_ascii")?.is_true();
    let indent = indent_unit(&given(indent, "indent")?)?;
    let separators = given(separators, "separators")?;
    let sort_keys = given(sort_keys, "sort_keys")?.is_true();
    kwargs.assert_all_used()?;
    let (item_separator, key_separator) = if separators.is_none() {
        let item = if indent.is_some() { "," } else { ", " };
        (item.to_owned(), ": ".to_owned())
    } else {
        let mut both = separators.try_iter()?.map(|text| text.to_string());
        both.next().zip(both.next()).ok_or_else(|| invalid("separators must be two strings"))?
    };

    let remaining = state.fuel_levels().map_or(u64::MAX, |(_, remaining)| remaining);
    let limit = usize::try_from(remaining.saturating_mul(BYTES_PER_FUEL)).unwrap_or(usize::MAX);
    let mut writer = Writer {
        out: BoundedText::new(limit),
        ensure_ascii,
        indent,
        item_separator,
        key_separator,
        sort_keys,
    };
    match writer.value(value, 0) {
        Ok(()) => {
            let text = writer.out.into_string();
            state.consume_fuel(text.len() as u64 / BYTES_PER_FUEL)?;
            Ok(text)
        }
        Err(Failure::Unserializable(what)) => {
            Err(invalid(format!("{what} is not JSON serializable")))
        }
        Err(Failure::TooDeep) => Err(invalid(format!("nested deeper than {MAX_DEPTH}"))),
        Err(Failure::Full) => Err(Error::from(ErrorKind::OutOfFuel)),
    }
}

/// `indent=2`, `indent="\t"` or none.
fn indent_unit(indent: &Value) -> Result<Option<String>, Error> {
    if indent.is_none() {
        return Ok(None);
    }
    if let Some(text) = indent.as_str() {
        return Ok(Some(text.to_owned()));
    }
    let width = indent.as_i64().or(bool::try_from(indent.clone()).ok().map(i64::from));
    let width = width.ok_or_else(|| invalid("indent must be a number or a string"))?;
    Ok(Some(" ".repeat(width.clamp(0, 64) as usize)))
}

fn invalid(message: impl Into<std::borrow::Cow<'static, str>>) -> Error {
    Error::new(ErrorKind::InvalidOperation, message)
}

enum Failure {
    Unserializable(String),
    TooDeep,
    Full,
}

impl From<std::fmt::Error> for Failure {
    fn from(_: std::fmt::Error) -> Self {
        Self::Full
    }
}

struct Writer {
    out: BoundedText,
    ensure_ascii: bool,
    indent: Option<String>,
    item_separator: String,
    key_separator: String,
    sort_keys: bool,
}

impl Writer {
    fn value(&mut self, value: &Value, depth: usize) -> Result<(), Failure> {
        if depth > MAX_DEPTH {
            return Err(Failure::TooDeep);
        }
        match value.kind() {
            ValueKind::String => self.string(value.as_str().unwrap_or_default())?,
            ValueKind::Map => {
                let mut keys: Vec<Value> = value.try_iter().into_iter().flatten().collect();
                if self.sort_keys {
                    keys.sort();
                }
                self.items('{', '}', &keys, depth, |this, key, depth| {
                    this.string(&key_text(key)?)?;
                    let separator = this.key_separator.clone();
                    this.out.write_str(&separator)?;
                    this.value(&value.get_item(key).unwrap_or_default(), depth)
                })?;
            }
            ValueKind::Seq => {
                let items: Vec<Value> = value.try_iter().into_iter().flatten().collect();
                self.items('[', ']', &items, depth, Self::value)?;
            }
            _ => self.out.write_str(&scalar(value)?)?,
        }
        Ok(())
    }

    fn items(
        &mut self,
        open: char,
        close: char,
        items: &[Value],
        depth: usize,
        mut write: impl FnMut(&mut Self, &Value, usize) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        self.out.write_char(open)?;
        for (index, item) in items.iter().enumerate() {
            if index > 0 {
                let separator = self.item_separator.clone();
                self.out.write_str(&separator)?;
            }
            self.new_line(depth + 1)?;
            write(self, item, depth + 1)?;
        }
        if !items.is_empty() {
            self.new_line(depth)?;
        }
        Ok(self.out.write_char(close)?)
    }

    fn new_line(&mut self, depth: usize) -> Result<(), Failure> {
        if let Some(unit) = self.indent.clone() {
            self.out.write_char('\n')?;
            for _ in 0..depth {
                self.out.write_str(&unit)?;
            }
        }
        Ok(())
    }

    fn string(&mut self, text: &str) -> Result<(), Failure> {
        self.out.write_char('"')?;
        for c in text.chars() {
            match c {
                '"' => self.out.write_str("\\\"")?,
                '\\' => self.out.write_str("\\\\")?,
                '\n' => self.out.write_str("\\n")?,
                '\r' => self.out.write_str("\\r")?,
                '\t' => self.out.write_str("\\t")?,
                '\u{8}' => self.out.write_str("\\b")?,
                '\u{c}' => self.out.write_str("\\f")?,
                c if (c as u32) < 0x20 => write!(self.out, "\\u{:04x}", c as u32)?,
                c if self.ensure_ascii && (c as u32) >= 0x7f && c != '\u{7f}' => {
                    for unit in c.encode_utf16(&mut [0; 2]) {
                        write!(self.out, "\\u{unit:04x}")?;
                    }
                }
                c => self.out.write_char(c)?,
            }
        }
        Ok(self.out.write_char('"')?)
    }
}

/// A scalar as `json.dumps` writes it.
fn scalar(value: &Value) -> Result<String, Failure> {
    match value.kind() {
        ValueKind::None => Ok("null".to_owned()),
        ValueKind::Bool => Ok(if value.is_true() { "true" } else { "false" }.to_owned()),
        ValueKind::Number if value.is_integer() => Ok(value.to_string()),
        ValueKind::Number => {
            let float = f64::try_from(value.clone()).unwrap_or(f64::NAN);
            Ok(match float {
                float if float.is_nan() => "NaN".to_owned(),
                f64::INFINITY => "Infinity".to_owned(),
                f64::NEG_INFINITY => "-Infinity".to_owned(),
                float => float_repr(float),
            })
        }
        kind => Err(Failure::Unserializable(format!("a value of kind {kind}"))),
    }
}

/// A key: JSON has only strings, so other scalars become theirs.
fn key_text(key: &Value) -> Result<String, Failure> {
    key.as_str().map_or_else(|| scalar(key), |text| Ok(text.to_owned()))
}
