//! Strings ↔ token ids, and strings → sentences. A leaf: it imports nothing of ours.

pub mod sentences;
mod tokenizer;
pub mod words;

pub use tokenizer::{Encoding, Tokenizer, TokenizerError};
