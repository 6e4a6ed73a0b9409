//! A float model in memory: what quantization starts from, and what candidates are compared with.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::OnceLock;

use crate::architectures::{self, EncoderNames, EncoderSpec, LinearNames};
use crate::checkpoint::{ModelDir, Tensor, Weights};
use crate::kernels::Kernels;
use crate::kernels::affine::{Inputs, Levels, QuantizedWeights, Scheme};
use crate::nn::{CandleEncoder, Linear, Precision, Site};
use crate::runtime::Int8Encoder;
use crate::text::Tokenizer;

use super::calibrate::{Seen, Smoothing};
use super::observers::Histogram;
use super::report::Stored;
use super::smooth::{self, Shown, Smoothed, column_max, factors, made_up};
use super::{
    Calibration, Judge, Module, Place, QuantizeError, Recipe, Replacement, Verdict, corrected_bias, error_of, probe,
    scheme_name, table,
};

/// The encoder of a float folder, loaded once.
pub struct Original<'a> {
    source: &'a ModelDir,
    /// Sizes and options.
    pub spec: EncoderSpec,
    /// Weight names by role.
    pub names: EncoderNames,
    /// Tables and matrices, from the input to the output.
    pub modules: Vec<Module>,
    /// Runs it in float.
    pub encoder: CandleEncoder,
    /// Weights and biases of the modules.
    values: BTreeMap<String, Vec<f32>>,
    /// Bytes of what is in no module.
    float_bytes: u64,
    /// Of made-up sequences, for smoothing.
    shown: OnceLock<Shown>,
}

/// A module as it is stored: its weight, its bias where that changed with it, and how its inputs are quantized.
#[derive(Clone, Debug, PartialEq)]
pub struct Form {
    /// The integers; none for float.
    pub weight: Option<QuantizedWeights>,
    /// The bias; none where it is as it was.
    pub bias: Option<Vec<f32>>,
    /// What happens to the rows that enter a matrix; float for tables.
    pub inputs: Inputs,
}

impl<'a> Original<'a> {
    /// Loads the encoder of a float folder.
    ///
    /// # Errors
    /// [`QuantizeError`] when it is no float encoder.
    pub fn load(source: &'a ModelDir) -> Result<Self, QuantizeError> {
        super::check_source(source)?;
        let mut weights = source.weights()?;
        let architecture = architectures::describe(source.config(), &|name| weights.contains(name))?;
        let modules = Module::all(&architecture.encoder, architecture.spec.hidden_size);
        let rest = super::other_weights(&architecture, &modules);
        let float_bytes = rest.iter().map(|(_, shape)| 4 * shape.iter().product::<usize>() as u64).sum();
        let (spec, names) = (architecture.spec, architecture.encoder);
        let mut values = BTreeMap::new();
        for module in &modules {
            let weight = weights.take(&module.weight(), &[module.rows, module.columns])?;
            values.insert(module.weight(), weight.into_f32());
            if let Some(bias) = &module.bias {
                values.insert(bias.clone(), weights.take(bias, &[module.rows])?.into_f32());
            }
        }
        let encoder = CandleEncoder::load(&spec, &names, &mut weights, 1)?;
        Ok(Original { source, spec, names, modules, encoder, values, float_bytes, shown: OnceLock::new() })
    }

    /// Its folder.
    pub fn folder(&self) -> &Path {
        self.source.path()
    }

    /// The weight of a module, `[rows, columns]`.
    pub fn weight(&self, module: &Module) -> &[f32] {
        &self.values[&module.weight()]
    }

    /// The bias of a module, `[rows]`; tables have none.
    pub fn bias(&self, module: &Module) -> Option<&[f32]> {
        module.bias.as_ref().map(|bias| self.values[bias].as_slice())
    }

