//! The report of a measurement: sections, each with a table, rows of JSON, figures and notes.

use std::fmt;

use serde_json::{Map, Value, json};

use crate::cli::machine;
pub(super) use crate::cli::section::Section;
use crate::eval::rounds::Times;
use crate::plot::{Block, Page};

use super::Bench;

/// What other programs may take of the CPUs without a warning, in percent.
const MUCH: f64 = 4.0;

/// All sections, and what they were measured with.
pub(super) struct Report {
    /// Fields of the JSON before the sections.
    head: Map<String, Value>,
    sections: Vec<Section>,
    /// What other programs took of the CPUs meanwhile, 0 to 100, by section of `--only`.
    others: Map<String, Value>,
    notes: Vec<String>,
}

impl Report {
    pub(super) fn new(bench: &Bench, model: &str, machine: String) -> Self {
        let head = json!({
            "octet": env!("CARGO_PKG_VERSION"),
            "model": model,
            "version": bench.model.info.version,
            "precision": bench.model.info.precision,
            "isa": bench.kernels.isa().name(),
            "machine": machine,
            "date": machine::today(),
            "command": std::env::args().collect::<Vec<_>>().join(" "),
        });
        let Value::Object(head) = head else { unreachable!("an object was written") };
        Report { head, sections: Vec::new(), others: Map::new(), notes: Vec::new() }
    }

    pub(super) fn add(&mut self, section: Section) {
        self.sections.push(section);
    }

    /// What other programs took of the CPUs while a section of `--only` was measured, 0 to 100.
    pub(super) fn others(&mut self, section: String, percent: Option<f64>) {
        if let Some(percent) = percent.filter(|percent| *percent > MUCH) {
            self.note(format!(
                "disturbed: other programs took {percent:.0} % of the CPUs during {section}, whose figures are too low"
            ));
        }
        self.others.insert(section, percent.into());
    }

    pub(super) fn note(&mut self, note: impl Into<String>) {
        self.notes.push(note.into());
    }

    pub(super) fn json(&self) -> Value {
        let mut report = self.head.clone();
        for section in &self.sections {
            report.insert(section.key.into(), Value::Array(section.rows.clone()));
        }
        report.insert("others_percent".into(), Value::Object(self.others.clone()));
        Value::Object(report)
    }

    /// Everything on one page.
    pub(super) fn page(&self) -> Page {
        let text = |text: &str| Block::Text(text.to_string());
        let mut blocks = vec![text(&self.subject()), text(self.field("command"))];
        for section in &self.sections {
            blocks.extend(section.blocks());
        }
        blocks.extend(self.notes.iter().map(|note| text(note)));
        Page { title: "Octet: measured speed".into(), blocks }
    }

    /// A figure that a section has already found for a number of threads.
    pub(super) fn found(&self, section: &str, threads: usize, figure: &str) -> Option<f64> {
        let rows = self.sections.iter().filter(|s| s.key == section).flat_map(|s| &s.rows);
        rows.into_iter().find(|row| row["threads"] == threads)?[figure].as_f64()
    }

    /// Model, precision, machine and date.
    fn subject(&self) -> String {
        ["model", "precision", "machine", "date"].map(|name| self.field(name)).join(", ")
    }

    fn field(&self, name: &str) -> &str {
        self.head[name].as_str().unwrap_or_default()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.subject())?;
        self.sections.iter().try_for_each(|section| write!(f, "{section}"))?;
        self.notes.iter().try_for_each(|note| writeln!(f, "\n{note}"))
    }
}

/// A timed row of sequences that ran through the encoder or the tokenizer.
pub(super) struct Row {
    pub(super) threads: usize,
    pub(super) sequences: usize,
    /// Over all sequences.
    pub(super) tokens: usize,
    pub(super) times: Times,
    /// 0 to 100; none where there is no peak to compare with.
    pub(super) percent_of_peak: Option<f64>,
    pub(super) ids_sha256: String,
}

impl Row {
    /// The headings of [`Row::cells`], time in the given unit.
    pub(super) const fn header(unit: [&'static str; 3]) -> [&'static str; 7] {
        [unit[0], unit[1], unit[2], "sequences/s", "tokens/s", "% of peak", "runs"]
    }

    /// Median, p10 and p90 in a unit that a second has so many of, rates, percentage, and number of runs.
    pub(super) fn cells(&self, units_per_second: f64) -> Vec<String> {
        let time = |seconds: f64| format!("{:.3}", seconds * units_per_second);
        vec![
            time(self.times.median()),
            time(self.times.p10()),
            time(self.times.p90()),
            format!("{:.0}", self.sequences_per_second()),
            format!("{:.0}", self.tokens_per_second()),
            self.percent_of_peak.map_or("-".into(), |p| format!("{p:.1}")),
            self.times.runs().to_string(),
        ]
    }

    /// The figures by name, between what the row is about and what else was found.
    pub(super) fn json(&self, about: Value, found: Value) -> Value {
        let figures = json!({
            "threads": self.threads,
            "median_seconds": self.times.median(),
            "p10_seconds": self.times.p10(),
            "p90_seconds": self.times.p90(),
            "sequences_per_second": self.sequences_per_second(),
            "tokens_per_second": self.tokens_per_second(),
            "percent_of_peak": self.percent_of_peak,
            "runs": self.times.runs(),
            "ids_sha256": self.ids_sha256,
        });
        let objects = [about, figures, found].into_iter().filter_map(|object| object.as_object().cloned());
        Value::Object(objects.flatten().collect())
    }

    pub(super) fn sequences_per_second(&self) -> f64 {
        self.sequences as f64 / self.times.median()
    }

    pub(super) fn tokens_per_second(&self) -> f64 {
        self.tokens as f64 / self.times.median()
    }
}

/// `1 thread`, `2 threads`.
pub(super) fn thread_words(threads: usize) -> String {
    format!("{threads} {}", if threads == 1 { "thread" } else { "threads" })
}
