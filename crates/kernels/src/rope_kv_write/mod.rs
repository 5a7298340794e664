//! rope_kv_write
