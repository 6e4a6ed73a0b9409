//! The handle that callers hold.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{Semaphore, watch};
use tokio::task::{JoinError, spawn_blocking};

use crate::config::{BatchingSettings, FeedbackSettings, ShadowSettings};
use crate::pipelines::{
    Classification, ClassifyInput, ClassifyOptions, EmbedOptions, Embedding, Model, OutputActivation, Pipeline,
    PipelineError, Prepared, Row, Summary, SummaryOptions, Task,
};
use crate::telemetry::{InFlightGuard, Metrics, ModelFacts, Prediction, Stage};

use super::batcher::Limits;
use super::feedback::{Answers, Feedback, FeedbackError};
use super::job::{Computed, Job, JobSpec};
use super::queue::Queue;
use super::registry::{chooses_one_label, facts};
use super::shadow::{Shadow, kind};
use super::share::Teams;
use super::worker::Worker;
use super::{Answer, EngineError, Registry, RequestContext};

/// Requests that are tokenized at a time, for each compute thread. More than one, so that a long text does not hold
/// up short ones; few, so that the memory for half-tokenized texts is bounded.
const TOKENIZING_PER_THREAD: usize = 4;

/// Bytes of text in a request that is tokenized on the async thread: a fraction of a millisecond, about as long as going
/// to a blocking thread and back takes. Longer ones go there.
const INLINE_TEXT_BYTES: usize = 2048;

/// Rows that `finish` turns into outputs on the async thread; more go to a blocking thread.
const INLINE_ROWS: usize = 8;

/// How an engine runs.
#[derive(Clone, Debug)]
pub struct EngineOptions {
    /// Compute threads, at least 1.
    pub threads: usize,
    /// Name of the kernels' instruction set, for metrics.
    pub isa: &'static str,
    /// How requests share a run.
    pub batching: BatchingSettings,
    /// How answers are compared with those of float originals, where the registry has some.
    pub shadow: ShadowSettings,
    /// How answers are remembered for labels.
    pub feedback: FeedbackSettings,
}

/// Runs requests on the loaded models. Cheap to clone; the compute threads stop with the last clone.
#[derive(Clone)]
pub struct Engine {
    shared: Arc<Shared>,
}

struct Shared {
    registry: Registry,
    metrics: Arc<Metrics>,
    queue: Arc<Queue>,
    tokenizing: Arc<Semaphore>,
    /// None when no model has a float original.
    shadow: Option<Shadow>,
    answers: Answers,
    phase: watch::Sender<Phase>,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Phase {
    /// Everything is welcome.
    Open,
    /// Everything is answered, but should go elsewhere.
    Draining,
    /// Nothing is computed any more.
    Closed,
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.queue.close();
        self.shadow.iter().for_each(Shadow::close);
    }
}

/// Takes a request out of the engine when its caller goes away.
struct Ticket<'a> {
    queue: &'a Queue,
    job: Arc<Job>,
}

impl Drop for Ticket<'_> {
    fn drop(&mut self) {
        if self.job.abandon() {
            self.queue.remove(&self.job);
        }
    }
}

impl Engine {
    /// Starts the compute threads and makes the metrics of every model.
    ///
    /// # Panics
    /// When the operating system refuses a thread.
    pub fn start(registry: Registry, options: EngineOptions, metrics: Arc<Metrics>) -> Engine {
        let EngineOptions { threads, isa, batching, shadow, feedback } = options;
        let threads = threads.max(1);
        let max_batch_tokens = batching.max_batch_tokens;
        let limits = Limits { max_batch_tokens, max_wait: Duration::from_micros(batching.max_wait_us) };
        let queue = Queue::new(limits, batching.max_queue_tokens, threads, metrics.clone());
        // Without a rate or a budget nothing would ever be compared.
        let is_compared = shadow.rate.value() > 0.0 && shadow.budget.value() > 0.0;
        let pairs = if is_compared { registry.pairs() } else { Vec::new() };
        for model in registry.models() {
            let is_shadowed = pairs.iter().any(|pair| Arc::ptr_eq(&pair.served, model));
            let takes_labels = chooses_one_label(model) && feedback.max_answers > 0;
            metrics.add_model(&ModelFacts {
                shadow: is_shadowed.then(|| kind(model)),
                max_loss: shadow.max_loss.value(),
                feedback: takes_labels,
                confusion: takes_labels && model.info.labels.len() <= feedback.confusion_labels,
                ..facts(model, isa)
            });
            metrics.set_model_ready(&model.info.id, true);
        }
        let teams = Arc::new(Teams::default());
        for index in 0..threads {
            let (registry, queue, metrics) = (registry.clone(), queue.clone(), metrics.clone());
            let worker = Worker { registry, queue, metrics, teams: teams.clone(), max_batch_tokens };
            let thread = std::thread::Builder::new().name(format!("octet-compute-{index}"));
            thread.spawn(move || worker.run()).expect("the operating system gives the process its compute threads");
        }
        let start = |pairs| Shadow::start(pairs, &shadow, queue.clone(), metrics.clone());
        let shadow = Some(pairs).filter(|pairs| !pairs.is_empty()).map(start);
        let shared = Shared {
            shadow,
            answers: Answers::new(feedback.max_answers, metrics.clone()),
            registry,
            metrics,
            queue,
            tokenizing: Arc::new(Semaphore::new(threads * TOKENIZING_PER_THREAD)),
            phase: watch::Sender::new(Phase::Open),
        };
        Engine { shared: Arc::new(shared) }
    }

