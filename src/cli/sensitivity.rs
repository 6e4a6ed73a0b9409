//! `octet sensitivity SRC --data FILE`

use std::path::PathBuf;

use anyhow::Context;
use clap::Args;
use serde_json::json;

use crate::checkpoint::ModelDir;
use crate::quantize::{Forms, Original, Rounding, Verdict, scheme_name};

use super::compare::{Compared, workbench};
use super::table::Table;
use super::{Common, kernels, machine, progress, threads};

/// Measure what quantization of each layer alone costs.
///
/// One matrix or table at a time is stored in each form, everything else stays
/// float, and the answers are compared with those of the float model: the
/// divergence of label probabilities, or 1 - cosine of sentence vectors. The last
/// column is the other way round: everything in int8 except this module; negative
/// is what float there would win.
///
///   octet sensitivity path/to/float-model --data texts.jsonl
#[derive(Args)]
#[command(verbatim_doc_comment)]
pub(super) struct SensitivityArgs {
    #[command(flatten)]
    compared: Compared,
    /// How weights are rounded: nearest, search, or gptq
    #[arg(long, default_value = "nearest")]
    rounding: Rounding,
    /// Write everything as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

pub(super) fn run(args: SensitivityArgs, common: &Common) -> anyhow::Result<()> {
    let settings = common.settings(Vec::new())?;
    let (kernels, threads) = (kernels(&settings)?, threads(&settings));
    let source = ModelDir::open(&args.compared.folder(&settings)?)?;
    let original = Original::load(&source)?;
    let judge = args.compared.judge(&original, (kernels, threads), args.compared.texts)?;
    let forms = args.compared.forms()?;
    let forms = Forms { matrices: forms.clone(), tables: forms };
    let (bench, _) = workbench(&original, &judge, &forms, args.rounding, (kernels, threads))?;
    let bar = progress::bar(original.modules.len(), "back to float");
    let (all, spared) = original.spared(&judge, (kernels, threads), |done| bar.set_position(done as u64))?;
    bar.finish_and_clear();

    let sensitivity = bench.sensitivity();
    let mut header = vec!["module".to_string()];
    header.extend(sensitivity.forms.iter().cloned());
    header.push("int8 but this".into());
    let mut table = Table::with_header(header);
    for ((module, losses), without) in original.modules.iter().zip(&sensitivity.losses).zip(&spared) {
        let mut cells = vec![module.name.clone()];
        cells.extend(losses.iter().map(|loss| loss.map_or(String::new(), |loss| format!("{loss:.2e}"))));
        cells.push(format!("{:+.1e}", without.divergence - all.divergence));
        table.row(cells);
    }
    println!("{table}");
    println!("{} texts; mean divergence from the float model's answers, 0 is no difference", judge.len());
    if let Some(file) = &args.json {
        let modules = original.modules.iter().enumerate().map(|(index, module)| {
            let alone = bench.verdicts(index).map(|(scheme, v)| (scheme_name(scheme), fields(&v)));
            json!({
                "module": module.name,
                "rows": module.rows,
                "columns": module.columns,
                "alone": alone.collect::<serde_json::Map<_, _>>(),
                "all_int8_but_this": fields(&spared[index]),
            })
        });
        let report = json!({
            "octet": env!("CARGO_PKG_VERSION"),
            "model": args.compared.source,
            "source_sha256": source.digest(),
            "texts": judge.len(),
            "all_int8": fields(&all),
            "rounding": args.rounding.name(),
            "machine": machine::describe(kernels),
            "date": machine::today(),
            "modules": modules.collect::<Vec<_>>(),
        });
        let text = serde_json::to_string_pretty(&report).expect("JSON with string keys can be written") + "\n";
        std::fs::write(file, text).with_context(|| format!("cannot write {}", file.display()))?;
    }
    Ok(())
}

/// A verdict as JSON.
fn fields(verdict: &Verdict) -> serde_json::Value {
    json!({
        "agreement": verdict.agreement,
        "divergence": verdict.divergence,
        "mse": verdict.mse,
        "sqnr_db": verdict.sqnr_db,
        "cosine": verdict.cosine,
        "max_abs": verdict.max_abs,
    })
}
