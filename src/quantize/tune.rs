//! Mixed precision: what each form of each module costs in accuracy, bytes and time, and which to choose.

use crate::kernels::Kernels;
use crate::kernels::affine::Scheme;

use super::original::{Form, Original};
use super::report::{Sensitivity, Stored, Tried};
use super::search::{Budget, Choice, Found, cost, search};
use super::timing::product_seconds;
use super::{
    Calibration, Judge, LayerRule, Module, Place, QuantizeError, Recipe, Smoothing, Verdict, probe, scheme_name,
};

/// The forms that modules may take; `None` is float.
#[derive(Clone, Debug)]
pub struct Forms {
    /// Of matrices.
    pub matrices: Vec<Option<Scheme>>,
    /// Of embedding tables.
    pub tables: Vec<Option<Scheme>>,
}

/// Every form of every module of a model, ready to be combined.
pub struct Workbench<'a> {
    original: &'a Original<'a>,
    kernels: Kernels,
    base: Recipe,
    /// Per module, its schemes with their forms.
    forms: Vec<Vec<(Option<Scheme>, Form)>>,
    /// Per module and form, in the same order.
    verdicts: Vec<Vec<Verdict>>,
    /// Likewise.
    choices: Vec<Vec<Choice>>,
}

/// What tuning should do.
#[derive(Clone, Copy, Debug)]
pub struct TuneOptions {
    /// Limits.
    pub budget: Budget,
    /// Least agreement with the float model.
    pub min_agreement: f64,
}

/// What tuning found.
#[derive(Clone, Debug)]
pub struct Tuned {
    /// As a person could have written it.
    pub recipe: Recipe,
    /// The choice, and its agreement.
    pub found: Found,
    /// The whole model against the float one.
    pub verdict: Verdict,
    /// Bytes of the whole, and seconds of the products.
    pub cost: Choice,
    /// Everything that was measured end to end.
    pub tried: Vec<Tried>,
}

impl<'a> Workbench<'a> {
    /// Makes every form of every module, rounded as the recipe `base` says, and measures each alone on the judge's
    /// texts; `progress` hears how many modules are done. Some 100 texts tell modules apart; whole models need more
    /// ([`Workbench::measure`]).
    ///
    /// # Errors
    /// [`QuantizeError`] when the float executor fails.
    pub fn new(
        original: &'a Original<'a>,
        judge: &Judge,
        forms: &Forms,
        base: &Recipe,
        calibration: Option<&Calibration>,
        (kernels, threads): (Kernels, usize),
        progress: impl FnMut(usize),
    ) -> Result<Self, QuantizeError> {
        let mut made = Vec::new();
        let replacements = |module: &Module| {
            let schemes = match module.place {
                Place::Table(_) => &forms.tables,
                Place::Matrix { .. } => &forms.matrices,
            };
            let fits = |scheme: &&Option<Scheme>| scheme.is_none_or(|s| s.groups(module.columns).is_some());
            let form = |scheme: &Option<Scheme>| {
                let recipe = Recipe { weights: *scheme, embeddings: *scheme, layers: Vec::new(), ..base.clone() };
                let form = original.form(module, &recipe, &Smoothing::new(), calibration);
                (*scheme, form.expect("the groups divide the row, and inputs are dynamic or were seen"))
            };
            let own: Vec<(Option<Scheme>, Form)> = schemes.iter().filter(fits).map(form).collect();
            let quantized = own.iter().filter(|(scheme, _)| scheme.is_some());
            let replacements = quantized.map(|(_, form)| original.replacement(module, form, kernels)).collect();
            made.push(own);
            replacements
        };
        let probed = probe(&original.encoder, judge, &original.modules, threads, replacements, progress)?;
        let exact = Verdict { agreement: 1.0, cosine: 1.0, ..Verdict::default() };
        let of_module = |(forms, probed): (&Vec<(Option<Scheme>, Form)>, Vec<Verdict>)| {
            let mut probed = probed.into_iter();
            forms.iter().map(|(scheme, _)| scheme.map_or(exact, |_| probed.next().expect("was probed"))).collect()
        };
        let verdicts: Vec<Vec<Verdict>> = made.iter().zip(probed).map(of_module).collect();
        let mut timed = Vec::new();
        let mut choices = Vec::new();
        for ((module, forms), verdicts) in original.modules.iter().zip(&made).zip(&verdicts) {
            let mut seconds = |scheme: Option<Scheme>| match module.place {
                Place::Table(_) => 0.0,
                Place::Matrix { .. } => {
                    let key = ([module.rows, module.columns], scheme);
                    if let Some((_, seconds)) = timed.iter().find(|(known, _)| *known == key) {
                        return *seconds;
                    }
                    let seconds = product_seconds(kernels, key.0, scheme);
                    timed.push((key, seconds));
                    seconds
                }
            };
            let own = forms.iter().zip(verdicts).map(|((scheme, form), verdict)| Choice {
                bytes: form.bytes(module),
                seconds: seconds(*scheme),
                loss: verdict.divergence.max(0.0),
            });
            choices.push(own.collect());
        }
        Ok(Workbench { original, kernels, base: base.clone(), forms: made, verdicts, choices })
    }