    /// The loaded models.
    pub fn registry(&self) -> &Registry {
        &self.shared.registry
    }

    /// Whether requests are welcome.
    pub fn is_ready(&self) -> bool {
        *self.shared.phase.borrow() == Phase::Open
    }

    /// Labels texts with `model`, or with the default model of the task.
    ///
    /// # Errors
    /// Any [`EngineError`].
    pub async fn classify(
        &self,
        model: Option<&str>,
        inputs: Vec<ClassifyInput>,
        options: ClassifyOptions,
        request: RequestContext,
    ) -> Result<Answer<Classification>, EngineError> {
        let (model, pipeline) = self.find(model, Task::Classify, &request, |m| m.classifier.clone())?;
        let activation = options.activation.unwrap_or_else(|| pipeline.default_activation());
        let is_probability = activation != OutputActivation::None;
        let own_activation = activation == pipeline.default_activation();
        let id = request.id.clone();
        let answer = self.run(&model, Task::Classify, pipeline, inputs, options, request).await?;
        for output in &answer.outputs {
            let best = output.best();
            let confidence = is_probability.then_some(best.score);
            let prediction = Prediction { label: &best.label, confidence, own_activation, tokens: output.tokens };
            self.shared.metrics.prediction(&model.info.id, prediction);
        }
        if let Some(id) = id.filter(|_| chooses_one_label(&model)) {
            self.shared.answers.remember(&id, &model, &answer.outputs, own_activation);
        }
        Ok(answer)
    }

    /// Takes the label that input `index` of the classification called `id` ought to have had; metrics then tell how often
    /// the model is right. The first label of an input counts.
    ///
    /// # Errors
    /// Any [`FeedbackError`].
    pub fn feedback(&self, id: &str, index: usize, label: &str) -> Result<Feedback, FeedbackError> {
        self.shared.answers.label(id, index, label)
    }

    /// Turns texts into vectors with `model`, or with the default model of the task.
    ///
    /// # Errors
    /// Any [`EngineError`].
    pub async fn embed(
        &self,
        model: Option<&str>,
        inputs: Vec<String>,
        options: EmbedOptions,
        request: RequestContext,
    ) -> Result<Answer<Embedding>, EngineError> {
        let (model, pipeline) = self.find(model, Task::Embed, &request, |m| m.embedder.clone())?;
        let answer = self.run(&model, Task::Embed, pipeline, inputs, options, request).await?;
        answer.outputs.iter().for_each(|output| self.shared.metrics.embedded(&model.info.id, output.tokens));
        Ok(answer)
    }

    /// Picks the sentences of texts that say most, with `model`, or with the default model of the task.
    ///
    /// # Errors
    /// Any [`EngineError`].
    pub async fn summarize(
        &self,
        model: Option<&str>,
        inputs: Vec<String>,
        options: SummaryOptions,
        request: RequestContext,
    ) -> Result<Answer<Summary>, EngineError> {
        let (model, pipeline) = self.find(model, Task::Summarize, &request, |m| m.summarizer.clone())?;
        self.run(&model, Task::Summarize, pipeline, inputs, options, request).await
    }

