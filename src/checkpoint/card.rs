//! The model card of a folder that Octet made: `README.md`, rendered from what the folder itself says.

use std::fmt::Write;
use std::path::Path;

use super::temporary::write_atomic;
use super::{CheckpointError, ModelDir};

/// Writes the model card of a folder with a `quant.json`; other folders keep what they have.
///
/// # Errors
/// [`CheckpointError`] when the folder cannot be read or the card not be written.
pub fn write(folder: &Path) -> Result<(), CheckpointError> {
    let dir = ModelDir::open(folder)?;
    match render(&dir) {
        Some(card) => write_atomic(&folder.join("README.md"), card.as_bytes()),
        None => Ok(()),
    }
}

/// The card's text; `None` without a manifest.
fn render(dir: &ModelDir) -> Option<String> {
    let manifest = dir.manifest()?;
    let name = dir.path().file_name().unwrap_or_default().to_string_lossy();
    let license = manifest.source.license.as_deref().unwrap_or("unknown");
    let mut card = format!("---\nlicense: {}\n---\n\n# {name}\n\n", license.to_lowercase());
    let config = dir.config();
    let head = match &config.octet {
        Some(octet) => {
            let value = octet.head.value.as_ref().map_or(String::new(), |v| format!(", and gives it a number, {v}"));
            format!("Classifies text as {}{value}. ", config.labels.join(", "))
        }
        None => String::new(),
    };
    let encoder = config
        .octet
        .as_ref()
        .and_then(|o| o.encoder.as_ref())
        .map_or(String::new(), |name| format!(" This folder holds the head; the encoder is in `../{name}`."));
    let (all_heads, all_neurons) = (config.num_attention_heads, config.intermediate_size);
    let layers = config.num_hidden_layers;
    let heads: usize = config.layers.iter().map(|l| l.heads.len()).sum();
    let neurons: usize = config.layers.iter().map(|l| l.intermediate_size).sum();
    let pruned = match (heads, neurons) == (layers * all_heads, layers * all_neurons) {
        true => String::new(),
        false => format!(
            " Pruned to {heads} of {} heads and {neurons} of {} feed-forward neurons.",
            layers * all_heads,
            layers * all_neurons
        ),
    };
    let _ = writeln!(
        card,
        "{head}{} encoder: {layers} layers, {} wide, {all_heads} heads.{pruned}{encoder}\n",
        config.model_type, config.hidden_size
    );
    let recipe = &manifest.recipe;
    let _ = writeln!(card, "| | |\n| --- | --- |");
    for (key, value) in [
        ("source", manifest.source.id.as_str()),
        ("source digest", manifest.source.sha256.as_str()),
        ("licence", license),
        ("made by", manifest.created_by.as_str()),
        ("scheme", recipe.scheme.as_str()),
        ("weights", recipe.weights.as_str()),
        ("embeddings", recipe.embeddings.as_str()),
        ("activations", recipe.activations.as_str()),
    ] {
        if !value.is_empty() {
            let _ = writeln!(card, "| {key} | {value} |");
        }
    }
    let (bytes, f32_bytes) = (dir.weight_bytes() as f64 / 1e6, manifest.f32_bytes as f64 / 1e6);
    let _ = writeln!(card, "| size | {bytes:.1} MB ({f32_bytes:.1} MB in f32) |");
    if let Some(applied) = manifest.applied.as_ref().and_then(|recipe| toml::to_string_pretty(recipe).ok()) {
        let _ = writeln!(card, "\n## Recipe\n\n```toml\n{applied}```");
    }
    if !manifest.scores.is_empty() {
        let _ = writeln!(
            card,
            "\n## Scores\n\n| data | metric | precision | value | n | date |\n| --- | --- | --- | ---: | ---: | --- |"
        );
        for s in &manifest.scores {
            let date = s.date.as_deref().unwrap_or("");
            let _ = writeln!(
                card,
                "| {} | {} | {} | {:.4} | {} | {date} |",
                s.dataset, s.metric, s.precision, s.value, s.n
            );
        }
        let mut runs: Vec<_> = manifest.scores.iter().map(|s| (&s.command, &s.machine)).collect();
        runs.dedup();
        for (command, machine) in runs {
            let _ = writeln!(card, "\nMeasured by `{command}` on {machine}.");
        }
    }
    Some(card)
}
