//! One sequence's way from engine events to text: detokenizer, stop strings, finish reason.

use std::sync::Arc;
use std::time::Instant;

use engine::{Event, FinishReason, TokenLogprobs};
use serde_json::{Value, json};
use text::{Detokenizer, OutputPart};

use super::output::OutputReader;
use super::{Job, JobPrompt};
use crate::error::ApiError;
use crate::metrics::Course;
use crate::openai::sampling_fields::TextRules;
use crate::served_model::ServedModel;

/// What one event adds to a choice.
#[derive(Debug, Default)]
pub(crate) struct Delta {
    /// Of the choice.
    pub(crate) index: usize,
    /// Text; in a chat also reasoning and calls.
    pub(crate) parts: Vec<OutputPart>,
    /// The tokens behind the parts, more or less: a character may need several, and a possible
    /// stop string is held back.
    pub(crate) tokens: Vec<TokenOut>,
    /// Log-probabilities of the prompt, on the first delta, if the engine was asked for them.
    pub(crate) prompt_logprobs: Option<Vec<Option<TokenLogprobs>>>,
    /// On the last delta.
    pub(crate) finish: Option<Finish>,
}

/// A token that was sampled, or echoed from the prompt.
#[derive(Debug)]
pub(crate) struct TokenOut {
    pub(crate) id: u32,
    /// `None` if not asked for, and for the first token of a prompt.
    pub(crate) logprobs: Option<TokenLogprobs>,
    /// Where its text begins, in characters of the choice's text.
    pub(crate) text_offset: usize,
    /// Whether it comes from the prompt.
    pub(crate) echoed: bool,
}

/// Why a choice ended.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Finish {
    /// `stop`, `length` or `tool_calls`.
    pub(crate) reason: &'static str,
    /// vLLM: the stop string or stop token; null for an end-of-sequence token.
    pub(crate) stop_reason: Value,
}

/// The prompt in front of the answer.
#[derive(Debug)]
pub(crate) struct Echo {
    text: String,
    /// Each token and where its text begins, in characters.
    tokens: Vec<(u32, usize)>,
}

/// The state of one choice.
#[derive(Debug)]
pub(crate) struct Choice {
    index: usize,
    rules: TextRules,
    detokenizer: Detokenizer,
    /// Of a chat.
    reader: Option<OutputReader>,
    echo: Option<Arc<Echo>>,
    /// Characters so far, stop strings included.
    num_chars: usize,
    pub(crate) course: Course,
    pub(crate) cached_tokens: Option<usize>,
}

impl Delta {
    pub(crate) fn empty(index: usize) -> Self {
        Self { index, ..Self::default() }
    }

    /// Adds the delta that follows this one.
    pub(crate) fn append(&mut self, next: Self) {
        for part in next.parts {
            self.push(part);
        }
        self.tokens.extend(next.tokens);
        self.prompt_logprobs = self.prompt_logprobs.take().or(next.prompt_logprobs);
        self.finish = next.finish;
    }
}

impl Echo {
    /// `text` is the prompt as written; a prompt of ids is decoded.
    pub(crate) fn new(
        model: &ServedModel,
        ids: &[u32],
        text: Option<String>,
        skip_special_tokens: bool,
    ) -> Self {
        let mut detokenizer = Detokenizer::new(model.text().tokenizer(), skip_special_tokens);
        let mut decoded = String::new();
        let mut num_chars = 0;
        let mut tokens = Vec::with_capacity(ids.len());
        for &id in ids {
            tokens.push((id, num_chars));
            let text = detokenizer.push(id);
            num_chars += text.chars().count();
            decoded.push_str(&text);
        }
        Self { text: text.unwrap_or(decoded), tokens }
    }
}

impl Choice {
    pub(crate) fn new(
        model: &ServedModel,
        index: usize,
        job: &Job,
        (prompt, arrived): (&JobPrompt, Instant),
    ) -> Self {
        let rules = job.sampling.text.clone();
        let detokenizer = job.detokenizer(model, prompt);
        let echo = prompt.echo.clone();
        Self {
            index,
            rules,
            detokenizer,
            reader: job.output.as_ref().map(OutputReader::new),
            num_chars: echo.as_ref().map_or(0, |echo| echo.text.chars().count()),
            echo,
            course: Course::new(prompt.ids.len(), prompt.max_tokens, arrived),
            cached_tokens: None,
        }
    }

    /// How many of the tokens are reasoning; `None` for an output that is not a chat's.
    pub(crate) fn reasoning_tokens(&self) -> Option<usize> {
        self.reader.as_ref().map(OutputReader::reasoning_tokens)
    }

