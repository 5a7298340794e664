//! What each route is for: the part of the description that no type says.

use serde_json::{Value, json};

use super::operation::{Answer, MakeSchema, Operation, Parameter};
use super::schema::Schemas;
use crate::anthropic::models::{ModelInfo, ModelPage};
use crate::anthropic::request::MessagesRequest;
use crate::anthropic::response::Message;
use crate::openai::chat_request::ChatRequest;
use crate::openai::chat_response::{Chunk, Completion as Chat};
use crate::openai::completion_request::CompletionRequest;
use crate::openai::completion_response::Completion;
use crate::openai::embedding_request::EmbeddingFields;
use crate::openai::embedding_response::EmbeddingList;
use crate::openai::pooling_request::PoolingRequest;
use crate::openai::score_request::{self, RerankFields};
use crate::openai::score_response::{Ranking, ScoreList};
use crate::responses::object::ResponseObject;
use crate::responses::request::Fields as ResponseFields;
use crate::routes::messages::TokenCount;
use crate::routes::models::{ModelCard, ModelList};
use crate::routes::responses::InputTokens;
use crate::routes::tokenize::{DetokenizeFields, Detokenized, TokenizeFields, Tokenized};

const GENERATION: &str = "Generation";
const POOLING: &str = "Embeddings and scores";
const KEPT: &str = "Kept responses";
const MODELS: &str = "Models and tokens";
const SERVER: &str = "The server";

const RESPONSE: MakeSchema = |schemas| schemas.response::<ResponseObject<'_>>();
const QUESTION: fn() -> Value = || json!([{"role": "user", "content": "What is 17 + 25?"}]);

/// Every one, in the order of the page.
pub(super) fn operations() -> Vec<Operation> {
    [openai(), anthropic(), kept_responses(), pooling(), models_and_tokens(), probes(), reference()]
        .into_iter()
        .flatten()
        .collect()
}

fn openai() -> Vec<Operation> {
    let chat = Answer::Events {
        whole: |schemas| schemas.response::<Chat<'_>>(),
        event: |schemas| schemas.response::<Chunk<'_>>(),
    };
    let completion: MakeSchema = |schemas| schemas.response::<Completion<'_>>();
    let completion = Answer::Events { whole: completion, event: completion };
    let response = Answer::Events { whole: RESPONSE, event: typed };
    let input_tokens = Answer::Json(Schemas::response::<InputTokens>);
    vec![
        Operation::new("post", "/v1/chat/completions", GENERATION, chat)
            .says("Answer a conversation", "OpenAI's chat completions, with vLLM's fields.")
            .takes(
                ChatRequest::request_schema,
                || json!({"model": "MODEL", "messages": QUESTION()}),
            ),
        Operation::new("post", "/v1/completions", GENERATION, completion)
            .says("Go on with a text", "OpenAI's completions, of texts or of token ids.")
            .takes(
                CompletionRequest::request_schema,
                || json!({"model": "MODEL", "prompt": "One, two,", "max_tokens": 5}),
            ),
        Operation::new("post", "/v1/responses", GENERATION, response)
            .says(
                "Answer items, and keep the response",
                "OpenAI's responses. They are kept in memory for a while, unless `store` is false.",
            )
            .takes(
                ResponseFields::request_schema,
                || json!({"model": "MODEL", "input": "What is 17 + 25?"}),
            ),
        Operation::new("post", "/v1/responses/input_tokens", GENERATION, input_tokens)
            .says("Count the tokens of items", "Of the prompt; nothing is generated.")
            .takes(
                ResponseFields::request_schema,
                || json!({"model": "MODEL", "input": "What is 17 + 25?"}),
            ),
    ]
}

fn anthropic() -> Vec<Operation> {
    let message = Answer::Events {
        whole: |schemas| schemas.response::<Message<'_>>(),
        event: |schemas| json!({"allOf": [typed(schemas)]}),
    };
    let count = Answer::Json(Schemas::response::<TokenCount>);
    vec![
        Operation::new("post", "/v1/messages", GENERATION, message)
            .says("Answer a conversation, as Anthropic", "Anthropic's messages, in front of chat.")
            .takes(
                MessagesRequest::answer_schema,
                || json!({"model": "MODEL", "max_tokens": 100, "messages": QUESTION()}),
            ),
        Operation::new("post", "/v1/messages/count_tokens", GENERATION, count)
            .says("Count the tokens of a conversation", "Of the prompt; nothing is generated.")
            .takes(
                MessagesRequest::request_schema,
                || json!({"model": "MODEL", "messages": QUESTION()}),
            ),
    ]
}

/// An event that says its type.
fn typed(_: &mut Schemas) -> Value {
    json!({
        "type": "object", "required": ["type"], "properties": {"type": {"type": "string"}},
    })
}

fn pooling() -> Vec<Operation> {
    let vectors = Answer::Json(Schemas::response::<EmbeddingList>);
    let ranking = Answer::Json(Schemas::response::<Ranking>);
    let scores = Answer::Json(Schemas::response::<ScoreList>);
    let rerank = |path| {
        Operation::new("post", path, POOLING, ranking)
            .says("Order documents by a query", "The best first, in the shapes of Jina and Cohere.")
            .takes(PoolingRequest::<RerankFields>::request_schema, || {
                json!({"model": "MODEL", "query": "What is the capital of France?",
                       "documents": ["Paris is the capital of France.", "Bread is baked."]})
            })
    };
    let score = |path| {
        Operation::new("post", path, POOLING, scores)
            .says("Score pairs of texts", "vLLM's, by any of its pairs of names.")
            .takes(score_request::request_schema, || {
                json!({"model": "MODEL", "text_1": "What is baked?", "text_2": ["Bread.", "Iron."]})
            })
    };
    let mut all = vec![
        Operation::new("post", "/v1/embeddings", POOLING, vectors)
            .says("Turn texts into vectors", "OpenAI's embeddings, of texts or of token ids.")
            .takes(
                PoolingRequest::<EmbeddingFields>::request_schema,
                || json!({"model": "MODEL", "input": "A candle."}),
            ),
    ];
    all.extend(["/v1/rerank", "/v2/rerank", "/rerank"].map(rerank));
    all.extend(["/v1/score", "/score"].map(score));
    all
}

