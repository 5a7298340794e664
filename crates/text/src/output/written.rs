//! How each format writes the calls that are forced, one row each: the one spelling, of those that
//! its parser reads, that its models were trained on.

use super::arguments::{Arguments, Tagged};
use super::harmony;
use super::spelled::Spelling;

/// A row of [`Written::ALL`]. In its texts, special tokens of the vocabulary are told from text.
#[derive(Debug)]
pub(super) struct Written {
    /// The format's usual name.
    pub(super) name: &'static str,
    /// A token that the vocabulary must have, of two rows with the same name.
    pub(super) token: &'static str,
    /// What tells calls from text wherever it stands: the first that is written. None: calls are
    /// told from text at the start of the output only.
    pub(super) trigger: &'static str,
    /// Before the first call.
    pub(super) begin: &'static str,
    /// Before the arguments of each: `{name}` is the function's name, `{number}` counts the calls.
    pub(super) head: &'static str,
    pub(super) arguments: Arguments,
    /// Behind the arguments.
    pub(super) tail: &'static str,
    pub(super) between: &'static str,
    /// Behind the last call.
    pub(super) end: &'static str,
    /// The model's turn ends with a call.
    pub(super) is_single: bool,
    /// What an answer that is no call begins with.
    pub(super) reply: &'static str,
}

const PYTHON: Spelling = Spelling {
    assign: "=",
    colon: ": ",
    comma: ", ",
    truth: ["True", "False"],
    null: "None",
    quote: None,
};

const GEMMA: Spelling = Spelling {
    assign: ":",
    colon: ":",
    comma: ",",
    truth: ["true", "false"],
    null: "null",
    quote: Some("<|\"|>"),
};

impl Written {
    /// Defaults for the rows: arrays of objects.
    const ARRAY: Self = Self {
        name: "",
        token: "",
        trigger: "",
        begin: "[",
        head: "{\"name\": \"{name}\", \"arguments\": ",
        arguments: Arguments::Json,
        tail: "}",
        between: ", ",
        end: "]",
        is_single: false,
        reply: "",
    };

    /// Defaults for the rows whose calls have nothing around all of them.
    const EACH: Self = Self { begin: "", between: "\n", end: "", ..Self::ARRAY };

    /// Defaults for DeepSeek's markup, whose sections have had two names.
    const DSML: Self = Self {
        head: "<｜DSML｜invoke name=\"{name}\">\n",
        arguments: Arguments::Tagged(Tagged {
            string: "<｜DSML｜parameter name=\"{key}\" string=\"true\">",
            other: "<｜DSML｜parameter name=\"{key}\" string=\"false\">",
            end: "</｜DSML｜parameter>\n",
            tag: "</｜DSML｜parameter>",
            trims: false,
        }),
        tail: "</｜DSML｜invoke>",
        ..Self::EACH
    };

