//! Stopped runs go on with the same bits.

use super::*;

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
