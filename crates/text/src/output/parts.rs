//! Collects output parts, adjacent ones of a kind as one.

use super::OutputPart;

/// The parts since they were last taken, and how many calls there have been.
#[derive(Debug, Clone, Default)]
pub(super) struct Parts {
    parts: Vec<OutputPart>,
    num_calls: usize,
}

impl Parts {
    pub(super) fn take(&mut self) -> Vec<OutputPart> {
        std::mem::take(&mut self.parts)
    }

    /// How many calls have begun.
    pub(super) fn num_calls(&self) -> usize {
        self.num_calls
    }

    pub(super) fn text(&mut self, c: char) {
        if let Some(OutputPart::Text(text)) = self.parts.last_mut() {
            text.push(c);
        } else {
            self.parts.push(OutputPart::Text(c.into()));
        }
    }

    pub(super) fn reasoning(&mut self, c: char) {
        if let Some(OutputPart::Reasoning(text)) = self.parts.last_mut() {
            text.push(c);
        } else {
            self.parts.push(OutputPart::Reasoning(c.into()));
        }
    }

    /// Begins the next call.
    pub(super) fn call(&mut self, id: Option<String>, name: String) {
        self.parts.push(OutputPart::ToolCall { index: self.num_calls, id, name });
        self.num_calls += 1;
    }

    /// One more character of the arguments of the call that began last.
    pub(super) fn argument(&mut self, c: char) {
        if let Some(OutputPart::Arguments { json, .. }) = self.parts.last_mut() {
            json.push(c);
        } else {
            let index = self.num_calls.checked_sub(1).expect("a call has begun");
            self.parts.push(OutputPart::Arguments { index, json: c.into() });
        }
    }

    /// [`Self::argument`] for each character.
    pub(super) fn arguments(&mut self, json: &str) {
        for c in json.chars() {
            self.argument(c);
        }
    }
}
