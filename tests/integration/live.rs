//! Live accuracy over HTTP: answers beside those of the float original, labels that come later, and drift.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use octet::checkpoint::{Histogram, QuantManifest, Reference};
use octet::config::Settings;
use octet::pipelines::Model;
use serde_json::{Value, json};

use crate::fake_model::{self, Gate};
use crate::process::{octet, serve, succeed};
use crate::support::{Connection, Response, TestServer, frozen_head, wait_until};

/// Compares every answer, with all the time of one CPU.
fn settings() -> Settings {
    settings_with(&[])
}

fn settings_with(flags: &[(&str, &str)]) -> Settings {
    let base = [("engine.threads", "1"), ("shadow.rate", "1"), ("shadow.budget", "1")];
    let flags: Vec<_> = base.iter().chain(flags).map(|(key, value)| (key.to_string(), value.to_string())).collect();
    let file = tempfile::NamedTempFile::new().unwrap();
    Settings::load(Some(file.path()), [], &flags).unwrap()
}

/// A server whose answers are compared; and the gates of its models and of their originals.
fn shadowed(settings: &Settings) -> (TestServer, Arc<Gate>, Arc<Gate>) {
    let ((models, gate), (originals, original_gate)) = (fake_model::models(), fake_model::originals());
    (TestServer::start_beside(models, originals, settings), gate, original_gate)
}

fn classify(server: &TestServer, input: impl Into<Value>) {
    let answer = server.post("/v1/classify", &json!({"input": input.into()}));
    assert_eq!(answer.status, 200, "{}", answer.text());
}

/// The value of one series.
fn metric(server: &TestServer, series: &str) -> f64 {
    let answer = server.get("/metrics");
    let line = answer.text().lines().find(|line| line.starts_with(series) && line[series.len()..].starts_with(' '));
    let line = line.unwrap_or_else(|| panic!("no series {series} in\n{}", answer.text()));
    line.rsplit(' ').next().unwrap().parse().unwrap()
}

fn of(name: &str, labels: &str) -> String {
    format!("{name}{{model=\"sentiment\",version=\"0123456789ab\"{labels}}}")
}

fn compared(server: &TestServer) -> f64 {
    metric(server, &of("octet_shadow_comparisons_total", ""))
}

fn dropped(server: &TestServer, reason: &str) -> f64 {
    metric(server, &of("octet_shadow_dropped_total", &format!(",reason=\"{reason}\"")))
}

#[test]
fn answers_are_compared_with_those_of_the_float_original() {
    let (server, _, _) = shadowed(&settings());
    for window in ["1h", "24h"] {
        let window = format!(",window=\"{window}\"");
        assert!(metric(&server, &of("octet_shadow_agreement_ratio", &window)).is_nan(), "nothing is known yet");
        assert_eq!(metric(&server, &of("octet_shadow_loss_bound_ratio", &window)), 1.0);
    }
    (0..6).for_each(|_| classify(&server, json!(["good", "good good", "bad"])));
    wait_until("every answer is compared", || compared(&server) == 18.0);
    assert_eq!(metric(&server, &of("octet_shadow_agreements_total", "")), 12.0, "the original sees \"bad\" otherwise");
    let agreement = metric(&server, &of("octet_shadow_agreement_ratio", ",window=\"24h\""));
    assert!((agreement - 12.0 / 18.0).abs() < 1e-12);
    // scipy: binomtest(6, 18).proportion_ci(0.95, method="wilson").high
    let bound = metric(&server, &of("octet_shadow_loss_bound_ratio", ",window=\"1h\""));
    assert!((bound - 0.562_505_3).abs() < 1e-6, "{bound}");
    for histogram in ["octet_shadow_logit_error", "octet_shadow_score_error_ratio"] {
        assert_eq!(metric(&server, &of(&format!("{histogram}_count"), "")), 18.0, "{histogram}");
        assert!(metric(&server, &of(&format!("{histogram}_sum"), "")) > 0.5, "{histogram}");
    }
    assert!(metric(&server, "octet_shadow_busy_seconds_total{}") > 0.0);
    assert_eq!(metric(&server, "octet_shadow_queue_inputs{}"), 0.0);

    let vectors = server.post("/v1/embeddings", &json!({"input": ["good", "bad"]}));
    assert_eq!(vectors.status, 200);
    let of_vectors = |name: &str| format!("{name}{{model=\"org/vectors\",version=\"0123456789ab\"}}");
    let count = of_vectors("octet_shadow_comparisons_total");
    wait_until("vectors are compared", || metric(&server, &count) == 2.0);
    let distance = metric(&server, &of_vectors("octet_shadow_cosine_distance_ratio_sum"));
    assert!(distance > 0.01, "\"bad\" has another direction: {distance}");
    assert!(!server.get("/metrics").text().contains("octet_shadow_agreements_total{model=\"org/vectors\""));
    let reasons = ["queue_full", "draining", "failed"];
    assert!(reasons.into_iter().all(|reason| dropped(&server, reason) == 0.0));
}

