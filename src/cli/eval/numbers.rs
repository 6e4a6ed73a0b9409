//! Heads that give a number.

use anyhow::ensure;
use serde_json::json;

use crate::cli::progress;
use crate::cli::section::Section;
use crate::cli::table::Table;
use crate::eval::classification;
use crate::eval::correlation::{mean_squared_error, pearson, spearman};
use crate::eval::interval::bootstrap;
use crate::pipelines::Classifier;

use super::report::{decimals, maybe, maybe_between, maybe_interval_json};
use super::{Arena, Found, Measured};

pub(super) fn compare(arena: &Arena<'_>, models: &[&Classifier]) -> anyhow::Result<Found> {
    let many = models.iter().position(|m| m.labels.len() != 1);
    ensure!(many.is_none(), "{} gives several numbers per text; one is judged", arena.name(many.unwrap_or(0)));
    let rated: Vec<usize> = (0..arena.examples.len()).filter(|i| arena.examples[*i].rating.is_some()).collect();
    ensure!(rated.len() >= 2, "a head that gives numbers needs examples with a rating; see --rating-column");
    let ratings: Vec<f64> = rated.iter().filter_map(|i| arena.examples[*i].rating).collect();
    let bar = progress::bar(arena.examples.len() * models.len(), "classify");
    let outputs = classification::run(models, arena.examples, |done| bar.set_position(done as u64))?;
    bar.finish_and_clear();
    let values: Vec<Vec<f64>> = outputs
        .iter()
        .zip(models)
        .map(|(output, model)| {
            let scores = output.scores(model);
            rated.iter().map(|i| f64::from(scores[*i][0])).collect()
        })
        .collect();

    let mut table = Table::new(["model", "n", "MSE", "Pearson", "Spearman", "95 %"]);
    let (mut rows, mut results) = (Vec::new(), Vec::new());
    for (index, own) in values.iter().enumerate() {
        let (r, rho) = (pearson(own, &ratings), spearman(own, &ratings));
        let error = mean_squared_error(own, &ratings);
        let interval = bootstrap(own.len(), |drawn| spearman(&pick(own, drawn), &pick(&ratings, drawn)));
        let cells = [arena.name(index).to_string(), own.len().to_string(), decimals(error)];
        table.row(cells.into_iter().chain([maybe(r), maybe(rho), maybe_between(interval)]));
        rows.push(json!({
            "model": arena.name(index),
            "n": own.len(),
            "mse": error,
            "pearson": r,
            "spearman": rho,
            "spearman_interval": maybe_interval_json(interval),
        }));
        let mut figures = vec![("mse", error)];
        figures.extend(r.map(|r| ("pearson", r)));
        figures.extend(rho.map(|rho| ("spearman", rho)));
        results.push(Measured {
            figures,
            main: rho.map(|rho| (rho, interval)),
            ..Measured::of_outputs(&outputs[index])
        });
    }
    let notes = vec!["95 %: bootstrap interval of Spearman's correlation.".into()];
    let mut sections =
        vec![Section { key: "accuracy", title: "Numbers and ratings", table, rows, figures: Vec::new(), notes }];
    if values.len() > 1 {
        sections.push(changed(arena, &values, &ratings));
    }
    Ok(Found { sections, results, main: "Spearman" })
}

/// The drawn values.
pub(super) fn pick(values: &[f64], drawn: &[usize]) -> Vec<f64> {
    drawn.iter().map(|i| values[*i]).collect()
}

fn changed(arena: &Arena<'_>, values: &[Vec<f64>], ratings: &[f64]) -> Section {
    let mut table = Table::new(["model", "Spearman", "95 %", "mean difference", "largest", "Pearson with it"]);
    let reference = &values[arena.reference];
    let mut rows = Vec::new();
    for index in arena.others() {
        let own = &values[index];
        let gain = |drawn: &[usize]| {
            let truth = pick(ratings, drawn);
            Some(spearman(&pick(own, drawn), &truth)? - spearman(&pick(reference, drawn), &truth)?)
        };
        let everything: Vec<usize> = (0..own.len()).collect();
        let (difference, interval) = (gain(&everything), bootstrap(own.len(), gain));
        let apart = own.iter().zip(reference).map(|(a, b)| (a - b).abs());
        let (mean, largest) = (apart.clone().sum::<f64>() / own.len() as f64, apart.fold(0.0, f64::max));
        let r = pearson(own, reference);
        let cells = [arena.name(index).to_string(), difference.map_or("-".into(), |d| format!("{d:+.4}"))];
        let figures = [maybe_between(interval), decimals(mean), decimals(largest), maybe(r)];
        table.row(cells.into_iter().chain(figures));
        rows.push(json!({
            "model": arena.name(index),
            "reference": arena.name(arena.reference),
            "spearman_difference": difference,
            "spearman_difference_interval": maybe_interval_json(interval),
            "mean_absolute_difference": mean,
            "largest_absolute_difference": largest,
            "pearson_with_reference": r,
        }));
    }
    let notes = vec![format!(
        "Compared with {}; the interval is of the paired bootstrap: both models on the same drawn texts.",
        arena.name(arena.reference)
    )];
    Section { key: "changes", title: "What changed", table, rows, figures: Vec::new(), notes }
}
