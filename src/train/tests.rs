//! Whole runs on a small model: what learns, what every variable gets, and what a checkpoint keeps.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use crate::architectures::{self, Pooling, ProblemType};
use crate::checkpoint::{self, Existing, LayerConfig, ModelDir, ModelFiles, write_model};
use crate::data::{Example, Label};
use crate::kernels::Kernels;
use crate::kernels::affine::{Granularity, Inputs, Levels, QParams, Scheme, quantize_weights};
use crate::nn::{Dropout, FakeQuantization, FakeQuantizedAs};
use crate::pipelines::{Loader, Precision};
use crate::text::Tokenizer;

use super::dataset::Item;
use super::network::Part;
use super::objective::loss;
use super::prune::{Kept, slopes};
use super::*;

const MODEL: &str = "tests/goldens/bert";

type Tensors = BTreeMap<String, checkpoint::Tensor>;

fn examples() -> Vec<Example> {
    let word = |i: usize| ["good", "bad"][i % 2];
    let text =
        |i: usize| format!("the {} film {}", word(i), ["was in the rain", "to win", ""][i % 3]).trim().to_string();
    let example = |i: usize| Example {
        text: text(i),
        label: Some(Label::Name(["positive", "negative"][i % 2].into())),
        rating: Some([3.0, -1.0][i % 2] + (i % 3) as f64 * 0.25),
        ..Example::default()
    };
    (0..48).map(example).collect()
}

struct Setup {
    task: Task,
    data: Dataset,
    scale: ValueScale,
}

fn setup(examples: &[Example], task: Task) -> Setup {
    let tokenizer = Tokenizer::from_file(&Path::new(MODEL).join("tokenizer.json")).unwrap();
    let data = Dataset::new(examples, &task, &tokenizer, 64, Path::new("data.jsonl")).unwrap();
    Setup { task, data, scale: ValueScale::of(examples) }
}

fn joint() -> Setup {
    let examples = examples();
    let task = Task::classify(&examples, &[], Some("valence".into())).unwrap();
    setup(&examples, task)
}

fn options(setup: &Setup) -> NetworkOptions {
    NetworkOptions {
        pooling: Pooling::Mean,
        scale: setup.scale,
        layers: None,
        quantization: FakeQuantization::new(),
        seed: 1,
    }
}

fn network(setup: &Setup) -> Network {
    Network::load(&ModelDir::open(Path::new(MODEL)).unwrap(), &setup.task, &options(setup)).unwrap()
}

/// Every matrix of the model as `form` says, tables in the same scheme.
fn quantized(form: FakeQuantizedAs) -> FakeQuantization {
    let dir = ModelDir::open(Path::new(MODEL)).unwrap();
    let weights = dir.weights().unwrap();
    let names = architectures::describe(dir.config(), &|name| weights.contains(name)).unwrap().encoder;
    let table = FakeQuantizedAs { inputs: Inputs::Float, learned: false, ..form };
    let tables = names.tables().map(|t| (t.weight.clone(), table));
    let matrices = names.layers.iter().flat_map(|layer| layer.linears()).map(|l| (l.weight.clone(), form));
    tables.chain(matrices).collect()
}

fn network_of(setup: &Setup, quantization: FakeQuantization) -> Network {
    let options = NetworkOptions { quantization, ..options(setup) };
    Network::load(&ModelDir::open(Path::new(MODEL)).unwrap(), &setup.task, &options).unwrap()
}

/// Learned int4 in groups with learned static inputs.
fn learned_int4() -> FakeQuantizedAs {
    let scheme = Scheme::symmetric(Levels::Int4, Granularity::Group(16));
    let inputs = Inputs::Static(QParams::for_range_u8(-4.0, 4.0));
    FakeQuantizedAs { scheme, inputs, learned: true }
}

fn lesson(setup: &Setup) -> Lesson<'_> {
    let Setup { task, data, scale } = setup;
    Lesson { task, train: data, dev: data, scale: *scale, teacher: None }
}

fn settings() -> FineTuneSettings {
    FineTuneSettings { epochs: 4, batch_size: 8, learning_rate: 1e-3, head_learning_rate: 5e-3, ..Default::default() }
}

/// Long enough to learn the examples by heart.
fn long() -> FineTuneSettings {
    FineTuneSettings { epochs: 20, patience: 20, ..settings() }
}

fn run(
    network: &Network,
    setup: &Setup,
    settings: &FineTuneSettings,
    folder: Option<&Path>,
) -> Result<FineTuned, TrainError> {
    fine_tune(network, lesson(setup), settings, folder, |_| {})
}

