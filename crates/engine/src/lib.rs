//! The engine: one OS thread that owns the device, the weights and the cache.

pub mod architecture;
pub mod layers;
pub mod model;
pub mod request;
pub mod weights;
