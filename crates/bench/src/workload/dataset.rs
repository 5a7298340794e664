//! Prompts from a file: ShareGPT's array of conversations, or records with `prompt` or `messages`,
//! as a JSON array or one a line.

use std::path::Path;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use crate::api::{Api, Input};

/// One record of the file.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Record {
    /// What the user sends, turn by turn.
    pub(crate) turns: Vec<Input>,
    /// How long the answer is to be, if the record says so.
    pub(crate) output_tokens: Option<usize>,
    /// The answer in the file, by whose length ours is limited.
    pub(crate) answer: Option<String>,
}

/// Reads a file; records without a prompt are left out.
pub(crate) fn read(path: &Path, api: Api) -> Result<Vec<Record>> {
    let show = path.display();
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("--dataset {show}: cannot be read"))?;
    let values = parse(&text).with_context(|| format!("--dataset {show}"))?;
    let records: Vec<_> = values.iter().filter_map(|value| record(value, api)).collect();
    if records.is_empty() {
        bail!(
            "--dataset {show}: none of its {} records has `conversations`, `messages` (for --api \
             chat or responses) or `prompt`",
            values.len()
        );
    }
    Ok(records)
}

fn parse(text: &str) -> Result<Vec<Value>> {
    if text.trim_start().starts_with('[') {
        return serde_json::from_str(text).context("not a JSON array");
    }
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    lines
        .map(|(number, line)| {
            serde_json::from_str(line).with_context(|| format!("line {}", number + 1))
        })
        .collect()
}

fn record(value: &Value, api: Api) -> Option<Record> {
    let output_tokens = ["output_tokens", "output_len", "max_tokens", "max_completion_tokens"];
    let output_tokens = output_tokens.iter().find_map(|key| value[key].as_u64());
    let output_tokens = output_tokens.map(|tokens| tokens as usize).filter(|tokens| *tokens > 0);
    let answer = ["completion", "answer", "response"].iter().find_map(|key| value[key].as_str());
    let mut record = Record { turns: Vec::new(), output_tokens, answer: answer.map(str::to_owned) };
    if let Some(conversation) = value["conversations"].as_array() {
        let said = |turn: &Value, who: &[&str]| {
            let from = turn["from"].as_str().or(turn["role"].as_str())?;
            let text = turn["value"].as_str().or(turn["content"].as_str())?;
            (who.contains(&from) && !text.is_empty()).then(|| text.to_owned())
        };
        let users = conversation.iter().filter_map(|turn| said(turn, &["human", "user"]));
        record.turns = users.map(Input::Text).collect();
        record.answer = conversation.iter().find_map(|t| said(t, &["gpt", "assistant", "chatgpt"]));
    } else if let Some(messages) = value["messages"].as_array() {
        let mut messages = messages.clone();
        if messages.last().is_some_and(|last| last["role"] == "assistant") {
            let answer = messages.pop()?;
            record.answer = answer["content"].as_str().map(str::to_owned);
        }
        let fits = api != Api::Completions && !messages.is_empty();
        record.turns.extend(fits.then_some(Input::Messages(messages)));
    } else if let Some(prompt) = value["prompt"].as_str().or(value["question"].as_str()) {
        record.turns.push(Input::Text(prompt.to_owned()));
    }
    (!record.turns.is_empty()).then_some(record)
}

/// A message of the user, as a conversation holds it.
pub(crate) fn user_message(text: &str) -> Value {
    json!({"role": "user", "content": text})
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_text(text: &str, api: Api) -> Result<Vec<Record>> {
        Ok(parse(text)?.iter().filter_map(|value| record(value, api)).collect())
    }

    #[test]
    fn sharegpt() {
        let text = r#"[{"id": "a", "conversations": [
            {"from": "human", "value": "one"}, {"from": "gpt", "value": "two"},
            {"from": "human", "value": "three"}]}, {"id": "b", "conversations": []}]"#;
        let records = read_text(text, Api::Completions).unwrap();
        assert_eq!(records.len(), 1);
        let text = |text: &str| Input::Text(text.to_owned());
        assert_eq!(records[0].turns, [text("one"), text("three")]);
        assert_eq!(records[0].answer.as_deref(), Some("two"));
    }

    #[test]
    fn lines_of_prompts_and_messages() {
        let text = "{\"prompt\": \"a\", \"output_tokens\": 7}\n\n\
            {\"messages\": [{\"role\": \"system\", \"content\": \"s\"}, \
            {\"role\": \"user\", \"content\": \"u\"}, {\"role\": \"assistant\", \"content\": \"r\"}]}\n";
        let records = read_text(text, Api::Chat).unwrap();
        assert_eq!(records[0].output_tokens, Some(7));
        assert_eq!(records[1].answer.as_deref(), Some("r"));
        let Input::Messages(messages) = &records[1].turns[0] else { panic!("{records:?}") };
        assert_eq!(messages.len(), 2);
        // Completions cannot send messages.
        assert_eq!(read_text(text, Api::Completions).unwrap().len(), 1);
        let error = format!("{:#}", read_text("{\"prompt\": 1}\n{", Api::Chat).unwrap_err());
        assert!(error.contains("line 2"), "{error}");
    }
}