/// Fails unless every variable has a gradient on the whole of the data.
fn check_gradients(network: &Network, setup: &Setup, what: &str) {
    let chosen: Vec<usize> = (0..setup.data.len()).collect();
    let items: Vec<&Item> = setup.data.items.iter().collect();
    let outputs = network.forward(&setup.data.batch(&chosen), Dropout::new(0.1, 1)).unwrap();
    let loss = loss(&outputs.logits, &items, &setup.task, setup.scale, &settings()).unwrap();
    let gradients = loss.backward().unwrap();
    for (index, variable) in network.variables().iter().enumerate() {
        let var = if index == network.words() { &outputs.words } else { &variable.var };
        let gradient = gradients.get(var).unwrap_or_else(|| panic!("{what}: {} has no gradient", variable.name));
        let largest = gradient.abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
        // A key bias shifts all scores of a query alike; softmax does not see it, and its true gradient is 0.
        assert!(largest > 1e-8 || variable.name.ends_with("key.bias"), "{what}: {}: {largest}", variable.name);
    }
}

#[test]
fn every_variable_of_encoder_and_head_gets_a_gradient() {
    let setup = joint();
    for pooling in [Pooling::Mean, Pooling::Cls] {
        let dir = ModelDir::open(Path::new(MODEL)).unwrap();
        let network = Network::load(&dir, &setup.task, &NetworkOptions { pooling, ..options(&setup) }).unwrap();
        check_gradients(&network, &setup, "float");
    }
}

#[test]
fn every_variable_and_learned_scale_gets_a_gradient_in_every_scheme() {
    let setup = joint();
    let matrices = network(&setup).num_layers() * 6;
    let range = Inputs::Static(QParams::for_range_u8(-4.0, 4.0));
    for levels in Levels::ALL {
        for granularity in [Granularity::Tensor, Granularity::Channel, Granularity::Group(16)] {
            for (inputs, learned) in [(Inputs::Dynamic, false), (Inputs::Dynamic, true), (range, true), (range, false)]
            {
                let form = FakeQuantizedAs { scheme: Scheme::symmetric(levels, granularity), inputs, learned };
                let network = network_of(&setup, quantized(form));
                check_gradients(&network, &setup, &form.to_string());
                let scales = network.variables().iter().filter(|v| v.part == Part::Scales).count();
                let each = if !learned { 0 } else { 1 + usize::from(inputs == range) };
                assert_eq!(scales, each * matrices, "{form}");
            }
        }
    }
    let scheme = Scheme { levels: Levels::Int4, symmetric: false, granularity: Granularity::Group(16) };
    let form = FakeQuantizedAs { scheme, inputs: Inputs::Float, learned: false };
    check_gradients(&network_of(&setup, quantized(form)), &setup, &form.to_string());
}

#[test]
fn learned_scales_move_and_what_is_stored_has_them() {
    let setup = joint();
    let network = network_of(&setup, quantized(learned_int4()));
    let before = network.stored(&network.snapshot().unwrap());
    let found = run(&network, &setup, &FineTuneSettings { epochs: 2, ..settings() }, None).unwrap();
    assert_eq!(found.stored.len(), quantized(learned_int4()).len());
    for (name, (weight, inputs)) in found.stored.iter().filter(|(name, _)| !name.contains("embeddings")) {
        let (weight_before, inputs_before) = &before[name];
        assert_ne!(weight.scale, weight_before.scale, "{name}");
        assert_ne!(inputs, inputs_before, "{name}");
        let [Inputs::Static(now), Inputs::Static(then)] = [inputs, inputs_before] else { panic!("{name}") };
        assert_eq!(now.zero_point, then.zero_point, "{name}");
    }
    assert!(found.tensors.keys().all(|name| !name.contains("scale")), "scales are no tensors of the float folder");
}

#[test]
fn groups_that_do_not_divide_a_row_are_refused_by_name() {
    let setup = joint();
    let scheme = Scheme::symmetric(Levels::Int4, Granularity::Group(7));
    let quantization = quantized(FakeQuantizedAs { scheme, ..FakeQuantizedAs::INT8 });
    let dir = ModelDir::open(Path::new(MODEL)).unwrap();
    let options = NetworkOptions { quantization, ..options(&setup) };
    let error = Network::load(&dir, &setup.task, &options).err().unwrap().to_string();
    assert!(error.contains("word_embeddings") && error.contains("group of 7 does not fit rows of"), "{error}");
}

#[test]
fn classes_and_a_number_are_learned_together() {
    let setup = joint();
    let found = run(&network(&setup), &setup, &long(), None).unwrap();
    assert_eq!(found.dev.accuracy, Some(1.0), "{:?}", found.history.epochs);
    assert!(found.dev.pearson.unwrap() > 0.95, "{:?}", found.history.epochs);
    let losses: Vec<f32> = found.history.epochs.iter().map(|e| e.train_loss).collect();
    assert!(losses[losses.len() - 1] < losses[0] / 2.0, "{losses:?}");
}

