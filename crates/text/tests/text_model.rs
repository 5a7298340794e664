//! Loading and bad input: what is missing, corrupt, broken or hostile gives a clear error.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use text::{ChatInput, OutputFormat, SpecialTokens, TextError, TextFiles, TextModel, Tokenizer};

fn goldens() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/goldens")
}

fn files() -> TextFiles {
    TextFiles::read(&goldens().join("tokenizers/qwen")).unwrap()
}

fn with_template(template: &str) -> Result<TextModel, TextError> {
    TextModel::from_files(&TextFiles { chat_template: Some(template.to_owned()), ..files() })
}

fn chat(content: &str) -> ChatInput {
    ChatInput::new(vec![json!({"role": "user", "content": content})])
}

fn render_error(template: &str) -> String {
    with_template(template).unwrap().render_chat(&chat("hi")).unwrap_err().to_string()
}

#[test]
fn a_folder_without_a_tokenizer_says_what_to_do() {
    let error = TextModel::load(Path::new("/nonexistent/model")).unwrap_err().to_string();
    assert!(error.starts_with("tokenizer.json not found in /nonexistent/model: "), "{error}");
    assert!(error.contains("save_pretrained"), "{error}");
}

#[test]
fn corrupt_files_are_named() {
    let load = |files: TextFiles| TextModel::from_files(&files).unwrap_err().to_string();
    let error = load(TextFiles { tokenizer: b"{\"version\": ".to_vec(), ..files() });
    assert!(error.starts_with("tokenizer.json is invalid: "), "{error}");
    let error = load(TextFiles { tokenizer_config: Some(b"[".to_vec()), ..files() });
    assert!(error.starts_with("tokenizer_config.json is invalid: "), "{error}");
    let error = load(TextFiles { generation_config: Some(b"{\"top_p\": 3}".to_vec()), ..files() });
    assert!(error.starts_with("generation_config.json: top_p is invalid: got 3"), "{error}");
}

#[test]
fn a_model_without_a_template_says_so() {
    let model = TextModel::from_files(&files()).unwrap();
    assert_eq!(model.templates().names().count(), 0);
    let error = model.render_chat(&chat("hi")).unwrap_err();
    assert!(matches!(error, TextError::NoChatTemplate));
    assert!(error.to_string().contains("--chat-template"));
}

#[test]
fn a_broken_template_is_refused_at_load_with_its_line() {
    let error = with_template("{{ messages }}\n{% if x %}\n{{ y }").unwrap_err();
    assert!(matches!(error, TextError::TemplateSyntax { line: 3, .. }), "{error:?}");
    assert!(
        error.to_string().starts_with("chat template \"default\" is broken at line 3: "),
        "{error}"
    );
}

#[test]
fn a_template_that_fails_says_where() {
    let error = render_error("a\n{{ messages[0].content.nosuch() }}");
    assert!(error.starts_with("chat template \"default\" failed at line 2: "), "{error}");
    let error = render_error("{{ raise_exception('system role not supported') }}");
    assert_eq!(error, "the chat template refused the messages: system role not supported");
}

#[test]
fn template_bombs_end_in_a_clear_error() {
    let bombs = [
        "{% for a in range(100000) %}{% for b in range(100000) %}{% for c in range(99999) %}x{% endfor %}{% endfor %}{% endfor %}",
        "{% set ns = namespace(x='ab') %}{% for a in range(100) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}{{ ns.x }}",
        "{% set ns = namespace(x=[1]) %}{% for a in range(100) %}{% set ns.x = [ns.x, ns.x] %}{% endfor %}{{ ns.x | tojson }}",
        "{% set ns = namespace(x=[1]) %}{% for a in range(90) %}{% set ns.x = [ns.x, ns.x] %}{% endfor %}{{ ns.x }}",
        "{{ 'x' * 1000000000000 }}",
        "{{ 'x'.ljust(1000000000000) }}",
        "{{ 'x' | indent(1000000000000) | length }}{{ ('x' * 1000000) | replace('x', 'y' * 1000000) }}",
        "{% for a in range(100000) %}{{ 'x' * 1000 }}{% endfor %}",
        "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
        "{% set x = [] %}{% for i in range(50000) %}{% set x = x + [i] %}{% endfor %}{% set ns = namespace(x=[]) %}{% for i in range(100000) %}{% set ns.x = ns.x + [i] %}{% endfor %}",
        "{% set ns = namespace(x=[]) %}{% for i in range(1000) %}{% set ns.x = [ns.x] %}{% endfor %}{{ ns.x }}",
    ];
    for bomb in bombs {
        let error = with_template(bomb).unwrap().render_chat(&chat("hi")).unwrap_err();
        let limited =
            matches!(error, TextError::TemplateLimit { .. } | TextError::TemplateFailed { .. });
        assert!(limited, "{bomb}: {error}");
    }
}

