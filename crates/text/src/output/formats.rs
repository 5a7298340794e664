//! How the families mark calls, one row each.

use super::harmony;
use super::header_call::{self, ReadHeader};
use super::literal_call::Language;
use super::xml_call::Xml;
use std::fmt;

/// One way to mark calls, by vLLM's `--tool-call-parser` names.
#[derive(Clone, Copy)]
pub struct ToolFormat(pub(super) &'static ToolRow);

/// A row of [`ToolFormat::ALL`].
///
/// A call stands behind a section's marker, or a separator and another call, and begins with an
/// opener. No marker of a row may begin another of its markers.
#[derive(Debug)]
pub(super) struct ToolRow {
    /// Its names, the usual one first.
    names: &'static [&'static str],
    /// A template that holds all of these has it; never, if there are none.
    seen: &'static [&'static str],
    /// A template that holds one of these has it, too.
    or_seen: &'static [&'static str],
    /// Models that have it and may come without a template.
    model_types: &'static [&'static str],
    /// What opens a section; anything but an opener or a separator behind it makes it text.
    pub(super) sections: &'static [&'static str],
    /// What opens a section or call at the start of the output, if a known name follows.
    pub(super) bare: &'static [&'static str],
    /// What opens a call in a section; the empty one opens it with whatever follows.
    pub(super) openers: &'static [&'static str],
    /// Openers that need no section around them.
    pub(super) loose: bool,
    /// What may stand before the first call of a section.
    pub(super) brackets: &'static [&'static str],
    /// What may stand between the calls of a section.
    pub(super) separators: &'static [&'static str],
    /// What ends call or section. None has to: a call's end is known by its body.
    pub(super) closers: &'static [&'static str],
    pub(super) body: Body,
    /// Special tokens within those markers and the calls.
    pub(super) tokens: &'static [&'static str],
}