#[test]
fn a_rate_of_zero_and_models_without_an_original_have_no_comparisons() {
    let (server, _, _) = shadowed(&settings_with(&[("shadow.rate", "0")]));
    classify(&server, "good");
    assert!(!server.get("/metrics").text().contains("octet_shadow_comparisons_total{"));
    let (models, _) = fake_model::models();
    let server = TestServer::start(models, &settings());
    classify(&server, "good");
    assert!(!server.get("/metrics").text().contains("octet_shadow_comparisons_total{"));
}

#[test]
fn while_the_original_hangs_and_the_line_is_full_answers_go_on() {
    let (server, _, originals) = shadowed(&settings_with(&[("shadow.max_queue_inputs", "3")]));
    originals.shut();
    classify(&server, "good");
    wait_until("the original hangs", || originals.is_waited_at());
    // Nothing but these answers happens meanwhile: each one comes although no comparison ever ends.
    (0..50).for_each(|_| classify(&server, json!(["good", "bad"])));
    assert_eq!((dropped(&server, "queue_full"), compared(&server)), (97.0, 0.0));
    assert_eq!(metric(&server, "octet_shadow_queue_inputs{}"), 3.0);
    originals.open();
    wait_until("what waited is compared", || compared(&server) == 4.0);
    assert_eq!(dropped(&server, "queue_full"), 97.0);
}

#[test]
fn no_comparison_begins_while_requests_wait() {
    let (server, gate, originals) = shadowed(&settings());
    originals.shut();
    classify(&server, "good");
    wait_until("the first comparison has begun", || originals.is_waited_at());
    classify(&server, "good");
    // One request computes and one waits for the only thread.
    gate.shut();
    std::thread::scope(|scope| {
        let ask = || classify(&server, "slow");
        let first = scope.spawn(ask);
        wait_until("the thread is busy", || gate.is_waited_at());
        let second = scope.spawn(ask);
        wait_until("a request waits", || metric(&server, "octet_queue_inputs{model=\"sentiment\"}") == 1.0);
        originals.open();
        wait_until("the first comparison ends", || compared(&server) == 1.0);
        // Were the next one not held back, it would be done by now, most of the time.
        std::thread::sleep(std::time::Duration::from_millis(50));
        assert_eq!(compared(&server), 1.0);
        gate.open();
        [first, second].into_iter().for_each(|request| request.join().unwrap());
    });
    wait_until("the others follow", || compared(&server) == 4.0);
    assert_eq!(dropped(&server, "queue_full"), 0.0);
}

#[test]
fn an_original_that_panics_costs_its_comparison_and_nothing_else() {
    let (server, _, _) = shadowed(&settings());
    (0..3).for_each(|_| classify(&server, json!(["fine", "good"])));
    wait_until("all are dealt with", || compared(&server) + dropped(&server, "failed") == 6.0);
    assert_eq!((compared(&server), dropped(&server, "failed")), (3.0, 3.0));
    assert_eq!(metric(&server, "octet_panics_total{model=\"sentiment\"}"), 0.0, "no request panicked");
    assert_eq!(metric(&server, "octet_worker_restarts_total{}"), 0.0);
}

#[test]
fn a_shutdown_drops_comparisons_first_and_waits_for_none() {
    let settings = settings_with(&[("server.lame_duck_ms", "3000"), ("server.drain_timeout_ms", "20000")]);
    let (mut server, _, originals) = shadowed(&settings);
    originals.shut();
    classify(&server, "good");
    wait_until("the original hangs", || originals.is_waited_at());
    classify(&server, json!(["good", "bad"]));
    server.begin_stop();
    wait_until("the shutdown has begun", || server.get("/readyz").status == 503);
    assert_eq!(dropped(&server, "draining"), 2.0, "what waited is dropped");
    classify(&server, "good");
    assert_eq!(dropped(&server, "draining"), 3.0, "and what is answered from now on is not compared");
    // The original still hangs.
    let report = server.stop();
    assert_eq!(report.forced, 0);
    originals.open();
}