    /// Runs one request of any pipeline of `model`.
    ///
    /// Dropping the future gives the request up: it leaves the queue at once, and what no thread has begun is never
    /// computed.
    ///
    /// # Errors
    /// Any [`EngineError`] but those of finding a model.
    pub async fn run<P: Pipeline>(
        &self,
        model: &Arc<Model>,
        task: Task,
        pipeline: Arc<P>,
        inputs: Vec<P::Input>,
        options: P::Options,
        request: RequestContext,
    ) -> Result<Answer<P::Output>, EngineError> {
        let record = request.record.clone();
        record.set_target(&model.info.id, task.name());
        let deadline = request.deadline;
        let work = async {
            let _counted = self.enter(&model.info.id)?;
            let mut phase = self.shared.phase.subscribe();
            let compute = self.compute(model, task, pipeline, inputs, options, request);
            tokio::select! {
                biased;
                answer = compute => answer,
                _ = phase.wait_for(|phase| *phase == Phase::Closed) => Err(EngineError::Draining),
                () = until(deadline) => Err(EngineError::Deadline),
            }
        };
        let answer = work.await;
        if let Err(error) = &answer {
            if let Some(reason) = error.rejection() {
                record.reject(reason);
            }
            if matches!(error, EngineError::Input(PipelineError::NotFinite { .. })) {
                self.shared.metrics.nonfinite_output(&model.info.id);
            }
        }
        answer
    }

    /// Says that requests should go elsewhere: [`Engine::is_ready`] and `octet_model_ready` turn off. Requests that come
    /// all the same are still answered, until [`Engine::close`].
    pub fn begin_drain(&self) {
        self.go_to(Phase::Draining);
    }

    /// Refuses new requests, and answers those inside with [`EngineError::Draining`].
    pub fn close(&self) {
        self.go_to(Phase::Closed);
        self.shared.queue.close();
    }

    /// Enters `phase`, one after [`Phase::Open`]; never goes back.
    fn go_to(&self, phase: Phase) {
        self.shared.phase.send_modify(|now| *now = phase.max(*now));
        // Comparisons are the first to go.
        self.shared.shadow.iter().for_each(Shadow::close);
        for model in self.shared.registry.models() {
            self.shared.metrics.set_model_ready(&model.info.id, false);
        }
    }

    /// The model and its pipeline for `task`.
    fn find<P>(
        &self,
        model: Option<&str>,
        task: Task,
        request: &RequestContext,
        pipeline: impl Fn(&Model) -> Option<Arc<P>>,
    ) -> Result<(Arc<Model>, Arc<P>), EngineError> {
        let found = self.shared.registry.resolve(model, task);
        let found = found.inspect_err(|e| e.rejection().into_iter().for_each(|r| request.record.reject(r)))?;
        let pipeline = pipeline(found).expect("a model that offers a task has its pipeline");
        Ok((found.clone(), pipeline))
    }

    /// Counts a call of `run`, unless the engine is closed.
    fn enter(&self, model: &str) -> Result<InFlightGuard, EngineError> {
        if *self.shared.phase.borrow() == Phase::Closed {
            return Err(EngineError::Draining);
        }
        Ok(self.shared.metrics.in_flight(model))
    }

    async fn compute<P: Pipeline>(
        &self,
        model: &Arc<Model>,
        task: Task,
        pipeline: Arc<P>,
        inputs: Vec<P::Input>,
        options: P::Options,
        request: RequestContext,
    ) -> Result<Answer<P::Output>, EngineError> {
        let RequestContext { record, deadline, id: _ } = request;
        if deadline.is_some_and(|deadline| deadline <= Instant::now()) {
            return Err(EngineError::Deadline);
        }
        let Prepared { sequences, state } =
            self.prepare(model, pipeline.clone(), inputs, options.clone(), deadline).await?;
        let lengths: Vec<usize> = sequences.iter().map(|s| s.len()).collect();
        let truncated = sequences.iter().filter(|s| s.truncated).count();
        let computed = if sequences.is_empty() {
            let now = Instant::now();
            Stage::ALL.into_iter().for_each(|stage| record.end_stage(stage, now));
            Computed { rows: Vec::new(), batch_inputs: 0 }
        } else {
            let sequence_model = pipeline.model();
            let encoder = self.shared.registry.encoder_index(&sequence_model.encoder).ok_or_else(|| {
                let reason = format!("the pipeline's encoder belongs to no loaded model, model {:?}", model.info.id);
                EngineError::Backend { reason }
            })?;
            let head = sequence_model.head.clone();
            let model = model.info.id.clone();
            self.rows(JobSpec { model, encoder, head, sequences, deadline, record: record.clone() }).await?
        };
        let outputs = self.finish(model, pipeline, state, computed.rows, options).await?;
        let finished = Instant::now();
        let timing = record.timing(finished).expect("every stage of a computed request has ended");
        self.shared.metrics.answered(&model.info.id, task.name(), outputs.len(), &lengths, truncated);
        Ok(Answer {
            outputs,
            model: model.clone(),
            tokens: lengths.iter().sum(),
            truncated,
            batch_inputs: computed.batch_inputs,
            timing,
        })
    }

