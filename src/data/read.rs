//! Lines → examples.

use std::fs::File;
use std::io::{BufRead, BufReader, ErrorKind, Lines, Read};
use std::path::Path;

use serde_json::{Map, Value};

use super::columns::{Columns, Field, HINT};
use super::line_numbers::LineNumbers;
use super::{DataError, Example, Label};

/// Bad lines that an error shows; the others are counted.
const SHOWN_LINES: usize = 10;
/// What a file that an editor saved as "UTF-8 with BOM" begins with.
const BYTE_ORDER_MARK: char = '\u{feff}';
/// What a file in UTF-16 begins with, little-endian and big-endian.
const UTF_16_MARKS: [[u8; 2]; 2] = [[0xff, 0xfe], [0xfe, 0xff]];

/// What is wrong with a line.
#[derive(Clone, Debug, PartialEq)]
pub struct BadLine {
    /// From 1.
    pub line: u64,
    /// In words.
    pub reason: String,
}

impl std::fmt::Display for BadLine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "line {}: {}", self.line, self.reason)
    }
}

/// Reads every example of a file; the format follows the extension (`.jsonl`, `.csv`, `.tsv`).
///
/// # Errors
/// [`DataError`], naming the first bad lines and counting the others.
pub fn read_examples(path: &Path) -> Result<Vec<Example>, DataError> {
    read_with(path, &Columns::default(), usize::MAX)
}

/// As [`read_examples`] with other names of columns, and at most the first `limit` examples.
///
/// # Errors
/// [`DataError`], naming the first bad lines and counting the others.
pub fn read_with(path: &Path, columns: &Columns, limit: usize) -> Result<Vec<Example>, DataError> {
    let mut examples = Vec::new();
    see_with(path, columns, limit, |example| examples.push(example))?;
    Ok(examples)
}

/// Shows at most `count` examples of a file to `see`, evenly spaced over it, so that a sorted file gives all of its
/// parts. The file is read twice instead of being held in memory.
///
/// # Errors
/// [`DataError`], naming the first bad lines and counting the others.
pub fn sample_with(
    path: &Path,
    columns: &Columns,
    count: usize,
    mut see: impl FnMut(Example),
) -> Result<(), DataError> {
    let total = see_with(path, columns, usize::MAX, |_| {})?;
    let count = count.min(total);
    let (mut at, mut seen) = (0, 0);
    see_with(path, columns, usize::MAX, |example| {
        if seen < count && at == seen * total / count {
            seen += 1;
            see(example);
        }
        at += 1;
    })?;
    Ok(())
}

/// Shows the first `limit` examples of a file to `see`, one after another, and counts them.
fn see_with(path: &Path, columns: &Columns, limit: usize, mut see: impl FnMut(Example)) -> Result<usize, DataError> {
    let (mut good, mut first, mut bad) = (0, Vec::new(), 0);
    for line in open(path, columns)?.take(limit) {
        match line {
            Ok(example) => {
                good += 1;
                see(example);
            }
            Err(line) => {
                bad += 1;
                if first.len() < SHOWN_LINES {
                    first.push(line.to_string());
                }
            }
        }
    }
    match (bad, good) {
        (0, 0) => Err(DataError::NoExamples { path: path.to_path_buf() }),
        (0, _) => Ok(good),
        (count, _) => Err(DataError::Lines { path: path.to_path_buf(), count, first }),
    }
}

/// Opens a file of examples to read one after another: it is never in memory as a whole.
///
/// # Errors
/// [`DataError`] when it cannot be opened, is UTF-16, or a column is not there.
pub fn open(path: &Path, columns: &Columns) -> Result<Examples, DataError> {
    let file = || File::open(path).map_err(|source| DataError::Read { path: path.to_path_buf(), source });
    let mut start = [0; 2];
    if file()?.read_exact(&mut start).is_ok() && UTF_16_MARKS.contains(&start) {
        return Err(DataError::Utf16 { path: path.to_path_buf() });
    }
    let lines = match path.extension().and_then(|e| e.to_str()) {
        Some("jsonl") => Source::Json(BufReader::new(file()?).lines()),
        Some("csv") => separated(path, [file()?, file()?], b',', columns)?,
        Some("tsv") => separated(path, [file()?, file()?], b'\t', columns)?,
        _ => return Err(DataError::Format { path: path.to_path_buf() }),
    };
    Ok(Examples { source: lines, columns: columns.clone(), line: 0 })
}

