//! `octet eval` and `octet calibrate` from end to end: every kind of head, every output, and what is refused.

use std::path::Path;
use std::process::{Command, Output};

use serde_json::{Value, json};

use super::process;
use super::support::Connection;

const SENTIMENT: &str = "models/sentiment";
const ENCODER: &str = "models/all-MiniLM-L6-v2";

/// A folder for files of a test.
struct Scratch(tempfile::TempDir);

impl Scratch {
    fn new() -> Self {
        Scratch(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> String {
        self.0.path().join(name).to_str().unwrap().to_string()
    }

    fn lines(&self, name: &str, rows: &[Value]) -> String {
        let lines: Vec<String> = rows.iter().map(Value::to_string).collect();
        self.text(name, &lines.join("\n"))
    }

    fn text(&self, name: &str, content: &str) -> String {
        std::fs::write(self.path(name), content).unwrap();
        self.path(name)
    }
}

fn octet(args: &[&str]) -> Output {
    process::octet().args(args).output().expect("octet runs")
}

/// What it printed.
fn runs(args: &[&str]) -> String {
    let output = octet(args);
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// What it said on standard error.
fn refuses(args: &[&str]) -> String {
    let output = octet(args);
    let message = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{args:?}: {message}");
    message
}

/// The report as JSON, of a comparison without timing.
fn report(scratch: &Scratch, args: &[&str]) -> Value {
    let path = scratch.path("report.json");
    runs(&[&["eval"], args, &["--latency-texts", "0", "--json", &path]].concat());
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("{value} is no number"))
}

/// Every fifth of the 500 rated sentences.
fn sentences() -> Vec<Value> {
    let lines = std::fs::read_to_string("tests/goldens/sentences.jsonl").unwrap();
    lines.lines().step_by(5).map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn two_precisions_of_the_shipped_classifier_are_compared_in_every_output() {
    let scratch = Scratch::new();
    let data = scratch.lines("data.jsonl", &sentences());
    let (json, html) = (scratch.path("report.json"), scratch.path("report.html"));
    let args = ["--json", &json, "--html", &html, "--flips", "3", "--latency-texts", "8", "--valence"];
    let shown = runs(&[&["eval", SENTIMENT, "sentiment@f32", "--data", &data], args.as_slice()].concat());
    for part in
        ["Accuracy", "By source", "What changed", "right to wrong", "Human-rated sentences", "p99 ms", "sentiment@f32"]
    {
        assert!(shown.contains(part), "{part} is missing in:\n{shown}");
    }
    let report: Value = serde_json::from_slice(&std::fs::read(json).unwrap()).unwrap();
    assert_eq!((report["examples"].as_u64(), report["reference"].as_str()), (Some(100), Some("sentiment")));
    let [int8, float] = [0, 1].map(|index| &report["accuracy"][index]);
    for row in [int8, float] {
        let (low, high) = (number(&row["accuracy_interval"][0]), number(&row["accuracy_interval"][1]));
        let accuracy = number(&row["accuracy"]);
        assert!(accuracy > 0.6 && low < accuracy && accuracy < high, "{row}");
        assert!(number(&row["mcc"]) > 0.3 && number(&row["ece"]) < 0.2, "{row}");
    }
    let change = &report["changes"][0];
    let counts = ["both_right", "right_to_wrong", "wrong_to_right", "both_wrong"].map(|key| number(&change[key]));
    assert_eq!(counts.iter().sum::<f64>(), 100.0);
    let difference = number(&float["accuracy"]) - number(&int8["accuracy"]);
    assert!((number(&change["accuracy_difference"]) - difference).abs() < 1e-9, "{change}");
    assert!(number(&change["agreement"]) >= 0.9 && difference.abs() <= 1.0 - number(&change["agreement"]) + 1e-9);
    let cost = &report["cost"];
    assert!(number(&cost[0]["latency_p50_seconds"]) < number(&cost[1]["latency_p50_seconds"]), "{cost}");
    assert!(number(&cost[0]["weight_bytes"]) * 3.0 < number(&cost[1]["weight_bytes"]), "{cost}");

    let page = std::fs::read_to_string(html).unwrap();
    assert!(page.matches("<svg").count() >= 6, "intervals, changes, reliability, two confusions, cost");
    assert!(["src=", "href=", "url(", "NaN"].iter().all(|part| !page.contains(part)), "self-contained");
}

#[test]
fn labels_may_differ_in_case_or_be_indices_and_wrong_ones_are_listed_at_once() {
    let scratch = Scratch::new();
    let names = "text,label\nI love it,Positive\nI hate it,NEGATIVE\nIt is a chair,1\n";
    let data = scratch.text("names.csv", names);
    let found = report(&scratch, &[SENTIMENT, "--data", &data]);
    assert_eq!(number(&found["accuracy"][0]["n"]), 3.0);
    let data = scratch.text("wrong.tsv", "review\tclass\nI love it\thappy\nI hate it\tsad\nBad\tsad\nGood\tpositive\n");
    let columns = ["--text-column", "review", "--label-column", "class"];
    let wrong = refuses(&[&["eval", SENTIMENT, "--data", &data], columns.as_slice()].concat());
    for part in ["\"happy\" (line 2)", "\"sad\" (2 times, first in line 3)", "negative, neutral, positive"] {
        assert!(wrong.contains(part), "{part}: {wrong}");
    }
    let skipped = [&[SENTIMENT, "--data", &data, "--skip-labels", "happy,sad"], columns.as_slice()].concat();
    assert_eq!(number(&report(&scratch, &skipped)["accuracy"][0]["n"]), 1.0);
    let missing = refuses(&["eval", SENTIMENT, "--data", &data]);
    assert!(missing.contains("found review, class") && missing.contains("--text-column"), "{missing}");
    let unlabelled = scratch.text("plain.csv", "text\nhello\n");
    assert!(refuses(&["eval", SENTIMENT, "--data", &unlabelled]).contains("--label-column"));
    for (models, part) in [
        (vec![SENTIMENT, ENCODER], "does not classify"),
        (vec![SENTIMENT, SENTIMENT], "are called"),
        (vec![SENTIMENT, "--reference", "best"], "no such model; there are sentiment"),
        (vec!["tests/goldens/bert-classify", "--write"], "no quant.json"),
    ] {
        let message = refuses(&[&["eval", "--data", &data], models.as_slice(), columns.as_slice()].concat());
        assert!(message.contains(part), "{part}: {message}");
    }
}

#[test]
fn pairs_are_judged_by_their_cosines_and_vectors_by_their_float_original() {
    let scratch = Scratch::new();
    let pair = |a: &str, b: &str, rating: f64| json!({"sentence1": a, "sentence2": b, "score": rating});
    let rows = [
        pair("A man plays a guitar.", "Someone is playing a guitar.", 4.6),
        pair("A dog runs in the park.", "A cat sleeps on a sofa.", 1.0),
        pair("The train was late.", "The train did not arrive on time.", 4.4),
        pair("She bought three apples.", "The senate passed the bill.", 0.1),
        pair("It will rain tomorrow.", "Rain is expected on the next day.", 4.2),
        pair("He cooks dinner.", "He is washing the dishes.", 2.0),
    ];
    let found = report(&scratch, &[ENCODER, "all-MiniLM-L6-v2@f32", "--data", &scratch.lines("sts.jsonl", &rows)]);
    for row in found["similarity"].as_array().unwrap() {
        assert!(number(&row["spearman"]) > 0.9, "{row}");
    }
    let close = &found["closeness"][0];
    assert!(number(&close["mean_cosine"]) > 0.99 && number(&close["texts"]) == 12.0, "{close}");
}

#[test]
fn summaries_are_judged_beside_the_first_sentences() {
    let scratch = Scratch::new();
    let text = "Lake Baikal is the deepest lake on Earth. Tourists buy smoked fish at the stations. It holds a fifth of \
                all fresh water that is not frozen. Trains pass twice a day.";
    let summary = "Lake Baikal is the deepest lake and holds a fifth of all fresh water.";
    let data = scratch.lines("data.jsonl", &[json!({"article": text, "summary": summary})]);
    let found = report(&scratch, &[ENCODER, "--data", &data, "--text-column", "article", "--sentences", "2"]);
    let rows = found["rouge"].as_array().unwrap();
    assert_eq!(rows[1]["model"], "first 2 sentences");
    assert!(rows.iter().all(|row| number(&row["rouge_l"]) > 0.0 && number(&row["rouge1"]) < 1.0), "{rows:?}");
}

#[test]
fn numbers_are_judged_by_ratings() {
    let scratch = Scratch::new();
    let rows: Vec<Value> = ["the cat", "a dog ran", "the cat sat", "a dog"]
        .iter()
        .zip(0..)
        .map(|(t, r)| json!({"text": t, "rating": r}))
        .collect();
    let data = scratch.lines("data.jsonl", &rows);
    let model = "tests/goldens/xlm-roberta-regression";
    let found = report(
        &scratch,
        &[model, "xlm-roberta-regression@f32", "--data", &data, "--set", "engine.models_dir=tests/goldens"],
    );
    let row = &found["accuracy"][0];
    assert!(number(&row["mse"]) > 0.0 && number(&row["spearman"]).abs() <= 1.0, "{row}");
    assert!(number(&found["changes"][0]["mean_absolute_difference"]) < 0.1, "{}", found["changes"]);
}

/// Texts whose labels follow what the small model itself says, so that good thresholds exist.
#[test]
fn thresholds_are_fitted_stored_served_and_used() {
    let scratch = Scratch::new();
    let folder = scratch.path("model");
    runs(&["quantize", "tests/goldens/distilbert-multilabel", &folder]);
    let texts = ["the cat sat", "a dog ran", "the dog", "a cat", "the cat ran on", "dog dog dog", "a", "the the"];
    let labels = [vec!["toxic", "spam"], vec!["Insult"]];
    let rows: Vec<Value> =
        texts.iter().enumerate().map(|(i, text)| json!({"text": text, "labels": labels[i % 2]})).collect();
    let data = scratch.lines("data.jsonl", &rows);
    let before = report(&scratch, &[&folder, "--data", &data]);
    let shown = runs(&["calibrate", &folder, "--data", &data, "--write"]);
    assert!(shown.contains("F1 at 0.5") && shown.contains("fitted"), "{shown}");
    let manifest: Value =
        serde_json::from_slice(&std::fs::read(Path::new(&folder).join("quant.json")).unwrap()).unwrap();
    assert!(number(&manifest["temperature"]) > 0.0);
    let thresholds = manifest["thresholds"].as_object().unwrap();
    assert_eq!(thresholds.keys().collect::<Vec<_>>(), ["insult", "spam", "threat", "toxic"]);
    assert_eq!(thresholds["threat"], 0.5, "a label that is never true keeps the usual threshold");
    let after = report(&scratch, &[&folder, "--data", &data, "--write"]);
    let f1 = |report: &Value| number(&report["accuracy"][0]["f1_macro"]);
    assert!(f1(&after) >= f1(&before) && f1(&after) > 0.3, "{} and {}", f1(&before), f1(&after));
    assert!(number(&after["accuracy"][0]["nll"]) <= number(&before["accuracy"][0]["nll"]) + 1e-6);
    let manifest: Value =
        serde_json::from_slice(&std::fs::read(Path::new(&folder).join("quant.json")).unwrap()).unwrap();
    let lengths = manifest["reference"]["tokens"]["counts"].as_array().unwrap().iter().map(number).sum::<f64>();
    assert_eq!((lengths, manifest["reference"].get("labels")), (8.0, None), "what drift is told by");
    assert!(manifest["scores"].as_array().unwrap().iter().any(|score| score["metric"] == "f1_micro"));
    assert!(runs(&["inspect", &folder]).contains("thresholds"));
    let error = refuses(&["calibrate", "tests/goldens/xlm-roberta-regression", "--data", &data]);
    assert!(error.contains("Regression"), "{error}");
    served_with_thresholds(&folder, &manifest);
}

/// The thresholds are told, decide which labels are answered, and give way to a request's own.
fn served_with_thresholds(folder: &str, manifest: &Value) {
    let mut command = process::octet();
    let (_server, address) = process::serve(command.args(["serve", "--port", "0", "--model", &format!("m={folder}")]));
    let mut connection = Connection::open(address).unwrap();
    let model = connection.request("GET", "/v1/models/m", &[], b"").json();
    for label in ["insult", "spam", "threat", "toxic"] {
        assert_eq!(
            number(&model["thresholds"][label]) as f32,
            number(&manifest["thresholds"][label]) as f32,
            "{model}"
        );
    }
    assert_eq!(number(&model["temperature"]) as f32, number(&manifest["temperature"]) as f32);
    let mut scores = |extra: Value| {
        let mut body = json!({"model": "m", "input": "the cat sat"});
        body.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        let answer = connection.request("POST", "/v1/classify", &[], body.to_string().as_bytes()).json();
        answer["data"][0]["scores"].as_array().unwrap_or_else(|| panic!("{answer}")).clone()
    };
    let all = scores(json!({"threshold": 0}));
    assert_eq!(all.len(), 4);
    let reaches =
        |s: &&Value| number(&s["score"]) as f32 >= number(&manifest["thresholds"][s["label"].as_str().unwrap()]) as f32;
    let expected: Vec<&Value> = all.iter().filter(reaches).collect();
    let expected = if expected.is_empty() { vec![&all[0]] } else { expected };
    assert_eq!(scores(json!({})).iter().collect::<Vec<_>>(), expected);
    assert_eq!(scores(json!({"threshold": 1})).len(), 1, "the best one stays");
}

/// The shipped classifier in a folder that may be written to.
fn copy_of_sentiment(scratch: &Scratch) -> String {
    let to = scratch.path("sentiment");
    assert!(Command::new("cp").args(["-r", SENTIMENT, &to]).status().unwrap().success());
    to
}

#[test]
fn a_temperature_changes_scores_and_no_class() {
    let scratch = Scratch::new();
    let (folder, data) = (copy_of_sentiment(&scratch), scratch.lines("data.jsonl", &sentences()));
    let before = report(&scratch, &[&folder, "--data", &data]);
    runs(&["calibrate", &folder, "--data", &data, "--write"]);
    let after = report(&scratch, &[&folder, "--data", &data]);
    let figure = |report: &Value, name: &str| number(&report["accuracy"][0][name]);
    for name in ["accuracy", "f1_macro", "mcc"] {
        assert_eq!(figure(&before, name), figure(&after, name), "{name}");
    }
    assert!(figure(&after, "nll") <= figure(&before, "nll"), "the likelihood is what was fitted");
    let manifest: Value =
        serde_json::from_slice(&std::fs::read(Path::new(&folder).join("quant.json")).unwrap()).unwrap();
    let counts = |name: &str| manifest["reference"][name].as_array().unwrap().iter().map(number).sum::<f64>();
    assert_eq!((counts("labels"), &manifest["reference"]["dataset"]), (100.0, &json!("data")), "what drift is told by");
    assert_ne!(before["models"][0]["temperature"], after["models"][0]["temperature"]);
}

/// What the model is not sure of gets the fallback: in the figures of the fit, in the answers, and told with the model.
#[test]
fn a_fallback_is_fitted_stored_and_served() {
    let scratch = Scratch::new();
    let (folder, data) = (copy_of_sentiment(&scratch), scratch.lines("data.jsonl", &sentences()));
    let answers = || {
        let mut command = process::octet();
        let (_server, address) = process::serve(command.args(["serve", "--port", "0", "--model", &folder]));
        let mut connection = Connection::open(address).unwrap();
        let texts: Vec<Value> = sentences().iter().map(|s| s["text"].clone()).take(60).collect();
        let body = json!({"input": texts}).to_string();
        let answer = connection.request("POST", "/v1/classify", &[], body.as_bytes()).json();
        let data = answer["data"].as_array().unwrap_or_else(|| panic!("{answer}")).clone();
        (data, connection.request("GET", "/v1/models/sentiment", &[], b"").json())
    };
    // With the temperature alone first, so that only the fallback differs.
    runs(&["calibrate", &folder, "--data", &data, "--write"]);
    let (before, told) = answers();
    assert!(told.get("fallback").is_none(), "{told}");
    let shown =
        runs(&["calibrate", &folder, "--data", &data, "--fallback", "neutral", "--precision", "0.85", "--write"]);
    assert!(shown.contains("fallback below") && runs(&["inspect", &folder]).contains("neutral below"), "{shown}");
    let (after, told) = answers();
    let threshold = number(&told["fallback"]["threshold"]);
    assert!(told["fallback"]["label"] == "neutral" && threshold > 0.34, "{told}");
    let mut unsure = 0;
    for (before, after) in before.iter().zip(&after) {
        if before["label"] != "neutral" && number(&before["score"]) < threshold {
            unsure += 1;
            assert_eq!((&after["label"], number(&after["score"])), (&json!("neutral"), 0.5), "{before} {after}");
        } else {
            assert_eq!(before["label"], after["label"]);
        }
    }
    assert!(unsure > 0 && unsure < before.len(), "{unsure} of {}", before.len());
    let error = refuses(&["calibrate", &folder, "--data", &data, "--fallback", "boring"]);
    assert!(error.contains("negative, neutral, positive"), "{error}");
}
