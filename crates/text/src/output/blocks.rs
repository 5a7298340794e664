//! The blocks of an output: text, reasoning, sections of calls. Finds the markers between them and
//! hands what a call is made of to its grammar.

use super::call::{Call, Functions, Step};
use super::formats::ToolRow;
use super::parts::Parts;
use super::reasoning::Tags;

/// The state of one output.
#[derive(Debug, Clone)]
pub(super) struct Blocks {
    tags: Option<&'static Tags>,
    calls: Option<(&'static ToolRow, Functions)>,
    at: At,
    /// Text outside calls is reasoning.
    thinking: bool,
    /// A call ended the reasoning: models forget the tag then, and some remember it later.
    untagged: bool,
    after: After,
    /// What may become a marker or a call and is text if it does not.
    held: String,
    /// Whitespace that is dropped if a block begins behind it.
    space: String,
    /// Only a known function's call counts: the section began without a marker or in reasoning.
    known_only: bool,
    /// The last character of text; none before the first.
    last: Option<char>,
    /// ASCII characters that some marker begins with, a bit each.
    firsts: u128,
}

#[derive(Debug, Clone)]
enum At {
    /// In text or reasoning.
    Text,
    /// In a section, before a call. What is held may be an opener or a separator from here on.
    Section(usize),
    /// In a call; once it has begun, how many characters ago.
    Call(Call, Option<usize>),
}

/// What the text follows, with at most whitespace in between.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum After {
    Text,
    /// A tag of reasoning.
    Tag,
    /// A call whose section may go on.
    Call,
    /// What ended a call or a section.
    Closer,
}

/// What a marker in text means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mark {
    Start,
    End,
    Section,
    Opener,
    Closer,
}

/// What held text is.
enum Look {
    Nothing,
    /// The beginning of a marker.
    Part,
    Found(&'static str, Mark),
}

impl Blocks {
    pub(super) fn new(
        tags: Option<&'static Tags>,
        calls: Option<(&'static ToolRow, Functions)>,
        in_reasoning: bool,
    ) -> Self {
        let calls_row = calls.as_ref().map(|(row, _)| *row);
        let thinking = tags.is_some_and(|tags| in_reasoning || tags.from_start);
        Self {
            tags,
            calls,
            at: At::Text,
            thinking,
            untagged: false,
            after: if thinking { After::Tag } else { After::Text },
            held: String::new(),
            space: String::new(),
            known_only: false,
            last: None,
            firsts: firsts(tags, calls_row),
        }
    }

    pub(super) fn step(&mut self, c: char, out: &mut Parts) {
        match &mut self.at {
            At::Text => self.watch(c, out),
            At::Section(from) => {
                let from = *from;
                self.open(from, c, out);
            }
            At::Call(..) => self.call(c, out),
        }
    }

    pub(super) fn in_reasoning(&self) -> bool {
        self.thinking
    }

    /// The beginning of what may become a marker.
    pub(super) fn held(&self) -> &str {
        if matches!(self.at, At::Text) { &self.held } else { "" }
    }

    pub(super) fn finish(&mut self, out: &mut Parts) {
        if let At::Call(call, Some(num_chars)) = &mut self.at {
            call.cut_short(out);
            out.read(*num_chars, false);
        }
        self.give_back(out);
        self.flush(out);
    }

    /// The output was cut where it stands. Behind a marker of calls that was the beginning of one, and behind a
    /// call the beginning of what ends it.
    pub(super) fn cut(&mut self, out: &mut Parts) {
        let in_call = matches!(self.at, At::Section(_) | At::Call(_, None)) && !self.known_only;
        if in_call || matches!(self.at, At::Text) && self.after == After::Call {
            self.at = At::Text;
            self.space.clear();
            self.drop_held(self.thinking, out);
        }
        self.finish(out);
    }

    /// A character of text, or of a marker in it.
    fn watch(&mut self, c: char, out: &mut Parts) {
        // Most characters begin no marker, whatever it would mean here.
        if self.held.is_empty() && c.is_ascii() && self.firsts >> (c as u32) & 1 == 0 {
            return self.show(c, out);
        }
        self.held.push(c);
        while !self.held.is_empty() {
            match self.look() {
                Look::Part => return,
                Look::Found(marker, mark) => return self.enter(marker, mark, out),
                Look::Nothing => {
                    let first = self.held.remove(0);
                    self.show(first, out);
                }
            }
        }
    }

    fn look(&self) -> Look {
        let mut look = Look::Nothing;
        for (marker, mark) in self.markers() {
            if marker == self.held {
                return Look::Found(marker, mark);
            }
            if marker.starts_with(&self.held) {
                look = Look::Part;
            }
        }
        look
    }

    /// The markers that mean something here.
    fn markers(&self) -> impl Iterator<Item = (&'static str, Mark)> {
        let when = |here: bool, markers: &'static [&'static str], mark: Mark| {
            markers.iter().filter(move |_| here).map(move |marker| (*marker, mark))
        };
        let text = !self.thinking;
        let (starts, ends) = self.tags.map_or((&[][..], &[][..]), |tags| (tags.starts, tags.ends));
        let row = self.calls.as_ref().map_or(&ToolRow::NONE, |(row, _)| row);
        // A quoted tag is what the text is about. Reasoning may repeat the tag that the prompt has.
        let quoted = matches!(self.last, Some('`' | '"' | '\''));
        let starting = if text { !quoted } else { self.after == After::Tag };
        let in_section = self.after == After::Call;
        let closing = in_section || self.after == After::Closer;
        when(starting, starts, Mark::Start)
            .chain(when(!text || self.untagged, ends, Mark::End))
            .chain(when(true, row.sections, Mark::Section))
            .chain(when(row.loose || in_section, row.openers, Mark::Opener))
            .chain(when(text && self.last.is_none() && !closing, row.bare, Mark::Section))
            .chain(when(in_section, row.separators, Mark::Section))
            .chain(when(closing, row.closers, Mark::Closer))
            .filter(|(marker, _)| !marker.is_empty())
    }

