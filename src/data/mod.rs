//! Labelled examples from files: jsonl, csv and tsv. A leaf: it imports nothing of ours.
//!
//! A file is read line by line. Every bad line is told with its number; nothing is skipped in silence. Columns (csv,
//! tsv) and fields (jsonl) have the names of [`Field::names`] unless [`Columns`] says otherwise; others are ignored.

mod columns;
mod line_numbers;
mod read;

use std::path::PathBuf;

pub use columns::{Columns, Field};
pub use read::{BadLine, Examples, column_names, open, read_examples, read_with, sample_with};

/// One example as it stands in a file.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Example {
    /// Where it begins in its file, from 1.
    pub line: u64,
    /// The text.
    pub text: String,
    /// The second text of a pair.
    pub text_pair: Option<String>,
    /// Its class.
    pub label: Option<Label>,
    /// Its classes, when there may be several; none when the file does not say.
    pub labels: Option<Vec<String>>,
    /// How likely each class is, in order of the file, when its single class is not sure; the sum is 1. Only training
    /// looks at it.
    pub probabilities: Vec<(String, f64)>,
    /// A number that people gave it.
    pub rating: Option<f64>,
    /// The numbers that single people gave it.
    pub ratings: Vec<f64>,
    /// A summary of the text that people wrote.
    pub summary: Option<String>,
    /// Where it comes from; scores are also told per source.
    pub source: Option<String>,
    /// What other programs made of it: the numbers in [`Columns::scores`], in that order.
    pub scores: Vec<f64>,
}

/// A class by name; numbers are taken as names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Label {
    /// `"positive"`.
    Name(String),
    /// `2`.
    Index(u64),
}

impl std::fmt::Display for Label {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Label::Name(name) => f.write_str(name),
            Label::Index(index) => write!(f, "{index}"),
        }
    }
}

/// Why a data file could not be read.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// The file cannot be opened or read.
    #[error("cannot read {path}", path = path.display())]
    Read { path: PathBuf, source: std::io::Error },
    /// The extension names no known format.
    #[error("{path}: unknown format; the name must end in .jsonl, .csv or .tsv", path = path.display())]
    Format { path: PathBuf },
    /// It begins with the byte order mark of UTF-16.
    #[error("{path}: is UTF-16 by its first bytes, expected UTF-8; save it as UTF-8 (from a spreadsheet as \"CSV UTF-8\"), or \
             convert it: iconv -f UTF-16 -t UTF-8 OLD > NEW", path = path.display())]
    Utf16 { path: PathBuf },
    /// A column that was asked for, or the text, is not there.
    #[error("{path}: no column {wanted}; found {}; {}", .found.join(", "), columns::hint(.found), path = path.display())]
    Column { path: PathBuf, wanted: String, found: Vec<String> },
    /// Some lines are not examples.
    #[error("{path}: {count} bad {}:\n  {}", if *.count == 1 { "line" } else { "lines" }, .first.join("\n  "), path = path.display())]
    Lines { path: PathBuf, count: usize, first: Vec<String> },
    /// There is not a single example.
    #[error("{path}: no examples; expected one per line", path = path.display())]
    NoExamples { path: PathBuf },
}

#[cfg(test)]
mod tests;
