//! From the tree of a structural tag to Lark rules.
//!
//! What is regular becomes one lexeme as far as it goes, so that a boundary in it is not guessed at.
//! Free text is a lazy lexeme that ends with the first trigger or end of a tag, whichever comes
//! first; special tokens end it by themselves, because they are no text.

use super::{Format, Separated, Tag, Triggered};
use crate::grammar::lark_json;
use crate::lark::{Lines, Piece, Specials, any_of, quoted, regex, text_without};
use crate::{GrammarError, Tokenizer};

/// Rules that define `answer`.
pub(super) fn compile(root: &Format, tokenizer: &Tokenizer) -> Result<String, GrammarError> {
    let mut rules = Rules { specials: Specials::of(tokenizer), lines: Lines::default() };
    let parts = rules.format(root, None)?;
    let answer = rules.sequence(parts);
    Ok(rules.lines.answer(&answer))
}

struct Rules {
    specials: Specials,
    lines: Lines,
}

/// What a rule may hold, short: mostly a name.
enum Part {
    /// May be part of a lexeme.
    Regular(String),
    Rule(String),
}

impl Part {
    fn text(self) -> String {
        match self {
            Self::Regular(text) | Self::Rule(text) => text,
        }
    }
}

/// What must follow a format: one of the ends of the tag around it.
#[derive(Clone)]
struct Tail {
    /// The lexeme of those that are text.
    text: Option<String>,
    /// The rule of those that begin with a special token.
    special: Option<String>,
}

impl Rules {
    fn define(&mut self, prefix: &str, body: &str) -> String {
        self.lines.define(prefix, body)
    }

    fn define_lazy(&mut self, body: &str) -> String {
        self.lines.define_lazy("part_", body)
    }

    /// Parts behind each other; those that are regular become one lexeme.
    fn sequence(&mut self, parts: Vec<Part>) -> String {
        let mut done: Vec<String> = Vec::new();
        let mut regular: Vec<String> = Vec::new();
        for part in parts {
            match part {
                Part::Regular(text) => regular.push(text),
                Part::Rule(text) => {
                    done.extend(self.lexeme(&mut regular));
                    done.push(text);
                }
            }
        }
        done.extend(self.lexeme(&mut regular));
        if done.is_empty() { "\"\"".to_owned() } else { done.join(" ") }
    }

    fn lexeme(&mut self, regular: &mut Vec<String>) -> Option<String> {
        regular.retain(|text| text != "\"\"");
        let name = (!regular.is_empty()).then(|| self.define("PART_", &regular.join(" ")));
        regular.clear();
        name
    }

    /// One of several, each a sequence.
    fn alternatives(&mut self, choices: Vec<Vec<Part>>) -> Part {
        let is_regular = |part: &Part| matches!(part, Part::Regular(_));
        if choices.iter().all(|parts| parts.iter().all(is_regular)) {
            let choice = |parts: Vec<Part>| {
                let texts: Vec<_> = parts.into_iter().map(Part::text).collect();
                if texts.is_empty() { "\"\"".to_owned() } else { texts.join(" ") }
            };
            let choices: Vec<_> = choices.into_iter().map(choice).collect();
            return Part::Regular(self.define("PART_", &choices.join(" | ")));
        }
        let choices: Vec<_> = choices.into_iter().map(|parts| self.sequence(parts)).collect();
        Part::Rule(self.define("part_", &choices.join(" | ")))
    }

    fn literal(&self, text: &str) -> Vec<Part> {
        let part = |piece: Piece| match piece {
            Piece::Text(_) => Part::Regular(piece.lark()),
            Piece::Special(_) => Part::Rule(piece.lark()),
        };
        self.specials.split(text).into_iter().map(part).collect()
    }

    /// `format`, and what follows it.
    fn format(&mut self, format: &Format, tail: Option<&Tail>) -> Result<Vec<Part>, GrammarError> {
        let mut parts = match format {
            Format::AnyText(excludes) => {
                return Ok(vec![self.free_text(excludes, &[], tail)]);
            }
            Format::Or(elements) => {
                let choices = elements.iter().map(|element| self.format(element, tail));
                let choices = choices.collect::<Result<_, _>>()?;
                return Ok(vec![self.alternatives(choices)]);
            }
            Format::Triggered(triggered) => return self.triggered(triggered, tail),
            Format::Sequence(elements) => {
                let mut parts = Vec::new();
                for (index, element) in elements.iter().enumerate() {
                    let tail = tail.filter(|_| index + 1 == elements.len());
                    parts.extend(self.format(element, tail)?);
                }
                return Ok(parts);
            }
            Format::Const(text) => self.literal(text),
            Format::Json(schema) => {
                let json = lark_json(schema)?;
                vec![Part::Rule(self.define("part_", &json))]
            }
            Format::Regex(pattern) => {
                let pattern = regex(pattern)?;
                vec![Part::Regular(self.define("PART_", &pattern))]
            }
            Format::Tag(tag) => self.tag(tag, 0)?,
            Format::Separated(separated) => vec![self.separated(separated)?],
        };
        parts.extend(tail.map(Tail::part));
        Ok(parts)
    }