    /// Tokenizes short texts at once, longer ones on a blocking thread, a few requests at a time; nothing when the queue
    /// is full anyway.
    async fn prepare<P: Pipeline>(
        &self,
        model: &Model,
        pipeline: Arc<P>,
        inputs: Vec<P::Input>,
        options: P::Options,
        deadline: Option<Instant>,
    ) -> Result<Prepared<P::State>, EngineError> {
        let in_time = move || deadline.is_none_or(|deadline| Instant::now() < deadline);
        self.shared.queue.check_room()?;
        let prepared = if inputs.iter().map(|input| pipeline.bytes(input)).sum::<usize>() <= INLINE_TEXT_BYTES {
            catch_unwind(AssertUnwindSafe(|| pipeline.prepare(inputs, &options, &in_time)))
                .map_err(|_| self.panicked(model, "prepare"))?
        } else {
            let permit = self.shared.tokenizing.clone().acquire_owned().await.map_err(|_| EngineError::Draining)?;
            self.shared.queue.check_room()?;
            // Dropped with this future, when the caller goes away or its deadline passes.
            let caller = Arc::new(());
            let waiting = Arc::downgrade(&caller);
            let prepared = spawn_blocking(move || {
                let _permit = permit;
                pipeline.prepare(inputs, &options, &|| waiting.strong_count() > 0 && in_time())
            });
            let prepared = prepared.await.map_err(|e| self.lost(model, "prepare", e))?;
            drop(caller);
            prepared
        };
        match prepared {
            Err(PipelineError::Unwanted) => Err(EngineError::Deadline),
            prepared => Ok(prepared?),
        }
    }

    /// Waits in line and for the compute threads.
    async fn rows(&self, spec: JobSpec) -> Result<Computed, EngineError> {
        let (job, answer) = Job::new(spec);
        let ticket = Ticket { queue: &self.shared.queue, job: job.clone() };
        self.shared.queue.submit(job.clone(), Instant::now())?;
        let computed = answer.await;
        drop(ticket);
        let lost = |_| Err(EngineError::Backend { reason: "the answer was lost".to_string() });
        let computed = computed.unwrap_or_else(lost)?;
        self.shared.shadow.iter().for_each(|shadow| shadow.offer(&job, &computed.rows));
        Ok(computed)
    }

    /// Rows → outputs; on a blocking thread when there are many.
    async fn finish<P: Pipeline>(
        &self,
        model: &Model,
        pipeline: Arc<P>,
        state: P::State,
        rows: Vec<Row>,
        options: P::Options,
    ) -> Result<Vec<P::Output>, EngineError> {
        if rows.len() > INLINE_ROWS {
            let outputs = spawn_blocking(move || pipeline.finish(state, rows, &options));
            return Ok(outputs.await.map_err(|e| self.lost(model, "finish", e))??);
        }
        match catch_unwind(AssertUnwindSafe(|| pipeline.finish(state, rows, &options))) {
            Ok(outputs) => Ok(outputs?),
            Err(_) => Err(self.panicked(model, "finish")),
        }
    }

    fn lost(&self, model: &Model, stage: &str, error: JoinError) -> EngineError {
        if error.is_panic() { self.panicked(model, stage) } else { EngineError::Draining }
    }

    fn panicked(&self, model: &Model, stage: &str) -> EngineError {
        self.shared.metrics.panic_caught(&model.info.id);
        EngineError::Backend { reason: format!("panic in {stage}, model {:?}", model.info.id) }
    }
}

/// Sleeps until `deadline`, for ever when there is none.
async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
        None => std::future::pending().await,
    }
}
