//! The engine under overload, cancellation, deadlines, panics and shutdown, on real threads.
//!
//! The encoder here is a stand-in whose rows are easy to predict and which can be held up or made to panic; the real
//! one is tested elsewhere. What is tested is who gets which answer, and when.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Barrier, Condvar, Mutex};
use std::time::{Duration, Instant};

use octet::architectures::{
    Activation, Encoder, EncoderSpec, EncoderTeam, EncoderWorkspace, LayerSpec, Pooling, ProblemType, RaggedBatch,
};
use octet::config::{BatchingSettings, FeedbackSettings, ShadowSettings};
use octet::engine::{Answer, Engine, EngineError, EngineOptions, Registry, RequestContext};
use octet::kernels::Kernels;
use octet::pipelines::{
    Classifier, ClassifyInput, ClassifyOptions, Dense, Head, Model, ModelInfo, OutputActivation, Pipeline,
    PipelineError, Prepared, Row, SequenceModel, Task,
};
use octet::telemetry::{Metrics, Prediction, Rejection, RequestRecord, Route, Stage, TextFormat};
use octet::text::{Encoding, Tokenizer};

/// A token id that makes the encoder panic.
const POISON: u32 = 666;

/// A sequence that the encoder turns into NaN.
const NOT_A_NUMBER: [u32; 1] = [99];

const PATIENCE: Duration = Duration::from_secs(20);

/// Hidden state of every token: the sum of its sequence's ids, and the length. Can be held up.
struct FakeEncoder {
    spec: EncoderSpec,
    open: Mutex<bool>,
    opened: Condvar,
    /// Batches that were begun, as lists of sequences.
    batches: Mutex<Vec<Vec<Vec<u32>>>>,
    /// Members of teams that computed, each with the size of its team.
    members: Mutex<Vec<(usize, usize)>>,
}

/// Members of a fake team wait for each other once.
struct FakeTeam {
    size: usize,
    meeting: Barrier,
}

impl FakeEncoder {
    fn new(open: bool) -> Arc<Self> {
        let spec = EncoderSpec {
            family: "bert".into(),
            vocab_size: 1000,
            hidden_size: 2,
            head_dim: 2,
            layers: vec![LayerSpec { num_heads: 1, intermediate_size: 2 }],
            max_positions: 512,
            position_offset: 0,
            type_vocab_size: 2,
            activation: Activation::Gelu,
            layer_norm_eps: 1e-12,
        };
        let (open, batches) = (Mutex::new(open), Mutex::new(Vec::new()));
        Arc::new(FakeEncoder { spec, open, opened: Condvar::new(), batches, members: Mutex::default() })
    }

    fn set_open(&self, open: bool) {
        *self.open.lock().unwrap() = open;
        self.opened.notify_all();
    }

    fn batches(&self) -> Vec<Vec<Vec<u32>>> {
        self.batches.lock().unwrap().clone()
    }

    fn has_seen(&self, id: u32) -> bool {
        self.batches().iter().flatten().flatten().any(|seen| *seen == id)
    }
}

impl Encoder for FakeEncoder {
    fn spec(&self) -> &EncoderSpec {
        &self.spec
    }

    fn precision(&self) -> &'static str {
        "int8"
    }

    fn workspace(&self) -> EncoderWorkspace {
        Box::new(())
    }

    fn forward(&self, batch: &RaggedBatch, _: &mut EncoderWorkspace, out: &mut Vec<f32>) {
        self.batches.lock().unwrap().push(batch.ranges().map(|r| batch.ids[r].to_vec()).collect());
        let mut open = self.open.lock().unwrap();
        while !*open {
            open = self.opened.wait(open).unwrap();
        }
        drop(open);
        assert!(!batch.ids.contains(&POISON), "poison");
        out.clear();
        for range in batch.ranges() {
            let ids = &batch.ids[range.clone()];
            let sum = if ids == NOT_A_NUMBER { f32::NAN } else { ids.iter().sum::<u32>() as f32 };
            range.clone().for_each(|_| out.extend([sum, range.len() as f32]));
        }
    }

    fn team(&self, members: usize) -> Option<EncoderTeam> {
        Some(Box::new(FakeTeam { size: members, meeting: Barrier::new(members) }))
    }

    fn forward_together(
        &self,
        batch: &RaggedBatch,
        team: &EncoderTeam,
        member: usize,
        workspace: &mut EncoderWorkspace,
        out: &mut Vec<f32>,
    ) {
        let team: &FakeTeam = team.downcast_ref().unwrap();
        self.members.lock().unwrap().push((member, team.size));
        team.meeting.wait();
        assert!(!batch.ids.contains(&POISON), "poison");
        if member == 0 {
            self.forward(batch, workspace, out);
        }
    }
}

/// Inputs are token ids; the output of each is the sum that the encoder computed.
struct Sums {
    model: SequenceModel,
}

#[derive(Clone, Copy, Default)]
struct SumOptions {
    panic_in_prepare: bool,
    panic_in_finish: bool,
}

