//! Chat templates, found, compiled and rendered as transformers does.
//!
//! `sources` finds the templates of a model, `environment` makes minijinja behave as the jinja2 of
//! transformers, `messages` prepares what a template sees in the `forms` that it reads, `template`
//! compiles and renders within bounds, `continuation` leaves a last message open.

mod continuation;
mod environment;
mod forms;
mod json;
mod messages;
mod methods;
mod python;
mod sources;
mod template;

use std::collections::BTreeMap;

use jiff::civil::DateTime;
use serde_json::{Map, Value};

pub use self::forms::CallRules;
pub use self::messages::short_call_id;
use self::template::Template;
use crate::{SpecialTokens, TextError, TextFiles};

/// What a chat request asks to have rendered.
#[derive(Debug, Clone)]
pub struct ChatInput {
    /// OpenAI messages, each an object; content is a string, null, or a list of parts.
    pub messages: Vec<Value>,
    /// Tool definitions in OpenAI's form.
    pub tools: Option<Vec<Value>>,
    /// Documents for retrieval templates.
    pub documents: Option<Vec<Value>>,
    /// Opens the assistant's turn at the end (default true).
    pub add_generation_prompt: bool,
    /// Leaves the final message open-ended, for the model to go on with it (default false).
    pub continue_final_message: bool,
    /// The name of one of the model's templates, or the text of a template. A text is the caller's
    /// code: its steps and its output are bounded, but lists nested very deeply by a loop overflow
    /// the stack when they are dropped, so a server takes texts only from callers it trusts.
    pub chat_template: Option<String>,
    /// Further variables (`chat_template_kwargs`), such as `enable_thinking`.
    pub kwargs: Map<String, Value>,
    /// The time that `strftime_now` tells; the clock's, if none is given.
    pub now: Option<DateTime>,
}

impl ChatInput {
    /// Names that a template gets from the request itself, closed to `kwargs`.
    pub const RESERVED: [&str; 5] =
        ["messages", "tools", "documents", "add_generation_prompt", "continue_final_message"];

    /// `messages` with every option at its default.
    pub fn new(messages: Vec<Value>) -> Self {
        Self {
            messages,
            tools: None,
            documents: None,
            add_generation_prompt: true,
            continue_final_message: false,
            chat_template: None,
            kwargs: Map::new(),
            now: None,
        }
    }
}

/// The chat templates of one model, compiled. Empty for a model that has none.
#[derive(Debug)]
pub struct ChatTemplates {
    templates: BTreeMap<String, Template>,
    special: SpecialTokens,
}

impl ChatTemplates {
    /// Finds and compiles the templates of a model. `config` is tokenizer_config.json, `processor`
    /// chat_template.json; `Null` where absent.
    pub(crate) fn from_files(
        files: &TextFiles,
        config: &Value,
        processor: &Value,
        special: &SpecialTokens,
    ) -> Result<Self, TextError> {
        let mut templates = BTreeMap::new();
        for (name, source) in sources::find(files, config, processor)? {
            let template = Template::compile(&name, source, special)?;
            templates.insert(name, template);
        }
        Ok(Self { templates, special: special.clone() })
    }

    /// Template names, sorted; none when the model has no template.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.templates.keys().map(String::as_str)
    }

    /// Whether any of them names `word`.
    pub fn mention(&self, word: &str) -> bool {
        self.templates.values().any(|template| template.source().contains(word))
    }

    /// What the template for requests with tools wants of calls.
    pub fn call_rules(&self) -> CallRules {
        let template = self.templates.get("tool_use").or_else(|| self.templates.get("default"));
        template.map(|template| template.forms().rules).unwrap_or_default()
    }

    /// The text of all of them.
    pub(crate) fn text(&self) -> String {
        self.templates.values().map(Template::source).collect()
    }

    /// Renders `input`.
    pub fn render(&self, input: &ChatInput) -> Result<String, TextError> {
        if input.messages.is_empty() {
            return Err(TextError::InvalidMessages("messages must not be empty".to_owned()));
        }
        if let Some(name) =
            ChatInput::RESERVED.into_iter().find(|name| input.kwargs.contains_key(*name))
        {
            return Err(TextError::InvalidMessages(format!(
                "chat_template_kwargs.{name} is not allowed: {name} is a field of the request"
            )));
        }
        if input.continue_final_message && input.add_generation_prompt {
            return Err(TextError::InvalidMessages(
                "continue_final_message and add_generation_prompt cannot both be true".to_owned(),
            ));
        }
        match &input.chat_template {
            Some(text) if is_template_text(text) => {
                let template = Template::compile("of the request", text.clone(), &self.special)?;
                template.render(input, &self.special)
            }
            Some(name) => self.named(name)?.render(input, &self.special),
            None => self.default_for(input)?.render(input, &self.special),
        }
    }

    fn named(&self, name: &str) -> Result<&Template, TextError> {
        self.templates.get(name).ok_or_else(|| {
            let known: Vec<&str> = self.names().collect();
            let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
            TextError::UnknownTemplate { name: name.to_owned(), known }
        })
    }

    /// As transformers: `tool_use` for a request with tools, if there is one, else `default`.
    fn default_for(&self, input: &ChatInput) -> Result<&Template, TextError> {
        if self.templates.is_empty() {
            return Err(TextError::NoChatTemplate);
        }
        match self.templates.get("tool_use") {
            Some(template) if input.tools.is_some() => Ok(template),
            _ => self.named("default"),
        }
    }
}

/// Whether `text` is a template rather than a name or a path.
pub(crate) fn is_template_text(text: &str) -> bool {
    text.contains("{{") || text.contains("{%")
}