#[test]
fn long_chats_render() {
    let template = std::fs::read_to_string(goldens().join("chat/qwen3.jinja")).unwrap();
    let model = with_template(&template).unwrap();
    let turn = |index: usize| {
        let role = if index.is_multiple_of(2) { "user" } else { "assistant" };
        json!({"role": role, "content": format!("message {index} ").repeat(20)})
    };
    let text = model.render_chat(&ChatInput::new((0..3001).map(turn).collect())).unwrap();
    assert_eq!(text.matches("<|im_start|>").count(), 3002);
    let long = "word ".repeat(1_000_000);
    assert!(model.render_chat(&chat(&long)).unwrap().contains(&long));
}

#[test]
fn templates_are_chosen_by_name_and_by_tools() {
    let config = json!({"chat_template": [
        {"name": "default", "template": "plain"}, {"name": "tool_use", "template": "tools"},
        {"name": "rag", "template": "rag"}]});
    let model = TextModel::from_files(&TextFiles {
        tokenizer_config: Some(config.to_string().into_bytes()),
        ..files()
    })
    .unwrap();
    assert_eq!(model.templates().names().collect::<Vec<_>>(), ["default", "rag", "tool_use"]);
    let render = |input: &ChatInput| model.render_chat(input);
    assert_eq!(render(&chat("hi")).unwrap(), "plain");
    let with_tools = ChatInput { tools: Some(vec![json!({})]), ..chat("hi") };
    assert_eq!(render(&with_tools).unwrap(), "tools");
    let named = |name: &str| ChatInput { chat_template: Some(name.to_owned()), ..chat("hi") };
    assert_eq!(render(&named("rag")).unwrap(), "rag");
    assert_eq!(render(&named("{{ messages[0].content }}!")).unwrap(), "hi!");
    let error = render(&named("nope")).unwrap_err().to_string();
    assert_eq!(error, "chat_template \"nope\" is not known: the model has default, rag, tool_use");
    let error = render(&named("{% if %}")).unwrap_err();
    assert!(matches!(error, TextError::TemplateSyntax { line: 1, .. }), "{error}");
}

#[test]
fn an_override_replaces_the_models_templates() {
    let mut files = files();
    files.chat_template = Some("model".to_owned());
    files.override_chat_template("{{ 'text' }}").unwrap();
    let render = |files: &TextFiles| TextModel::from_files(files).unwrap().render_chat(&chat("hi"));
    assert_eq!(render(&files).unwrap(), "text");
    let path = goldens().join("chat/chatml.jinja");
    files.override_chat_template(path.to_str().unwrap()).unwrap();
    assert!(render(&files).unwrap().starts_with("<|im_start|>user\nhi"));
    let error = files.override_chat_template("/nonexistent.jinja").unwrap_err().to_string();
    assert!(error.starts_with("cannot read /nonexistent.jinja: "), "{error}");
}

#[test]
fn content_reaches_templates_in_the_form_they_read() {
    let parts = json!([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]);
    let input = ChatInput::new(vec![json!({"role": "user", "content": parts})]);
    let strings = with_template("{{ messages[0].content }}").unwrap();
    assert_eq!(strings.render_chat(&input).unwrap(), "a\nb");
    let lists = "{% for part in messages[0].content %}[{{ part.text }}]{% endfor %}";
    let lists = with_template(lists).unwrap();
    assert_eq!(lists.render_chat(&input).unwrap(), "[a][b]");
    assert_eq!(lists.render_chat(&chat("one")).unwrap(), "[one]");
}

#[test]
fn impossible_requests_are_refused_by_field() {
    let model = with_template("{{ messages[0].content }}").unwrap();
    let error = |input: &ChatInput| model.render_chat(input).unwrap_err().to_string();
    assert_eq!(error(&ChatInput::new(Vec::new())), "messages must not be empty");
    assert_eq!(error(&ChatInput::new(vec![json!("hi")])), "messages[0] must be an object");
    let kwargs = json!({"messages": []}).as_object().unwrap().clone();
    let input = ChatInput { kwargs, ..chat("hi") };
    assert!(error(&input).starts_with("chat_template_kwargs.messages is not allowed"));
    let input = ChatInput { continue_final_message: true, ..chat("hi") };
    assert!(error(&input).starts_with("continue_final_message and add_generation_prompt"));
    let open = |message: Value| ChatInput {
        continue_final_message: true,
        add_generation_prompt: false,
        ..ChatInput::new(vec![message])
    };
    let input = open(json!({"role": "assistant", "content": null}));
    assert_eq!(
        error(&input),
        "continue_final_message: the final message has no content to continue"
    );
    let dropping = with_template("{{ 'content' }}").unwrap();
    let input = open(json!({"role": "assistant", "content": "x y"}));
    let error = dropping.render_chat(&input).unwrap_err().to_string();
    assert!(error.starts_with("continue_final_message: the chat template drops"), "{error}");
}

