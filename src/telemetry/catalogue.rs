//! Every metric, once: name, type, labels, help. Names follow the Prometheus conventions: base units, `_total` for
//! counters, ratios between 0 and 1. Label values come from closed sets.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::AtomicU64;
use std::sync::{PoisonError, RwLock};

use prometheus_client::metrics::counter::{Counter, Counter as AnyCounter};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge as AnyGauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

/// A value that goes up and down.
pub(super) type Gauge = AnyGauge<f64, AtomicU64>;

/// Seconds that add up.
pub(super) type Seconds = AnyCounter<f64, AtomicU64>;

/// What is known about one metric besides its values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Definition {
    /// As it stands in the exposition.
    pub name: &'static str,
    /// `counter`, `gauge` or `histogram`.
    pub kind: &'static str,
    /// Names of its labels.
    pub labels: &'static [&'static str],
    /// What it counts.
    pub help: &'static str,
}

impl Definition {
    /// Unit of the values, from the name.
    pub fn unit(&self) -> &'static str {
        let stem = self.name.strip_suffix("_total").unwrap_or(self.name);
        let units = ["seconds", "bytes", "tokens", "inputs", "ratio"];
        units.into_iter().find(|unit| stem.ends_with(unit)).unwrap_or("")
    }
}

/// Names and values of the labels of one series.
type Labels = Vec<(&'static str, String)>;

/// One metric with all its series.
pub(super) struct Labelled<M> {
    labels: &'static [&'static str],
    family: Family<Labels, M, fn() -> M>,
    /// Series by the hash of their label values: looking up in the family allocates a string for each.
    known: RwLock<HashMap<u64, (Vec<String>, M)>>,
    hasher: RandomState,
}

impl<M: Clone> Labelled<M> {
    fn new(labels: &'static [&'static str], family: Family<Labels, M, fn() -> M>) -> Self {
        Labelled { labels, family, known: RwLock::default(), hasher: RandomState::new() }
    }

    /// The series with these label values, made at zero when it does not exist.
    pub(super) fn with(&self, values: &[&str]) -> M {
        assert_eq!(self.labels.len(), values.len(), "one value per label of {:?}", self.labels);
        let hash = self.hasher.hash_one(values);
        if let Some((known, metric)) = self.known.read().unwrap_or_else(PoisonError::into_inner).get(&hash)
            && known == values
        {
            return metric.clone();
        }
        let labels = self.labels.iter().zip(values).map(|(name, value)| (*name, value.to_string()));
        let metric = self.family.get_or_create_owned(&labels.collect());
        let series = (values.iter().map(ToString::to_string).collect(), metric.clone());
        self.known.write().unwrap_or_else(PoisonError::into_inner).insert(hash, series);
        metric
    }
}

trait Kind {
    const NAME: &'static str;
}

impl Kind for Counter {
    const NAME: &'static str = "counter";
}

impl Kind for Seconds {
    const NAME: &'static str = "counter";
}

impl Kind for Gauge {
    const NAME: &'static str = "gauge";
}

impl Kind for Histogram {
    const NAME: &'static str = "histogram";
}

/// The struct of all metrics, and the list that documents them, from one list.
macro_rules! catalogue {
    ($( $field:ident: $kind:ident = $make:expr, $name:literal [$($label:literal),*] $help:literal; )+) => {
        pub(super) struct Families { $( pub(super) $field: Labelled<$kind>, )+ }

        impl Families {
            pub(super) fn register(registry: &mut Registry) -> Self {
                Families { $( $field: {
                    let family = Family::new_with_constructor($make as fn() -> $kind);
                    // The encoder adds "_total" to counters and a full stop to the help.
                    let name = $name.strip_suffix("_total").unwrap_or($name);
                    registry.register(name, $help, family.clone());
                    Labelled::new(&[$($label),*], family)
                }, )+ }
            }
        }

        const RECORDED: &[Definition] = &[$( Definition {
            name: $name,
            kind: <$kind as Kind>::NAME,
            labels: &[$($label),*],
            help: $help,
        }, )+];
    };
}

