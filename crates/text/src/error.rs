//! What can go wrong with text, in words that name the file or field and say what to do.

use std::path::PathBuf;

/// Every failure of this crate. The server maps those that a caller can cause to 400.
#[derive(Debug, thiserror::Error)]
pub enum TextError {
    /// A file that a model folder must have is absent.
    #[error("{file} not found in {dir}: {hint}")]
    MissingFile {
        /// File name inside the folder.
        file: &'static str,
        /// The model folder.
        dir: PathBuf,
        /// What to do about it.
        hint: &'static str,
    },
    /// A file is there but cannot be read.
    #[error("cannot read {path}: {reason}")]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's.
        reason: std::io::Error,
    },
    /// A file's contents are not what they should be.
    #[error("{file} is invalid: {reason}")]
    InvalidFile {
        /// File name, with the field where known.
        file: String,
        /// Why, and what to do.
        reason: String,
    },
    /// The tokenizer refused a text or ids.
    #[error("cannot tokenize: {0}")]
    Tokenize(String),
    /// The text is too long to be worth tokenizing.
    #[error("the text has {len} bytes, more than the limit of {limit}")]
    TextTooLong {
        /// Bytes given.
        len: usize,
        /// Bytes allowed.
        limit: usize,
    },
    /// The model has no chat template and the request named none.
    #[error(
        "this model has no chat template: start the server with --chat-template FILE, or use /v1/completions"
    )]
    NoChatTemplate,
    /// The request named a template that the model does not have.
    #[error("chat_template {name:?} is not known: the model has {known}")]
    UnknownTemplate {
        /// As requested.
        name: String,
        /// The names there are.
        known: String,
    },
    /// A template does not parse.
    #[error("chat template {name:?} is broken at line {line}: {reason}")]
    TemplateSyntax {
        /// Template name or file.
        name: String,
        /// 1-based line.
        line: usize,
        /// The parser's message.
        reason: String,
    },
    /// The template called `raise_exception`: the conversation does not suit the model.
    #[error("the chat template refused the messages: {0}")]
    TemplateRaised(String),
    /// The template ran into an error while rendering.
    #[error("chat template {name:?} failed at line {line}: {reason}")]
    TemplateFailed {
        /// Template name.
        name: String,
        /// 1-based line, 0 when unknown.
        line: usize,
        /// The engine's message.
        reason: String,
    },
    /// The template used up its budget of steps or of output bytes.
    #[error("chat template {name:?} exceeded its limit of {limit}")]
    TemplateLimit {
        /// Template name.
        name: String,
        /// Which limit.
        limit: String,
    },
    /// The messages do not fit what was asked for.
    #[error("{0}")]
    InvalidMessages(String),
}

impl TextError {
    pub(crate) fn invalid(file: impl Into<String>, reason: impl std::fmt::Display) -> Self {
        Self::InvalidFile { file: file.into(), reason: reason.to_string() }
    }
}