#[test]
fn several_classes_and_a_number_alone_are_learned() {
    let mut several = examples();
    for example in &mut several {
        let rainy = example.text.contains("rain").then(|| "rainy".to_string());
        example.labels = Some(example.label.take().map(|l| l.to_string()).into_iter().chain(rainy).collect());
    }
    let task = Task::classify(&several, &[], None).unwrap();
    assert_eq!((task.problem_type, task.labels.len()), (ProblemType::MultiLabel, 3));
    let setup_several = setup(&several, task);
    let found = run(&network(&setup_several), &setup_several, &long(), None).unwrap();
    assert!(found.dev.accuracy.unwrap() > 0.95, "{:?}", found.history.epochs);
    let number = setup(&examples(), Task::regression("rating".into()));
    let found = run(&network(&number), &number, &long(), None).unwrap();
    assert!(found.dev.pearson.unwrap() > 0.95, "{:?}", found.history.epochs);
}

#[test]
fn a_run_that_was_stopped_goes_on_with_the_same_bits() {
    let setup = joint();
    stopped_goes_on(&setup, || network(&setup), &settings());
}

#[test]
fn a_run_with_learned_scales_that_was_stopped_goes_on_with_the_same_bits() {
    let setup = joint();
    stopped_goes_on(&setup, || network_of(&setup, quantized(learned_int4())), &settings());
}

#[test]
fn scales_go_with_the_rows_that_are_pruned_and_a_stopped_run_goes_on() {
    let setup = joint();
    let scheme = Scheme::symmetric(Levels::Int4, Granularity::Channel);
    let by_row = quantized(FakeQuantizedAs { scheme, ..learned_int4() });
    let pruned = stopped_goes_on(&setup, || network_of(&setup, by_row.clone()), &halved());
    for (name, (weight, _)) in pruned.stored.iter().filter(|(name, _)| name.contains("encoder.layer")) {
        assert_eq!(pruned.tensors[name].shape(), weight.shape, "{name}");
        assert_eq!(weight.scale.len(), weight.shape[0], "{name}");
    }
    let groups = network_of(&setup, quantized(learned_int4()));
    let error = run(&groups, &setup, &halved(), None).err().unwrap().to_string();
    assert!(error.contains("takes columns out of groups"), "{error}");
}

/// Runs once, and again with a stop in the third of four epochs; what both give must be the same.
fn stopped_goes_on(setup: &Setup, network: impl Fn() -> Network, settings: &FineTuneSettings) -> FineTuned {
    let whole = run(&network(), setup, settings, None).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let stopped = catch_unwind(AssertUnwindSafe(|| {
        let network = network();
        fine_tune(&network, lesson(setup), settings, Some(folder.path()), |event| {
            assert!(!matches!(event, Event::Step { record, .. } if record.step == 15), "stopped in the third epoch");
        })
    }));
    assert!(stopped.is_err());
    let mut steps = Vec::new();
    let network = network();
    let taken_up = fine_tune(&network, lesson(setup), settings, Some(folder.path()), |event| {
        if let Event::Step { record, .. } = event {
            steps.push(record.step);
        }
    });
    let taken_up = taken_up.unwrap();
    assert_eq!(steps, (13..=24).collect::<Vec<_>>());
    assert_eq!(taken_up.history, whole.history);
    assert_eq!(taken_up.tensors, whole.tensors);
    assert_eq!(taken_up.stored, whole.stored);
    taken_up
}

#[test]
fn a_checkpoint_of_other_settings_is_refused() {
    let setup = joint();
    let folder = tempfile::tempdir().unwrap();
    let one = FineTuneSettings { epochs: 1, ..settings() };
    run(&network(&setup), &setup, &one, Some(folder.path())).unwrap();
    let other = FineTuneSettings { seed: 9, ..one.clone() };
    let error = run(&network(&setup), &setup, &other, Some(folder.path())).err().unwrap().to_string();
    assert!(error.contains("seed 1") && error.contains("this run has 9"), "{error}");
    let int8 = network_of(&setup, quantized(FakeQuantizedAs::INT8));
    let error = run(&int8, &setup, &one, Some(folder.path())).err().unwrap().to_string();
    assert!(error.contains("embeddings.weight none, this run has int8"), "{error}");
}

#[test]
fn a_run_ends_when_dev_gets_no_better() {
    let setup = joint();
    // Accuracy and correlation of a model that hardly moves stay where they are.
    let still =
        FineTuneSettings { epochs: 9, patience: 2, learning_rate: 1e-12, head_learning_rate: 1e-12, ..settings() };
    let found = run(&network(&setup), &setup, &still, None).unwrap();
    assert!(found.history.epochs.len() < 9, "{:?}", found.history.epochs);
}

#[test]
fn a_number_is_turned_back_from_its_standardized_form() {
    let setup = joint();
    let network = network(&setup);
    let snapshot = network.snapshot().unwrap();
    let tensors = network.tensors(&snapshot, &setup.task, ValueScale { mean: 1.0, deviation: 2.0 });
    let of = |name: &str| tensors[name].clone().into_f32();
    let stored = |name: &str| snapshot[network.variables().iter().position(|v| v.name == name).unwrap()].clone();
    let (scaled, plain) = (of("head.out.weight"), stored("head.out.weight"));
    let width = plain.len() / 3;
    assert_eq!(scaled[..2 * width], plain[..2 * width]);
    assert_eq!(scaled[2 * width], 2.0 * plain[2 * width]);
    assert_eq!(of("head.out.bias"), [0.0, 0.0, 1.0]);
}

