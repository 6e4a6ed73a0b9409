//! The whole stream of texts over more and more connections, and the engine alone on the same stream.

use anyhow::ensure;
use serde_json::{Value, json};

use crate::architectures::RaggedBatch;
use crate::cli::bench::report::Section;
use crate::cli::bench::stream::BATCH;
use crate::cli::progress;
use crate::cli::table::Table;
use crate::eval::speed;
use crate::plot::{BarSeries, Bars};

use super::child::Usage;
use super::load::{Arrivals, Request, run as load};
use super::{Service, Subject, percentiles};

/// Texts of each request, and connections.
const ROWS: [(usize, &[usize]); 2] = [(1, &[1, 16, 64, 128]), (32, &[1, 4])];
/// Times each row is measured; the fastest counts, as for the engine.
const RUNS: usize = 2;
/// Part of the time after which a loop is in full swing.
const WARM_UP: f64 = 0.1;

/// The section, and requests of one text a second that the first service answered at most.
pub(super) fn run(subject: &Subject) -> anyhow::Result<(Section, f64)> {
    let mut table = Table::new([
        "task",
        "texts",
        "connections",
        "tokens/s",
        "engine alone",
        "%",
        "% by CPU",
        "p50 ms",
        "p99 ms",
        "in a batch",
        "client us",
        "async",
        "compute",
        "waits",
    ]);
    let (mut rows, mut capacity) = (Vec::new(), 0f64);
    let total = subject.services.len() * ROWS.iter().map(|(_, c)| c.len()).sum::<usize>();
    let bar = progress::bar(total, "http");
    for service in &subject.services {
        let lengths = service.lengths(subject.texts)?;
        let batches = batches(service, subject.texts)?;
        let batches: Vec<_> = batches.iter().collect();
        // Between the rows, so that engine and server see the same machine.
        let mut alone = Vec::new();
        let mut measure_alone =
            || alone.push(speed::stream_once(service.model.encoder.as_ref(), &batches, subject.threads));
        let mut runs = Vec::new();
        for (size, counts) in ROWS {
            measure_alone();
            let requests: Vec<_> = subject.texts.chunks(size).map(|texts| service.request(texts, None)).collect();
            let tokens: Vec<usize> = lengths.chunks(size).map(|lengths| lengths.iter().sum()).collect();
            for connections in counts.iter().copied() {
                bar.set_message(format!("{}: {size} text(s) a request, {connections} connection(s)", service.name));
                runs.push((size, connections, measure(subject, &requests, &tokens, connections)?));
                bar.inc(1);
            }
        }
        measure_alone();
        let alone = lengths.iter().sum::<usize>() as f64 / alone.into_iter().fold(f64::INFINITY, f64::min);
        for (size, connections, run) in runs {
            if size == 1 && std::ptr::eq(service, &subject.services[0]) {
                capacity = capacity.max(run.requests_per_second);
            }
            let texts = (run.requests * size) as f64;
            let per_text = |seconds: f64| format!("{:.0}", seconds * 1e6 / texts);
            let by_cpu = by_cpu_time(&run, alone, subject.threads);
            let [p50, p90, p99] = run.latency;
            table.row([
                service.name.to_string(),
                size.to_string(),
                connections.to_string(),
                format!("{:.0}", run.tokens_per_second),
                format!("{alone:.0}"),
                format!("{:.1}", 100.0 * run.tokens_per_second / alone),
                format!("{:.1}", 100.0 * by_cpu),
                format!("{:.2}", p50 * 1e3),
                format!("{:.2}", p99 * 1e3),
                format!("{:.1}", run.batch),
                per_text(run.client_cpu),
                per_text(run.others.cpu.as_secs_f64()),
                per_text(run.compute.cpu.as_secs_f64()),
                format!("{:.1}", (run.others.waits + run.compute.waits) as f64 / texts),
            ]);
            let usage = |usage: Usage| json!({ "cpu_seconds": usage.cpu.as_secs_f64(), "waits": usage.waits, "preemptions": usage.preemptions });
            rows.push(json!({
                "task": service.name, "texts_per_request": size, "connections": connections, "requests": run.requests,
                "requests_per_second": run.requests_per_second, "tokens_per_second": run.tokens_per_second,
                "engine_tokens_per_second": alone, "ratio": run.tokens_per_second / alone,
                "ratio_by_cpu": by_cpu,
                "p50_seconds": p50, "p90_seconds": p90, "p99_seconds": p99, "mean_batch": run.batch,
                "client_cpu_seconds": run.client_cpu,
                "compute_threads": usage(run.compute), "other_threads": usage(run.others),
            }));
        }
    }
    bar.finish_and_clear();
    let notes = vec![
        format!(
            "% is by the engine alone: token ids in, hidden states out, all texts in batches of {BATCH} on {} thread(s), \
             measured between the rows. The faster of {RUNS} runs each; every request is answered. By CPU: tokens in a second \
             of the server's CPU time, by those of the engine alone, as if the client ran elsewhere.",
            subject.threads
        ),
        "Client, async (HTTP, JSON, tokenizing) and compute: CPU microseconds a text; they share the machine. Waits: \
         times a thread of the server went to sleep, a text. In a batch: sequences, as requests see it."
            .into(),
    ];
    let title = "HTTP: the stream of texts, closed loop";
    let figures = vec![figure(&rows)];
    let section = Section { key: "http_throughput", title, table, rows, figures, notes };
    Ok((section, capacity))
}

