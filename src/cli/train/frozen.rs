//! A head on a frozen encoder.
//!
//! The encoder runs once over the texts as it would serve them (int8); the head learns from its pooled vectors, which
//! takes a minute. The destination holds the head only and must lie beside the encoder's folder.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, bail, ensure};
use serde_json::json;

use crate::architectures::{Pooling, ProblemType};
use crate::checkpoint::{ModelDir, ModelFiles, QuantManifest, Recipe as Scheme, Source, Tensor, card, write_model};
use crate::data::{Example, read_with};
use crate::eval::embedding::embed;
use crate::pipelines::{Embedder, Loader, Precision};
use crate::train::Task;
use crate::train::head::{HeadSettings, TrainedHead, Vectors, train_head};

use super::super::columns::labelled;
use super::super::table::Table;
use super::super::{Common, kernels, progress};
use super::recipe::Recipe;
use super::{TrainArgs, label_maps, print_next};

pub(super) fn run(args: &TrainArgs, recipe: &Recipe, common: &Common) -> anyhow::Result<()> {
    let settings = common.settings(Vec::new())?;
    ensure!(!args.resume, "a head alone trains in a minute and keeps no checkpoints; leave --resume out");
    let (options, defaults) = (&recipe.options, HeadSettings::default());
    let head_settings = HeadSettings {
        epochs: options.epochs.unwrap_or(defaults.epochs),
        batch_size: options.batch_size.unwrap_or(defaults.batch_size),
        learning_rate: options.learning_rate.unwrap_or(defaults.learning_rate),
        dropout: options.dropout.map_or(defaults.dropout, |rate| rate as f32),
        seed: options.seed.unwrap_or(defaults.seed),
        ..defaults
    };
    let (rate, dropout) = (head_settings.learning_rate, head_settings.dropout);
    let whole = head_settings.epochs > 0 && head_settings.batch_size > 0;
    ensure!(whole, "--epochs and --batch-size must be at least 1");
    ensure!((0.0..1.0).contains(&dropout), "--dropout is {dropout}, must be at least 0 and below 1");
    ensure!(rate.is_finite() && rate > 0.0, "--learning-rate is {rate}, must be a number above 0");
    let encoder_path = recipe.path(&options.encoder, "encoder")?;
    let (train_path, dev_path) = (recipe.path(&options.train, "train")?, recipe.path(&options.dev, "dev")?);
    let encoder_dir = ModelDir::open(encoder_path)?;
    let encoder_name = sibling_name(encoder_path, &args.destination)?;
    let read = |path| read_with(path, &recipe.columns(), usize::MAX);
    let (train, dev) = (read(train_path)?, read(dev_path)?);
    let task = Task::classify(&train, options.labels.as_deref().unwrap_or_default(), None);
    let Task { labels, problem_type, .. } = task.with_context(|| labelled(train_path, &recipe.columns(), &train))?;
    ensure!(
        problem_type == ProblemType::SingleLabel,
        "{} has \"labels\": a head alone learns one class of each text; leave --freeze-encoder out",
        train_path.display()
    );
    let (train_classes, dev_classes) = (classes(&train, &labels, train_path)?, classes(&dev, &labels, dev_path)?);

    let encoder = Loader::new(kernels(&settings)?, Precision::Int8).load(&encoder_name, encoder_path)?;
    let Some(embedder) = encoder.embedder else {
        bail!("{}: has a classification head already; give a folder without one", encoder_path.display());
    };
    let (train, dev) = (vectors(&embedder, &train, train_classes)?, vectors(&embedder, &dev, dev_classes)?);

    let width = encoder_dir.config().hidden_size;
    let mut table = Table::new(["epoch", "train loss", "dev loss", "dev accuracy"]);
    let bar = progress::bar(head_settings.epochs, "train");
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

    write(args, recipe, &encoder_dir, &encoder_name, embedder.model.head.pooling, &labels, &head)?;
    card::write(&args.destination).context("cannot write the model card")?;
    let (folder, epoch) = (args.destination.display(), head.epoch);
    println!("{folder}: weights of epoch {epoch}, temperature {:.3}", head.temperature);
    print_next(&args.destination, recipe, None);
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

/// The class of each example.
fn classes(examples: &[Example], labels: &[String], path: &Path) -> anyhow::Result<Vec<u32>> {
    let class = |example: &Example| {
        let at = || format!("{}: line {}", path.display(), example.line);
        let label = example.label.as_ref().with_context(|| format!("{} has no label", at()))?.to_string();
        let found = labels.iter().position(|l| *l == label);
        let found = found.with_context(|| {
            format!("{} has label \"{label}\", expected {} (the training labels, or --labels)", at(), labels.join(", "))
        })?;
        Ok(found as u32)
    };
    examples.iter().map(class).collect()
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
    recipe: &Recipe,
    encoder: &ModelDir,
    encoder_name: &str,
    pooling: Pooling,
    labels: &[String],
    head: &TrainedHead,
) -> anyhow::Result<()> {
    let mut config = serde_json::Map::new();
    config.insert("model_type".into(), encoder.config().model_type.clone().into());
    config.insert("problem_type".into(), "single_label_classification".into());
    config.extend(label_maps(labels));
    let octet = json!({ "encoder": encoder_name, "encoder_sha256": encoder.digest(), "head": { "pooling": pooling } });
    config.insert("octet".into(), octet);
    let width = encoder.config().hidden_size;
    let tensor = |shape: &[usize], data: &[f32]| Tensor::F32 { shape: shape.to_vec(), data: data.to_vec() };
    let tensors = BTreeMap::from([
        ("head.dense.weight".to_string(), tensor(&[width, width], &head.dense_weight)),
        ("head.dense.bias".to_string(), tensor(&[width], &head.dense_bias)),
        ("head.out.weight".to_string(), tensor(&[labels.len(), width], &head.out_weight)),
        ("head.out.bias".to_string(), tensor(&[labels.len()], &head.out_bias)),
    ]);
    let options = &recipe.options;
    let train = recipe.path(&options.train, "train")?;
    let manifest = QuantManifest {
        recipe: Scheme {
            scheme: crate::runtime::SCHEME.into(),
            weights: format!("head f32, trained on the frozen int8 encoder ({} epochs)", head.epoch),
            ..Scheme::default()
        },
        source: Source {
            id: options.source_id.clone().unwrap_or(train.display().to_string()),
            sha256: String::new(),
            license: options.license.clone(),
        },
        f32_bytes: 4 * (width * width + width + labels.len() * (width + 1)) as u64,
        temperature: Some(head.temperature),
        ..QuantManifest::new()
    };
    let files = ModelFiles { config, tensors, manifest: Some(&manifest), ..ModelFiles::default() };
    write_model(&args.destination, &files, args.existing())?;
    Ok(())
}
