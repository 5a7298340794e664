//! How the families mark reasoning, one row each.

use super::harmony;
use std::fmt;

/// One way to mark reasoning; several of vLLM's `--reasoning-parser` names may mean the same.
#[derive(Clone, Copy)]
pub struct ReasoningFormat(pub(super) &'static Tags);

/// A row of [`ReasoningFormat::ALL`].
#[derive(Debug)]
pub(super) struct Tags {
    /// Its names, the usual one first.
    names: &'static [&'static str],
    /// A template that holds all of these has it.
    seen: &'static [&'static str],
    pub(super) starts: &'static [&'static str],
    pub(super) ends: &'static [&'static str],
    /// The output begins with reasoning, tag or no tag.
    pub(super) from_start: bool,
    /// The format is Harmony; its tags are for [`ReasoningFormat::is_open_in`].
    pub(super) is_harmony: bool,
    /// Special tokens within the tags.
    tokens: &'static [&'static str],
}

impl Tags {
    /// Defaults for the rows.
    const THINK: Self = Self {
        names: &[],
        seen: &["<think>"],
        starts: &["<think>"],
        ends: &["</think>"],
        from_start: false,
        is_harmony: false,
        tokens: &[],
    };
}

/// What ends a turn in one family or another.
const TURNS: &[&str] =
    &["<|", "<｜", "[/INST]", "</s>", "<end_of_turn>", "<turn|>", "]~b]", "<seed:"];

impl ReasoningFormat {
    /// Every format, those that are told from others by more first.
    pub const ALL: &[Self] = &[
        Self(&Tags {
            names: &["openai_gptoss"],
            seen: &["<|channel|>", "<|message|>"],
            starts: &["<|channel|>analysis<|message|>"],
            ends: &["<|end|>"],
            is_harmony: true,
            tokens: harmony::TOKENS,
            ..Tags::THINK
        }),
        Self(&Tags {
            names: &["mistral"],
            seen: &["[THINK]"],
            starts: &["[THINK]"],
            ends: &["[/THINK]"],
            ..Tags::THINK
        }),
        Self(&Tags {
            names: &["seed_oss"],
            seen: &["<seed:think>"],
            starts: &["<seed:think>"],
            ends: &["</seed:think>"],
            ..Tags::THINK
        }),
        Self(&Tags {
            names: &["gemma4"],
            seen: &["<|channel>"],
            starts: &["<|channel>thought"],
            ends: &["<channel|>"],
            tokens: &["<|channel>"],
            ..Tags::THINK
        }),
        Self(&Tags {
            names: &["cohere_command3", "cohere_command4"],
            seen: &["<|START_THINKING|>"],
            starts: &["<|START_THINKING|>"],
            ends: &["<|END_THINKING|>"],
            ..Tags::THINK
        }),
        Self(&Tags {
            names: &["granite"],
            seen: &["Here is my thought process"],
            starts: &["Here is my thought process:", "Here's my thought process:"],
            ends: &["Here is my response:", "Here's my response:"],
            ..Tags::THINK
        }),
        Self(&Tags {
            names: &[
                "qwen3",
                "deepseek_v3",
                "deepseek_v4",
                "glm45",
                "glm47",
                "holo2",
                "kimi_k2",
                "mimo",
                "nemotron_v3",
                "olmo3",
                "step3p5",
            ],
            ..Tags::THINK
        }),
        // A template that opens the block says so in the prompt. One that only cuts reasoning out of
        // earlier turns leaves the tag to the model, which may forget it.
        Self(&Tags {
            names: &["deepseek_r1", "minimax_m2", "step3"],
            seen: &["</think>"],
            from_start: true,
            ..Tags::THINK
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

    /// Whether a rendered prompt leaves a block of reasoning open. A tag in a turn that is over, a
    /// user's question about `<think>` say, opens nothing.
    pub fn is_open_in(self, prompt: &str) -> bool {
        let start = self.0.starts.iter().filter_map(|tag| Some((prompt.rfind(tag)?, *tag))).max();
        let Some((start, tag)) = start else { return false };
        let inside = &prompt[start + tag.len()..];
        !self.0.ends.iter().chain(TURNS).any(|end| inside.contains(end))
    }

    pub(super) fn detect(template: &str) -> Option<Self> {
        let seen = |format: &&Self| format.0.seen.iter().all(|marker| template.contains(marker));
        Self::ALL.iter().find(seen).copied()
    }

    pub(super) fn markers(self) -> impl Iterator<Item = &'static str> {
        self.0.starts.iter().chain(self.0.ends).chain(self.0.tokens).copied()
    }
}

impl PartialEq for ReasoningFormat {
    fn eq(&self, other: &Self) -> bool {
        self.name() == other.name()
    }
}

impl Eq for ReasoningFormat {}

impl fmt::Debug for ReasoningFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ReasoningFormat({})", self.name())
    }
}
