//! Heads, neurons and single weights that are taken out.

use super::*;

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
