//! What other programs, and a hypervisor, take of the CPUs while they are measured.

use std::time::{Duration, Instant};

/// Clock ticks a second in `/proc`: `USER_HZ`, 100 on every Linux that programs see (proc(5)).
const TICKS_PER_SECOND: f64 = 100.0;
/// Shortest time that so coarse a clock says something about.
const SHORTEST: Duration = Duration::from_millis(300);

/// CPU time at one moment.
pub(super) struct CpuTime {
    at: Instant,
    /// Ticks of all CPUs that were busy, or taken by the hypervisor.
    machine: f64,
    /// Ticks of this process and of those children that have ended.
    own: f64,
}

impl CpuTime {
    /// Now; none where there is no `/proc`.
    pub(super) fn now() -> Option<Self> {
        let machine = machine_ticks(&std::fs::read_to_string("/proc/stat").ok()?)?;
        let own = own_ticks(&std::fs::read_to_string("/proc/self/stat").ok()?)?;
        Some(CpuTime { at: Instant::now(), machine, own })
    }

    /// What others have taken of all CPUs since then, 0 to 100; none when that is too short a time.
    pub(super) fn taken_by_others(&self) -> Option<f64> {
        let now = CpuTime::now()?;
        let elapsed = now.at - self.at;
        let cpus = std::thread::available_parallelism().map_or(1, usize::from) as f64;
        let ticks = (now.machine - self.machine) - (now.own - self.own);
        (elapsed >= SHORTEST)
            .then(|| (100.0 * ticks / (elapsed.as_secs_f64() * TICKS_PER_SECOND * cpus)).clamp(0.0, 100.0))
    }
}

/// The first line of `/proc/stat` without idle and iowait: user, nice, system, irq, softirq, steal.
fn machine_ticks(stat: &str) -> Option<f64> {
    let fields = stat.lines().next()?.strip_prefix("cpu ")?.split_whitespace();
    let ticks: Vec<f64> = fields.map(|field| field.parse().ok()).collect::<Option<_>>()?;
    Some([0, 1, 2, 5, 6, 7].iter().filter_map(|at| ticks.get(*at)).sum())
}

/// utime, stime, cutime and cstime of `/proc/self/stat`: fields 14 to 17, counted after the name in parentheses.
fn own_ticks(stat: &str) -> Option<f64> {
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    fields.get(11..15)?.iter().map(|field| field.parse::<f64>().ok()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_read_from_their_fields() {
        assert_eq!(machine_ticks("cpu  1000 200 30 99999 88888 4 0 5 7777 0\ncpu0 1 1 1"), Some(1239.0));
        assert_eq!(own_ticks("7 (a) b) R 1 2 3 4 -1 5 6 7 8 9 1000 200 30 4 20 0 1"), Some(1234.0));
        assert_eq!((machine_ticks("nothing"), own_ticks("7 (a) R 1")), (None, None));
    }

    #[test]
    fn a_moment_is_too_short_to_tell() {
        if let Some(begin) = CpuTime::now() {
            assert_eq!(begin.taken_by_others(), None);
        }
    }
}
