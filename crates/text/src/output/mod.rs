//! From a model's output text to ordered parts: reasoning, text, tool calls. One incremental parser
//! for every family; [`ToolFormat::ALL`] and [`ReasoningFormat::ALL`] say in a row each what a family
//! looks like.
//!
//! It reads character by character, so that how the text is cut into chunks cannot matter, and it
//! looks at no character more than a few times. Four rules hold for every format:
//!
//! - A call begins once its name is complete and nothing can take it back. What looked like a call
//!   before that and is none comes out as text, its marker included.
//! - A call of a known function ends reasoning too: models forget the tag in front of it.
//! - A call that has begun ends where its grammar ends or is broken; what follows is text again.
//! - Whitespace next to a call or before a block of reasoning separates and is dropped; of that inside
//!   the tags of reasoning and behind them, newlines are. All other text comes out as it came in.

mod arguments;
mod blocks;
mod call;
mod closing;
mod constrain;
mod formats;
mod harmony;
mod header_call;
mod json_call;
mod literal_call;
mod parts;
mod raw_text;
mod reasoning;
mod span;
mod spelled;
mod typed;
mod written;
mod xml_call;

pub use closing::ClosingTag;
pub use constrain::Calls;
pub use formats::ToolFormat;
pub use reasoning::ReasoningFormat;

use blocks::Blocks;
use call::Functions;
use formats::Body;
use harmony::Harmony;
use parts::Parts;
use serde_json::Value;

/// A piece of the output. Pieces of one kind that follow each other belong together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OutputPart {
    /// What the model thinks.
    Reasoning(String),
    /// What the model says.
    Text(String),
    /// A call begins.
    ToolCall {
        /// Counts the calls of this output from 0.
        index: usize,
        /// The call's id, if the format carries one before the name (Kimi, Mistral).
        id: Option<String>,
        /// The function's name, as the model wrote it.
        name: String,
    },
    /// More of the arguments of the call that began last.
    Arguments {
        /// The call's index.
        index: usize,
        /// More of the JSON; byte for byte the model's where the format is JSON.
        json: String,
    },
}

/// Characters of the output in a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stretch {
    /// How many.
    pub num_chars: usize,
    /// Whether they are in a block of reasoning or of a tag around it.
    pub is_reasoning: bool,
}

/// How a model marks its reasoning and its calls.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct OutputFormat {
    /// Without one, tags of reasoning are text.
    pub reasoning: Option<ReasoningFormat>,
    /// Without one, calls are text.
    pub tools: Option<ToolFormat>,
}

impl OutputFormat {
    /// Chosen by the markers that the chat template names; the calls of a model without a template,
    /// by the `model_type` of its config.json.
    pub fn detect(chat_template: &str, model_type: Option<&str>) -> Self {
        Self {
            reasoning: ReasoningFormat::detect(chat_template),
            tools: ToolFormat::detect(chat_template, model_type),
        }
    }

    /// Every marker. Some tokenizers have them as special tokens, which must be shown to the parser
    /// although special tokens are otherwise skipped.
    pub fn markers(&self) -> Vec<&'static str> {
        let reasoning = self.reasoning.iter().flat_map(|format| format.markers());
        let tools = self.tools.iter().flat_map(|format| format.markers());
        let mut markers: Vec<_> = reasoning.chain(tools).collect();
        markers.sort_unstable();
        markers.dedup();
        markers
    }
}

/// Reads one output; see the module's rules.
#[derive(Debug, Clone)]
pub struct OutputParser {
    grammar: Grammar,
    out: Parts,
}

#[derive(Debug, Clone)]
enum Grammar {
    Blocks(Blocks),
    Harmony(Harmony),
}

impl OutputParser {
    /// `tools` are the request's OpenAI tool definitions: their schemas type what a format leaves
    /// untyped, their names tell a call from other JSON where a format has no marker. With none,
    /// calls are not looked for. `in_reasoning`: the prompt leaves a block of reasoning open, see
    /// [`ReasoningFormat::is_open_in`].
    pub fn new(format: &OutputFormat, tools: &[Value], in_reasoning: bool) -> Self {
        let tags = format.reasoning.map(|format| format.0);
        let row = format.tools.filter(|_| !tools.is_empty()).map(|format| format.0);
        let calls = row.map(|row| (row, Functions::new(tools)));
        let reasons = tags.is_some_and(|tags| tags.is_harmony);
        let grammar = if reasons || row.is_some_and(|row| matches!(row.body, Body::Harmony)) {
            let functions = calls.map(|(_, functions)| functions);
            Grammar::Harmony(Harmony::new(functions, reasons, in_reasoning))
        } else {
            Grammar::Blocks(Blocks::new(tags, calls, in_reasoning))
        };
        Self { grammar, out: Parts::default() }
    }

    /// Takes the next piece of text; gives what it makes certain.
    pub fn push(&mut self, text: &str) -> Vec<OutputPart> {
        for c in text.chars() {
            match &mut self.grammar {
                Grammar::Blocks(blocks) => blocks.step(c, &mut self.out),
                Grammar::Harmony(harmony) => harmony.step(c, &mut self.out),
            }
        }
        self.out.take()
    }

    /// What has become certain of the characters that came, in order, since this was last asked.
    pub fn take_read(&mut self) -> Vec<Stretch> {
        self.out.take_read()
    }

    /// Whether a block of reasoning is open.
    pub fn in_reasoning(&self) -> bool {
        match &self.grammar {
            Grammar::Blocks(blocks) => blocks.in_reasoning(),
            Grammar::Harmony(harmony) => harmony.in_reasoning(),
        }
    }

    /// The beginning of a marker that the output ends with, if it may become one.
    pub fn held(&self) -> &str {
        match &self.grammar {
            Grammar::Blocks(blocks) => blocks.held(),
            Grammar::Harmony(harmony) => harmony.held(),
        }
    }

    /// The end of the output: whatever was held back, as text if it is not part of a call. An
    /// unfinished call keeps the arguments that it has.
    pub fn finish(&mut self) -> Vec<OutputPart> {
        match &mut self.grammar {
            Grammar::Blocks(blocks) => blocks.finish(&mut self.out),
            Grammar::Harmony(harmony) => harmony.finish(&mut self.out),
        }
        self.out.take()
    }

    /// The end of an output that was cut, by its greatest length or a stop string: as [`finish`](Self::finish), but
    /// the beginning of a call behind its marker is no text.
    pub fn cut(&mut self) -> Vec<OutputPart> {
        match &mut self.grammar {
            Grammar::Blocks(blocks) => blocks.cut(&mut self.out),
            Grammar::Harmony(harmony) => harmony.finish(&mut self.out),
        }
        self.out.take()
    }
}
