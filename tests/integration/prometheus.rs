//! What `deploy/` tells Prometheus and Grafana fits the metrics that exist; and a real Prometheus server, when there is
//! one, finds in `/metrics` what was sent.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use octet::checkpoint::{ModelDir, Reference, update_manifest};
use octet::telemetry::definitions;
use serde_json::{Value, json};

use super::process::{Running, find_program, octet, serve, skipped, succeed};
use super::support::{Connection, PATIENCE, wait_until};

const CONFIG: &str = "deploy/prometheus/prometheus.yml";
const RULES: &str = "deploy/prometheus/rules.yml";
const RULES_TEST: &str = "deploy/prometheus/rules_test.yml";
const DASHBOARD: &str = "deploy/grafana/dashboards/octet.json";

/// Folder of `prometheus` and `promtool`, when they are not on the search path.
const FOLDER: &str = "OCTET_TEST_PROMETHEUS";

fn program(name: &str, test: &str) -> Option<PathBuf> {
    let found = find_program(name, FOLDER);
    if found.is_none() {
        skipped(test, &format!("{name} is neither on PATH nor in {FOLDER} (tests/fetch-assets.sh brings it)"));
    }
    found
}

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_else(|e| panic!("{path}: {e}"))
}

/// Words of a text that can only be names of metrics or of recorded rules.
fn metric_names(text: &str) -> BTreeSet<&str> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_' && c != ':').map(|w| w.trim_matches(':'));
    words.filter(|w| ["octet_", "octet:", "process_"].iter().any(|start| w.starts_with(start))).collect()
}

/// Title and query of each query in the dashboard.
fn dashboard_queries() -> Vec<(String, String)> {
    let dashboard: Value = serde_json::from_str(&read(DASHBOARD)).expect("the dashboard is JSON");
    let mut queries = Vec::new();
    for panel in dashboard["panels"].as_array().expect("panels") {
        for target in panel["targets"].as_array().into_iter().flatten() {
            let text = |v: &Value| v.as_str().expect("a text").to_string();
            queries.push((text(&panel["title"]), text(&target["expr"])));
        }
    }
    assert!(queries.len() > 30, "{} queries", queries.len());
    queries
}

#[test]
fn rules_and_dashboard_name_only_metrics_that_exist() {
    let mut known = BTreeSet::new();
    for metric in definitions() {
        known.insert(metric.name.to_string());
        if metric.kind == "histogram" {
            known.extend(["_bucket", "_sum", "_count"].map(|part| format!("{}{part}", metric.name)));
        }
    }
    let rules = read(RULES);
    let recorded = rules.lines().filter_map(|line| line.trim().strip_prefix("- record: "));
    known.extend(recorded.map(str::to_string));
    for path in [RULES, RULES_TEST, DASHBOARD] {
        let text = read(path);
        let names = metric_names(&text);
        assert!(names.len() > 5, "{path} names {names:?}");
        let unknown: Vec<_> = names.into_iter().filter(|name| !known.contains(*name)).collect();
        assert!(unknown.is_empty(), "{path} names metrics that nobody records: {unknown:?}");
    }
}

#[test]
fn every_alert_has_a_unit_test_that_makes_it_fire() {
    let (rules, tests) = (read(RULES), read(RULES_TEST));
    let alerts: Vec<_> = rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).collect();
    assert!(alerts.len() > 8, "{alerts:?}");
    for alert in alerts {
        let fires = tests.split("alertname: ").skip(1).any(|part| {
            let mut lines = part.lines().map(str::trim);
            lines.next() == Some(alert) && lines.next() == Some("exp_alerts:")
        });
        assert!(fires, "no test in {RULES_TEST} expects {alert} to fire");
    }
}

#[test]
fn promtool_accepts_the_configuration_and_the_rules_and_passes_their_tests() {
    let Some(promtool) = program("promtool", "promtool on deploy/prometheus") else { return };
    succeed(Command::new(&promtool).args(["check", "config", CONFIG]));
    succeed(Command::new(&promtool).args(["check", "rules", RULES]));
    let printed = succeed(Command::new(&promtool).args(["test", "rules", RULES_TEST]));
    assert!(printed.contains("SUCCESS"), "{printed}");
}

