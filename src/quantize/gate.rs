//! The bound on agreement with the float model, and what happens below it.

use std::sync::Arc;

use crate::kernels::Kernels;

use super::{Form, Judge, Module, Original, QuantizeError, Verdict, probe};

/// What to do with a model whose agreement is below the bound.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnFailure {
    /// It is not written, or not served.
    #[default]
    Refuse,
    /// It is used, and this is said.
    Warn,
    /// Modules go back to float, those that cost most first, until the bound holds.
    Fallback,
}

/// What must hold, and what to do when it does not.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bound {
    /// Least [`Verdict::agreement`], 0 to 1.
    pub min_agreement: f64,
    /// What to do below it.
    pub on_failure: OnFailure,
}

/// How a model came through the gate.
#[derive(Clone, Debug, PartialEq)]
pub struct Passed {
    /// The model as it is now.
    pub verdict: Verdict,
    /// Whether the bound holds; false only where a warning is enough.
    pub holds: bool,
    /// Modules that went back to float, in the order in which they did.
    pub fallen_back: Vec<String>,
}

impl Bound {
    /// Measures a candidate, `forms` in the order of [`Original::modules`], and does what the bound says; `progress` is
    /// told what is being done.
    ///
    /// # Errors
    /// [`QuantizeError::Agreement`] when the bound is not kept and nothing else was asked for, or not even the float
    /// matrices keep it; those of the executors.
    pub fn pass(
        &self,
        original: &Original,
        judge: &Judge,
        forms: &mut [Form],
        (kernels, threads): (Kernels, usize),
        mut progress: impl FnMut(String),
    ) -> Result<Passed, QuantizeError> {
        let measure = |forms: &[Form]| -> Result<Verdict, QuantizeError> {
            let forms: Vec<&Form> = forms.iter().collect();
            Ok(judge.verdict(Arc::new(original.candidate(&forms, kernels)?)))
        };
        let mut verdict = measure(forms)?;
        let mut fallen_back = Vec::new();
        let refused = |verdict: &Verdict| QuantizeError::Agreement {
            found: verdict.agreement,
            bound: self.min_agreement,
            texts: judge.len(),
        };
        if verdict.agreement >= self.min_agreement {
            return Ok(Passed { verdict, holds: true, fallen_back });
        }
        match self.on_failure {
            OnFailure::Refuse => return Err(refused(&verdict)),
            OnFailure::Warn => return Ok(Passed { verdict, holds: false, fallen_back }),
            OnFailure::Fallback => {}
        }
        for index in by_cost(original, judge, forms, (kernels, threads), &mut progress)? {
            forms[index] = Form::float();
            verdict = measure(forms)?;
            let name = original.modules[index].name.clone();
            progress(format!("{name} in float: agreement {:.4}", verdict.agreement));
            fallen_back.push(name);
            if verdict.agreement >= self.min_agreement {
                return Ok(Passed { verdict, holds: true, fallen_back });
            }
        }
        Err(refused(&verdict))
    }
}

/// The modules that are not float, by what each alone costs, most first.
fn by_cost(
    original: &Original,
    judge: &Judge,
    forms: &[Form],
    (kernels, threads): (Kernels, usize),
    progress: &mut impl FnMut(String),
) -> Result<Vec<usize>, QuantizeError> {
    let total = original.modules.len();
    let alone = |module: &Module| {
        let index = original.modules.iter().position(|other| other == module).expect("a module of the model");
        vec![original.replacement(module, &forms[index], kernels)]
    };
    let told = |done: usize| progress(format!("what each module costs: {done} of {total}"));
    let verdicts = probe(&original.encoder, judge, &original.modules, threads, alone, told)?;
    let mut order: Vec<usize> = (0..total).filter(|index| forms[*index].weight.is_some()).collect();
    order.sort_by(|a, b| verdicts[*b][0].divergence.total_cmp(&verdicts[*a][0].divergence));
    Ok(order)
}
