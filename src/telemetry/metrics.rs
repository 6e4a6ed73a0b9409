//! Records what happens. Guards do it once per request, when they end.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use prometheus_client::encoding::text::encode;
use prometheus_client::registry::Registry;

use super::catalogue::Families;
use super::live::{Comparison, Labelled, Live, ReferenceFacts, ShadowDrop, ShadowKind};
use super::process::Process;
use super::record::{Rejection, RequestRecord, Stage};

/// Value of the label `model` when a request names a model that is not loaded, or none at all.
const UNKNOWN: &str = "_unknown";

/// Value of the label `label` for classes after the first [`MAX_LABELS`].
const OTHER: &str = "_other";

/// Most values of the label `label` per model.
pub(super) const MAX_LABELS: usize = 50;

/// Status codes of requests to a loaded model, whose series exist before the first such answer.
const CODES: [u16; 8] = [200, 400, 422, 429, 499, 500, 503, 504];

/// Status that stands for "the client went away before the answer".
const CLIENT_CLOSED: u16 = 499;

/// One route template, and the task it asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// The template, such as `/v1/models/{id}`; never a path that a client sent.
    pub path: &'static str,
    /// Name of the task; none for probes and lists.
    pub task: Option<&'static str>,
    /// Every status code of its requests that reach no model: their series exist before the first such answer.
    pub codes: &'static [u16],
}

/// What started a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Trigger {
    /// It has all the tokens it may have.
    Full,
    /// It waited for company long enough.
    Wait,
    /// A thread had nothing else to do.
    Idle,
}

impl Trigger {
    /// Every trigger.
    pub const ALL: [Trigger; 3] = [Trigger::Full, Trigger::Wait, Trigger::Idle];

    /// Value of the label `trigger`.
    pub fn name(self) -> &'static str {
        match self {
            Trigger::Full => "full",
            Trigger::Wait => "wait",
            Trigger::Idle => "idle",
        }
    }
}

/// Which text format an exposition is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TextFormat {
    /// OpenMetrics 1.0: what Prometheus asks for.
    OpenMetrics,
    /// Prometheus text format 0.0.4: what everything else reads.
    Prometheus,
}

impl TextFormat {
    /// The format for a request with this `Accept` header.
    pub fn for_accept(accept: Option<&str>) -> Self {
        match accept {
            Some(accept) if accept.contains("application/openmetrics-text") => TextFormat::OpenMetrics,
            _ => TextFormat::Prometheus,
        }
    }

    /// Value of `Content-Type`.
    pub fn content_type(self) -> &'static str {
        match self {
            TextFormat::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            TextFormat::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
        }
    }
}

/// What metrics tell about a loaded model.
#[derive(Clone, Debug, Default)]
pub struct ModelFacts {
    /// Name in requests.
    pub id: String,
    /// Which weights they are.
    pub version: String,
    /// Names of the tasks it offers.
    pub tasks: Vec<&'static str>,
    /// Model family.
    pub architecture: String,
    /// `int8` or `f32`.
    pub precision: String,
    /// Quantization scheme.
    pub scheme: String,
    /// Instruction set of the kernels that run it.
    pub isa: String,
    /// Class names.
    pub labels: Vec<String>,
    /// Bytes in memory: component, dtype, bytes.
    pub sizes: Vec<(&'static str, &'static str, u64)>,
    /// Bytes on disk.
    pub file_bytes: u64,
    /// f32 bytes divided by bytes on disk.
    pub compression_ratio: f64,
    /// How long loading took, in seconds.
    pub load_seconds: f64,
    /// Stored scores: data set, metric, precision, value.
    pub scores: Vec<(String, String, String, f64)>,
    /// What live traffic is compared with.
    pub reference: Option<ReferenceFacts>,
    /// How answers are compared with the float original; none when they are not.
    pub shadow: Option<ShadowKind>,
    /// How much accuracy quantization may cost, 0 to 1.
    pub max_loss: f64,
    /// Whether somebody may send labels for answers.
    pub feedback: bool,
    /// Whether labelled answers are counted by both labels.
    pub confusion: bool,
}

/// One classified input.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Prediction<'a> {
    /// Best label.
    pub label: &'a str,
    /// Its score, when that is a probability.
    pub confidence: Option<f32>,
    /// Whether the score was made as the model makes it by itself, so that it can be compared with the reference.
    pub own_activation: bool,
    /// Tokens of the input.
    pub tokens: usize,
}

/// All metrics of the process.
pub struct Metrics {
    registry: Registry,
    families: Families,
    routes: Vec<Route>,
    /// By id; what label values of a request are checked against.
    models: RwLock<BTreeMap<String, KnownModel>>,
}

