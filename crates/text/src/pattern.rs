//! Regular expressions of JSON schemas: ECMAScript's, in the words of the `regex` crate.

use crate::GrammarError;

const DIGIT: &str = "0-9";
const WORD: &str = "0-9A-Za-z_";
const SPACE: &str =
    r"\t-\r \u{A0}\u{1680}\u{2000}-\u{200A}\u{2028}\u{2029}\u{202F}\u{205F}\u{3000}\u{FEFF}";
/// What `.` stands for.
const ANY: &str = r"[^\n\r\u{2028}\u{2029}]";

/// Escapes with letters that mean the same to both, or that the `regex` crate refuses by itself.
const SAME: &str = "bBcfkknprtuvxP";

/// The pattern as the `regex` crate has to read it.
///
/// # Errors
/// What only one of the two knows, or what they read differently.
pub(crate) fn from_ecma(pattern: &str) -> Result<String, GrammarError> {
    let refuse = |what: &str| Err(GrammarError::new(format!("pattern {pattern:?}: {what}")));
    let mut out = String::with_capacity(pattern.len());
    let mut rest = pattern;
    let mut in_class = false;
    while let Some(c) = rest.chars().next() {
        rest = &rest[c.len_utf8()..];
        match c {
            '\\' => {
                let Some(escaped) = rest.chars().next() else { return refuse("it ends with \\") };
                rest = &rest[escaped.len_utf8()..];
                match class_of(escaped) {
                    Some(class) => out += &class,
                    None if escaped.is_ascii_alphabetic() && !SAME.contains(escaped)
                        || matches!(escaped, '<' | '>') =>
                    {
                        return refuse(&format!("\\{escaped} is not ECMAScript"));
                    }
                    None if is_control(escaped, rest) && !(in_class && ranges(&out, rest)) => {
                        return refuse("control characters");
                    }
                    None => out.extend(['\\', escaped]),
                }
            }
            ']' if in_class => {
                in_class = false;
                out.push(c);
            }
            '-' if in_class && rest.starts_with('-') => return refuse("-- in brackets"),
            // Operators of the regex crate alone.
            '[' | '&' | '~' if in_class => out.extend(['\\', c]),
            '[' => {
                in_class = true;
                out.push(c);
                if let Some(negated) = rest.strip_prefix('^') {
                    rest = negated;
                    out.push('^');
                }
                if rest.starts_with(']') {
                    return refuse("empty brackets");
                }
            }
            '.' if !in_class => out += ANY,
            '(' if !in_class => {
                let flags = rest
                    .strip_prefix('?')
                    .filter(|r| !r.starts_with([':', '=', '!', '<', 'P', 'i']));
                if flags.is_some() {
                    return refuse("flags");
                }
                out.push(c);
            }
            c if crate::schema::is_unwritable(c) => return refuse("control characters"),
            c => out.push(c),
        }
    }
    Ok(out)
}

/// What an escape of a class stands for, in brackets or out of them.
fn class_of(letter: char) -> Option<String> {
    let class = match letter.to_ascii_lowercase() {
        'd' => DIGIT,
        'w' => WORD,
        's' => SPACE,
        _ => return None,
    };
    let not = if letter.is_ascii_uppercase() { "^" } else { "" };
    Some(format!("[{not}{class}]"))
}

/// Whether an escape stands for a single character that cannot be written; `rest` follows its letter.
fn is_control(letter: char, rest: &str) -> bool {
    let digits = match letter {
        'v' => return true,
        'x' => rest.get(..2),
        'u' => rest.get(..4),
        _ => None,
    };
    let code = digits.and_then(|digits| u32::from_str_radix(digits, 16).ok());
    code.and_then(char::from_u32).is_some_and(crate::schema::is_unwritable)
}

/// Whether what stands between `before` and `rest`, in brackets, begins or ends a range.
fn ranges(before: &str, rest: &str) -> bool {
    before.ends_with('-')
        || rest.trim_start_matches(|c: char| c.is_ascii_hexdigit()).starts_with('-')
}
