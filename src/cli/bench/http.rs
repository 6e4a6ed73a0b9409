//! The whole server over HTTP: `octet serve` as a child process, under the load of a light client in this one.
//!
//! Server, compute threads and client share the machine, so what the client costs is told beside what it measures.

mod child;
mod latency;
mod load;
mod open_loop;
mod throughput;

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, ensure};
use serde_json::{Value, json};

use crate::cli::table::{Table, megabytes};
use crate::cli::{Common, kernels, model_folder};
use crate::config::Settings;
use crate::pipelines::{Loader, Model, Precision, SequenceModel, Task};
use crate::text::Tokenizer;

use super::Bench;
use super::report::Section;
use child::Server;
use load::Request;

/// How long the client waits for an answer under load; the server is told.
const DEADLINE: Duration = Duration::from_millis(250);

/// What every part of the measurement needs.
struct Subject<'a> {
    server: Server,
    services: Vec<Service>,
    texts: &'a [String],
    /// Compute threads of the server, and of the engine that it is compared with.
    threads: usize,
    /// Time for each row.
    duration: Duration,
}

/// One task of the server, and the same model in this process.
struct Service {
    name: &'static str,
    path: &'static str,
    tokenizer: Arc<Tokenizer>,
    model: SequenceModel,
    /// Tokens that are kept of a text at most.
    max_tokens: usize,
}

/// Measures latency, throughput, the open loop, and what the server takes to start and to hold.
///
/// # Errors
/// When the server does not start, or leaves a request without an answer.
pub(super) fn run(bench: &Bench, model: &str, common: &Common) -> anyhow::Result<Vec<Section>> {
    let texts = &bench.texts()?.texts;
    ensure!(!texts.is_empty(), "the file of --texts holds no text");
    let threads = bench.threads.iter().copied().max().unwrap_or(1);
    let settings = common.settings(vec![("engine.threads".into(), threads.to_string())])?;
    let (models, flag) = served(model, &settings)?;
    let mut arguments = vec!["--set".to_string(), format!("engine.threads={threads}")];
    arguments.extend(common.config.iter().flat_map(|file| ["--config".into(), file.display().to_string()]));
    arguments.extend(common.overrides.iter().flat_map(|(k, v)| ["--set".to_string(), format!("{k}={v}")]));
    arguments.extend(flag);

    let server = Server::start(&arguments)?;
    let (idle_memory, _) = server.memory();
    let services = Task::ALL.into_iter().filter_map(|task| service(&models, task)).collect();
    let subject = Subject { server, services, texts, threads, duration: bench.duration };
    let latency = latency::run(&subject)?;
    let (throughput, capacity) = throughput::run(&subject)?;
    let open_loop = open_loop::run(&subject, capacity)?;
    let process = process(&subject, &models, idle_memory);
    Ok(vec![latency, throughput, open_loop, process])
}

/// The models that the server will serve, and the flags that make it: those of the settings when `model` is one of
/// them, else it alone.
fn served(model: &str, settings: &Settings) -> anyhow::Result<(Vec<Model>, Vec<String>)> {
    let folder = model_folder(model, settings)?.canonicalize().context("finding the model")?;
    let mut folders = Vec::new();
    for served in &settings.models {
        folders.push((served.id.clone(), model_folder(&served.path, settings)?));
    }
    let mut flags = Vec::new();
    if !folders.iter().any(|(_, served)| served.canonicalize().is_ok_and(|served| served == folder)) {
        flags = vec!["--model".to_string(), format!("bench={}", folder.display())];
        folders = vec![("bench".into(), folder)];
    }
    let mut loader = Loader::new(kernels(settings)?, Precision::Int8);
    let mut models = Vec::new();
    for (id, folder) in folders {
        models.push(loader.load(&id, &folder).with_context(|| format!("model \"{id}\""))?);
    }
    Ok((models, flags))
}

/// The default model's service for `task`; none for summaries, whose texts are long.
fn service(models: &[Model], task: Task) -> Option<Service> {
    let model = models.iter().find(|m| m.offers(task))?;
    let (path, sequence_model) = match task {
        Task::Classify => ("/v1/classify", model.classifier.as_ref()?.model.clone()),
        Task::Embed => ("/v1/embeddings", model.embedder.as_ref()?.model.clone()),
        Task::Summarize => return None,
    };
    let (tokenizer, max_tokens) = (model.tokenizer.clone(), model.info.max_tokens);
    Some(Service { name: task.name(), path, tokenizer, model: sequence_model, max_tokens })
}

impl Service {
    /// A request with these texts. Vectors come as base64, which OpenAI's own client asks for.
    fn request(&self, texts: &[String], deadline: Option<Duration>) -> Request {
        let input = if let [only] = texts { json!(only) } else { json!(texts) };
        let mut body = json!({ "input": input });
        if self.path == "/v1/embeddings" {
            body["encoding_format"] = "base64".into();
        }
        Request::post(self.path, &body, deadline)
    }

    /// Tokens of each text.
    fn lengths(&self, texts: &[String]) -> anyhow::Result<Vec<usize>> {
        let tokens = |text: &String| Ok(self.tokenizer.encode(text, None, self.max_tokens)?.len());
        texts.iter().map(tokens).collect()
    }
}

/// Start and memory of the server.
fn process(subject: &Subject, models: &[Model], idle: u64) -> Section {
    let (_, most) = subject.server.memory();
    let weights = bytes_of(models);
    let ready = subject.server.ready.as_secs_f64();
    let mut table =
        Table::new(["ready after", "models", "in memory when idle", "at most under load", "beside the models"]);
    table.row([
        format!("{:.0} ms", ready * 1e3),
        megabytes(weights),
        megabytes(idle),
        megabytes(most),
        megabytes(most.saturating_sub(weights)),
    ]);
    let row = json!({
        "ready_seconds": ready, "models_bytes": weights, "idle_bytes": idle, "most_bytes": most,
    });
    let notes = vec![
        "Ready: from the start of the process until it accepts connections. Models: all that it serves; an encoder \
         that several have is there once."
            .into(),
    ];
    let title = "HTTP: the server's start and memory";
    Section { key: "http_process", title, table, rows: vec![row], figures: Vec::new(), notes }
}

/// Bytes of the weights of all models; an encoder that several have counts once.
fn bytes_of(models: &[Model]) -> u64 {
    let mut counted = Vec::new();
    let of_model = |model: &Model| {
        let encoder = Arc::as_ptr(model.encoder()).cast::<()>();
        let is_known = counted.contains(&encoder);
        counted.push(encoder);
        let own = model.info.sizes.iter().filter(|size| !is_known || size.component == "head");
        own.map(|size| size.bytes).sum::<u64>()
    };
    models.iter().map(of_model).sum()
}

/// Seconds by name, for JSON.
fn seconds<const N: usize>(names: [&str; N], times: [f64; N]) -> Value {
    Value::Object(names.into_iter().map(|n| format!("{n}_seconds")).zip(times.map(Value::from)).collect())
}

/// The sorted values' p50, p90 and p99.
fn percentiles(mut values: Vec<f64>) -> [f64; 3] {
    values.sort_by(f64::total_cmp);
    [0.5, 0.9, 0.99].map(|q| crate::eval::metrics::quantile(&values, q))
}
