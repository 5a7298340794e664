//! Collects output parts, adjacent ones of a kind as one.

use super::{OutputPart, Stretch};

/// The parts since they were last taken, what was read for them, and how many calls there have been.
#[derive(Debug, Clone, Default)]
pub(super) struct Parts {
    collected: Vec<OutputPart>,
    read: Vec<Stretch>,
    num_calls: usize,
}

impl Parts {
    pub(super) fn take(&mut self) -> Vec<OutputPart> {
        std::mem::take(&mut self.collected)
    }

    pub(super) fn take_read(&mut self) -> Vec<Stretch> {
        std::mem::take(&mut self.read)
    }

    /// The next characters of the output are reasoning, its tags included, or are not.
    pub(super) fn read(&mut self, num_chars: usize, is_reasoning: bool) {
        match self.read.last_mut() {
            Some(last) if last.is_reasoning == is_reasoning => last.num_chars += num_chars,
            _ if num_chars > 0 => self.read.push(Stretch { num_chars, is_reasoning }),
            _ => {}
        }
    }

    /// How many calls have begun.
    pub(super) fn num_calls(&self) -> usize {
        self.num_calls
    }

    pub(super) fn text(&mut self, c: char) {
        if let Some(OutputPart::Text(text)) = self.collected.last_mut() {
            text.push(c);
        } else {
            self.collected.push(OutputPart::Text(c.into()));
        }
    }

    pub(super) fn reasoning(&mut self, c: char) {
        if let Some(OutputPart::Reasoning(text)) = self.collected.last_mut() {
            text.push(c);
        } else {
            self.collected.push(OutputPart::Reasoning(c.into()));
        }
    }

    /// Begins the next call.
    pub(super) fn call(&mut self, id: Option<String>, name: String) {
        self.collected.push(OutputPart::ToolCall { index: self.num_calls, id, name });
        self.num_calls += 1;
    }

    /// One more character of the arguments of the call that began last.
    pub(super) fn argument(&mut self, c: char) {
        if let Some(OutputPart::Arguments { json, .. }) = self.collected.last_mut() {
            json.push(c);
        } else {
            let index = self.num_calls.checked_sub(1).expect("a call has begun");
            self.collected.push(OutputPart::Arguments { index, json: c.into() });
        }
    }

    /// [`Self::argument`] for each character.
    pub(super) fn arguments(&mut self, json: &str) {
        for c in json.chars() {
            self.argument(c);
        }
    }
}
