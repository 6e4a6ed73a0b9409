//! What changed between each classifier and the reference: answers that became wrong or right, and those that are the
//! same.

use serde_json::json;

use crate::cli::section::Section;
use crate::cli::table::Table;
use crate::eval::interval::wilson;
use crate::eval::metrics::quantile;
use crate::eval::paired::Paired;
use crate::plot::{IntervalRow, Intervals};

use super::report::{interval_json, p_value, percent, points};
use super::{Arena, Measured};

/// How one contestant differs from the reference.
pub(super) struct Change {
    /// Index of the contestant.
    pub(super) model: usize,
    /// Of the labelled texts.
    pub(super) paired: Paired,
    /// Texts with the same answer, labelled or not, and all of them.
    pub(super) same: u64,
    pub(super) texts: u64,
    /// Where the answer differs: how far apart the reference's best two scores are, rising; empty where a text has
    /// several labels.
    pub(super) margins: Vec<f64>,
}

/// What an answer is, in words.
pub(super) struct Words {
    /// What [`Change::paired`] is a difference of, such as `Accuracy`.
    pub(super) accuracy: &'static str,
    /// What is the same, such as `class`.
    pub(super) answer: &'static str,
    /// What right means, where that needs to be said: the rest of a sentence.
    pub(super) right: &'static str,
}

impl Change {
    /// Share of the texts with the same answer.
    fn agreement(&self) -> f64 {
        self.same as f64 / self.texts as f64
    }

    /// Adds the agreement to the figures of its contestant, when the reference is the float model.
    pub(super) fn tell(&self, arena: &Arena<'_>, measured: &mut Measured) {
        if arena.contestants[arena.reference].model.info.precision == "f32" {
            measured.figures.push(("agreement_f32", self.agreement()));
        }
    }
}

/// The part of the report.
pub(super) fn section(arena: &Arena<'_>, changes: &[Change], words: &Words) -> Section {
    let header = ["model", "both right", "right to wrong", "wrong to right", "both wrong", "points", "95 %", "p"];
    let header = header.into_iter().map(str::to_string);
    let mut table = Table::with_header(header.chain([format!("same {}", words.answer), "95 %".into()]).collect());
    let reference = arena.name(arena.reference);
    let (mut rows, mut dots, mut notes) = (Vec::new(), Vec::new(), Vec::new());
    for change in changes {
        let (paired, name) = (change.paired, arena.name(change.model).to_string());
        let (difference, same) = (paired.interval(), wilson(change.same, change.texts));
        let counts = [paired.both_right, paired.lost, paired.gained, paired.both_wrong];
        let mut cells = vec![name.clone()];
        cells.extend(counts.map(|count| count.to_string()));
        cells.extend([format!("{:+.2}", 100.0 * paired.difference()), points(difference)]);
        cells.extend([p_value(paired.mcnemar()), percent(change.agreement())]);
        cells.push(format!("{:.2} to {:.2}", 100.0 * same.low, 100.0 * same.high));
        table.row(cells);
        let flips = change.texts - change.same;
        let median = (!change.margins.is_empty()).then(|| quantile(&change.margins, 0.5));
        rows.push(json!({
            "model": name,
            "reference": reference,
            "both_right": paired.both_right,
            "right_to_wrong": paired.lost,
            "wrong_to_right": paired.gained,
            "both_wrong": paired.both_wrong,
            "accuracy_difference": paired.difference(),
            "accuracy_difference_interval": interval_json(difference),
            "mcnemar_p": paired.mcnemar(),
            "texts": change.texts,
            "agreement": change.agreement(),
            "agreement_interval": interval_json(same),
            "flips": flips,
            "median_margin_of_flips": median,
        }));
        if let Some(median) = median {
            notes.push(format!(
                "{name} differs on {flips} of {} texts; there, the reference's best two scores are apart by {median:.3} \
                 in the median, {:.3} at most.",
                change.texts,
                quantile(&change.margins, 1.0),
            ));
        }
        let [value, low, high] = [paired.difference(), difference.low, difference.high].map(|x| 100.0 * x);
        dots.push(IntervalRow { name, series: change.model, value, low, high });
    }
    let Words { accuracy, answer, right } = words;
    notes.push(format!(
        "Compared with {reference}{right}. The interval of the difference is Newcombe's for paired data, in points of \
         accuracy; p is McNemar's exact test; the accuracy cannot differ by more than the share of texts with another \
         {answer}."
    ));
    let title = format!("{accuracy} against {reference}, in points, with 95 % intervals");
    let figures = vec![Intervals { title, rows: dots, limit: Some(0.0) }.svg()];
    Section { key: "changes", title: "What changed", table, rows, figures, notes }
}
