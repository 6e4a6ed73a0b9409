//! `octet train --encoder DIR --train FILE --dev FILE DST`

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use clap::Args;
use serde_json::json;

use crate::architectures::Pooling;
use crate::checkpoint::{Existing, ModelDir, ModelFiles, QuantManifest, Recipe, Source, Tensor, card, write_model};
use crate::data::{Example, read_examples};
use crate::eval::embedding::embed;
use crate::pipelines::{Embedder, Loader, Precision};
use crate::train::head::{HeadSettings, TrainedHead, Vectors, train_head};

use super::table::Table;
use super::{Common, ensure_apart, kernels, progress};

/// Train a classification head on a frozen encoder.
///
/// The encoder runs once over the texts as it would serve them (int8); the head learns from its pooled vectors, which
/// takes a minute. The destination holds the head only and must lie beside the encoder's folder:
///
///   octet train --encoder models/all-MiniLM-L6-v2 --train train.jsonl --dev dev.jsonl models/sentiment
#[derive(Args)]
#[command(verbatim_doc_comment)]
pub(super) struct TrainArgs {
    /// Folder to write, beside the encoder's
    destination: PathBuf,
    /// Folder of the encoder
    #[arg(long, value_name = "DIR")]
    encoder: PathBuf,
    /// Labelled texts to learn from: .jsonl, .csv or .tsv with "text" and "label"
    #[arg(long, value_name = "FILE")]
    train: PathBuf,
    /// Labelled texts that choose the epoch and the temperature
    #[arg(long, value_name = "FILE")]
    dev: PathBuf,
    /// Classes in the order of the outputs; in order of name when left out
    #[arg(long, value_delimiter = ',', value_name = "A,B,...")]
    labels: Vec<String>,
    /// Passes over the training texts
    #[arg(long, default_value_t = HeadSettings::default().epochs)]
    epochs: usize,
    /// Step size of the first step
    #[arg(long, default_value_t = HeadSettings::default().learning_rate)]
    learning_rate: f64,
    /// Share of values that a training step drops
    #[arg(long, default_value_t = HeadSettings::default().dropout)]
    dropout: f32,
    /// Texts per step
    #[arg(long, default_value_t = HeadSettings::default().batch_size)]
    batch_size: usize,
    /// Seed of everything random
    #[arg(long, default_value_t = HeadSettings::default().seed)]
    seed: u64,
    /// Where the texts came from, for the model card
    #[arg(long, value_name = "TEXT")]
    source_id: Option<String>,
    /// SPDX name of the result's licence, for the model card
    #[arg(long, value_name = "SPDX")]
    license: Option<String>,
    /// Replace DESTINATION if it is a model folder
    #[arg(long)]
    force: bool,
}

pub(super) fn run(args: TrainArgs, common: &Common) -> anyhow::Result<()> {
    let settings = common.settings(Vec::new())?;
    ensure!(args.epochs > 0 && args.batch_size > 0, "--epochs and --batch-size must be at least 1");
    ensure!((0.0..1.0).contains(&args.dropout), "--dropout is {}, must be at least 0 and below 1", args.dropout);
    let rate = args.learning_rate;
    ensure!(rate.is_finite() && rate > 0.0, "--learning-rate is {rate}, must be a number above 0");
    ensure_apart(&args.encoder, &args.destination)?;
    let encoder_dir = ModelDir::open(&args.encoder)?;
    let encoder_name = sibling_name(&args.encoder, &args.destination)?;
    let (train, dev) = (read_examples(&args.train)?, read_examples(&args.dev)?);
    let labels = labels(&args.labels, &train)?;
    let (train_classes, dev_classes) = (classes(&train, &labels, &args.train)?, classes(&dev, &labels, &args.dev)?);

    let encoder = Loader::new(kernels(&settings)?, Precision::Int8).load(&encoder_name, &args.encoder)?;
    let Some(embedder) = encoder.embedder else {
        bail!("{}: has a classification head already; give a folder without one", args.encoder.display());
    };
    let (train, dev) = (vectors(&embedder, &train, train_classes)?, vectors(&embedder, &dev, dev_classes)?);

    let head_settings = HeadSettings {
        epochs: args.epochs,
        batch_size: args.batch_size,
        learning_rate: args.learning_rate,
        dropout: args.dropout,
        seed: args.seed,
        ..HeadSettings::default()
    };
    let width = encoder_dir.config().hidden_size;
    let mut table = Table::new(["epoch", "train loss", "dev loss", "dev accuracy"]);
    let bar = progress::bar(args.epochs, "train");
    let head = train_head(&train, &dev, width, labels.len(), &head_settings, |e| {
        let loss = |x: f32| format!("{x:.4}");
        table.row([e.number.to_string(), loss(e.train_loss), loss(e.dev_loss), format!("{:.4}", e.dev_accuracy)]);
        bar.set_message(format!("dev accuracy {:.4}", e.dev_accuracy));
        bar.inc(1);
    })
    .context("training failed")?;
    bar.finish_and_clear();
    println!("{table}");
    let weights = [&head.dense_weight, &head.dense_bias, &head.out_weight, &head.out_bias];
    ensure!(weights.into_iter().flatten().all(|w| w.is_finite()), "training diverged; lower --learning-rate");

    write(&args, &encoder_dir, &encoder_name, embedder.model.head.pooling, &labels, &head)?;
    card::write(&args.destination).context("cannot write the model card")?;
    let (folder, epoch) = (args.destination.display(), head.epoch);
    println!("{folder}: weights of epoch {epoch}, temperature {:.3}", head.temperature);
    println!("next: octet eval {folder} --data test.jsonl --write, octet serve --model {folder}");
    Ok(())
}

