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

/// What `octet serve` does with a folder for the agreements that it stores.
#[derive(Debug, PartialEq)]
enum Admission<'a> {
    /// It is served.
    Served,
    /// It is served, and that it is below the bound is said: few texts tell little, or a warning is enough.
    Warned(Shortfall<'a>),
    /// It is surely below the bound.
    Refused(Shortfall<'a>),
}

/// An agreement below the bound. Displays what was found and what is allowed.
#[derive(Debug, PartialEq)]
struct Shortfall<'a> {
    worst: &'a Score,
    bound: f64,
}

impl std::fmt::Display for Shortfall<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Score { metric, dataset, value, n, .. } = self.worst;
        let bound = self.bound;
        write!(f, "its {metric} on {dataset} is {value:.4} ({n} texts), the bound is {bound} (quality.min_agreement)")
    }
}

impl Shortfall<'_> {
    /// What to do about a model that is refused for it.
    fn advice(&self) -> String {
        // Rounded down: a bound that it keeps.
        let kept = (100.0 * at_most(self.worst)).floor() / 100.0;
        format!(
            "serve a finer recipe, or a model trained with --quantization-aware; or loosen the bound (--set \
             quality.min_agreement={kept}), or set quality.on_failure to warn"
        )
    }
}

/// What becomes of a folder with these scores. A share of few texts tells little, so only one that is surely below the
/// bound is refused.
fn admission<'a>(scores: &'a [Score], bound: &Bound) -> Admission<'a> {
    let agreements = scores.iter().filter(|s| AGREEMENTS.contains(&s.metric.as_str()) && s.precision != "f32");
    let Some(worst) = agreements.min_by(|a, b| at_most(a).total_cmp(&at_most(b))) else { return Admission::Served };
    let shortfall = Shortfall { worst, bound: bound.min_agreement };
    if worst.value >= bound.min_agreement {
        Admission::Served
    } else if bound.on_failure == OnFailure::Warn || at_most(worst) >= bound.min_agreement {
        Admission::Warned(shortfall)
    } else {
        Admission::Refused(shortfall)
    }
}

/// Refuses a folder whose stored agreement is below the bound, or warns of it.
fn check_stored(dir: &ModelDir, id: &str, bound: &Bound) -> anyhow::Result<()> {
    let scores = dir.manifest().map(|manifest| manifest.scores.as_slice()).unwrap_or_default();
    match admission(scores, bound) {
        Admission::Served => {}
        Admission::Warned(Shortfall { worst, .. }) => {
            let (agreement, dataset, texts) = (worst.value, &worst.dataset, worst.n);
            tracing::warn!(model = id, agreement, dataset, texts, "below quality.min_agreement");
        }
        Admission::Refused(shortfall) => bail!("{shortfall}; {}", shortfall.advice()),
    }
    Ok(())
}

/// What `octet serve` will say about a folder that stores these scores; none when it will say nothing.
pub(super) fn forecast(scores: &[Score], bound: &Bound) -> Option<String> {
    match admission(scores, bound) {
        Admission::Served => None,
        Admission::Warned(shortfall) if bound.on_failure == OnFailure::Warn => {
            Some(format!("octet serve will warn of this model: {shortfall}"))
        }
        Admission::Warned(shortfall) => Some(format!(
            "octet serve will warn of this model: {shortfall}; of so few texts that may be chance, so it is not refused"
        )),
        Admission::Refused(shortfall) => {
            Some(format!("octet serve will refuse this model: {shortfall}; {}", shortfall.advice()))
        }
    }
}

/// What an agreement is at most: the upper end of the 95 % interval of a share, and a cosine itself.
fn at_most(score: &Score) -> f64 {
    match score.metric.as_str() {
        "agreement_f32" => wilson((score.value * score.n as f64).round() as u64, score.n).high,
        _ => score.value,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn forecast_of(metric: &str, value: f64, n: u64, on_failure: OnFailure) -> Option<String> {
        let score = |metric: &str, precision: &str, value: f64, n| {
            let (dataset, metric, precision) = ("test".into(), metric.into(), precision.into());
            let (command, machine) = Default::default();
            Score { dataset, metric, precision, value, n, command, machine, date: None }
        };
        let scores = [
            score("accuracy", "int8", 0.1, 9000),
            score("agreement_f32", "f32", 0.1, 9000),
            score("agreement_f32", "int8", 0.99, 1000),
            score(metric, "int8", value, n),
        ];
        forecast(&scores, &Bound { min_agreement: 0.98, on_failure })
    }

    #[test]
    fn what_serve_will_say_is_foretold() {
        assert_eq!(forecast_of("agreement_f32", 0.98, 50, OnFailure::Refuse), None);
        let chance = forecast_of("agreement_f32", 0.96, 50, OnFailure::Refuse).unwrap();
        assert!(chance.contains("will warn") && chance.contains("is 0.9600 (50 texts)"), "{chance}");
        let refused = forecast_of("agreement_f32", 0.96, 5000, OnFailure::Refuse).unwrap();
        // The interval of 4,800 of 5,000 ends at 0.9651.
        for part in ["will refuse", "on test is 0.9600 (5000 texts), the bound is 0.98", "quality.min_agreement=0.96)"]
        {
            assert!(refused.contains(part), "{part}: {refused}");
        }
        let warned = forecast_of("agreement_f32", 0.96, 5000, OnFailure::Warn).unwrap();
        assert!(warned.contains("will warn") && !warned.contains("chance"), "{warned}");
        let vectors = forecast_of("cosine_f32", 0.979, 50, OnFailure::Fallback).unwrap();
        assert!(vectors.contains("will refuse") && vectors.contains("quality.min_agreement=0.97)"), "{vectors}");
    }
}
