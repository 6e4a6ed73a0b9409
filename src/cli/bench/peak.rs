//! The most integer multiply-adds a second: what all percentages are of.

use std::time::Duration;

use serde_json::json;

use crate::cli::progress;
use crate::cli::table::Table;
use crate::eval::speed;
use crate::kernels::Kernels;
use crate::plot::{BarSeries, Bars};

use super::report::{Section, thread_words};

/// Longest time for one peak: it is the fastest of many short runs, which more time hardly changes.
const DURATION: Duration = Duration::from_millis(300);

/// Measured peaks by kernels and number of threads.
pub(super) struct Peaks {
    measured: Vec<Peak>,
    /// The kernels of the encoder.
    used: Kernels,
}

struct Peak {
    kernels: Kernels,
    instruction: &'static str,
    threads: usize,
    macs_per_second: f64,
}

impl Peaks {
    /// Measures every vector instruction set of this CPU at each number of threads.
    pub(super) fn measure(used: Kernels, threads: &[usize], duration: Duration) -> Self {
        let measurable = Kernels::available().into_iter().filter_map(|k| Some((k, k.multiply_instruction()?)));
        let rows: Vec<_> = measurable.flat_map(|(k, name)| threads.iter().map(move |n| (k, name, *n))).collect();
        let bar = progress::bar(rows.len(), "peak");
        let measure = |(kernels, instruction, threads)| {
            bar.set_message(format!("{instruction}, {}", thread_words(threads)));
            let macs_per_second = speed::peak(kernels, threads, duration.min(DURATION));
            bar.inc(1);
            macs_per_second.map(|macs_per_second| Peak { kernels, instruction, threads, macs_per_second })
        };
        let measured = rows.into_iter().filter_map(measure).collect();
        bar.finish_and_clear();
        Peaks { measured, used }
    }

    /// Multiply-adds a second of the encoder's kernels at that many threads; none for the scalar ones.
    pub(super) fn macs_per_second(&self, threads: usize) -> Option<f64> {
        let peak = self.measured.iter().find(|p| p.kernels == self.used && p.threads == threads)?;
        Some(peak.macs_per_second)
    }

    /// What share of the peak `macs` in `seconds` are, 0 to 100.
    pub(super) fn percent(&self, macs: u64, seconds: f64, threads: usize) -> Option<f64> {
        Some(100.0 * macs as f64 / seconds / self.macs_per_second(threads)?)
    }

    fn figure(&self) -> String {
        let mut instructions: Vec<_> = self.measured.iter().map(|p| p.instruction).collect();
        instructions.dedup();
        let mut threads: Vec<_> = self.measured.iter().map(|p| p.threads).collect();
        threads.sort_unstable();
        threads.dedup();
        let value = |instruction: &str, threads: usize| {
            let peak = self.measured.iter().find(|p| p.instruction == instruction && p.threads == threads);
            peak.map(|p| p.macs_per_second)
        };
        let series = |threads: &usize| BarSeries {
            name: thread_words(*threads),
            values: instructions.iter().map(|instruction| value(instruction, *threads)).collect(),
            ..BarSeries::default()
        };
        Bars {
            title: "MAC/s by instruction".into(),
            categories: instructions.iter().map(|i| i.to_string()).collect(),
            series: threads.iter().map(series).collect(),
            ..Bars::default()
        }
        .svg()
    }

    pub(super) fn section(&self) -> Section {
        let mut table = Table::new(["instruction", "kernels", "threads", "GMAC/s"]);
        let mut rows = Vec::new();
        for peak in &self.measured {
            let isa = peak.kernels.isa().name();
            let giga = peak.macs_per_second / 1e9;
            table.row([peak.instruction.into(), isa.into(), peak.threads.to_string(), format!("{giga:.1}")]);
            rows.push(json!({
                "isa": isa, "instruction": peak.instruction, "threads": peak.threads,
                "macs_per_second": peak.macs_per_second, "used": peak.kernels == self.used,
            }));
        }
        Section {
            key: "peak",
            title: "Peak: 8-bit multiply-adds a second with operands in registers",
            table,
            rows,
            figures: vec![self.figure()],
            notes: vec![format!(
                "The encoder runs on {}; percentages below are of its row with the same number of threads.",
                self.used.isa()
            )],
        }
    }
}
