//! Anthropic's wire: `/v1/messages` as a translation onto chat. A request becomes a chat request,
//! the deltas of its answer become Anthropic's blocks and events; between the two there is the one
//! generation path of `/v1/chat/completions`.

pub(crate) mod block;
pub(crate) mod conversation;
pub(crate) mod errors;
pub(crate) mod models;
pub(crate) mod partial_json;
pub(crate) mod request;
pub(crate) mod response;
pub(crate) mod tools;
pub(crate) mod translate;
