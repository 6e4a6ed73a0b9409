//! Texts in the order in which they arrive, in batches of unequal sequences.

use serde_json::json;

use crate::cli::progress;
use crate::cli::table::Table;
use crate::eval::speed;

use super::Bench;
use super::report::{Row, Section};
use super::texts::{Texts, ids_sha256};

/// Texts in a batch.
pub(super) const BATCH: usize = 32;

pub(super) fn run(bench: &Bench, texts: &Texts) -> Section {
    let encoder = bench.encoder.as_ref();
    let batches = speed::in_batches_of(BATCH, &texts.ids);
    let once: Vec<_> = batches.iter().collect();
    let twice: Vec<_> = batches.iter().chain(&batches).collect();
    let macs = batches.iter().map(|batch| speed::macs(encoder.spec(), batch)).sum();

    let [median, p10, p90, sequences, tokens, percent, runs] = Row::header(["median s", "p10 s", "p90 s"]);
    let mut table =
        Table::new(["threads", median, p10, p90, sequences, tokens, percent, "twice / once", "speed-up", runs]);
    let (mut rows, mut one_thread) = (Vec::new(), None);
    let bar = progress::bar(2 * bench.threads.len(), "stream");
    for threads in bench.threads.iter().copied() {
        bar.set_message(format!("{} texts, {threads} thread(s)", texts.texts.len()));
        let times = speed::stream(encoder, &once, threads, bench.duration);
        bar.inc(1);
        bar.set_message(format!("{} texts twice, {threads} thread(s)", texts.texts.len()));
        let doubled = speed::stream(encoder, &twice, threads, bench.duration).median() / times.median();
        bar.inc(1);
        let row = Row {
            threads,
            sequences: texts.texts.len(),
            tokens: texts.ids.tokens(),
            percent_of_peak: bench.peaks.percent(macs, times.median(), threads),
            times,
            ids_sha256: ids_sha256(&texts.ids.ids),
        };
        if threads == 1 {
            one_thread = Some(row.times.median());
        }
        let speed_up = one_thread.map(|seconds| seconds / row.times.median());
        let mut cells = row.cells(1.0);
        cells.insert(6, format!("{doubled:.2}"));
        cells.insert(7, speed_up.map_or("-".into(), |s| format!("{s:.2}")));
        table.row([vec![threads.to_string()], cells].concat());
        let mut json = row.json(json!({ "texts": row.sequences, "tokens": row.tokens, "batch": BATCH }));
        json["twice_over_once"] = json!(doubled);
        json["speed_up"] = json!(speed_up);
        rows.push(json);
    }
    bar.finish_and_clear();
    let notes = vec![
        format!(
            "{} texts of {:.1} tokens on average, at most {}; in their order in batches of {BATCH}, each thread taking \
             the next batch.",
            texts.texts.len(),
            texts.ids.tokens() as f64 / texts.texts.len() as f64,
            texts.max_tokens,
        ),
        "Twice / once: time of the same texts twice over against once, at most 2 when more load costs no more.".into(),
    ];
    Section { key: "stream", title: "Stream: the texts as they arrive", table, rows, notes }
}
