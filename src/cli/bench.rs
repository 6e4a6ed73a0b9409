//! `octet bench MODEL`

use std::time::Duration;

use clap::Args;
use serde_json::json;

use crate::eval::speed::{measure, uniform_batch};
use crate::pipelines::{Loader, Precision};

use super::table::Table;
use super::{Common, kernels, machine, model_folder, progress, threads};

/// (sequences, tokens of each)
const GRID: [(usize, usize); 9] =
    [(1, 16), (1, 32), (1, 128), (1, 512), (8, 32), (8, 128), (32, 32), (32, 128), (32, 512)];

/// Measure the encoder's speed on this machine: token ids in, hidden states out, without HTTP and tokenizer.
///
/// Every thread runs its own batch, as in `octet serve`. Medians over about a second for each row.
///
///   octet bench models/all-MiniLM-L6-v2 --threads 1
#[derive(Args)]
#[command(verbatim_doc_comment)]
pub(super) struct BenchArgs {
    /// Model: a folder, or a hub id such as org/name
    #[arg(default_value = "models/all-MiniLM-L6-v2")]
    model: String,
    /// Threads; engine.threads when left out
    #[arg(long)]
    threads: Option<usize>,
    /// Run in f32 through candle instead of int8
    #[arg(long)]
    float: bool,
    /// Time for each row
    #[arg(long, default_value_t = 1.0)]
    seconds: f64,
    /// Print JSON instead of a table
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: BenchArgs, common: &Common) -> anyhow::Result<()> {
    let settings = common.settings(Vec::new())?;
    let kernels = kernels(&settings)?;
    let folder = model_folder(&args.model, &settings)?;
    let precision = if args.float { Precision::Float } else { Precision::Int8 };
    let model = Loader::new(kernels, precision).load(&args.model, &folder)?;
    let encoder = model.encoder();
    let threads = args.threads.unwrap_or_else(|| threads(&settings)).max(1);

    let bar = progress::bar(GRID.len(), "bench");
    let mut table = Table::new(["batch x tokens", "median ms", "p10 ms", "p90 ms", "sequences/s", "tokens/s", "runs"]);
    let mut rows = Vec::new();
    for (sequences, tokens) in GRID {
        bar.set_message(format!("{sequences} x {tokens}"));
        let batch = uniform_batch(encoder.as_ref(), sequences, tokens);
        let speed = measure(encoder.as_ref(), &batch, threads, Duration::from_secs_f64(args.seconds));
        let ms = |seconds: f64| format!("{:.3}", seconds * 1e3);
        let per_second = speed.tokens_per_second / batch.tokens() as f64 * sequences as f64;
        table.row([
            format!("{sequences} x {tokens}"),
            ms(speed.median),
            ms(speed.p10),
            ms(speed.p90),
            format!("{per_second:.0}"),
            format!("{:.0}", speed.tokens_per_second),
            speed.runs.to_string(),
        ]);
        rows.push(json!({
            "sequences": sequences, "tokens": tokens, "median_seconds": speed.median, "p10_seconds": speed.p10,
            "p90_seconds": speed.p90, "tokens_per_second": speed.tokens_per_second, "runs": speed.runs,
        }));
        bar.inc(1);
    }
    bar.finish_and_clear();
    let machine = machine::describe(kernels);
    if args.json {
        let report = json!({
            "model": args.model, "version": model.info.version, "precision": model.info.precision,
            "threads": threads, "machine": machine, "date": machine::today(), "rows": rows,
        });
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        println!("{}, {}, {threads} thread(s), {machine}, {}\n", args.model, model.info.precision, machine::today());
        println!("{table}");
    }
    Ok(())
}