#[test]
fn examples_without_targets_are_named() {
    let mut examples = examples();
    let task = Task::classify(&examples, &["positive".into(), "negative".into()], Some("valence".into())).unwrap();
    assert_eq!(task.labels, ["positive", "negative"]);
    let tokenizer = Tokenizer::from_file(&Path::new(MODEL).join("tokenizer.json")).unwrap();
    let refused = |examples: &[Example]| {
        Dataset::new(examples, &task, &tokenizer, 64, Path::new("data.jsonl")).err().unwrap().to_string()
    };
    examples[3].rating = None;
    assert!(refused(&examples).contains("example 4 has no \"rating\""));
    examples[2].label = Some(Label::Name("odd".into()));
    assert!(refused(&examples).contains("example 3 has label \"odd\", expected one of positive, negative"));
    examples[1].label = None;
    assert!(refused(&examples).contains("example 2 has no label"));
}

#[test]
fn probabilities_are_learned_in_place_of_the_label() {
    let mut examples = examples();
    for example in &mut examples {
        example.probabilities = vec![("positive".into(), 0.75), ("negative".into(), 0.25)];
    }
    let task = Task::classify(&examples, &[], None).unwrap();
    let setup = setup(&examples, task);
    // Classes are in order of name; the label stays what is right.
    assert_eq!(setup.data.items[1].target, [0.25, 0.75]);
    assert_eq!(setup.data.items[1].classes, [1.0, 0.0]);
    // No model comes below the entropy of what is learned, and one that is sure of the labels stays above 1.
    let entropy = -(0.75 * 0.75f32.ln() + 0.25 * 0.25f32.ln());
    let found = run(&network(&setup), &setup, &long(), None).unwrap();
    assert!((entropy..entropy + 0.1).contains(&found.dev.loss), "{:?}, {entropy} expected", found.dev);
    assert_eq!(found.dev.accuracy, Some(0.5));
    examples[0].probabilities[0].0 = "odd".into();
    let tokenizer = Tokenizer::from_file(&Path::new(MODEL).join("tokenizer.json")).unwrap();
    let error = Dataset::new(&examples, &setup.task, &tokenizer, 64, Path::new("data.jsonl")).unwrap_err().to_string();
    assert!(error.contains("example 1 has label \"odd\""), "{error}");
}

/// A small model that has learned its examples, as a float folder.
fn learned(setup: &Setup, folder: &Path) {
    let found = run(&network(setup), setup, &long(), None).unwrap();
    write(setup, &found, folder);
}

fn write(setup: &Setup, found: &FineTuned, folder: &Path) {
    write_tensors(setup, found.tensors.clone(), &found.layers, folder);
}

fn write_tensors(setup: &Setup, tensors: Tensors, layers: &[LayerConfig], folder: &Path) {
    let dir = ModelDir::open(Path::new(MODEL)).unwrap();
    let mut config = dir.config().raw.clone();
    dir.config().write_layers(layers, &mut config);
    config.insert("problem_type".into(), "single_label_classification".into());
    let labels = setup.task.labels.iter().enumerate().map(|(i, l)| (i.to_string(), serde_json::json!(l)));
    config.insert("id2label".into(), labels.collect::<serde_json::Map<_, _>>().into());
    config.insert("octet".into(), serde_json::json!({"head": {"pooling": "mean", "value": setup.task.value}}));
    let files = ModelFiles { config, tensors, copy_from: Some(Path::new(MODEL)), ..ModelFiles::default() };
    write_model(folder, &files, Existing::Replace).unwrap();
}

#[test]
fn a_folder_with_a_head_of_ours_goes_on_with_it() {
    let (setup, folder) = (joint(), tempfile::tempdir().unwrap());
    let path = folder.path().join("model");
    learned(&setup, &path);
    let again = Network::load(&ModelDir::open(&path).unwrap(), &setup.task, &options(&setup)).unwrap();
    let still = FineTuneSettings { epochs: 1, learning_rate: 1e-12, head_learning_rate: 1e-12, ..settings() };
    let found = run(&again, &setup, &still, None).unwrap();
    assert_eq!(found.dev.accuracy, Some(1.0));
    assert!(found.dev.pearson.unwrap() > 0.95 && found.dev.loss < 0.2, "{:?}", found.dev);
}

