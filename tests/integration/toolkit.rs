//! The commands that quantize with texts: calibration, rounding, the gate, sensitivity, tuning and their reports, on
//! the smallest golden classifier.

use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use octet::checkpoint::{ModelDir, QuantManifest, update_manifest};
use octet::kernels::Kernels;
use octet::pipelines::{ClassifyInput, Loader, Pipeline, Precision};

use super::process;

const FLOAT: &str = "tests/goldens/bert-classify";
const TEXTS: &str = "tests/goldens/sentences.jsonl";

fn octet(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_octet")).args(args).env("RAYON_NUM_THREADS", "1").output().expect("octet runs")
}

fn done(args: &[&str]) -> String {
    let output = octet(args);
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("output is UTF-8")
}

fn path(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// The folder loads, and says something finite.
fn answers(folder: &Path) {
    let mut loader = Loader::new(Kernels::detect(), Precision::Int8);
    let classifier = loader.load("model", folder).unwrap().classifier.unwrap();
    let input = ClassifyInput { text: "I love this".into(), text_pair: None };
    let found = classifier.run(vec![input], &Default::default(), 64).unwrap();
    assert!(found[0].best().score.is_finite());
}

#[test]
fn static_ranges_come_from_calibration_and_every_observer_gives_some() {
    let root = tempfile::tempdir().unwrap();
    let without = octet(&["quantize", FLOAT, path(&root.path().join("x")), "--recipe", "w8a8-static"]);
    let message = String::from_utf8_lossy(&without.stderr).into_owned();
    assert!(!without.status.success() && message.contains("--calibrate"), "{message}");
    let mut scales = Vec::new();
    for observer in ["minmax", "ema", "percentile", "mse", "entropy"] {
        let folder = root.path().join(observer);
        let args = ["--recipe", "w8a8-static", "--calibrate", TEXTS, "--observer", observer, "--samples", "40"];
        let told =
            done(&[&["quantize", FLOAT, path(&folder)][..], &args, &["--set", "quality.on_failure=warn"]].concat());
        assert!(told.contains("agreement with the float model"), "{told}");
        answers(&folder);
        let dir = ModelDir::open(&folder).unwrap();
        let weights = dir.weights().unwrap();
        scales.push(weights.names().filter(|name| name.ends_with("input_scale")).count());
    }
    assert_eq!(scales, [12; 5], "six matrices in each of two layers have a static range");

    let (folder, exported) = (root.path().join("mse"), root.path().join("exported"));
    done(&["export", path(&folder), path(&exported), "--format", "compressed-tensors"]);
    answers(&exported);
    let inputs = |folder: &Path| {
        let mut weights = ModelDir::open(folder).unwrap().weights().unwrap();
        let names: Vec<_> = weights.names().filter_map(|n| Some(n.strip_suffix(".input_scale")?.to_string())).collect();
        names.iter().map(|name| weights.inputs(&format!("{name}.weight")).unwrap()).collect::<Vec<_>>()
    };
    assert_eq!((inputs(&exported).len(), inputs(&exported)), (12, inputs(&folder)), "the ranges are exported");
}

#[test]
fn below_the_bound_nothing_is_written_or_it_is_said_or_layers_stay_float() {
    let root = tempfile::tempdir().unwrap();
    let folder = root.path().join("model");
    let args = |on_failure: &'static str| {
        ["--recipe", "binary", "--data", TEXTS, "--set", "quality.max_texts=60", "--set", "quality.min_agreement=0.99"]
            .into_iter()
            .chain(["--set", on_failure])
    };
    let run = |on_failure| {
        let all: Vec<&str> = ["quantize", FLOAT, path(&folder)].into_iter().chain(args(on_failure)).collect();
        octet(&all)
    };
    let refused = run("quality.on_failure=refuse");
    let message = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(1), "{message}");
    assert!(message.contains("agreement with the float model is 0.") && message.contains("bound is 0.99"), "{message}");
    assert!(!folder.exists());

    let warned = run("quality.on_failure=warn");
    assert!(
        warned.status.success()
            && String::from_utf8_lossy(&warned.stdout).contains("warning: below quality.min_agreement")
    );
    answers(&folder);
    std::fs::remove_dir_all(&folder).unwrap();

    let fell_back = run("quality.on_failure=fallback");
    let told = String::from_utf8_lossy(&fell_back.stdout).into_owned();
    assert!(fell_back.status.success(), "{}", String::from_utf8_lossy(&fell_back.stderr));
    assert!(told.contains("stayed float to keep the bound: "), "{told}");
    answers(&folder);
    let dir = ModelDir::open(&folder).unwrap();
    let ignored = &dir.quantization().unwrap().ignore;
    assert!(ignored.iter().any(|module| module.contains("layer.")), "{ignored:?}");
    // What was written says what it kept, and may be served.
    let scores = &dir.manifest().unwrap().scores;
    assert!(scores[0].metric == "agreement_f32" && scores[0].value >= 0.99 && scores[0].n == 60, "{scores:?}");
}

