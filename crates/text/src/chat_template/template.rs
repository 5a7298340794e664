//! One compiled template: rendering within bounds, and errors that say what and where.

use std::io;

use minijinja::value::Serde;
use minijinja::{Environment, ErrorKind};
use serde_json::{Map, Value, json};

use super::ChatInput;
use super::continuation::Continuation;
use super::environment::{self, Raised};
use super::forms::Forms;
use super::messages;
use crate::{SpecialTokens, TextError};

/// Longest prompt a template may write, in bytes.
const MAX_OUTPUT_LEN: usize = 16 << 20;

/// Steps of the template engine for any chat; a step can make at most 64 bytes.
const BASE_FUEL: u64 = 1_000_000;

/// Steps instead of those while the template is tried on chats of three messages.
const PROBE_FUEL: u64 = 50_000;

/// Further steps for each JSON value in the request, so that long chats render and bombs do not.
const FUEL_PER_VALUE: u64 = 500;

/// Steps that no chat may exceed.
const MAX_FUEL: u64 = 16_000_000;

/// The name under which a template stands in its environment.
const ENTRY: &str = "chat_template";

/// A template with the environment that it was compiled in.
#[derive(Debug)]
pub(super) struct Template {
    name: String,
    source: String,
    environment: Environment<'static>,
    forms: Forms,
}

impl Template {
    pub(super) fn source(&self) -> &str {
        &self.source
    }

    pub(super) fn forms(&self) -> Forms {
        self.forms
    }

    /// Compiles `source` and finds out which forms of messages it reads. `name` is for messages.
    pub(super) fn compile(
        name: &str,
        source: String,
        special: &SpecialTokens,
    ) -> Result<Self, TextError> {
        let mut environment = environment::new();
        let plain = environment::rewrite_generation_tags(&source);
        let name = name.to_owned();
        if let Err(error) = environment.add_template_owned(ENTRY, plain) {
            return Err(TextError::TemplateSyntax {
                name,
                line: error.line().unwrap_or(0),
                reason: describe(&error),
            });
        }
        let mut template = Self { name, source, environment, forms: Forms::default() };
        template.forms = Forms::probe(|input| template.execute(input, special, PROBE_FUEL));
        Ok(template)
    }

    /// Renders a chat whose options have been checked.
    pub(super) fn render(
        &self,
        input: &ChatInput,
        special: &SpecialTokens,
    ) -> Result<String, TextError> {
        let mut input = input.clone();
        messages::prepare(&mut input.messages, &self.forms)?;
        if !input.continue_final_message {
            return self.execute_or_complete(input, special);
        }
        let continuation = Continuation::open(&mut input.messages, &self.source)?;
        continuation.close(self.execute_or_complete(input, special)?)
    }

    /// What a function may lack in OpenAI's form some templates cannot do without: they get it empty. Others
    /// do not see it, as in transformers, because it would change their prompts.
    fn execute_or_complete(
        &self,
        mut input: ChatInput,
        special: &SpecialTokens,
    ) -> Result<String, TextError> {
        let rendered = self.execute(&input, special, BASE_FUEL);
        if matches!(rendered, Err(TextError::TemplateFailed { .. }))
            && messages::complete_tools(input.tools.iter_mut().flatten())
        {
            return self.execute(&input, special, BASE_FUEL).or(rendered);
        }
        rendered
    }

    fn execute(
        &self,
        input: &ChatInput,
        special: &SpecialTokens,
        base_fuel: u64,
    ) -> Result<String, TextError> {
        let mut variables = Map::new();
        for (name, token) in special.iter() {
            variables.insert(name.to_owned(), json!(token));
        }
        for (name, value) in &input.kwargs {
            variables.insert(name.clone(), value.clone());
        }
        variables.insert("messages".to_owned(), Value::Array(input.messages.clone()));
        variables.insert("tools".to_owned(), json!(input.tools));
        variables.insert("documents".to_owned(), json!(input.documents));
        variables.insert("add_generation_prompt".to_owned(), json!(input.add_generation_prompt));
        let variables = Value::Object(variables);

        let mut environment = self.environment.clone();
        let fuel = base_fuel + FUEL_PER_VALUE.saturating_mul(num_values(&variables));
        if let Some(now) = input.now {
            environment.add_function("strftime_now", move |format: &str| {
                environment::strftime(format, now)
            });
        }
        environment.set_fuel(Some(fuel.min(MAX_FUEL)));
        let template = environment.get_template(ENTRY).expect("added when compiled");
        let mut output = BoundedOutput::default();
        let context = minijinja::Value::from(Serde(&variables));
        match template.render_captured_to(context, &mut output) {
            Ok(_) => Ok(String::from_utf8(output.bytes).expect("templates write whole strings")),
            Err(error) => Err(self.failure(&error, output.full)),
        }
    }

    fn failure(&self, error: &minijinja::Error, output_full: bool) -> TextError {
        let name = self.name.clone();
        if output_full {
            let limit = format!("{MAX_OUTPUT_LEN} bytes of output");
            return TextError::TemplateLimit { name, limit };
        }
        let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
        while let Some(error) = cause {
            if let Some(raised) = error.downcast_ref::<Raised>() {
                return TextError::TemplateRaised(raised.0.clone());
            }
            let engine = error.downcast_ref::<minijinja::Error>();
            if engine.is_some_and(|error| error.kind() == ErrorKind::OutOfFuel) {
                let limit = "steps: it loops too long or builds too much".to_owned();
                return TextError::TemplateLimit { name, limit };
            }
            cause = error.source();
        }
        let line = error.line().unwrap_or(0);
        TextError::TemplateFailed { name, line, reason: describe(error) }
    }
}

/// The engine's message without the place, which stands beside it.
fn describe(error: &minijinja::Error) -> String {
    match error.detail() {
        Some(detail) => format!("{}: {detail}", error.kind()),
        None => error.kind().to_string(),
    }
}

/// The number of JSON values in `value`, itself included; long strings count by their length.
fn num_values(value: &Value) -> u64 {
    match value {
        Value::String(text) => 1 + text.len() as u64 / 64,
        Value::Array(items) => 1 + items.iter().map(num_values).sum::<u64>(),
        Value::Object(map) => 1 + map.values().map(num_values).sum::<u64>(),
        _ => 1,
    }
}

/// Takes a template's output up to [`MAX_OUTPUT_LEN`].
#[derive(Default)]
struct BoundedOutput {
    bytes: Vec<u8>,
    full: bool,
}

impl io::Write for BoundedOutput {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.bytes.len() + bytes.len() > MAX_OUTPUT_LEN {
            self.full = true;
            return Err(io::ErrorKind::OutOfMemory.into());
        }
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