#[test]
fn a_student_of_half_the_layers_learns_from_its_teacher_without_labels() {
    let (setup, folder) = (joint(), tempfile::tempdir().unwrap());
    let path = folder.path().join("teacher");
    learned(&setup, &path);
    let dir = ModelDir::open(&path).unwrap();
    let teacher = Teacher::new(vec![Network::load(&dir, &setup.task, &options(&setup)).unwrap()]);
    let student_options = NetworkOptions { layers: Some(vec![1]), ..options(&setup) };
    let student = || Network::load(&dir, &setup.task, &student_options).unwrap();
    assert_eq!(student().num_layers(), 1);
    // The labels count nothing, so what it learns is from the teacher.
    let taught = FineTuneSettings { teacher_weight: 1.0, ..long() };
    let lesson = Lesson { teacher: Some(&teacher), ..lesson(&setup) };
    let found = fine_tune(&student(), lesson, &taught, None, |_| {}).unwrap();
    assert_eq!(found.dev.accuracy, Some(1.0), "{:?}", found.history.epochs);
    let names: Vec<_> = found.tensors.keys().filter(|name| name.contains("layer.1.")).collect();
    assert!(names.is_empty(), "layer 1 is now layer 0: {names:?}");
    let path = folder.path().join("student");
    write(&setup, &found, &path);
    Network::load(&ModelDir::open(&path).unwrap(), &setup.task, &options(&setup)).unwrap();
}

/// The model at half its width, as a folder: the first half of the columns, and of the rows that are made by them.
fn narrow(folder: &Path) {
    let dir = ModelDir::open(Path::new(MODEL)).unwrap();
    let mut weights = dir.weights().unwrap();
    let mut config = dir.config().raw.clone();
    let hidden = dir.config().hidden_size;
    config.insert("hidden_size".into(), (hidden / 2).into());
    let names: Vec<String> = weights.names().map(String::from).collect();
    let half = |name: String| {
        let shape = weights.shape(&name).unwrap().to_vec();
        let data = weights.take(&name, &shape).unwrap().into_f32();
        let is_table = name.contains("_embeddings");
        let kept = |axis: usize, size: usize| if size == hidden && !(is_table && axis == 0) { size / 2 } else { size };
        let new: Vec<usize> = shape.iter().enumerate().map(|(axis, size)| kept(axis, *size)).collect();
        let data = match new[..] {
            [n] => data[..n].to_vec(),
            [rows, columns] => data.chunks(shape[1]).take(rows).flat_map(|row| &row[..columns]).copied().collect(),
            _ => panic!("{name} is {shape:?}"),
        };
        (name, crate::checkpoint::Tensor::F32 { shape: new, data })
    };
    let tensors = names.into_iter().map(half).collect();
    let files = ModelFiles { config, tensors, copy_from: Some(Path::new(MODEL)), ..ModelFiles::default() };
    write_model(folder, &files, Existing::Replace).unwrap();
}

#[test]
fn a_narrower_student_learns_the_relations_of_its_teacher() {
    let (setup, folder) = (joint(), tempfile::tempdir().unwrap());
    let [path, half] = ["teacher", "half"].map(|name| folder.path().join(name));
    learned(&setup, &path);
    narrow(&half);
    let load = |path: &Path, quantization| {
        let options = NetworkOptions { quantization, ..options(&setup) };
        Network::load(&ModelDir::open(path).unwrap(), &setup.task, &options).unwrap()
    };
    let teacher = Teacher::new(vec![load(&path, FakeQuantization::new())]);
    // Together with quantization-aware training.
    let scheme = Scheme::symmetric(Levels::Int4, Granularity::Channel);
    let student = load(&half, quantized(FakeQuantizedAs { scheme, learned: true, ..FakeQuantizedAs::INT8 }));
    let settings =
        FineTuneSettings { teacher_weight: 1.0, relation_weight: 1.0, relation_heads: 2, dropout: 0.0, ..long() };
    let batch = setup.data.batch(&(0..setup.data.len()).collect::<Vec<_>>());
    let apart = || {
        let outputs = student.forward(&batch, Dropout::NONE).unwrap();
        let of = |settings: &FineTuneSettings| {
            let loss = teacher.loss(&student, &outputs, &batch, &setup.task, settings).unwrap();
            f64::from(loss.to_scalar::<f32>().unwrap())
        };
        of(&settings) - of(&FineTuneSettings { relation_weight: 0.0, ..settings.clone() })
    };
    let before = apart();
    let lesson = Lesson { teacher: Some(&teacher), ..lesson(&setup) };
    let found = fine_tune(&student, lesson, &settings, None, |_| {}).unwrap();
    assert_eq!(found.dev.accuracy, Some(1.0), "{:?}", found.history.epochs);
    let after = apart();
    assert!(before > 1e-3 && after < before / 2.0, "relations are {after} apart, before {before}");
}

#[test]
fn layers_that_do_not_exist_are_refused() {
    let setup = joint();
    let dir = ModelDir::open(Path::new(MODEL)).unwrap();
    for layers in [vec![], vec![1, 0], vec![0, 2]] {
        let options = NetworkOptions { layers: Some(layers), ..options(&setup) };
        let error = Network::load(&dir, &setup.task, &options).err().unwrap().to_string();
        assert!(error.contains("expected rising numbers from 0 to 1"), "{error}");
    }
}

