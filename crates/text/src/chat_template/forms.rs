//! Which forms of a message a template reads, found by trying them.

use serde_json::{Value, json};

use super::ChatInput;
use crate::TextError;

/// The roles whose content is tried; another's is read as a system message's.
const ROLES: [&str; 4] = ["system", "user", "assistant", "tool"];

/// What the arguments of a call that is tried begin with.
const CALL_PROBE: &str = "call-probe";
/// An id that every template takes.
const SHORT_ID: &str = "a1b2c3d4e";
/// Ids that not every template takes.
const LONG_AND_SHORTER: [&str; 2] = ["call_0123456789", "1"];

/// Which forms of `content` a template shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ContentForm {
    pub(super) strings: bool,
    pub(super) parts: bool,
}

impl Default for ContentForm {
    fn default() -> Self {
        Self { strings: true, parts: false }
    }
}

/// What stands for the content of an assistant's message that has none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Absent {
    /// No key, as transformers has it.
    Missing,
    /// An empty string, for templates that add something to it.
    Empty,
    /// A null, for templates that show calls beside nothing else.
    Null,
}

/// How a template reads an assistant's calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct CallForm {
    /// Arguments as an object, and not as the JSON that clients send.
    pub(super) objects: bool,
    pub(super) absent: Absent,
}

impl CallForm {
    /// transformers' own form first, the others for templates that fail on it or leave the call out.
    const ALL: [Self; 6] = [
        Self { objects: true, absent: Absent::Missing },
        Self { objects: true, absent: Absent::Empty },
        Self { objects: true, absent: Absent::Null },
        Self { objects: false, absent: Absent::Missing },
        Self { objects: false, absent: Absent::Empty },
        Self { objects: false, absent: Absent::Null },
    ];

    /// A user's message, and an assistant's with one call.
    fn probe(self) -> Vec<Value> {
        self.probe_with(&[SHORT_ID])
    }

    /// The same with a call for each id, whose argument is [`CALL_PROBE`] and the call's number.
    fn probe_with(self, ids: &[&str]) -> Vec<Value> {
        let calls = ids.iter().enumerate().map(|(number, id)| {
            let arguments = json!({"x": format!("{CALL_PROBE}{number}")});
            let arguments = if self.objects { arguments } else { json!(arguments.to_string()) };
            let function = json!({"name": "f", "arguments": arguments});
            json!({"id": id, "type": "function", "function": function})
        });
        let mut message = json!({"role": "assistant", "tool_calls": calls.collect::<Vec<_>>()});
        match self.absent {
            Absent::Missing => {}
            Absent::Empty => message["content"] = json!(""),
            Absent::Null => message["content"] = Value::Null,
        }
        vec![json!({"role": "user", "content": "a"}), message]
    }

    /// Whether the template shows calls of these ids, with their results behind them.
    fn shows(self, ids: &[&str], render: impl Fn(Vec<Value>) -> Option<String>) -> bool {
        let mut messages = self.probe_with(ids);
        messages.extend(ids.iter().map(|id| result("b", id)));
        let text = render(messages).unwrap_or_default();
        (0..ids.len()).all(|number| text.contains(&format!("{CALL_PROBE}{number}")))
    }
}

/// A tool's message.
fn result(content: impl Into<Value>, id: &str) -> Value {
    json!({"role": "tool", "name": "f", "tool_call_id": id, "content": content.into()})
}

/// What a template wants of calls beyond their form.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CallRules {
    /// Ids must be as [`short_call_id`](super::short_call_id) makes them: Mistral's.
    pub short_ids: bool,
    /// A message has room for one call only: Llama 3's.
    pub single: bool,
}

/// The forms that one template reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Forms {
    pub(super) content: [ContentForm; ROLES.len()],
    pub(super) calls: CallForm,
    pub(super) rules: CallRules,
}

impl Default for Forms {
    fn default() -> Self {
        let (content, rules) = Default::default();
        Self { content, calls: CallForm::ALL[0], rules }
    }
}

impl Forms {
    /// Tries the template on a message in each form.
    pub(super) fn probe(render: impl Fn(&ChatInput) -> Result<String, TextError>) -> Self {
        let render = |messages: Vec<Value>| {
            let has_calls = messages.len() > 2;
            let tool = json!({"type": "function", "function": {
                "name": "f", "description": "", "parameters": {"type": "object", "properties": {}},
            }});
            let tools = has_calls.then(|| vec![tool]);
            render(&ChatInput { tools, ..ChatInput::new(messages) }).ok()
        };
        let calls = call_form(render);
        let content = ROLES.map(|role| content_form(role, calls, render));
        Self { content, calls, rules: call_rules(calls, render) }
    }

