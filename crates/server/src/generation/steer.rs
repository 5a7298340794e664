//! What the engine must keep to, as its constraint: a grammar's matcher, a bound on reasoning, or both.
//! The two rooms do not know each other.

use engine::Constraint;
use text::{GrammarError, Matcher};

use super::thinking_budget::Thinking;
use super::{Job, JobPrompt};
use crate::served_model::ServedModel;

/// The constraint of one answer, at its start.
pub(super) fn steer(
    model: &ServedModel,
    job: &Job,
    prompt: &JobPrompt,
) -> Option<Box<dyn Constraint>> {
    let grammar = job.held.as_ref().map(|held| Grammar(held.matcher.fork()));
    let budget = job.thinking.as_ref().zip(job.output.as_ref());
    let Some((budget, output)) = budget else {
        return grammar.map(|grammar| Box::new(grammar) as Box<dyn Constraint>);
    };
    let end_ids = &job.sampling.text.end_ids;
    let hidden = if job.sampling.text.include_stop { &[] } else { &**end_ids };
    let thinking = Thinking::new(budget, output, job.detokenizer(model, prompt), hidden);
    Some(Box::new(Steer { grammar, thinking }))
}

/// A grammar alone.
struct Grammar(Matcher);

/// Reasoning that ends in time, and a grammar, if there is one.
struct Steer {
    grammar: Option<Grammar>,
    thinking: Thinking,
}

impl Constraint for Grammar {
    fn fill_mask(&mut self, mask: &mut [u32]) -> Result<(), String> {
        self.0.fill_mask(mask).map_err(message)
    }

    fn accept(&mut self, id: u32) -> Result<bool, String> {
        self.0.accept(id).map_err(message)
    }

    fn rollback(&mut self, n: usize) -> Result<(), String> {
        self.0.rollback(n).map_err(message)
    }

    fn forced(&mut self, max: usize) -> Vec<u32> {
        self.0.forced(max)
    }
}

impl Constraint for Steer {
    fn fill_mask(&mut self, mask: &mut [u32]) -> Result<(), String> {
        match &mut self.grammar {
            None => mask.fill(u32::MAX),
            Some(grammar) => grammar.fill_mask(mask)?,
        }
        let Some(&id) = self.thinking.forced().first() else { return Ok(()) };
        let (word, bit) = (id as usize / 32, 1 << (id % 32));
        let is_allowed = mask[word] & bit != 0;
        mask.fill(0);
        mask[word] = bit;
        if is_allowed { Ok(()) } else { Err("the reasoning cannot be ended here".to_owned()) }
    }

    fn accept(&mut self, id: u32) -> Result<bool, String> {
        let is_complete = match &mut self.grammar {
            None => false,
            Some(grammar) => grammar.accept(id)?,
        };
        self.thinking.accept(id);
        Ok(is_complete)
    }

    fn rollback(&mut self, n: usize) -> Result<(), String> {
        if let Some(grammar) = &mut self.grammar {
            grammar.rollback(n)?;
        }
        self.thinking.rollback(n);
        Ok(())
    }

    fn forced(&mut self, max: usize) -> Vec<u32> {
        let closing = self.thinking.forced();
        if !closing.is_empty() {
            return closing[..closing.len().min(max)].to_vec();
        }
        let mut ids = self.grammar.as_mut().map_or_else(Vec::new, |grammar| grammar.forced(max));
        ids.truncate(self.thinking.num_free(&ids));
        ids
    }
}

#[expect(clippy::needless_pass_by_value, reason = "what map_err gives")]
fn message(error: GrammarError) -> String {
    error.to_string()
}
