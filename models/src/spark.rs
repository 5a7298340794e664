//! spark, the chat model inside the program; `models/spark/README.md` is its model card.

/// config.json
pub const CONFIG: &[u8] = include_bytes!("../spark/config.json");
/// generation_config.json
pub const GENERATION_CONFIG: &[u8] = include_bytes!("../spark/generation_config.json");
/// tokenizer.json
pub const TOKENIZER: &[u8] = include_bytes!("../spark/tokenizer.json");
/// tokenizer_config.json
pub const TOKENIZER_CONFIG: &[u8] = include_bytes!("../spark/tokenizer_config.json");
/// model.safetensors
pub const WEIGHTS: &[u8] = include_bytes!("../spark/model.safetensors");
