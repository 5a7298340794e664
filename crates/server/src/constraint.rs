//! What holds an answer to a form: found in the fields of a request, compiled, and blamed by path
//! where it cannot be followed.

use text::{Grammar, GrammarError, Matcher};

use crate::error::ApiError;
use crate::openai::tool_fields::Tools;
use crate::state::ServedModel;

/// A grammar, and where in the request it comes from.
#[derive(Debug)]
pub(crate) struct Constraint {
    /// The path of the field that asks for it.
    pub(crate) field: String,
    pub(crate) grammar: Grammar,
    /// The parts of it that may be at fault, with their paths.
    pub(crate) parts: Vec<(String, Grammar)>,
}

impl Constraint {
    /// One that has no parts.
    pub(crate) fn new(field: &str, grammar: Grammar) -> Self {
        Self { field: field.to_owned(), grammar, parts: Vec::new() }
    }
}

impl ServedModel {
    /// Compiles a constraint for `/v1/completions` and for chats.
    pub(crate) fn matcher(&self, constraint: &Constraint) -> Result<Matcher, ApiError> {
        let compiler = self.text().grammars();
        compiler.compile(&constraint.grammar).map_err(|error| {
            let blame = |(path, part): &(String, Grammar)| {
                compiler.compile(part).err().map(|error| unusable(path, &error))
            };
            let blamed = constraint.parts.iter().find_map(blame);
            blamed.unwrap_or_else(|| unusable(&constraint.field, &error))
        })
    }

    /// What the answer to `prompt` must follow: what the request says of the answer, or calls that
    /// must come; thoughts may stand before either.
    pub(crate) fn constraint(
        &self,
        prompt: &str,
        asked: Option<Constraint>,
        tools: &Tools,
    ) -> Result<Option<Constraint>, ApiError> {
        let (format, tokenizer) = (self.text().output_format(), self.text().tokenizer());
        let constraint = match (asked, tools.calls()) {
            (None, None) => return Ok(None),
            (Some(asked), _) if !tools.definitions.is_empty() => {
                let field = &asked.field;
                let message = format!(
                    "'{field}' leaves no room for calls: leave out 'tools', or set 'tool_choice' \
                     to 'none'."
                );
                return Err(ApiError::invalid(field, message));
            }
            (Some(asked), _) => asked,
            (None, Some((field, calls))) => {
                let Some(written) = format.tools else {
                    let message =
                        format!("'{field}' is not supported by this model, which calls no tools.");
                    return Err(ApiError::invalid(field, message));
                };
                let grammar = written.grammar(tokenizer, &tools.definitions, calls);
                Constraint::new(field, grammar.map_err(|error| unusable(field, &error))?)
            }
        };
        let Constraint { field, grammar, parts } = constraint;
        let grammar = format.after_reasoning(tokenizer, prompt, grammar);
        let grammar = grammar.map_err(|error| unusable(&field, &error))?;
        Ok(Some(Constraint { field, grammar, parts }))
    }
}

/// A constraint that cannot be followed.
fn unusable(field: &str, error: &GrammarError) -> ApiError {
    ApiError::invalid(field, format!("'{field}' cannot be used to constrain: {error}."))
}
