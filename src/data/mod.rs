//! Labelled examples from files: jsonl, csv and tsv. A leaf: it imports nothing of ours.
//!
//! Columns (or JSON fields): `text`, and optionally `text_pair`, `label`, `labels` (several, for multi-label), `rating`
//! (a number) and `source`. Other fields are ignored. Every bad line is reported with its number; nothing is skipped
//! in silence.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

use serde::Deserialize;

/// One example as it stands in a file.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub struct Example {
    /// The text.
    #[serde(alias = "sentence", alias = "input")]
    pub text: String,
    /// The second text of a pair.
    #[serde(default)]
    pub text_pair: Option<String>,
    /// Its class.
    #[serde(default)]
    pub label: Option<Label>,
    /// Its classes, when there may be several.
    #[serde(default)]
    pub labels: Vec<String>,
    /// A number that people gave it.
    #[serde(default, alias = "score")]
    pub rating: Option<f64>,
    /// Where it comes from; scores are also told per source.
    #[serde(default)]
    pub source: Option<String>,
}

/// A class by name; numbers are taken as names.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
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
    #[error("cannot read {path}: {source}")]
    Read { path: PathBuf, source: std::io::Error },
    /// The extension names no known format.
    #[error("{path}: unknown format; the name must end in .jsonl, .csv or .tsv")]
    Format { path: PathBuf },
    /// Some lines are not examples.
    #[error("{path}: {count} bad {}; the first: {first}", if *.count == 1 { "line" } else { "lines" })]
    Lines { path: PathBuf, count: usize, first: String },
    /// There is not a single example.
    #[error("{path}: no examples; expected one per line")]
    NoExamples { path: PathBuf },
}

/// Reads every example of a file; the format follows the extension (`.jsonl`, `.csv`, `.tsv`).
///
/// # Errors
/// [`DataError`], naming the first bad line and counting the others.
pub fn read_examples(path: &Path) -> Result<Vec<Example>, DataError> {
    let open = || File::open(path).map_err(|source| DataError::Read { path: path.to_path_buf(), source });
    let lines = match path.extension().and_then(|e| e.to_str()) {
        Some("jsonl") => read_jsonl(open()?),
        Some("csv") => read_separated(open()?, b','),
        Some("tsv") => read_separated(open()?, b'\t'),
        _ => return Err(DataError::Format { path: path.to_path_buf() }),
    };
    let (mut examples, mut bad) = (Vec::new(), Vec::new());
    for (number, line) in lines {
        match line {
            Ok(example) if example.text.trim().is_empty() => bad.push(format!("line {number}: \"text\" is empty")),
            Ok(example) => examples.push(example),
            Err(reason) => bad.push(format!("line {number}: {reason}")),
        }
    }
    if let Some(first) = bad.first() {
        return Err(DataError::Lines { path: path.to_path_buf(), count: bad.len(), first: first.clone() });
    }
    if examples.is_empty() {
        return Err(DataError::NoExamples { path: path.to_path_buf() });
    }
    Ok(examples)
}

type Line = (u64, Result<Example, String>);

fn read_jsonl(file: File) -> Vec<Line> {
    let lines = BufReader::new(file).lines().zip(1..);
    lines
        .filter(|(line, _)| !matches!(line, Ok(l) if l.trim().is_empty()))
        .map(|(line, number)| {
            let line = line.map_err(|e| e.to_string());
            (number, line.and_then(|l| serde_json::from_str(&l).map_err(|e| e.to_string())))
        })
        .collect()
}

fn read_separated(file: File, delimiter: u8) -> Vec<Line> {
    // A tab-separated file has no quoting: a quote is an ordinary character there.
    let mut reader = csv::ReaderBuilder::new().delimiter(delimiter).quoting(delimiter == b',').from_reader(file);
    let headers = match reader.headers() {
        Ok(headers) => headers.clone(),
        Err(e) => return vec![(1, Err(e.to_string()))],
    };
    if !headers.iter().any(|h| matches!(h, "text" | "sentence" | "input")) {
        let found: Vec<_> = headers.iter().collect();
        return vec![(1, Err(format!("no column \"text\"; found {}", found.join(", "))))];
    }
    let mut lines = Vec::new();
    for record in reader.records() {
        let parsed = match record {
            Ok(record) => (record.position().map_or(0, |p| p.line()), from_record(&headers, &record)),
            Err(e) => (e.position().map_or(0, |p| p.line()), Err(e.to_string())),
        };
        lines.push(parsed);
    }
    lines
}

fn from_record(headers: &csv::StringRecord, record: &csv::StringRecord) -> Result<Example, String> {
    let mut example = Example::default();
    for (name, value) in headers.iter().zip(record).filter(|(_, v)| !v.is_empty()) {
        match name {
            "text" | "sentence" | "input" => example.text = value.to_string(),
            "text_pair" => example.text_pair = Some(value.to_string()),
            "label" => example.label = Some(Label::Name(value.to_string())),
            "labels" => example.labels = value.split('|').map(str::to_string).collect(),
            "rating" | "score" => {
                let number = value.parse().map_err(|_| format!("\"{name}\" is {value:?}, expected a number"))?;
                example.rating = Some(number);
            }
            "source" => example.source = Some(value.to_string()),
            _ => {}
        }
    }
    Ok(example)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(name: &str, content: &str) -> Result<Vec<Example>, DataError> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(name);
        std::fs::write(&path, content).unwrap();
        read_examples(&path)
    }

    #[test]
    fn three_formats_give_the_same_examples() {
        let jsonl =
            read("a.jsonl", "{\"text\":\"a, b\",\"label\":\"x\",\"rating\":1.5}\n\n{\"text\":\"c\",\"label\":2}\n");
        let csv = read("a.csv", "text,label,rating\n\"a, b\",x,1.5\nc,2,\n").unwrap();
        let tsv = read("a.tsv", "label\ttext\trating\nx\ta, b\t1.5\n2\tc\t\n").unwrap();
        let jsonl: Vec<_> = jsonl
            .unwrap()
            .into_iter()
            .map(|e| Example { label: e.label.map(|l| Label::Name(l.to_string())), ..e })
            .collect();
        assert_eq!(jsonl, csv);
        assert_eq!(csv, tsv);
        assert_eq!(csv[0].text, "a, b");
        assert_eq!(csv[0].rating, Some(1.5));
    }

    #[test]
    fn a_bad_line_is_named_with_its_number() {
        let error = read("a.jsonl", "{\"text\":\"a\"}\n{\"txt\":\"b\"}\nnot json\n").unwrap_err().to_string();
        assert!(error.contains("2 bad lines") && error.contains("line 2"), "{error}");
        let error = read("a.csv", "text,rating\na,much\n").unwrap_err().to_string();
        assert!(error.contains("line 2") && error.contains("much"), "{error}");
    }

    #[test]
    fn missing_columns_unknown_formats_and_empty_files_are_refused() {
        assert!(read("a.csv", "txt,label\na,b\n").unwrap_err().to_string().contains("found txt, label"));
        assert!(read("a.parquet", "").unwrap_err().to_string().contains(".jsonl, .csv or .tsv"));
        assert!(matches!(read("a.jsonl", "\n"), Err(DataError::NoExamples { .. })));
        assert!(read("a.jsonl", "{\"text\":\" \"}\n").unwrap_err().to_string().contains("empty"));
    }

    #[test]
    fn quotes_in_a_tsv_are_ordinary_characters() {
        assert_eq!(read("a.tsv", "text\tlabel\nsay \"hi\tx\n").unwrap()[0].text, "say \"hi");
    }
}
