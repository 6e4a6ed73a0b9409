//! Which modules suffer from quantization: one at a time, everything else left as it is.
//!
//! Two directions. From the float model, each module alone is stored in each form: what this form of this module costs.
//! From a quantized model, each module alone is put back into float: what that would win. Both run the candle executor,
//! whose quantized layers use the kernels that serve. Only the layers behind a module are run again; what enters them
//! is kept for one layer at a time.

use std::sync::atomic::{AtomicUsize, Ordering};

use candle_core::{Device, Tensor};

use crate::architectures::{EncoderNames, LinearNames, RaggedBatch};
use crate::nn::{CandleEncoder, Enters, Linear, Site};
use crate::pipelines::Row;

use super::{Judge, Verdict};

/// Where a module is in the encoder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// An embedding table, counted as in [`EncoderNames::tables`].
    Table(usize),
    /// A matrix of a block, counted as in [`LayerNames::linears`](crate::architectures::LayerNames::linears).
    Matrix { layer: usize, index: usize },
}

impl Place {
    /// Where what it multiplies comes from; tables multiply nothing.
    ///
    /// # Panics
    /// When a block has no such matrix.
    pub fn site(self) -> Option<Site> {
        let Place::Matrix { layer, index } = self else { return None };
        let enters = match index {
            0..=2 => Enters::Attention,
            3 => Enters::Projection,
            4 => Enters::Up,
            5 => Enters::Down,
            _ => panic!("a block has six matrices, there is no matrix {index}"),
        };
        Some(Site { layer, enters })
    }
}

/// A matrix or a table of an encoder.
#[derive(Clone, Debug, PartialEq)]
pub struct Module {
    /// Its name: that of its weight without `.weight`.
    pub name: String,
    /// Rows of its weight.
    pub rows: usize,
    /// Columns of its weight.
    pub columns: usize,
    /// Where it is.
    pub place: Place,
    /// Name of its bias; tables have none.
    pub bias: Option<String>,
}

impl Module {
    /// Name of its weight.
    pub fn weight(&self) -> String {
        format!("{}.weight", self.name)
    }

    /// Every module of an encoder that is `width` wide: tables, then the matrices from the input to the output.
    pub fn all(names: &EncoderNames, width: usize) -> Vec<Module> {
        let name = |weight: &str| weight.trim_end_matches(".weight").to_string();
        let table = |(i, table): (usize, &crate::architectures::TableName)| Module {
            name: name(&table.weight),
            rows: table.rows,
            columns: width,
            place: Place::Table(i),
            bias: None,
        };
        let matrix = |layer: usize, index: usize, names: &LinearNames| Module {
            name: name(&names.weight),
            rows: names.outputs,
            columns: names.inputs,
            place: Place::Matrix { layer, index },
            bias: Some(names.bias.clone()),
        };
        let matrices = names.layers.iter().enumerate().flat_map(|(layer, names)| {
            names.linears().into_iter().enumerate().map(move |(index, names)| matrix(layer, index, names))
        });
        names.tables().enumerate().map(table).chain(matrices).collect()
    }
}

/// What takes the place of a module for a probe.
pub enum Replacement {
    /// A table `[rows, hidden]`.
    Table(Tensor),
    /// A dense layer.
    Matrix(Linear),
}

/// Puts each replacement into `base`, one at a time, and compares the answers with those of the judge's float model.
///
/// `replacements` gives those of a module when its turn comes; the verdicts are in the order of the modules and of
/// their replacements. `progress` hears how many modules are done. Batches are divided over `threads` threads.
///
/// # Errors
/// Those of [`CandleEncoder::hidden_states`].
///
/// # Panics
/// When modules are not in the order of [`Module::all`], or a replacement is of another kind than its module.
pub fn probe(
    base: &CandleEncoder,
    judge: &Judge,
    modules: &[Module],
    threads: usize,
    mut replacements: impl FnMut(&Module) -> Vec<Replacement>,
    mut progress: impl FnMut(usize),
) -> candle_core::Result<Vec<Vec<Verdict>>> {
    let each = |run: &Run<'_, Tensor>| over_batches(judge.batches(), threads, run);
    let rows = |run: &Run<'_, Vec<Row>>| over_batches(judge.batches(), threads, run).map(|rows| rows.concat());
    let (mut verdicts, last) = (Vec::with_capacity(modules.len()), base.num_layers());
    let mut entering: Option<(usize, Vec<Tensor>)> = None;
    for (done, module) in modules.iter().enumerate() {
        let mut found = Vec::new();
        for replacement in replacements(module) {
            let rows = match (module.place, replacement) {
                (Place::Table(index), Replacement::Table(table)) => {
                    let candidate = base.with_table(index, table);
                    rows(&|batch, _| {
                        judge.rows(batch, &candidate.run_layers(0..last, batch, candidate.embedded(batch)?)?)
                    })?
                }
                (Place::Matrix { layer, index }, Replacement::Matrix(linear)) => {
                    let known = match entering.take() {
                        Some((at, known)) if at == layer => known,
                        Some((at, known)) => each(&|batch, i| base.run_layers(at..layer, batch, known[i].clone()))?,
                        None => each(&|batch, _| base.run_layers(0..layer, batch, base.embedded(batch)?))?,
                    };
                    let candidate = base.with_linear(layer, index, linear);
                    let found = rows(&|batch, i| {
                        judge.rows(batch, &candidate.run_layers(layer..last, batch, known[i].clone())?)
                    })?;
                    entering = Some((layer, known));
                    found
                }
                _ => panic!("{} was replaced by something of another kind", module.name),
            };
            found.push(judge.verdict_of_rows(&rows));
        }
        verdicts.push(found);
        progress(done + 1);
    }
    Ok(verdicts)
}