    /// A tag without the first `skip` bytes of its beginning.
    fn tag(&mut self, tag: &Tag, skip: usize) -> Result<Vec<Part>, GrammarError> {
        let mut parts = self.literal(&tag.begin[skip..]);
        let tail = self.tail(&tag.ends);
        parts.extend(self.format(&tag.content, tail.as_ref())?);
        Ok(parts)
    }

    /// The ends of a tag; none if it needs none.
    fn tail(&mut self, ends: &[String]) -> Option<Tail> {
        let (mut texts, mut specials) = (Vec::new(), Vec::new());
        for end in ends {
            match self.specials.split(end).as_slice() {
                [] => texts.push(""),
                [Piece::Text(_)] => texts.push(end.as_str()),
                _ => specials.push(self.specials.literal(end)),
            }
        }
        if texts == [""] && specials.is_empty() {
            return None;
        }
        let text = (!texts.is_empty()).then(|| self.define("PART_", &any_of(texts)));
        let special = (!specials.is_empty()).then(|| self.define("part_", &specials.join(" | ")));
        Some(Tail { text, special })
    }

    /// Text up to and with the tail, or to the end of the answer; no trigger stands in it.
    fn free_text(&mut self, excludes: &[String], triggers: &[&str], tail: Option<&Tail>) -> Part {
        let without = excludes.iter().map(String::as_str).chain(triggers.iter().copied());
        let body = text_without(without);
        let body = self.define("PART_", &body);
        let Some(tail) = tail else { return Part::Regular(body) };
        let text = tail.text.as_ref().map(|end| self.define_lazy(&format!("{body} {end}")));
        let special = tail.special.as_ref().map(|end| format!("{body} {end}"));
        let choices: Vec<_> = text.into_iter().chain(special).collect();
        Part::Rule(self.define("part_", &choices.join(" | ")))
    }

    fn triggered(
        &mut self,
        triggered: &Triggered,
        tail: Option<&Tail>,
    ) -> Result<Vec<Part>, GrammarError> {
        let Triggered { triggers, tags, excludes, at_least_one, stop_after_first } = triggered;
        let first = if *at_least_one {
            let choices = tags.iter().map(|(_, tag)| self.tag(tag, 0)).collect::<Result<_, _>>()?;
            Some(self.alternatives(choices))
        } else {
            None
        };
        if *at_least_one && *stop_after_first {
            return Ok(first.into_iter().chain(tail.map(Tail::part)).collect());
        }
        let body = self.define("PART_", &text_without(excludes.iter().map(String::as_str)));
        let mut items = Vec::new();
        let mut texts = Vec::new();
        for (index, trigger) in triggers.iter().enumerate() {
            let (head, len) = match self.specials.split(trigger).first() {
                // It ends free text alone, wherever it stands.
                Some(special @ Piece::Special(id)) => {
                    let len = self.specials.len_of(*id);
                    (self.define("part_", &format!("{body} {}", special.lark())), len)
                }
                Some(Piece::Text(text)) if text == trigger => {
                    texts.push(trigger.as_str());
                    (self.define_lazy(&format!("{body} {}", quoted(trigger))), trigger.len())
                }
                _ => {
                    let message = format!(
                        "the trigger {trigger:?} has a special token of this model behind text"
                    );
                    return Err(GrammarError::new(message));
                }
            };
            let of_trigger = tags.iter().filter(|(of, _)| *of == index);
            let choices = of_trigger.map(|(_, tag)| self.tag(tag, len));
            let choices = choices.collect::<Result<_, _>>()?;
            let rest = self.alternatives(choices);
            let rest = self.sequence(vec![rest]);
            items.push(format!("{head} {rest}"));
        }
        let item = self.define("part_", &items.join(" | "));
        let last = self.free_text(excludes, &texts, tail);
        let last = self.sequence(vec![last]);
        let rest = if *stop_after_first {
            let end = tail.map(|tail| tail.part().text()).unwrap_or_default();
            self.define("part_", &format!("{item} {end} | {last}"))
        } else {
            self.define("part_", &format!("{item}* {last}"))
        };
        Ok(first.into_iter().chain([Part::Rule(rest)]).collect())
    }

    fn separated(&mut self, separated: &Separated) -> Result<Part, GrammarError> {
        let choices = separated.tags.iter().map(|tag| self.tag(tag, 0));
        let choices = choices.collect::<Result<_, _>>()?;
        let tag = self.alternatives(choices);
        let tag = self.sequence(vec![tag]);
        let more = if separated.stop_after_first {
            String::new()
        } else {
            format!(" ({} {tag})*", self.specials.literal(&separated.separator))
        };
        let optional = if separated.at_least_one { "" } else { "?" };
        Ok(Part::Rule(self.define("part_", &format!("({tag}{more}){optional}"))))
    }
}

impl Tail {
    /// The tail behind what has an end of its own.
    fn part(&self) -> Part {
        match (&self.text, &self.special) {
            (Some(text), None) => Part::Regular(text.clone()),
            (text, special) => {
                let choices: Vec<_> = text.iter().chain(special).map(String::as_str).collect();
                Part::Rule(format!("({})", choices.join(" | ")))
            }
        }
    }
}
