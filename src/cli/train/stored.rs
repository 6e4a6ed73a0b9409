//! How the modules of a model that is trained will be stored: what a recipe of the quantization toolkit says, and what
//! training made of it.

use std::collections::BTreeMap;

use anyhow::Context;

use crate::architectures::Architecture;
use crate::checkpoint::{InputConfig, ModelDir};
use crate::kernels::affine::{Inputs, QuantizedWeights};
use crate::nn::{FakeQuantization, FakeQuantizedAs};
use crate::quantize::observers::ObserverKind;
use crate::quantize::{CalibrateOptions, Calibration, Form, Module, Original, Place, Recipe, Smoothing};
use crate::train::Dataset;

/// Texts that static inputs get their first ranges from.
const CALIBRATED: usize = 256;

/// Of those, texts that run together.
const TOGETHER: usize = 32;

/// Each module of the encoder in `dir` with the layers `kept`, by the name it will be written by, as `recipe` says. Scales
/// are learned where they can be: of matrices without zero points. Tables keep the scales of their rows, of which a step
/// sees few. Static inputs start with the ranges of some texts of `train`.
pub(super) fn plan(
    dir: &ModelDir,
    architecture: &Architecture,
    kept: Option<&[usize]>,
    recipe: &Recipe,
    learned: bool,
    train: &Dataset,
) -> anyhow::Result<FakeQuantization> {
    let all = &architecture.encoder.layers;
    let kept = kept.map_or_else(|| (0..all.len()).collect(), <[usize]>::to_vec);
    let mut names = architecture.encoder.clone();
    names.layers.truncate(kept.len());
    let modules = Module::all(&names, architecture.spec.hidden_size);
    let calibration = match modules.iter().any(|module| is_static(recipe, module)) {
        true => Some(calibrate(dir, train)?),
        false => None,
    };
    let mut plan = FakeQuantization::new();
    for module in &modules {
        let (scheme, inputs) = match module.place {
            Place::Table(_) => (recipe.table(&module.name), None),
            Place::Matrix { .. } => recipe.linear(&module.name),
        };
        let Some(scheme) = scheme else { continue };
        let inputs = match (inputs, module.place) {
            (Some(InputConfig { dynamic: true, .. }), _) => Inputs::Dynamic,
            (Some(config), Place::Matrix { layer, index }) => {
                let name = kept.get(layer).and_then(|layer| all.get(*layer)).map(|l| &l.linears()[index].weight);
                let seen = calibration.as_ref().and_then(|c| c.of(name?, all));
                Inputs::Static(
                    seen.with_context(|| format!("nothing enters {}", module.name))?.params(config.symmetric),
                )
            }
            _ => Inputs::Float,
        };
        let learned = learned && scheme.symmetric && matches!(module.place, Place::Matrix { .. });
        plan.insert(module.weight(), FakeQuantizedAs { scheme, inputs, learned });
    }
    Ok(plan)
}

/// Whether a module has one range for all of its inputs.
pub(super) fn is_static(recipe: &Recipe, module: &Module) -> bool {
    matches!(module.place, Place::Matrix { .. }) && recipe.linear(&module.name).1.is_some_and(|inputs| !inputs.dynamic)
}

/// What enters the float encoder on some texts, evenly spaced over all.
fn calibrate(dir: &ModelDir, train: &Dataset) -> anyhow::Result<Calibration> {
    let original = Original::load(dir)?;
    let count = train.len().min(CALIBRATED);
    let chosen: Vec<usize> = (0..count).map(|i| i * train.len() / count).collect();
    let batches: Vec<_> = chosen.chunks(TOGETHER).map(|chosen| train.batch(chosen)).collect();
    let options = CalibrateOptions { observer: ObserverKind::Mse, moments: false };
    Ok(Calibration::run(&original.encoder, &batches, options, &Smoothing::new(), |_| {})?)
}