/// Tokens that the server answered in a second of its CPU time, by those that the engine alone computes in one on each of
/// its `threads` threads, `alone` on all together.
fn by_cpu_time(run: &Run, alone: f64, threads: usize) -> f64 {
    let cpu = run.compute.cpu + run.others.cpu;
    run.tokens as f64 / cpu.as_secs_f64() * threads as f64 / alone
}

/// Tokens a second by task and load, beside the engine alone.
fn figure(rows: &[Value]) -> String {
    let load = |row: &Value| format!("{} x {}", row["connections"], row["texts_per_request"]);
    let mut categories: Vec<_> = rows.iter().map(load).collect();
    let mut tasks: Vec<_> = rows.iter().map(|row| &row["task"]).collect();
    tasks.dedup();
    categories.truncate(rows.len() / tasks.len().max(1));
    let series = |task: &&Value| {
        let rows = || rows.iter().filter(|row| row["task"] == **task);
        BarSeries {
            name: task.as_str().unwrap_or_default().into(),
            values: rows().map(|row| row["tokens_per_second"].as_f64()).collect(),
            limits: rows().map(|row| row["engine_tokens_per_second"].as_f64()).collect(),
        }
    };
    Bars {
        title: "Tokens/s by connections x texts of a request".into(),
        categories,
        series: tasks.iter().map(series).collect(),
        limit: "the engine alone".into(),
        ..Bars::default()
    }
    .svg()
}

struct Run {
    requests: usize,
    tokens: usize,
    requests_per_second: f64,
    tokens_per_second: f64,
    /// p50, p90 and p99 in seconds.
    latency: [f64; 3],
    /// Sequences in the batches of its requests, on average.
    batch: f64,
    client_cpu: f64,
    /// What the compute threads used.
    compute: Usage,
    /// What all other threads of the server used.
    others: Usage,
}

fn measure(subject: &Subject, requests: &[Request], tokens: &[usize], connections: usize) -> anyhow::Result<Run> {
    let mut best: Option<Run> = None;
    for _ in 0..RUNS {
        let before = subject.server.usage();
        let outcome = load(subject.server.address, requests, connections, Arrivals::ClosedFor(subject.duration))?;
        let after = subject.server.usage();
        let samples = &outcome.samples;
        let refused = samples.iter().find(|s| s.status != 200);
        ensure!(refused.is_none(), "a request in a closed loop was answered {}", refused.map_or(0, |s| s.status));
        let (mut compute, mut others) = (Usage::default(), Usage::default());
        for (name, usage) in after {
            let used = usage.since(before.get(&name).copied().unwrap_or_default());
            *(if name.starts_with("octet-compute") { &mut compute } else { &mut others }) += used;
        }
        // What was answered while all connections were at work; all of it where the time is too short for more.
        let window = subject.duration.mul_f64(WARM_UP)..=subject.duration;
        let inside: Vec<_> = samples.iter().filter(|s| window.contains(&s.done)).collect();
        let (counted, seconds) = match inside.len() < connections {
            true => (samples.iter().collect(), outcome.elapsed.as_secs_f64()),
            false => (inside, subject.duration.as_secs_f64() * (1.0 - WARM_UP)),
        };
        let run = Run {
            requests: samples.len(),
            tokens: samples.iter().map(|s| tokens[s.request]).sum(),
            requests_per_second: counted.len() as f64 / seconds,
            tokens_per_second: counted.iter().map(|s| tokens[s.request]).sum::<usize>() as f64 / seconds,
            latency: percentiles(samples.iter().map(|s| (s.done - s.sent).as_secs_f64()).collect()),
            batch: samples.iter().map(|s| s.batch as f64).sum::<f64>() / samples.len().max(1) as f64,
            client_cpu: outcome.client_cpu.as_secs_f64(),
            compute,
            others,
        };
        if best.as_ref().is_none_or(|best| run.tokens_per_second > best.tokens_per_second) {
            best = Some(run);
        }
    }
    Ok(best.expect("there is a run"))
}

/// The texts in their order, as the engine alone runs them.
fn batches(service: &Service, texts: &[String]) -> anyhow::Result<Vec<RaggedBatch>> {
    let mut ids = RaggedBatch::new();
    for text in texts {
        let encoding = service.tokenizer.encode(text, None, service.max_tokens)?;
        ids.push(&encoding.ids, &encoding.type_ids);
    }
    Ok(speed::in_batches_of(BATCH, &ids))
}