    /// A module as a recipe says, with what [`Original::smoothing`] found for it.
    ///
    /// # Errors
    /// As [`Form::new`].
    pub fn form(
        &self,
        module: &Module,
        recipe: &Recipe,
        smoothing: &Smoothing,
        calibration: Option<&Calibration>,
    ) -> Result<Form, QuantizeError> {
        let seen = calibration.and_then(|c| c.of(&module.name, &self.names.layers));
        let factors =
            module.place.site().filter(|_| recipe.smooths(&module.name)).and_then(|site| smoothing.get(&site));
        let factors = factors.map_or(&[][..], Vec::as_slice);
        Form::new(module, self.weight(module), self.bias(module), recipe, seen, factors)
    }

    /// What the recipe multiplies rows by before they are rounded, at the sites where it does.
    ///
    /// # Errors
    /// [`QuantizeError`] when the tokenizer cannot be read, or the float executor fails.
    pub fn smoothing(&self, recipe: &Recipe) -> Result<Smoothing, QuantizeError> {
        let sites: BTreeSet<Site> = self.modules.iter().filter_map(|module| module.place.site()).collect();
        let of_site = |site| Ok((site, self.smoothing_at(site, recipe)?));
        let all: Result<Vec<_>, QuantizeError> = sites.into_iter().map(of_site).collect();
        Ok(all?.into_iter().filter(|(_, factors)| !factors.is_empty()).collect())
    }

    /// The factors that the matrices of a site share; none where the recipe smooths none, and where it does not pay.
    fn smoothing_at(&self, site: Site, recipe: &Recipe) -> Result<Vec<f32>, QuantizeError> {
        let Some(strength) = recipe.smoothing else { return Ok(Vec::new()) };
        let matrices: Vec<Smoothed<'_>> = self
            .modules
            .iter()
            .filter(|module| module.place.site() == Some(site))
            .filter_map(|module| match recipe.linear(&module.name) {
                (Some(scheme), Some(inputs)) => {
                    scheme.groups(module.columns)?;
                    Some(Smoothed { weight: self.weight(module), shape: [module.rows, module.columns], scheme, inputs })
                }
                _ => None,
            })
            .collect();
        let columns = matrices.iter().map(|matrix| column_max(matrix.weight, matrix.shape[1]));
        let larger = |a: Vec<f32>, b: Vec<f32>| a.iter().zip(&b).map(|(a, b)| a.max(*b)).collect();
        let Some(columns) = columns.reduce(larger) else { return Ok(Vec::new()) };
        let inputs = &self.shown()?[&site];
        let factors = factors(&inputs.reach, &columns, strength);
        let pays = smooth::pays(&inputs.rows, &matrices, &factors)?;
        Ok(if pays { factors } else { Vec::new() })
    }

    /// What enters each site of made-up sequences; found once.
    fn shown(&self) -> Result<&Shown, QuantizeError> {
        if let Some(shown) = self.shown.get() {
            return Ok(shown);
        }
        let special = Tokenizer::from_file(&self.source.tokenizer_path())?.encode("", None, self.spec.max_tokens())?;
        let found = smooth::show(&self.encoder, &made_up(&self.spec, &special))?;
        Ok(self.shown.get_or_init(|| found))
    }

    /// Every module as a recipe says, in the order of [`Original::modules`]; `progress` hears how many are done.
    ///
    /// # Errors
    /// As [`Original::smoothing`] and [`Original::form`].
    pub fn forms(
        &self,
        recipe: &Recipe,
        calibration: Option<&Calibration>,
        mut progress: impl FnMut(usize),
    ) -> Result<Vec<Form>, QuantizeError> {
        let (smoothing, numbered) = (self.smoothing(recipe)?, self.modules.iter().zip(1..));
        let made = numbered.map(|(module, number)| {
            let form = self.form(module, recipe, &smoothing, calibration);
            progress(number);
            form
        });
        made.collect()
    }

