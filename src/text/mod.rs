//! Strings ↔ token ids, and strings → sentences. A leaf: it imports nothing of ours.

pub mod sentences;
mod tokenizer;
mod wordpiece;
pub mod words;

pub use tokenizer::{Encoding, Tokenizer, TokenizerError};
