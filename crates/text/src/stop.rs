//! Stop strings in a stream of text: found across the edges of chunks, in linear time.

/// What one piece of text comes to once stop strings have had their say.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StopOutput {
    /// Text that may be shown now.
    pub text: String,
    /// Index of the stop string that was found; nothing follows it.
    pub matched: Option<usize>,
}

/// Searches a stream for stop strings and holds back only what could still become one.
///
/// The match that ends first wins, as it would if the model were watched byte by byte; among those
/// that end together, the longest. The result does not depend on how the text is cut into chunks.
#[derive(Debug, Clone)]
pub struct StopStrings {
    stops: Vec<Stop>,
    include_in_output: bool,
    held: String,
    done: bool,
}

/// One stop string with Knuth, Morris and Pratt's failure function.
#[derive(Debug, Clone)]
struct Stop {
    bytes: Vec<u8>,
    /// For each prefix, the length of its longest proper border.
    border: Vec<usize>,
    /// How many leading bytes the text ends with right now.
    matched: usize,
}

impl Stop {
    fn new(text: String) -> Self {
        let bytes = text.into_bytes();
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
        Self { bytes, border, matched: 0 }
    }

    /// Takes one more byte of text; true when the stop string ends here.
    fn step(&mut self, byte: u8) -> bool {
        while self.matched > 0 && self.bytes.get(self.matched) != Some(&byte) {
            self.matched = self.border[self.matched - 1];
        }
        if self.bytes.get(self.matched) == Some(&byte) {
            self.matched += 1;
        }
        !self.bytes.is_empty() && self.matched == self.bytes.len()
    }
}

impl StopStrings {
    /// `include_in_output` shows the stop string itself. An empty stop string never matches.
    pub fn new(stops: Vec<String>, include_in_output: bool) -> Self {
        let stops = stops.into_iter().map(Stop::new).collect();
        Self { stops, include_in_output, held: String::new(), done: false }
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
            for (index, stop) in self.stops.iter_mut().enumerate() {
                if stop.step(byte) && longest.is_none_or(|(_, len)| stop.bytes.len() > len) {
                    longest = Some((index, stop.bytes.len()));
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
        let hold = self.stops.iter().map(|stop| stop.matched).max().unwrap_or(0);
        let rest = self.held.split_off(self.held.len() - hold);
        StopOutput { text: std::mem::replace(&mut self.held, rest), matched: None }
    }

    /// Shows `text` without looking for stop strings, which then start afresh: what the first
    /// `min_tokens` tokens want.
    pub fn pass(&mut self, text: &str) -> String {
        for stop in &mut self.stops {
            stop.matched = 0;
        }
        std::mem::take(&mut self.held) + text
    }

    /// What was held back and turned out to be no stop string.
    pub fn finish(&mut self) -> String {
        self.done = true;
        std::mem::take(&mut self.held)
    }
}
