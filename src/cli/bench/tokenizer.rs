//! The tokenizer alone: it must be much faster than the encoder, whose threads share the machine with it.

use serde_json::json;

use crate::cli::progress;
use crate::cli::table::Table;
use crate::eval::speed;

use super::Bench;
use super::report::{Row, Section};
use super::texts::{Texts, ids_sha256};

pub(super) fn run(bench: &Bench, texts: &Texts) -> anyhow::Result<Section> {
    let [median, p10, p90, sequences, tokens, _, runs] = Row::header(["median ms", "p10 ms", "p90 ms"]);
    let mut table = Table::new(["threads", median, p10, p90, sequences, tokens, runs]);
    let mut rows = Vec::new();
    let bar = progress::bar(bench.threads.len(), "tokenizer");
    for threads in bench.threads.iter().copied() {
        bar.set_message(format!("{} texts, {threads} thread(s)", texts.texts.len()));
        let tokenizer = &bench.model.tokenizer;
        let times = speed::tokenizing(tokenizer, &texts.texts, texts.max_tokens, threads, bench.duration)?;
        let row = Row {
            threads,
            sequences: texts.texts.len(),
            tokens: texts.ids.tokens(),
            times,
            percent_of_peak: None,
            ids_sha256: ids_sha256(&texts.ids.ids),
        };
        let mut cells = row.cells(1e3);
        cells.remove(5);
        table.row([vec![threads.to_string()], cells].concat());
        rows.push(row.json(json!({ "texts": row.sequences, "tokens": row.tokens })));
        bar.inc(1);
    }
    bar.finish_and_clear();
    let title = "Tokenizer: text to token ids, without the encoder";
    Ok(Section { key: "tokenizer", title, table, rows, notes: Vec::new() })
}