/// What training stored of each module, as the quantizer takes it: nothing is rounded a second time.
pub(super) fn made(stored: &BTreeMap<String, (QuantizedWeights, Inputs)>) -> BTreeMap<String, Form> {
    let form = |(name, (weight, inputs)): (&String, &(QuantizedWeights, Inputs))| {
        let module = name.trim_end_matches(".weight").to_string();
        (module, Form { weight: Some(weight.clone()), bias: None, inputs: *inputs })
    };
    stored.iter().map(form).collect()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::whole::model_config;
    use super::*;
    use crate::architectures::{self, Pooling, RaggedBatch};
    use crate::checkpoint::{Existing, ModelFiles, Tensor, write_model};
    use crate::data::{Example, Label};
    use crate::kernels::Kernels;
    use crate::nn::Products;
    use crate::pipelines::{Loader, Precision};
    use crate::quantize::{QuantizeOptions, quantize};
    use crate::text::Tokenizer;
    use crate::train::{FineTuneSettings, Lesson, Network, NetworkOptions, Task, ValueScale, fine_tune};

    const MODEL: &str = "tests/goldens/bert";

    /// Largest difference between a logit that serves and one that training saw; logits are some units apart.
    const NEAR: f32 = 0.05;

    /// Sentences whose class is hard to tell, so that a wrong bit could turn an answer over.
    fn examples() -> Vec<Example> {
        let words = ["film", "rain", "to", "win", "was", "the", "in", "bad", "good"];
        let example = |i: usize| Example {
            text: (0..3 + i % 7).map(|k| words[(i * i + 3 * k * k + k) % words.len()]).collect::<Vec<_>>().join(" "),
            label: Some(Label::Name(["a", "b", "c"][(i * 7 + i / 3) % 3].into())),
            ..Example::default()
        };
        (0..96).map(example).collect()
    }

    /// The outputs of a folder for a batch, from the executor that serves.
    fn served(folder: &Path, batch: &RaggedBatch) -> Vec<Vec<f32>> {
        let model = Loader::new(Kernels::detect(), Precision::Int8).load("model", folder).unwrap();
        let model = &model.classifier.as_ref().unwrap().model;
        model.rows(batch, &mut model.encoder.workspace())
    }

    fn largest(row: &[f32]) -> usize {
        (0..row.len()).max_by(|a, b| row[*a].total_cmp(&row[*b])).unwrap()
    }

    /// Largest difference between two sets of outputs.
    fn apart(a: &[Vec<f32>], b: &[Vec<f32>]) -> f32 {
        a.iter().flatten().zip(b.iter().flatten()).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
    }

    /// Trains by a recipe, exports, and compares what training saw with what the folder serves: dev, by the bit, and the
    /// outputs of the fake-quantized network of a step.
    fn check(recipe: &str, learned: bool) {
        let recipe = Recipe::parse(recipe, "test").unwrap();
        let what = format!("{}, learned {learned}", recipe.scheme);
        let dir = ModelDir::open(Path::new(MODEL)).unwrap();
        let weights = dir.weights().unwrap();
        let architecture = architectures::describe(dir.config(), &|name| weights.contains(name)).unwrap();
        let examples = examples();
        let task = Task::classify(&examples, &[], None).unwrap();
        let tokenizer = Tokenizer::from_file(&dir.tokenizer_path()).unwrap();
        let data = Dataset::new(&examples, &task, &tokenizer, 64, Path::new("data.jsonl")).unwrap();
        let quantization = plan(&dir, &architecture, Some(&[1]), &recipe, learned, &data).unwrap();
        let needs_texts = quantization.values().any(|form| matches!(form.inputs, Inputs::Static(_)));
        let learns = quantization.values().any(|form| form.learned);
        let options = NetworkOptions {
            pooling: Pooling::Mean,
            scale: ValueScale::of(&examples),
            layers: Some(vec![1]),
            quantization,
            products: Products::F32,
            seed: 1,
        };
        let network = Network::load(&dir, &task, &options).unwrap();
        let settings = FineTuneSettings {
            epochs: 3,
            batch_size: 8,
            learning_rate: 1e-3,
            head_learning_rate: 5e-3,
            scale_learning_rate: 5e-3,
            ..FineTuneSettings::default()
        };
        let lesson = Lesson { task: &task, train: &data, dev: &data, scale: options.scale, teacher: None };
        let found = fine_tune(&network, lesson, &settings, None, |_| {}).unwrap();

        let folder = tempfile::tempdir().unwrap();
        let [float, folder, again] = ["float", "stored", "again"].map(|name| folder.path().join(name));
        let files = ModelFiles {
            config: model_config(&dir, &task, Pooling::Mean, &found.layers),
            tensors: found.tensors.clone(),
            copy_from: Some(Path::new(MODEL)),
            ..ModelFiles::default()
        };
        write_model(&float, &files, Existing::Refuse).unwrap();
        let float = ModelDir::open(&float).unwrap();
        let exported = QuantizeOptions { made: made(&found.stored), recipe, ..QuantizeOptions::new("test") };
        quantize(&float, &folder, &exported, |_, _| {}).unwrap();

        // Not a bit of a weight or a scale is rounded a second time. (A group as long as a row is read as a channel.)
        let mut weights = ModelDir::open(&folder).unwrap().weights().unwrap();
        for (name, (weight, inputs)) in &found.stored {
            assert_eq!(weights.inputs(name).unwrap(), *inputs, "{what}: {name}");
            let Tensor::Quantized(read) = weights.take(name, &weight.shape).unwrap() else { panic!("{what}: {name}") };
            let parts = |w: &QuantizedWeights| (w.values.clone(), w.scale.clone(), w.zero_point.clone());
            assert_eq!(parts(&read), parts(weight), "{what}: {name}");
        }
        let batch = data.batch(&(0..data.len()).collect::<Vec<_>>());
        let rows = served(&folder, &batch);
        assert_eq!(rows, found.dev_outputs, "{what}");
        let seen = network.fake_quantized(&batch);
        // Attention in 16 bits and a GELU within 2e-4 move a value over a rounding boundary here and there.
        let difference = apart(&rows, &seen);
        assert!(difference < NEAR, "{what}: outputs are {difference} apart");
        let is_clear = |seen: &&Vec<f32>| {
            let best = largest(seen);
            let others = seen.iter().enumerate().filter(|(class, _)| *class != best);
            others.fold(f32::INFINITY, |margin, (_, x)| margin.min(seen[best] - x)) > 2.0 * difference
        };
        let clear = seen.iter().filter(is_clear).count();
        assert!(clear * 4 >= 3 * rows.len(), "{what}: {clear} texts of {} have a clear class", rows.len());
        // The rest are near ties, of which few may fall the other way.
        let pairs = rows.iter().zip(&seen);
        let fallen = pairs.filter(|(served, seen)| largest(served) != largest(seen)).count();
        assert!(fallen * 20 <= rows.len(), "{what}: {fallen} texts of {} have another class", rows.len());
        let classes: std::collections::BTreeSet<_> = rows.iter().map(|row| largest(row)).collect();
        assert!(classes.len() > 1, "{what}: one class for all texts would hide a difference");
        if learns && !needs_texts {
            // Rounded anew, with the ranges of the weights, it is another model: the comparison sees such things.
            quantize(&float, &again, &QuantizeOptions { made: BTreeMap::new(), ..exported }, |_, _| {}).unwrap();
            let again = apart(&served(&again, &batch), &seen);
            assert!(again > 2.0 * difference, "{what}: {again} apart when rounded anew, {difference} as exported");
        }
    }

    fn recipe(weights: &str, embeddings: &str, activations: &str) -> String {
        format!(
            "scheme = \"{weights}\"\nweights = \"{weights}\"\nembeddings = \"{embeddings}\"\n\
             activations = \"{activations}\"\n"
        )
    }

    #[test]
    fn an_exported_int8_model_gives_the_classes_that_training_saw() {
        check(&recipe("int8", "int8", "dynamic"), false);
        check(&recipe("int8", "int8", "dynamic"), true);
        check(&recipe("int8", "int8-tensor", "static"), true);
        check(&recipe("int8", "int8", "static-symmetric"), false);
        check(&recipe("int8-asymmetric", "int8-asymmetric-tensor", "float"), true);
    }

    #[test]
    fn an_exported_int4_model_gives_the_classes_that_training_saw() {
        check(&recipe("int4", "int8", "dynamic"), true);
        check(&recipe("int4", "int4-group16", "dynamic"), false);
        check(&recipe("int4-group16", "int4-group16", "dynamic"), true);
        check(&recipe("int4-tensor", "int4", "static"), true);
    }

    #[test]
    fn an_exported_ternary_model_gives_the_classes_that_training_saw() {
        check(&recipe("ternary", "int8", "dynamic"), false);
        check(&recipe("ternary", "ternary", "dynamic"), true);
        check(&recipe("ternary-group16", "ternary-tensor", "static"), true);
    }

    #[test]
    fn an_exported_binary_model_gives_the_classes_that_training_saw() {
        check(&recipe("binary", "int8", "dynamic"), false);
        check(&recipe("binary", "binary", "dynamic"), true);
        check(&recipe("binary-tensor", "int4", "static"), true);
    }

    #[test]
    fn an_exported_mixed_model_gives_the_classes_that_training_saw() {
        // Layer 1 is written as layer 0, and patterns mean the model that is written.
        let exceptions = "[[layer]]\nmatch = \"*layer.0.attention*\"\nweights = \"ternary\"\nactivations = \"static\"\n\
                          [layers]\n\"*query\" = \"binary\"\n\"*value\" = \"float\"\n\"*position*\" = \"float\"\n";
        check(&(recipe("int4-group16", "int8", "dynamic") + exceptions), true);
        check(include_str!("../../../config/recipes/mixed.toml"), true);
    }
}