#[test]
fn tokenizers_differ_where_an_id_means_something_else() {
    let load = |name: &str, change: fn(&mut Value)| {
        let path = format!(
            "{}/tests/goldens/tokenizers/{name}/tokenizer.json",
            env!("CARGO_MANIFEST_DIR")
        );
        let mut json = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        change(&mut json);
        Tokenizer::from_bytes(json.to_string().as_bytes(), SpecialTokens::default()).unwrap()
    };
    let qwen = load("qwen", |_| {});
    assert_eq!(qwen.first_difference(&load("qwen", |_| {})), None);
    let swapped = load("qwen", |json| {
        let vocab = json["model"]["vocab"].as_object_mut().unwrap();
        let (a, b) = (vocab["a"].clone(), vocab["b"].clone());
        (vocab["a"], vocab["b"]) = (b, a);
    });
    let first = qwen.token_id("a").min(qwen.token_id("b"));
    assert_eq!(qwen.first_difference(&swapped), first);
    let shorter = load("qwen", |json| {
        json["added_tokens"].as_array_mut().unwrap().pop();
    });
    assert_eq!(shorter.first_difference(&qwen), Some(shorter.vocab_size() as u32));
    assert_eq!(qwen.first_difference(&shorter), Some(shorter.vocab_size() as u32));
}

#[test]
fn many_threads_encode_alike() {
    let model = TextModel::from_files(&files()).unwrap();
    let text = "The quick brown fox, 日本語 😀 <|im_end|> ".repeat(50);
    let expected = model.encode(&text, false).unwrap();
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for _ in 0..20 {
                    assert_eq!(model.encode(&text, false).unwrap(), expected);
                }
            });
        }
    });
}

#[test]
fn a_text_beyond_the_limit_is_refused() {
    let model = TextModel::from_files(&files()).unwrap();
    let error = model.encode(&" ".repeat((16 << 20) + 1), false).unwrap_err();
    assert!(matches!(error, TextError::TextTooLong { .. }), "{error}");
}

#[test]
fn marks_are_shown_to_an_answer_that_continues_its_prompt_too() {
    let special = |content: &str| {
        json!({"id": 0, "content": content, "special": true,
        "single_word": false, "lstrip": false, "rstrip": false, "normalized": false})
    };
    let mut tokenizer: Value = serde_json::from_slice(&files().tokenizer).unwrap();
    let added = tokenizer["added_tokens"].as_array_mut().unwrap();
    let first_free = added.iter().map(|token| token["id"].as_u64().unwrap()).max().unwrap() + 1;
    for (number, content) in ["[THINK]", "[/THINK]"].into_iter().enumerate() {
        let mut token = special(content);
        token["id"] = json!(first_free + number as u64);
        added.push(token);
    }
    let tokenizer = tokenizer.to_string().into_bytes();
    let mut model = TextModel::from_files(&TextFiles { tokenizer, ..files() }).unwrap();
    model.set_output_format(OutputFormat::detect("[THINK]", None));
    let closing = model.tokenizer().token_id("[/THINK]").unwrap();
    let prompt = model.encode("a [THINK]b", false).unwrap();
    for continued in [&[], &*prompt] {
        assert_eq!(model.output_detokenizer(true, continued).push(closing), "[/THINK]");
    }
    assert_eq!(model.detokenizer(true, &prompt).push(closing), "");
}

#[test]
fn templates_can_be_read_again_and_a_broken_one_is_refused() {
    let model = with_template("old {{ messages[0].content }}").unwrap();
    let changed = |template: &str| {
        let files = TextFiles { chat_template: Some(template.to_owned()), ..files() };
        model.with_templates_of(&files)
    };
    let new = changed("new {{ messages[0].content }}<think></think>").unwrap();
    assert_eq!(new.render_chat(&chat("hi")).unwrap(), "new hi<think></think>");
    assert_eq!(new.encode("a b", true).unwrap(), model.encode("a b", true).unwrap());
    assert!(model.output_format().reasoning.is_none());
    assert!(new.output_format().reasoning.is_some(), "the new one thinks");
    assert_eq!(model.render_chat(&chat("hi")).unwrap(), "old hi", "it is as it was");
    assert!(changed("{% if %}").is_err());
}