struct KnownModel {
    version: String,
    labels: Vec<String>,
    live: Live,
}

impl Metrics {
    /// Metrics for a server with these routes.
    pub fn new(routes: &[Route]) -> Self {
        let mut registry = Registry::default();
        let families = Families::register(&mut registry);
        registry.register_collector(Box::new(Process));
        let commit = option_env!("OCTET_COMMIT").unwrap_or("unknown");
        families.build_info.with(&[env!("CARGO_PKG_VERSION"), commit]).set(1.0);
        families.connections.with(&[]);
        families.connections_refused.with(&[]);
        families.worker_restarts.with(&[]);
        families.shadow_queue.with(&[]);
        families.shadow_busy.with(&[]);
        families.feedback_kept.with(&[]);
        families.in_flight.with(&[UNKNOWN]);
        for reason in Rejection::ALL {
            families.rejected.with(&[UNKNOWN, reason.name()]);
        }
        for route in routes {
            let task = route.task.unwrap_or_default();
            for code in route.codes {
                families.requests.with(&[UNKNOWN, "", task, route.path, &code.to_string()]);
            }
            families.request_duration.with(&[UNKNOWN, task, route.path]);
            for stage in Stage::ALL.into_iter().filter(|_| route.task.is_some()) {
                families.stage_duration.with(&[UNKNOWN, task, stage.name()]);
            }
        }
        Metrics { registry, families, routes: routes.to_vec(), models: RwLock::default() }
    }

    /// Makes every series of a loaded model, at zero where it counts something.
    pub fn add_model(&self, facts: &ModelFacts) {
        let f = &self.families;
        let (id, version) = (facts.id.as_str(), facts.version.as_str());
        let shown: Vec<String> = facts.labels.iter().take(MAX_LABELS).cloned().collect();
        shown.iter().map(String::as_str).chain([OTHER]).filter(|_| !shown.is_empty()).for_each(|label| {
            f.predictions.with(&[id, label]);
        });
        if !shown.is_empty() {
            f.confidence.with(&[id]);
        }
        f.in_flight.with(&[id]);
        f.tokens.with(&[id, "prompt"]);
        f.queue_inputs.with(&[id]);
        f.queue_tokens.with(&[id]);
        f.batch_inputs.with(&[id]);
        f.batch_tokens.with(&[id]);
        f.batch_fill.with(&[id]);
        f.nonfinite.with(&[id]);
        f.panics.with(&[id]);
        Trigger::ALL.into_iter().for_each(|t| drop(f.batches.with(&[id, t.name()])));
        Rejection::ALL.into_iter().for_each(|r| drop(f.rejected.with(&[id, r.name()])));
        for task in &facts.tasks {
            f.inputs.with(&[id, task]);
            f.input_tokens.with(&[id, task]);
            f.truncated.with(&[id, task]);
            f.windows.with(&[id, task]);
            Stage::ALL.into_iter().for_each(|s| drop(f.stage_duration.with(&[id, task, s.name()])));
            f.model_info
                .with(&[id, version, &facts.architecture, task, &facts.precision, &facts.scheme, &facts.isa])
                .set(1.0);
            for route in self.routes.iter().filter(|r| r.task == Some(*task)) {
                f.request_duration.with(&[id, task, route.path]);
                for code in CODES {
                    f.requests.with(&[id, version, task, route.path, &code.to_string()]);
                }
            }
        }
        for (component, dtype, bytes) in &facts.sizes {
            f.model_size.with(&[id, version, component, dtype]).set(*bytes as f64);
        }
        for (dataset, metric, precision, value) in &facts.scores {
            f.model_score.with(&[id, version, dataset, metric, precision]).set(*value);
        }
        f.model_file.with(&[id, version]).set(facts.file_bytes as f64);
        f.model_compression.with(&[id, version]).set(facts.compression_ratio);
        f.model_load.with(&[id, version]).set(facts.load_seconds);
        f.model_ready.with(&[id, version]).set(0.0);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        f.model_loaded.with(&[id, version]).set(now.as_secs_f64());
        let live = Live::new(f, facts);
        let known = KnownModel { version: version.to_string(), labels: shown, live };
        self.models.write().unwrap_or_else(PoisonError::into_inner).insert(id.to_string(), known);
    }

    /// Says whether a loaded model answers requests.
    pub fn set_model_ready(&self, model: &str, ready: bool) {
        if let Some(version) = self.version(model) {
            self.families.model_ready.with(&[model, &version]).set(if ready { 1.0 } else { 0.0 });
        }
    }