/// Names of the columns of a file, or of the fields of its first line: what there is, for a message about what is not.
///
/// # Errors
/// [`DataError`] when it cannot be opened, or a column is not there.
pub fn column_names(path: &Path, columns: &Columns) -> Result<Vec<String>, DataError> {
    Ok(match open(path, columns)?.source {
        Source::Separated { headers, .. } => headers,
        Source::Json(lines) => {
            let mut lines = lines.map_while(Result::ok).filter(|line| !line.trim().is_empty());
            let first = lines.next().and_then(|line| object(line.trim_start_matches(BYTE_ORDER_MARK)).ok());
            first.unwrap_or_default().keys().cloned().collect()
        }
        Source::Over => Vec::new(),
    })
}

/// The examples of a file in their order, each read when it is asked for.
pub struct Examples {
    source: Source,
    columns: Columns,
    /// The last line that was read.
    line: u64,
}

enum Source {
    Json(Lines<BufReader<File>>),
    Separated {
        headers: Vec<String>,
        records: csv::StringRecordsIntoIter<File>,
        line_numbers: LineNumbers,
    },
    /// After an error of the disk.
    Over,
}

impl Iterator for Examples {
    type Item = Result<Example, BadLine>;

    fn next(&mut self) -> Option<Self::Item> {
        let record = match &mut self.source {
            Source::Json(lines) => loop {
                self.line += 1;
                match lines.next()? {
                    Ok(text) if text.trim().is_empty() => {}
                    Ok(text) => break object(text.trim_start_matches(BYTE_ORDER_MARK)),
                    Err(e) => {
                        // A line that is not UTF-8 has been read; after anything else the next read fails as well.
                        if e.kind() != ErrorKind::InvalidData {
                            self.source = Source::Over;
                        }
                        break Err(e.to_string());
                    }
                }
            },
            Source::Separated { headers, records, line_numbers } => match records.next()? {
                Ok(record) => {
                    self.line = record.position().map_or(self.line + 1, |p| line_numbers.of_record(p.byte()));
                    let cells = headers.iter().cloned().zip(record.iter().map(|cell| Value::String(cell.into())));
                    Ok(cells.collect())
                }
                Err(e) => {
                    self.line = e.position().map_or(self.line + 1, |p| line_numbers.of_record(p.byte()));
                    if e.is_io_error() {
                        self.source = Source::Over;
                    }
                    Err(e.to_string())
                }
            },
            Source::Over => return None,
        };
        let line = self.line;
        let example = record.and_then(|record| example(line, &record, &self.columns));
        Some(example.map_err(|reason| BadLine { line, reason }))
    }
}

/// Of the same file opened twice: to be read, and to count its lines.
fn separated(path: &Path, [file, counted]: [File; 2], delimiter: u8, columns: &Columns) -> Result<Source, DataError> {
    // A tab-separated file has no quoting: a quote is an ordinary character there.
    let mut reader = csv::ReaderBuilder::new().delimiter(delimiter).quoting(delimiter == b',').from_reader(file);
    let path = || path.to_path_buf();
    let headers = reader.headers().map_err(|e| DataError::Lines { path: path(), count: 1, first: vec![e.to_string()] });
    let headers: Vec<String> = headers?.iter().map(|h| h.trim_start_matches(BYTE_ORDER_MARK).to_string()).collect();
    if headers.is_empty() {
        return Err(DataError::NoExamples { path: path() });
    }
    let missing = columns.asked().find(|asked| !headers.iter().any(|h| h == asked)).map(|asked| format!("\"{asked}\""));
    let texts = columns.names(Field::Text);
    let no_text = || (!headers.iter().any(|h| texts.contains(&h.as_str()))).then(|| either(&texts));
    if let Some(wanted) = missing.or_else(no_text) {
        return Err(DataError::Column { path: path(), wanted, found: headers });
    }
    Ok(Source::Separated { headers, records: reader.into_records(), line_numbers: LineNumbers::new(counted) })
}

fn object(line: &str) -> Result<Map<String, Value>, String> {
    match serde_json::from_str(line) {
        Ok(Value::Object(object)) => Ok(object),
        Ok(_) => Err("not a JSON object, such as {\"text\": \"...\", \"label\": \"...\"}".into()),
        Err(e) => Err(format!("not JSON: {e}")),
    }
}