fn kept_responses() -> Vec<Operation> {
    let deleted = Answer::Json(|_| {
        json!({
            "type": "object",
            "required": ["id", "object", "deleted"],
            "properties": {
                "id": {"type": "string"},
                "object": {"const": "response"},
                "deleted": {"const": true},
            },
        })
    });
    let page = Answer::Json(|_| {
        json!({
            "type": "object",
            "required": ["object", "data", "first_id", "last_id", "has_more"],
            "properties": {
                "object": {"const": "list"},
                "data": {"type": "array", "items": {"type": "object"}},
                "first_id": {"type": "string"},
                "last_id": {"type": "string"},
                "has_more": {"type": "boolean"},
            },
        })
    });
    vec![
        Operation::new("get", "/v1/responses/{id}", KEPT, Answer::Json(RESPONSE))
            .says("Look a response up", "One that is kept, or at work and to be kept."),
        Operation::new("delete", "/v1/responses/{id}", KEPT, deleted)
            .says("Forget a response", "One at work is to be cancelled first."),
        Operation::new("post", "/v1/responses/{id}/cancel", KEPT, Answer::Json(RESPONSE))
            .says("Stop a response", "One that has ended is shown as it is."),
        Operation::new("get", "/v1/responses/{id}/input_items", KEPT, page)
            .says("List what a response answered", "The items of its request, in pages.")
            .with_query(INPUT_ITEMS),
    ]
}

const INPUT_ITEMS: &[Parameter] = &[
    Parameter {
        name: "limit",
        description: "Items of a page; 20 if not given.",
        schema: || json!({"type": "integer", "minimum": 1, "maximum": 100}),
    },
    Parameter {
        name: "order",
        description: "`desc`, the last first, if not given.",
        schema: || json!({"type": "string", "enum": ["asc", "desc"]}),
    },
    Parameter {
        name: "after",
        description: "The id of the item behind which the page begins.",
        schema: || json!({"type": "string"}),
    },
];

fn models_and_tokens() -> Vec<Operation> {
    let list = Answer::Json(Schemas::either::<ModelList, ModelPage>);
    let card = Answer::Json(Schemas::either::<ModelCard, ModelInfo>);
    let tokenized = Answer::Json(Schemas::response::<Tokenized>);
    let detokenized = Answer::Json(Schemas::response::<Detokenized>);
    let anthropics = "With the header `anthropic-version` in Anthropic's shape.";
    vec![
        Operation::new("get", "/v1/models", MODELS, list).says("List the models", anthropics),
        Operation::new("get", "/v1/models/{id}", MODELS, card).says("Show a model", anthropics),
        Operation::new("post", "/tokenize", MODELS, tokenized)
            .says("Turn text or messages into token ids", "Exactly as the generation routes do.")
            .takes(
                TokenizeFields::request_schema,
                || json!({"model": "MODEL", "prompt": "Hello!"}),
            ),
        Operation::new("post", "/detokenize", MODELS, detokenized)
            .says("Turn token ids into text", "Special tokens included.")
            .takes(
                DetokenizeFields::request_schema,
                || json!({"model": "MODEL", "tokens": [40, 41]}),
            ),
    ]
}

fn probes() -> Vec<Operation> {
    let status = Answer::Json(|_| object("status", "string"));
    let version = Answer::Json(|_| object("version", "string"));
    let load = Answer::Json(|_| object("server_load", "integer"));
    let index = Answer::Json(|_| object("name", "string"));
    vec![
        Operation::new("get", "/health", SERVER, status)
            .says("Whether the process is alive", "200 while a restart would not help.")
            .open(),
        Operation::new("get", "/ready", SERVER, status)
            .says(
                "Whether to send requests here",
                "200 when all models answer; 503 while draining.",
            )
            .open(),
        Operation::new("get", "/version", SERVER, version).says("The version", "Of this server."),
        Operation::new("get", "/load", SERVER, load)
            .says("How many requests are in flight", "On the routes that generate, as vLLM's."),
        Operation::new(
            "get",
            "/metrics",
            SERVER,
            Answer::Text(&["text/plain", "application/openmetrics-text"]),
        )
        .says("Counters and gauges", "In Prometheus' text format 0.0.4, or as OpenMetrics 1.0.0."),
        Operation::new("get", "/", SERVER, index).says("What this is", "And where to go on."),
    ]
}

/// An object of one field at least.
fn object(name: &str, kind: &str) -> Value {
    json!({"type": "object", "required": [name], "properties": {name: {"type": kind}}})
}

fn reference() -> Vec<Operation> {
    vec![
        Operation::new(
            "get",
            "/openapi.json",
            SERVER,
            Answer::Json(|_| object("openapi", "string")),
        )
        .says("This description, for programs", "OpenAPI 3.1.")
        .open(),
        Operation::new("get", "/docs", SERVER, Answer::Text(&["text/html"]))
            .says("This description, for people", "A page without scripts.")
            .open(),
    ]
}