/// The encoder's folder name, when the destination lies beside it.
fn sibling_name(encoder: &Path, destination: &Path) -> anyhow::Result<String> {
    let parent = |p: &Path| match p.parent() {
        Some(parent) if parent.as_os_str().is_empty() => Path::new(".").canonicalize(),
        Some(parent) => parent.canonicalize(),
        None => p.canonicalize(),
    };
    let encoder = encoder.canonicalize().with_context(|| format!("{}", encoder.display()))?;
    let beside = parent(&encoder).ok() == parent(destination).ok();
    ensure!(beside, "{} must lie beside {}", destination.display(), encoder.display());
    Ok(encoder.file_name().unwrap_or_default().to_string_lossy().into_owned())
}

fn labels(asked: &[String], train: &[Example]) -> anyhow::Result<Vec<String>> {
    let mut labels = asked.to_vec();
    if labels.is_empty() {
        labels = train.iter().filter_map(|e| e.label.as_ref()).map(|l| l.to_string()).collect();
        labels.sort();
        labels.dedup();
    }
    ensure!(labels.len() >= 2, "found {} classes ({}), a classifier needs at least 2", labels.len(), labels.join(", "));
    Ok(labels)
}

fn classes(examples: &[Example], labels: &[String], path: &Path) -> anyhow::Result<Vec<u32>> {
    let class = |(index, example): (usize, &Example)| {
        let Some(label) = &example.label else { bail!("{}: example {} has no label", path.display(), index + 1) };
        let label = label.to_string();
        let found = labels.iter().position(|l| *l == label);
        let found = found.with_context(|| {
            format!(
                "{}: example {} has label \"{label}\", expected one of {}",
                path.display(),
                index + 1,
                labels.join(", ")
            )
        })?;
        Ok(found as u32)
    };
    examples.iter().enumerate().map(class).collect()
}

fn vectors(embedder: &Embedder, examples: &[Example], classes: Vec<u32>) -> anyhow::Result<Vectors> {
    // The head gets the pooled vectors as they are when it serves: not normalized.
    let raw = Embedder {
        model: embedder.model.clone(),
        tokenizer: embedder.tokenizer.clone(),
        normalize: false,
        max_tokens: embedder.max_tokens,
    };
    let texts: Vec<String> = examples.iter().map(|e| e.text.clone()).collect();
    let bar = progress::bar(texts.len(), "encode");
    let found = embed(&raw, &texts, |done| bar.set_position(done as u64))?;
    bar.finish_and_clear();
    Ok(Vectors { values: found.vectors.concat(), classes })
}

fn write(
    args: &TrainArgs,
    encoder: &ModelDir,
    encoder_name: &str,
    pooling: Pooling,
    labels: &[String],
    head: &TrainedHead,
) -> anyhow::Result<()> {
    let by_index: serde_json::Map<_, _> = labels.iter().enumerate().map(|(i, l)| (i.to_string(), json!(l))).collect();
    let by_label: serde_json::Map<_, _> = labels.iter().enumerate().map(|(i, l)| (l.clone(), json!(i))).collect();
    let config = json!({
        "model_type": encoder.config().model_type,
        "problem_type": "single_label_classification",
        "id2label": by_index,
        "label2id": by_label,
        "octet": { "encoder": encoder_name, "encoder_sha256": encoder.digest(), "head": { "pooling": pooling } },
    });
    let serde_json::Value::Object(config) = config else { unreachable!("built as an object above") };
    let width = encoder.config().hidden_size;
    let tensor = |shape: &[usize], data: &[f32]| Tensor::F32 { shape: shape.to_vec(), data: data.to_vec() };
    let tensors = BTreeMap::from([
        ("head.dense.weight".to_string(), tensor(&[width, width], &head.dense_weight)),
        ("head.dense.bias".to_string(), tensor(&[width], &head.dense_bias)),
        ("head.out.weight".to_string(), tensor(&[labels.len(), width], &head.out_weight)),
        ("head.out.bias".to_string(), tensor(&[labels.len()], &head.out_bias)),
    ]);
    let manifest = QuantManifest {
        recipe: Recipe {
            scheme: crate::runtime::SCHEME.into(),
            weights: format!("head f32, trained on the frozen int8 encoder ({} epochs)", head.epoch),
            ..Recipe::default()
        },
        source: Source {
            id: args.source_id.clone().unwrap_or_else(|| args.train.display().to_string()),
            sha256: String::new(),
            license: args.license.clone(),
        },
        f32_bytes: 4 * (width * width + width + labels.len() * (width + 1)) as u64,
        temperature: Some(head.temperature),
        ..QuantManifest::new()
    };
    let files = ModelFiles { config, tensors, manifest: Some(&manifest), ..ModelFiles::default() };
    let existing = if args.force { Existing::Replace } else { Existing::Refuse };
    write_model(&args.destination, &files, existing)?;
    Ok(())
}