    /// Counts a request to `route` (a template) when the guard ends.
    pub fn request(self: &Arc<Self>, route: &'static str, record: RequestRecord) -> RequestGuard {
        RequestGuard { metrics: self.clone(), route, record, code: None }
    }

    /// Counts an open connection until the guard is dropped.
    pub fn connection(self: &Arc<Self>) -> ConnectionGuard {
        self.families.connections.with(&[]).inc();
        ConnectionGuard { metrics: self.clone() }
    }

    /// A connection over the cap.
    pub fn connection_refused(&self) {
        self.families.connections_refused.with(&[]).inc();
    }

    /// Counts a request in the engine until the guard is dropped.
    pub fn in_flight(self: &Arc<Self>, model: &str) -> InFlightGuard {
        self.families.in_flight.with(&[model]).inc();
        InFlightGuard { metrics: self.clone(), model: model.to_string() }
    }

    /// Adds to what waits in the queue (or, with negative numbers, takes away).
    pub fn queue_changed(&self, model: &str, inputs: i64, tokens: i64) {
        self.families.queue_inputs.with(&[model]).inc_by(inputs as f64);
        self.families.queue_tokens.with(&[model]).inc_by(tokens as f64);
    }

    /// One batch that ran: number of sequences, their tokens, and the most tokens it could have had.
    pub fn batch(&self, model: &str, trigger: Trigger, inputs: usize, tokens: usize, max_tokens: usize) {
        let f = &self.families;
        f.batches.with(&[model, trigger.name()]).inc();
        f.batch_inputs.with(&[model]).observe(inputs as f64);
        f.batch_tokens.with(&[model]).observe(tokens as f64);
        f.batch_fill.with(&[model]).observe(tokens as f64 / max_tokens.max(1) as f64);
    }

    /// One answered request: how many inputs it had, and the tokens of each sequence they became.
    pub fn answered(&self, model: &str, task: &str, inputs: usize, sequences: &[usize], truncated: usize) {
        let f = &self.families;
        f.inputs.with(&[model, task]).inc_by(inputs as u64);
        f.windows.with(&[model, task]).inc_by(sequences.len() as u64);
        f.truncated.with(&[model, task]).inc_by(truncated as u64);
        f.tokens.with(&[model, "prompt"]).inc_by(sequences.iter().sum::<usize>() as u64);
        let lengths = f.input_tokens.with(&[model, task]);
        sequences.iter().for_each(|tokens| lengths.observe(*tokens as f64));
    }

    /// One classified input.
    pub fn prediction(&self, model: &str, prediction: Prediction<'_>) {
        let Prediction { label, confidence, own_activation, tokens } = prediction;
        let models = self.known();
        let known = models.get(model);
        let class = known.and_then(|m| m.labels.iter().position(|l| l == label));
        self.families.predictions.with(&[model, if class.is_some() { label } else { OTHER }]).inc();
        if let Some(confidence) = confidence {
            self.families.confidence.with(&[model]).observe(f64::from(confidence));
        }
        if let Some(KnownModel { live, labels, .. }) = known {
            let class = class.unwrap_or(labels.len());
            live.predicted(Instant::now(), Some(class), confidence.filter(|_| own_activation), tokens);
        }
    }

    /// One input that became a vector, of so many tokens.
    pub fn embedded(&self, model: &str, tokens: usize) {
        if let Some(known) = self.known().get(model) {
            known.live.predicted(Instant::now(), None, None, tokens);
        }
    }

    /// An answer beside that of the float original.
    pub fn shadow_compared(&self, model: &str, comparison: Comparison) {
        if let Some(known) = self.known().get(model) {
            known.live.compared(&self.families, Instant::now(), comparison);
        }
    }

    /// An answer that was to be compared with the float original, and was not.
    pub fn shadow_dropped(&self, model: &str, reason: ShadowDrop) {
        if let Some(known) = self.known().get(model) {
            known.live.not_compared(&self.families, reason);
        }
    }

    /// How many answers wait for a comparison.
    pub fn shadow_waiting(&self, inputs: usize) {
        self.families.shadow_queue.with(&[]).set(inputs as f64);
    }

    /// Time that a float original computed.
    pub fn shadow_busy(&self, time: Duration) {
        self.families.shadow_busy.with(&[]).inc_by(time.as_secs_f64());
    }

    /// A label for an answer.
    pub fn labelled(&self, model: &str, label: Labelled<'_>) {
        if let Some(known) = self.known().get(model) {
            known.live.labelled(&self.families, Instant::now(), label);
        }
    }

