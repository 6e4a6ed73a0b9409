//! One client with one connection and short texts: what HTTP, JSON, threads and the client add to tokenizing and
//! computing.

use std::time::Duration;

use serde_json::json;

use crate::architectures::RaggedBatch;
use crate::cli::bench::report::Section;
use crate::cli::table::Table;
use crate::eval::rounds::{Budget, together};
use crate::eval::speed;
use crate::telemetry::Stage;

use super::load::{Arrivals, Outcome, Request, run as load};
use super::{Service, Subject, percentiles, seconds};

/// Most tokens of a short text.
const SHORT_TOKENS: usize = 32;
/// Short texts that are sent in turn.
const TEXTS: usize = 64;
/// Turns in which server and engine are measured one after the other, so that both see the same machine.
const TURNS: usize = 4;
/// Columns, and names in JSON.
const PARTS: [&str; 9] =
    ["total", "tokenize", "queue", "compute", "postprocess", "rest", "alone_tokenize", "alone_compute", "added"];

pub(super) fn run(subject: &Subject) -> anyhow::Result<Section> {
    let header =
        ["", "total us", "tokenize", "queue", "compute", "postproc.", "rest", "alone: tok.", "comp.", "added us"];
    let (mut table, mut rows, mut notes) = (Table::new(header), Vec::new(), Vec::new());
    for service in &subject.services {
        let found = measure(subject, service)?;
        for (at, name) in ["p50", "p90", "p99"].into_iter().enumerate() {
            let times = found.parts.map(|part| part[at]);
            table.row([format!("{} {name}", service.name)].into_iter().chain(times.map(|s| format!("{:.0}", s * 1e6))));
            let mut row = json!({
                "task": service.name, "quantile": name, "requests": found.requests, "texts": found.texts,
                "livez_seconds": found.livez[at],
            });
            let times = seconds(PARTS, times);
            row.as_object_mut().expect("an object").extend(times.as_object().expect("an object").clone());
            rows.push(row);
        }
        let livez = found.livez[0] * 1e6;
        notes.push(format!(
            "{}: {} requests of one text in turn, {} different ones of at most {SHORT_TOKENS} tokens (where there are \
             such); GET /livez on the same connection takes {livez:.0} us.",
            service.name, found.requests, found.texts,
        ));
    }
    notes.push(format!(
        "Stages as the server tells them; tokenize includes reading the request, rest is what the server does not \
         see: sockets and wake-ups. Alone: the same text in a loop in this process, its encoder computed on {} thread(s) \
         together, and its head. Added: total without both, request by request.",
        subject.threads
    ));
    let title = "HTTP: one connection, short texts";
    Ok(Section { key: "http_latency", title, table, rows, figures: Vec::new(), notes })
}

struct Found {
    /// p50, p90 and p99 of each part.
    parts: [[f64; 3]; PARTS.len()],
    livez: [f64; 3],
    requests: usize,
    texts: usize,
}

fn measure(subject: &Subject, service: &Service) -> anyhow::Result<Found> {
    let lengths = service.lengths(subject.texts)?;
    let is_short = |at: &usize| lengths[*at] <= SHORT_TOKENS;
    let mut chosen: Vec<usize> = (0..lengths.len()).filter(is_short).take(TEXTS).collect();
    if chosen.is_empty() {
        chosen = (0..lengths.len().min(TEXTS)).collect();
    }
    let texts: Vec<&str> = chosen.iter().map(|at| subject.texts[*at].as_str()).collect();
    let requests: Vec<_> = chosen.iter().map(|at| service.request(&subject.texts[*at..=*at], None)).collect();
    let rounds = |requests: &[Request], count| load(subject.server.address, requests, 1, Arrivals::Closed(count));

    // The first one warms up both sides, and tells how many fill the time.
    let warm = rounds(&requests, 2 * requests.len())?;
    let pace = warm.elapsed.as_secs_f64() / warm.samples.len() as f64;
    let turns = (subject.duration.as_secs_f64() / pace / (TURNS * texts.len()) as f64).ceil().max(1.0) as usize;
    let (mut samples, mut tokenizing, mut computing) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..TURNS {
        let alone = alone(service, &texts, subject.threads, turns)?;
        tokenizing.push(alone.0);
        computing.push(alone.1);
        samples.extend(rounds(&requests, turns * requests.len())?.samples);
    }
    let least = |times: &[Vec<f64>], text: usize| times.iter().map(|t| t[text]).fold(f64::INFINITY, f64::min);
    let livez = rounds(&[Request::get("/livez")], turns * requests.len())?;

    let mut parts: [Vec<f64>; PARTS.len()] = Default::default();
    for sample in &samples {
        anyhow::ensure!(sample.status == 200, "a request of one short text was answered {}", sample.status);
        let total = (sample.done - sample.sent).as_secs_f64();
        let stages = sample.stages.map(|s| s.as_secs_f64());
        let (tokenize, compute) = (least(&tokenizing, sample.request), least(&computing, sample.request));
        let [a, b, c, d] = stages;
        let rest = total - stages.iter().sum::<f64>();
        let values = [total, a, b, c, d, rest, tokenize, compute, total - tokenize - compute];
        parts.iter_mut().zip(values).for_each(|(part, value)| part.push(value));
    }
    const { assert!(Stage::ALL.len() == 4) };
    let Outcome { samples: livez, .. } = livez;
    Ok(Found {
        parts: parts.map(percentiles),
        livez: percentiles(livez.iter().map(|s| (s.done - s.sent).as_secs_f64()).collect()),
        requests: samples.len(),
        texts: texts.len(),
    })
}

/// Median seconds of tokenizing each text, and of computing it, its encoder on `threads` threads together, in `turns`
/// turns (at least 5).
fn alone(service: &Service, texts: &[&str], threads: usize, turns: usize) -> anyhow::Result<(Vec<f64>, Vec<f64>)> {
    let turns = Budget { duration: Duration::ZERO, at_least: turns.max(5), warm_up: true };
    let mut times = (Vec::new(), Vec::new());
    for text in texts {
        let encoding = service.tokenizer.encode(text, None, service.max_tokens)?;
        let tokenize = || _ = std::hint::black_box(service.tokenizer.encode(text, None, service.max_tokens));
        let mut batch = RaggedBatch::new();
        batch.push(&encoding.ids, &encoding.type_ids);
        times.0.push(together(1, turns, || (), |_| tokenize).median());
        times.1.push(speed::answer(&service.model, &batch, threads, turns).median());
    }
    Ok(times)
}
