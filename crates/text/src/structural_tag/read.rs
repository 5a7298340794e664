//! From the JSON of a structural tag to its tree; every fault has its path.

use serde_json::{Map, Value};

use super::{Format, Separated, Tag, TagError, Triggered};
use crate::Grammar;
use crate::grammar::MAX_BYTES;

/// Most formats, tags and triggers together.
const MAX_NODES: usize = 1000;

/// What a format may be.
const TYPES: &str = "'const_string', 'json_schema', 'regex', 'any_text', 'sequence', 'or', 'tag', \
                     'triggered_tags' or 'tags_with_separator'";

/// Schemas and regular expressions, with their paths.
type Leaves = Vec<(String, Grammar)>;

/// A value and where it stands.
#[derive(Debug, Clone)]
pub(super) struct Node<'a> {
    value: &'a Value,
    path: String,
}

impl<'a> Node<'a> {
    pub(super) fn root(value: &'a Value) -> Self {
        Self { value, path: String::new() }
    }

    /// The whole, in either spelling.
    pub(super) fn tag(&self, leaves: &mut Leaves) -> Result<Format, TagError> {
        // What follows takes a time that its length bounds.
        let len = self.value.to_string().len();
        if len > MAX_BYTES {
            return self.wrong(format!("it has {len} bytes; the limit is {MAX_BYTES}"));
        }
        let count = count_objects(self.value);
        if count > MAX_NODES {
            return self.wrong(format!("it has {count} parts; the limit is {MAX_NODES}"));
        }
        let object = self.object()?;
        if object.get("type").is_some_and(|kind| kind != "structural_tag") {
            return self.child("type").wrong("it must be 'structural_tag'");
        }
        if object.contains_key("structures") || object.contains_key("triggers") {
            self.knows(&["type", "structures", "triggers"])?;
            return self.structures(leaves);
        }
        self.knows(&["type", "format"])?;
        let format = self.child("format");
        format.required()?;
        format.format(leaves)
    }

    /// The older spelling: tags whose content is JSON.
    fn structures(&self, leaves: &mut Leaves) -> Result<Format, TagError> {
        let mut tags = Vec::new();
        for node in self.list("structures")? {
            node.knows(&["begin", "schema", "end"])?;
            let schema = node.child("schema");
            let content = schema.json_schema(leaves)?;
            let (begin, ends) = (node.text("begin")?, vec![node.text("end")?]);
            tags.push((node.child("begin"), Tag { begin, content, ends }));
        }
        let triggered = self.triggered(tags, Vec::new(), [false, false])?;
        Ok(Format::Triggered(triggered))
    }

    fn format(&self, leaves: &mut Leaves) -> Result<Format, TagError> {
        self.object()?;
        let kind = self.text("type")?;
        Ok(match kind.as_str() {
            "const_string" => {
                self.knows(&["type", "value"])?;
                Format::Const(self.text("value")?)
            }
            "json_schema" => {
                self.knows(&["type", "json_schema", "style"])?;
                if self.value.get("style").is_some_and(|style| style != "json") {
                    return self.child("style").wrong("only 'json' is supported");
                }
                self.child("json_schema").json_schema(leaves)?
            }
            "regex" => {
                self.knows(&["type", "pattern"])?;
                let pattern = self.text("pattern")?;
                let path = self.child("pattern").path;
                leaves.push((path, Grammar::Regex(pattern.clone())));
                Format::Regex(pattern)
            }
            "any_text" => {
                self.knows(&["type", "excludes"])?;
                Format::AnyText(self.texts("excludes")?)
            }
            "sequence" => {
                let elements = self.elements(leaves)?;
                let open = elements.split_last().map_or(&[][..], |(_, before)| before);
                if let Some(index) = open.iter().position(Format::is_open) {
                    let node = self.child(&format!("elements[{index}]"));
                    return node.wrong("free text has no end here: it must come last, or in a tag");
                }
                Format::Sequence(elements)
            }
            "or" => Format::Or(self.elements(leaves)?),
            "tag" => Format::Tag(Box::new(self.one_tag(leaves)?)),
            "triggered_tags" => {
                let fields = ["at_least_one", "stop_after_first"];
                self.knows(&["type", "triggers", "tags", "excludes", fields[0], fields[1]])?;
                let tags = self.list("tags")?;
                let tags = tags.iter().map(|node| Ok((node.child("begin"), node.one_tag(leaves)?)));
                let tags = tags.collect::<Result<_, _>>()?;
                let flags = [self.flag(fields[0])?, self.flag(fields[1])?];
                Format::Triggered(self.triggered(tags, self.texts("excludes")?, flags)?)
            }
            "tags_with_separator" => {
                let fields = ["at_least_one", "stop_after_first"];
                self.knows(&["type", "tags", "separator", fields[0], fields[1]])?;
                let tags = self.list("tags")?;
                let tags =
                    tags.iter().map(|node| node.one_tag(leaves)).collect::<Result<_, _>>()?;
                Format::Separated(Separated {
                    tags,
                    separator: self.text("separator")?,
                    at_least_one: self.flag(fields[0])?,
                    stop_after_first: self.flag(fields[1])?,
                })
            }
            _ => {
                let message = format!("'{kind}' is not supported; it may be {TYPES}");
                return self.child("type").wrong(message);
            }
        })
    }

    fn elements(&self, leaves: &mut Leaves) -> Result<Vec<Format>, TagError> {
        self.knows(&["type", "elements"])?;
        self.list("elements")?.iter().map(|node| node.format(leaves)).collect()
    }