/// What is run over a batch, given its number.
type Run<'a, T> = dyn Fn(&RaggedBatch, usize) -> candle_core::Result<T> + Sync + 'a;

/// `run` of every batch, in order, on several threads.
pub(super) fn over_batches<T: Send>(
    batches: &[RaggedBatch],
    threads: usize,
    run: &Run<'_, T>,
) -> candle_core::Result<Vec<T>> {
    let next = AtomicUsize::new(0);
    let take = || std::iter::from_fn(|| Some(next.fetch_add(1, Ordering::Relaxed)).filter(|i| *i < batches.len()));
    let parts: Vec<Vec<(usize, candle_core::Result<T>)>> = std::thread::scope(|scope| {
        let work = || take().map(|i| (i, run(&batches[i], i))).collect();
        let running: Vec<_> = (0..threads.clamp(1, batches.len().max(1))).map(|_| scope.spawn(work)).collect();
        running.into_iter().map(|thread| thread.join().expect("a thread that runs texts does not panic")).collect()
    });
    let mut done = parts.into_iter().flatten().collect::<Vec<_>>();
    done.sort_by_key(|(index, _)| *index);
    done.into_iter().map(|(_, result)| result).collect()
}

/// A table as candle has it.
///
/// # Panics
/// When `values` does not hold `rows * columns` of them.
pub fn table(values: Vec<f32>, rows: usize, columns: usize) -> Replacement {
    Replacement::Table(
        Tensor::from_vec(values, (rows, columns), &Device::Cpu).expect("a table holds rows * columns values"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::architectures;
    use crate::checkpoint::ModelDir;
    use crate::kernels::Kernels;
    use crate::nn::Products;
    use crate::pipelines::{ClassifyInput, Loader, Precision};

    /// A float replacement for every module, made from its own weight by `change`.
    fn probed(change: impl Fn(&Module, &mut Vec<f32>), threads: usize) -> (Vec<Module>, Vec<Vec<Verdict>>) {
        let path = std::path::Path::new("tests/goldens/bert");
        let model = Loader::new(Kernels::detect(), Precision::Float).load("golden", path).unwrap();
        let texts = ["a b c", "hello world", "c"].map(|text| ClassifyInput { text: text.into(), text_pair: None });
        let dir = ModelDir::open(path).unwrap();
        let mut weights = dir.weights().unwrap();
        let described = architectures::describe(dir.config(), &|name| weights.contains(name)).unwrap();
        let base = CandleEncoder::load(&described.spec, &described.encoder, &mut weights, 1).unwrap();
        let judge = Judge::new(&model, &base, &texts, 1, |_, _| {}).unwrap();
        let modules = Module::all(&described.encoder, described.spec.hidden_size);
        let mut done = Vec::new();
        let replacements = |module: &Module| {
            let mut values = weights.take(&module.weight(), &[module.rows, module.columns]).unwrap().into_f32();
            change(module, &mut values);
            vec![match &module.bias {
                None => table(values, module.rows, module.columns),
                Some(bias) => {
                    let bias = weights.take(bias, &[module.rows]).unwrap().into_f32();
                    let tensor = |data: Vec<f32>, shape: &[usize]| Tensor::from_vec(data, shape, &Device::Cpu).unwrap();
                    let weight = tensor(values, &[module.rows, module.columns]);
                    Replacement::Matrix(Linear::Float {
                        weight,
                        bias: tensor(bias, &[module.rows]),
                        products: Products::F32,
                    })
                }
            }]
        };
        let found = probe(&base, &judge, &modules, threads, replacements, |n| done.push(n)).unwrap();
        assert_eq!(done, (1..=modules.len()).collect::<Vec<_>>());
        (modules, found)
    }

    #[test]
    fn a_module_replaced_by_itself_changes_nothing() {
        for threads in [1, 2, 7] {
            let (modules, found) = probed(|_, _| {}, threads);
            for (module, verdicts) in modules.iter().zip(found) {
                // Several sequences at once differ from one after another in the last bits.
                assert!(verdicts[0].mse < 1e-10 && verdicts[0].agreement > 0.999_999, "{}: {verdicts:?}", module.name);
            }
        }
    }

    #[test]
    fn the_module_that_was_changed_is_the_one_that_suffers() {
        let victim = "encoder.layer.1.intermediate.dense";
        let halve = |module: &Module, values: &mut Vec<f32>| {
            if module.name.ends_with(victim) {
                values.iter_mut().for_each(|w| *w *= 0.5);
            }
        };
        let (modules, found) = probed(halve, 1);
        let suffering: Vec<_> = modules.iter().zip(&found).filter(|(_, v)| v[0].mse > 1e-10).collect();
        assert_eq!(suffering.len(), 1);
        assert!(suffering[0].0.name.ends_with(victim) && suffering[0].1[0].divergence > 0.0);
    }
}
