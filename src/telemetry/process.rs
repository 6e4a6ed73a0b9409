//! What the operating system knows about this process, read from `/proc` at each scrape. Names are those of the
//! Prometheus client libraries.

use std::fs;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

use super::catalogue::Definition;

/// Clock ticks per second in `/proc/*/stat`; 100 on every Linux that user programs see (`USER_HZ`, proc(5)).
const TICKS_PER_SECOND: f64 = 100.0;

const fn define(name: &'static str, kind: &'static str, help: &'static str) -> Definition {
    Definition { name, kind, labels: &[], help }
}

/// The metrics of the process.
pub(super) const DEFINITIONS: &[Definition] = &[
    define("process_resident_memory_bytes", "gauge", "Memory of the process that is in RAM"),
    define("process_virtual_memory_bytes", "gauge", "Address space of the process"),
    define("process_cpu_seconds_total", "counter", "CPU time that all threads of the process used"),
    define("process_open_fds", "gauge", "Open file descriptors, connections included"),
    define("process_max_fds", "gauge", "Most file descriptors the process may open"),
    define("process_start_time_seconds", "gauge", "When the process started, in seconds since 1970"),
    define("process_threads", "gauge", "Threads of the process"),
];

/// Reads `/proc/self` when asked.
#[derive(Debug)]
pub(super) struct Process;

impl Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), std::fmt::Error> {
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let limits = fs::read_to_string("/proc/self/limits").unwrap_or_default();
        let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
        let boot = fs::read_to_string("/proc/stat").unwrap_or_default();
        for definition in DEFINITIONS {
            let value = match definition.name {
                "process_resident_memory_bytes" => number_after(&status, "VmRSS:").map(|kib| kib * 1024.0),
                "process_virtual_memory_bytes" => number_after(&status, "VmSize:").map(|kib| kib * 1024.0),
                "process_threads" => number_after(&status, "Threads:"),
                "process_cpu_seconds_total" => cpu_seconds(&stat),
                "process_open_fds" => fs::read_dir("/proc/self/fd").ok().map(|entries| entries.count() as f64),
                "process_max_fds" => number_after(&limits, "Max open files"),
                _ => number_after(&boot, "btime").zip(started_after_boot(&stat)).map(|(boot, after)| boot + after),
            };
            let Some(value) = value else { continue };
            let name = definition.name.strip_suffix("_total").unwrap_or(definition.name);
            if definition.kind == "counter" {
                let counter = ConstCounter::new(value);
                counter.encode(encoder.encode_descriptor(name, &help(definition), None, counter.metric_type())?)?;
            } else {
                let gauge = ConstGauge::new(value);
                gauge.encode(encoder.encode_descriptor(name, &help(definition), None, gauge.metric_type())?)?;
            }
        }
        Ok(())
    }
}

/// The registry ends the help of its own metrics with a full stop.
fn help(definition: &Definition) -> String {
    format!("{}.", definition.help)
}

/// The first number after `name` at the start of a line.
fn number_after(text: &str, name: &str) -> Option<f64> {
    let rest = text.lines().find_map(|line| line.strip_prefix(name))?;
    rest.split_whitespace().next()?.parse().ok()
}

/// Field `number` (from 1, as in proc(5)) of `/proc/self/stat`. The second one, the name, may hold spaces.
fn stat_field(stat: &str, number: usize) -> Option<f64> {
    let (_, after_name) = stat.rsplit_once(')')?;
    after_name.split_whitespace().nth(number - 3)?.parse().ok()
}

fn cpu_seconds(stat: &str) -> Option<f64> {
    Some((stat_field(stat, 14)? + stat_field(stat, 15)?) / TICKS_PER_SECOND)
}

fn started_after_boot(stat: &str) -> Option<f64> {
    Some(stat_field(stat, 22)? / TICKS_PER_SECOND)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_counted_after_a_name_with_spaces_and_brackets() {
        let stat = "7 (a (b) c) S 1 7 7 0 -1 4194560 900 0 0 0 250 50 0 0 20 0 4 0 12345 1000000 500";
        assert_eq!(cpu_seconds(stat), Some(3.0));
        assert_eq!(started_after_boot(stat), Some(123.45));
        assert_eq!(cpu_seconds("7 (octet) S"), None);
    }

    #[test]
    fn numbers_are_read_from_their_line() {
        let text = "VmSize:\t  2048 kB\nVmRSS:\t    1024 kB\n";
        assert_eq!(number_after(text, "VmRSS:"), Some(1024.0));
        assert_eq!(number_after(text, "VmSwap:"), None);
    }
}