impl Pipeline for Sums {
    type Input = Vec<u32>;
    type Options = SumOptions;
    type Output = u32;
    type State = ();

    fn model(&self) -> &SequenceModel {
        &self.model
    }

    fn bytes(&self, input: &Vec<u32>) -> usize {
        input.len()
    }

    fn prepare(
        &self,
        inputs: Vec<Vec<u32>>,
        options: &SumOptions,
        _wanted: &dyn Fn() -> bool,
    ) -> Result<Prepared<()>, PipelineError> {
        assert!(!options.panic_in_prepare, "asked to");
        let encode = |(index, ids): (usize, Vec<u32>)| match ids.len() {
            0 => Err(PipelineError::Empty { index }),
            n => Ok(Encoding { ids, type_ids: vec![0; n], truncated: false }),
        };
        let sequences = inputs.into_iter().enumerate().map(encode).collect::<Result<_, _>>()?;
        Ok(Prepared { sequences, state: () })
    }

    fn finish(&self, _: (), rows: Vec<Row>, options: &SumOptions) -> Result<Vec<u32>, PipelineError> {
        assert!(!options.panic_in_finish, "asked to");
        Ok(rows.into_iter().map(|row| row[0] as u32).collect())
    }
}

/// An engine over one model called "sums", and all that a test wants to look at.
#[derive(Clone)]
struct Rig {
    engine: Engine,
    encoder: Arc<FakeEncoder>,
    metrics: Arc<Metrics>,
    pipeline: Arc<Sums>,
}

struct RigOptions {
    threads: usize,
    open: bool,
    batching: BatchingSettings,
}

impl Default for RigOptions {
    fn default() -> Self {
        let batching = BatchingSettings { max_batch_tokens: 64, ..BatchingSettings::default() };
        RigOptions { threads: 1, open: true, batching }
    }
}

const ROUTES: [Route; 2] = [
    Route { path: "/v1/classify", task: Some("classify"), codes: &[404] },
    Route { path: "/livez", task: None, codes: &[200] },
];

impl Rig {
    fn new(options: RigOptions) -> Rig {
        let encoder = FakeEncoder::new(options.open);
        let plain = sequence_model(&encoder, 1.0);
        let models = vec![classifier("sums", &plain), classifier("twice", &sequence_model(&encoder, 2.0))];
        let metrics = Arc::new(Metrics::new(&ROUTES));
        let options = EngineOptions {
            threads: options.threads,
            isa: "scalar",
            batching: options.batching,
            shadow: ShadowSettings::default(),
            feedback: FeedbackSettings::default(),
        };
        let engine = Engine::start(Registry::new(models), options, metrics.clone());
        Rig { engine, encoder, metrics, pipeline: Arc::new(Sums { model: plain }) }
    }

    async fn run(&self, inputs: Vec<Vec<u32>>) -> Result<Answer<u32>, EngineError> {
        self.run_with(inputs, SumOptions::default(), RequestContext::new()).await
    }

    async fn run_with(
        &self,
        inputs: Vec<Vec<u32>>,
        options: SumOptions,
        request: RequestContext,
    ) -> Result<Answer<u32>, EngineError> {
        let model = self.engine.registry().get("sums").unwrap().clone();
        self.engine.run(&model, Task::Classify, self.pipeline.clone(), inputs, options, request).await
    }

    /// Starts a request in the background.
    fn spawn(&self, inputs: Vec<Vec<u32>>) -> tokio::task::JoinHandle<Result<Answer<u32>, EngineError>> {
        let rig = self.clone();
        tokio::spawn(async move { rig.run(inputs).await })
    }

    /// The sum of all series of a metric whose line starts with `series`.
    fn metric(&self, series: &str) -> f64 {
        metric(&self.metrics, series)
    }

    async fn until_queued(&self, tokens: usize) {
        until(|| self.metric("octet_queue_tokens{model=\"sums\"") == tokens as f64).await;
    }

    async fn until_batches_begun(&self, count: usize) {
        until(|| self.encoder.batches().len() >= count).await;
    }
}

fn metric(metrics: &Metrics, series: &str) -> f64 {
    let text = metrics.encode(TextFormat::Prometheus);
    let lines: Vec<_> = text.lines().filter(|l| l.starts_with(series)).collect();
    assert!(!lines.is_empty(), "no series starts with {series}");
    lines.iter().map(|l| l.rsplit_once(' ').unwrap().1.parse::<f64>().unwrap()).sum()
}

async fn until(condition: impl Fn() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < PATIENCE, "waited in vain");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// Rows are `factor` times (sum of ids, length).
fn sequence_model(encoder: &Arc<FakeEncoder>, factor: f32) -> SequenceModel {
    let scale = Dense::new(Kernels::detect(), &[factor, 0.0, 0.0, factor], &[0.0; 2], None);
    let head = Head { pooling: Pooling::Cls, layers: vec![scale] };
    SequenceModel { encoder: encoder.clone(), head: Arc::new(head) }
}

