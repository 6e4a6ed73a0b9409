//! `octet inspect DIR`

use clap::Args;

use crate::architectures::{self, Architecture, EncoderNames, EncoderSpec, LayerSpec};
use crate::checkpoint::{CheckpointError, ModelDir, Weights};

use super::table::{Table, megabytes};
use super::{Common, model_folder};

/// Show what a model folder holds: architecture, tensors, sizes, quantization and scores.
///
///   octet inspect sentiment
#[derive(Args)]
#[command(verbatim_doc_comment)]
pub(super) struct InspectArgs {
    /// Model: a folder, or a hub id such as org/name
    model: String,
    /// List every tensor
    #[arg(long)]
    tensors: bool,
}

pub(super) fn run(args: InspectArgs, common: &Common) -> anyhow::Result<()> {
    let settings = common.settings(Vec::new())?;
    let dir = ModelDir::open(&model_folder(&args.model, &settings)?)?;
    let weights = dir.weights()?;
    let encoder_weights = dir.encoder().weights()?;
    let Architecture { spec, head, encoder: names } =
        architectures::describe(dir.encoder().config(), &|name| encoder_weights.contains(name))?;
    let trained = architectures::trained_head(dir.config());

    println!("{}", dir.path().display());
    let mut facts = vec![
        ("family", spec.family.clone()),
        (
            "layers",
            format!("{} of {} wide, {} heads", spec.num_layers(), spec.hidden_size, sizes(&spec, |l| l.num_heads)),
        ),
        ("feed-forward", format!("{} wide, {:?}", sizes(&spec, |l| l.intermediate_size), spec.activation)),
        ("vocabulary", format!("{} ids, {} positions", spec.vocab_size, spec.max_tokens())),
        ("digest", dir.digest().to_string()),
        ("weight files", megabytes(dir.weight_bytes())),
    ];
    if let Some(name) = dir.config().octet.as_ref().and_then(|o| o.encoder.as_ref()) {
        facts.push(("encoder", format!("{name} ({})", megabytes(dir.encoder().weight_bytes()))));
    }
    match head.or(trained) {
        Some(head) => {
            let outputs = head.labels.iter().chain(&head.value).cloned().collect::<Vec<_>>().join(", ");
            facts.push(("head", format!("{:?} pooling, {:?}: {outputs}", head.pooling, head.problem_type)));
        }
        None => facts.push((
            "head",
            dir.pooling().map_or("none, mean pooling".into(), |p| format!("none, {:?} pooling", p.pooling)),
        )),
    }
    if let Some(manifest) = dir.manifest() {
        let recipe = &manifest.recipe;
        facts.push(("scheme", recipe.scheme.clone()));
        facts.push(("weights", recipe.weights.clone()));
        facts.push(("embeddings", recipe.embeddings.clone()));
        facts.push(("activations", recipe.activations.clone()));
        facts.push((
            "source",
            format!("{} ({})", manifest.source.id, manifest.source.license.as_deref().unwrap_or("licence unknown")),
        ));
        facts.extend(manifest.temperature.map(|t| ("temperature", format!("{t:.3}"))));
        if !manifest.thresholds.is_empty() {
            let thresholds: Vec<_> = manifest.thresholds.iter().map(|(label, t)| format!("{label} {t:.3}")).collect();
            facts.push(("thresholds", thresholds.join(", ")));
        }
        facts.extend(manifest.fallback.as_ref().map(|f| ("fallback", format!("{} below {:.3}", f.label, f.threshold))));
    }
    for (name, value) in facts {
        println!("  {name:<13} {value}");
    }

    let mut by_dtype: std::collections::BTreeMap<String, (usize, u64)> = Default::default();
    for entry in weights.entries() {
        let total = by_dtype.entry(entry.dtype.clone()).or_default();
        *total = (total.0 + 1, total.1 + entry.bytes);
    }
    let mut table = Table::new(["dtype", "tensors", "size"]);
    for (dtype, (count, bytes)) in by_dtype {
        table.row([dtype, count.to_string(), megabytes(bytes)]);
    }
    println!("\n{table}");
    println!("{}", layers(&names, spec.hidden_size, &encoder_weights)?);
    if args.tensors {
        let mut table = Table::new(["tensor", "dtype", "shape"]);
        for entry in weights.entries() {
            table.row([entry.name.clone(), entry.dtype.clone(), format!("{:?}", entry.shape)]);
        }
        println!("{table}");
    }
    if let Some(manifest) = dir.manifest().filter(|m| !m.layers.is_empty()) {
        let mut worst = manifest.layers.clone();
        worst.sort_by(|a, b| a.cosine.total_cmp(&b.cosine));
        let mut table = Table::new(["largest quantization errors", "SQNR dB", "cosine"]);
        for layer in worst.iter().take(5) {
            let sqnr = layer.sqnr_db.map_or("exact".to_string(), |db| format!("{db:.1}"));
            table.row([layer.name.clone(), sqnr, format!("{:.6}", layer.cosine)]);
        }
        println!("{table}");
    }
    if let Some(manifest) = dir.manifest().filter(|m| !m.scores.is_empty()) {
        let mut table = Table::new(["score", "precision", "value", "n", "date"]);
        for s in &manifest.scores {
            let name = format!("{} {}", s.dataset, s.metric);
            table.row([
                name,
                s.precision.clone(),
                format!("{:.4}", s.value),
                s.n.to_string(),
                s.date.clone().unwrap_or_default(),
            ]);
        }
        println!("{table}");
    }
    Ok(())
}

/// One size of the layers; that of each when they differ.
fn sizes(spec: &EncoderSpec, size: impl Fn(&LayerSpec) -> usize) -> String {
    let mut sizes: Vec<String> = spec.layers.iter().map(|layer| size(layer).to_string()).collect();
    if sizes.windows(2).all(|w| w[0] == w[1]) {
        sizes.truncate(1);
    }
    sizes.join(", ")
}

/// Scheme, bits of a weight and bytes of each table and matrix, scales, zero points and factors included.
///
/// # Errors
/// When factors of smoothing are not what an executor takes.
fn layers(names: &EncoderNames, width: usize, weights: &Weights) -> Result<Table, CheckpointError> {
    let tables = names.tables().map(|t| (t.weight.as_str(), [t.rows, width]));
    let matrices = names.layers.iter().flat_map(|l| l.linears()).map(|l| (l.weight.as_str(), [l.outputs, l.inputs]));
    let mut table = Table::new(["layer", "weights", "bits", "size"]);
    for (name, shape) in tables.chain(matrices) {
        let is_smoothed = !weights.smoothing(name, shape)?.is_empty();
        let module = name.trim_end_matches(".weight");
        let belongs =
            |entry: &str| entry.strip_prefix(name).is_some_and(|part| part.is_empty() || part.starts_with('_'));
        let parts: Vec<_> = weights.entries().filter(|entry| belongs(&entry.name)).collect();
        let bytes: u64 = parts.iter().map(|part| part.bytes).sum();
        let dtype = parts.iter().find(|part| part.name == name).map_or("I32", |part| part.dtype.as_str());
        let group = weights.quantization().and_then(|q| q.group_of(module));
        let stored = match group.filter(|_| dtype.starts_with('I')) {
            Some(group) => format!("{}{}", group.weights, if is_smoothed { ", smoothed" } else { "" }),
            None => dtype.to_lowercase(),
        };
        let bits = format!("{:.2}", 8.0 * bytes as f64 / (shape[0] * shape[1]) as f64);
        table.row([module.to_string(), stored, bits, format!("{:.3} MB", bytes as f64 / 1e6)]);
    }
    Ok(table)
}