    pub(super) const ALL: &[Self] = &[
        Self {
            name: "openai",
            head: "<|channel|>commentary to=functions.{name} <|constrain|>json<|message|>",
            tail: "",
            is_single: true,
            reply: harmony::FINAL,
            ..Self::EACH
        },
        Self {
            name: "deepseek_v3",
            trigger: "<｜tool▁calls▁begin｜>",
            begin: "<｜tool▁calls▁begin｜>",
            head: "<｜tool▁call▁begin｜>function<｜tool▁sep｜>{name}\n```json\n",
            tail: "\n```<｜tool▁call▁end｜>",
            end: "<｜tool▁calls▁end｜>",
            ..Self::EACH
        },
        Self {
            name: "deepseek_v31",
            trigger: "<｜tool▁calls▁begin｜>",
            begin: "<｜tool▁calls▁begin｜>",
            head: "<｜tool▁call▁begin｜>{name}<｜tool▁sep｜>",
            tail: "<｜tool▁call▁end｜>",
            between: "",
            end: "<｜tool▁calls▁end｜>",
            ..Self::EACH
        },
        Self {
            name: "kimi_k2",
            trigger: "<|tool_calls_section_begin|>",
            begin: "<|tool_calls_section_begin|>",
            head: "<|tool_call_begin|>functions.{name}:{number}<|tool_call_argument_begin|>",
            tail: "<|tool_call_end|>",
            between: "",
            end: "<|tool_calls_section_end|>",
            ..Self::EACH
        },
        Self {
            name: "mistral",
            token: "[ARGS]",
            trigger: "[TOOL_CALLS]",
            head: "[TOOL_CALLS]{name}[ARGS]",
            tail: "",
            between: "",
            ..Self::EACH
        },
        Self { name: "mistral", trigger: "[TOOL_CALLS]", begin: "[TOOL_CALLS][", ..Self::ARRAY },
        Self {
            name: "deepseek_v4",
            trigger: "<｜DSML｜tool_calls>",
            begin: "<｜DSML｜tool_calls>\n",
            end: "\n</｜DSML｜tool_calls>",
            ..Self::DSML
        },
        Self {
            name: "deepseek_v32",
            trigger: "<｜DSML｜function_calls>",
            begin: "<｜DSML｜function_calls>\n",
            end: "\n</｜DSML｜function_calls>",
            ..Self::DSML
        },
        Self {
            name: "minimax_m2",
            trigger: "<minimax:tool_call>",
            begin: "<minimax:tool_call>\n",
            head: "<invoke name=\"{name}\">\n",
            arguments: Arguments::Tagged(Tagged {
                string: "<parameter name=\"{key}\">",
                other: "<parameter name=\"{key}\">",
                end: "</parameter>\n",
                tag: "</parameter>",
                trims: true,
            }),
            tail: "</invoke>",
            end: "\n</minimax:tool_call>",
            ..Self::EACH
        },
        Self {
            name: "seed_oss",
            trigger: "<seed:tool_call>",
            begin: "<seed:tool_call>\n",
            head: "<function={name}>\n",
            arguments: Arguments::Tagged(Tagged {
                string: "<parameter={key}>",
                other: "<parameter={key}>",
                end: "</parameter>\n",
                tag: "</parameter>",
                trims: true,
            }),
            tail: "</function>",
            end: "\n</seed:tool_call>",
            ..Self::EACH
        },
        Self {
            name: "glm45",
            trigger: "<tool_call>",
            head: "<tool_call>{name}\n",
            arguments: Arguments::Tagged(Tagged {
                string: "<arg_key>{key}</arg_key>\n<arg_value>",
                other: "<arg_key>{key}</arg_key>\n<arg_value>",
                end: "</arg_value>\n",
                tag: "</arg_value>",
                trims: false,
            }),
            tail: "</tool_call>",
            ..Self::EACH
        },
        Self {
            name: "qwen3_coder",
            trigger: "<tool_call>",
            head: "<tool_call>\n<function={name}>\n",
            arguments: Arguments::Tagged(Tagged {
                string: "<parameter={key}>\n",
                other: "<parameter={key}>\n",
                end: "\n</parameter>\n",
                tag: "</parameter>",
                trims: false,
            }),
            tail: "</function>\n</tool_call>",
            ..Self::EACH
        },
        Self { name: "granite", trigger: "<|tool_call|>", begin: "<|tool_call|>[", ..Self::ARRAY },
        Self {
            name: "cohere_command3",
            trigger: "<|START_ACTION|>",
            begin: "<|START_ACTION|>[\n    ",
            head: "{\"tool_call_id\": \"{number}\", \"tool_name\": \"{name}\", \"parameters\": ",
            between: ",\n    ",
            end: "\n]<|END_ACTION|>",
            ..Self::ARRAY
        },
        Self {
            name: "nemotron_json",
            trigger: "<TOOLCALL>",
            begin: "<TOOLCALL>[",
            end: "]</TOOLCALL>",
            ..Self::ARRAY
        },
        Self {
            name: "hermes",
            trigger: "<tool_call>",
            head: "<tool_call>\n{\"name\": \"{name}\", \"arguments\": ",
            tail: "}\n</tool_call>",
            ..Self::EACH
        },
        Self {
            name: "jamba",
            trigger: "<tool_calls>",
            begin: "<tool_calls>[",
            end: "]</tool_calls>",
            ..Self::ARRAY
        },
        Self {
            name: "longcat",
            trigger: "<longcat_tool_call>",
            head: "<longcat_tool_call>\n{\"name\": \"{name}\", \"arguments\": ",
            tail: "}\n</longcat_tool_call>",
            ..Self::EACH
        },
        Self {
            name: "granite-20b-fc",
            trigger: "<function_call>",
            head: "<function_call> {\"name\": \"{name}\", \"arguments\": ",
            between: " ",
            ..Self::EACH
        },
        Self {
            name: "internlm",
            trigger: "<|action_start|>",
            head: "<|action_start|><|plugin|>\n{\"name\": \"{name}\", \"parameters\": ",
            tail: "}<|action_end|>\n",
            between: "",
            ..Self::EACH
        },
        Self { name: "phi4_mini_json", trigger: "functools", begin: "functools[", ..Self::ARRAY },
        Self {
            name: "llama3_json",
            head: "{\"name\": \"{name}\", \"parameters\": ",
            between: "; ",
            ..Self::EACH
        },
        Self {
            name: "gemma4",
            trigger: "<|tool_call>",
            head: "<|tool_call>call:{name}{",
            arguments: Arguments::Spelled(GEMMA),
            tail: "}<tool_call|>",
            between: "",
            ..Self::EACH
        },
        Self {
            name: "functiongemma",
            trigger: "<start_function_call>",
            head: "<start_function_call>call:{name}{",
            arguments: Arguments::Spelled(Spelling { quote: Some("<escape>"), ..GEMMA }),
            tail: "}<end_function_call>",
            between: "",
            ..Self::EACH
        },
        Self {
            name: "lfm2",
            trigger: "<|tool_call_start|>",
            begin: "<|tool_call_start|>[",
            head: "{name}(",
            arguments: Arguments::Spelled(PYTHON),
            tail: ")",
            end: "]<|tool_call_end|>",
            ..Self::ARRAY
        },
        Self {
            name: "olmo3",
            trigger: "<function_calls>",
            begin: "<function_calls>\n",
            head: "{name}(",
            arguments: Arguments::Spelled(PYTHON),
            tail: ")",
            end: "\n</function_calls>",
            ..Self::EACH
        },
        Self {
            name: "llama4_pythonic",
            head: "{name}(",
            arguments: Arguments::Spelled(PYTHON),
            tail: ")",
            ..Self::ARRAY
        },
        Self { name: "xlam", ..Self::ARRAY },
    ];

    /// Whether ids count the calls.
    pub(super) fn is_numbered(&self) -> bool {
        self.head.contains("{number}")
    }
}
