//! Sentence vectors.

use anyhow::anyhow;
use serde_json::json;

use crate::cli::progress;
use crate::cli::section::Section;
use crate::cli::table::Table;
use crate::eval::EvalError;
use crate::eval::correlation::{pearson, spearman};
use crate::eval::embedding::{Vectors, closeness, embed_with_all};
use crate::eval::interval::bootstrap;
use crate::eval::metrics::cosine;
use crate::pipelines::Embedder;

use super::numbers::pick;
use super::report::{decimals, maybe, maybe_between, maybe_interval_json, percent};
use super::{Arena, Found, Measured};

pub(super) fn compare(arena: &Arena<'_>, embedders: &[&Embedder]) -> anyhow::Result<Found> {
    // First all texts, then the second texts of the pairs.
    let pairs: Vec<usize> = (0..arena.examples.len()).filter(|i| arena.examples[*i].text_pair.is_some()).collect();
    let seconds = pairs.iter().filter_map(|i| arena.examples[*i].text_pair.as_ref());
    let texts: Vec<String> = arena.examples.iter().map(|e| &e.text).chain(seconds).cloned().collect();
    let bar = progress::bar(texts.len() * embedders.len(), "embed");
    let found =
        embed_with_all(embedders, &texts, |done| bar.set_position(done as u64)).map_err(|(index, source)| {
            let example = if index < arena.examples.len() { index } else { pairs[index - arena.examples.len()] };
            EvalError::Pipeline { line: arena.examples[example].line, source }
        })?;
    bar.finish_and_clear();

    let mut results: Vec<Measured> = found.iter().map(Measured::of_vectors).collect();
    let mut sections = Vec::new();
    let rated: Vec<(usize, usize, f64)> = pairs
        .iter()
        .enumerate()
        .filter_map(|(second, first)| Some((*first, arena.examples.len() + second, arena.examples[*first].rating?)))
        .collect();
    let mut main = "mean cosine to the reference";
    if rated.len() >= 2 {
        sections.push(similarity(arena, &found, &rated, &mut results));
        main = "Spearman";
    }
    if found.len() > 1 {
        sections.push(close(arena, &found, &mut results));
    }
    if sections.is_empty() {
        return Err(anyhow!(
            "one model that embeds, and nothing to compare with: give two models, or --float, or rated pairs \
             (\"text_pair\" and \"rating\")"
        ));
    }
    Ok(Found { sections, results, main })
}

/// Cosines of rated pairs: semantic textual similarity.
fn similarity(
    arena: &Arena<'_>,
    found: &[Vectors],
    rated: &[(usize, usize, f64)],
    results: &mut [Measured],
) -> Section {
    let ratings: Vec<f64> = rated.iter().map(|(_, _, rating)| *rating).collect();
    let cosines = |vectors: &Vectors| -> Vec<f64> {
        rated.iter().map(|(a, b, _)| cosine(&vectors.vectors[*a], &vectors.vectors[*b])).collect()
    };
    let all: Vec<Vec<f64>> = found.iter().map(cosines).collect();
    let mut table = Table::new(["model", "pairs", "Spearman", "95 %", "Pearson", "against the reference", "95 %"]);
    let mut rows = Vec::new();
    for (index, own) in all.iter().enumerate() {
        let (rho, r) = (spearman(own, &ratings), pearson(own, &ratings));
        let interval = bootstrap(own.len(), |drawn| spearman(&pick(own, drawn), &pick(&ratings, drawn)));
        let gain = |drawn: &[usize]| {
            let truth = pick(&ratings, drawn);
            Some(spearman(&pick(own, drawn), &truth)? - spearman(&pick(&all[arena.reference], drawn), &truth)?)
        };
        let everything: Vec<usize> = (0..own.len()).collect();
        let against = (index != arena.reference).then(|| (gain(&everything), bootstrap(own.len(), gain)));
        let (difference, difference_interval) = against.unwrap_or_default();
        let cells =
            [arena.name(index).to_string(), own.len().to_string(), maybe(rho), maybe_between(interval), maybe(r)];
        let against = [difference.map_or("-".into(), |d| format!("{d:+.4}")), maybe_between(difference_interval)];
        table.row(cells.into_iter().chain(against));
        rows.push(json!({
            "model": arena.name(index),
            "pairs": own.len(),
            "spearman": rho,
            "spearman_interval": maybe_interval_json(interval),
            "pearson": r,
            "spearman_difference": difference,
            "spearman_difference_interval": maybe_interval_json(difference_interval),
        }));
        let measured = &mut results[index];
        measured.figures.extend(rho.map(|rho| ("spearman", rho)));
        measured.figures.extend(r.map(|r| ("pearson", r)));
        measured.main = rho.map(|rho| (rho, interval));
    }
    let notes = vec![
        "Cosine of the two vectors of each pair beside its rating; intervals by the bootstrap, for the difference with \
         both models on the same drawn pairs."
            .into(),
    ];
    Section { key: "similarity", title: "Similarity of rated pairs", table, rows, figures: Vec::new(), notes }
}

/// How near the vectors are to the reference's.
fn close(arena: &Arena<'_>, found: &[Vectors], results: &mut [Measured]) -> Section {
    let mut table = Table::new(["model", "texts", "mean cosine", "1 % below", "same nearest text"]);
    let mut rows = Vec::new();
    let is_f32 = arena.contestants[arena.reference].model.info.precision == "f32";
    for index in arena.others() {
        let c = closeness(&found[index].vectors, &found[arena.reference].vectors);
        let cells = [arena.name(index).to_string(), found[index].vectors.len().to_string()];
        table.row(cells.into_iter().chain([decimals(c.mean_cosine), decimals(c.p1_cosine), percent(c.same_nearest)]));
        rows.push(json!({
            "model": arena.name(index),
            "reference": arena.name(arena.reference),
            "texts": found[index].vectors.len(),
            "mean_cosine": c.mean_cosine,
            "p1_cosine": c.p1_cosine,
            "same_nearest": c.same_nearest,
            "neighbours": c.neighbours,
        }));
        if is_f32 {
            let figures =
                [("cosine_f32", c.mean_cosine), ("cosine_f32_p1", c.p1_cosine), ("same_nearest_f32", c.same_nearest)];
            results[index].figures.extend(figures);
        }
        let measured = &mut results[index];
        measured.main = measured.main.or(Some((c.mean_cosine, None)));
    }
    let neighbours = rows.first().map_or(0, |row| row["neighbours"].as_u64().unwrap_or(0));
    let notes = vec![format!(
        "Compared with {}: cosine of the two models' vectors of each text, and whether the nearest other text is the \
         same one, among {neighbours} texts.",
        arena.name(arena.reference)
    )];
    Section { key: "closeness", title: "Closeness", table, rows, figures: Vec::new(), notes }
}