fn classifier(id: &str, model: &SequenceModel) -> Arc<Model> {
    classifier_of(id, model, ProblemType::SingleLabel)
}

fn classifier_of(id: &str, model: &SequenceModel, problem_type: ProblemType) -> Arc<Model> {
    let tokenizer = Arc::new(tokenizer());
    let labels = vec!["negative".to_string(), "positive".to_string()];
    let pipeline = Classifier {
        model: model.clone(),
        tokenizer: tokenizer.clone(),
        labels: labels.clone(),
        problem_type,
        value: None,
        temperature: 1.0,
        thresholds: Vec::new(),
        fallback: None,
        max_tokens: 512,
    };
    let info = ModelInfo {
        id: id.into(),
        version: "0123456789ab".into(),
        architecture: "bert".into(),
        precision: "int8".into(),
        scheme: "w8a8-dynamic".into(),
        labels,
        max_tokens: 512,
        sizes: Vec::new(),
        file_bytes: 100,
        compression_ratio: 4.0,
        load_seconds: 0.5,
        scores: Vec::new(),
        reference: None,
    };
    let classifier = Some(Arc::new(pipeline));
    Arc::new(Model { info, tokenizer, classifier, embedder: None, summarizer: None })
}

/// Words "w0" to "w99", with ids 0 to 99.
fn tokenizer() -> Tokenizer {
    let vocab: Vec<String> = (0..100).map(|i| format!("\"w{i}\": {i}")).collect();
    let json = format!(
        r#"{{"version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
            "pre_tokenizer": {{"type": "Whitespace"}}, "post_processor": null, "decoder": null,
            "model": {{"type": "WordLevel", "vocab": {{{}}}, "unk_token": "w0"}}}}"#,
        vocab.join(", ")
    );
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tokenizer.json");
    std::fs::write(&path, json).unwrap();
    Tokenizer::from_file(&path).unwrap()
}

fn expect_overloaded<T>(answer: Result<T, EngineError>) {
    match answer {
        Err(EngineError::Overloaded { retry_after }) => assert!(retry_after >= Duration::from_secs(1)),
        Err(other) => panic!("expected Overloaded, found {other:?}"),
        Ok(_) => panic!("expected Overloaded, found an answer"),
    }
}