    /// How many inputs can still be labelled.
    pub fn feedback_kept(&self, inputs: usize) {
        self.families.feedback_kept.with(&[]).set(inputs as f64);
    }

    /// A request that failed on NaN or infinity.
    pub fn nonfinite_output(&self, model: &str) {
        self.families.nonfinite.with(&[model]).inc();
    }

    /// A panic that was caught.
    pub fn panic_caught(&self, model: &str) {
        self.families.panics.with(&[model]).inc();
    }

    /// A compute thread that went on with fresh memory.
    pub fn worker_restarted(&self) {
        self.families.worker_restarts.with(&[]).inc();
    }

    /// Everything, as text.
    pub fn encode(&self, format: TextFormat) -> String {
        let now = Instant::now();
        self.known().values().for_each(|known| known.live.refresh(&self.families, now));
        let mut text = String::new();
        encode(&mut text, &self.registry).expect("writing to a string does not fail");
        match format {
            TextFormat::OpenMetrics => text,
            TextFormat::Prometheus => to_prometheus_text(&text),
        }
    }

    fn version(&self, model: &str) -> Option<String> {
        self.known().get(model).map(|m| m.version.clone())
    }

    fn known(&self) -> RwLockReadGuard<'_, BTreeMap<String, KnownModel>> {
        self.models.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn record(&self, route: &'static str, record: &RequestRecord, code: u16, end: Instant) {
        let f = &self.families;
        let known = record.model().and_then(|id| self.version(id).map(|version| (id, version)));
        let (model, version) = known.as_ref().map_or((UNKNOWN, ""), |(id, version)| (*id, version.as_str()));
        let of_route = self.routes.iter().find(|r| r.path == route).and_then(|r| r.task);
        let task = record.task().or(of_route).unwrap_or_default();
        f.requests.with(&[model, version, task, route, &code.to_string()]).inc();
        let total = end.saturating_duration_since(record.arrived());
        f.request_duration.with(&[model, task, route]).observe(total.as_secs_f64());
        if !task.is_empty() {
            for (stage, time) in record.stages(end) {
                f.stage_duration.with(&[model, task, stage.name()]).observe(time.as_secs_f64());
            }
            let canceled = (code == CLIENT_CLOSED).then_some(Rejection::Canceled);
            if let Some(reason) = record.rejection().or(canceled) {
                f.rejected.with(&[model, reason.name()]).inc();
            }
        }
    }
}

/// OpenMetrics text → Prometheus text 0.0.4: the name of a counter in `# HELP` and `# TYPE` is that of its samples,
/// and there is no `# EOF`.
fn to_prometheus_text(text: &str) -> String {
    let is_counter = |name: &str| text.contains(&format!("# TYPE {name} counter\n"));
    let mut out = String::with_capacity(text.len() + text.len() / 32);
    for line in text.lines().filter(|l| *l != "# EOF") {
        let described = line.strip_prefix("# ").and_then(|l| l.split_once(' '));
        match described.and_then(|(what, rest)| Some((what, rest.split_once(' ')?))) {
            Some((what, (name, rest))) if is_counter(name) => {
                out += &format!("# {what} {name}_total {rest}\n");
            }
            _ => {
                out += line;
                out.push('\n');
            }
        }
    }
    out
}

/// Records one request exactly once: when finished, or, as one whose client went away, when dropped.
pub struct RequestGuard {
    metrics: Arc<Metrics>,
    route: &'static str,
    record: RequestRecord,
    code: Option<u16>,
}

impl RequestGuard {
    /// What is known about the request.
    pub fn record(&self) -> &RequestRecord {
        &self.record
    }

    /// Ends the request with this status; returns how long it took.
    pub fn finish(mut self, code: u16) -> Duration {
        self.code = Some(code);
        self.record.arrived().elapsed()
    }
}

impl Drop for RequestGuard {
    fn drop(&mut self) {
        let code = self.code.unwrap_or(CLIENT_CLOSED);
        self.metrics.record(self.route, &self.record, code, Instant::now());
    }
}

/// An open connection.
pub struct ConnectionGuard {
    metrics: Arc<Metrics>,
}

impl Drop for ConnectionGuard {
    fn drop(&mut self) {
        self.metrics.families.connections.with(&[]).dec();
    }
}

/// A request in the engine.
pub struct InFlightGuard {
    metrics: Arc<Metrics>,
    model: String,
}

impl Drop for InFlightGuard {
    fn drop(&mut self) {
        self.metrics.families.in_flight.with(&[&self.model]).dec();
    }
}
