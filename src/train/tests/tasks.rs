//! Classes, numbers, both, and probabilities.

use super::*;

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
    assert!(refused(&examples).contains("line 4 has no \"rating\""));
    examples[2].label = Some(Label::Name("odd".into()));
    assert!(refused(&examples).contains("line 3 has label \"odd\", expected positive, negative"));
    examples[1].label = None;
    assert!(refused(&examples).contains("line 2 has no label"));
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
    assert!(error.contains("line 1 has label \"odd\""), "{error}");
}

#[test]
fn what_dev_is_scored_by_keeps_nothing_for_gradients() {
    let setup = joint();
    let batch = setup.data.batch(&[0, 1, 2]);
    let network = network(&setup);
    let logits = network.logits(&batch).unwrap();
    assert_eq!(
        logits.to_vec2::<f32>().unwrap(),
        network.forward(&batch, Dropout::NONE).unwrap().logits.to_vec2::<f32>().unwrap()
    );
    assert!(!logits.track_op(), "a whole dev set of graphs would stay in memory");
}
