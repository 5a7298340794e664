//! The messages of a request as those of a chat: one message a turn, a tool's result one of its own.

use std::collections::HashSet;

use serde_json::{Value, json};

use super::block::{Piece, Role};
use super::request::MessagesRequest;
use crate::error::ApiError;

/// Claude Code's first block of `system` is for Anthropic's accounting. It is no part of the prompt
/// and differs from session to session, which would keep every prefix from being shared.
const BILLING: &str = "x-anthropic-billing-header:";

/// How the model is shown what the system says between turns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LateSystem {
    /// As the system's.
    System,
    /// As the user's, for templates that refuse or drop it elsewhere than in front.
    User,
}

/// Turns of one role that follow each other, as one.
struct Group<'a> {
    role: Role,
    pieces: Vec<Piece<'a>>,
}

impl MessagesRequest {
    /// The messages of a chat.
    pub(crate) fn conversation(&self, late: LateSystem) -> Result<Vec<Value>, ApiError> {
        let groups = self.groups(late)?;
        let last = groups.last().filter(|group| group.role == Role::Assistant);
        let mut open = last.into_iter().flat_map(|group| &group.pieces);
        if let Some(id) = open.find_map(call_id) {
            // In Anthropic's words, by which clients mend their history.
            let message = format!(
                "messages: `tool_use` ids were found without `tool_result` blocks immediately \
                 after: {id}"
            );
            return Err(ApiError::invalid("messages", message));
        }
        if let Some(id) = stray_result(&groups) {
            let message = format!(
                "messages: unexpected `tool_use_id` found in `tool_result` blocks: {id}. Each \
                 `tool_result` block must have a corresponding `tool_use` block before it."
            );
            return Err(ApiError::invalid("messages", message));
        }
        let has_thoughts =
            |group: &Group<'_>| group.pieces.iter().any(|piece| matches!(piece, Piece::Thought(_)));
        let num_thoughtful = groups.iter().filter(|group| has_thoughts(group)).count();
        let kept = self.kept_thoughts()?.unwrap_or(usize::MAX);
        let mut hidden = num_thoughtful.saturating_sub(kept);
        let mut messages = Vec::new();
        for group in &groups {
            let shows_thoughts = hidden == 0;
            hidden -= usize::from(has_thoughts(group) && hidden > 0);
            group.messages(shows_thoughts, &mut messages);
        }
        Ok(messages)
    }

    /// Whether the answer goes on with the last message.
    pub(crate) fn continues(&self) -> bool {
        self.messages.last().is_some_and(|turn| turn.role == Role::Assistant)
    }

    /// What the system says between turns.
    pub(crate) fn late_system(&self) -> Result<Vec<&str>, ApiError> {
        let mut texts = Vec::new();
        for group in self.groups(LateSystem::System)?.iter().skip(1) {
            if group.role == Role::System {
                texts.extend(group.texts());
            }
        }
        Ok(texts)
    }

    fn groups(&self, late: LateSystem) -> Result<Vec<Group<'_>>, ApiError> {
        let mut groups: Vec<Group<'_>> = Vec::new();
        if let Some(system) = &self.system {
            let mut pieces = system.pieces(Role::System, "system")?;
            pieces.retain(|piece| !matches!(piece, Piece::Text(text) if text.starts_with(BILLING)));
            if !pieces.is_empty() {
                groups.push(Group { role: Role::System, pieces });
            }
        }
        for (index, turn) in self.messages.iter().enumerate() {
            let pieces = turn.content.pieces(turn.role, &format!("messages[{index}].content"))?;
            let in_front = groups.iter().all(|group| group.role == Role::System);
            let role = match turn.role {
                Role::System if late == LateSystem::User && !in_front => Role::User,
                role => role,
            };
            match groups.last_mut() {
                Some(group) if group.role == role => group.pieces.extend(pieces),
                _ => groups.push(Group { role, pieces }),
            }
        }
        Ok(groups)
    }
}

impl<'a> Group<'a> {
    fn texts(&self) -> Vec<&'a str> {
        let texts = self.pieces.iter().filter_map(|piece| match piece {
            Piece::Text(text) => Some(*text),
            _ => None,
        });
        texts.collect()
    }

    /// Adds the messages of a chat that say the same.
    fn messages(&self, shows_thoughts: bool, messages: &mut Vec<Value>) {
        let texts = self.texts();
        match self.role {
            Role::System => messages.push(json!({"role": "system", "content": texts.join("\n")})),
            Role::User => {
                let num_before = messages.len();
                messages.extend(self.pieces.iter().filter_map(|piece| match piece {
                    Piece::Result { id, text } => {
                        Some(json!({"role": "tool", "tool_call_id": id, "content": text}))
                    }
                    _ => None,
                }));
                if !texts.is_empty() || messages.len() == num_before {
                    messages.push(json!({"role": "user", "content": texts.join("\n")}));
                }
            }
            Role::Assistant => messages.push(self.assistant(&texts, shows_thoughts)),
        }
    }

    /// Blocks of text were one text, which calls cut apart.
    fn assistant(&self, texts: &[&str], shows_thoughts: bool) -> Value {
        let mut message = json!({"role": "assistant", "content": texts.concat()});
        let thoughts = self.pieces.iter().filter_map(|piece| match piece {
            Piece::Thought(text) => Some(*text),
            _ => None,
        });
        let thoughts: Vec<_> = thoughts.filter(|_| shows_thoughts).collect();
        if !thoughts.is_empty() {
            message["reasoning_content"] = json!(thoughts.join("\n"));
        }
        let calls = self.pieces.iter().filter_map(|piece| match piece {
            Piece::Call { id, name, input } => {
                let function = json!({"name": name, "arguments": json!(input).to_string()});
                Some(json!({"id": id, "type": "function", "function": function}))
            }
            _ => None,
        });
        let calls: Vec<_> = calls.collect();
        if !calls.is_empty() {
            message["tool_calls"] = json!(calls);
        }
        message
    }
}

/// The id of a result without a call before it.
fn stray_result<'a>(groups: &[Group<'a>]) -> Option<&'a str> {
    let mut called = HashSet::new();
    for group in groups {
        for piece in &group.pieces {
            match piece {
                Piece::Result { id, .. } if !called.contains(id) => return Some(id),
                piece => called.extend(call_id(piece)),
            }
        }
    }
    None
}

fn call_id<'a>(piece: &Piece<'a>) -> Option<&'a str> {
    match piece {
        Piece::Call { id, .. } => Some(id),
        _ => None,
    }
}