/// What a call is made of. Behind a `{` as its opener it is an object in any case.
#[derive(Debug, Clone, Copy)]
pub(super) enum Body {
    /// An object with the name and the arguments.
    Json,
    /// A header with the name, then the arguments as an object.
    Header(ReadHeader),
    /// Tags around the arguments.
    Xml(&'static Xml),
    /// A call as a programming language writes it.
    Literal(&'static Language),
    /// No block among others: the whole output has its own grammar.
    Harmony,
}

const PYTHON: Language =
    Language { open: '(', close: ')', assign: '=', quotes: &["\"", "'"], escapes: true };

const GEMMA: Language =
    Language { open: '{', close: '}', assign: ':', quotes: &["<|\"|>"], escapes: false };

impl ToolRow {
    /// Defaults for the rows whose calls are objects, alone or in an array.
    const JSON: Self = Self {
        names: &[],
        seen: &[],
        or_seen: &[],
        model_types: &[],
        sections: &[],
        bare: &[],
        openers: &["{"],
        loose: false,
        brackets: &["["],
        separators: &[",", ";"],
        closers: &["]"],
        body: Body::Json,
        tokens: &[],
    };

    /// No calls.
    pub(super) const NONE: &Self = &Self { openers: &[], ..Self::MARKED };

    /// Defaults for the rows whose calls have markers of their own.
    const MARKED: Self =
        Self { loose: true, brackets: &[], separators: &[], closers: &[], ..Self::JSON };

    /// What the versions of DeepSeek's markup have in common.
    const DSML: Self = Self {
        openers: &["<｜DSML｜invoke name="],
        body: Body::Xml(&Xml {
            parameter: "<｜DSML｜parameter name=",
            value_end: "</｜DSML｜parameter>",
            end: "</｜DSML｜invoke>",
            lines: false,
            ..Xml::PLAIN
        }),
        tokens: &["｜DSML｜"],
        ..Self::MARKED
    };
}

impl ToolFormat {
    /// Every format, those that are told from others by more first.
    pub const ALL: &[Self] = &[
        Self(&ToolRow {
            names: &["openai"],
            seen: &["<|channel|>", "<|message|>"],
            model_types: &["gpt_oss"],
            openers: &[],
            body: Body::Harmony,
            tokens: harmony::TOKENS,
            ..ToolRow::MARKED
        }),
        Self(&ToolRow {
            names: &["deepseek_v3"],
            seen: &["<｜tool▁sep｜>", "```json"],
            sections: &["<｜tool▁calls▁begin｜>"],
            openers: &["<｜tool▁call▁begin｜>"],
            closers: &["```", "<｜tool▁call▁end｜>", "<｜tool▁calls▁end｜>"],
            body: Body::Header(header_call::deepseek_v3),
            tokens: &["<｜tool▁sep｜>", "```"],
            ..ToolRow::MARKED
        }),
        Self(&ToolRow {
            names: &["deepseek_v31"],
            seen: &["<｜tool▁sep｜>"],
            sections: &["<｜tool▁calls▁begin｜>"],
            openers: &["<｜tool▁call▁begin｜>"],
            closers: &["<｜tool▁call▁end｜>", "<｜tool▁calls▁end｜>"],
            body: Body::Header(header_call::deepseek_v31),
            tokens: &["<｜tool▁sep｜>"],
            ..ToolRow::MARKED
        }),
        Self(&ToolRow {
            names: &["kimi_k2"],
            seen: &["<|tool_call_argument_begin|>"],
            sections: &["<|tool_calls_section_begin|>"],
            openers: &["<|tool_call_begin|>"],
            closers: &["<|tool_call_end|>", "<|tool_calls_section_end|>"],
            body: Body::Header(header_call::kimi),
            tokens: &["<|tool_call_argument_begin|>"],
            ..ToolRow::MARKED
        }),
        // `[{..}, {..}]` of the first tokenizers, `name[ARGS]{..}` since.
        Self(&ToolRow {
            names: &["mistral"],
            seen: &["[TOOL_CALLS]"],
            model_types: &["mistral", "mistral3", "mixtral", "ministral3"],
            sections: &["[TOOL_CALLS]"],
            openers: &["{", ""],
            body: Body::Header(header_call::mistral),
            tokens: &["[ARGS]", "[CALL_ID]"],
            ..ToolRow::JSON
        }),
        Self(&ToolRow {
            names: &["deepseek_v4"],
            seen: &["｜DSML｜", "tool_calls>"],
            sections: &["<｜DSML｜tool_calls>"],
            closers: &["</｜DSML｜tool_calls>"],
            ..ToolRow::DSML
        }),
        Self(&ToolRow {
            names: &["deepseek_v32"],
            seen: &["｜DSML｜"],
            model_types: &["deepseek_v32"],
            sections: &["<｜DSML｜function_calls>"],
            closers: &["</｜DSML｜function_calls>"],
            ..ToolRow::DSML
        }),
        Self(&ToolRow {
            names: &["minimax_m2"],
            seen: &["<minimax:tool_call>"],
            sections: &["<minimax:tool_call>"],
            openers: &["<invoke name="],
            closers: &["</minimax:tool_call>"],
            body: Body::Xml(&Xml { parameter: "<parameter name=", end: "</invoke>", ..Xml::PLAIN }),
            ..ToolRow::MARKED
        }),
        Self(&ToolRow {
            names: &["seed_oss"],
            seen: &["<seed:tool_call>"],
            sections: &["<seed:tool_call>"],
            openers: &["<function="],
            closers: &["</seed:tool_call>"],
            body: Body::Xml(&Xml::PLAIN),
            ..ToolRow::MARKED
        }),
        Self(&ToolRow {
            names: &["glm45", "glm47"],
            seen: &["<arg_key>"],
            openers: &["<tool_call>"],
            body: Body::Xml(&Xml {
                name_end: None,
                parameter: "<arg_key>",
                key_end: "</arg_key>",
                value: "<arg_value>",
                value_end: "</arg_value>",
                end: "</tool_call>",
                lines: false,
            }),
            tokens: &["</tool_call>", "<arg_key>", "</arg_key>", "<arg_value>", "</arg_value>"],
            ..ToolRow::MARKED
        }),
        // The model may forget the outer tag.
        Self(&ToolRow {
            names: &["qwen3_coder", "qwen3_xml", "mimo", "step3p5"],
            seen: &["<function=", "<parameter="],
            sections: &["<tool_call>"],
            openers: &["<function="],
            closers: &["</tool_call>"],
            body: Body::Xml(&Xml::PLAIN),
            ..ToolRow::MARKED
        }),
        Self(&ToolRow {
            names: &["granite"],
            seen: &["<|tool_call|>"],
            sections: &["<|tool_call|>", "<tool_call>"],
            bare: &["["],
            ..ToolRow::JSON
        }),
        Self(&ToolRow {
            names: &["cohere_command3"],
            seen: &["<|START_ACTION|>"],
            sections: &["<|START_ACTION|>"],
            closers: &["]", "<|END_ACTION|>"],
            ..ToolRow::JSON
        }),
        Self(&ToolRow {
            names: &["nemotron_json"],
            seen: &["<TOOLCALL>"],
            sections: &["<TOOLCALL>"],
            closers: &["]", "</TOOLCALL>"],
            ..ToolRow::JSON
        }),
        Self(&ToolRow {
            names: &["jamba", "hunyuan_a13b", "minimax"],
            seen: &["<tool_calls>"],
            sections: &["<tool_calls>"],
            closers: &["]", "</tool_calls>"],
            ..ToolRow::JSON
        }),
        Self(&ToolRow {
            names: &["hermes", "granite4", "ernie45"],
            seen: &["<tool_call>"],
            sections: &["<tool_call>"],
            closers: &["]", "</tool_call>"],
            ..ToolRow::JSON
        }),
        Self(&ToolRow {
            names: &["longcat"],
            seen: &["<longcat_tool_call>"],
            sections: &["<longcat_tool_call>"],
            closers: &["]", "</longcat_tool_call>"],
            ..ToolRow::JSON
        }),
        Self(&ToolRow {
            names: &["granite-20b-fc"],
            seen: &["<function_call>"],
            sections: &["<function_call>"],
            ..ToolRow::JSON
        }),
        Self(&ToolRow {
            names: &["internlm"],
            seen: &["<|action_start|>"],
            sections: &["<|action_start|><|plugin|>", "<|action_start|> <|plugin|>"],
            closers: &["<|action_end|>"],
            tokens: &["<|action_start|>", "<|plugin|>"],
            ..ToolRow::JSON
        }),
        Self(&ToolRow {
            names: &["phi4_mini_json"],
            seen: &["<|tool|>"],
            or_seen: &["functools[{"],
            sections: &["functools", "<|tool_call|>"],
            closers: &["]", "<|/tool_call|>"],
            ..ToolRow::JSON
        }),
        Self(&ToolRow {
            names: &["llama3_json", "llama4_json"],
            seen: &["<|start_header_id|>", "\"parameters\""],
            sections: &["<|python_tag|>"],
            bare: &["{"],
            ..ToolRow::JSON
        }),
        Self(&ToolRow {
            names: &["gemma4"],
            seen: &["<|tool_call>"],
            model_types: &["gemma4"],
            openers: &["<|tool_call>call:"],
            closers: &["<tool_call|>"],
            body: Body::Literal(&GEMMA),
            tokens: &["<|tool_call>", "<|\"|>"],
            ..ToolRow::MARKED
        }),
        Self(&ToolRow {
            names: &["functiongemma"],
            seen: &["<start_function_call>"],
            openers: &["<start_function_call>call:"],
            closers: &["<end_function_call>"],
            body: Body::Literal(&Language { quotes: &["<escape>"], ..GEMMA }),
            tokens: &["<start_function_call>", "<escape>"],
            ..ToolRow::MARKED
        }),
        Self(&ToolRow {
            names: &["lfm2"],
            seen: &["<|tool_call_start|>"],
            or_seen: &["<|tool_list_start|>"],
            sections: &["<|tool_call_start|>"],
            openers: &[""],
            closers: &["]", "<|tool_call_end|>"],
            body: Body::Literal(&PYTHON),
            ..ToolRow::JSON
        }),
        Self(&ToolRow {
            names: &["olmo3"],
            seen: &["<function_calls>"],
            sections: &["<function_calls>"],
            openers: &[""],
            separators: &["\n"],
            closers: &["</function_calls>"],
            body: Body::Literal(&PYTHON),
            ..ToolRow::MARKED
        }),
        // Llama 4 is asked for one or the other.
        Self(&ToolRow {
            names: &["llama4_pythonic", "pythonic"],
            seen: &["<|header_start|>"],
            or_seen: &["[func_name1("],
            sections: &["<|python_start|>"],
            bare: &["[", "{"],
            openers: &["{", ""],
            closers: &["]", "<|python_end|>"],
            body: Body::Literal(&PYTHON),
            ..ToolRow::JSON
        }),
        Self(&ToolRow {
            names: &["xlam"],
            seen: &["[{\"name\": \"tool_call_name\""],
            bare: &["["],
            ..ToolRow::JSON
        }),
    ];

    /// By one of vLLM's names.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|format| format.0.names.contains(&name))
    }

    /// The usual name.
    pub fn name(self) -> &'static str {
        self.0.names[0]
    }