    /// What each form of each module alone costs, for the report; the forms of all modules together.
    pub fn sensitivity(&self) -> Sensitivity {
        let mut schemes: Vec<Scheme> = Vec::new();
        for scheme in self.forms.iter().flatten().filter_map(|(scheme, _)| *scheme) {
            if !schemes.contains(&scheme) {
                schemes.push(scheme);
            }
        }
        let loss = |module: usize, scheme: &Scheme| {
            let at = self.forms[module].iter().position(|(own, _)| own.as_ref() == Some(scheme))?;
            Some(self.verdicts[module][at].divergence)
        };
        let losses = (0..self.forms.len()).map(|module| schemes.iter().map(|s| loss(module, s)).collect()).collect();
        Sensitivity { forms: schemes.iter().map(|s| scheme_name(Some(*s))).collect(), losses }
    }

    /// The schemes of a module, and what each alone costs.
    pub fn verdicts(&self, module: usize) -> impl Iterator<Item = (Option<Scheme>, Verdict)> + '_ {
        self.forms[module].iter().map(|(scheme, _)| *scheme).zip(self.verdicts[module].iter().copied())
    }

    /// The form of every module with one scheme for matrices and one for tables; where a module has no such form,
    /// float.
    pub fn uniform(&self, matrices: Option<Scheme>, tables: Option<Scheme>) -> Vec<usize> {
        let at = |(module, forms): (&Module, &Vec<(Option<Scheme>, Form)>)| {
            let wanted = if matches!(module.place, Place::Table(_)) { tables } else { matrices };
            let position = |wanted: Option<Scheme>| forms.iter().position(|(scheme, _)| *scheme == wanted);
            position(wanted).or(position(None)).unwrap_or(0)
        };
        self.original.modules.iter().zip(&self.forms).map(at).collect()
    }

    /// Runs the whole model with a form for each module, on the executor that serves.
    ///
    /// # Errors
    /// [`QuantizeError`] when a file cannot be read.
    pub fn measure(&self, judge: &Judge, assignment: &[usize]) -> Result<Verdict, QuantizeError> {
        let forms: Vec<&Form> = self.forms.iter().zip(assignment).map(|(forms, at)| &forms[*at].1).collect();
        Ok(judge.verdict(std::sync::Arc::new(self.original.candidate(&forms, self.kernels)?)))
    }

    /// Bytes of the whole model, and seconds and the sum of losses of an assignment.
    pub fn cost(&self, assignment: &[usize]) -> Choice {
        let modules = cost(&self.choices, assignment);
        Choice { bytes: modules.bytes + self.original.float_bytes(), ..modules }
    }

    /// The cost of the smallest form of every module.
    pub fn cheapest(&self) -> Choice {
        let smallest = |choices: &Vec<Choice>| (0..choices.len()).min_by_key(|at| choices[*at].bytes).unwrap_or(0);
        self.cost(&self.choices.iter().map(smallest).collect::<Vec<_>>())
    }

    /// Every module in the form of an assignment, for the report.
    pub fn stored(&self, assignment: &[usize]) -> Vec<Stored> {
        let forms = self.forms.iter().zip(assignment).map(|(forms, at)| &forms[*at].1);
        self.original.modules.iter().zip(forms).map(|(module, form)| self.original.stored(module, form)).collect()
    }

    /// Searches an assignment; none when nothing keeps the budget. `note` hears each candidate as it was measured.
    ///
    /// # Errors
    /// As [`Workbench::measure`].
    pub fn tune(
        &self,
        name: &str,
        judge: &Judge,
        options: &TuneOptions,
        mut note: impl FnMut(&Tried),
    ) -> Result<Option<Tuned>, QuantizeError> {
        let mut tried = Vec::new();
        // Biases, norms and heads are part of the size, and nothing to choose.
        let bytes = options.budget.bytes.map(|bytes| bytes.saturating_sub(self.original.float_bytes()));
        let budget = Budget { bytes, ..options.budget };
        let found = search(&self.choices, &budget, options.min_agreement, |assignment| {
            let agreement = self.measure(judge, assignment)?.agreement;
            let Choice { bytes, seconds, .. } = self.cost(assignment);
            let name = format!("candidate {}", tried.len() + 1);
            tried.push(Tried { name, bytes, agreement, seconds: Some(seconds), chosen: false });
            note(&tried[tried.len() - 1]);
            Ok::<_, QuantizeError>(agreement)
        })?;
        let Some(found) = found else { return Ok(None) };
        let verdict = self.measure(judge, &found.assignment)?;
        let cost = self.cost(&found.assignment);
        tried.retain(|t| (t.bytes, t.agreement) != (cost.bytes, found.agreement));
        let (bytes, agreement) = (cost.bytes, found.agreement);
        tried.push(Tried { name: name.into(), bytes, agreement, seconds: Some(cost.seconds), chosen: true });
        Ok(Some(Tuned { recipe: self.recipe(name, &found.assignment), found, verdict, cost, tried }))
    }

    /// An assignment as a recipe: the schemes that most weights have, and a line for each module that differs.
    pub fn recipe(&self, name: &str, assignment: &[usize]) -> Recipe {
        let chosen: Vec<(&Module, Option<Scheme>)> = self
            .original
            .modules
            .iter()
            .zip(&self.forms)
            .zip(assignment)
            .map(|((module, forms), at)| (module, forms[*at].0))
            .collect();
        let usual = |tables: bool| {
            let of_kind = chosen.iter().filter(|(m, _)| matches!(m.place, Place::Table(_)) == tables);
            let mut counts: Vec<(Option<Scheme>, usize)> = Vec::new();
            for (module, scheme) in of_kind {
                let weights = module.rows * module.columns;
                match counts.iter_mut().find(|(known, _)| known == scheme) {
                    Some((_, count)) => *count += weights,
                    None => counts.push((*scheme, weights)),
                }
            }
            counts.into_iter().max_by_key(|(_, count)| *count).and_then(|(scheme, _)| scheme)
        };
        let (weights, embeddings) = (usual(false), usual(true));
        let differs = |(module, scheme): &&(&Module, Option<Scheme>)| {
            *scheme != if matches!(module.place, Place::Table(_)) { embeddings } else { weights }
        };
        let rule = |(module, scheme): &(&Module, Option<Scheme>)| LayerRule {
            pattern: module.name.clone(),
            weights: Some(*scheme),
            activations: None,
        };
        let layers = chosen.iter().filter(differs).map(rule).collect();
        Recipe { scheme: name.into(), weights, embeddings, layers, ..self.base.clone() }
    }
}