    /// Which forms of content it shows in a message of this role.
    pub(super) fn content_of(&self, role: Option<&str>) -> ContentForm {
        let place = ROLES.iter().position(|known| Some(*known) == role);
        self.content[place.unwrap_or(0)]
    }
}

/// The first form in which the template shows the call; the first that it renders, if it shows none.
fn call_form(render: impl Fn(Vec<Value>) -> Option<String>) -> CallForm {
    let mut rendered = None;
    for form in CallForm::ALL {
        let mut messages = form.probe();
        messages.push(result("b", SHORT_ID));
        let Some(text) = render(messages) else { continue };
        if text.contains(CALL_PROBE) {
            return form;
        }
        rendered = rendered.or(Some(form));
    }
    rendered.unwrap_or(CallForm::ALL[0])
}

/// What the template refuses or leaves out, of calls that it shows otherwise.
fn call_rules(form: CallForm, render: impl Fn(Vec<Value>) -> Option<String>) -> CallRules {
    let shows = |ids: &[&str]| form.shows(ids, &render);
    if !shows(&[SHORT_ID]) {
        return CallRules::default();
    }
    CallRules {
        short_ids: LONG_AND_SHORTER.iter().any(|id| !shows(&[id])),
        single: !shows(&[SHORT_ID, "f5g6h7i8j"]),
    }
}

/// A list counts as shown when both its texts appear and its structure does not: a template that
/// prints lists as they are does not read them.
fn content_form(
    role: &str,
    calls: CallForm,
    render: impl Fn(Vec<Value>) -> Option<String>,
) -> ContentForm {
    let shown = |content: Value| {
        let message = json!({"role": role, "content": content});
        let user = json!({"role": "user", "content": "a"});
        render(match role {
            "user" => vec![message],
            "assistant" => vec![user, message],
            "tool" => {
                let mut messages = calls.probe();
                messages.push(result(message["content"].clone(), SHORT_ID));
                messages
            }
            _ => vec![message, user],
        })
    };
    let strings = shown(json!("first-probe")).is_some_and(|text| text.contains("first-probe"));
    let parts = json!([
        {"type": "text", "text": "first-probe"},
        {"type": "text", "text": "second-probe"},
    ]);
    let parts = shown(parts).is_some_and(|text| {
        let structure = ["'text'", "\"text\":"].iter().any(|mark| text.contains(mark));
        text.contains("first-probe") && text.contains("second-probe") && !structure
    });
    ContentForm { strings: strings || !parts, parts }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chat_template::template::Template;

    fn forms(source: &str) -> Forms {
        let special = crate::SpecialTokens::default();
        Template::compile("t", source.to_owned(), &special).unwrap().forms()
    }

    #[test]
    fn content_is_tried_for_each_role() {
        let found = forms(
            "{% for m in messages %}{% if m.role == 'user' and m.content is not string %}\
             {% for part in m.content %}{{ part.text }}{% endfor %}{% else %}{{ m.content }}{% endif %}{% endfor %}",
        );
        assert!(found.content_of(Some("user")).parts);
        assert!(!found.content_of(Some("tool")).parts);
        assert!(!found.content_of(None).parts);
    }

    #[test]
    fn calls_are_tried_until_one_is_shown() {
        let call =
            "{% for c in m.tool_calls %}{{ c.function.name + c.function.arguments }}{% endfor %}";
        let form = |objects, absent| CallForm { objects, absent };
        for (source, expected) in [
            ("{{ m.tool_calls }}".to_owned(), form(true, Absent::Missing)),
            ("{{ m.content + 'x' }}{{ m.tool_calls }}".to_owned(), form(true, Absent::Empty)),
            (call.to_owned(), form(false, Absent::Missing)),
            (format!("{{{{ m.content + 'x' }}}}{call}"), form(false, Absent::Empty)),
            (format!("{{% if m.content is none %}}{call}{{% endif %}}"), form(false, Absent::Null)),
            ("no calls, and {{ m.content + 'x' }}".to_owned(), form(true, Absent::Empty)),
        ] {
            let source =
                format!("{{% for m in messages if m.role == 'assistant' %}}{source}{{% endfor %}}");
            assert_eq!(forms(&source).calls, expected, "{source}");
        }
    }
}
