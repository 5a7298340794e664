//! gated_activation
