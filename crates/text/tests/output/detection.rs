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

/// Every file of goldens/public with its reasoning and its calls, empty for none. Hermes' row is that of all
/// who write objects between `<tool_call>` tags, Jamba's that of `<tool_calls>`, GLM's of `<arg_key>`.
const PUBLIC: [(&str, &str, &str); 74] = [
    ("apriel_1_5", "", "jamba"),
    ("deepseek_r1", "qwen3", "deepseek_v3"),
    ("deepseek_r1_0528", "deepseek_r1", "deepseek_v3"),
    ("deepseek_r1_distill_llama", "qwen3", "deepseek_v3"),
    ("deepseek_r1_distill_qwen", "qwen3", "deepseek_v3"),
    ("deepseek_v3_0324", "", "deepseek_v3"),
    ("deepseek_v3_1", "qwen3", "deepseek_v31"),
    ("deepseek_v3_2", "qwen3", "deepseek_v32"),
    ("deepseek_v4", "qwen3", "deepseek_v4"),
    ("devstral_small", "", "mistral"),
    ("ernie_4_5", "", ""),
    ("gemma_4", "gemma4", "gemma4"),
    ("gemma_4_interleaved", "gemma4", "gemma4"),
    ("glm4_0414", "", ""),
    ("glm_4_5", "qwen3", "glm45"),
    ("glm_4_6", "qwen3", "glm45"),
    ("glm_4_7_flash", "qwen3", "glm45"),
    ("gpt_oss", "openai_gptoss", "openai"),
    ("granite_3_3", "qwen3", "granite"),
    ("granite_4_0", "", "hermes"),
    ("granite_4_1", "", "hermes"),
    ("internlm3", "", ""),
    ("kimi_k2", "", "kimi_k2"),
    ("kimi_k2_5", "qwen3", "kimi_k2"),
    ("kimi_k2_thinking", "qwen3", "kimi_k2"),
    ("ling_3_flash", "qwen3", "glm45"),
    ("mimo_vl", "", "hermes"),
    ("minimax_m1", "", "jamba"),
    ("minimax_m2", "qwen3", "minimax_m2"),
    ("minimax_m2_5", "qwen3", "minimax_m2"),
    ("ministral_3_reasoning", "mistral", "mistral"),
    ("mistral_nemo", "", "mistral"),
    ("mistral_small_3_2", "", "mistral"),
    ("mistral_v0_3", "", "mistral"),
    ("phi_3_5_mini", "", ""),
    ("qwen2_5", "", "hermes"),
    ("qwen2_5_vl", "", ""),
    ("qwen3", "qwen3", "hermes"),
    ("qwen3_5", "qwen3", "qwen3_coder"),
    ("qwen3_coder", "", "qwen3_coder"),
    ("qwen3_instruct_2507", "qwen3", "hermes"),
    ("qwen3_next_instruct", "", "hermes"),
    ("qwen3_thinking_2507", "qwen3", "hermes"),
    ("qwen3_vl_thinking", "qwen3", "hermes"),
    ("qwq", "qwen3", "hermes"),
    ("seed_oss", "seed_oss", "seed_oss"),
    ("smollm3", "qwen3", ""),
    ("step_3_5_flash", "qwen3", "qwen3_coder"),
    ("vllm_deepseek_r1", "deepseek_r1", "deepseek_v3"),
    ("vllm_deepseek_v3", "", "deepseek_v3"),
    ("vllm_deepseek_v31", "qwen3", "deepseek_v31"),
    ("vllm_functiongemma", "", "functiongemma"),
    ("vllm_gemma3_pythonic", "", "llama4_pythonic"),
    ("vllm_gemma4", "gemma4", "gemma4"),
    ("vllm_glm4", "", "glm45"),
    ("vllm_granite", "", "granite"),
    ("vllm_granite_20b_fc", "", "granite-20b-fc"),
    ("vllm_hermes", "", "hermes"),
    ("vllm_hunyuan_a13b", "qwen3", "jamba"),
    ("vllm_internlm2", "", "internlm"),
    ("vllm_llama3_1_json", "", "llama3_json"),
    ("vllm_llama3_2_json", "", "llama3_json"),
    ("vllm_llama3_2_pythonic", "", "llama4_pythonic"),
    ("vllm_llama4_json", "", "llama4_pythonic"),
    ("vllm_llama4_pythonic", "", "llama4_pythonic"),
    ("vllm_mistral", "", "mistral"),
    ("vllm_mistral3", "", "mistral"),
    ("vllm_mistral_parallel", "", "mistral"),
    ("vllm_phi4_mini", "", "phi4_mini_json"),
    ("vllm_qwen3", "qwen3", "hermes"),
    ("vllm_qwen3_coder", "", "qwen3_coder"),
    ("vllm_toolace", "", "llama4_pythonic"),
    ("vllm_xlam_llama", "", "xlam"),
    ("vllm_xlam_qwen", "", "xlam"),
];

#[test]
fn public_templates_tell_their_format() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/public");
    let files = std::fs::read_dir(&folder).unwrap();
    let files = files.map(|file| file.unwrap().path().extension() == Some("jinja".as_ref()));
    assert_eq!(files.filter(|is_template| *is_template).count(), PUBLIC.len());
    for (file, reasoning, tools) in PUBLIC {
        let template = std::fs::read_to_string(folder.join(format!("{file}.jinja"))).unwrap();
        assert_eq!(OutputFormat::detect(&template, None), format(reasoning, tools), "{file}");
    }
}

/// What templates say whose licences keep them out of this repository.
#[test]
fn words_of_other_templates_tell_their_format() {
    for (words, reasoning, tools) in [
        ("List of tools: <|tool_list_start|>[", "", "lfm2"),
        ("write your thoughts after 'Here is my thought process:'", "granite", ""),
        // Functionary's calls are JSON between such tags.
        ("<function=example>{\"a\": \"b\"}</function>", "", ""),
    ] {
        assert_eq!(OutputFormat::detect(words, None), format(reasoning, tools), "{words}");
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
