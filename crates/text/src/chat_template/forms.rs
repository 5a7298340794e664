//! Which forms of a message a template reads, found by trying them.

use serde_json::{Value, json};

use super::ChatInput;
use crate::TextError;

/// The roles whose content is tried; another's is read as a system message's.
const ROLES: [&str; 4] = ["system", "user", "assistant", "tool"];

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

    /// An assistant's message with one call.
    fn probe(self) -> Value {
        let arguments = if self.objects {
            json!({"x": "call-probe"})
        } else {
            json!("{\"x\": \"call-probe\"}")
        };
        let mut message = json!({"role": "assistant", "tool_calls": [{
            "id": "a1b2c3d4e", "type": "function", "function": {"name": "f", "arguments": arguments},
        }]});
        match self.absent {
            Absent::Missing => {}
            Absent::Empty => message["content"] = json!(""),
            Absent::Null => message["content"] = Value::Null,
        }
        message
    }
}

/// The forms that one template reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Forms {
    pub(super) content: [ContentForm; ROLES.len()],
    pub(super) calls: CallForm,
}

impl Default for Forms {
    fn default() -> Self {
        Self { content: Default::default(), calls: CallForm::ALL[0] }
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
        Self { content: ROLES.map(|role| content_form(role, calls, render)), calls }
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
        let answer =
            json!({"role": "tool", "name": "f", "tool_call_id": "a1b2c3d4e", "content": "b"});
        let user = json!({"role": "user", "content": "a"});
        let Some(text) = render(vec![user, form.probe(), answer]) else { continue };
        if text.contains("call-probe") {
            return form;
        }
        rendered = rendered.or(Some(form));
    }
    rendered.unwrap_or(CallForm::ALL[0])
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
                let mut answer = message;
                answer["name"] = json!("f");
                answer["tool_call_id"] = json!("a1b2c3d4e");
                vec![user, calls.probe(), answer]
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