catalogue! {
    requests: Counter = Counter::default, "octet_requests_total" ["model", "version", "task", "route", "code"]
        "Requests answered, by status code (499: the client went away)";
    request_duration: Histogram = seconds, "octet_request_duration_seconds" ["model", "task", "route"]
        "Time from the arrival of a request until its response is built";
    stage_duration: Histogram = seconds, "octet_request_stage_duration_seconds" ["model", "task", "stage"]
        "Time of one request in one stage; the stages of a request add up to its duration";
    in_flight: Gauge = Gauge::default, "octet_requests_in_flight" ["model"]
        "Requests that the engine is working on, queued ones included";
    rejected: Counter = Counter::default, "octet_rejected_total" ["model", "reason"]
        "Requests that were refused or given up, by reason";
    inputs: Counter = Counter::default, "octet_inputs_total" ["model", "task"]
        "Inputs answered (a text, or a pair of texts)";
    input_tokens: Histogram = sequence_tokens, "octet_input_tokens" ["model", "task"]
        "Tokens of each sequence that the encoder ran, special tokens included; a summary has one sequence per sentence";
    tokens: Counter = Counter::default, "octet_tokens_total" ["model", "kind"]
        "Tokens computed; kind is prompt (batches have no padding)";
    truncated: Counter = Counter::default, "octet_truncated_inputs_total" ["model", "task"]
        "Sequences that were cut to fit the model";
    windows: Counter = Counter::default, "octet_windows_total" ["model", "task"]
        "Sequences that inputs were split into";
    queue_inputs: Gauge = Gauge::default, "octet_queue_inputs" ["model"]
        "Sequences that wait for a compute thread";
    queue_tokens: Gauge = Gauge::default, "octet_queue_tokens" ["model"]
        "Tokens that wait for a compute thread";
    batches: Counter = Counter::default, "octet_batches_total" ["model", "trigger"]
        "Batches run, by what started them: full, wait or idle; models on one encoder share batches, counted for the first";
    batch_inputs: Histogram = batch_inputs, "octet_batch_inputs" ["model"]
        "Sequences in one batch";
    batch_tokens: Histogram = batch_tokens, "octet_batch_tokens" ["model"]
        "Tokens in one batch";
    batch_fill: Histogram = ratio, "octet_batch_fill_ratio" ["model"]
        "Tokens in one batch, divided by the most it may have";
    model_size: Gauge = Gauge::default, "octet_model_size_bytes" ["model", "version", "component", "dtype"]
        "Bytes of the loaded model in memory, by part and number type";
    model_file: Gauge = Gauge::default, "octet_model_file_bytes" ["model", "version"]
        "Bytes of the weight files on disk";
    model_compression: Gauge = Gauge::default, "octet_model_compression_ratio" ["model", "version"]
        "Bytes that the same weights take in f32, divided by the bytes of the weight files";
    model_load: Gauge = Gauge::default, "octet_model_load_duration_seconds" ["model", "version"]
        "How long loading the model took";
    model_ready: Gauge = Gauge::default, "octet_model_ready" ["model", "version"]
        "1 when the model answers requests, 0 when it does not";
    model_loaded: Gauge = Gauge::default, "octet_model_loaded_timestamp_seconds" ["model", "version"]
        "When the model was loaded, in seconds since 1970";
    model_info: Gauge = Gauge::default, "octet_model_info"
        ["model", "version", "architecture", "task", "precision", "scheme", "isa"]
        "What the model is; always 1";
    model_score: Gauge = Gauge::default, "octet_model_eval_score" ["model", "version", "dataset", "metric", "precision"]
        "Scores that octet eval measured and stored with the model";
    predictions: Counter = Counter::default, "octet_predictions_total" ["model", "label"]
        "Classified inputs by their best label; labels after the first 50 count as _other";
    confidence: Histogram = ratio, "octet_prediction_confidence" ["model"]
        "Score of the best label of each classified input";
    shadow_comparisons: Counter = Counter::default, "octet_shadow_comparisons_total" ["model", "version"]
        "Answers that were compared with those of the float original";
    shadow_agreements: Counter = Counter::default, "octet_shadow_agreements_total" ["model", "version"]
        "Compared answers in which both chose the same labels; only for models that choose labels";
    shadow_dropped: Counter = Counter::default, "octet_shadow_dropped_total" ["model", "version", "reason"]
        "Answers that were chosen for a comparison and not compared, by reason: queue_full, draining, failed";
    shadow_logit_error: Histogram = logit_error, "octet_shadow_logit_error" ["model", "version"]
        "Largest absolute difference between the logits of one answer and those of the float original";
    shadow_score_error: Histogram = small_ratio, "octet_shadow_score_error_ratio" ["model", "version"]
        "Largest absolute difference between the scores of one answer and those of the float original";
    shadow_cosine_distance: Histogram = small_ratio, "octet_shadow_cosine_distance_ratio" ["model", "version"]
        "One minus the cosine between a vector and that of the float original";
    shadow_agreement: Gauge = Gauge::default, "octet_shadow_agreement_ratio" ["model", "version", "window"]
        "Share of the compared answers of the window in which both chose the same labels; NaN when none was compared";
    shadow_bound: Gauge = Gauge::default, "octet_shadow_loss_bound_ratio" ["model", "version", "window"]
        "How much accuracy quantization can have cost at most: upper end of the 95 % Wilson interval of the share of \
         compared answers that differ; 1 when none was compared";
    shadow_limit: Gauge = Gauge::default, "octet_shadow_loss_limit_ratio" ["model"]
        "How much accuracy quantization may cost: shadow.max_loss; an alert compares the bound with it";
    shadow_queue: Gauge = Gauge::default, "octet_shadow_queue_inputs" []
        "Answers that wait for a comparison";
    shadow_busy: Seconds = Seconds::default, "octet_shadow_busy_seconds_total" []
        "Time from the start to the end of comparisons, waiting for a CPU included";
    feedback: Counter = Counter::default, "octet_feedback_total" ["model", "version", "correct"]
        "Answers that somebody sent a label for, by whether it is the one that was predicted";
    feedback_confusion: Counter = Counter::default, "octet_feedback_confusion_total" ["model", "predicted", "actual"]
        "Labelled answers by both labels; only for models with at most feedback.confusion_labels labels";
    feedback_accuracy: Gauge = Gauge::default, "octet_feedback_accuracy_ratio" ["model", "version", "window"]
        "Share of the answers labelled in the window that were right; NaN when none was labelled";
    feedback_calibration: Gauge = Gauge::default, "octet_feedback_calibration_error_ratio" ["model", "version", "window"]
        "Expected calibration error of the answers labelled in the window, 15 bins; NaN with fewer than 100 of them";
    feedback_kept: Gauge = Gauge::default, "octet_feedback_kept_inputs" []
        "Classified inputs that can still be labelled, those replaced under the same id included";
    drift: Gauge = Gauge::default, "octet_drift_psi" ["model", "signal", "window"]
        "Population stability index of label, confidence or length in the window against the reference stored with the \
         model; NaN with fewer than 50 inputs for each bin";
    nonfinite: Counter = Counter::default, "octet_nonfinite_outputs_total" ["model"]
        "Requests that failed because the model produced NaN or infinity";
    panics: Counter = Counter::default, "octet_panics_total" ["model"]
        "Panics that were caught; only the request that caused one is answered with 500";
    worker_restarts: Counter = Counter::default, "octet_worker_restarts_total" []
        "Times a compute thread went on with fresh memory after a panic";
    connections: Gauge = Gauge::default, "octet_connections" []
        "Open connections";
    connections_refused: Counter = Counter::default, "octet_connections_refused_total" []
        "Connections over server.max_connections: told so with 503, or closed";
    build_info: Gauge = Gauge::default, "octet_build_info" ["version", "commit"]
        "Version and commit of the program; always 1";
}

