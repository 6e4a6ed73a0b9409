//! The tokenizer alone: it must be much faster than the encoder, whose threads share the machine with it.

use serde_json::{Value, json};

use crate::cli::progress;
use crate::cli::table::Table;
use crate::eval::rounds::Times;
use crate::eval::speed;
use crate::plot::{BarSeries, Bars, Scale};

use super::report::{Report, Row, Section, thread_words};
use super::texts::{Texts, ids_sha256};
use super::{Bench, PASSES};

/// What was found on some threads.
struct Found {
    row: Row,
    /// Tokens a second of the encoder on the same texts, when the stream was measured.
    encoder: Option<f64>,
}

/// Measures it; `report` may hold the stream, to compare with.
pub(super) fn run(bench: &Bench, texts: &Texts, report: &Report) -> anyhow::Result<Section> {
    let bar = progress::bar(PASSES * bench.threads.len(), "tokenizer");
    let mut times = vec![Times::default(); bench.threads.len()];
    for _ in 0..PASSES {
        for (times, threads) in times.iter_mut().zip(bench.threads.iter().copied()) {
            bar.set_message(format!("{} texts, {}", texts.texts.len(), thread_words(threads)));
            let tokenizer = &bench.model.tokenizer;
            times.extend(speed::tokenizing(tokenizer, &texts.texts, texts.max_tokens, threads, bench.budget())?);
            bar.inc(1);
        }
    }
    bar.finish_and_clear();
    let row = |(threads, times): (&usize, Times)| Row {
        threads: *threads,
        sequences: texts.texts.len(),
        tokens: texts.ids.tokens(),
        times,
        percent_of_peak: None,
        ids_sha256: ids_sha256(&texts.ids.ids),
    };
    let encoder = |threads| report.found("stream", threads, "tokens_per_second");
    let rows = bench.threads.iter().zip(times).map(row);
    let found: Vec<_> = rows.map(|row| Found { encoder: encoder(row.threads), row }).collect();
    let compared = found.iter().any(|f| f.encoder.is_some());
    let note = match compared {
        true => "Times the encoder: its tokens/s against those of the stream on as many threads.",
        false => "Times the encoder: only known when the stream is measured too.",
    };
    Ok(Section {
        key: "tokenizer",
        title: "Tokenizer: text to token ids, without the encoder",
        table: table(&found),
        rows: found.iter().map(Found::json).collect(),
        figures: if compared { vec![figure(&found)] } else { Vec::new() },
        notes: vec![note.into()],
    })
}

impl Found {
    fn times_the_encoder(&self) -> Option<f64> {
        Some(self.row.tokens_per_second() / self.encoder?)
    }

    fn json(&self) -> Value {
        let about = json!({ "texts": self.row.sequences, "tokens": self.row.tokens });
        self.row.json(about, json!({ "times_the_encoder": self.times_the_encoder() }))
    }
}

fn table(found: &[Found]) -> Table {
    let [median, p10, p90, sequences, tokens, _, runs] = Row::header(["median ms", "p10 ms", "p90 ms"]);
    let mut table = Table::new(["threads", median, p10, p90, sequences, tokens, "times the encoder", runs]);
    for found in found {
        let mut cells = found.row.cells(1e3);
        // In place of the percentage of the peak: the tokenizer multiplies nothing.
        cells[5] = found.times_the_encoder().map_or("-".into(), |times| format!("{times:.1}"));
        table.row([vec![found.row.threads.to_string()], cells].concat());
    }
    table
}

fn figure(found: &[Found]) -> String {
    let series = |name: &str, value: fn(&Found) -> Option<f64>| BarSeries {
        name: name.into(),
        values: found.iter().map(value).collect(),
        ..BarSeries::default()
    };
    Bars {
        title: "Tokens/s on the same texts, logarithmic".into(),
        categories: found.iter().map(|f| thread_words(f.row.threads)).collect(),
        series: vec![
            series("tokenizer", |f| Some(f.row.tokens_per_second())),
            series("encoder, in the stream", |f| f.encoder),
        ],
        scale: Scale::Log,
        ..Bars::default()
    }
    .svg()
}
