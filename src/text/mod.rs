//! Strings ↔ token ids, and strings → sentences. A leaf: it imports nothing of ours.

mod tokenizer;

pub use tokenizer::{Encoding, Tokenizer, TokenizerError};