#[test]
fn originals_run_when_nothing_else_wants_the_cpu() {
    let (server, _, _) = shadowed(&settings());
    classify(&server, "good");
    wait_until("a comparison", || compared(&server) == 1.0);
    let mut found = 0;
    for task in std::fs::read_dir("/proc/self/task").unwrap().map(|entry| entry.unwrap().path()) {
        // A thread of another test may end meanwhile.
        let Ok(stat) = std::fs::read_to_string(task.join("stat")) else { continue };
        let (name, fields) = stat.rsplit_once(") ").unwrap();
        if name.ends_with("(octet-original") {
            let fields: Vec<&str> = fields.split(' ').collect();
            // proc(5): field 3 comes first here, 41 is the policy.
            assert_eq!(fields[41 - 3], "5", "SCHED_IDLE is 5");
            found += 1;
        }
    }
    assert!(found > 0, "there is a thread for the originals");
}

/// Sends one label.
fn label(server: &TestServer, body: &Value) -> Response {
    server.post("/v1/feedback", body)
}

/// Classifies under a request id.
fn classify_as(server: &TestServer, id: &str, inputs: &[&str]) {
    let body = json!({"input": inputs}).to_string();
    let headers = [("content-type", "application/json"), ("x-request-id", id)];
    let answer = server.connect().request("POST", "/v1/classify", &headers, body.as_bytes());
    assert_eq!((answer.status, &answer.json()["id"]), (200, &json!(format!("cls-{id}"))));
}

fn plain(flags: &[(&str, &str)]) -> TestServer {
    TestServer::start(fake_model::models().0, &settings_with(flags))
}

#[test]
fn labels_count_once_and_tell_the_accuracy() {
    let server = plain(&[("feedback.confusion_labels", "3")]);
    let accuracy = of("octet_feedback_accuracy_ratio", ",window=\"1h\"");
    assert!(metric(&server, &accuracy).is_nan());
    classify_as(&server, "a", &["good", "bad"]);
    let answer = label(&server, &json!({"id": "cls-a", "label": "neutral"}));
    assert_eq!(answer.status, 200, "{}", answer.text());
    let first = answer.json();
    let predicted = first["predicted"].as_str().expect("a label").to_owned();
    let correct = predicted == "neutral";
    let expected = json!({
        "object": "feedback", "model": "sentiment", "model_version": "0123456789ab", "index": 0, "label": "neutral",
        "predicted": predicted, "correct": correct, "counted": true,
    });
    assert_eq!(first, expected);

    let again = label(&server, &json!({"id": "cls-a", "index": 0, "label": "neutral"})).json();
    assert_eq!(again["counted"], false, "a repeated label does not count");
    let other = label(&server, &json!({"id": "cls-a", "label": "positive"}));
    assert_eq!((other.status, &other.json()["error"]["code"]), (409, &json!("label_conflict")));

    // The other input, by the request id, with the label that was predicted.
    let wrong = label(&server, &json!({"request_id": "a", "index": 1, "label": "negative"}));
    assert_eq!(wrong.status, 200, "{}", wrong.text());
    let right = wrong.json()["correct"].as_bool().unwrap();
    let count = |correct: bool| metric(&server, &of("octet_feedback_total", &format!(",correct=\"{correct}\"")));
    let expected = f64::from(u8::from(correct) + u8::from(right));
    assert_eq!((count(true), count(false)), (expected, 2.0 - expected));
    assert_eq!(metric(&server, &accuracy), expected / 2.0);
    let cell =
        format!("octet_feedback_confusion_total{{model=\"sentiment\",predicted=\"{predicted}\",actual=\"neutral\"}}");
    assert_eq!(metric(&server, &cell), 1.0);
    let calibration = of("octet_feedback_calibration_error_ratio", ",window=\"24h\"");
    assert!(metric(&server, &calibration).is_nan(), "two labels say nothing about calibration");

    for number in 0..100 {
        classify_as(&server, &format!("b{number}"), &["good"]);
        let answer = label(&server, &json!({"id": format!("cls-b{number}"), "label": predicted}));
        assert_eq!((answer.status, &answer.json()["correct"]), (200, &json!(true)));
    }
    let error = metric(&server, &calibration);
    assert!((0.0..1.0).contains(&error), "{error}");
}

