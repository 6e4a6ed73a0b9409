//! Texts in the order in which they arrive, in batches of unequal sequences.

use serde_json::{Value, json};

use crate::cli::progress;
use crate::cli::table::Table;
use crate::eval::rounds::{Budget, Times};
use crate::eval::speed;
use crate::plot::{BarSeries, Bars};

use super::report::{Row, Section, thread_words};
use super::texts::{Texts, ids_sha256};
use super::{Bench, PASSES};

/// Texts in a batch.
pub(super) const BATCH: usize = 32;

/// What was found on some threads.
struct Found {
    row: Row,
    /// Time of the same texts twice over against once.
    twice_over_once: f64,
    /// Against one thread, when that was measured.
    speed_up: Option<f64>,
    /// Tokens a second at the integer peak.
    limit: Option<f64>,
}

pub(super) fn run(bench: &Bench, texts: &Texts) -> Section {
    let batches = speed::in_batches_of(BATCH, &texts.ids);
    let once: Vec<_> = batches.iter().collect();
    let twice: Vec<_> = batches.iter().chain(&batches).collect();
    // A stream is long, and the median of the passes leaves the first one out.
    let budget = Budget { warm_up: false, ..bench.budget() };
    let bar = progress::bar(2 * PASSES * bench.threads.len(), "stream");
    let mut measured = vec![(Times::default(), Times::default()); bench.threads.len()];
    for _ in 0..PASSES {
        for ((times, doubled), threads) in measured.iter_mut().zip(bench.threads.iter().copied()) {
            for (batches, times) in [(&once, times), (&twice, doubled)] {
                let texts: usize = batches.iter().map(|batch| batch.len()).sum();
                bar.set_message(format!("{texts} texts, {}", thread_words(threads)));
                times.extend(speed::stream(bench.encoder.as_ref(), batches, threads, budget));
                bar.inc(1);
            }
        }
    }
    bar.finish_and_clear();
    let macs = batches.iter().map(|batch| speed::macs(bench.encoder.spec(), batch)).sum();
    let mut found: Vec<Found> = Vec::new();
    for (threads, (times, doubled)) in bench.threads.iter().copied().zip(measured) {
        let row = Row {
            threads,
            sequences: texts.texts.len(),
            tokens: texts.ids.tokens(),
            percent_of_peak: bench.peaks.percent(macs, times.median(), threads),
            times,
            ids_sha256: ids_sha256(&texts.ids.ids),
        };
        let one_thread = found.iter().map(|f| &f.row).chain([&row]).find(|row| row.threads == 1);
        found.push(Found {
            twice_over_once: doubled.median() / row.times.median(),
            speed_up: one_thread.map(|one| one.times.median() / row.times.median()),
            limit: bench.peaks.macs_per_second(threads).map(|peak| peak / macs as f64 * row.tokens as f64),
            row,
        });
    }
    let notes = vec![
        format!(
            "{} texts of {:.1} tokens on average, at most {}; in their order in batches of {BATCH}, each thread taking \
             the next batch.",
            texts.texts.len(),
            texts.ids.tokens() as f64 / texts.texts.len() as f64,
            texts.max_tokens,
        ),
        "Twice / once: time of the same texts twice over against once; 2 when more load costs no more.".into(),
    ];
    Section {
        key: "stream",
        title: "Stream: the texts as they arrive",
        table: table(&found),
        rows: found.iter().map(Found::json).collect(),
        figures: vec![figure(&found)],
        notes,
    }
}

impl Found {
    fn json(&self) -> Value {
        let about = json!({ "texts": self.row.sequences, "tokens": self.row.tokens, "batch": BATCH });
        self.row.json(about, json!({ "twice_over_once": self.twice_over_once, "speed_up": self.speed_up }))
    }
}

fn table(found: &[Found]) -> Table {
    let [median, p10, p90, sequences, tokens, percent, runs] = Row::header(["median s", "p10 s", "p90 s"]);
    let [twice, speed_up] = ["twice / once", "speed-up"];
    let mut table = Table::new(["threads", median, p10, p90, sequences, tokens, percent, twice, speed_up, runs]);
    for Found { row, twice_over_once, speed_up, .. } in found {
        let mut cells = row.cells(1.0);
        let speed_up = speed_up.map_or("-".into(), |s| format!("{s:.2}"));
        cells.splice(6..6, [format!("{twice_over_once:.2}"), speed_up]);
        table.row([vec![row.threads.to_string()], cells].concat());
    }
    table
}

fn figure(found: &[Found]) -> String {
    let bars = BarSeries {
        name: "the encoder".into(),
        values: found.iter().map(|f| Some(f.row.tokens_per_second())).collect(),
        limits: found.iter().map(|f| f.limit).collect(),
    };
    Bars {
        title: "Tokens/s of the stream".into(),
        categories: found.iter().map(|f| thread_words(f.row.threads)).collect(),
        series: vec![bars],
        limit: "the integer peak".into(),
        ..Bars::default()
    }
    .svg()
}
