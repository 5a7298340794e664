//! Fields of OpenAI and vLLM that this server knows and does not honour yet. A request that uses
//! one is refused by name; a value that asks for nothing (null, empty, "none") passes.

use serde_json::Value;

/// Refused on both generation routes.
const BOTH: &[&str] = &[
    "bad_words",
    "chat_template_content_format",
    "documents",
    "early_stopping",
    "grammar",
    "guided_choice",
    "guided_decoding_backend",
    "guided_grammar",
    "guided_json",
    "guided_json_object",
    "guided_regex",
    "guided_whitespace_pattern",
    "kv_transfer_params",
    "length_penalty",
    "logit_processors",
    "logits_processors",
    "logprob_token_ids",
    "lora_request",
    "moderation",
    "prompt_cache_retention",
    "prompt_embeds",
    "repetition_detection",
    "structural_tag",
    "truncation_side",
    "use_beam_search",
    "vllm_xargs",
    "watermarking",
];

/// Refused on `/v1/chat/completions` only.
const CHAT: &[&str] = &[
    "audio",
    "best_of",
    "echo",
    "function_call",
    "functions",
    "mm_processor_kwargs",
    "modalities",
    "prediction",
    "reasoning",
    "thinking",
    "verbosity",
    "web_search_options",
];

/// Refused on `/v1/completions` only.
const COMPLETIONS: &[&str] = &["suffix", "thinking_token_budget"];

/// Refused on `/v1/messages` only, where vLLM's fields are unknown.
const MESSAGES: &[&str] = &[
    "billing_policy",
    "compaction",
    "container",
    "fallback_credit_token",
    "fallbacks",
    "inference_geo",
    "mcp_servers",
    "thread",
];

/// Refused on `/v1/responses` only.
const RESPONSES: &[&str] = &[
    "access_programs",
    "background",
    "background_options",
    "context_management",
    "conversation",
    "image",
    "n",
    "prompt",
    "prompt_cache_options",
];

/// Refused on the routes of pooling models only.
const POOLING: &[&str] = &[
    "chat_template",
    "chat_template_kwargs",
    "embed_dtype",
    "endianness",
    "input_type",
    "instruction",
    "max_chunks_per_doc",
    "max_tokens_per_doc",
    "max_tokens_per_query",
    "messages",
    "mm_processor_kwargs",
    "normalize",
    "padding",
    "rank_fields",
    "request_id",
    "task",
];

/// Which list applies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Route {
    /// `/v1/chat/completions`
    Chat,
    /// `/v1/completions`
    Completions,
    /// `/v1/messages` and `/v1/messages/count_tokens`
    Messages,
    /// `/v1/embeddings`, `/v1/rerank`, `/v1/score`
    Pooling,
    /// `/v1/responses`
    Responses,
    /// `/tokenize` and `/detokenize`
    Tokenize,
}

impl Route {
    /// Whether the field is one that we know and do not honour here.
    pub(crate) fn refuses(self, field: &str) -> bool {
        self.refused().any(|name| name == field)
    }

    /// All such fields.
    pub(crate) fn refused(self) -> impl Iterator<Item = &'static str> {
        let (shared, own) = match self {
            Self::Chat | Self::Tokenize => (BOTH, CHAT),
            Self::Completions => (BOTH, COMPLETIONS),
            Self::Messages => (&[][..], MESSAGES),
            Self::Pooling => (&[][..], POOLING),
            Self::Responses => (BOTH, RESPONSES),
        };
        shared.iter().chain(own).copied()
    }
}

/// What took the place of a field that vLLM once had.
pub(crate) fn replacement(field: &str) -> Option<&'static str> {
    Some(match field {
        "guided_json" => "structured_outputs.json",
        "guided_json_object" => "structured_outputs.json_object",
        "guided_regex" => "structured_outputs.regex",
        "guided_choice" => "structured_outputs.choice",
        "guided_grammar" | "grammar" => "structured_outputs.grammar",
        "normalize" => "use_activation",
        _ => return None,
    })
}

/// Whether the value asks for nothing, so that leaving it out would mean the same.
pub(crate) fn is_neutral(field: &str, value: &Value) -> bool {
    match (field, value) {
        (_, Value::Null) => true,
        ("modalities", Value::Array(items)) => items.iter().all(|item| item == "text"),
        ("length_penalty", value) => value.as_f64() == Some(1.0),
        ("best_of", value) => value.as_u64() == Some(1),
        // These have values of their own that ask for nothing, and no others.
        ("embed_dtype", value) => value == "float32",
        ("endianness", value) => value == "native" || value == "little",
        ("padding", value) => value == "do_not_pad",
        (_, Value::Bool(value)) => !value,
        (_, Value::String(text)) => text.is_empty() || text == "none",
        (_, Value::Array(items)) => items.is_empty(),
        (_, Value::Object(fields)) => fields.is_empty() && field != "web_search_options",
        (_, Value::Number(_)) => false,
    }
}