#[test]
fn rounding_bias_and_report_are_one_flag_each() {
    let root = tempfile::tempdir().unwrap();
    let (folder, page) = (root.path().join("int4"), root.path().join("report.html"));
    let told = done(&[
        "quantize",
        FLOAT,
        path(&folder),
        "--recipe",
        "w4a8",
        "--rounding",
        "gptq",
        "--bias-correction",
        "--calibrate",
        TEXTS,
        "--samples",
        "60",
        "--layer",
        "*layer.1.output.dense=float",
        "--report",
        path(&page),
        "--set",
        "quality.on_failure=warn",
    ]);
    assert!(told.contains("w4a8"), "{told}");
    answers(&folder);
    let recipe = ModelDir::open(&folder).unwrap().manifest().unwrap().recipe.clone();
    assert!(recipe.weights.contains("rounded by gptq, biases corrected, 1 exception"), "{recipe:?}");
    let html = std::fs::read_to_string(&page).unwrap();
    for part in ["what quantization did", "Where the size is", "Error by layer", "Weights and the steps", "Activations"]
    {
        assert!(html.contains(part), "{part}");
    }
    assert!(!html.contains("<script") && !html.contains("src="), "the page needs nothing else");
    let missing = octet(&["quantize", FLOAT, path(&root.path().join("x")), "--rounding", "gptq"]);
    assert!(String::from_utf8_lossy(&missing.stderr).contains("--calibrate"));
}

#[test]
fn tuning_keeps_the_budget_and_writes_a_recipe_that_quantize_takes() {
    let root = tempfile::tempdir().unwrap();
    let (recipe, page, folder) =
        (root.path().join("mixed.toml"), root.path().join("tune.html"), root.path().join("mixed"));
    let told = done(&[
        "tune",
        FLOAT,
        "--data",
        TEXTS,
        "--texts",
        "60",
        "--max-size",
        "60kB",
        "--min-agreement",
        "0.5",
        "--forms",
        "float,int8,int4-group16,ternary",
        "--rounding",
        "search",
        "--out",
        path(&recipe),
        "--report",
        path(&page),
    ]);
    assert!(told.contains("mixed.toml"), "{told}");
    let written = std::fs::read_to_string(&recipe).unwrap();
    assert!(written.contains("scheme = \"mixed\"") && written.contains("rounding = \"search\""), "{written}");
    done(&["quantize", FLOAT, path(&folder), "--recipe", path(&recipe)]);
    answers(&folder);
    let html = std::fs::read_to_string(&page).unwrap();
    assert!(html.contains("Recipes that were tried") && html.contains("What each layer alone costs"));
    let impossible = octet(&["tune", FLOAT, "--data", TEXTS, "--texts", "20", "--max-size", "1kB", "--forms", "int8"]);
    assert!(String::from_utf8_lossy(&impossible.stderr).contains("no mix of these forms keeps the budgets"));
}

