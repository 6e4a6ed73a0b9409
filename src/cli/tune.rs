//! `octet tune SRC --data FILE`

use std::path::PathBuf;

use anyhow::{Context, bail, ensure};
use clap::Args;

use crate::checkpoint::ModelDir;
use crate::kernels::affine::Scheme;
use crate::quantize::report::{Report, Tried};
use crate::quantize::search::Budget;
use crate::quantize::{Forms, Original, Recipe, Rounding, TuneOptions, scheme_name};

use super::compare::{Compared, workbench};
use super::table::{Table, megabytes};
use super::{Common, kernels, progress, threads};

/// Texts on which modules are told apart; whole models are measured on all of them.
const PROBED_TEXTS: usize = 128;

/// Choose a precision for each layer, within budgets, and write it as a recipe.
///
/// Every layer is measured alone in every form, then the best mix within the
/// budgets is searched and measured end to end with the kernels that serve; layers
/// that hurt more than their measurement said go back to a finer form. Without a
/// budget it looks for the smallest model that keeps the agreement. Times are those
/// of all matrix products for 32 tokens.
///
///   octet tune path/to/float-model --data texts.jsonl --max-size 15MB --min-agreement 0.98 --out mixed.toml
///   octet quantize path/to/float-model models/mixed --recipe mixed.toml --calibrate texts.jsonl
#[derive(Args)]
#[command(verbatim_doc_comment)]
pub(super) struct TuneArgs {
    #[command(flatten)]
    compared: Compared,
    /// Largest size of the weights, such as 15MB or 500kB
    #[arg(long, value_name = "SIZE", value_parser = bytes)]
    max_size: Option<u64>,
    /// Longest time of the matrix products for 32 tokens on one thread, such as 2ms or 800us
    #[arg(long, value_name = "TIME", value_parser = seconds)]
    max_latency: Option<f64>,
    /// Least agreement with the float model: share of the same labels, or mean cosine of sentence vectors [default:
    /// quality.min_agreement]
    #[arg(long, value_name = "SHARE")]
    min_agreement: Option<f64>,
    /// How weights are rounded: nearest, search, or gptq
    #[arg(long, default_value = "gptq")]
    rounding: Rounding,
    /// Name of the recipe, in reports and metrics
    #[arg(long, default_value = "mixed")]
    name: String,
    /// Write the recipe
    #[arg(long, value_name = "FILE", default_value = "recipe.toml")]
    out: PathBuf,
    /// Replace the file of --out
    #[arg(long)]
    force: bool,
    /// Write everything as one HTML page
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
}