#[test]
fn what_cannot_be_labelled_is_refused_by_name() {
    let server = plain(&[("feedback.max_answers", "1000")]);
    let message = |body: &Value, status: u16, code: &str, param: &str| {
        let answer = label(&server, body);
        assert_eq!(answer.status, status, "{body}: {}", answer.text());
        let error = &answer.json()["error"];
        assert_eq!((&error["code"], &error["param"]), (&json!(code), &json!(param)), "{body}");
        assert!(!answer.text().contains("zqx"), "the client's text is repeated: {}", answer.text());
        error["message"].as_str().unwrap().to_owned()
    };
    let told = message(&json!({"id": "cls-none", "label": "neutral"}), 404, "answer_not_found", "id");
    assert!(told.contains("the last 1000 inputs") && told.contains("at this moment none"), "{told}");
    classify_as(&server, "a", &["good", "bad"]);
    let told = message(&json!({"id": "cls-zqx", "label": "neutral"}), 404, "answer_not_found", "id");
    assert!(told.contains("those of the last 0 s"), "{told}");
    let told = message(&json!({"id": "cls-a", "label": "zqx"}), 400, "invalid_value", "label");
    assert!(told.contains("negative, neutral, positive"), "{told}");
    let told = message(&json!({"id": "cls-a", "index": 2, "label": "neutral"}), 400, "invalid_value", "index");
    assert!(told.contains("found 2, the answer has 2 input(s)"), "{told}");
    let told = message(&json!({"id": "a", "label": "neutral"}), 400, "invalid_value", "id");
    assert!(told.contains("request_id"), "{told}");
    message(&json!({"label": "neutral"}), 400, "invalid_value", "id");
    message(&json!({"id": "cls-a", "request_id": "a", "label": "neutral"}), 400, "invalid_value", "request_id");
    message(&json!({"id": "cls-a"}), 400, "invalid_value", "label");
    message(&json!({"id": "cls-a", "label": 7}), 400, "invalid_value", "label");
    message(&json!({"id": "cls-a", "index": -1, "label": "neutral"}), 400, "invalid_value", "index");
    message(&json!({"id": "cls-a", "index": 1e18, "label": "neutral"}), 400, "invalid_value", "index");
    // An answer without classes is not remembered.
    let vectors = server.post("/v1/embeddings", &json!({"input": "good"}));
    let id = vectors.header("x-request-id").unwrap();
    message(&json!({"request_id": id, "label": "neutral"}), 404, "answer_not_found", "id");
    assert_eq!(metric(&server, &of("octet_feedback_total", ",correct=\"true\"")), 0.0);

    // The routes that classify are all remembered.
    let answer = server.post("/predict", &json!({"inputs": "good"}));
    let body = json!({"request_id": answer.header("x-request-id").unwrap(), "label": answer.json()[0]["label"]});
    assert_eq!(label(&server, &body).json()["correct"], true);
}

#[test]
fn answers_are_forgotten_oldest_first_whatever_ids_clients_choose() {
    let server = plain(&[("feedback.max_answers", "4")]);
    let status = |id: &str, index: usize| {
        let answer = label(&server, &json!({"request_id": id, "index": index, "label": "neutral"}));
        answer.status
    };
    classify_as(&server, "a", &["good", "good"]);
    classify_as(&server, "b", &["good"]);
    classify_as(&server, "c", &["good"]);
    assert_eq!([status("a", 1), status("b", 0), status("c", 0)], [200, 200, 200]);
    classify_as(&server, "d", &["good"]);
    assert_eq!([status("a", 0), status("b", 0), status("d", 0)], [404, 200, 200]);
    assert_eq!(metric(&server, "octet_feedback_kept_inputs{}"), 3.0);
    // The same id again replaces its answer, and cannot make more be kept.
    for _ in 0..20 {
        classify_as(&server, "e", &["good"]);
        assert!(metric(&server, "octet_feedback_kept_inputs{}") <= 4.0);
    }
    assert_eq!([status("d", 0), status("e", 0)], [404, 200]);
    // More inputs than are ever kept.
    classify_as(&server, "f", &["good"; 5]);
    assert_eq!([status("e", 0), status("f", 0)], [404, 404]);
    assert_eq!(metric(&server, "octet_feedback_kept_inputs{}"), 0.0);
}

