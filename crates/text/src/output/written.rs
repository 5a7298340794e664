//! How each format writes the calls that are forced, one row each: the one spelling, of those that
//! its parser reads, that its models were trained on.

/// A row of [`Written::ALL`]. In its texts, special tokens of the vocabulary are told from text.
#[derive(Debug)]
pub(super) struct Written {
    /// The format's usual name.
    pub(super) name: &'static str,
    /// What tells calls from text wherever it stands: the first that is written. None: calls are
    /// told from text at the start of the output only.
    pub(super) trigger: &'static str,
    /// Before the first call.
    pub(super) begin: &'static str,
    /// Before the arguments of each; `{name}` is the function's name.
    pub(super) head: &'static str,
    /// Behind the arguments.
    pub(super) tail: &'static str,
    pub(super) between: &'static str,
    /// Behind the last call.
    pub(super) end: &'static str,
}

impl Written {
    /// Defaults for the rows: arrays of objects.
    const ARRAY: Self = Self {
        name: "",
        trigger: "",
        begin: "[",
        head: "{\"name\": \"{name}\", \"arguments\": ",
        tail: "}",
        between: ", ",
        end: "]",
    };

    pub(super) const ALL: &[Self] = &[
        Self {
            name: "hermes",
            trigger: "<tool_call>",
            begin: "",
            head: "<tool_call>\n{\"name\": \"{name}\", \"arguments\": ",
            tail: "}\n</tool_call>",
            between: "\n",
            end: "",
        },
        Self { name: "mistral", trigger: "[TOOL_CALLS]", begin: "[TOOL_CALLS][", ..Self::ARRAY },
        Self { name: "granite", trigger: "<|tool_call|>", begin: "<|tool_call|>[", ..Self::ARRAY },
        Self { name: "phi4_mini_json", trigger: "functools", begin: "functools[", ..Self::ARRAY },
        Self {
            name: "jamba",
            trigger: "<tool_calls>",
            begin: "<tool_calls>[",
            end: "]</tool_calls>",
            ..Self::ARRAY
        },
        Self { name: "xlam", ..Self::ARRAY },
        Self {
            name: "llama3_json",
            begin: "",
            head: "{\"name\": \"{name}\", \"parameters\": ",
            between: "; ",
            end: "",
            ..Self::ARRAY
        },
    ];
}
