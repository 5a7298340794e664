//! The OpenAI wire: what requests may say and how responses look. Only this crate serialises.

pub(crate) mod body;
pub(crate) mod chat_request;
pub(crate) mod chat_response;
pub(crate) mod completion_request;
pub(crate) mod completion_response;
pub(crate) mod embedding_request;
pub(crate) mod embedding_response;
pub(crate) mod field_names;
pub(crate) mod message;
pub(crate) mod pooling_request;
pub(crate) mod prompt;
pub(crate) mod refused;
pub(crate) mod request_fields;
pub(crate) mod response;
pub(crate) mod sampling_fields;
pub(crate) mod score_request;
pub(crate) mod score_response;
pub(crate) mod structured_fields;
pub(crate) mod tool_fields;