#[test]
fn sensitivity_lists_every_module_and_writes_json() {
    let root = tempfile::tempdir().unwrap();
    let file = root.path().join("sensitivity.json");
    let args = ["--data", TEXTS, "--texts", "20", "--forms", "int8,binary", "--json", path(&file)];
    let told = done(&[&["sensitivity", FLOAT][..], &args].concat());
    assert!(told.contains("layer.1.output.dense") && told.contains("word_embeddings"), "{told}");
    let json: serde_json::Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    let modules = json["modules"].as_array().unwrap();
    assert_eq!(modules.len(), 3 + 12);
    let loss = |module: &serde_json::Value, form: &str| module["alone"][form]["divergence"].as_f64().unwrap();
    let worse = modules.iter().filter(|module| loss(module, "binary") > loss(module, "int8")).count();
    assert!(worse >= 14, "binary costs more than int8 in {worse} of 15 modules");
}

/// What `octet serve` says when it does not start.
fn refused_to_serve(args: &[&str]) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_octet"));
    command.args(["serve", "--port", "0"]).args(args).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut server = command.spawn().expect("octet starts");
    let started = Instant::now();
    while server.try_wait().unwrap().is_none() {
        if started.elapsed() > Duration::from_secs(60) {
            server.kill().unwrap();
            panic!("octet serves {args:?}");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    let output = server.wait_with_output().unwrap();
    assert!(!output.status.success());
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn serve_looks_at_the_agreement_that_a_folder_stores() {
    let root = tempfile::tempdir().unwrap();
    let folder = root.path().join("binary");
    let args = ["--recipe", "binary", "--data", TEXTS, "--set", "quality.max_texts=60"];
    done(&[&["quantize", FLOAT, path(&folder)][..], &args, &["--set", "quality.on_failure=warn"]].concat());
    let stored = ModelDir::open(&folder).unwrap().manifest().unwrap().scores[0].value;
    assert!(stored < 0.98, "{stored}");
    let message = refused_to_serve(&["--model", path(&folder)]);
    assert!(message.contains("agreement_f32 on sentences") && message.contains("quality.min_agreement"), "{message}");
    assert!(message.contains("(60 texts)"), "{message}");
    // Two of fifty may be chance: the same share of a hundred times as many is not.
    let measured = |value: f64, n: u64| {
        let write = |manifest: &mut QuantManifest| (manifest.scores[0].value, manifest.scores[0].n) = (value, n);
        update_manifest(&folder, write).unwrap();
    };
    measured(0.96, 50);
    drop(process::serve(process::octet().args(["serve", "--port", "0", "--model", path(&folder)])));
    measured(0.96, 5000);
    assert!(refused_to_serve(&["--model", path(&folder)]).contains("is 0.9600 (5000 texts)"));
    // Whoever stores an agreement hears what serve will say of it.
    let written = done(&["eval", path(&folder), "--data", TEXTS, "--float", FLOAT, "--write"]);
    let warning = written.lines().find_map(|line| line.strip_prefix("warning: octet serve will refuse this model: "));
    let warning = warning.unwrap_or_else(|| panic!("no warning in {written}"));
    let message = refused_to_serve(&["--model", path(&folder)]);
    assert!(message.contains(warning), "what was foretold is what is said:\n{warning}\n{message}");
}

#[test]
fn serve_needs_the_texts_that_it_is_told_to_measure_on() {
    let message = refused_to_serve(&["--model", FLOAT, "--set", "quality.data=missing.jsonl"]);
    assert!(message.contains("quality.data") && message.contains("missing.jsonl"), "{message}");
}

#[test]
fn a_taken_destination_is_told_before_the_texts_are_read() {
    let root = tempfile::tempdir().unwrap();
    let folder = root.path().join("model");
    done(&["quantize", FLOAT, path(&folder)]);
    let missing = path(&root.path().join("missing.jsonl")).to_string();
    let again = octet(&["quantize", FLOAT, path(&folder), "--calibrate", &missing]);
    let message = String::from_utf8_lossy(&again.stderr).into_owned();
    assert!(message.contains("--force") && !message.contains("missing.jsonl"), "{message}");
    let forced = octet(&["quantize", FLOAT, path(&folder), "--force", "--calibrate", &missing]);
    let message = String::from_utf8_lossy(&forced.stderr).into_owned();
    assert!(message.contains("missing.jsonl"), "{message}");
    assert_eq!(message.matches("No such file").count(), 1, "a cause is said once: {message}");
    answers(&folder);
}

#[test]
fn an_exception_that_means_no_layer_is_told() {
    let root = tempfile::tempdir().unwrap();
    let told = |rule: &str, name: &str| {
        let output = octet(&["quantize", FLOAT, path(&root.path().join(name)), "--layer", rule]);
        assert!(output.status.success());
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    assert!(told("*.atention.*=float", "typing-error").contains("no layer is called \"*.atention.*\""));
    assert!(!told("*.attention.*=float", "right").contains("warning"));
}

#[test]
fn the_report_has_the_size_of_the_file_and_texts_come_from_the_column_that_is_named() {
    let root = tempfile::tempdir().unwrap();
    let (folder, page, texts) = (root.path().join("model"), root.path().join("r.html"), root.path().join("t.csv"));
    std::fs::write(&texts, "review,text\ngood film,1\nbad market,2\n").unwrap();
    let told = done(
        &[
            &["quantize", FLOAT, path(&folder), "--calibrate", path(&texts), "--text-column", "review"][..],
            &["--report", path(&page), "--set", "quality.on_failure=warn"],
        ]
        .concat(),
    );
    assert!(told.contains("on 2 texts"), "{told}");
    let html = std::fs::read_to_string(&page).unwrap();
    let row = &html[html.find("size of the weights").expect("the page has the size")..];
    let cells: Vec<f64> =
        row.split("<td>").skip(1).take(2).map(|c| c.split(' ').next().unwrap().parse().unwrap()).collect();
    let dir = ModelDir::open(&folder).unwrap();
    let file = dir.weight_bytes() as f64 / 1e6;
    // What the file has besides weights is its header.
    assert!(cells[1] <= file && file - cells[1] < 0.02, "{cells:?} MB in the report, {file} MB in the file");
    assert!((cells[0] - dir.manifest().unwrap().f32_bytes as f64 / 1e6).abs() < 0.006, "{cells:?}");
}

#[test]
fn a_budget_that_cannot_be_kept_writes_no_recipe() {
    let root = tempfile::tempdir().unwrap();
    let recipe = root.path().join("recipe.toml");
    std::fs::write(&recipe, "mine").unwrap();
    for budget in
        [&["--max-size", "1kB"][..], &["--max-size", "40kB", "--min-agreement", "1"], &["--max-latency", "1us"]]
    {
        let args = ["tune", FLOAT, "--data", TEXTS, "--texts", "60", "--rounding", "nearest", "--out", path(&recipe)];
        let kept = octet(&[&args[..], budget].concat());
        assert!(String::from_utf8_lossy(&kept.stderr).contains("recipe.toml: exists"), "{kept:?}");
        let output = octet(&[&args[..], &["--forms", "float,int8,binary", "--force"], budget].concat());
        let message = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && message.contains("budget"), "{budget:?}: {message}");
        assert_eq!(std::fs::read_to_string(&recipe).unwrap(), "mine", "{budget:?}");
    }
}

#[test]
fn the_head_of_another_encoder_is_refused() {
    let scratch = tempfile::tempdir().unwrap();
    let data = scratch.path().join("data.jsonl");
    std::fs::write(&data, "{\"text\": \"a good film\"}\n").unwrap();
    let found = octet(&["tune", "tests/goldens/bert", "--head", "tests/goldens/bert-classify", "--data", path(&data)]);
    let said = String::from_utf8_lossy(&found.stderr);
    assert!(!found.status.success() && said.contains("bert-classify: has an encoder of its own"), "{said}");
}