#[test]
fn without_memory_for_answers_there_is_no_feedback() {
    let server = plain(&[("feedback.max_answers", "0"), ("feedback.confusion_labels", "3")]);
    classify_as(&server, "a", &["good"]);
    let answer = label(&server, &json!({"id": "cls-a", "label": "neutral"}));
    assert_eq!(answer.status, 404);
    assert!(answer.text().contains("feedback.max_answers is 0"), "{}", answer.text());
    assert!(!server.get("/metrics").text().contains("octet_feedback_total{"));
    assert!(!server.get("/metrics").text().contains("octet_feedback_confusion_total{"));
}

#[test]
fn feedback_needs_the_key_when_there_is_one() {
    let server = plain(&[("server.api_key", "sesame")]);
    let body = json!({"id": "cls-a", "label": "neutral"});
    assert_eq!(label(&server, &body).status, 401);
    let headers = [("content-type", "application/json"), ("authorization", "Bearer sesame")];
    let answer = server.connect().request("POST", "/v1/feedback", &headers, body.to_string().as_bytes());
    assert_eq!(answer.status, 404, "{}", answer.text());
}

#[test]
fn drift_is_told_against_the_stored_reference() {
    let (mut models, _) = fake_model::models();
    let reference = |labels: Option<Vec<u64>>, lengths: &[usize]| Reference {
        labels,
        confidence: Some(Histogram { edges: vec![0.5], counts: vec![100, 100] }),
        ..Reference::of("dev", 0, &[], lengths)
    };
    let lengths: Vec<usize> = [3; 100].into_iter().chain([4; 100]).collect();
    let info = |model: &mut Arc<Model>, reference| Arc::get_mut(model).unwrap().info.reference = Some(reference);
    info(&mut models[0], reference(Some(vec![50, 50, 100]), &lengths));
    info(&mut models[1], Reference::of("dev", 0, &[], &lengths));
    let server = TestServer::start(models, &settings());
    let psi = |model: &str, signal: &str| {
        metric(&server, &format!("octet_drift_psi{{model=\"{model}\",signal=\"{signal}\",window=\"1h\"}}"))
    };
    let signals = ["label", "confidence", "length"];
    assert!(signals.into_iter().all(|signal| psi("sentiment", signal).is_nan()), "nothing came in yet");

    // As many of either length as in the reference; one label only.
    let texts: Vec<&str> = (0..200).map(|i| if i % 2 == 0 { "good" } else { "good good" }).collect();
    classify(&server, json!(texts[..140]));
    assert!(psi("sentiment", "label").is_nan(), "140 inputs are too few for three labels");
    assert!(!psi("sentiment", "length").is_nan(), "but enough for two lengths");
    classify(&server, json!(texts[140..]));
    assert!(psi("sentiment", "length").abs() < 1e-6, "{}", psi("sentiment", "length"));
    let expected = {
        let best = server.post("/v1/classify", &json!({"input": "good", "activation": "none"})).json();
        let labels = ["negative", "neutral", "positive"];
        let at = labels.iter().position(|label| best["data"][0]["label"] == *label).unwrap();
        // 201 of one label by now.
        let live: Vec<f64> = (0..3).map(|i| (0.5 + if i == at { 201.0 } else { 0.0 }) / 202.5).collect();
        let reference = [50.5 / 201.5, 50.5 / 201.5, 100.5 / 201.5];
        live.iter().zip(reference).map(|(a, e)| (a - e) * (a / e).ln()).sum::<f64>()
    };
    assert!((psi("sentiment", "label") - expected).abs() < 1e-9, "{} {expected}", psi("sentiment", "label"));
    assert!(expected > 0.25);
    let confidence = psi("sentiment", "confidence");
    assert!(confidence > 0.25, "all scores are on one side of the border: {confidence}");

    let vectors = server.post("/v1/embeddings", &json!({"input": vec!["good"; 200]}));
    assert_eq!(vectors.status, 200);
    assert!(psi("org/vectors", "length") > 0.25, "all are short");
    assert!(!server.get("/metrics").text().contains("octet_drift_psi{model=\"org/vectors\",signal=\"label\""));
}

