//! `octet import SRC DST`

use std::path::PathBuf;

use clap::Args;

use crate::checkpoint::{Existing, ModelDir};
use crate::interchange::{ImportOptions, import};

use super::table::megabytes;
use super::{as_model, ensure_apart};

/// Make a model folder from a model of another program.
///
/// Reads PyTorch state dicts (float, or quantized by
/// torch.quantization.quantize_dynamic) and ONNX graphs (float, dynamic int8, QDQ).
/// Integers and their scales are kept as they are. The model's config.json and
/// tokenizer.json lie beside the file, or in the folder of --with:
///
///   octet import path/to/pytorch_model.bin models/my-model
///   octet serve --model models/my-model
#[derive(Args)]
#[command(verbatim_doc_comment)]
pub(super) struct ImportArgs {
    /// Foreign model: a file, or a folder that holds one
    source: PathBuf,
    /// Folder to write
    destination: PathBuf,
    /// Folder with the config.json, the tokenizer.json and the sentence-transformers files of the model
    #[arg(long, value_name = "FOLDER")]
    with: Option<PathBuf>,
    /// Replace DESTINATION if it is a model folder
    #[arg(long)]
    force: bool,
}

pub(super) fn run(args: ImportArgs) -> anyhow::Result<()> {
    for folder in [Some(&args.source), args.with.as_ref()].into_iter().flatten() {
        ensure_apart(folder, &args.destination)?;
    }
    let existing = if args.force { Existing::Replace } else { Existing::Refuse };
    let report = import(&args.source, &args.destination, &ImportOptions { companions: args.with, existing })?;
    if !report.left_out.is_empty() {
        println!("not used by this architecture, left out: {}", report.left_out.join(", "));
    }
    let bytes = ModelDir::open(&args.destination)?.weight_bytes();
    let place = args.destination.display();
    println!(
        "{place}: {} from {}, {} tensors of integers as they were, {} of floats, {}",
        report.family,
        report.format,
        report.integers,
        report.floats,
        megabytes(bytes)
    );
    let model = as_model(&args.destination);
    match report.integers {
        0 => println!("next: octet quantize {model} DST, or octet serve --model {model}"),
        _ => println!("next: octet eval {model} --data labelled.jsonl, octet serve --model {model}"),
    }
    Ok(())
}
