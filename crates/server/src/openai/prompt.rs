//! One or many prompts in one field.

use std::borrow::Cow;
use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{Deserialize, Deserializer, Error, SeqAccess, Visitor};

/// Most prompts in one request.
const MAX_PROMPTS: usize = 2048;

/// As text or as token ids.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Prompt {
    Text(String),
    Texts(Vec<String>),
    Ids(Vec<u32>),
    IdLists(Vec<Vec<u32>>),
}

impl JsonSchema for Prompt {
    fn schema_name() -> Cow<'static, str> {
        "Prompt".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let ids = generator.subschema_for::<Vec<u32>>();
        json_schema!({"anyOf": [
            {"type": "string"},
            {"type": "array", "items": {"type": "string"}, "minItems": 1, "maxItems": MAX_PROMPTS},
            {"allOf": [ids], "minItems": 1},
            {"type": "array", "items": ids, "minItems": 1, "maxItems": MAX_PROMPTS},
        ]})
    }
}

impl<'de> Deserialize<'de> for Prompt {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(PromptVisitor)
    }
}

const EXPECTED: &str = "a string, an array of strings, an array of token ids, \
                        or an array of arrays of token ids, none of them empty";

struct PromptVisitor;

impl<'de> Visitor<'de> for PromptVisitor {
    type Value = Prompt;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(EXPECTED)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Prompt, E> {
        Ok(Prompt::Text(text.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Prompt, A::Error> {
        let Some(first) = items.next_element::<Item>()? else {
            return Err(A::Error::invalid_length(0, &self));
        };
        Ok(match first {
            Item::Id(id) => Prompt::Ids(rest_of(vec![id], items, usize::MAX)?),
            Item::Text(text) => Prompt::Texts(rest_of(vec![text], items, MAX_PROMPTS)?),
            Item::Ids(ids) => Prompt::IdLists(rest_of(vec![ids], items, MAX_PROMPTS)?),
        })
    }
}

/// Collects the remaining elements, all of the type of the first.
fn rest_of<'de, T: Deserialize<'de>, A: SeqAccess<'de>>(
    mut list: Vec<T>,
    mut items: A,
    limit: usize,
) -> Result<Vec<T>, A::Error> {
    while let Some(item) = items.next_element()? {
        if list.len() == limit {
            return Err(A::Error::custom(format!("more than {limit} prompts in one request")));
        }
        list.push(item);
    }
    Ok(list)
}

/// The first element of a prompt array, which decides what the others must be.
enum Item {
    Id(u32),
    Text(String),
    Ids(Vec<u32>),
}

impl<'de> Deserialize<'de> for Item {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ItemVisitor)
    }
}

struct ItemVisitor;

impl<'de> Visitor<'de> for ItemVisitor {
    type Value = Item;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string, a token id, or an array of token ids")
    }

    fn visit_u64<E: Error>(self, id: u64) -> Result<Item, E> {
        let id = u32::try_from(id).map_err(|_| E::custom(format!("{id} is not a token id")))?;
        Ok(Item::Id(id))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Item, E> {
        Ok(Item::Text(text.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, items: A) -> Result<Item, A::Error> {
        Ok(Item::Ids(rest_of(Vec::new(), items, usize::MAX)?))
    }
}
