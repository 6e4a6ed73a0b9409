//! Whole runs on a small model: what learns, what every variable gets, and what a checkpoint keeps.

mod gradients;
mod pruning;
mod quantized;
mod resume;
mod students;
mod tasks;

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use candle_core::Tensor;

use crate::architectures::{self, Pooling, ProblemType};
use crate::checkpoint::{self, Existing, LayerConfig, ModelDir, ModelFiles, write_model};
use crate::data::{Example, Label};
use crate::kernels::Kernels;
use crate::kernels::affine::{Granularity, Inputs, Levels, QParams, Scheme, quantize_weights};
use crate::nn::{Dropout, FakeQuantization, FakeQuantizedAs, Products};
use crate::pipelines::{Loader, Precision};
use crate::text::Tokenizer;

use super::dataset::Item;
use super::network::{Outputs, Part, Variable};
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
        line: i as u64 + 1,
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
        products: Products::F32,
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

/// What the network makes of the whole of the data, with dropout, and the loss of that.
fn loss_of(network: &Network, setup: &Setup) -> (Outputs, Tensor) {
    let chosen: Vec<usize> = (0..setup.data.len()).collect();
    let items: Vec<&Item> = setup.data.items.iter().collect();
    let outputs = network.forward(&setup.data.batch(&chosen), Dropout::new(0.1, 1)).unwrap();
    let loss = loss(&outputs.logits, &items, &setup.task, setup.scale, &settings()).unwrap();
    (outputs, loss)
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

/// Half of the heads and of the neurons of the small model: 4 of 8, and 64 of 128.
fn halved() -> FineTuneSettings {
    FineTuneSettings { prune_heads: 0.5, prune_ffn: 0.5, prune_start: 0.1, prune_end: 0.6, ..settings() }
}

/// Fails unless every variable has a gradient on the whole of the data.
fn check_gradients(network: &Network, setup: &Setup, what: &str) {
    let (outputs, loss) = loss_of(network, setup);
    let gradients = loss.backward().unwrap();
    for (index, variable) in network.variables().iter().enumerate() {
        let var = if index == network.words() { &outputs.words } else { &variable.var };
        let gradient = gradients.get(var).unwrap_or_else(|| panic!("{what}: {} has no gradient", variable.name));
        let largest = gradient.abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
        // A key bias shifts all scores of a query alike; softmax does not see it, and its true gradient is 0.
        assert!(largest > 1e-8 || variable.name.ends_with("key.bias"), "{what}: {}: {largest}", variable.name);
    }
}
