//! The float models beside the served ones, as `shadow.float` names them.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, bail, ensure};

use crate::config::Settings;
use crate::kernels::Kernels;
use crate::pipelines::{Model, Original};

use super::model_folder;
use super::table::megabytes;

/// Loads the float counterpart of every served model that one of the named folders belongs to; `served` has the models with
/// their folders.
pub(super) fn load(
    served: &[(Arc<Model>, PathBuf)],
    kernels: Kernels,
    settings: &Settings,
) -> anyhow::Result<Vec<Arc<Model>>> {
    let mut found: Vec<Arc<Model>> = Vec::new();
    for entry in entries(settings) {
        let (id, path) = entry.split_once('=').map_or((None, entry), |(id, path)| (Some(id.trim()), path.trim()));
        let folder = model_folder(path, settings).context("shadow.float")?;
        let mut original = Original::open(&folder, kernels).context("shadow.float")?;
        let mut models = Vec::new();
        for (model, of_model) in served {
            let is_meant = match id {
                Some(id) => model.info.id == id,
                None => original.is_source_of(of_model)? == Some(true),
            };
            if is_meant {
                models.push((model, of_model));
            }
        }
        ensure!(!models.is_empty(), "{}", no_model(id, &folder, served));
        for (model, of_model) in models {
            let id = &model.info.id;
            if found.iter().any(|known| known.info.id == *id) {
                bail!("shadow.float: two entries are for model \"{id}\"; leave one out");
            }
            found.push(Arc::new(original.load(model, of_model).context("shadow.float")?));
        }
    }
    Ok(found)
}

/// Whether float models are to be compared.
pub(super) fn is_on(settings: &Settings) -> bool {
    entries(settings).next().is_some()
}

fn entries(settings: &Settings) -> impl Iterator<Item = &str> {
    settings.shadow.float.split(',').map(str::trim).filter(|entry| !entry.is_empty())
}

fn no_model(id: Option<&str>, folder: &Path, served: &[(Arc<Model>, PathBuf)]) -> String {
    let ids = served.iter().map(|(model, _)| model.info.id.as_str()).collect::<Vec<_>>().join(", ");
    match id {
        Some(id) => format!("shadow.float: no model is called \"{id}\"; served are: {ids}"),
        None => format!(
            "shadow.float: {} is not what any served model ({ids}) says it was made from; name the right float folder, or \
             write ID=PATH for a model whose quant.json names no source",
            folder.display()
        ),
    }
}

/// What is compared, for people.
pub(super) fn summary(originals: &[Arc<Model>], settings: &Settings) -> String {
    // Shares are millionths.
    let percent = |share: f64| (share * 1e6).round() / 1e4;
    let ids: Vec<&str> = originals.iter().map(|model| model.info.id.as_str()).collect();
    let mut encoders: Vec<_> = originals.iter().map(|model| (Arc::as_ptr(model.encoder()), model)).collect();
    encoders.dedup_by(|a, b| std::ptr::addr_eq(a.0, b.0));
    let bytes = encoders.iter().flat_map(|(_, model)| &model.info.sizes).map(|size| size.bytes).sum();
    format!(
        "shadow: {} beside f32 ({} in memory), {} % of the answers, at most {} % of one CPU",
        ids.join(", "),
        megabytes(bytes),
        percent(settings.shadow.rate.value()),
        percent(settings.shadow.budget.value()),
    )
}
