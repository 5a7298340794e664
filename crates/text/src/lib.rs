//! Text in and out of the model: tokenizer, chat template, incremental detokenizer, stop strings and
//! the model's generation defaults. Pure text work: no tensors, no sockets, no clock but the one a
//! template asks for.
//!
//! [`TextModel`] is the front page: it loads everything that a model folder says about text, renders
//! a chat, encodes the prompt; a [`Detokenizer`] and [`StopStrings`] then turn ids back into text,
//! and an [`OutputParser`] tells reasoning, text and tool calls in it apart.

mod chat_template;
mod detokenizer;
mod error;
mod exit;
mod fast_encoder;
mod generation_config;
mod grammar;
mod lark;
mod output;
mod pattern;
mod schema;
mod special_tokens;
mod stop;
mod structural_tag;
mod text_model;
mod token_cache;
mod token_table;
mod tokenizer;

pub use chat_template::{CallRules, ChatInput, ChatTemplates, short_call_id};
pub use detokenizer::Detokenizer;
pub use error::TextError;
pub use generation_config::GenerationConfig;
pub use grammar::{Grammar, GrammarCompiler, GrammarError, Matcher};
pub use output::{
    Calls, ClosingTag, OutputFormat, OutputParser, OutputPart, ReasoningFormat, Stretch, ToolFormat,
};
pub use special_tokens::SpecialTokens;
pub use stop::{StopOutput, StopStrings};
pub use structural_tag::{StructuralTag, TagError};
pub use text_model::{TextFiles, TextModel};
pub use tokenizer::{Cut, Part, Side, Tokenizer};
