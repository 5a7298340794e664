//! What holds an answer to a form: found in the fields of a request, compiled, and blamed by path
//! where it cannot be followed.

use std::slice;

use serde_json::Value;
use text::{Calls, Grammar, GrammarError, Matcher, ToolFormat};

use crate::error::ApiError;
use crate::openai::tool_fields::Tools;
use crate::served_model::ServedModel;

/// A grammar, and where in the request it comes from.
#[derive(Debug)]
pub(crate) struct Constraint {
    /// The path of the field that asks for it.
    pub(crate) field: String,
    pub(crate) grammar: Grammar,
    /// What in it may be at fault.
    pub(crate) parts: Vec<Part>,
}

/// What an answer is held to.
#[derive(Debug)]
pub(crate) struct Held {
    /// The path of the field that asks for it.
    pub(crate) field: String,
    /// At the start of the answer.
    pub(crate) matcher: Matcher,
}

/// Part of a constraint, with its path.
#[derive(Debug)]
pub(crate) enum Part {
    /// Something that the client wrote.
    Grammar(String, Grammar),
    /// A tool whose calls are written so.
    Tool(String, ToolFormat, Value),
}

impl Constraint {
    /// One that has no parts.
    pub(crate) fn new(field: &str, grammar: Grammar) -> Self {
        Self { field: field.to_owned(), grammar, parts: Vec::new() }
    }
}

impl ServedModel {
    /// Compiles a constraint for `/v1/completions` and for chats.
    pub(crate) fn hold(&self, constraint: &Constraint) -> Result<Held, ApiError> {
        let Constraint { field, grammar, parts } = constraint;
        let matcher = self.text().grammars().compile(grammar);
        let matcher = matcher.map_err(|error| self.blame(parts, field, &error))?;
        Ok(Held { field: field.clone(), matcher })
    }

    /// The first of `parts` that cannot be followed on its own, or else the whole field.
    fn blame(&self, parts: &[Part], field: &str, error: &GrammarError) -> ApiError {
        let compile = |grammar: &Grammar| self.text().grammars().compile(grammar);
        let fault = |part: &Part| match part {
            Part::Grammar(path, part) => compile(part).err().map(|error| unusable(path, &error)),
            Part::Tool(path, written, tool) => {
                let tokenizer = self.text().tokenizer();
                let call = written.grammar(tokenizer, slice::from_ref(tool), (Calls::One, 0));
                let error = call.and_then(|call| compile(&call)).err();
                error.map(|error| unusable(path, &error))
            }
        };
        parts.iter().find_map(fault).unwrap_or_else(|| unusable(field, error))
    }

    /// What the answer to `prompt` must follow: what the request says of the answer, calls that must
    /// come, or one of both; thoughts may stand before any.
    ///
    /// `reply` is what the request asks of the answer. As at OpenAI it holds for the message: if a
    /// call may come, the answer is calls or such a message, and if one must, there is no message
    /// that it could hold for.
    pub(crate) fn constraint(
        &self,
        prompt: &str,
        reply: Option<Constraint>,
        tools: &Tools,
    ) -> Result<Option<Constraint>, ApiError> {
        let (format, tokenizer) = (self.text().output_format(), self.text().tokenizer());
        let calls = tools.calls(reply.is_some());
        let constraint = match (reply, calls, format.tools) {
            (None, None, _) => return Ok(None),
            // A model that calls no tools says messages only.
            (Some(reply), calls, written)
                if calls.is_none() || written.is_none() && !tools.forced =>
            {
                let grammar = format.message(tokenizer, reply.grammar);
                let grammar = grammar.map_err(|error| unusable(&reply.field, &error))?;
                Constraint { grammar, ..reply }
            }
            (_, Some((field, _)), None) => {
                let message =
                    format!("'{field}' is not supported by this model, which calls no tools.");
                return Err(ApiError::invalid(field, message));
            }
            (reply, Some(calls), Some(written)) => self.calls(written, tools, calls, reply)?,
            (Some(_), None, _) => unreachable!("taken above"),
        };
        let Constraint { field, grammar, parts } = constraint;
        let grammar = format.after_reasoning(tokenizer, prompt, grammar);
        let grammar = grammar.map_err(|error| unusable(&field, &error))?;
        Ok(Some(Constraint { field, grammar, parts }))
    }

    /// Calls as the model writes them, or a reply.
    fn calls(
        &self,
        written: ToolFormat,
        tools: &Tools,
        (field, calls): (&str, Calls),
        reply: Option<Constraint>,
    ) -> Result<Constraint, ApiError> {
        if let Some(reply) = &reply {
            // Where a call must come it is of no use, and no less wrong for that.
            self.hold(reply)?;
        }
        let reply = reply.filter(|_| !tools.forced);
        let (tokenizer, definitions) = (self.text().tokenizer(), &tools.definitions);
        let calls = (calls, tools.num_called);
        let grammar = match &reply {
            None => written.grammar(tokenizer, definitions, calls),
            Some(reply) => written.grammar_or(tokenizer, definitions, calls, &reply.grammar),
        };
        let part = |(tool, place): (&Value, &usize)| {
            Part::Tool(format!("tools[{place}].function.parameters"), written, tool.clone())
        };
        // Where the format is at fault, no tool is.
        let places = definitions.iter().zip(&tools.places).filter(|_| written.is_written());
        let parts: Vec<_> = places.map(part).collect();
        let field = reply.map_or_else(|| field.to_owned(), |reply| reply.field);
        match grammar {
            Ok(grammar) => Ok(Constraint { field, grammar, parts }),
            Err(error) => Err(self.blame(&parts, &field, &error)),
        }
    }
}

/// A constraint that cannot be followed.
fn unusable(field: &str, error: &GrammarError) -> ApiError {
    ApiError::invalid(field, format!("'{field}' cannot be used to constrain: {error}."))
}
