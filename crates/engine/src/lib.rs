//! The engine: one OS thread that owns the device, the weights and the cache.

pub mod architecture;
mod backlog;
mod batch;
pub mod ceilings;
pub mod config;
pub mod device;
pub mod encoder;
pub mod engine;
mod graphs;
mod handle;
mod host_memory;
mod kv_cache;
pub mod layers;
mod limits;
pub mod memory;
mod memory_shares;
pub mod model;
mod pooling;
mod precision;
mod ranks;
mod recovery;
pub mod request;
mod resident;
mod runner;
mod sampler;
mod sequence;
mod speculation;
mod start;
mod stats;
mod steering;
mod step;
#[cfg(test)]
mod testing;
pub mod weights;

pub use config::{EngineConfig, EngineOptions, Megakernel, OptionError};
pub use engine::Engine;
pub use handle::EngineHandle;
pub use kernels::{CpuIsa, instructions};
pub use memory::MemoryPlan;
pub use memory_shares::share_memory;
pub use pooling::Pooling;
pub use precision::Quantization;
pub use ranks::{Models, Rank};
pub use recovery::Reload;
pub use request::{
    Constraint, EngineError, Event, FinishReason, Request, SamplingParams, Sink, TokenLogprobs,
};
pub use scheduler::{SeqId, Share};
pub use start::StartError;
pub use stats::{EngineStats, MAX_DRAFT_PLACES, STEP_TOKEN_BOUNDS};
