//! vLLM's `thinking_token_budget`: reasoning that has become so long is closed.
//!
//! The tokens between the tags count, over all blocks of an answer. When there are as many as the
//! budget allows and the block is still open, its closing tag is all that may come (behind the rest of
//! a character that has begun), and what comes behind the tag is free again. The output is read as the answer's own parser reads it, so that a tag in
//! a text or in a call's arguments is none here either.

use std::collections::VecDeque;
use std::sync::Arc;

use text::{ClosingTag, Detokenizer, OutputParser, OutputPart};

use super::OutputRules;

/// Places that are kept to go back to: as many tokens as are ever guessed ahead. To go back further
/// costs reading the answer again.
const KEPT: usize = 64;

/// How long a chat may think.
#[derive(Debug, Clone)]
pub(crate) struct ThinkingBudget {
    limit: usize,
    closing: Arc<ClosingTag>,
}

/// The reasoning of one answer.
pub(super) struct Thinking {
    rules: Rules,
    start: Place,
    /// Where the answer stood before each of the last tokens.
    earlier: VecDeque<Place>,
    now: Place,
    ids: Vec<u32>,
}

/// What stays the same over an answer.
struct Rules {
    budget: ThinkingBudget,
    /// Ids without text.
    hidden: Vec<u32>,
    /// Once text begins, all is text.
    is_plain: bool,
}

/// What is known behind some token.
#[derive(Clone)]
struct Place {
    detokenizer: Detokenizer,
    parser: OutputParser,
    /// The plain answer has begun.
    answers: bool,
    /// Tokens of reasoning.
    used: usize,
    /// What is left of a tag that must come.
    closing: Vec<u32>,
}

impl ThinkingBudget {
    /// At most `limit` tokens, then `closing`.
    pub(crate) fn new(limit: usize, closing: ClosingTag) -> Self {
        Self { limit, closing: Arc::new(closing) }
    }
}

impl Thinking {
    /// Before an answer that `detokenizer` and `output` read; `hidden` are ids without text.
    pub(super) fn new(
        budget: &ThinkingBudget,
        output: &OutputRules,
        detokenizer: Detokenizer,
        hidden: &[u32],
    ) -> Self {
        let rules =
            Rules { budget: budget.clone(), hidden: hidden.to_vec(), is_plain: output.is_plain };
        let parser = output.parser();
        let mut start = Place { detokenizer, parser, answers: false, used: 0, closing: Vec::new() };
        start.close_if_due(&rules);
        let now = start.clone();
        Self { rules, start, earlier: VecDeque::with_capacity(KEPT), now, ids: Vec::new() }
    }

    /// What must come next, whatever the model prefers.
    pub(super) fn forced(&self) -> &[u32] {
        &self.now.closing
    }

    /// How many of `ids` may come before something else must.
    pub(super) fn num_free(&self, ids: &[u32]) -> usize {
        let mut place = self.now.clone();
        let ends = ids.iter().position(|&id| {
            place.advance(&self.rules, id);
            !place.closing.is_empty()
        });
        ends.map_or(ids.len(), |at| at + 1)
    }

    /// A token came.
    pub(super) fn accept(&mut self, id: u32) {
        if self.earlier.len() == KEPT {
            self.earlier.pop_front();
        }
        self.earlier.push_back(self.now.clone());
        self.now.advance(&self.rules, id);
        self.ids.push(id);
    }

    /// The last `n` tokens did not come.
    pub(super) fn rollback(&mut self, n: usize) {
        if n == 0 {
            return;
        }
        self.ids.truncate(self.ids.len().saturating_sub(n));
        if let Some(at) = self.earlier.len().checked_sub(n) {
            self.now = self.earlier[at].clone();
            self.earlier.truncate(at);
        } else {
            self.earlier.clear();
            self.now = self.start.clone();
            for &id in &self.ids {
                self.now.advance(&self.rules, id);
            }
        }
    }
}

impl Place {
    fn in_reasoning(&self) -> bool {
        !self.answers && self.parser.in_reasoning()
    }

    fn advance(&mut self, rules: &Rules, id: u32) {
        if self.answers {
            return;
        }
        let was_in_reasoning = self.in_reasoning();
        let is_hidden = rules.hidden.contains(&id);
        let text = if is_hidden { String::new() } else { self.detokenizer.push(id) };
        let parts = self.parser.push(&text);
        self.parser.take_read();
        let is_text = |part: &OutputPart| matches!(part, OutputPart::Text(_));
        self.answers = rules.is_plain && parts.iter().any(is_text);
        if !self.closing.is_empty() {
            self.closing.remove(0);
            return;
        }
        self.used += usize::from(was_in_reasoning && self.in_reasoning());
        self.close_if_due(rules);
    }

    fn close_if_due(&mut self, rules: &Rules) {
        let ThinkingBudget { limit, closing } = &rules.budget;
        let is_due = self.in_reasoning() && self.used >= *limit;
        if is_due && !self.detokenizer.is_within_character() {
            self.closing = closing.after(self.parser.held()).to_vec();
        }
    }
}
