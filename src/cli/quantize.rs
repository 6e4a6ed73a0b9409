//! `octet quantize SRC DST`

use std::path::PathBuf;

use anyhow::Context;
use clap::Args;

use crate::checkpoint::{Existing, ModelDir, card};
use crate::quantize::{QuantizeOptions, quantize};

use super::table::{Table, megabytes};
use super::{Common, ensure_apart, model_folder, progress};

/// Make an int8 model folder from a float one.
///
/// Weights and embedding tables become int8 with one scale per row; activations are quantized at run time, one scale
/// per token, so no calibration data is needed. The result is an ordinary model folder:
///
///   octet quantize path/to/float-model models/my-model
///   octet serve --model models/my-model
#[derive(Args)]
#[command(verbatim_doc_comment)]
pub(super) struct QuantizeArgs {
    /// Float model: a folder, or a hub id such as org/name
    source: String,
    /// Folder to write
    destination: PathBuf,
    /// Where the source came from, for the model card; SOURCE when left out
    #[arg(long, value_name = "TEXT")]
    source_id: Option<String>,
    /// SPDX name of the source's licence, for the model card
    #[arg(long, value_name = "SPDX")]
    license: Option<String>,
    /// Replace DESTINATION if it is a model folder
    #[arg(long)]
    force: bool,
}

pub(super) fn run(args: QuantizeArgs, common: &Common) -> anyhow::Result<()> {
    let settings = common.settings(Vec::new())?;
    let folder = model_folder(&args.source, &settings)?;
    ensure_apart(&folder, &args.destination)?;
    let source = ModelDir::open(&folder)?;
    let options = QuantizeOptions {
        source_id: args.source_id.unwrap_or(args.source),
        license: args.license,
        existing: if args.force { Existing::Replace } else { Existing::Refuse },
    };
    let bar = progress::bar(0, "quantize");
    let report = quantize(&source, &args.destination, &options, |name, total| {
        bar.set_length(total as u64);
        bar.set_message(name.to_string());
        bar.inc(1);
    })?;
    bar.finish_and_clear();
    card::write(&args.destination).context("cannot write the model card")?;

    let mut table = Table::new(["tensor", "SQNR dB", "cosine", "max error"]);
    for layer in &report.layers {
        let sqnr = layer.sqnr_db.map_or("exact".to_string(), |db| format!("{db:.1}"));
        table.row([layer.name.clone(), sqnr, format!("{:.6}", layer.cosine), format!("{:.5}", layer.max_abs)]);
    }
    println!("{table}");
    if !report.left_out.is_empty() {
        println!("not used by this architecture, left out: {}", report.left_out.join(", "));
    }
    let ratio = report.f32_bytes as f64 / report.int8_bytes as f64;
    let (before, after) = (megabytes(report.f32_bytes), megabytes(report.int8_bytes));
    println!("{}: {before} in f32, {after} in int8 ({ratio:.2} times smaller)", args.destination.display());
    println!("next: octet eval {0} --data labelled.jsonl, octet serve --model {0}", args.destination.display());
    Ok(())
}