    /// Acts on the marker that is held.
    fn enter(&mut self, marker: &'static str, mark: Mark, out: &mut Parts) {
        match mark {
            Mark::Start | Mark::End => {
                self.thinking = mark == Mark::Start;
                self.untagged = false;
                self.after = After::Tag;
                self.space.clear();
                self.drop_held(true, out);
            }
            Mark::Closer => {
                self.after = After::Closer;
                self.drop_held(self.thinking, out);
            }
            Mark::Section | Mark::Opener => {
                let Some((row, _)) = &self.calls else { unreachable!("calls have markers") };
                // Behind a call, a separator or opener goes on with the section.
                if self.after != After::Call || row.sections.contains(&marker) {
                    self.known_only = self.thinking || row.bare.contains(&marker);
                }
                self.at = if row.openers.contains(&marker) {
                    At::Call(Call::new(row, marker), None)
                } else {
                    At::Section(self.held.len())
                };
            }
        }
    }

    /// A character in a section, before a call.
    fn open(&mut self, from: usize, c: char, out: &mut Parts) {
        let Some((row, _)) = &self.calls else { unreachable!("a section has calls") };
        self.held.push(c);
        let token = &self.held[from..];
        if token.trim_start().is_empty() {
            self.at = At::Section(self.held.len());
            return;
        }
        // Behind a call the section may end, a separator notwithstanding.
        let closers = if self.after == After::Call { row.closers } else { &[] };
        if let Some(opener) = row.openers.iter().find(|opener| **opener == token) {
            self.at = At::Call(Call::new(row, opener), None);
        } else if row.brackets.iter().chain(row.separators).any(|m| *m == token) {
            self.at = At::Section(self.held.len());
        } else if closers.contains(&token) {
            self.at = At::Text;
            self.after = After::Closer;
            self.drop_held(self.thinking, out);
        } else if !row.openers.iter().chain(closers).any(|m| m.starts_with(token)) {
            let rest = self.held.split_off(from);
            if row.openers.contains(&"") && rest.chars().count() == 1 {
                self.at = At::Call(Call::new(row, ""), None);
                self.call(c, out);
            } else {
                self.give_back(out);
                // Some of it may belong to a marker.
                for c in rest.chars() {
                    self.step(c, out);
                }
            }
        }
    }