    /// What takes the place of a module in the candle executor. Groups are rounded again to int8 with one scale per
    /// row, as in the executor that serves.
    pub fn replacement(&self, module: &Module, form: &Form, kernels: Kernels) -> Replacement {
        let [rows, columns] = [module.rows, module.columns];
        let Place::Matrix { layer, index } = module.place else {
            let values = form.weight.as_ref().map_or_else(|| self.weight(module).to_vec(), |w| w.dequantize());
            return table(values, rows, columns);
        };
        let weight = match &form.weight {
            None => Tensor::F32 { shape: vec![rows, columns], data: self.weight(module).to_vec() },
            Some(weight) => Tensor::Quantized(weight.clone()),
        };
        let bias = form.bias.clone().unwrap_or_else(|| self.bias(module).expect("a matrix has a bias").to_vec());
        let names: &LinearNames = self.names.layers[layer].linears()[index];
        Replacement::Matrix(Linear::from_stored(names, weight, bias, form.inputs, Precision::AsStored(kernels)))
    }

    /// The executor that serves, with each module in the form given, in the order of [`Original::modules`].
    ///
    /// # Errors
    /// [`QuantizeError`] when a file cannot be read.
    pub fn candidate(&self, forms: &[&Form], kernels: Kernels) -> Result<Int8Encoder, QuantizeError> {
        let mut weights = self.source.weights()?;
        self.put(forms, &mut weights);
        Ok(Int8Encoder::load(self.spec.clone(), &self.names, &mut weights, kernels)?)
    }

    /// Puts each module in the form given into weights that an executor will take, in the order of
    /// [`Original::modules`].
    pub fn put(&self, forms: &[&Form], weights: &mut Weights) {
        for (module, form) in self.modules.iter().zip(forms) {
            let weight = match &form.weight {
                Some(weight) => Tensor::Quantized(weight.clone()),
                None => Tensor::F32 { shape: vec![module.rows, module.columns], data: self.weight(module).to_vec() },
            };
            weights.put(&module.weight(), weight, form.inputs);
            if let (Some(name), Some(bias)) = (&module.bias, &form.bias) {
                weights.put(name, Tensor::F32 { shape: vec![module.rows], data: bias.clone() }, Inputs::Float);
            }
        }
    }

    /// Everything in int8, and everything in int8 but one module in float, for each module in turn; `progress` hears
    /// how many are done.
    ///
    /// # Errors
    /// [`QuantizeError`] when the float executor fails.
    pub fn spared(
        &self,
        judge: &Judge,
        (kernels, threads): (Kernels, usize),
        progress: impl FnMut(usize),
    ) -> Result<(Verdict, Vec<Verdict>), QuantizeError> {
        let (mut base, recipe) = (self.encoder.clone(), Recipe::default());
        for module in &self.modules {
            let int8 = self.form(module, &recipe, &Smoothing::new(), None)?;
            base = match (module.place, self.replacement(module, &int8, kernels)) {
                (Place::Table(index), Replacement::Table(table)) => base.with_table(index, table),
                (Place::Matrix { layer, index }, Replacement::Matrix(linear)) => base.with_linear(layer, index, linear),
                _ => unreachable!("a replacement is of its module's kind"),
            };
        }
        let float = Form::float();
        let back = |module: &Module| vec![self.replacement(module, &float, kernels)];
        let without = probe(&base, judge, &self.modules, threads, back, progress)?;
        let rows = judge.rows_of_float(&base, threads, &|| {})?;
        Ok((judge.verdict_of_rows(&rows), without.concat()))
    }

    /// Bytes of what a quantized folder holds in no module: biases, norms and the model's own head.
    pub fn float_bytes(&self) -> u64 {
        self.float_bytes
    }