    /// What `event` adds, if anything; the error of a failed sequence.
    pub(crate) fn take(&mut self, event: Event) -> Result<Option<Delta>, ApiError> {
        let mut delta = Delta::empty(self.index);
        if !matches!(event, Event::Started { .. } | Event::Failed(_)) {
            self.show_echo(&mut delta, &event);
        }
        match event {
            Event::Started { cached_tokens } => {
                self.course.cached_tokens = cached_tokens;
                return Ok(None);
            }
            Event::PromptScored(logprobs) => delta.prompt_logprobs = Some(logprobs),
            Event::Token { id, logprobs } => self.token(&mut delta, id, logprobs),
            Event::Finished { reason, cached_tokens, num_preemptions } => {
                self.cached_tokens = Some(cached_tokens);
                self.course.num_preemptions = num_preemptions;
                self.finish(&mut delta, reason);
            }
            Event::Failed(error) => return Err(error.into()),
            Event::Pooled(_) => unreachable!("an engine that generates gives no vectors"),
        }
        self.close(&mut delta);
        Ok(Some(delta))
    }

    /// The echo goes out with the first event, scored if that brings the scores.
    fn show_echo(&mut self, delta: &mut Delta, event: &Event) {
        let Some(echo) = self.echo.take() else { return };
        delta.say(echo.text.clone());
        let scores: &[_] = if let Event::PromptScored(scores) = event { scores } else { &[] };
        let scores = scores.iter().cloned().chain(std::iter::repeat(None));
        let tokens = echo.tokens.iter().zip(scores);
        let tokens = tokens.map(|(&(id, text_offset), logprobs)| TokenOut {
            id,
            logprobs,
            text_offset,
            echoed: true,
        });
        delta.tokens = tokens.collect();
    }

    fn token(&mut self, delta: &mut Delta, id: u32, logprobs: Option<TokenLogprobs>) {
        let text_offset = self.num_chars;
        delta.tokens.push(TokenOut { id, logprobs, text_offset, echoed: false });
        // The end of the sequence is no part of its text.
        let is_shown = !self.rules.end_ids.contains(&id) || self.rules.include_stop;
        let text = if is_shown { self.detokenizer.push(id) } else { String::new() };
        let num_chars = text.chars().count();
        if let Some(reader) = &mut self.reader {
            reader.token(num_chars);
        }
        self.num_chars += num_chars;
        self.show(delta, &text);
    }

    /// Puts `text` through the stop strings into the delta.
    fn show(&mut self, delta: &mut Delta, text: &str) {
        if self.course.num_tokens <= self.rules.min_tokens {
            let text = self.rules.stop.pass(text);
            self.say(delta, text);
            return;
        }
        let shown = self.rules.stop.push(text);
        self.say(delta, shown.text);
        if let Some(matched) = shown.matched {
            let stop = Value::from(self.rules.stop.text(matched));
            delta.finish = Some(Finish { reason: "stop", stop_reason: stop });
        }
    }

    fn say(&mut self, delta: &mut Delta, text: String) {
        match &mut self.reader {
            None => delta.say(text),
            Some(reader) => reader.push(&text, delta),
        }
    }

    fn finish(&mut self, delta: &mut Delta, reason: FinishReason) {
        let rest = self.detokenizer.finish();
        self.show(delta, &rest);
        if delta.finish.is_none() {
            let held = self.rules.stop.finish();
            self.say(delta, held);
            delta.finish = Some(match reason {
                FinishReason::Stop(id) => Finish { reason: "stop", stop_reason: json!(id) },
                FinishReason::Length => Finish { reason: "length", stop_reason: Value::Null },
            });
        }
    }

    /// What the end of the text means for reasoning and calls.
    fn close(&mut self, delta: &mut Delta) {
        let Some(reader) = &mut self.reader else { return };
        if reader.is_over() {
            delta.finish = Some(Finish { reason: "stop", stop_reason: Value::Null });
        }
        let Some(mut finish) = delta.finish.take() else { return };
        let at_stop_string = finish.stop_reason.is_string();
        reader.finish(at_stop_string || finish.reason == "length", delta);
        // A stop string may stand in the arguments of a call, which then is none to run.
        let has_calls =
            if at_stop_string { reader.ends_with_calls() } else { reader.num_calls > 0 };
        if finish.reason == "stop" && has_calls {
            finish.reason = "tool_calls";
        }
        delta.finish = Some(finish);
    }
}