    /// A character in a call.
    fn call(&mut self, c: char, out: &mut Parts) {
        let (At::Call(call, begun), Some((_, functions))) = (&mut self.at, &self.calls) else {
            unreachable!("only in a call")
        };
        let num_calls = out.num_calls();
        let step = call.step(c, functions, self.known_only, out);
        if out.num_calls() > num_calls {
            *begun = Some(self.held.chars().count());
            self.held.clear();
            self.space.clear();
            self.untagged |= std::mem::take(&mut self.thinking);
            self.after = After::Call;
        }
        match (step, begun) {
            (Step::More, Some(num_chars)) => *num_chars += 1,
            (Step::More, None) => self.held.push(c),
            (Step::Done, begun) => {
                out.read(begun.map_or(0, |num_chars| num_chars + 1), false);
                self.at = At::Text;
            }
            (Step::Reject, begun) => {
                let mut rest = call.unread();
                if let Some(num_chars) = begun {
                    out.read(*num_chars - rest.chars().count(), false);
                    self.held = std::mem::take(&mut rest);
                } else {
                    self.held.truncate(self.held.len() - rest.len());
                }
                self.give_back(out);
                for c in rest.chars().chain([c]) {
                    self.step(c, out);
                }
            }
        }
    }

    /// What is held was no marker and no call.
    fn give_back(&mut self, out: &mut Parts) {
        self.at = At::Text;
        for c in std::mem::take(&mut self.held).chars() {
            self.show(c, out);
        }
    }

    /// What is held is no part of the text.
    fn drop_held(&mut self, is_reasoning: bool, out: &mut Parts) {
        out.read(self.held.chars().count(), is_reasoning);
        self.held.clear();
    }

    /// A character that is text.
    fn show(&mut self, c: char, out: &mut Parts) {
        out.read(1, self.thinking);
        let dropped = match self.after {
            After::Text => false,
            After::Tag => c == '\n',
            After::Call | After::Closer => c.is_whitespace(),
        };
        if dropped {
            return;
        }
        self.after = After::Text;
        let separates = if self.thinking { c == '\n' } else { c.is_whitespace() };
        if separates && (self.tags.is_some() || self.calls.is_some()) {
            self.space.push(c);
        } else {
            self.flush(out);
            self.emit(c, out);
        }
    }

    /// Whitespace that no block came behind.
    fn flush(&mut self, out: &mut Parts) {
        for c in std::mem::take(&mut self.space).chars() {
            self.emit(c, out);
        }
    }

    fn emit(&mut self, c: char, out: &mut Parts) {
        if self.thinking {
            out.reasoning(c);
        } else {
            self.last = Some(c);
            out.text(c);
        }
    }
}

/// The first characters of all markers, a bit each; those that are not ASCII are left out.
fn firsts(tags: Option<&'static Tags>, row: Option<&'static ToolRow>) -> u128 {
    let (starts, ends) = tags.map_or((&[][..], &[][..]), |tags| (tags.starts, tags.ends));
    let row = row.unwrap_or(ToolRow::NONE);
    let sections = [row.sections, row.openers, row.bare, row.separators, row.closers];
    let markers = sections.into_iter().chain([starts, ends]).flatten();
    let firsts = markers.filter_map(|marker| marker.chars().next()).filter(char::is_ascii);
    firsts.fold(0, |bits, first| bits | 1 << first as u32)
}