fn expect_error<T>(answer: Result<T, EngineError>) -> EngineError {
    answer.err().expect("an error was expected")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn full_queue_is_rejected_not_blocked() {
    let batching = BatchingSettings { max_batch_tokens: 5, max_queue_tokens: 10, ..BatchingSettings::default() };
    let rig = Rig::new(RigOptions { open: false, batching, ..RigOptions::default() });
    let computing = rig.spawn(vec![vec![1; 5]]);
    rig.until_batches_begun(1).await;
    let waiting = [rig.spawn(vec![vec![2; 5]]), rig.spawn(vec![vec![3; 5]])];
    rig.until_queued(10).await;

    let refused = tokio::time::timeout(PATIENCE, rig.run(vec![vec![4]])).await;
    expect_overloaded(refused.expect("the request waited for room"));

    rig.encoder.set_open(true);
    assert_eq!(computing.await.unwrap().unwrap().outputs, [5]);
    for (request, expected) in waiting.into_iter().zip([10, 15]) {
        assert_eq!(request.await.unwrap().unwrap().outputs, [expected]);
    }
    assert!(!rig.encoder.has_seen(4), "a refused request was computed");
    assert_eq!(rig.metric("octet_queue_tokens"), 0.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_is_admitted_whole_or_not_at_all() {
    let batching = BatchingSettings { max_queue_tokens: 20, ..BatchingSettings::default() };
    let rig = Rig::new(RigOptions { open: false, batching, ..RigOptions::default() });
    let computing = rig.spawn(vec![vec![1]]);
    rig.until_batches_begun(1).await;
    let waiting = [rig.spawn(vec![vec![2; 10]]), rig.spawn(vec![vec![2; 4]])];
    rig.until_queued(14).await;

    // Two of the three sequences would fit.
    expect_overloaded(rig.run(vec![vec![3; 3], vec![4; 3], vec![5; 3]]).await);
    assert_eq!(rig.metric("octet_queue_tokens"), 14.0);
    assert_eq!(rig.metric("octet_queue_inputs"), 2.0);

    rig.encoder.set_open(true);
    computing.await.unwrap().unwrap();
    for request in waiting {
        request.await.unwrap().unwrap();
    }
    assert!([3, 4, 5].into_iter().all(|id| !rig.encoder.has_seen(id)), "a part of a refused request was computed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_larger_than_the_queue_is_served_and_leaves_room_for_others() {
    let batching = BatchingSettings { max_queue_tokens: 64, max_batch_tokens: 64, ..BatchingSettings::default() };
    let rig = Rig::new(RigOptions { open: false, batching, ..RigOptions::default() });
    let computing = rig.spawn(vec![vec![1]]);
    rig.until_batches_begun(1).await;
    let huge = rig.spawn(vec![vec![2; 8]; 100]);
    rig.until_queued(800).await;
    let small = rig.spawn(vec![vec![3; 8]]);
    rig.until_queued(808).await;
    rig.encoder.set_open(true);
    assert_eq!(small.await.unwrap().unwrap().outputs, [24]);
    assert_eq!(huge.await.unwrap().unwrap().outputs, [16; 100]);
    computing.await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deadline_in_the_queue_is_answered_in_time_and_costs_no_compute() {
    let rig = Rig::new(RigOptions { open: false, ..RigOptions::default() });
    let computing = rig.spawn(vec![vec![1]]);
    rig.until_batches_begun(1).await;

    let record = RequestRecord::new(Instant::now());
    let deadline = Some(Instant::now() + Duration::from_millis(30));
    let request = RequestContext { record: record.clone(), deadline, id: None };
    let error = expect_error(rig.run_with(vec![vec![2]], SumOptions::default(), request).await);
    assert_eq!(error, EngineError::Deadline);
    assert_eq!(record.rejection(), Some(Rejection::Deadline));
    assert_eq!(rig.metric("octet_queue_tokens"), 0.0, "the expired request still stands in line");

    rig.encoder.set_open(true);
    computing.await.unwrap().unwrap();
    assert_eq!(rig.run(vec![vec![3]]).await.unwrap().outputs, [3]);
    assert!(!rig.encoder.has_seen(2), "an expired request was computed");

    rig.encoder.set_open(false);
    let deadline = Some(Instant::now() + Duration::from_millis(30));
    let request = RequestContext { deadline, ..RequestContext::new() };
    let error = expect_error(rig.run_with(vec![vec![5]], SumOptions::default(), request).await);
    assert_eq!(error, EngineError::Deadline, "a deadline that passes while the request is computed");
    rig.encoder.set_open(true);

    let late = RequestContext { deadline: Some(Instant::now()), ..RequestContext::new() };
    let error = expect_error(rig.run_with(vec![vec![4]], SumOptions::default(), late).await);
    assert_eq!(error, EngineError::Deadline, "a deadline that has passed before the start");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn canceled_work_leaves_the_queue_and_is_not_computed() {
    let rig = Rig::new(RigOptions { open: false, ..RigOptions::default() });
    let computing = rig.spawn(vec![vec![1]]);
    rig.until_batches_begun(1).await;
    let canceled = rig.spawn(vec![vec![2; 8]; 20]);
    rig.until_queued(160).await;
    canceled.abort();
    rig.until_queued(0).await;
    let kept = rig.spawn(vec![vec![3]]);
    rig.encoder.set_open(true);
    assert_eq!(kept.await.unwrap().unwrap().outputs, [3]);
    computing.await.unwrap().unwrap();
    assert!(!rig.encoder.has_seen(2), "a canceled request was computed");
    until(|| rig.metric("octet_requests_in_flight") == 0.0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_panic_costs_the_guilty_request_only() {
    let rig = Rig::new(RigOptions { open: false, ..RigOptions::default() });
    let computing = rig.spawn(vec![vec![1]]);
    rig.until_batches_begun(1).await;
    let before = rig.spawn(vec![vec![2], vec![3]]);
    rig.until_queued(2).await;
    let guilty = rig.spawn(vec![vec![4], vec![POISON]]);
    rig.until_queued(4).await;
    let after = rig.spawn(vec![vec![5, 6]]);
    rig.until_queued(6).await;
    rig.encoder.set_open(true);

    computing.await.unwrap().unwrap();
    let before = before.await.unwrap().unwrap();
    assert_eq!(before.outputs, [2, 3]);
    assert_eq!(before.batch_inputs, 5, "the five sequences were meant to share a batch");
    assert_eq!(after.await.unwrap().unwrap().outputs, [11]);
    match expect_error(guilty.await.unwrap()) {
        EngineError::Backend { reason } => assert!(!reason.contains("poison"), "{reason}"),
        other => panic!("expected Backend, found {other:?}"),
    }
    // Once in the shared batch, once alone.
    assert_eq!(rig.metric("octet_panics_total{model=\"sums\"}"), 2.0);
    assert_eq!(rig.metric("octet_worker_restarts_total"), 2.0);
    assert_eq!(rig.run(vec![vec![7]]).await.unwrap().outputs, [7], "the compute thread is gone");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_panic_in_a_long_request_ends_it_at_once() {
    let rig = Rig::new(RigOptions::default());
    let mut inputs = vec![vec![2; 8]; 1000];
    inputs[0] = vec![POISON];
    let error = expect_error(rig.run(inputs).await);
    assert!(matches!(error, EngineError::Backend { .. }), "{error:?}");
    until(|| rig.metric("octet_queue_tokens") == 0.0).await;
    assert_eq!(rig.run(vec![vec![7]]).await.unwrap().outputs, [7]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn panics_outside_the_encoder_are_answered_too() {
    let rig = Rig::new(RigOptions::default());
    let prepare = SumOptions { panic_in_prepare: true, ..SumOptions::default() };
    let finish = SumOptions { panic_in_finish: true, ..SumOptions::default() };
    // One row is finished on the async thread, many on a blocking one.
    for (options, count) in [(prepare, 1), (finish, 1), (finish, 500)] {
        let error = expect_error(rig.run_with(vec![vec![1]; count], options, RequestContext::new()).await);
        assert!(matches!(error, EngineError::Backend { .. }), "{error:?}");
    }
    assert_eq!(rig.metric("octet_panics_total{model=\"sums\"}"), 3.0);
    assert_eq!(rig.run(vec![vec![7]]).await.unwrap().outputs, [7]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_draining_engine_is_not_ready_and_answers_all_the_same() {
    let rig = Rig::new(RigOptions { open: false, ..RigOptions::default() });
    let requests: Vec<_> = (1..=50).map(|i| rig.spawn(vec![vec![i; 3], vec![i; 5]])).collect();
    until(|| rig.metric("octet_requests_in_flight") == 50.0).await;
    assert!(rig.engine.is_ready());
    assert_eq!(rig.metric("octet_model_ready"), 2.0);
    rig.engine.begin_drain();
    assert!(!rig.engine.is_ready());
    assert_eq!(rig.metric("octet_model_ready"), 0.0);
    let late = rig.spawn(vec![vec![7]]);
    until(|| rig.metric("octet_requests_in_flight") == 51.0).await;
    rig.encoder.set_open(true);
    for (i, request) in (1..=50).zip(requests) {
        assert_eq!(request.await.unwrap().unwrap().outputs, [3 * i, 5 * i]);
    }
    assert_eq!(late.await.unwrap().unwrap().outputs, [7]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_closed_engine_refuses_everyone_inside_and_outside() {
    let rig = Rig::new(RigOptions { open: false, ..RigOptions::default() });
    let computing = rig.spawn(vec![vec![1]]);
    rig.until_batches_begun(1).await;
    let waiting = rig.spawn(vec![vec![2]]);
    rig.until_queued(1).await;
    rig.engine.close();
    rig.engine.begin_drain();
    assert_eq!(expect_error(computing.await.unwrap()), EngineError::Draining);
    assert_eq!(expect_error(waiting.await.unwrap()), EngineError::Draining);
    assert_eq!(expect_error(rig.run(vec![vec![3]]).await), EngineError::Draining, "a closed engine stays closed");
    assert_eq!(rig.metric("octet_model_ready"), 0.0);
    rig.encoder.set_open(true);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_is_counted_before_its_answers_go_out() {
    let rig = Rig::new(RigOptions::default());
    for count in 1..=500 {
        rig.run(vec![vec![1]]).await.unwrap();
        assert_eq!(rig.metric("octet_batches_total"), f64::from(count));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_panic_is_counted_for_the_model_of_a_request_that_ran_alone() {
    let rig = Rig::new(RigOptions::default());
    let model = rig.engine.registry().get("twice").unwrap().clone();
    let (inputs, options) = (vec![vec![POISON]], SumOptions::default());
    let request = RequestContext::new();
    let answer = rig.engine.run(&model, Task::Classify, rig.pipeline.clone(), inputs, options, request).await;
    assert!(matches!(expect_error(answer), EngineError::Backend { .. }));
    assert_eq!(rig.metric("octet_panics_total{model=\"twice\"}"), 1.0);
    assert_eq!(rig.metric("octet_panics_total{model=\"sums\"}"), 0.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_huge_request_does_not_starve_small_ones() {
    let rig = Rig::new(RigOptions { open: false, ..RigOptions::default() });
    let huge: Vec<_> = (0..3).map(|_| rig.spawn(vec![vec![1; 8]; 1000])).collect();
    // The thread holds one batch of 64 tokens; all others wait.
    rig.until_queued(3 * 8 * 1000 - 64).await;
    let small = rig.spawn(vec![vec![9; 8]]);
    rig.until_queued(3 * 8 * 1000 - 64 + 8).await;
    rig.encoder.set_open(true);
    assert_eq!(small.await.unwrap().unwrap().outputs, [72]);
    for request in huge {
        assert_eq!(request.await.unwrap().unwrap().outputs, [8; 1000]);
    }
    let batches = rig.encoder.batches();
    let at = batches.iter().position(|b| b.iter().any(|s| s[0] == 9)).unwrap();
    assert!(at <= 2, "the small request waited for {at} of {} batches", batches.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn idle_threads_share_one_request() {
    let rig = Rig::new(RigOptions {
        threads: 2,
        open: false,
        batching: BatchingSettings { max_batch_tokens: 4096, ..BatchingSettings::default() },
    });
    let request = rig.spawn(vec![vec![1; 32]; 64]);
    rig.until_batches_begun(2).await;
    rig.encoder.set_open(true);
    assert_eq!(request.await.unwrap().unwrap().outputs, [32; 64]);
    assert_eq!(rig.encoder.batches().iter().map(Vec::len).collect::<Vec<_>>(), [32, 32]);
}

/// Until all threads of a new rig sleep, an invitation would find nobody; a few requests let them.
async fn until_shared(rig: &Rig, length: usize) {
    let begun = Instant::now();
    while rig.encoder.members.lock().unwrap().is_empty() {
        assert!(begun.elapsed() < PATIENCE, "no thread was ever invited");
        assert_eq!(rig.run(vec![vec![1; length]]).await.unwrap().outputs, [length as u32]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn threads_that_sleep_help_with_a_sequence_alone_when_it_is_long_enough_for_them() {
    let rig = Rig::new(RigOptions { threads: 4, ..RigOptions::default() });
    until_shared(&rig, 12).await;
    let seen = rig.encoder.members.lock().unwrap().clone();
    let sizes: Vec<usize> = seen.iter().map(|(_, size)| *size).collect();
    // 12 tokens are enough for three of the four threads.
    assert!(sizes.iter().all(|size| (2..=3).contains(size)), "{seen:?}");
    assert_eq!(seen.iter().filter(|(member, _)| *member == 0).count(), 1, "{seen:?}");
    assert_eq!(seen.len(), sizes[0], "{seen:?}");

    let before = rig.encoder.members.lock().unwrap().len();
    rig.run(vec![vec![1; 7]]).await.unwrap();
    rig.run(vec![vec![1; 12]; 2]).await.unwrap();
    assert_eq!(rig.encoder.members.lock().unwrap().len(), before, "a short sequence or two of them were split");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_panic_in_a_team_fails_its_request_and_no_other() {
    let rig = Rig::new(RigOptions { threads: 2, ..RigOptions::default() });
    until_shared(&rig, 16).await;
    for _ in 0..10 {
        let mut guilty = vec![1; 16];
        guilty[3] = POISON;
        let error = expect_error(rig.run(vec![guilty]).await);
        assert!(matches!(error, EngineError::Backend { .. }), "{error:?}");
        assert_eq!(rig.run(vec![vec![1; 16]]).await.unwrap().outputs, [16]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_caller_gets_its_own_rows_under_a_thousand_requests() {
    let rig = Rig::new(RigOptions { threads: 2, ..RigOptions::default() });
    let requests: Vec<_> = (0..1000u32)
        .map(|i| {
            let inputs: Vec<Vec<u32>> = (0..i % 7 + 1).map(|k| vec![i % 601, k, 1]).collect();
            let expected: Vec<u32> = inputs.iter().map(|ids| ids.iter().sum()).collect();
            (i, rig.spawn(inputs), expected)
        })
        .collect();
    let answered = AtomicUsize::new(0);
    for (i, request, expected) in requests {
        if i % 10 == 3 {
            request.abort();
            continue;
        }
        let answer = request.await.unwrap().unwrap();
        assert_eq!(answer.outputs, expected, "request {i}");
        assert_eq!(answer.tokens, 3 * expected.len());
        answered.fetch_add(1, Ordering::Relaxed);
    }
    assert_eq!(answered.into_inner(), 900);
    until(|| rig.metric("octet_requests_in_flight") == 0.0).await;
    assert_eq!(rig.metric("octet_queue_tokens"), 0.0);
    assert_eq!(rig.metric("octet_queue_inputs"), 0.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn models_on_one_encoder_share_batches_and_keep_their_own_heads() {
    let rig = Rig::new(RigOptions { open: false, ..RigOptions::default() });
    let computing = rig.spawn(vec![vec![1]]);
    rig.until_batches_begun(1).await;
    let once = rig.spawn(vec![vec![2, 2]]);
    rig.until_queued(2).await;
    let twice = tokio::spawn({
        let rig = rig.clone();
        async move {
            let model = rig.engine.registry().get("twice").unwrap().clone();
            let pipeline = Arc::new(Sums { model: model.classifier.as_ref().unwrap().model.clone() });
            let request = RequestContext::new();
            rig.engine.run(&model, Task::Classify, pipeline, vec![vec![2, 2]], SumOptions::default(), request).await
        }
    });
    until(|| rig.metric("octet_queue_tokens{model=\"twice\"") == 2.0).await;
    rig.encoder.set_open(true);
    computing.await.unwrap().unwrap();
    let (once, twice) = (once.await.unwrap().unwrap(), twice.await.unwrap().unwrap());
    assert_eq!((once.outputs, twice.outputs), (vec![4], vec![8]));
    assert_eq!((once.batch_inputs, twice.batch_inputs), (2, 2));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn classification_counts_labels_and_finds_models_by_name_or_task() {
    let rig = Rig::new(RigOptions::default());
    let input = |text: &str| ClassifyInput { text: text.into(), text_pair: None };
    let classify = |model: Option<&'static str>, text: &str| {
        rig.engine.classify(model, vec![input(text)], ClassifyOptions::default(), RequestContext::new())
    };
    // The first logit is the sum of the ids, the second their number.
    assert_eq!(classify(None, "w9 w9").await.unwrap().outputs[0].best().label, "negative");
    assert_eq!(classify(Some("twice"), "w0 w1").await.unwrap().outputs[0].best().label, "positive");
    assert_eq!(rig.metric("octet_predictions_total{model=\"sums\",label=\"negative\"}"), 1.0);
    assert_eq!(rig.metric("octet_predictions_total{model=\"twice\",label=\"positive\"}"), 1.0);
    assert_eq!(rig.metric("octet_prediction_confidence_count"), 2.0);
    assert_eq!(rig.metric("octet_inputs_total"), 2.0);
    assert_eq!(rig.metric("octet_tokens_total"), 4.0);

    let error = expect_error(classify(Some("none"), "w1").await);
    let known = vec!["sums".to_string(), "twice".to_string()];
    assert_eq!(error, EngineError::ModelNotFound { id: "none".into(), known });
    let embed = rig.engine.embed(None, vec!["w1".into()], Default::default(), RequestContext::new());
    assert!(matches!(expect_error(embed.await), EngineError::UnsupportedTask { model: None, .. }));
    assert_eq!(expect_error(classify(None, " ").await), EngineError::Input(PipelineError::Empty { index: 0 }));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_probabilities_count_as_confidence() {
    let model = sequence_model(&FakeEncoder::new(true), 1.0);
    let models = vec![classifier("labels", &model), classifier_of("ratings", &model, ProblemType::Regression)];
    let metrics = Arc::new(Metrics::new(&ROUTES));
    let options = EngineOptions {
        threads: 1,
        isa: "scalar",
        batching: BatchingSettings::default(),
        shadow: ShadowSettings::default(),
        feedback: FeedbackSettings::default(),
    };
    let engine = Engine::start(Registry::new(models), options, metrics.clone());
    // The outputs are 0 and 1, which as probabilities would be possible.
    let input = || vec![ClassifyInput { text: "w0".into(), text_pair: None }];
    let (none, sigmoid) = (Some(OutputActivation::None), Some(OutputActivation::Sigmoid));
    for (model, activation, counted) in [
        ("labels", None, 1.0),
        ("labels", none, 1.0),
        ("ratings", None, 0.0),
        ("ratings", none, 0.0),
        ("ratings", sigmoid, 1.0),
    ] {
        let options = ClassifyOptions { activation, ..ClassifyOptions::default() };
        engine.classify(Some(model), input(), options, RequestContext::new()).await.unwrap();
        let count = metric(&metrics, &format!("octet_prediction_confidence_count{{model=\"{model}\"}}"));
        assert_eq!(count, counted, "{model} with {activation:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_value_that_is_not_finite_is_an_error_and_counted() {
    let rig = Rig::new(RigOptions::default());
    let inputs = ["w1", "w99"].map(|text| ClassifyInput { text: text.into(), text_pair: None });
    let answer = rig.engine.classify(None, inputs.to_vec(), ClassifyOptions::default(), RequestContext::new()).await;
    assert_eq!(expect_error(answer), EngineError::Input(PipelineError::NotFinite { index: 1 }));
    assert_eq!(rig.metric("octet_nonfinite_outputs_total{model=\"sums\"}"), 1.0);
    assert_eq!(rig.metric("octet_predictions_total"), 0.0);
}

#[test]
fn every_series_of_a_model_exists_at_zero_from_load() {
    let rig = Rig::new(RigOptions::default());
    let text = rig.metrics.encode(TextFormat::Prometheus);
    for series in [
        "octet_requests_total{model=\"sums\",version=\"0123456789ab\",task=\"classify\",route=\"/v1/classify\",code=\"200\"} 0",
        "octet_requests_total{model=\"_unknown\",version=\"\",task=\"\",route=\"/livez\",code=\"200\"} 0",
        "octet_request_duration_seconds_count{model=\"sums\",task=\"classify\",route=\"/v1/classify\"} 0",
        "octet_request_stage_duration_seconds_count{model=\"sums\",task=\"classify\",stage=\"queue\"} 0",
        "octet_requests_in_flight{model=\"sums\"} 0.0",
        "octet_inputs_total{model=\"sums\",task=\"classify\"} 0",
        "octet_rejected_total{model=\"sums\",reason=\"queue_full\"} 0",
        "octet_batches_total{model=\"sums\",trigger=\"wait\"} 0",
        "octet_queue_tokens{model=\"sums\"} 0.0",
        "octet_predictions_total{model=\"sums\",label=\"positive\"} 0",
        "octet_predictions_total{model=\"sums\",label=\"_other\"} 0",
        "octet_prediction_confidence_count{model=\"sums\"} 0",
        "octet_panics_total{model=\"sums\"} 0",
        "octet_nonfinite_outputs_total{model=\"sums\"} 0",
        "octet_worker_restarts_total{} 0",
        "octet_connections{} 0.0",
        "octet_model_ready{model=\"sums\",version=\"0123456789ab\"} 1.0",
        "octet_model_file_bytes{model=\"sums\",version=\"0123456789ab\"} 100.0",
    ] {
        assert!(text.lines().any(|l| l == series), "{series}\nis missing in\n{text}");
    }
    // No series may appear later: counting a request changes values only.
    let series = |text: &str| text.lines().map(|l| l.rsplit_once(' ').unwrap().0.to_string()).collect::<Vec<_>>();
    let record = RequestRecord::new(Instant::now());
    record.set_target("sums", "classify");
    rig.metrics.request("/v1/classify", record).finish(200);
    let mut after = series(&rig.metrics.encode(TextFormat::Prometheus));
    let mut before = series(&text);
    before.sort();
    after.sort();
    assert_eq!(before, after);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_stages_of_requests_add_up_to_their_durations() {
    let rig = Rig::new(RigOptions { threads: 2, ..RigOptions::default() });
    for i in 0..40u32 {
        let guard = rig.metrics.request("/v1/classify", RequestRecord::new(Instant::now()));
        let deadline = (i % 8 == 5).then(Instant::now);
        let request = RequestContext { record: guard.record().clone(), deadline, id: None };
        let options = SumOptions { panic_in_finish: i % 8 == 6, ..SumOptions::default() };
        let poison = if i % 8 == 7 { POISON } else { 1 };
        let answer = rig.run_with(vec![vec![i, poison]; 100], options, request).await;
        match i % 8 {
            // The client goes away.
            4 => drop(guard),
            _ => drop(guard.finish(if answer.is_ok() { 200 } else { 500 })),
        }
        if let Ok(answer) = answer {
            let parts: Duration = Stage::ALL.into_iter().map(|stage| answer.timing.stage(stage)).sum();
            assert_eq!(parts, answer.timing.total());
        }
    }
    let whole = rig.metric("octet_request_duration_seconds_sum{model=\"sums\"");
    let parts = rig.metric("octet_request_stage_duration_seconds_sum{model=\"sums\"");
    assert!(whole > 0.0 && (whole - parts).abs() < 1e-6, "stages take {parts} s, requests {whole} s");
    assert_eq!(rig.metric("octet_request_duration_seconds_count{model=\"sums\""), 40.0);
    assert_eq!(rig.metric("octet_rejected_total{model=\"sums\",reason=\"canceled\"}"), 5.0);
    assert_eq!(rig.metric("octet_rejected_total{model=\"sums\",reason=\"deadline\"}"), 5.0);
}

#[test]
fn labels_come_from_closed_sets() {
    let rig = Rig::new(RigOptions::default());
    for i in 0..100 {
        let record = RequestRecord::new(Instant::now());
        record.set_target(&format!("model-{i}"), "classify");
        rig.metrics.request("/v1/classify", record).finish(404);
        let label = &format!("label-{i}");
        rig.metrics.prediction("sums", Prediction { label, confidence: None, own_activation: true, tokens: 3 });
    }
    let text = rig.metrics.encode(TextFormat::Prometheus);
    assert!(!text.contains("model-1") && !text.contains("label-1"), "{text}");
    let unknown =
        "octet_requests_total{model=\"_unknown\",version=\"\",task=\"classify\",route=\"/v1/classify\",code=\"404\"}";
    assert_eq!(rig.metric(unknown), 100.0);
    assert_eq!(rig.metric("octet_predictions_total{model=\"sums\",label=\"_other\"}"), 100.0);
}

#[test]
fn both_text_formats_describe_every_metric() {
    let rig = Rig::new(RigOptions::default());
    let open_metrics = rig.metrics.encode(TextFormat::OpenMetrics);
    assert!(open_metrics.ends_with("# EOF\n"));
    let text = rig.metrics.encode(TextFormat::Prometheus);
    assert!(!text.contains("# EOF"));
    for definition in octet::telemetry::definitions() {
        let line = format!("# TYPE {} {}\n", definition.name, definition.kind);
        // Scores and sizes have no series in this rig, so they are not shown.
        if text.contains(&format!("\n{}{{", definition.name)) || definition.name.starts_with("process_") {
            assert!(text.contains(&line), "{line} is missing in\n{text}");
        }
    }
    assert!(metric(&rig.metrics, "process_resident_memory_bytes") > 1e6);
    assert!(metric(&rig.metrics, "process_start_time_seconds") > 1.7e9);
    assert!(metric(&rig.metrics, "process_open_fds") >= 3.0);
    // For a look by hand: OCTET_METRICS_OUT=/tmp/metrics.txt, then promtool check metrics < /tmp/metrics.txt
    if let Ok(path) = std::env::var("OCTET_METRICS_OUT") {
        std::fs::write(path, text).unwrap();
    }
}

#[test]
fn the_page_of_metrics_is_current() {
    super::settings::check_generated("docs/metrics.md", &octet::telemetry::reference_page());
}