/// What training saw is what serves: the int8 executor on the exported integers, beside the fake-quantized network.
#[test]
fn an_exported_int8_model_gives_the_classes_of_the_fake_quantized_one() {
    let (setup, folder) = (joint(), tempfile::tempdir().unwrap());
    let network = network_of(&setup, quantized(FakeQuantizedAs::INT8));
    let found = run(&network, &setup, &FineTuneSettings { epochs: 3, ..settings() }, None).unwrap();
    let path = folder.path().join("model");
    write(&setup, &found, &path);
    let model = Loader::new(Kernels::detect(), Precision::Int8).load("model", &path).unwrap();
    let model = &model.classifier.as_ref().unwrap().model;
    let batch = setup.data.batch(&(0..setup.data.len()).collect::<Vec<_>>());
    let rows = model.rows(&batch, &mut model.encoder.workspace());
    for (served, seen) in rows.iter().zip(&found.dev_outputs) {
        assert_eq!(served[0] > served[1], seen[0] > seen[1], "{served:?} {seen:?}");
        // Attention in 16 bits and a GELU within 2e-4 move a value over a rounding boundary here and there.
        let number = (f64::from(served[2]) - setup.scale.mean) / setup.scale.deviation;
        let apart = [f64::from(served[0] - seen[0]), f64::from(served[1] - seen[1]), number - f64::from(seen[2])];
        assert!(apart.iter().all(|x| x.abs() < 0.05), "{served:?} {seen:?}");
    }
}

/// Half of the heads and of the neurons of the small model: 4 of 8, and 64 of 128.
fn halved() -> FineTuneSettings {
    FineTuneSettings { prune_heads: 0.5, prune_ffn: 0.5, prune_start: 0.1, prune_end: 0.6, ..settings() }
}

/// Some heads and neurons of the small model of two layers with four heads and 64 neurons.
fn some() -> Vec<Kept> {
    vec![
        Kept { heads: vec![0, 3], neurons: (0..64).filter(|n| n % 3 != 1).collect() },
        Kept { heads: vec![2], neurons: (10..42).collect() },
    ]
}

#[test]
fn the_importance_of_a_gate_is_the_slope_of_the_loss_along_it() {
    let setup = joint();
    let network = network(&setup);
    let (chosen, items) = ((0..8).collect::<Vec<_>>(), setup.data.items[..8].iter().collect::<Vec<&Item>>());
    let value = || {
        let outputs = network.forward(&setup.data.batch(&chosen), Dropout::NONE).unwrap();
        loss(&outputs.logits, &items, &setup.task, setup.scale, &settings()).unwrap()
    };
    let gradients = value().backward().unwrap();
    for gates in network.gates() {
        let found = slopes(&network, &gates, &gradients).unwrap();
        assert_eq!(found.len(), gates.count);
        let var = &network.variables()[gates.variable].var;
        let start = var.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        // Of a neuron the loss knows little; of all of them, as of all heads, enough.
        let signs: Vec<f32> = (0..gates.count).map(|gate| if gate % 3 == 0 { 1.0 } else { -0.5 }).collect();
        let at = |step: f32| {
            let scaled = start.iter().enumerate();
            let columns = gates.count * gates.width;
            let scaled = scaled.map(|(i, w)| w * (1.0 + step * signs[i % columns / gates.width]));
            var.set(&candle_core::Tensor::from_vec(scaled.collect(), var.shape(), var.device()).unwrap()).unwrap();
            f64::from(value().to_scalar::<f32>().unwrap())
        };
        let (above, below) = (at(1e-2), at(-1e-2));
        at(0.0);
        let measured = (above - below) / 2e-2;
        let expected: f64 = found.iter().zip(&signs).map(|(slope, sign)| f64::from(slope * sign)).sum();
        assert!((measured - expected).abs() < 1e-3 + 0.02 * measured.abs(), "{gates:?}: {measured} for {expected}");
    }
}

/// The same tensors with what is not kept set to 0: the network with its gates closed.
fn masked(network: &Network, kept: &[Kept]) -> Network {
    let masked = network.clone();
    let dim = 8;
    for (layer, kept) in kept.iter().enumerate() {
        let closed = |name: &str, keeps: &dyn Fn(usize, usize) -> bool| {
            let name = format!("encoder.layer.{layer}.{name}");
            let var = &masked.variables().iter().find(|v| v.name == name).unwrap().var;
            let columns = if var.rank() == 2 { var.dim(1).unwrap() } else { 1 };
            let values = var.flatten_all().unwrap().to_vec1::<f32>().unwrap();
            let values = values.into_iter().enumerate();
            let values = values.map(|(i, w)| if keeps(i / columns, i % columns) { w } else { 0.0 });
            var.set(&candle_core::Tensor::from_vec(values.collect(), var.shape(), var.device()).unwrap()).unwrap();
        };
        let (heads, neurons) = (|i: usize| kept.heads.contains(&(i / dim)), |i: usize| kept.neurons.contains(&i));
        for part in ["weight", "bias"] {
            closed(&format!("attention.self.value.{part}"), &|row, _| heads(row));
            closed(&format!("intermediate.dense.{part}"), &|row, _| neurons(row));
        }
        closed("attention.output.dense.weight", &|_, column| heads(column));
        closed("output.dense.weight", &|_, column| neurons(column));
    }
    masked
}

