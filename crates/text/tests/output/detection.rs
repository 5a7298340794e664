//! The format is found in the chat template.

use super::format;
use std::path::Path;
use text::{OutputFormat, ReasoningFormat, ToolFormat};

#[test]
fn templates_tell_their_format() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/chat");
    for (file, reasoning, tools) in [
        ("chatml", "", ""),
        ("command_r", "", "cohere_command3"),
        ("deepseek", "qwen3", ""),
        ("gemma", "", ""),
        ("llama2", "", ""),
        ("llama3", "", "llama3_json"),
        ("mistral", "", "mistral"),
        ("phi", "", "phi4_mini_json"),
        ("qwen2", "", "hermes"),
        ("qwen3", "qwen3", "hermes"),
    ] {
        let template = std::fs::read_to_string(folder.join(format!("{file}.jinja"))).unwrap();
        assert_eq!(OutputFormat::detect(&template, None), format(reasoning, tools), "{file}");
    }
}

/// The first template of DeepSeek R1: the model itself opens the block, if it does.
#[test]
fn a_template_may_leave_the_tag_to_the_model() {
    let template =
        "{% if '</think>' in text %}{{ text.split('</think>')[-1] }}{% endif %}<｜Assistant｜>";
    assert_eq!(OutputFormat::detect(template, None), format("deepseek_r1", ""));
}

#[test]
fn the_model_of_this_repository_is_known() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/spark");
    let config = std::fs::read_to_string(path.join("tokenizer_config.json")).unwrap();
    let config: serde_json::Value = serde_json::from_str(&config).unwrap();
    let template = config["chat_template"].as_str().unwrap();
    assert_eq!(OutputFormat::detect(template, Some("qwen3")), format("qwen3", "hermes"));
}

#[test]
fn the_model_type_stands_in_for_a_template() {
    assert_eq!(OutputFormat::detect("", Some("mistral")), format("", "mistral"));
    assert_eq!(OutputFormat::detect("", Some("gpt2")), OutputFormat::default());
    assert_eq!(OutputFormat::detect("{{ messages }}", Some("mistral")), OutputFormat::default());
}

#[test]
fn formats_have_names() {
    for format in ToolFormat::ALL {
        for name in format.names() {
            assert_eq!(ToolFormat::from_name(name), Some(*format));
        }
    }
    for format in ReasoningFormat::ALL {
        for name in format.names() {
            assert_eq!(ReasoningFormat::from_name(name), Some(*format));
        }
    }
    assert_eq!(ToolFormat::from_name(""), None);
    assert_eq!(ReasoningFormat::from_name("qwen"), None);
}

#[test]
fn markers_are_those_of_both() {
    assert_eq!(
        format("qwen3", "hermes").markers(),
        ["</think>", "</tool_call>", "<think>", "<tool_call>"]
    );
    assert_eq!(OutputFormat::default().markers(), [""; 0]);
}

#[test]
fn prompts_leave_reasoning_open() {
    let qwen = ReasoningFormat::from_name("qwen3").unwrap();
    assert!(qwen.is_open_in("<|im_start|>assistant\n<think>\n"));
    assert!(qwen.is_open_in("<|im_start|>assistant\n<think>\nLet me see, "));
    assert!(qwen.is_open_in("<think>a</think>b<|im_end|><|im_start|>assistant\n<think>"));
    assert!(!qwen.is_open_in("<|im_start|>assistant\n<think>\n\n</think>\n\n"));
    assert!(!qwen.is_open_in("What does <think> do?<|im_end|>\n<|im_start|>assistant\n"));
    assert!(!qwen.is_open_in("<|im_start|>assistant\n"));
    let harmony = ReasoningFormat::from_name("openai_gptoss").unwrap();
    assert!(harmony.is_open_in("<|start|>assistant<|channel|>analysis<|message|>"));
    assert!(!harmony.is_open_in("<|channel|>analysis<|message|>a<|end|><|start|>assistant"));
    let mistral = ReasoningFormat::from_name("mistral").unwrap();
    assert!(!mistral.is_open_in("[INST]What is [THINK]?[/INST]"));
}