/// What was measured is what is served, so the same texts drift by nothing at all.
#[test]
fn traffic_like_the_measured_texts_does_not_drift() {
    let scratch = tempfile::tempdir().unwrap();
    let folder = |name: &str| scratch.path().join(name).to_str().unwrap().to_string();
    for name in ["all-MiniLM-L6-v2", "sentiment"] {
        succeed(Command::new("cp").args(["-r", &format!("models/{name}"), &folder(name)]));
    }
    let file = "tests/goldens/sentences.jsonl";
    let texts: Vec<String> = std::fs::read_to_string(file)
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap()["text"].as_str().unwrap().to_string())
        .collect();
    let model = folder("sentiment");
    succeed(octet().args(["calibrate", &model, "--data", file, "--write"]));
    let stored = |model: &str| QuantManifest::read(Path::new(model)).unwrap().unwrap().reference.expect("a reference");
    let calibrated = stored(&model);
    let measure = |models: &[&str]| {
        let flags = ["--data", file, "--dataset", "golden", "--latency-texts", "0", "--write"];
        succeed(octet().arg("eval").args(models).args(flags));
    };
    measure(&[&model]);
    assert_eq!(stored(&model), Reference { dataset: "golden".into(), ..calibrated }, "both store the same");
    let encoder = folder("all-MiniLM-L6-v2");
    measure(&[&encoder, &format!("{encoder}@f32")]);
    assert_eq!((stored(&encoder).labels, stored(&encoder).confidence), (None, None), "it chooses no class");

    let models = ["--model", &encoder, "--model", &model, "--set", "telemetry.log_level=error"];
    let (_server, address) = serve(octet().args(["serve", "--port", "0"]).args(models));
    for chunk in texts.chunks(200) {
        for path in ["/v1/classify", "/v1/embeddings"] {
            let body = json!({"input": chunk}).to_string();
            let answer = Connection::open(address).unwrap().request("POST", path, &[], body.as_bytes());
            assert_eq!(answer.status, 200, "{}", answer.text());
        }
    }
    let answer = Connection::open(address).unwrap().request("GET", "/metrics", &[], b"");
    let drift: Vec<&str> = answer.text().lines().filter(|line| line.starts_with("octet_drift_psi{")).collect();
    assert_eq!(drift.len(), 4 * 2, "three signals and one, in two windows: {drift:?}");
    assert!(drift.iter().all(|line| line.ends_with(" 0.0")), "{drift:?}");
}

