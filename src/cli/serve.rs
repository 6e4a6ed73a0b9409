//! `octet serve`

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use clap::Args;
use tokio::net::TcpListener;

use crate::config::{LogFormat, LogLevel, Settings};
use crate::engine::{Engine, EngineOptions, Registry};
use crate::kernels::Kernels;
use crate::pipelines::{Loader, Model, Precision, Task};
use crate::server;
use crate::telemetry::{Metrics, logging};

use super::table::{Table, megabytes};
use super::{Common, candle_threads, gate, kernels, model_folder, shadow, threads};

/// Serve models over HTTP.
///
/// Without arguments it serves two of the shipped models on 127.0.0.1:8080:
/// sentiment classification, and embeddings and summaries with all-MiniLM-L6-v2. A
/// float model is quantized while it loads.
///
///   octet serve --port 9000 --model models/sentiment --model intents=org/name
#[derive(Args)]
#[command(verbatim_doc_comment)]
pub(super) struct ServeArgs {
    /// Address to listen on [default: 127.0.0.1]
    #[arg(long, value_name = "ADDRESS")]
    host: Option<String>,
    /// Port to listen on; 0 takes a free one [default: 8080]
    #[arg(long)]
    port: Option<u16>,
    /// Model folder or hub id, as PATH or ID=PATH; may be given several times
    #[arg(long = "model", value_name = "MODEL")]
    models: Vec<String>,
}

pub(super) fn run(args: ServeArgs, common: &Common) -> anyhow::Result<()> {
    let started = Instant::now();
    let mut flags = Vec::new();
    flags.extend(args.host.map(|host| ("server.host".to_string(), host)));
    flags.extend(args.port.map(|port| ("server.port".to_string(), port.to_string())));
    flags.extend(args.models.into_iter().map(|model| ("models".to_string(), model)));
    let settings = common.settings(flags)?;
    init_logging(&settings);
    if shadow::is_on(&settings) {
        candle_threads::limit();
    }

    let kernels = kernels(&settings)?;
    let threads = threads(&settings);
    let mut loader = Loader::new(kernels, Precision::Int8);
    let mut served = Vec::new();
    for model in &settings.models {
        let folder = model_folder(&model.path, &settings)?;
        let loaded = gate::load(&mut loader, &model.id, &folder, &settings, kernels)
            .with_context(|| format!("model \"{}\"", model.id))?;
        served.push((Arc::new(loaded), folder));
    }
    let originals = shadow::load(&served, kernels, &settings)?;
    let models: Vec<Arc<Model>> = served.into_iter().map(|(model, _)| model).collect();
    let mut loaded = table(&models).to_string();
    if !originals.is_empty() {
        loaded = format!("{loaded}\n{}", shadow::summary(&originals, &settings));
    }

    let metrics = Arc::new(Metrics::new(server::ROUTES));
    let options = EngineOptions {
        threads,
        isa: kernels.isa().name(),
        batching: settings.batching.clone(),
        shadow: settings.shadow.clone(),
        feedback: settings.feedback.clone(),
    };
    let registry = Registry::new(models).with_originals(originals);
    let engine = Engine::start(registry, options, metrics.clone());
    // One thread moves bytes; the compute threads are the engine's own, and tokenizing uses the blocking threads.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .max_blocking_threads(4 * threads + 2)
        .enable_all()
        .build()
        .context("cannot start the async runtime")?;
    runtime.block_on(async {
        let address = format!("{}:{}", settings.server.host, settings.server.port);
        let listener = TcpListener::bind((settings.server.host.as_str(), settings.server.port)).await;
        let listener = listener.with_context(|| format!("cannot listen on {address} (server.host, server.port)"))?;
        println!("{loaded}");
        println!("{}", summary(kernels, threads, listener.local_addr()?, started.elapsed()));
        let report = server::run(listener, engine, &settings, metrics, shutdown_signal()).await?;
        tracing::info!(
            connections = report.connections,
            forced = report.forced,
            seconds = report.elapsed.as_secs_f64(),
            "stopped"
        );
        Ok(())
    })
}

/// What was loaded.
fn table(models: &[Arc<Model>]) -> Table {
    let mut table =
        Table::new(["model", "tasks", "family", "precision", "in memory", "on disk", "max tokens", "version"]);
    for model in models {
        let info = &model.info;
        let memory = info.sizes.iter().map(|s| s.bytes).sum();
        table.row([
            info.id.clone(),
            model.tasks().into_iter().map(Task::name).collect::<Vec<_>>().join(", "),
            info.architecture.clone(),
            format!("{} ({})", info.precision, info.scheme),
            megabytes(memory),
            megabytes(info.file_bytes),
            info.max_tokens.to_string(),
            info.version.clone(),
        ]);
    }
    table
}

fn summary(kernels: Kernels, threads: usize, address: std::net::SocketAddr, elapsed: Duration) -> String {
    format!(
        "kernels {}, {threads} compute thread(s), ready in {:.0} ms\nlistening on http://{address}  (try http://{address}/docs)",
        kernels.gemm_name(),
        elapsed.as_secs_f64() * 1e3,
    )
}

fn init_logging(settings: &Settings) {
    let level = match settings.telemetry.log_level {
        LogLevel::Error => logging::LevelFilter::ERROR,
        LogLevel::Warn => logging::LevelFilter::WARN,
        LogLevel::Info => logging::LevelFilter::INFO,
        LogLevel::Debug => logging::LevelFilter::DEBUG,
        LogLevel::Trace => logging::LevelFilter::TRACE,
    };
    let format = match settings.telemetry.log_format {
        LogFormat::Text => logging::Format::Text,
        LogFormat::Json => logging::Format::Json,
    };
    logging::init(level, format);
}

/// Completes at SIGTERM or Ctrl-C. A second signal ends the process at once.
async fn shutdown_signal() {
    use tokio::signal::unix::{SignalKind, signal};
    let (Ok(mut term), Ok(mut interrupt)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt())) else {
        tracing::error!("cannot listen for signals; stop the server with SIGKILL");
        return std::future::pending().await;
    };
    let next = async move |term: &mut tokio::signal::unix::Signal, interrupt: &mut tokio::signal::unix::Signal| {
        tokio::select! { _ = term.recv() => {}, _ = interrupt.recv() => {} }
    };
    next(&mut term, &mut interrupt).await;
    tracing::info!("shutting down: finishing what was accepted; a second signal stops at once");
    tokio::spawn(async move {
        next(&mut term, &mut interrupt).await;
        std::process::exit(130);
    });
}