pub(super) fn run(args: TuneArgs, common: &Common) -> anyhow::Result<()> {
    let settings = common.settings(Vec::new())?;
    let (kernels, threads) = (kernels(&settings)?, threads(&settings));
    let min_agreement = args.min_agreement.unwrap_or(settings.quality.min_agreement.value());
    let matrices = args.compared.forms()?;
    ensure!(
        args.force || !args.out.exists(),
        "{}: exists; write to another file with --out, or replace it with --force",
        args.out.display()
    );
    let source = ModelDir::open(&args.compared.folder(&settings)?)?;
    let original = Original::load(&source)?;
    let judge = args.compared.judge(&original, (kernels, threads), args.compared.texts)?;
    let probing = args.compared.judge(&original, (kernels, threads), args.compared.texts.min(PROBED_TEXTS))?;

    let keeps_rows_apart = |form: &&Option<Scheme>| form.is_none_or(|scheme| scheme.levels.may_be_asymmetric());
    let forms = Forms { tables: matrices.iter().filter(keeps_rows_apart).copied().collect(), matrices };
    let (bench, calibration) = workbench(&original, &probing, &forms, args.rounding, (kernels, threads))?;

    let mut tried = Vec::new();
    for scheme in forms.matrices.iter().copied() {
        let tables = if forms.tables.contains(&scheme) { scheme } else { Some(Scheme::INT8) };
        let assignment = bench.uniform(scheme, tables);
        let (verdict, cost) = (bench.measure(&judge, &assignment)?, bench.cost(&assignment));
        let (name, agreement) = (scheme_name(scheme), verdict.agreement);
        tried.push(Tried { name, bytes: cost.bytes, agreement, seconds: Some(cost.seconds), chosen: false });
    }
    let options = TuneOptions { budget: Budget { bytes: args.max_size, seconds: args.max_latency }, min_agreement };
    let bar = progress::bar(0, "search");
    let found = bench.tune(&args.name, &judge, &options, |tried| {
        bar.inc_length(1);
        bar.inc(1);
        bar.set_message(format!("{}: agreement {:.4}", megabytes(tried.bytes), tried.agreement));
    })?;
    bar.finish_and_clear();
    let Some(tuned) = found else {
        let smallest = bench.cheapest();
        bail!(
            "no mix of these forms keeps the budgets: the smallest has {} and takes {:.3} ms",
            megabytes(smallest.bytes),
            smallest.seconds * 1e3
        );
    };
    tried.extend(tuned.tried.iter().cloned());

    let mut table = Table::new(["recipe", "size", "agreement", "products, ms"]);
    for t in &tried {
        let time = t.seconds.map_or(String::new(), |s| format!("{:.3}", s * 1e3));
        table.row([t.name.clone(), megabytes(t.bytes), format!("{:.4}", t.agreement), time]);
    }
    println!("{table}");
    println!(
        "{} texts; {}",
        judge.len(),
        if tuned.found.reverted > 0 {
            format!("{} steps were taken back to keep the agreement", tuned.found.reverted)
        } else {
            "every step of the search held".into()
        }
    );
    let recipe = &tuned.recipe;
    if let Some(file) = &args.report {
        let report = Report {
            model: format!("{} of {}", args.name, args.compared.source.rsplit('/').next().unwrap_or_default()),
            recipe: summary(recipe),
            modules: bench.stored(&tuned.found.assignment),
            float_bytes: original.float_bytes(),
            inputs: calibration.entering(),
            verdict: Some((tuned.verdict, judge.answers(), judge.len())),
            sensitivity: Some(bench.sensitivity()),
            tried,
            min_agreement: Some(min_agreement),
        };
        std::fs::write(file, report.page().html()).with_context(|| format!("cannot write {}", file.display()))?;
        println!("{}: what was measured, with figures", file.display());
    }
    if !tuned.found.within_budget {
        bail!(
            "agreement {:.4} needs {} and {:.3} ms, which is over the budget; loosen one of them; no recipe was written",
            tuned.found.agreement,
            megabytes(tuned.cost.bytes),
            tuned.cost.seconds * 1e3
        );
    }
    if tuned.found.agreement < min_agreement {
        bail!(
            "no mix reaches agreement {min_agreement}; the best has {:.4}; no recipe was written",
            tuned.found.agreement
        );
    }
    std::fs::write(&args.out, recipe.to_toml()).with_context(|| format!("cannot write {}", args.out.display()))?;
    println!("{}: {}", args.out.display(), summary(recipe));
    Ok(())
}

/// A recipe in a sentence.
fn summary(recipe: &Recipe) -> String {
    let (weights, embeddings) = (scheme_name(recipe.weights), scheme_name(recipe.embeddings));
    let name = &recipe.scheme;
    format!("{name}: matrices in {weights}, tables in {embeddings}, {} exceptions", recipe.layers.len())
}

/// `15MB`, `500kB`, or bytes.
fn bytes(text: &str) -> Result<u64, String> {
    quantity(text, &[("GB", 1e9), ("MB", 1e6), ("kB", 1e3), ("", 1.0)])
        .map(|bytes| bytes as u64)
        .ok_or_else(|| format!("found \"{text}\", expected a size such as 15MB, 500kB or a number of bytes"))
}

/// `2ms`, `800us`, in seconds.
fn seconds(text: &str) -> Result<f64, String> {
    quantity(text, &[("ms", 1e-3), ("us", 1e-6), ("s", 1.0)])
        .ok_or_else(|| format!("found \"{text}\", expected a time such as 2ms or 800us"))
}

/// A positive number with one of these units behind it.
fn quantity(text: &str, units: &[(&str, f64)]) -> Option<f64> {
    let text = text.trim();
    let (number, unit) = units.iter().find_map(|(unit, factor)| Some((text.strip_suffix(unit)?, factor)))?;
    let number: f64 = number.trim().parse().ok()?;
    (number.is_finite() && number > 0.0).then_some(number * unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_times_have_units() {
        assert_eq!(bytes("15MB"), Ok(15_000_000));
        assert_eq!(bytes("1.5 kB"), Ok(1500));
        assert_eq!(bytes("2048"), Ok(2048));
        assert_eq!(seconds("2ms"), Ok(0.002));
        assert_eq!(seconds("800us"), Ok(800.0 * 1e-6));
        for text in ["", "MB", "-3MB", "12 apples"] {
            assert!(bytes(text).unwrap_err().contains("such as 15MB"), "{text}");
        }
        assert!(seconds("5").unwrap_err().contains("2ms"));
    }
}