/// Runs `octet serve` with arguments that make it refuse to start; returns what it says.
fn refused(arguments: &[&str]) -> String {
    let output = octet().args(["serve", "--port", "0"]).args(arguments).output().unwrap();
    assert!(!output.status.success(), "{arguments:?} start a server");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn a_real_model_is_compared_with_its_float_original_on_one_idle_thread() {
    let folder = "tests/goldens/bert-classify";
    let float = format!("shadow.float={folder}");
    let flags = ["serve", "--port", "0", "--model", folder, "--set", &float, "--set", "shadow.rate=1"];
    let flags = [&flags[..], &["--set", "shadow.budget=1", "--set", "telemetry.log_level=error"]].concat();
    let (server, address) = serve(octet().args(flags));
    let ask = |method: &str, path: &str, body: &str| {
        let headers = [("content-type", "application/json")];
        Connection::open(address).unwrap().request(method, path, &headers, body.as_bytes())
    };
    let texts: Vec<String> = (0..40).map(|n| "the cat sat on the mat ".repeat(1 + n % 3)).collect();
    let answer = ask("POST", "/v1/classify", &json!({"input": texts}).to_string());
    assert_eq!(answer.status, 200, "{}", answer.text());
    let value = |name: &str| {
        let text = ask("GET", "/metrics", "").text().to_owned();
        let line = text.lines().find(|line| line.starts_with(&format!("{name}{{model=\"bert-classify\"")));
        line.unwrap_or_else(|| panic!("{name} in {text}")).rsplit(' ').next().unwrap().parse::<f64>().unwrap()
    };
    wait_until("every answer is compared", || value("octet_shadow_comparisons_total") == 40.0);
    assert_eq!(value("octet_shadow_agreements_total"), 40.0, "int8 and f32 choose the same class");
    let logit_error = value("octet_shadow_logit_error_sum") / 40.0;
    assert!(logit_error > 0.0 && logit_error < 0.2, "int8 is near, and not equal: {logit_error}");

    // candle's own pools are not there, and what computes the original has the lowest priority.
    let tasks = std::fs::read_dir(format!("/proc/{}/task", server.0.id())).unwrap();
    let read = |path: &Path, file: &str| std::fs::read_to_string(path.join(file)).unwrap();
    let threads: Vec<(String, String)> = tasks
        .map(|task| task.unwrap().path())
        .map(|path| {
            (read(&path, "comm").trim().to_owned(), read(&path, "stat").rsplit_once(") ").unwrap().1.to_owned())
        })
        .collect();
    let named = |name: &str| threads.iter().filter(|(comm, _)| comm.starts_with(name)).collect::<Vec<_>>();
    assert_eq!((named("nn-").len(), named("candle-bp").len()), (1, 0), "{threads:?}");
    for (comm, stat) in [named("nn-"), named("octet-original")].concat() {
        assert_eq!(stat.split(' ').nth(41 - 3), Some("5"), "{comm} is SCHED_IDLE");
    }
}

#[test]
fn float_folders_that_do_not_fit_are_refused_at_the_start() {
    let (classify, other) = ("tests/goldens/bert-classify", "tests/goldens/bert");
    let float = |value: &str| refused(&["--model", classify, "--set", &format!("shadow.float={value}")]);
    let told = float("no/such/folder");
    assert!(told.contains("no/such/folder"), "{told}");
    let told = float(other);
    assert!(told.contains("not what any served model (bert-classify) says it was made from"), "{told}");
    let told = float(&format!("bert-classify={other}"));
    assert!(told.contains("not the original of tests/goldens/bert-classify: its digest is not"), "{told}");
    let told = float(&format!("nobody={classify}"));
    assert!(told.contains("no model is called \"nobody\"; served are: bert-classify"), "{told}");
    let told = float(&format!("{classify},bert-classify={classify}"));
    assert!(told.contains("two entries are for model \"bert-classify\""), "{told}");
    let told = float("models/all-MiniLM-L6-v2");
    assert!(told.contains("holds quantized weights"), "{told}");
    let scratch = tempfile::tempdir().unwrap();
    let told = float(frozen_head(scratch.path()).to_str().unwrap());
    assert!(told.contains("holds quantized weights"), "a head's folder stands on a quantized encoder: {told}");
}

#[test]
fn an_encoder_and_a_head_on_it_are_compared_with_the_float_encoder() {
    let Ok(folder) = std::env::var("OCTET_TEST_F32") else {
        return crate::process::skipped("the shipped models beside f32", "OCTET_TEST_F32 is not set");
    };
    let scratch = tempfile::tempdir().unwrap();
    let (float, head) = (format!("shadow.float={folder}"), frozen_head(scratch.path()));
    let models = ["--model", head.to_str().unwrap(), "--model", "models/all-MiniLM-L6-v2"];
    let flags = ["serve", "--port", "0", "--set", &float, "--set", "shadow.rate=1", "--set", "shadow.budget=1"];
    let (_server, address) = serve(octet().args(flags).args(models).args(["--set", "telemetry.log_level=error"]));
    let post = |path: &str, body: &Value| {
        let headers = [("content-type", "application/json")];
        let answer = Connection::open(address).unwrap().request("POST", path, &headers, body.to_string().as_bytes());
        assert_eq!(answer.status, 200, "{}", answer.text());
    };
    post("/v1/classify", &json!({"input": ["What a wonderful film!", "It is a table.", "The worst meal of my life."]}));
    post("/v1/embeddings", &json!({"input": ["The river rose in the night.", "Nobody had expected it."]}));
    let value = |series: &str| {
        let answer = Connection::open(address).unwrap().request("GET", "/metrics", &[], b"");
        let line = answer.text().lines().find(|line| line.starts_with(series)).map(str::to_owned);
        line.unwrap_or_else(|| panic!("{series}")).rsplit(' ').next().unwrap().parse::<f64>().unwrap()
    };
    let comparisons = |model: &str| value(&format!("octet_shadow_comparisons_total{{model=\"{model}\""));
    wait_until("both are compared", || (comparisons("head"), comparisons("all-MiniLM-L6-v2")) == (3.0, 2.0));
    assert_eq!(value("octet_shadow_agreements_total{model=\"head\""), 3.0);
    let distance = value("octet_shadow_cosine_distance_ratio_sum{model=\"all-MiniLM-L6-v2\"") / 2.0;
    assert!(distance > 0.0 && distance < 0.01, "{distance}");
}
