//! Changes of a text, and of JSON as values.

use proptest::prelude::*;
use serde_json::{Value, json};

/// Most bytes of a changed text.
const MAX_BYTES: usize = 200_000;

/// One change: what, and three numbers that say where, how much and which.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Change {
    kind: u8,
    at: u16,
    length: u16,
    which: u16,
}

pub(crate) fn changes(most: usize) -> impl Strategy<Value = Vec<Change>> {
    let change = (0..8_u8, any::<u16>(), any::<u16>(), any::<u16>());
    let change = change.prop_map(|(kind, at, length, which)| Change { kind, at, length, which });
    proptest::collection::vec(change, 0..=most)
}

/// The place in `text` at this share of it, on a character.
fn place(text: &str, share: u16) -> usize {
    text.floor_char_boundary(text.len() * usize::from(share) / usize::from(u16::MAX))
}

fn pick<T>(list: &[T], which: u16) -> &T {
    &list[usize::from(which) % list.len()]
}

/// `text` changed; pieces come from `words` and from `other`.
pub(crate) fn changed(text: &str, changes: &[Change], words: &[&str], other: &str) -> String {
    let mut text = text.to_owned();
    for change in changes {
        let start = place(&text, change.at);
        // Short pieces more often than long ones.
        let length = usize::from(change.length) >> (change.which % 16);
        let end = text.floor_char_boundary((start + length).min(text.len()));
        match change.kind {
            0 => text.replace_range(start..end, ""),
            1 => {
                let piece = text[start..end].repeat(1 + usize::from(change.which % 5));
                text.insert_str(start, &piece);
            }
            2 => text.insert_str(start, pick::<&str>(words, change.which)),
            3 => text.replace_range(start..end, pick::<&str>(words, change.which)),
            4 => text.truncate(start),
            5 => {
                let from = place(other, change.which);
                let to = other.floor_char_boundary((from + length).min(other.len()));
                text.insert_str(start, &other[from..to]);
            }
            6 => {
                text.insert_str(start, &pick::<&str>(words, change.which).repeat(1 + length % 300));
            }
            _ => {
                let letter = char::from_u32(u32::from(change.which) * 2).unwrap_or('\u{fffd}');
                text.insert(start, letter);
            }
        }
        text.truncate(text.floor_char_boundary(MAX_BYTES));
    }
    text
}

/// Values that fit nowhere.
fn odd(which: u16) -> Value {
    let odd = [
        json!(null),
        json!(true),
        json!(0),
        json!(-1),
        json!(1.5),
        json!(u64::MAX),
        json!(i64::MIN),
        json!(1e308),
        json!(""),
        json!(" "),
        json!("\u{0}\u{fffd}🌍"),
        json!("x".repeat(5_000)),
        json!([]),
        json!({}),
        json!([null]),
        json!([[]]),
        json!({"": {}}),
        json!([1, "a", {}]),
        json!(vec![0; 2_000]),
        json!({"type": "function"}),
        json!({"type": "object", "properties": {"a": {"$ref": "#"}}}),
        json!("auto"),
        json!({"role": "tool", "content": null}),
        json!([{"type": "text", "text": "a"}]),
        json!("(a|b)*"),
        (0..100).fold(json!(1), |inner, _| json!([inner])),
    ];
    pick(&odd, which).clone()
}

fn count(value: &Value) -> usize {
    1 + match value {
        Value::Array(items) => items.iter().map(count).sum::<usize>(),
        Value::Object(map) => map.values().map(count).sum::<usize>(),
        _ => 0,
    }
}

/// Calls `act` on the value number `number`, counted from the outside.
fn at_number(value: &mut Value, number: &mut usize, act: &mut dyn FnMut(&mut Value)) {
    if *number == 0 {
        act(value);
        *number = usize::MAX;
        return;
    }
    *number = number.saturating_sub(1);
    let children: Box<dyn Iterator<Item = &mut Value>> = match value {
        Value::Array(items) => Box::new(items.iter_mut()),
        Value::Object(map) => Box::new(map.values_mut()),
        _ => return,
    };
    for child in children {
        at_number(child, number, act);
        if *number == usize::MAX {
            return;
        }
    }
}

/// JSON whose values are swapped for odd ones, dropped, repeated and renamed.
pub(crate) fn changed_values(value: &Value, changes: &[Change], other: &Value) -> Value {
    let mut value = value.clone();
    for change in changes {
        let mut number = usize::from(change.at) % count(&value);
        let mut taken = Value::Null;
        let mut from = usize::from(change.length) % count(other);
        at_number(&mut other.clone(), &mut from, &mut |found| taken = found.clone());
        at_number(&mut value, &mut number, &mut |found| match (change.kind, found) {
            (0, Value::Array(items)) => drop(items.pop()),
            (0, Value::Object(map)) => {
                let name = map.keys().nth(usize::from(change.which) % map.len().max(1)).cloned();
                name.and_then(|name| map.shift_remove(&name));
            }
            (1, Value::Array(items)) => items.extend(items.clone()),
            (2, Value::Object(map)) => drop(map.insert("unheard_of".to_owned(), taken.clone())),
            (3 | 4, found) => *found = taken.clone(),
            (_, found) => *found = odd(change.which),
        });
    }
    value
}
