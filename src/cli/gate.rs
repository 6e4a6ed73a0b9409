//! The bound on agreement, before a model is served.

use std::path::Path;

use anyhow::{Context, bail};

use crate::checkpoint::{ModelDir, Score};
use crate::config::Settings;
use crate::data::Columns;
use crate::eval::interval::wilson;
use crate::kernels::Kernels;
use crate::pipelines::{Loader, Model};
use crate::quantize::{Bound, Form, OnFailure, Original, Passed, Recipe};

use super::compare::{judge, sample};
use super::threads;

/// What `octet eval` and `octet quantize` store about agreement with the float model.
const AGREEMENTS: [&str; 2] = ["agreement_f32", "cosine_f32"];

/// What the settings say about a model below the bound.
pub(super) fn bound(settings: &Settings) -> Bound {
    let on_failure = match settings.quality.on_failure {
        crate::config::OnFailure::Refuse => OnFailure::Refuse,
        crate::config::OnFailure::Warn => OnFailure::Warn,
        crate::config::OnFailure::Fallback => OnFailure::Fallback,
    };
    Bound { min_agreement: settings.quality.min_agreement.value(), on_failure }
}

/// Loads a model to serve, if its agreement with its float original keeps the bound: the one that its `quant.json`
/// holds, or, for a float model that is quantized while it loads, the one measured now on the texts of `quality.data`.
pub(super) fn load(
    loader: &mut Loader,
    id: &str,
    folder: &Path,
    settings: &Settings,
    kernels: Kernels,
) -> anyhow::Result<Model> {
    let dir = ModelDir::open(folder)?;
    let bound = bound(settings);
    check_stored(&dir, id, &bound)?;
    let encoder = dir.encoder();
    if settings.quality.data.is_empty() || encoder.quantization().is_some() {
        return Ok(loader.load(id, folder)?);
    }
    let original = Original::load(encoder)?;
    let (file, count) = (Path::new(&settings.quality.data), settings.quality.max_texts);
    let texts = sample(file, &Columns::default(), count).context("quality.data")?;
    let judge = judge(&original, dir.is_head_only().then_some(folder), &texts, (kernels, threads(settings)))?;
    let mut forms = original.forms(&Recipe::default(), None, |_| {})?;
    let told = |what: String| tracing::info!(model = id, "{what}");
    let Passed { verdict, holds, fallen_back } =
        bound.pass(&original, &judge, &mut forms, (kernels, threads(settings)), told)?;
    let (agreement, texts) = (verdict.agreement, judge.len());
    match (holds, fallen_back.is_empty()) {
        (false, _) => tracing::warn!(model = id, agreement, texts, "below quality.min_agreement"),
        (true, true) => tracing::info!(model = id, agreement, texts, "agrees with its float original"),
        (true, false) => {
            tracing::warn!(model = id, agreement, texts, layers = fallen_back.join(", "), "some layers stay float");
            let forms: Vec<&Form> = forms.iter().collect();
            return Ok(loader.load_changed(id, folder, Some(&|weights| original.put(&forms, weights)))?);
        }
    }
    Ok(loader.load(id, folder)?)
}

/// The agreement that a folder was measured to have. A share of few texts tells little, so only one that is surely below
/// the bound is refused.
fn check_stored(dir: &ModelDir, id: &str, bound: &Bound) -> anyhow::Result<()> {
    let scores = dir.manifest().map(|manifest| manifest.scores.as_slice()).unwrap_or_default();
    let agreements = scores.iter().filter(|s| AGREEMENTS.contains(&s.metric.as_str()) && s.precision != "f32");
    let Some(worst) = agreements.min_by(|a, b| at_most(a).total_cmp(&at_most(b))) else { return Ok(()) };
    let (metric, value, dataset, texts) = (&worst.metric, worst.value, &worst.dataset, worst.n);
    if value >= bound.min_agreement {
        return Ok(());
    }
    if bound.on_failure == OnFailure::Warn || at_most(worst) >= bound.min_agreement {
        tracing::warn!(model = id, agreement = value, dataset, texts, "below quality.min_agreement");
        return Ok(());
    }
    bail!(
        "its {metric} on {dataset} is {value:.4} ({texts} texts), the bound is {} (quality.min_agreement); serve a finer \
         recipe, loosen the bound, or set quality.on_failure to warn",
        bound.min_agreement
    );
}

/// What an agreement is at most: the upper end of the 95 % interval of a share, and a cosine itself.
fn at_most(score: &Score) -> f64 {
    match score.metric.as_str() {
        "agreement_f32" => wilson((score.value * score.n as f64).round() as u64, score.n).high,
        _ => score.value,
    }
}