    /// Every name that [`Self::from_name`] knows it by.
    pub fn names(self) -> &'static [&'static str] {
        self.0.names
    }

    pub(super) fn detect(template: &str, model_type: Option<&str>) -> Option<Self> {
        Self::ALL.iter().copied().find(|Self(row)| {
            let by_type = || model_type.is_some_and(|name| row.model_types.contains(&name));
            let all = || !row.seen.is_empty() && row.seen.iter().all(|m| template.contains(m));
            let any = || row.or_seen.iter().any(|m| template.contains(m));
            if template.is_empty() { by_type() } else { all() || any() }
        })
    }

    pub(super) fn markers(self) -> impl Iterator<Item = &'static str> {
        let row = self.0;
        let all =
            row.sections.iter().chain(row.openers).chain(row.closers).chain(row.tokens).copied();
        all.filter(|marker| marker.len() > 1)
    }
}

impl PartialEq for ToolFormat {
    fn eq(&self, other: &Self) -> bool {
        self.name() == other.name()
    }
}

impl Eq for ToolFormat {}

impl fmt::Debug for ToolFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ToolFormat({})", self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::ToolFormat;

    #[test]
    fn no_marker_begins_another() {
        for format in ToolFormat::ALL {
            let row = format.0;
            let lists = [row.sections, row.bare, row.openers, row.separators, row.closers];
            let markers: Vec<&str> = lists.concat().into_iter().filter(|m| !m.is_empty()).collect();
            for marker in &markers {
                let longer =
                    |other: &&&str| other.len() > marker.len() && other.starts_with(marker);
                assert_eq!(markers.iter().find(longer), None, "{format:?}: {marker}");
            }
        }
    }
}
