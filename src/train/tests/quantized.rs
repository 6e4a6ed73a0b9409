//! Quantization-aware training, and what is stored.

use super::*;

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