#[test]
fn prometheus_reads_back_what_was_sent() {
    const TEST: &str = "a real Prometheus scrapes octet";
    let (Some(prometheus), Some(promtool)) = (program("prometheus", TEST), program("promtool", TEST)) else { return };

    let folder = tempfile::tempdir().unwrap();
    // The shipped models, and two small float ones that are compared with themselves in f32.
    let golden = golden_with_reference(folder.path());
    let floats = format!("shadow.float={golden},{VECTORS}");
    let mut command = octet();
    command.args(["serve", "--port", "0", "--model", "all-MiniLM-L6-v2", "--model", "sentiment"]);
    command.args(["--model", &golden, "--model", &format!("vectors={VECTORS}"), "--set", &floats]);
    for setting in [
        "telemetry.log_level=error",
        "shadow.rate=1",
        "shadow.budget=1",
        "shadow.max_queue_inputs=1000",
        "feedback.confusion_labels=5",
    ] {
        command.args(["--set", setting]);
    }
    let (_octet, octet_address) = serve(&mut command);
    let server = Prometheus::start(&prometheus, folder.path(), octet_address);
    // Rates need a scrape from before.
    server.wait_for_scrape();
    let sent = Traffic::send(octet_address);
    send_labels(octet_address);
    wait_for_comparisons(octet_address);
    server.wait_for_scrape();

    requests_are_those_that_were_answered(&server, &sent);
    stages_add_up_to_durations(&server);
    models_tell_size_and_accuracy(&server);
    live_accuracy_is_told(&server);
    every_panel_of_the_dashboard_shows_something(&server);
    rules_evaluate_and_nothing_fires(&server);

    let exposition = Connection::open(octet_address).unwrap().request("GET", "/metrics", &[], b"");
    let complaints = check_metrics(&promtool, exposition.text());
    assert_eq!(complaints, "", "promtool check metrics");
    // The check can fail.
    let bad = "# HELP octet_wait_ms Wait\n# TYPE octet_wait_ms gauge\noctet_wait_ms 1\n";
    assert!(check_metrics(&promtool, bad).contains("octet_wait_ms"));
}

/// A small model that gives vectors.
const VECTORS: &str = "tests/goldens/bert";

/// Texts that the small classifier gets: enough for its reference.
const COMPARED: usize = 200;

/// How many of them are labelled.
const LABELLED: usize = 120;

/// A copy of a small classifier, with a reference to drift from; its folder is called `golden`.
fn golden_with_reference(folder: &Path) -> String {
    let golden = folder.join("golden");
    fs::create_dir(&golden).unwrap();
    for file in ["config.json", "tokenizer.json", "model.safetensors"] {
        fs::copy(Path::new("tests/goldens/bert-classify").join(file), golden.join(file)).unwrap();
    }
    let classes = ModelDir::open(&golden).unwrap().config().labels.len();
    let predictions: Vec<(usize, f32)> = (0..600).map(|i| (i % classes, 0.5)).collect();
    let reference = Reference::of("test", classes, &predictions, &[4; 600]);
    update_manifest(&golden, |manifest| manifest.reference = Some(reference)).unwrap();
    golden.to_str().unwrap().to_string()
}

