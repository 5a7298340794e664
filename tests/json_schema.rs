//! The JSON-Schema-Test-Suite: what a schema forbids cannot come out of a request that it constrains.
//!
//! Every schema of the suite is sent to a server in this process, whose engine runs a small model of
//! random weights: the text that comes out is as wild as the grammar lets it be. And every instance
//! of the suite is fed to the grammar, which must not let an invalid one pass.
//! `json_schema/README.md` says where the suite is from.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fmt::Write as _;
use std::fs;
use std::sync::{Arc, OnceLock};

use axum::body::Body;
use axum::http::{Method, Request, StatusCode};
use candle_core::{DType, Device};
use engine::architecture::Architecture;
use engine::weights::Weights;
use engine::{Engine, EngineConfig, EngineOptions, MemoryPlan};
use futures_util::{StreamExt, stream};
use http_body_util::BodyExt;
use jsonschema::Validator;
use models::spark;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use server::{App, ServedModel, ServerConfig};
use tests::root;
use text::{Grammar, Matcher, TextFiles, TextModel};
use tower::ServiceExt;

const MAX_TOKENS: usize = 80;
/// Requests that run at the same time.
const TOGETHER: usize = 8;

/// A schema of the suite.
#[derive(Deserialize)]
struct Case {
    file: String,
    description: String,
    schema: Value,
    /// Instances and whether they are valid.
    tests: Vec<(Value, bool)>,
}

impl Case {
    fn name(&self) -> String {
        format!("{}: {}", self.file, self.description)
    }
}

