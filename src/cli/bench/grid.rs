//! Cells of equal sequences, one batch at a time on all threads together.

use anyhow::ensure;
use serde_json::json;

use crate::architectures::RaggedBatch;
use crate::cli::progress;
use crate::cli::table::Table;
use crate::eval::rounds::Times;
use crate::eval::speed;

use super::Bench;
use super::cells::{Cell, GRID};
use super::report::{Row, Section};
use super::texts::ids_sha256;

pub(super) fn run(bench: &Bench, asked: &[Cell]) -> anyhow::Result<Section> {
    let limit = bench.encoder.spec().max_tokens();
    if let Some(cell) = asked.iter().find(|cell| cell.tokens > limit) {
        anyhow::bail!("--cells {cell}: the model takes at most {limit} tokens in a sequence");
    }
    let cells = if asked.is_empty() { &GRID } else { asked };
    let (cells, too_long): (Vec<_>, Vec<_>) = cells.iter().partition::<Vec<Cell>, _>(|cell| cell.tokens <= limit);
    ensure!(!cells.is_empty(), "the model takes at most {limit} tokens in a sequence; give shorter --cells");

    let [median, p10, p90, sequences, tokens, percent, runs] = Row::header(["median ms", "p10 ms", "p90 ms"]);
    let mut table = Table::new([
        "batch x tokens",
        "threads",
        median,
        p10,
        p90,
        sequences,
        tokens,
        percent,
        "apart: tokens/s",
        runs,
    ]);
    let mut rows = Vec::new();
    let bar = progress::bar(cells.len() * bench.threads.len(), "grid");
    for cell in cells {
        let batch = batch(bench, cell);
        for threads in bench.threads.iter().copied() {
            bar.set_message(format!("{cell}, {threads} thread(s)"));
            let row = together(bench, &batch, threads);
            let apart = apart(bench, &batch, &row);
            let mut cells = row.cells(1e3);
            cells.insert(6, format!("{apart:.0}"));
            table.row([vec![cell.to_string(), threads.to_string()], cells].concat());
            let fields = json!({ "sequences": cell.sequences, "tokens": cell.tokens });
            let mut json = row.json(fields);
            json["independent_tokens_per_second"] = json!(apart);
            rows.push(json);
            bar.inc(1);
        }
    }
    bar.finish_and_clear();
    let mut notes = vec![
        "Time: of one batch on all threads together, cut between whole sequences; one sequence runs on one thread."
            .into(),
        "% of peak: multiply-adds of linear layers and attention against the measured peak of as many threads.".into(),
        "Apart: every thread runs its own batch at the same time, as a server under load does.".into(),
    ];
    if !too_long.is_empty() {
        let names: Vec<_> = too_long.iter().map(Cell::to_string).collect();
        notes.push(format!("Left out: {}; the model takes at most {limit} tokens in a sequence.", names.join(", ")));
    }
    Ok(Section { key: "grid", title: "Grid: one batch of equal sequences", table, rows, notes })
}

fn batch(bench: &Bench, Cell { sequences, tokens }: Cell) -> RaggedBatch {
    match &bench.texts {
        Some(texts) => speed::batch_of_texts(&texts.ids, sequences, tokens),
        None => speed::synthetic_batch(bench.encoder.spec().vocab_size, sequences, tokens),
    }
}

fn together(bench: &Bench, batch: &RaggedBatch, threads: usize) -> Row {
    let times = speed::latency(bench.encoder.as_ref(), batch, threads, bench.duration);
    let macs = speed::macs(bench.encoder.spec(), batch);
    Row {
        threads,
        sequences: batch.len(),
        tokens: batch.tokens(),
        percent_of_peak: bench.peaks.percent(macs, times.median(), threads),
        times,
        ids_sha256: ids_sha256(&batch.ids),
    }
}

/// Tokens per second over all threads when each runs its own batch; with one thread that is `row` itself.
fn apart(bench: &Bench, batch: &RaggedBatch, row: &Row) -> f64 {
    if row.threads == 1 {
        return row.tokens_per_second();
    }
    let times = speed::independent(bench.encoder.as_ref(), batch, row.threads, bench.duration);
    times.iter().map(|t: &Times| batch.tokens() as f64 / t.median()).sum()
}