/// Upper bounds in seconds: 0.25 ms to 30 s, about four per decade.
const SECONDS: [f64; 16] =
    [0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];

fn seconds() -> Histogram {
    Histogram::new(SECONDS)
}

fn sequence_tokens() -> Histogram {
    Histogram::new([2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0])
}

fn batch_inputs() -> Histogram {
    Histogram::new([1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0])
}

fn batch_tokens() -> Histogram {
    Histogram::new([8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 2048.0, 4096.0, 8192.0])
}

fn logit_error() -> Histogram {
    Histogram::new([0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0])
}

fn small_ratio() -> Histogram {
    Histogram::new([0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0])
}

fn ratio() -> Histogram {
    Histogram::new([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 1.0])
}

/// Every metric: those above, and what the operating system knows about the process.
pub fn definitions() -> impl Iterator<Item = &'static Definition> {
    RECORDED.iter().chain(super::process::DEFINITIONS)
}

/// `docs/metrics.md`: every metric in a table.
pub fn reference_page() -> String {
    let mut out = String::from(
        "# Metrics\n\n\
         <!-- Written by the tests from src/telemetry/catalogue.rs: OCTET_BLESS=1 cargo test --release engine -->\n\n\
         `GET /metrics` answers in the OpenMetrics text format when the client asks for it, as Prometheus does, and\n\
         in the plain Prometheus text format otherwise. Every series of a model exists, at zero, as soon as the model is\n\
         loaded; those of shadow, feedback and drift only for models that have them. Windows are the last 1 h and 24 h.\n\
         A request for a model that is not loaded counts as `model=\"_unknown\"`. Histograms of time have buckets\n\
         from 0.25 ms to 30 s.\n\n",
    );
    let header = ["Name", "Type", "Unit", "Labels", "What it tells"].map(String::from);
    let rows = definitions().map(|d| {
        let labels: Vec<_> = d.labels.iter().map(|l| format!("`{l}`")).collect();
        [format!("`{}`", d.name), d.kind.into(), d.unit().into(), labels.join(", "), d.help.into()]
    });
    let rows: Vec<[String; 5]> = rows.collect();
    let widths: [usize; 5] =
        std::array::from_fn(|i| rows.iter().chain([&header]).map(|r| r[i].chars().count()).max().unwrap_or(0));
    let rule = widths.map(|w| "-".repeat(w));
    for row in [&header, &rule].into_iter().chain(&rows) {
        let cells: Vec<_> = row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        out += &format!("| {} |\n", cells.join(" | "));
    }
    out
}
