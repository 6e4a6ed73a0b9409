//! `octet export SRC DST`

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use crate::checkpoint::{Existing, ModelDir};
use crate::interchange::{self, ExportFormat};

use super::{Common, ensure_apart, model_folder};

/// Write a model for other programs.
///
/// `onnx` is a folder with model.onnx, for ONNX Runtime: integer products with one
/// scale per token, as Octet computes them, embeddings, pooling and the
/// classification head, with the labels in the metadata. `compressed-tensors` is a
/// folder that Transformers (with the compressed-tensors package) and vLLM load:
///
///   octet export models/sentiment sentiment-onnx --format onnx
#[derive(Args)]
#[command(verbatim_doc_comment)]
pub(super) struct ExportArgs {
    /// Model: a folder, or a hub id such as org/name
    source: String,
    /// Folder to write
    destination: PathBuf,
    /// What to write
    #[arg(long, value_enum)]
    format: Format,
    /// Replace DESTINATION if it is a model folder
    #[arg(long)]
    force: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum Format {
    Onnx,
    CompressedTensors,
}

pub(super) fn run(args: ExportArgs, common: &Common) -> anyhow::Result<()> {
    let settings = common.settings(Vec::new())?;
    let folder = model_folder(&args.source, &settings)?;
    ensure_apart(&folder, &args.destination)?;
    let existing = if args.force { Existing::Replace } else { Existing::Refuse };
    let source = ModelDir::open(&folder)?;
    let format = match args.format {
        Format::Onnx => ExportFormat::Onnx,
        Format::CompressedTensors => ExportFormat::CompressedTensors,
    };
    interchange::export(&source, &args.destination, format, existing)?;
    println!("{}", args.destination.display());
    Ok(())
}