    /// A module in a form, for the report.
    pub fn stored(&self, module: &Module, form: &Form) -> Stored {
        let original = self.weight(module);
        let mut weights = Histogram::default();
        match form.weight.as_ref().map_or(&[][..], |weight| &weight.smoothing) {
            [] => weights.add(original),
            smoothing => weights.add(&smooth::smoothed(original, smoothing)),
        }
        let error = form.weight.as_ref().map(|w| error_of(&module.weight(), original, &w.dequantize()));
        let levels = form.weight.as_ref().map(levels).unwrap_or_default();
        Stored {
            module: module.clone(),
            form: scheme_name(form.scheme()),
            bytes: form.bytes(module),
            error,
            weights,
            levels,
        }
    }
}

impl Form {
    /// As it was.
    pub fn float() -> Self {
        Form { weight: None, bias: None, inputs: Inputs::Float }
    }

    /// The form that a recipe says, from a module's weight `[rows, columns]`, its bias `[rows]`, what was seen to enter
    /// it, and what its inputs are multiplied by before they are rounded, `[columns]` or nothing. What needs to see inputs is done as well as it can be without: GPTQ rounds with a searched range, a
    /// bias stays as it is.
    ///
    /// # Errors
    /// [`QuantizeError::NeedsCalibration`] for static inputs that nobody saw, [`QuantizeError::Groups`] for groups that
    /// do not divide a row.
    pub fn new(
        module: &Module,
        weight: &[f32],
        bias: Option<&[f32]>,
        recipe: &Recipe,
        seen: Option<&Seen>,
        smoothing: &[f32],
    ) -> Result<Self, QuantizeError> {
        let (scheme, inputs) = match module.place {
            Place::Table(_) => (recipe.table(&module.name), None),
            Place::Matrix { .. } => recipe.linear(&module.name),
        };
        let Some(scheme) = scheme else { return Ok(Form::float()) };
        if scheme.groups(module.columns).is_none() {
            let (module, scheme, columns) = (module.name.clone(), scheme.to_string(), module.columns);
            return Err(QuantizeError::Groups { module, scheme, columns });
        }
        let inputs = match (inputs, seen) {
            (None, _) => Inputs::Float,
            (Some(config), _) if config.dynamic => Inputs::Dynamic,
            (Some(config), Some(seen)) => Inputs::Static(seen.params(config.symmetric)),
            (Some(_), None) => return Err(QuantizeError::NeedsCalibration(module.name.clone())),
        };
        let moments = seen.and_then(|seen| seen.moments());
        let shape = [module.rows, module.columns];
        let quantized = smooth::quantize(recipe.rounding, weight, shape, scheme, moments, smoothing);
        let bias = match (bias, seen) {
            (Some(bias), Some(seen)) if recipe.bias_correction => {
                Some(corrected_bias(bias, weight, &quantized.dequantize(), &seen.mean()))
            }
            _ => None,
        };
        Ok(Form { weight: Some(quantized), bias, inputs })
    }

    /// How the weight is quantized; none for float.
    pub fn scheme(&self) -> Option<Scheme> {
        self.weight.as_ref().map(|weight| weight.scheme)
    }

    /// Bytes in a file; a bias counts with what stays float.
    pub fn bytes(&self, module: &Module) -> u64 {
        self.weight.as_ref().map_or(4 * module.rows * module.columns, QuantizedWeights::bytes) as u64
    }
}

/// The values that weights can have, in the row or group with the median scale.
fn levels(weight: &QuantizedWeights) -> Vec<f64> {
    let mut scales = weight.scale.clone();
    let (_, median, _) = scales.select_nth_unstable_by(weight.scale.len() / 2, f32::total_cmp);
    let at = weight.scale.iter().position(|scale| scale == median).unwrap_or(0);
    let zero = weight.zero_point.get(at).map_or(0, |z| i32::from(*z));
    let (lo, hi) = weight.scheme.range();
    let integers = (lo..=hi).filter(|q| *q != 0 || weight.scheme.levels != Levels::Binary);
    integers.map(|q| f64::from(q - zero) * f64::from(*median)).collect()
}