/// What `promtool check metrics` has to say; nothing when all is well.
fn check_metrics(promtool: &Path, exposition: &str) -> String {
    let mut command = Command::new(promtool);
    command.args(["check", "metrics"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(exposition.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let printed = [output.stdout, output.stderr].concat();
    let mut printed = String::from_utf8_lossy(&printed).into_owned();
    if !output.status.success() && printed.is_empty() {
        printed = output.status.to_string();
    }
    printed
}

/// What was sent and what came back.
#[derive(Default)]
struct Traffic {
    /// Answers by route and status code.
    answers: BTreeMap<(String, String), f64>,
    /// Texts in answered requests, by task.
    inputs: BTreeMap<String, f64>,
}

impl Traffic {
    fn send(address: SocketAddr) -> Self {
        let long = "The river rose in the night. Nobody in the village had expected it. By morning the bridge was gone. \
                    Two farmers saw it fall. The mayor promised a new one within the year.";
        let mut traffic = Traffic::default();
        for _ in 0..7 {
            traffic.post(address, "/v1/classify", json!({"input": "What a wonderful film."}), Some(("classify", 1)));
        }
        for _ in 0..2 {
            let texts = ["I love it.", "It is a table.", "The worst meal of my life."];
            traffic.post(address, "/v1/classify", json!({"input": texts}), Some(("classify", 3)));
        }
        for _ in 0..3 {
            let body = json!({"input": long, "sentences": 2});
            traffic.post(address, "/v1/summarize", body, Some(("summarize", 1)));
        }
        for _ in 0..4 {
            traffic.post(address, "/v1/embeddings", json!({"input": ["one", "two"]}), Some(("embed", 2)));
        }
        traffic.post(address, "/predict", json!({"inputs": "Quite good."}), Some(("classify", 1)));
        let texts = vec!["the cat sat on the mat"; COMPARED];
        traffic.post(address, "/v1/classify", json!({"model": "golden", "input": texts}), Some(("classify", COMPARED)));
        traffic.post(
            address,
            "/v1/embeddings",
            json!({"model": "vectors", "input": ["one", "two"]}),
            Some(("embed", 2)),
        );
        traffic.post(address, "/v1/classify", json!({"input": 7}), None);
        traffic.post(address, "/v1/classify", json!({"input": "x", "model": "no-such-model"}), None);
        traffic
    }

    /// Sends one request; `expected` is the task and the number of texts when it is to be answered with 200.
    fn post(&mut self, address: SocketAddr, path: &str, body: Value, expected: Option<(&str, usize)>) {
        let headers = [("content-type", "application/json"), ("connection", "close"), ("x-request-id", "latest")];
        let headers = if body["model"] == "golden" { &headers[..] } else { &headers[..2] };
        let mut connection = Connection::open(address).unwrap();
        let answer = connection.request("POST", path, headers, body.to_string().as_bytes());
        assert_eq!(answer.status == 200, expected.is_some(), "{path}: {}", answer.text());
        *self.answers.entry((path.to_string(), answer.status.to_string())).or_default() += 1.0;
        if let Some((task, texts)) = expected {
            *self.inputs.entry(task.to_string()).or_default() += texts as f64;
        }
    }
}

/// Labels for the small classifier's answer, all the same.
fn send_labels(address: SocketAddr) {
    let mut connection = Connection::open(address).unwrap();
    for index in 0..LABELLED {
        let body = json!({"id": "cls-latest", "index": index, "label": "neutral"}).to_string();
        let headers = [("content-type", "application/json")];
        let answer = connection.request("POST", "/v1/feedback", &headers, body.as_bytes());
        assert_eq!(answer.status, 200, "{}", answer.text());
    }
}

fn wait_for_comparisons(address: SocketAddr) {
    let done = |model: &str, count: usize| {
        let answer = Connection::open(address).unwrap().request("GET", "/metrics", &[], b"");
        let series = format!("octet_shadow_comparisons_total{{model=\"{model}\"");
        answer.text().lines().any(|line| line.starts_with(&series) && line.ends_with(&format!(" {count}")))
    };
    wait_until("every answer is compared", || done("golden", COMPARED) && done("vectors", 2));
}

/// What the server says about itself equals what its counters say.
fn live_accuracy_is_told(server: &Prometheus) {
    let golden = |name: &str| format!("{name}{{model=\"golden\"}}");
    assert_eq!(server.number("sum(octet_shadow_comparisons_total{model=\"golden\"})"), COMPARED as f64);
    let agreed = server.number(&golden("octet_shadow_agreements_total"));
    let ratio = server.number("octet_shadow_agreement_ratio{model=\"golden\", window=\"1h\"}");
    assert_eq!(ratio, agreed / COMPARED as f64);
    let bound = server.number("octet_shadow_loss_bound_ratio{model=\"golden\", window=\"24h\"}");
    assert!(bound >= 1.0 - ratio && bound < 1.0 - ratio + 0.08, "{bound} for {ratio}");
    let right = server.number("octet_feedback_total{model=\"golden\", correct=\"true\"}");
    assert_eq!(server.number("sum(octet_feedback_total{model=\"golden\"})"), LABELLED as f64);
    let accuracy = server.number("octet_feedback_accuracy_ratio{model=\"golden\", window=\"1h\"}");
    assert_eq!(accuracy, right / LABELLED as f64);
    assert_eq!(server.number("sum(octet_feedback_confusion_total{model=\"golden\"})"), LABELLED as f64);
    let drift = server.query("octet_drift_psi{model=\"golden\", window=\"1h\"} > 0.25");
    assert!(drift.iter().any(|s| s.label("signal") == "label"), "one class of several is drift: {drift:?}");
}

fn requests_are_those_that_were_answered(server: &Prometheus, sent: &Traffic) {
    let found = server.query("sum by (route, code) (octet_requests_total{task!=\"\"}) > 0");
    let found: BTreeMap<_, _> = found.iter().map(|s| ((s.label("route"), s.label("code")), s.value)).collect();
    assert_eq!(found, sent.answers);

    let found = server.query("sum by (task) (octet_inputs_total)");
    let found: BTreeMap<_, _> = found.iter().map(|s| (s.label("task"), s.value)).collect();
    assert_eq!(found, sent.inputs);

    let total: f64 = sent.answers.values().sum();
    assert_eq!(server.number("sum(octet_request_duration_seconds_count{task!=\"\"})"), total);
    let tokens = server.number("sum(octet_tokens_total)");
    assert!(tokens > 0.0);
    assert_eq!(server.number("sum(octet_batch_tokens_sum)"), tokens, "every token ran in a batch");
    assert_eq!(server.number("sum(octet_queue_tokens) + sum(octet_requests_in_flight)"), 0.0);
    // Counters that nothing has counted yet are there, at zero.
    let quiet = "octet_panics_total + on (model) octet_nonfinite_outputs_total";
    assert!(server.query(quiet).iter().all(|s| s.value == 0.0) && server.query(quiet).len() == 4);
}

fn stages_add_up_to_durations(server: &Prometheus) {
    let parts = server.query("sum by (model, task) (octet_request_stage_duration_seconds_sum)");
    let whole = server.query("sum by (model, task) (octet_request_duration_seconds_sum{task!=\"\"})");
    assert!(parts.iter().filter(|s| s.value > 0.0).count() >= 3, "{parts:?}");
    assert_eq!(parts.len(), whole.len());
    for (part, whole) in parts.iter().zip(&whole) {
        assert_eq!(part.labels, whole.labels);
        assert!((part.value - whole.value).abs() < 1e-9, "{:?}: {} and {}", part.labels, part.value, whole.value);
    }
    for stage in ["tokenize", "queue", "compute", "postprocess"] {
        let of_stage = format!("sum(octet_request_stage_duration_seconds_sum{{stage=\"{stage}\"}})");
        assert!(server.number(&of_stage) > 0.0, "{stage}");
    }
}

fn models_tell_size_and_accuracy(server: &Prometheus) {
    let encoder = "all-MiniLM-L6-v2";
    let int8 = server.number(&format!("sum(octet_model_size_bytes{{model=\"{encoder}\", dtype=\"int8\"}})"));
    let f32 = server.number(&format!("sum(octet_model_size_bytes{{model=\"{encoder}\", dtype=\"f32\"}})"));
    assert!(int8 > 20e6 && f32 < 2e6, "{int8} bytes in int8, {f32} in f32");
    let on_disk = fs::metadata(format!("models/{encoder}/model.safetensors")).unwrap().len();
    assert_eq!(server.number(&format!("octet_model_file_bytes{{model=\"{encoder}\"}}")), on_disk as f64);
    assert!(server.number(&format!("octet_model_compression_ratio{{model=\"{encoder}\"}}")) > 3.5);
    assert_eq!(server.number("sum(octet_model_ready)"), 4.0);

    let both = "octet_model_eval_score{precision=\"int8\"} \
                and ignoring (precision) octet_model_eval_score{precision=\"f32\"}";
    let scores = server.query(both);
    assert!(scores.iter().any(|s| s.label("metric") == "accuracy"), "int8 beside f32: {scores:?}");
}

fn every_panel_of_the_dashboard_shows_something(server: &Prometheus) {
    for (panel, query) in dashboard_queries() {
        let filled = query.replace("$__rate_interval", "1m").replace("$model", ".+").replace("$instance", ".+");
        assert!(!filled.contains('$'), "{panel}: {filled}");
        let samples = server.query(&filled);
        assert!(samples.iter().any(|s| s.value.is_finite()), "{panel} is empty: {filled}");
    }
}

fn rules_evaluate_and_nothing_fires(server: &Prometheus) {
    let start = Instant::now();
    let rules = loop {
        let rules = server.get("/api/v1/rules");
        let groups = rules["data"]["groups"].as_array().expect("groups").clone();
        let rules: Vec<Value> = groups.iter().flat_map(|g| g["rules"].as_array().unwrap().clone()).collect();
        if rules.iter().all(|rule| rule["health"] != "unknown") {
            break rules;
        }
        assert!(start.elapsed() < PATIENCE, "rules that nobody evaluated: {rules:?}");
        std::thread::sleep(Duration::from_millis(100));
    };
    assert!(rules.len() > 10);
    for rule in rules {
        assert_eq!(rule["health"], "ok", "{rule}");
        assert_ne!(rule["state"], "firing", "{rule}");
    }
}

/// One sample of an answer.
#[derive(Debug)]
struct Sample {
    labels: BTreeMap<String, String>,
    value: f64,
}

impl Sample {
    fn label(&self, name: &str) -> String {
        self.labels.get(name).cloned().unwrap_or_default()
    }
}

/// A Prometheus server on loopback, with the shipped configuration at one scrape per second.
struct Prometheus {
    _process: Running,
    address: SocketAddr,
}

impl Prometheus {
    fn start(program: &Path, folder: &Path, octet: SocketAddr) -> Self {
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let rules = fs::canonicalize(RULES).unwrap();
        let config = read(CONFIG)
            .replace("15s", "1s")
            .replace("octet:8080", &octet.to_string())
            .replace("localhost:9090", &address.to_string())
            .replace("rules.yml", rules.to_str().unwrap());
        let file = folder.join("prometheus.yml");
        fs::write(&file, config).unwrap();
        let log = fs::File::create(folder.join("prometheus.log")).unwrap();
        let process = Command::new(program)
            .arg(format!("--config.file={}", file.display()))
            .arg(format!("--storage.tsdb.path={}", folder.join("data").display()))
            .arg(format!("--web.listen-address={address}"))
            .current_dir(folder)
            .stderr(log)
            .spawn();
        let server = Prometheus { _process: Running(process.expect("prometheus starts")), address };
        let start = Instant::now();
        while server.raw("/-/ready").is_none_or(|(status, _)| status != 200) {
            let log = fs::read_to_string(folder.join("prometheus.log")).unwrap_or_default();
            assert!(start.elapsed() < PATIENCE, "prometheus is not ready:\n{log}");
            std::thread::sleep(Duration::from_millis(50));
        }
        server
    }

    /// Status and body; none when nothing answers. HTTP/1.0, so that the body ends with the connection.
    fn raw(&self, path: &str) -> Option<(u16, String)> {
        let mut stream = TcpStream::connect_timeout(&self.address, PATIENCE).ok()?;
        stream.set_read_timeout(Some(PATIENCE)).ok()?;
        stream.write_all(format!("GET {path} HTTP/1.0\r\nHost: {}\r\n\r\n", self.address).as_bytes()).ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        let (head, body) = answer.split_once("\r\n\r\n")?;
        Some((head.split(' ').nth(1)?.parse().ok()?, body.to_string()))
    }

    fn get(&self, path: &str) -> Value {
        let (status, body) = self.raw(path).unwrap_or_else(|| panic!("no answer to {path}"));
        assert_eq!(status, 200, "{path}: {body}");
        serde_json::from_str(&body).unwrap_or_else(|e| panic!("{path}: {e}: {body}"))
    }

    /// Value now of an expression, one sample per series, ordered by labels.
    fn query(&self, expression: &str) -> Vec<Sample> {
        let encoded: String = expression.bytes().map(|b| format!("%{b:02X}")).collect();
        let answer = self.get(&format!("/api/v1/query?query={encoded}"));
        let result = answer["data"]["result"].as_array().unwrap_or_else(|| panic!("{expression}: {answer}"));
        let sample = |s: &Value| Sample {
            labels: serde_json::from_value(s["metric"].clone()).expect("labels"),
            value: s["value"][1].as_str().and_then(|v| v.parse().ok()).expect("a number"),
        };
        let mut samples: Vec<_> = result.iter().map(sample).collect();
        samples.sort_by(|a, b| a.labels.cmp(&b.labels));
        samples
    }

    /// Value of an expression that has one series.
    fn number(&self, expression: &str) -> f64 {
        let samples = self.query(expression);
        assert_eq!(samples.len(), 1, "{expression}: {samples:?}");
        samples[0].value
    }

    /// Waits for a scrape of Octet that began after this call.
    fn wait_for_scrape(&self) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64();
        let start = Instant::now();
        while self.query("timestamp(octet_build_info)").first().is_none_or(|s| s.value <= now) {
            let targets = self.raw("/api/v1/targets");
            assert!(start.elapsed() < PATIENCE, "octet was not scraped: {targets:?}");
            std::thread::sleep(Duration::from_millis(100));
        }
        assert_eq!(self.number("up{job=\"octet\"}"), 1.0);
    }
}
