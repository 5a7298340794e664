//! What is complete of a JSON object that was cut short, as a call's arguments are when an answer
//! reaches its length.

use serde_json::value::RawValue;

/// `text` if it is an object; else its complete members, none of them guessed: a string or number
/// at the cut may have gone on. An empty object if it never was one.
pub(crate) fn object(text: String) -> Box<RawValue> {
    let empty = || RawValue::from_string("{}".to_owned()).expect("an object");
    if !text.trim_start().starts_with('{') {
        return empty();
    }
    let complete = complete_members(&text);
    RawValue::from_string(text)
        .or_else(|_| RawValue::from_string(complete))
        .unwrap_or_else(|_| empty())
}

/// Cuts behind the last member that something follows, and closes what is open there.
fn complete_members(text: &str) -> String {
    let mut kept = 0;
    each_mark(text, |at, c| kept = if c == ',' { at } else { at + 1 });
    let (kept, mut open) = (&text[..kept], Vec::new());
    each_mark(kept, |_, c| match c {
        '{' => open.push('}'),
        '[' => open.push(']'),
        ',' => {}
        _ => drop(open.pop()),
    });
    kept.chars().chain(open.into_iter().rev()).collect()
}

/// Calls `visit` for every bracket and comma outside of strings.
fn each_mark(text: &str, mut visit: impl FnMut(usize, char)) {
    let (mut in_string, mut escaped) = (false, false);
    for (at, c) in text.char_indices() {
        if in_string {
            (in_string, escaped) = (escaped || c != '"', !escaped && c == '\\');
        } else if c == '"' {
            in_string = true;
        } else if "{}[],".contains(c) {
            visit(at, c);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::object;

    #[test]
    fn only_what_is_complete_is_kept() {
        for (text, kept) in [
            (r#"{"a": 1, "b": [1, 2]}"#, r#"{"a": 1, "b": [1, 2]}"#),
            (r#"{"a": 1234567890123456789012}"#, r#"{"a": 1234567890123456789012}"#),
            ("", "{}"),
            ("{", "{}"),
            (r#"{"a"#, "{}"),
            (r#"{"a": "x"#, "{}"),
            (r#"{"a": "x", "#, r#"{"a": "x"}"#),
            (r#"{"a": "\",", "b": tru"#, r#"{"a": "\","}"#),
            (r#"{"a": "\\", "b": 1"#, r#"{"a": "\\"}"#),
            (r#"{"a": {"b": [1, 2"#, r#"{"a": {"b": [1]}}"#),
            (r#"{"a": {"b": [1, {}"#, r#"{"a": {"b": [1, {}]}}"#),
            (r#"{"a": {"b": 1}"#, r#"{"a": {"b": 1}}"#),
            (r#"{"é": ["日", "#, r#"{"é": ["日"]}"#),
            (r#"{"a": 1} and more"#, r#"{"a": 1}"#),
            ("{a: 1, b", "{}"),
            ("[1, 2]", "{}"),
            ("12", "{}"),
        ] {
            assert_eq!(object(text.to_owned()).get(), kept, "{text}");
        }
    }

    #[test]
    fn every_cut_is_an_object() {
        let whole = r#"{"a": [1, {"b": "\u00e9\"}"}], "c": {"d": null, "e": -1.5e3}, "f": true}"#;
        for cut in 0..=whole.len() {
            let kept = object(whole[..cut].to_owned());
            let value: serde_json::Value = serde_json::from_str(kept.get()).expect("valid JSON");
            assert!(value.is_object(), "{cut}: {kept}");
        }
    }
}