/// What serves a pruned model is, by bits and on every instruction set, what serves the model it came from with closed
/// gates; the float executor and a network that goes on from the folder give the values of the pruned network.
#[test]
fn a_pruned_model_gives_what_the_masked_one_gives() {
    let (setup, scratch) = (joint(), tempfile::tempdir().unwrap());
    let batch = setup.data.batch(&(0..setup.data.len()).collect::<Vec<_>>());
    let outputs = |network: &Network| network.forward(&batch, Dropout::NONE).unwrap().logits.to_vec2::<f32>().unwrap();
    let apart = |a: &[Vec<f32>], b: &[Vec<f32>]| {
        a.concat().iter().zip(b.concat()).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
    };
    for quantization in [FakeQuantization::new(), quantized(FakeQuantizedAs::INT8)] {
        let dir = ModelDir::open(Path::new(MODEL)).unwrap();
        let is_float = quantization.is_empty();
        let options = NetworkOptions { quantization, ..options(&setup) };
        let mut pruned = Network::load(&dir, &setup.task, &options).unwrap();
        let before = outputs(&pruned);
        // Variables are shared with a clone, so the masked one is made from another load.
        let masked = masked(&Network::load(&dir, &setup.task, &options).unwrap(), &some());
        pruned.prune(&some()).unwrap();
        let (found, expected) = (outputs(&pruned), outputs(&masked));
        assert!(apart(&found, &before) > 0.1, "what was taken out mattered");
        // Sums have another order, and may bring a value over a rounding boundary.
        let bound = if is_float { 1e-4 } else { 0.02 };
        assert!(apart(&found, &expected) < bound, "{}", apart(&found, &expected));

        let folder = |network: &Network, name: &str| {
            let path = scratch.path().join(name);
            let tensors = network.tensors(&network.snapshot().unwrap(), &setup.task, setup.scale);
            write_tensors(&setup, tensors, network.layers(), &path);
            path
        };
        let (pruned_folder, masked_folder) = (folder(&pruned, "pruned"), folder(&masked, "masked"));
        let rows = |path: &Path, kernels, precision| {
            let model = Loader::new(kernels, precision).load("model", path).unwrap();
            let model = &model.classifier.as_ref().unwrap().model;
            model.rows(&batch, &mut model.encoder.workspace())
        };
        for kernels in Kernels::available() {
            let found = rows(&pruned_folder, kernels, Precision::Int8);
            assert_eq!(found, rows(&masked_folder, kernels, Precision::Int8), "{}", kernels.isa());
        }
        let again = Network::load(&ModelDir::open(&pruned_folder).unwrap(), &setup.task, &options).unwrap();
        assert!(apart(&outputs(&again), &found) < 1e-4);
        if is_float {
            let float = rows(&pruned_folder, Kernels::detect(), Precision::Float);
            let number = |x: f32| (f64::from(x) - setup.scale.mean) / setup.scale.deviation;
            let float: Vec<_> = float.iter().map(|r| vec![r[0], r[1], number(r[2]) as f32]).collect();
            assert!(apart(&float, &found) < 1e-4, "{}", apart(&float, &found));
        }
    }
}

#[test]
fn a_pruned_network_learns_and_every_variable_of_it_has_a_gradient() {
    let setup = joint();
    let mut pruned = network(&setup);
    pruned.prune(&some()).unwrap();
    let chosen: Vec<usize> = (0..setup.data.len()).collect();
    let items: Vec<&Item> = setup.data.items.iter().collect();
    let outputs = pruned.forward(&setup.data.batch(&chosen), Dropout::new(0.1, 1)).unwrap();
    let loss = loss(&outputs.logits, &items, &setup.task, setup.scale, &settings()).unwrap();
    let gradients = loss.backward().unwrap();
    for (index, variable) in pruned.variables().iter().enumerate() {
        let var = if index == pruned.words() { &outputs.words } else { &variable.var };
        let gradient = gradients.get(var).unwrap_or_else(|| panic!("{} has no gradient", variable.name));
        assert_eq!(gradient.shape(), var.shape(), "{}", variable.name);
        let largest = gradient.abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
        assert!(largest > 1e-6 || variable.name.ends_with("key.bias"), "{}: {largest}", variable.name);
    }
}

