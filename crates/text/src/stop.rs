//! Stop strings in a stream of text: found across the edges of chunks, in linear time.

use std::sync::Arc;

/// What one piece of text comes to once stop strings have had their say.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StopOutput {
    /// Text that may be shown now.
    pub text: String,
    /// Index of the stop string that was found; nothing follows it.
    pub matched: Option<usize>,
}

/// Searches a stream for stop strings and holds back only what could still become one. Clones share the strings.
///
/// The match that ends first wins, as it would if the model were watched byte by byte; among those
/// that end together, the longest. The result does not depend on how the text is cut into chunks.
#[derive(Debug, Clone)]
pub struct StopStrings {
    stops: Arc<[Stop]>,
    /// How many leading bytes of each the text ends with right now.
    matched: Vec<usize>,
    include_in_output: bool,
    held: String,
    done: bool,
}

/// One stop string with Knuth, Morris and Pratt's failure function.
#[derive(Debug)]
struct Stop {
    text: String,
    /// For each prefix, the length of its longest proper border.
    border: Vec<usize>,
}

impl Stop {
    fn new(text: String) -> Self {
        let bytes = text.as_bytes();
        let mut border = vec![0; bytes.len()];
        let mut len = 0;
        for i in 1..bytes.len() {
            while len > 0 && bytes[i] != bytes[len] {
                len = border[len - 1];
            }
            if bytes[i] == bytes[len] {
                len += 1;
            }
            border[i] = len;
        }
        Self { text, border }
    }

    /// Takes one more byte behind `matched` leading ones of its own; true when the stop string ends here.
    fn step(&self, matched: &mut usize, byte: u8) -> bool {
        let bytes = self.text.as_bytes();
        while *matched > 0 && bytes.get(*matched) != Some(&byte) {
            *matched = self.border[*matched - 1];
        }
        if bytes.get(*matched) == Some(&byte) {
            *matched += 1;
        }
        !bytes.is_empty() && *matched == bytes.len()
    }
}

impl StopStrings {
    /// `include_in_output` shows the stop string itself. An empty stop string never matches.
    pub fn new(stops: Vec<String>, include_in_output: bool) -> Self {
        let stops: Arc<[Stop]> = stops.into_iter().map(Stop::new).collect();
        let matched = vec![0; stops.len()];
        Self { stops, matched, include_in_output, held: String::new(), done: false }
    }

    /// The stop string of an index.
    pub fn text(&self, index: usize) -> &str {
        &self.stops[index].text
    }

    /// Takes the next piece of text. After a match every call gives nothing.
    pub fn push(&mut self, text: &str) -> StopOutput {
        if self.done {
            return StopOutput::default();
        }
        if self.stops.is_empty() {
            return StopOutput { text: text.to_owned(), matched: None };
        }
        let before = self.held.len();
        self.held.push_str(text);
        for (offset, byte) in text.bytes().enumerate() {
            let mut longest: Option<(usize, usize)> = None;
            for (index, (stop, matched)) in self.stops.iter().zip(&mut self.matched).enumerate() {
                if stop.step(matched, byte) && longest.is_none_or(|(_, len)| *matched > len) {
                    longest = Some((index, *matched));
                }
            }
            if let Some((index, len)) = longest {
                let end = before + offset + 1;
                self.done = true;
                let mut text = std::mem::take(&mut self.held);
                text.truncate(if self.include_in_output { end } else { end - len });
                return StopOutput { text, matched: Some(index) };
            }
        }
        // A stop string starts at a character, so the cut never splits one.
        let hold = self.matched.iter().copied().max().unwrap_or(0);
        let rest = self.held.split_off(self.held.len() - hold);
        StopOutput { text: std::mem::replace(&mut self.held, rest), matched: None }
    }

    /// Shows `text` without looking for stop strings, which then start afresh: what the first
    /// `min_tokens` tokens want.
    pub fn pass(&mut self, text: &str) -> String {
        self.matched.fill(0);
        std::mem::take(&mut self.held) + text
    }

    /// What was held back and turned out to be no stop string.
    pub fn finish(&mut self) -> String {
        self.done = true;
        std::mem::take(&mut self.held)
    }
}
