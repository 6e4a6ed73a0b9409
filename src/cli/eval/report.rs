//! The report of a comparison, and how its cells are written.

use std::fmt;

use serde_json::{Map, Value, json};

use crate::cli::machine;
use crate::cli::section::Section;
use crate::eval::interval::Interval;
use crate::plot::{Block, Page, Point, Points};

use super::{Arena, Found, Measured};

/// Everything that was found.
pub(super) struct Report {
    pub(super) dataset: String,
    pub(super) machine: String,
    pub(super) date: String,
    /// By contestant, with the figures of speed.
    pub(super) results: Vec<Measured>,
    head: Map<String, Value>,
    subject: String,
    sections: Vec<Section>,
}

impl Report {
    pub(super) fn new(arena: &Arena<'_>, dataset: String, machine: String, found: Found) -> Self {
        let Found { mut sections, mut results, main } = found;
        for (index, measured) in results.iter_mut().enumerate() {
            let cost = sections.iter().find(|s| s.key == "cost").map(|s| s.rows[index].clone()).unwrap_or_default();
            let mut add = |metric, key: &str| measured.figures.extend(cost[key].as_f64().map(|value| (metric, value)));
            add("sentences_per_second", "texts_per_second");
            add("tokens_per_second", "tokens_per_second");
            add("latency_p50_seconds", "latency_p50_seconds");
            add("latency_p99_seconds", "latency_p99_seconds");
        }
        if let Some(figure) = quality_and_cost(arena, &results, &sections, main)
            && let Some(cost) = sections.iter_mut().find(|s| s.key == "cost")
        {
            cost.figures.push(figure);
        }
        let model = |index: usize| {
            let c = &arena.contestants[index];
            let info = &c.model.info;
            json!({
                "name": c.name,
                "folder": c.folder.display().to_string(),
                "version": info.version,
                "precision": info.precision,
                "scheme": info.scheme,
                "labels": info.labels,
                "temperature": c.model.classifier.as_ref().map(|c| c.temperature),
            })
        };
        let date = machine::today();
        let examples = arena.examples.len();
        let head = json!({
            "octet": env!("CARGO_PKG_VERSION"),
            "dataset": dataset,
            "data": arena.args.data.display().to_string(),
            "examples": examples,
            "reference": arena.name(arena.reference),
            "models": (0..arena.contestants.len()).map(model).collect::<Vec<_>>(),
            "machine": machine,
            "date": date,
            "command": machine::command(),
        });
        let Value::Object(head) = head else { unreachable!("an object was written") };
        let subject = format!("{dataset}: {examples} examples; {machine}; {date}");
        Report { dataset, machine, date, results, head, subject, sections }
    }

    pub(super) fn json(&self) -> Value {
        let mut report = self.head.clone();
        for section in &self.sections {
            // Parts that come once for each model are one list.
            let rows = report.entry(section.key).or_insert_with(|| Value::Array(Vec::new()));
            rows.as_array_mut().expect("sections are lists").extend(section.rows.iter().cloned());
        }
        Value::Object(report)
    }

    pub(super) fn page(&self) -> Page {
        let mut blocks = vec![Block::Text(self.subject.clone()), Block::Text(machine::command())];
        blocks.extend(self.sections.iter().flat_map(Section::blocks));
        Page { title: "Octet: models compared".into(), blocks }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.subject)?;
        // Long tables are for the page and for programs.
        let mut shown = self.sections.iter().filter(|s| !["reliability", "confusion"].contains(&s.key));
        shown.try_for_each(|section| write!(f, "{section}"))
    }
}

/// Size against quality against latency; none when the models have no quality that can be told by one figure.
fn quality_and_cost(arena: &Arena<'_>, results: &[Measured], sections: &[Section], main: &str) -> Option<String> {
    let cost = &sections.iter().find(|s| s.key == "cost")?.rows;
    let point = |index: usize| {
        let (quality, interval) = results[index].main?;
        let latency = cost[index]["latency_p50_seconds"].as_f64();
        let time = latency.map_or(String::new(), |seconds| format!(", {:.2} ms", 1e3 * seconds));
        Some(Point {
            name: format!("{}{time}", arena.name(index)),
            group: index,
            x: cost[index]["weight_bytes"].as_f64()? / 1e6,
            y: 100.0 * quality,
            interval: interval.map(|i| (100.0 * i.low, 100.0 * i.high)),
            size: latency,
        })
    };
    let points: Vec<Point> = (0..results.len()).filter_map(point).collect();
    let chart = Points {
        title: format!("Upwards: {main} in %, with its 95 % interval. To the right: size. Area: time of one text"),
        x_label: "MB of weights in memory".into(),
        points,
        ..Points::default()
    };
    (!chart.points.is_empty()).then(|| chart.svg())
}

/// `0.7196`.
pub(super) fn decimals(x: f64) -> String {
    format!("{x:.4}")
}

/// The same, or `-`.
pub(super) fn maybe(x: Option<f64>) -> String {
    x.map_or("-".into(), decimals)
}

/// `99.50 %`.
pub(super) fn percent(share: f64) -> String {
    format!("{:.2} %", 100.0 * share)
}

/// `0.7013 to 0.7372`.
pub(super) fn between(interval: Interval) -> String {
    format!("{:.4} to {:.4}", interval.low, interval.high)
}

pub(super) fn maybe_between(interval: Option<Interval>) -> String {
    interval.map_or("-".into(), between)
}

/// Percentage points: `-0.67 to +0.33`.
pub(super) fn points(interval: Interval) -> String {
    format!("{:+.2} to {:+.2}", 100.0 * interval.low, 100.0 * interval.high)
}

pub(super) fn p_value(p: f64) -> String {
    if p < 0.0001 { "< 0.0001".into() } else { format!("{p:.4}") }
}

pub(super) fn interval_json(interval: Interval) -> Value {
    json!([interval.low, interval.high])
}

pub(super) fn maybe_interval_json(interval: Option<Interval>) -> Value {
    interval.map_or(Value::Null, interval_json)
}
