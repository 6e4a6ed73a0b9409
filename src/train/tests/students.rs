//! Heads of ours, fewer layers, teachers.

use super::*;

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

/// A small model that has learned its examples, as a float folder.
fn learned(setup: &Setup, folder: &Path) {
    let found = run(&network(setup), setup, &long(), None).unwrap();
    write(setup, &found, folder);
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
