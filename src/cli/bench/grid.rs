//! Cells of equal sequences, one batch at a time on all threads together.

use anyhow::{bail, ensure};
use serde_json::json;

use crate::architectures::RaggedBatch;
use crate::cli::progress;
use crate::cli::table::Table;
use crate::eval::rounds::Times;
use crate::eval::speed;
use crate::plot::{BarSeries, Bars};

use super::cells::{Cell, GRID};
use super::report::{Row, Section, thread_words};
use super::texts::ids_sha256;
use super::{Bench, PASSES};

/// What was found for one cell on some threads.
struct Found {
    cell: Cell,
    row: Row,
    /// Tokens a second over all threads when each runs its own batch.
    apart: f64,
    /// Tokens a second at the integer peak.
    limit: Option<f64>,
}

pub(super) fn run(bench: &Bench, asked: &[Cell]) -> anyhow::Result<Section> {
    let limit = bench.encoder.spec().max_tokens();
    let (cells, too_long): (Vec<Cell>, Vec<Cell>) =
        if asked.is_empty() { &GRID } else { asked }.iter().partition(|cell| cell.tokens <= limit);
    match too_long.first() {
        Some(cell) if !asked.is_empty() => {
            bail!("--cells {cell}: the model takes at most {limit} tokens in a sequence")
        }
        _ => ensure!(!cells.is_empty(), "the model takes at most {limit} tokens in a sequence; give shorter --cells"),
    }
    let rows = cells.iter().flat_map(|cell| bench.threads.iter().map(|threads| Measured::new(bench, *cell, *threads)));
    let mut measured: Vec<_> = rows.collect();
    let bar = progress::bar(PASSES * measured.len(), "grid");
    for _ in 0..PASSES {
        for row in &mut measured {
            bar.set_message(format!("{}, {}", row.cell, thread_words(row.threads)));
            row.run(bench);
            bar.inc(1);
        }
    }
    bar.finish_and_clear();
    let found: Vec<_> = measured.into_iter().map(|row| row.found(bench)).collect();

    let mut notes = vec![
        "Time: of one batch on all threads together, cut between whole sequences; one sequence is computed by a team of them."
            .into(),
        "% of peak: multiply-adds of linear layers and attention against the measured peak of as many threads.".into(),
        "A batch each: every thread runs its own batch at the same time, as a server under load does; by the mean of its times."
            .into(),
    ];
    if !too_long.is_empty() {
        let names: Vec<_> = too_long.iter().map(Cell::to_string).collect();
        notes.push(format!("Left out: {}; the model takes at most {limit} tokens in a sequence.", names.join(", ")));
    }
    Ok(Section {
        key: "grid",
        title: "Grid: one batch of equal sequences",
        table: table(&found),
        rows: found.iter().map(Found::json).collect(),
        figures: vec![figure(&cells, &bench.threads, &found)],
        notes,
    })
}

/// One cell on some threads, while it is measured.
struct Measured {
    cell: Cell,
    batch: RaggedBatch,
    threads: usize,
    together: Times,
    /// Of each thread with its own batch; empty for one thread, for which that is the same.
    apart: Vec<Times>,
}

impl Measured {
    fn new(bench: &Bench, cell: Cell, threads: usize) -> Self {
        let Cell { sequences, tokens } = cell;
        let batch = match &bench.texts {
            Some(texts) => speed::batch_of_texts(&texts.ids, sequences, tokens),
            None => speed::synthetic_batch(bench.encoder.spec().vocab_size, sequences, tokens),
        };
        let apart = vec![Times::default(); if threads == 1 { 0 } else { threads }];
        Measured { cell, batch, threads, together: Times::default(), apart }
    }

    fn run(&mut self, bench: &Bench) {
        let encoder = bench.encoder.as_ref();
        self.together.extend(speed::latency(encoder, &self.batch, self.threads, bench.budget()));
        if !self.apart.is_empty() {
            let times = speed::independent(encoder, &self.batch, self.threads, bench.budget());
            self.apart.iter_mut().zip(times).for_each(|(all, new)| all.extend(new));
        }
    }

    fn found(self, bench: &Bench) -> Found {
        let Measured { cell, batch, threads, together, apart } = self;
        let (macs, tokens) = (speed::macs(bench.encoder.spec(), &batch), batch.tokens());
        let row = Row {
            threads,
            sequences: batch.len(),
            tokens,
            percent_of_peak: bench.peaks.percent(macs, together.median(), threads),
            times: together,
            ids_sha256: ids_sha256(&batch.ids),
        };
        let apart = match apart.as_slice() {
            [] => row.tokens_per_second(),
            threads => threads.iter().map(|times| tokens as f64 / times.mean()).sum(),
        };
        let limit = bench.peaks.macs_per_second(threads).map(|peak| peak / macs as f64 * tokens as f64);
        Found { cell, row, apart, limit }
    }
}

impl Found {
    fn json(&self) -> serde_json::Value {
        let cell = json!({ "sequences": self.cell.sequences, "tokens": self.cell.tokens });
        self.row.json(cell, json!({ "independent_tokens_per_second": self.apart }))
    }
}

fn table(found: &[Found]) -> Table {
    let [median, p10, p90, sequences, tokens, percent, runs] = Row::header(["median ms", "p10 ms", "p90 ms"]);
    let [cell, threads, apart] = ["batch x tokens", "threads", "a batch each: tokens/s"];
    let mut table = Table::new([cell, threads, median, p10, p90, sequences, tokens, percent, apart, runs]);
    for Found { cell, row, apart, .. } in found {
        let mut cells = row.cells(1e3);
        cells.insert(6, format!("{apart:.0}"));
        table.row([vec![cell.to_string(), row.threads.to_string()], cells].concat());
    }
    table
}

fn figure(cells: &[Cell], threads: &[usize], found: &[Found]) -> String {
    let of = |threads: usize| found.iter().filter(move |f| f.row.threads == threads);
    let series = |threads: usize| {
        let together = BarSeries {
            name: format!("{}{}", thread_words(threads), if threads == 1 { "" } else { " on one batch" }),
            values: of(threads).map(|f| Some(f.row.tokens_per_second())).collect(),
            limits: of(threads).map(|f| f.limit).collect(),
        };
        let apart = BarSeries {
            name: format!("{}, a batch each", thread_words(threads)),
            values: of(threads).map(|f| Some(f.apart)).collect(),
            limits: together.limits.clone(),
        };
        if threads == 1 { vec![together] } else { vec![together, apart] }
    };
    Bars {
        title: "Tokens/s by batch x tokens of each sequence".into(),
        categories: cells.iter().map(Cell::to_string).collect(),
        series: threads.iter().flat_map(|threads| series(*threads)).collect(),
        limit: "the integer peak".into(),
        ..Bars::default()
    }
    .svg()
}
