//! Requests that come when they come: latency by stage at rising rates, until the deadline breaks or requests are
//! refused.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};

use crate::cli::bench::report::Section;
use crate::cli::progress;
use crate::cli::table::Table;
use crate::plot::{LineSeries, Lines, Scale};

use super::load::{Arrivals, Sample, run as load};
use super::{DEADLINE, Subject, percentiles, seconds};

/// Rates, as shares of what the closed loop reached; beyond it the queue grows until the deadline breaks.
const SHARES: [f64; 12] = [0.1, 0.25, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.2, 1.5, 2.0, 4.0];
/// Connections; a request that finds none free waits, and its time counts.
const CONNECTIONS: usize = 128;
/// Most requests at one rate.
const MAX_REQUESTS: f64 = 100_000.0;
/// Columns, and names in JSON.
const PARTS: [&str; 7] = ["total", "unsent", "tokenize", "queue", "compute", "postprocess", "rest"];

/// `capacity`: requests a second that the first service reached in a closed loop.
pub(super) fn run(subject: &Subject, capacity: f64) -> anyhow::Result<Section> {
    let service = &subject.services[0];
    let requests: Vec<_> = subject.texts.chunks(1).map(|text| service.request(text, Some(DEADLINE))).collect();
    let mut table = Table::new([
        "requests/s",
        "",
        "total ms",
        "unsent",
        "tokenize",
        "queue",
        "compute",
        "postproc.",
        "rest",
        "refused",
        "late",
    ]);
    let (mut rows, mut kept) = (Vec::new(), None);
    let bar = progress::bar(SHARES.len(), "open loop");
    for share in SHARES {
        let rate = (capacity * share).max(1.0);
        bar.set_message(format!("{rate:.0} requests/s"));
        let due = poisson(rate, subject.duration);
        let samples = load(subject.server.address, &requests, CONNECTIONS, Arrivals::Open(&due))?.samples;
        bar.inc(1);
        let refused = samples.iter().filter(|s| s.status != 200).count();
        let late = samples.iter().filter(|s| s.status == 200 && s.done - s.due > DEADLINE).count();
        let parts = parts(&samples);
        for (at, name) in ["p50", "p90", "p99"].into_iter().enumerate() {
            let times = parts.map(|part| part[at]);
            let mut cells = vec![if at == 0 { format!("{rate:.0}") } else { String::new() }, name.to_string()];
            cells.extend(times.map(|s| format!("{:.2}", s * 1e3)));
            let of_rate = |count: usize| if at == 0 { count.to_string() } else { String::new() };
            cells.extend([of_rate(refused), of_rate(late)]);
            table.row(cells);
            let mut row = json!({
                "task": service.name, "requests_per_second": rate, "share_of_closed_loop": share, "quantile": name,
                "requests": samples.len(), "refused": refused, "late": late, "deadline_seconds": DEADLINE.as_secs_f64(),
            });
            let times = seconds(PARTS, times);
            row.as_object_mut().expect("an object").extend(times.as_object().expect("an object").clone());
            rows.push(row);
        }
        if refused + late > 0 {
            break;
        }
        kept = Some(rate);
    }
    bar.finish_and_clear();
    let notes = vec![
        format!(
            "{} of one text each, with Poisson arrivals from a fixed seed over {CONNECTIONS} connections. Time counts \
             from when a request was due; unsent is what passed before it was sent (timers of this client, about 0.1 \
             ms, and waiting for a free connection).",
            service.name
        ),
        format!(
            "Highest rate at which every request was answered within {} ms: {}.",
            DEADLINE.as_millis(),
            kept.map_or("none".into(), |rate: f64| format!("{rate:.0} requests/s"))
        ),
    ];
    let figures = vec![latencies(&rows), stages(&rows)];
    Ok(Section { key: "http_open_loop", title: "HTTP: open loop at rising rates", table, rows, figures, notes })
}

/// p50, p90 and p99 of the whole time by rate.
fn latencies(rows: &[Value]) -> String {
    let deadline = DEADLINE.as_secs_f64() * 1e3;
    Lines {
        title: "Milliseconds from when a request was due until its answer, logarithmic".into(),
        x_label: "requests/s".into(),
        y_scale: Scale::Log,
        series: ["p50", "p90", "p99"].map(|quantile| line(rows, quantile, "total", quantile)).to_vec(),
        limit: Some((deadline, format!("deadline, {deadline:.0} ms"))),
        ..Lines::default()
    }
    .svg()
}

/// p99 of each part by rate.
fn stages(rows: &[Value]) -> String {
    Lines {
        title: "p99 of each stage in milliseconds, logarithmic".into(),
        x_label: "requests/s".into(),
        y_scale: Scale::Log,
        series: PARTS[1..].iter().map(|part| line(rows, "p99", part, part)).collect(),
        ..Lines::default()
    }
    .svg()
}

fn line(rows: &[Value], quantile: &str, part: &str, name: &str) -> LineSeries {
    let of_quantile = rows.iter().filter(|row| row["quantile"] == quantile);
    let point =
        |row: &Value| Some((row["requests_per_second"].as_f64()?, 1e3 * row[format!("{part}_seconds")].as_f64()?));
    LineSeries { name: name.into(), points: of_quantile.filter_map(point).collect() }
}

/// p50, p90 and p99 of each part over the requests that were served.
fn parts(samples: &[Sample]) -> [[f64; 3]; PARTS.len()] {
    let mut parts: [Vec<f64>; PARTS.len()] = Default::default();
    for sample in samples.iter().filter(|s| s.status == 200) {
        let total = (sample.done - sample.due).as_secs_f64();
        let unsent = (sample.sent - sample.due).as_secs_f64();
        let [a, b, c, d] = sample.stages.map(|s| s.as_secs_f64());
        let values = [total, unsent, a, b, c, d, total - unsent - a - b - c - d];
        parts.iter_mut().zip(values).for_each(|(part, value)| part.push(value));
    }
    parts.map(percentiles)
}

/// Times of requests that come independently of each other, `rate` a second on average. Always the same ones.
fn poisson(rate: f64, duration: Duration) -> Vec<Duration> {
    let mut random = StdRng::seed_from_u64(0);
    let count = (rate * duration.as_secs_f64()).ceil().clamp(1.0, MAX_REQUESTS) as usize;
    let mut at = 0.0;
    let mut next = || {
        at += -(1.0 - random.random::<f64>()).ln() / rate;
        Duration::from_secs_f64(at)
    };
    (0..count).map(|_| next()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arrivals_rise_and_keep_their_rate() {
        let times = poisson(1000.0, Duration::from_secs(5));
        assert!(times.is_sorted());
        assert_eq!(times.len(), 5000);
        let last = times[4999].as_secs_f64();
        assert!((4.7..5.3).contains(&last), "5000 arrivals at 1000 a second ended after {last} s");
    }
}