    /// A tag, whose type may be left out where nothing else can stand.
    fn one_tag(&self, leaves: &mut Leaves) -> Result<Tag, TagError> {
        self.object()?;
        self.knows(&["type", "begin", "content", "end"])?;
        if self.value.get("type").is_some_and(|kind| kind != "tag") {
            return self.child("type").wrong("it must be 'tag'");
        }
        let node = self.child("content");
        node.required()?;
        let content = node.format(leaves)?;
        let end = self.child("end");
        let ends = match end.value {
            Value::Array(_) => self.texts("end")?,
            _ => vec![self.text("end")?],
        };
        if ends.is_empty() || (content.is_open() && ends.iter().any(String::is_empty)) {
            return end.wrong("free text before it needs an end, a text that is not empty");
        }
        Ok(Tag { begin: self.text("begin")?, content, ends })
    }

    /// Gives each tag, which comes with the node of its `begin`, the one trigger that it begins with.
    fn triggered(
        &self,
        tags: Vec<(Node<'a>, Tag)>,
        excludes: Vec<String>,
        [at_least_one, stop_after_first]: [bool; 2],
    ) -> Result<Triggered, TagError> {
        let triggers = self.texts("triggers")?;
        if triggers.is_empty() || triggers.iter().any(String::is_empty) {
            return self.child("triggers").wrong("it must list texts, none of them empty");
        }
        if tags.is_empty() {
            return self.wrong("it needs at least one tag");
        }
        let mut sorted = Vec::new();
        for (begin, tag) in tags {
            let starts = |(_, trigger): &(usize, &String)| tag.begin.starts_with(trigger.as_str());
            let mut found = triggers.iter().enumerate().filter(starts);
            let (Some((trigger, _)), None) = (found.next(), found.next()) else {
                return begin.wrong("it must begin with exactly one of the triggers");
            };
            sorted.push((trigger, tag));
        }
        if let Some(unused) = (0..triggers.len()).find(|at| !sorted.iter().any(|(t, _)| t == at)) {
            return self.child(&format!("triggers[{unused}]")).wrong("no tag begins with it");
        }
        Ok(Triggered { triggers, tags: sorted, excludes, at_least_one, stop_after_first })
    }

    fn json_schema(&self, leaves: &mut Leaves) -> Result<Format, TagError> {
        self.required()?;
        if !matches!(self.value, Value::Object(_) | Value::Bool(true)) {
            return self.wrong("it must be a JSON schema, an object");
        }
        leaves.push((self.path.clone(), Grammar::JsonSchema(self.value.clone())));
        Ok(Format::Json(self.value.clone()))
    }

    fn object(&self) -> Result<&'a Map<String, Value>, TagError> {
        self.value.as_object().ok_or_else(|| self.fault("it must be an object"))
    }

    /// Refuses fields of other names. Null asks for nothing.
    fn knows(&self, names: &[&str]) -> Result<(), TagError> {
        let known =
            |(name, value): &(&String, &Value)| value.is_null() || names.contains(&name.as_str());
        match self.object()?.iter().find(|field| !known(field)) {
            Some((name, _)) => self.child(name).wrong("it is not supported here; leave it out"),
            None => Ok(()),
        }
    }

    fn child(&self, name: &str) -> Node<'a> {
        let separator = if self.path.is_empty() { "" } else { "." };
        let value = self.value.get(name).unwrap_or(&Value::Null);
        Node { value, path: format!("{}{separator}{name}", self.path) }
    }

    fn text(&self, name: &str) -> Result<String, TagError> {
        let node = self.child(name);
        node.value.as_str().map(str::to_owned).ok_or_else(|| node.fault("it must be a string"))
    }

    fn flag(&self, name: &str) -> Result<bool, TagError> {
        let node = self.child(name);
        match node.value {
            Value::Null => Ok(false),
            Value::Bool(value) => Ok(*value),
            _ => node.wrong("it must be a boolean"),
        }
    }

    /// A list that must be there, and have something in it.
    fn list(&self, name: &str) -> Result<Vec<Node<'a>>, TagError> {
        let list = self.child(name);
        let items = list.value.as_array().filter(|items| !items.is_empty());
        let items = items.ok_or_else(|| list.fault("it must be an array with something in it"))?;
        let item = |(index, value)| Node { value, path: format!("{}[{index}]", list.path) };
        Ok(items.iter().enumerate().map(item).collect())
    }

    /// A list of texts that may be left out.
    fn texts(&self, name: &str) -> Result<Vec<String>, TagError> {
        let list = self.child(name);
        if list.value.is_null() {
            return Ok(Vec::new());
        }
        let items = list.value.as_array().map(Vec::as_slice);
        let texts = items.map(|items| items.iter().map(|item| item.as_str().map(str::to_owned)));
        let texts = texts.and_then(Iterator::collect::<Option<Vec<String>>>);
        texts.ok_or_else(|| list.fault("it must be an array of strings"))
    }

    fn required(&self) -> Result<(), TagError> {
        if self.value.is_null() { self.wrong("it is missing") } else { Ok(()) }
    }

    fn fault(&self, message: impl Into<String>) -> TagError {
        TagError { path: self.path.clone(), message: message.into() }
    }

    fn wrong<T>(&self, message: impl Into<String>) -> Result<T, TagError> {
        Err(self.fault(message))
    }
}

/// The objects outside schemas, and the texts of lists.
fn count_objects(value: &Value) -> usize {
    match value {
        Value::Object(fields) => {
            let inner = fields
                .iter()
                .filter(|(name, _)| !["json_schema", "schema"].contains(&name.as_str()));
            1 + inner.map(|(_, value)| count_objects(value)).sum::<usize>()
        }
        Value::Array(items) => items.iter().map(|item| 1 + count_objects(item)).sum(),
        _ => 0,
    }
}