fn cases(draft: &str) -> Vec<Case> {
    let path = root().join(format!("tests/json_schema/{draft}.jsonl"));
    let text = fs::read_to_string(path).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn text_model() -> Arc<TextModel> {
    static MODEL: OnceLock<Arc<TextModel>> = OnceLock::new();
    let load = || {
        let files = TextFiles {
            tokenizer: spark::TOKENIZER.to_vec(),
            tokenizer_config: Some(spark::TOKENIZER_CONFIG.to_vec()),
            config: Some(spark::CONFIG.to_vec()),
            ..TextFiles::default()
        };
        Arc::new(TextModel::from_files(&files).unwrap())
    };
    Arc::clone(MODEL.get_or_init(load))
}

/// A server with the embedded model's tokenizer and a tiny model of random weights.
fn serve() -> App {
    let mut config: Value = serde_json::from_slice(spark::CONFIG).unwrap();
    let small = json!({"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1,
                       "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16,
                       "max_window_layers": 1});
    config.as_object_mut().unwrap().extend(small.as_object().unwrap().clone());
    let row = Architecture::find(models::registry(), &config).unwrap();
    let spec = (row.spec)(&config).unwrap();
    let options = EngineOptions {
        dtype: Some(DType::F32),
        max_model_len: Some(128),
        max_num_queued_reqs: Some(100_000),
        num_gpu_blocks_override: Some(1024),
        ..EngineOptions::default()
    };
    let resolved = EngineConfig::resolve(&options, &spec).unwrap();
    let plan = MemoryPlan::compute(&spec, &resolved, 1 << 30);
    let mut weights = Weights::dummy(1, &Device::Cpu, DType::F32).unwrap();
    let model = (row.load)(&config, &mut weights, resolved.max_model_len).unwrap();
    let text = text_model();
    let engine = Engine::start(model, &spec, &plan, &Device::Cpu, text.eos_token_ids()).unwrap();
    let app = App::new(ServerConfig::default());
    app.set_model(ServedModel::new(vec!["tiny".into()], Arc::new(engine), text));
    app
}

async fn post(app: &App, body: &Value) -> (StatusCode, Value) {
    let request = Request::builder().method(Method::POST).uri("/v1/completions");
    let request = request.header("content-type", "application/json");
    let request = request.body(Body::from(body.to_string())).unwrap();
    let response = app.router().oneshot(request).await.unwrap();
    let status = response.status();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    (status, serde_json::from_slice(&body).unwrap())
}

/// A bias towards the tokens that bring JSON to an end, for texts of unbounded length to have one.
fn ends() -> Value {
    let text = text_model();
    let tokenizer = text.tokenizer();
    let short = ["\"", "]", "}", "\":", "\","].iter().filter_map(|text| tokenizer.token_id(text));
    let ids = short.chain(text.eos_token_ids().iter().copied());
    ids.map(|id| (id.to_string(), json!(9))).collect::<Map<_, _>>().into()
}

/// How the answers to a schema came out.
#[derive(Debug, Default)]
struct Outcome {
    /// Why the server would not follow the schema.
    refusal: Option<String>,
    finished: usize,
    unfinished: usize,
    violations: Vec<String>,
}

async fn generate(app: &App, case: &Case) -> Outcome {
    let mut outcome = Outcome::default();
    for (n, bias) in [(24, ends()), (8, json!({}))] {
        let body = json!({
            "prompt": "hello", "max_tokens": MAX_TOKENS, "temperature": 1.5, "seed": 5, "n": n,
            "logit_bias": bias, "structured_outputs": {"json": case.schema},
        });
        let (status, answer) = post(app, &body).await;
        if status == 400 {
            assert_eq!(answer["error"]["param"], "structured_outputs.json");
            let message = answer["error"]["message"].as_str().unwrap();
            let reason = message.split_once("cannot be used to constrain: ").unwrap().1;
            outcome.refusal = Some(reason.to_owned());
            return outcome;
        }
        if status != 200 {
            outcome.violations.push(format!("{}: {answer}", case.name()));
            continue;
        }
        let validator = validator(&case.schema);
        for choice in answer["choices"].as_array().unwrap() {
            let text = choice["text"].as_str().unwrap();
            match choice["finish_reason"].as_str().unwrap() {
                "stop" => {
                    outcome.finished += 1;
                    if let Err(error) = check(&validator, text) {
                        outcome.violations.push(format!("{}: {text}: {error}", case.name()));
                    }
                }
                "length" => outcome.unfinished += 1,
                reason => outcome.violations.push(format!("{}: {reason}", case.name())),
            }
        }
        assert_eq!(answer["choices"].as_array().unwrap().len(), n);
    }
    outcome
}

fn validator(schema: &Value) -> Validator {
    // Annotations, to both drafts and to us; the crate checks them in draft 7.
    let options = jsonschema::options().without_content_media_type_support("application/json");
    let options = options.without_content_encoding_support("base64");
    options.should_validate_formats(true).build(schema).unwrap()
}

fn check(validator: &Validator, text: &str) -> Result<(), String> {
    match serde_json::from_str(text) {
        Ok(value) => validator.validate(&value).map_err(|error| error.to_string()),
        // 1e999 is JSON.
        Err(error) if error.to_string().contains("out of range") => Ok(()),
        Err(error) => Err(error.to_string()),
    }
}

/// Whether the grammar lets `text` pass as a whole answer.
fn passes(mut matcher: Matcher, text: &str) -> bool {
    let model = text_model();
    let tokenizer = model.tokenizer();
    for id in tokenizer.encode(text, false).unwrap() {
        if matcher.accept(id).is_err() {
            return false;
        }
    }
    let mut mask = vec![0; tokenizer.vocab_size().div_ceil(32)];
    matcher.fill_mask(&mut mask).unwrap();
    model.eos_token_ids().iter().any(|&id| mask[id as usize / 32] >> (id % 32) & 1 == 1)
}

/// The same JSON with every character of its strings written as an escape.
fn escaped(value: &Value) -> String {
    let string = |text: &str| {
        let units = text.encode_utf16();
        let escapes = units.fold(String::new(), |mut all, unit| {
            write!(all, "\\u{unit:04x}").unwrap();
            all
        });
        format!("\"{escapes}\"")
    };
    match value {
        Value::String(text) => string(text),
        Value::Array(items) => {
            format!("[{}]", items.iter().map(escaped).collect::<Vec<_>>().join(","))
        }
        Value::Object(fields) => {
            let field =
                |(key, value): (&String, &Value)| format!("{}:{}", string(key), escaped(value));
            format!("{{{}}}", fields.iter().map(field).collect::<Vec<_>>().join(","))
        }
        value => value.to_string(),
    }
}

/// The drafts that schemas say they are of, and what the suite is silent about.
fn sets() -> Vec<(&'static str, Vec<Case>)> {
    let drafts = ["draft2020-12", "draft2019-09", "draft7", "draft6", "draft4"];
    let drafts = drafts.map(|draft| (draft, cases(draft)));
    drafts.into_iter().chain([("further", further())]).collect()
}

/// What the suite is silent about.
fn further() -> Vec<Case> {
    let schemas = [
        json!({"minProperties": 1, "additionalProperties": {"type": "integer"}, "type": "object"}),
        json!({"type": "object", "required": ["a", "b"], "minProperties": 3, "maxProperties": 4}),
        json!({"type": "object", "patternProperties": {"^a\\d$": {"type": "null"}}, "additionalProperties": false}),
        json!({"type": "object", "properties": {"a\"\n\\": {"type": "null"}, "é\u{7f}": {"type": "null"}},
               "additionalProperties": {"type": "boolean"}}),
        json!({"type": "string", "pattern": "^.{2}$"}),
        json!({"type": "string", "pattern": "^[\\w.+-]+@[^\\s@]+\\.[a-z]{2,3}$"}),
        json!({"type": "string", "pattern": "^[[&~]\\s[^\\S]$"}),
        json!({"type": "string", "pattern": "^[^\\D]\\D$"}),
        json!({"type": "string", "pattern": "^a|b$", "maxLength": 3}),
        json!({"type": "string", "pattern": "^(?:\\+\\d{1,3} )?\\d{3}-\\d{4}$"}),
        json!({"type": "string", "pattern": "a", "format": "uuid"}),
        json!({"type": "string", "pattern": "^2", "format": "date"}),
        json!({"type": "string", "minLength": 2, "maxLength": 4}),
        json!({"type": "array", "items": {"type": "string", "format": "date-time"}, "minItems": 2}),
        json!({"type": "array", "prefixItems": [{"const": 1}, {"enum": ["a", null]}], "items": false, "minItems": 1}),
        json!({"type": "number", "minimum": -1.5, "exclusiveMaximum": 0.25}),
        json!({"type": "number", "multipleOf": 0.01, "minimum": 0, "maximum": 10}),
        json!({"type": "integer", "minimum": -17, "maximum": 123_456, "multipleOf": 7}),
        json!({"type": "number", "exclusiveMinimum": 1e-7, "maximum": 1e-6}),
        json!({"const": 0.1}),
        json!({"enum": [1e300, -0.0, 9_007_199_254_740_992_u64, -2.5]}),
        json!({"oneOf": [{"type": "string"}, {"type": "integer"}]}),
        json!({"anyOf": [{"$ref": "#/$defs/tree"}, {"type": "null"}], "$defs": {"tree": {
            "type": "object", "properties": {"v": {"type": "integer"}, "next": {"$ref": "#"}},
            "required": ["v", "next"], "additionalProperties": false}}}),
        json!({"allOf": [{"properties": {"a": {"minimum": 3}}}, {"patternProperties": {"^a": {"type": "integer"}}}],
               "required": ["a"], "type": "object"}),
        json!({"const": 9_007_199_254_740_993_u64}),
        json!({"maximum": 9_007_199_254_740_993_u64}),
        json!({"enum": ["a\u{1}"]}),
        json!({"type": "object", "minProperties": 2}),
        json!({"pattern": "^\\Aa"}),
        json!({"pattern": "a\\vb"}),
        json!({"pattern": "(?s)a"}),
        json!({"pattern": "[a--z]"}),
        json!({"format": "ipv4"}),
        json!({"format": "ipv6", "type": "string"}),
        json!({"format": "duration", "type": "string"}),
        json!({"format": "hostname", "type": "string"}),
        json!({"format": "email", "type": "string"}),
        json!({"format": "uri", "type": "string"}),
        json!({"format": "time", "type": "string"}),
        json!({"format": "date", "type": "string"}),
    ];
    let case = |schema: Value| Case {
        file: "further".to_owned(),
        description: schema.to_string(),
        schema,
        tests: Vec::new(),
    };
    schemas.into_iter().map(case).collect()
}

#[test]
fn what_comes_out_follows_its_schema() {
    let app = serve();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let mut refused = String::new();
    let (mut finished, mut unfinished) = (0, 0);
    let mut violations = Vec::new();
    for (set, cases) in sets() {
        let outcomes = stream::iter(&cases).map(|case| generate(&app, case)).buffered(TOGETHER);
        let outcomes: Vec<Outcome> = runtime.block_on(outcomes.collect());
        let count = outcomes.iter().filter(|outcome| outcome.refusal.is_some()).count();
        writeln!(refused, "{set}: {count} of {} schemas are refused", cases.len()).unwrap();
        for (case, outcome) in cases.iter().zip(outcomes) {
            finished += outcome.finished;
            unfinished += outcome.unfinished;
            violations.extend(outcome.violations);
            match outcome.refusal {
                Some(reason) => writeln!(refused, "  {}: {reason}", case.name()).unwrap(),
                None => assert!(outcome.finished + outcome.unfinished > 0, "{}", case.name()),
            }
        }
    }
    assert!(violations.is_empty(), "{}", violations.join("\n"));
    assert!(finished > 8 * unfinished, "{finished} answers finished, {unfinished} did not");
    insta::assert_snapshot!("refused_schemas", refused);
}

#[test]
fn no_invalid_instance_passes() {
    let (mut passing, mut violations) = (String::new(), Vec::new());
    for (set, cases) in sets().into_iter().filter(|(set, _)| *set != "further") {
        let (mut num_valid, mut num_passed, mut num_invalid) = (0, 0, 0);
        for case in &cases {
            let grammar = Grammar::JsonSchema(case.schema.clone());
            let Ok(matcher) = text_model().grammars().compile(&grammar) else { continue };
            for (instance, valid) in &case.tests {
                let spellings = [instance.to_string(), escaped(instance)];
                let passed = spellings.each_ref().map(|text| passes(matcher.fork(), text));
                if *valid {
                    num_valid += 1;
                    num_passed += usize::from(passed[0]);
                } else if case.file != "optional/content" {
                    num_invalid += 1;
                    let passed = spellings.iter().zip(passed).filter(|(_, passed)| *passed);
                    violations.extend(passed.map(|(text, _)| format!("{}: {text}", case.name())));
                }
            }
        }
        writeln!(
            passing,
            "{set}: {num_passed} of {num_valid} valid and 0 of {num_invalid} invalid instances pass"
        )
        .unwrap();
    }
    assert!(violations.is_empty(), "{}", violations.join("\n"));
    insta::assert_snapshot!("passing_instances", passing);
}
