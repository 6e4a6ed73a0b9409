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

/// Dev is scored by what serves: the exported folder gives the same bits. What a step of training sees, fake-quantized in
/// f32, is near it: attention in 16 bits, GELU and the order of sums move a value over a rounding boundary here and there.
fn check(form: FakeQuantizedAs) {
    let (setup, folder) = (joint(), tempfile::tempdir().unwrap());
    let network = network_of(&setup, quantized(form));
    let found = run(&network, &setup, &FineTuneSettings { epochs: 3, ..settings() }, None).unwrap();
    let batch = setup.data.batch(&(0..setup.data.len()).collect::<Vec<_>>());
    let seen = network.fake_quantized(&batch);
    for (served, seen) in found.dev_outputs.iter().zip(&seen) {
        assert_eq!(served[0] > served[1], seen[0] > seen[1], "{form}: {served:?} {seen:?}");
        let near = served.iter().zip(seen).all(|(served, seen)| (served - seen).abs() < 0.05);
        assert!(near, "{form}: {served:?} {seen:?}");
    }
    if form == FakeQuantizedAs::INT8 {
        let path = folder.path().join("model");
        write(&setup, &found, &path);
        let model = Loader::new(Kernels::detect(), Precision::Int8).load("model", &path).unwrap();
        let model = &model.classifier.as_ref().unwrap().model;
        for (row, dev) in model.rows(&batch, &mut model.encoder.workspace()).iter().zip(&found.dev_outputs) {
            assert_eq!(row[..2], dev[..2]);
            let number = (f64::from(row[2]) - setup.scale.mean) / setup.scale.deviation;
            assert!((number - f64::from(dev[2])).abs() < 1e-5, "{row:?} {dev:?}");
        }
    }
}

#[test]
fn dev_is_scored_by_the_executor_that_serves() {
    check(FakeQuantizedAs::INT8);
    check(learned_int4());
    for levels in [Levels::Ternary, Levels::Binary] {
        let scheme = Scheme::symmetric(levels, Granularity::Channel);
        check(FakeQuantizedAs { scheme, ..FakeQuantizedAs::INT8 });
    }
}