#[test]
fn pruning_is_gradual_and_what_is_left_has_learned() {
    let setup = joint();
    let gradual = FineTuneSettings { epochs: 20, patience: 20, ..halved() };
    let found = run(&network(&setup), &setup, &gradual, None).unwrap();
    let heads: usize = found.layers.iter().map(|l| l.heads.len()).sum();
    let neurons: Vec<usize> = found.layers.iter().map(|l| l.intermediate_size).collect();
    assert_eq!((heads, neurons.iter().sum::<usize>()), (4, 64), "{:?}", found.layers);
    assert!(neurons.iter().all(|n| n % 32 == 0));
    // 120 steps, of which the first 72 prune: the weights of the twelfth epoch are the first that may be kept.
    assert!(found.epoch > 11, "the best epoch is {}, before pruning was done", found.epoch);
    assert_eq!(found.dev.accuracy, Some(1.0), "{:?}", found.history.epochs);
    for (name, tensor) in &found.tensors {
        let checkpoint::Tensor::F32 { shape, .. } = tensor else { panic!("{name} is float") };
        if name.ends_with("attention.self.query.weight") {
            let layer: usize = name.split('.').nth(2).unwrap().parse().unwrap();
            assert_eq!(shape, &[8 * found.layers[layer].heads.len(), 32], "{name}");
        }
    }
}

#[test]
fn a_run_that_was_stopped_while_it_pruned_goes_on_with_the_same_bits() {
    let setup = joint();
    let pruning = FineTuneSettings { prune_magnitude: 0.5, prune_end: 0.9, ..halved() };
    let whole = run(&network(&setup), &setup, &pruning, None).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let stopped = catch_unwind(AssertUnwindSafe(|| {
        let network = network(&setup);
        fine_tune(&network, lesson(&setup), &pruning, Some(folder.path()), |event| {
            assert!(!matches!(event, Event::Step { record, .. } if record.step == 15), "stopped in the third epoch");
        })
    }));
    assert!(stopped.is_err());
    let taken_up = run(&network(&setup), &setup, &pruning, Some(folder.path())).unwrap();
    assert_eq!(taken_up.layers, whole.layers);
    assert_eq!(taken_up.history, whole.history);
    assert_eq!(taken_up.tensors, whole.tensors);
    // And once more from the end, where everything that is pruned is gone.
    let again = run(&network(&setup), &setup, &pruning, Some(folder.path())).unwrap();
    assert_eq!((again.layers, again.tensors), (whole.layers, whole.tensors));
}

#[test]
fn weights_pruned_by_magnitude_stay_zero_in_int8_too() {
    let setup = joint();
    let sparse = FineTuneSettings { prune_magnitude: 0.75, ..settings() };
    let found = run(&network(&setup), &setup, &sparse, None).unwrap();
    let is_matrix = |name: &str| name.starts_with("encoder.layer.") && !name.contains("LayerNorm");
    let matrices = found.tensors.iter().filter(|(name, _)| is_matrix(name) && name.ends_with(".weight"));
    let matrices: Vec<_> = matrices.collect();
    assert_eq!(matrices.len(), 12);
    for (name, tensor) in matrices {
        let checkpoint::Tensor::F32 { shape, data } = tensor else { panic!("{name} is float") };
        let zeros = data.iter().filter(|w| **w == 0.0).count();
        assert_eq!(zeros * 4, data.len() * 3, "{name}");
        let int8 = quantize_weights(data, shape[0], shape[1], Scheme::INT8);
        assert!(data.iter().zip(&int8.values).all(|(float, int8)| *float != 0.0 || *int8 == 0), "{name}");
    }
    assert!(found.tensors["head.dense.weight"].clone().into_f32().iter().all(|w| *w != 0.0));
}

/// Prune, distil, quantize: fewer layers, fewer heads and neurons, a teacher, and int8 seen while training.
#[test]
fn pruning_distillation_and_quantization_go_together() {
    let (setup, folder) = (joint(), tempfile::tempdir().unwrap());
    let path = folder.path().join("teacher");
    learned(&setup, &path);
    let dir = ModelDir::open(&path).unwrap();
    let teacher = Teacher::new(vec![Network::load(&dir, &setup.task, &options(&setup)).unwrap()]);
    let quantization = quantized(FakeQuantizedAs::INT8);
    let student = NetworkOptions { layers: Some(vec![1]), quantization, ..options(&setup) };
    let student = Network::load(&dir, &setup.task, &student).unwrap();
    let lesson = Lesson { teacher: Some(&teacher), ..lesson(&setup) };
    let all = FineTuneSettings { epochs: 20, patience: 20, ..halved() };
    let found = fine_tune(&student, lesson, &all, None, |_| {}).unwrap();
    let sizes: Vec<_> = found.layers.iter().map(|l| (l.heads.len(), l.intermediate_size)).collect();
    assert_eq!(sizes, [(2, 32)]);
    assert_eq!(found.dev.accuracy, Some(1.0), "{:?}", found.history.epochs);
    let path = folder.path().join("student");
    write(&setup, &found, &path);
    let model = Loader::new(Kernels::detect(), Precision::Int8).load("model", &path).unwrap();
    let model = &model.classifier.as_ref().unwrap().model;
    let batch = setup.data.batch(&(0..setup.data.len()).collect::<Vec<_>>());
    for (served, seen) in model.rows(&batch, &mut model.encoder.workspace()).iter().zip(&found.dev_outputs) {
        assert_eq!(served[0] > served[1], seen[0] > seen[1], "{served:?} {seen:?}");
    }
}