/// One record by its columns → an example, or what is wrong with it.
fn example(line: u64, record: &Map<String, Value>, columns: &Columns) -> Result<Example, String> {
    if let Some(missing) = columns.asked().find(|name| !record.contains_key(*name)) {
        return Err(no_field(&format!("\"{missing}\""), record));
    }
    let find = |field| {
        let names = columns.names(field);
        names.into_iter().find_map(|name| Some((name.to_string(), record.get(name)?)).filter(|(_, v)| !v.is_null()))
    };
    // An empty cell says nothing, except that there are no labels.
    let filled = |field| find(field).filter(|(_, value)| value.as_str().is_none_or(|text| !text.is_empty()));
    let Some((name, text)) = find(Field::Text) else {
        return Err(no_field(&either(&columns.names(Field::Text)), record));
    };
    let text = string((name.clone(), text))?;
    if text.trim().is_empty() {
        return Err(format!("\"{name}\" is empty"));
    }
    let (label, mut labels) = match filled(Field::Label) {
        Some((name, Value::Array(list))) => (None, Some(list_of(&name, list, label_name)?)),
        Some((name, value)) => (Some(label(&name, value)?), None),
        None => (None, None),
    };
    if let Some((name, value)) = find(Field::Labels) {
        labels = Some(match value {
            Value::Array(list) => list_of(&name, list, label_name)?,
            Value::String(names) => names.split('|').filter(|n| !n.is_empty()).map(str::to_string).collect(),
            other => return Err(expected(&name, other, "a list of labels, or labels with | between them")),
        });
    }
    let ratings = match filled(Field::Ratings) {
        Some((name, Value::Array(list))) => list_of(&name, list, number)?,
        Some((name, Value::String(text))) => {
            text.split('|').map(|part| number(&name, &Value::String(part.into()))).collect::<Result<_, _>>()?
        }
        Some((name, other)) => return Err(expected(&name, other, "a list of numbers")),
        None => Vec::new(),
    };
    let probabilities = match filled(Field::Probabilities) {
        Some((name, value)) => probabilities(&name, value)?,
        None => Vec::new(),
    };
    let optional = |field| filled(field).map(string).transpose();
    Ok(Example {
        line,
        text,
        text_pair: optional(Field::TextPair)?,
        label,
        labels,
        probabilities,
        rating: filled(Field::Rating).map(|(name, value)| number(&name, value)).transpose()?,
        ratings,
        summary: optional(Field::Summary)?,
        source: optional(Field::Source)?,
        scores: columns.scores.iter().map(|name| number(name, &record[name])).collect::<Result<_, _>>()?,
    })
}

fn no_field(wanted: &str, record: &Map<String, Value>) -> String {
    let found: Vec<_> = record.keys().map(String::as_str).collect();
    format!("no field {wanted}; found {}; {HINT}", found.join(", "))
}

/// `"text" or "sentence"`.
fn either(names: &[&str]) -> String {
    names.iter().map(|name| format!("\"{name}\"")).collect::<Vec<_>>().join(" or ")
}

fn expected(name: &str, found: &Value, what: &str) -> String {
    format!("\"{name}\" is {found}, expected {what}")
}

fn list_of<T>(name: &str, list: &[Value], one: impl Fn(&str, &Value) -> Result<T, String>) -> Result<Vec<T>, String> {
    list.iter().map(|value| one(name, value)).collect()
}

fn string((name, value): (String, &Value)) -> Result<String, String> {
    value.as_str().map(str::to_string).ok_or_else(|| expected(&name, value, "a string"))
}

fn number(name: &str, value: &Value) -> Result<f64, String> {
    let number = value.as_f64().or_else(|| value.as_str()?.trim().parse().ok());
    number.filter(|x| x.is_finite()).ok_or_else(|| expected(name, value, "a number"))
}

/// An object of classes, or one written as text in a cell.
fn probabilities(name: &str, value: &Value) -> Result<Vec<(String, f64)>, String> {
    let wrong = || expected(name, value, "an object of classes and probabilities that add up to 1");
    let parsed = value.as_str().map(serde_json::from_str::<Value>).transpose().map_err(|_| wrong())?;
    let object = parsed.as_ref().unwrap_or(value).as_object().ok_or_else(wrong)?;
    let pairs = object.iter().map(|(class, p)| Some((class.clone(), p.as_f64().filter(|p| (0.0..=1.0).contains(p))?)));
    let pairs = pairs.collect::<Option<Vec<_>>>().ok_or_else(wrong)?;
    let sum: f64 = pairs.iter().map(|(_, p)| p).sum();
    if (sum - 1.0).abs() < 1e-3 { Ok(pairs) } else { Err(wrong()) }
}

fn label(name: &str, value: &Value) -> Result<Label, String> {
    match value {
        Value::String(text) => Ok(Label::Name(text.clone())),
        other => other.as_u64().map(Label::Index).ok_or_else(|| expected(name, other, "a name or a whole number")),
    }
}

fn label_name(name: &str, value: &Value) -> Result<String, String> {
    label(name, value).map(|label| label.to_string())
}
