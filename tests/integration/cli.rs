//! The real binary, as a user meets it: help, errors, a server that starts, answers and ends.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::json;

use crate::support::{Connection, wait_until};

fn octet(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_octet")).args(args).env_remove("OCTET_ISA").output().expect("octet runs")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("output is UTF-8")
}

/// `octet serve` on a free port.
struct Server {
    child: Child,
    address: SocketAddr,
    /// What it printed before it was ready.
    banner: String,
}

impl Server {
    fn start(args: &[&str]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_octet"));
        command.args(["serve", "--port", "0"]).args(args).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().expect("octet starts");
        let mut lines = BufReader::new(child.stdout.take().expect("stdout is piped")).lines();
        let mut banner = String::new();
        let address = loop {
            let line = lines.next().expect("octet prints its address before it ends").expect("stdout is UTF-8");
            banner += &format!("{line}\n");
            if let Some(rest) = line.strip_prefix("listening on http://") {
                break rest.split_whitespace().next().unwrap().parse().expect("an address");
            }
        };
        Server { child, address, banner }
    }

    fn terminate(&self) {
        let status = Command::new("kill").args(["-TERM", &self.child.id().to_string()]).status();
        assert!(status.expect("kill runs").success());
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn help_names_every_subcommand_and_teaches_the_first_request() {
    let help = octet(&["--help"]);
    assert!(help.status.success());
    let help = text(&help.stdout);
    for word in ["serve", "quantize", "sensitivity", "tune", "eval", "calibrate", "bench", "train", "inspect", "curl"] {
        assert!(help.contains(word), "{word} is missing in:\n{help}");
    }
    for command in
        ["serve", "quantize", "sensitivity", "tune", "eval", "calibrate", "bench", "train", "inspect", "healthcheck"]
    {
        let help = octet(&[command, "--help"]);
        let shown = text(&help.stdout);
        assert!(shown.contains(&format!("  octet {command}")), "{command} --help has no example:\n{shown}");
    }
}

#[test]
fn mistakes_end_with_a_message_and_a_code() {
    let fails = |args: &[&str], code: i32, words: &[&str]| {
        let output = octet(args);
        let message = text(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{args:?}: {message}");
        for word in words {
            assert!(message.contains(word), "{args:?}: \"{word}\" is missing in: {message}");
        }
    };
    fails(&["frobnicate"], 2, &["frobnicate", "--help"]);
    fails(&["inspect", "no-such-folder"], 1, &["no-such-folder"]);
    // A typing error is never looked up on a hub.
    fails(&["serve", "--model", "sentimnt"], 1, &["no folder \"sentimnt\" in \"models\""]);
    let same = "tests/goldens/bert";
    fails(&["quantize", same, same, "--force"], 1, &["would replace"]);
    fails(&["quantize", same, "tests/goldens", "--force"], 1, &["would replace"]);
    let bad = ["--set", "server.prot=1", "--set", "server.port=99999", "--set", "engine.isa=sse9"];
    fails(&[&["serve"], bad.as_slice()].concat(), 1, &["server.prot", "server.port", "99999", "sse9"]);
    fails(&["serve", "--model", "tests/goldens"], 1, &["config.json"]);
    fails(&["eval", "models/sentiment", "--data", "README.md"], 1, &["jsonl"]);
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    fails(&["serve", "--port", &port], 1, &["cannot listen", &port]);
}

#[test]
fn inspect_shows_architecture_sizes_labels_and_scores() {
    let output = octet(&["inspect", "sentiment"]);
    let shown = text(&output.stdout);
    for word in ["bert", "negative, neutral, positive", "all-MiniLM-L6-v2", "accuracy", "agreement_f32", "F32"] {
        assert!(shown.contains(word), "{word} is missing in:\n{shown}");
    }
    let shown = text(&octet(&["inspect", "models/all-MiniLM-L6-v2", "--tensors"]).stdout);
    for word in ["encoder.layer.5.output.dense.weight", "[384, 1536]", "I8", "SQNR", "22.9 MB"] {
        assert!(shown.contains(word), "{word} is missing in:\n{shown}");
    }
}

#[test]
fn a_head_is_trained_evaluated_and_its_scores_are_shown() {
    let scratch = tempfile::tempdir().unwrap();
    let folder = |name: &str| scratch.path().join(name).to_str().unwrap().to_string();
    copy(Path::new("tests/goldens/bert"), Path::new(&folder("encoder")));
    let rows: Vec<String> = (0..60)
        .map(|i| {
            if i % 2 == 0 {
                json!({"text": "the cat", "label": "a"})
            } else {
                json!({"text": "a dog ran", "label": "b"})
            }
        })
        .map(|row| row.to_string())
        .collect();
    std::fs::write(folder("data.jsonl"), rows.join("\n")).unwrap();
    let (encoder, head, data) = (folder("encoder"), folder("head"), folder("data.jsonl"));
    let train =
        ["train", &head, "--freeze-encoder", "--encoder", &encoder, "--train", &data, "--dev", &data, "--epochs", "3"];
    let output = octet(&train);
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert!(text(&output.stdout).contains("dev accuracy"));
    let diverging = [train.as_slice(), &["--force", "--learning-rate", "nan"]].concat();
    assert_eq!(octet(&diverging).status.code(), Some(1), "a learning rate that is no number is refused");
    assert_eq!(octet(&train).status.code(), Some(1), "an existing folder is not replaced without --force");
    let output = octet(&["eval", &head, "--data", &data, "--float", &encoder, "--write"]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let shown = text(&octet(&["inspect", &head]).stdout);
    assert!(shown.contains("data accuracy") && shown.contains("agreement_f32"), "{shown}");
    assert!(std::fs::read_to_string(Path::new(&head).join("README.md")).unwrap().contains("## Scores"));
}

/// From labelled texts to an int8 folder that serves, stopped by nothing and repeated by its own recipe.
/// The rows of the table of epochs.
fn epochs(output: &Output) -> Vec<String> {
    let is_row = |line: &&str| line.starts_with(|c: char| c.is_ascii_digit());
    let rows: Vec<_> =
        text(&output.stdout).lines().filter(is_row).filter(|l| !l.contains("texts of")).map(String::from).collect();
    assert!(!rows.is_empty(), "{}", text(&output.stdout));
    rows
}

#[test]
fn a_whole_encoder_is_trained_and_its_recipe_makes_the_same_model() {
    let scratch = tempfile::tempdir().unwrap();
    let folder = |name: &str| scratch.path().join(name).to_str().unwrap().to_string();
    let rows: String = (0..64)
        .map(|i| {
            let (word, label, rating) = [("good", "positive", 3), ("bad", "negative", -2)][i % 2];
            format!("the {word} film in {},{label},{rating}\n", ["rain", "sun", "time"][i % 3])
        })
        .collect();
    std::fs::write(folder("data.csv"), format!("text,label,rating\n{rows}")).unwrap();
    let (model, run, data) = (folder("model"), folder("run"), folder("data.csv"));
    let options = ["--train", &data, "--dev", &data, "--value", "valence", "--batch-size", "8"];
    let rates = ["--epochs", "15", "--patience", "15", "--learning-rate", "1e-3", "--head-learning-rate", "5e-3"];
    let train =
        [&["train", &model, "--encoder", "tests/goldens/bert", "--run-dir", &run], &options[..], &rates].concat();
    let output = octet(&train);
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert!(text(&output.stdout).contains("dev correlation"), "{}", text(&output.stdout));
    for name in ["recipe.toml", "curves.html", "checkpoint/state.safetensors", "model/model.safetensors"] {
        assert!(Path::new(&run).join(name).exists(), "{name} is missing in the run's folder");
    }
    assert_eq!(octet(&train).status.code(), Some(1), "an existing folder is not replaced without --force");

    let float = Path::new(&run).join("model").to_str().unwrap().to_string();
    let output = octet(&["eval", &model, "--data", &data, "--float", &float, "--write"]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert!(text(&output.stdout).contains("model@float, its valence"), "{}", text(&output.stdout));
    let shown = text(&octet(&["inspect", &model]).stdout);
    assert!(shown.contains("negative, positive") && shown.contains("valence"), "{shown}");
    assert!(shown.contains("accuracy"), "{shown}");
    let server = Server::start(&["--model", &model]);
    let mut connection = Connection::open(server.address).unwrap();
    let answer = connection.request(
        "POST",
        "/v1/classify",
        &[],
        json!({"input": "the good film in rain"}).to_string().as_bytes(),
    );
    let item = answer.json()["data"][0].clone();
    assert_eq!(item["label"], "positive", "{item}");
    assert!((item["values"]["valence"].as_f64().unwrap() - 3.0).abs() < 1.0, "{item}");

    let recipe = Path::new(&run).join("recipe.toml").to_str().unwrap().to_string();
    let (again, other_run) = (folder("again"), folder("other-run"));
    let output = octet(&["train", &again, "--recipe", &recipe, "--run-dir", &other_run]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let weights = |folder: &str| std::fs::read(Path::new(folder).join("model.safetensors")).unwrap();
    let done = octet(&["train", &again, "--recipe", &recipe, "--run-dir", &other_run, "--resume"]);
    assert_eq!(epochs(&done), epochs(&output), "a run that is over shows its epochs again");
    assert_eq!(weights(&again), weights(&model));
    let before = std::fs::read_to_string(Path::new(&other_run).join("recipe.toml")).unwrap();
    let resume = ["train", &again, "--recipe", &recipe, "--run-dir", &other_run, "--resume"];
    for (flags, told) in [(["--pooling", "cls"], "pooling"), (["--batch-size", "9"], "batch_size")] {
        let other = octet(&[&resume[..], &flags].concat());
        let error = text(&other.stderr);
        assert!(error.contains(&format!("has {told} = ")) && error.contains("--force begins anew"), "{error}");
    }
    let unchanged = std::fs::read_to_string(Path::new(&other_run).join("recipe.toml")).unwrap();
    assert_eq!(unchanged, before, "what was refused changes nothing");
    std::fs::write(folder("data.csv"), format!("text,label,rating\n{}", rows.replace("rain", "snow"))).unwrap();
    let other = octet(&resume);
    assert!(text(&other.stderr).contains("training examples 64 of digest"), "{}", text(&other.stderr));
}

#[test]
fn training_asks_first_whether_it_may_write_and_writes_no_model_of_nothing() {
    let scratch = tempfile::tempdir().unwrap();
    let folder = |name: &str| scratch.path().join(name).to_str().unwrap().to_string();
    let rows: String =
        (0..16).map(|i| format!("the {} film,{}\n", ["good", "bad"][i % 2], ["a", "b"][i % 2])).collect();
    std::fs::write(folder("data.csv"), format!("text,label\n{rows}")).unwrap();
    let (data, run, model) = (folder("data.csv"), folder("run"), folder("model"));
    let options = ["--encoder", "tests/goldens/bert", "--train", &data, "--dev", &data, "--run-dir", &run];
    let other = scratch.path().join("other");
    std::fs::create_dir(&other).unwrap();
    std::fs::write(other.join("notes"), "mine").unwrap();
    let refused = octet(&[&["train", other.to_str().unwrap(), "--force"], &options[..]].concat());
    assert!(text(&refused.stderr).contains("is not a model folder"), "{refused:?}");
    assert!(!Path::new(&run).exists(), "it is refused before anything is trained");
    let rates = ["--epochs", "1", "--batch-size", "16", "--learning-rate", "1e30", "--head-learning-rate", "1e30"];
    let diverged = octet(&[&["train", &model], &options[..], &rates].concat());
    assert!(text(&diverged.stderr).contains("no numbers, so no model is written"), "{diverged:?}");
    assert!(!Path::new(&model).exists() && !Path::new(&run).join("model").exists());
    let twice = octet(&[&["train", &model, "--labels", "a,a,b"], &options[..]].concat());
    assert!(text(&twice.stderr).contains("the class \"a\" is given twice"), "{twice:?}");
    std::fs::write(&data, "text,class\nthe good film,a\nthe bad film,b\n").unwrap();
    let unlabelled = octet(&[&["train", &model], &options[..]].concat());
    assert!(text(&unlabelled.stderr).contains("no training text has a label"), "{unlabelled:?}");
}

#[test]
fn a_pruned_model_is_made_by_one_recipe_and_runs_everywhere() {
    let scratch = tempfile::tempdir().unwrap();
    let folder = |name: &str| scratch.path().join(name).to_str().unwrap().to_string();
    let rows: String = (0..32)
        .map(|i| format!("the {} film in {}\n", ["good", "bad"][i % 2], ["rain,x", "sun,y", "time,x"][i % 3]))
        .collect();
    std::fs::write(folder("data.csv"), format!("text,label\n{rows}")).unwrap();
    let (model, run, data) = (folder("model"), folder("run"), folder("data.csv"));
    let recipe = "encoder = \"tests/goldens/bert\"\nprune_heads = 0.5\nprune_ffn = 0.5\nprune_magnitude = 0.2\n\
                  quantization_aware = true\nepochs = 2\nbatch_size = 8\n";
    std::fs::write(folder("recipe.toml"), recipe).unwrap();
    let train = ["train", &model, "--recipe", &folder("recipe.toml"), "--train", &data, "--dev", &data];
    let output = octet(&[&train[..], &["--run-dir", &run]].concat());
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert!(text(&output.stdout).contains("4 of 8 heads and 64 of 128 feed-forward neurons are left"), "{output:?}");
    assert!(text(&output.stderr).contains("still pruning"), "{}", text(&output.stderr));

    let float = Path::new(&run).join("model").to_str().unwrap().to_string();
    let exported = folder("exported");
    for args in [
        vec!["eval", &model, "--data", &data, "--float", &float],
        vec!["bench", &model, "--only", "grid", "--cells", "2x8", "--seconds", "0.01"],
        vec!["quantize", &float, &folder("again")],
        vec!["export", &model, &exported, "--format", "onnx"],
        vec!["export", &model, &exported, "--format", "onnx", "--force"],
    ] {
        let output = octet(&args);
        assert!(output.status.success(), "{args:?}: {}", text(&output.stderr));
    }
    let taken = octet(&["export", &model, &exported, "--format", "onnx"]);
    assert!(text(&taken.stderr).contains("exists and is not empty"), "{taken:?}");
    let card = std::fs::read_to_string(Path::new(&model).join("README.md")).unwrap();
    assert!(card.contains("Pruned to 4 of 8 heads and 64 of 128 feed-forward neurons."), "{card}");
    let shown = text(&octet(&["inspect", "tests/goldens/bert-pruned"]).stdout);
    assert!(shown.contains("3, 4, 1 heads") && shown.contains("96, 32, 72 wide"), "{shown}");
}

#[test]
fn a_model_is_trained_in_the_scheme_of_a_recipe() {
    let scratch = tempfile::tempdir().unwrap();
    let folder = |name: &str| scratch.path().join(name).to_str().unwrap().to_string();
    let rows: String =
        (0..32).map(|i| format!("the {} film,{}\n", ["good", "bad"][i % 2], ["a", "b"][i % 2])).collect();
    std::fs::write(folder("data.csv"), format!("text,label\n{rows}")).unwrap();
    std::fs::write(
        folder("scheme.toml"),
        "scheme = \"mine\"\nweights = \"ternary\"\nembeddings = \"int4\"\n[[layer]]\nmatch = \"*layer.1.*\"\n\
         weights = \"binary\"\nactivations = \"static\"\n",
    )
    .unwrap();
    let (model, run, data, scheme) = (folder("model"), folder("run"), folder("data.csv"), folder("scheme.toml"));
    let given = ["--encoder", "tests/goldens/bert", "--train", &data, "--dev", &data, "--epochs", "1"];
    let train = [&["train", &model, "--run-dir", &run, "--scheme-recipe", &scheme], &given[..]].concat();
    let refused = text(&octet(&train).stderr);
    assert!(refused.contains("mine has static inputs") && refused.contains("--quantization-aware"), "{refused}");
    let smooth = ["--quantization-aware", "--scheme-recipe", "w8a8-smooth"];
    let refused = text(&octet(&[&["train", &model, "--run-dir", &run], &given[..], &smooth].concat()).stderr);
    assert!(refused.contains("w8a8-smooth") && refused.contains("leave \"smoothing\" out"), "{refused}");
    let output = octet(&[train.as_slice(), &["--quantization-aware"]].concat());
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert!(text(&output.stdout).contains("weights of epoch 1 in mine"), "{}", text(&output.stdout));
    let shown = text(&octet(&["inspect", &model]).stdout);
    for word in ["mine", "ternary", "binary", "int4"] {
        assert!(shown.contains(word), "{word} is missing in:\n{shown}");
    }
    let stored = String::from_utf8_lossy(&std::fs::read(folder("model/model.safetensors")).unwrap()).into_owned();
    assert!(
        stored.contains("layer.1.attention.self.query.input_scale")
            && !stored.contains("layer.0.attention.self.query.input_scale")
    );
    assert!(std::fs::read_to_string(folder("run/recipe.toml")).unwrap().contains("scheme_recipe"));
    let learned = octet(&[&["train", &folder("other"), "--learned-scales"], &given[..]].concat());
    assert!(text(&learned.stderr).contains("--learned-scales means nothing without"), "{}", text(&learned.stderr));
}

#[test]
fn training_an_int8_encoder_is_refused_with_what_to_do() {
    let scratch = tempfile::tempdir().unwrap();
    let data = scratch.path().join("data.csv");
    std::fs::write(&data, "text,label\na,x\nb,y\n").unwrap();
    let (data, model) = (data.to_str().unwrap(), scratch.path().join("model"));
    let encoder = ["--encoder", "models/all-MiniLM-L6-v2"];
    let train = [&["train", model.to_str().unwrap()], &encoder[..], &["--train", data, "--dev", data]].concat();
    let output = octet(&train);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("holds int8 weights"), "{}", text(&output.stderr));
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().map(Result::unwrap).filter(|e| e.file_type().unwrap().is_file()) {
        std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

#[test]
fn serve_says_what_it_loaded_and_answers() {
    let server = Server::start(&[]);
    for word in ["all-MiniLM-L6-v2", "sentiment", "classify", "int8", "MB", "kernels", "compute thread", "ready in"] {
        assert!(server.banner.contains(word), "{word} is missing in:\n{}", server.banner);
    }
    let mut connection = Connection::open(server.address).unwrap();
    let body = json!({"input": "What a wonderful, heartwarming film. I loved it."}).to_string();
    let answer = connection.request("POST", "/v1/classify", &[], body.as_bytes());
    assert_eq!((answer.status, answer.json()["data"][0]["label"].as_str()), (200, Some("positive")));
    assert_eq!(connection.request("GET", "/readyz", &[], b"").status, 200);
}

/// The examples of the README are run as they stand there: method, path, body and answer.
#[test]
fn the_readme_shows_what_the_server_answers() {
    let readme = std::fs::read_to_string("README.md").unwrap();
    let server = Server::start(&[]);
    let mut lines = readme.lines();
    let mut examples = 0;
    while let Some(line) = lines.next() {
        let Some(rest) = line.strip_prefix("$ curl -s localhost:8080") else { continue };
        let (path, body) = rest.split_once(" -d '").expect("an example posts a body");
        let mut connection = Connection::open(server.address).unwrap();
        let answer = connection.request("POST", path, &[], body.trim_end_matches('\'').as_bytes()).json();
        let shown: serde_json::Value =
            serde_json::from_str(lines.next().unwrap()).expect("the answer is shown as JSON");
        assert_eq!(answer["data"], shown["data"], "{path}: the README shows another answer");
        assert_eq!(answer["usage"], shown["usage"], "{path}: the README shows another answer");
        examples += 1;
    }
    assert_eq!(examples, 2, "classify and summarize");
}

#[test]
fn the_forced_instruction_set_is_used_and_printed() {
    let output = Command::new(env!("CARGO_BIN_EXE_octet"))
        .args(["bench", "--seconds", "0", "--threads", "1", "tests/goldens/bert"])
        .env("OCTET_ISA", "scalar")
        .output()
        .unwrap();
    assert!(text(&output.stdout).contains("scalar"), "{}{}", text(&output.stdout), text(&output.stderr));
}

#[test]
fn bench_over_http_answers_every_request_and_reports_json() {
    let scratch = tempfile::tempdir().unwrap();
    let texts = scratch.path().join("texts.jsonl");
    let rows: Vec<String> = (0..40).map(|i| json!({"text": "the cat sat ".repeat(1 + i % 3)}).to_string()).collect();
    std::fs::write(&texts, rows.join("\n")).unwrap();
    let texts = texts.to_str().unwrap();
    let output = octet(&[
        "bench",
        "tests/goldens/bert-classify",
        "--only",
        "http",
        "--texts",
        texts,
        "--seconds",
        "0.02",
        "--json",
    ]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON on standard output");
    let rows = |key: &str| report[key].as_array().unwrap_or_else(|| panic!("no {key}")).clone();
    let number = |row: &serde_json::Value, name: &str| row[name].as_f64().unwrap_or_else(|| panic!("{name}: {row}"));

    let latency = rows("http_latency");
    assert_eq!(latency.iter().map(|r| r["quantile"].as_str().unwrap()).collect::<Vec<_>>(), ["p50", "p90", "p99"]);
    for row in &latency {
        assert!(number(row, "total_seconds") > number(row, "compute_seconds"), "{row}");
        assert!(number(row, "compute_seconds") > 0.0, "{row}");
    }
    let throughput = rows("http_throughput");
    assert_eq!(throughput.len(), 6, "one task, two sizes of requests");
    for row in &throughput {
        assert!(number(row, "requests") >= 1.0 && number(row, "tokens_per_second") > 0.0, "{row}");
        assert!(number(row, "mean_batch") >= 1.0, "{row}");
    }
    for row in rows("http_open_loop") {
        assert!(number(&row, "refused") <= number(&row, "requests"), "{row}");
    }
    let process = &rows("http_process")[0];
    assert!(number(process, "most_bytes") >= number(process, "idle_bytes"), "{process}");
    assert!(number(process, "ready_seconds") > 0.0);
}

/// Every request that was sent on an accepted connection is answered, and the program ends well.
#[test]
fn sigterm_under_load_loses_nothing() {
    let mut server = Server::start(&["--set", "server.lame_duck_ms=300"]);
    let (stopped, answered, refused) = (AtomicBool::new(false), AtomicUsize::new(0), AtomicUsize::new(0));
    let body = json!({"input": ["I like it.", "I do not like it at all.", "It is a thing."]}).to_string();
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                while !stopped.load(Ordering::SeqCst) {
                    // Once the listener is closed, connecting fails: nothing was accepted, nothing is lost.
                    let Ok(mut connection) = Connection::open(server.address) else { break };
                    let answer = connection.request("POST", "/v1/classify", &[], body.as_bytes());
                    match answer.status {
                        200 => answered.fetch_add(1, Ordering::SeqCst),
                        503 => refused.fetch_add(1, Ordering::SeqCst),
                        other => panic!("status {other}: {}", answer.text()),
                    };
                    // A connection made in the moment in which the listener closes is reset by the kernel.
                    if answer.header("connection") == Some("close") {
                        break;
                    }
                }
            });
        }
        wait_until("the load runs", || answered.load(Ordering::SeqCst) > 50);
        server.terminate();
        std::thread::sleep(Duration::from_millis(100));
        wait_until("the listener closes", || std::net::TcpStream::connect(server.address).is_err());
        stopped.store(true, Ordering::SeqCst);
    });
    let status = server.child.wait().unwrap();
    println!("answered {answered:?}, refused while draining {refused:?}");
    assert!(status.success(), "octet ended with {status}");
}
