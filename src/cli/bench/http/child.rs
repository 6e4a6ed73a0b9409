//! `octet serve` as a child process, and what the system tells about it: memory, CPU time and context switches.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use super::load::cpu_time;

/// A server on a free port of the loopback. Dropping it ends it.
pub(super) struct Server {
    child: Child,
    pub address: SocketAddr,
    /// From the start of the process until it accepts connections.
    pub ready: Duration,
}

/// What a group of threads with one name used.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Usage {
    pub cpu: Duration,
    /// Times a thread gave its CPU up, to wait for something.
    pub waits: u64,
    /// Times a thread was made to leave its CPU to another.
    pub preemptions: u64,
}

impl Server {
    /// Starts `octet serve` with `arguments`.
    ///
    /// # Errors
    /// When it ends before it is ready; what it said is on standard error.
    pub(super) fn start(arguments: &[String]) -> anyhow::Result<Server> {
        let octet = std::env::current_exe().context("finding this program")?;
        let began = Instant::now();
        let mut command = Command::new(octet);
        command.arg("serve").args(arguments).args(["--host", "127.0.0.1", "--port", "0"]);
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().context("starting the server")?;
        let output = child.stdout.take().expect("standard output is a pipe");
        // Owned from here on, so that whatever fails below ends the child.
        let mut server = Server { child, address: SocketAddr::from(([127, 0, 0, 1], 0)), ready: Duration::ZERO };
        for line in BufReader::new(output).lines() {
            let line = line.context("reading what the server prints")?;
            let address = line.strip_prefix("listening on http://").and_then(|rest| rest.split_whitespace().next());
            if let Some(address) = address {
                server.address = address.parse().with_context(|| format!("the server's address {address}"))?;
                server.ready = began.elapsed();
                return Ok(server);
            }
        }
        bail!("the server ended before it was ready: octet serve {}", arguments.join(" "))
    }

    /// Bytes in RAM: now, and the most so far.
    pub(super) fn memory(&self) -> (u64, u64) {
        let status = fs::read_to_string(self.proc().join("status")).unwrap_or_default();
        let kib = |name| number_after(&status, name) * 1024;
        (kib("VmRSS:"), kib("VmHWM:"))
    }

    /// What its threads used so far, by the name they have without a number at its end.
    pub(super) fn usage(&self) -> BTreeMap<String, Usage> {
        let mut groups: BTreeMap<String, Usage> = BTreeMap::new();
        for task in fs::read_dir(self.proc().join("task")).into_iter().flatten().flatten() {
            let read = |file| fs::read_to_string(task.path().join(file)).unwrap_or_default();
            let name = read("comm").trim_end().trim_end_matches(|c: char| c.is_ascii_digit() || c == '-').to_string();
            let status = read("status");
            let group = groups.entry(name).or_default();
            group.cpu += cpu_time(&read("schedstat"));
            group.waits += number_after(&status, "voluntary_ctxt_switches:");
            group.preemptions += number_after(&status, "nonvoluntary_ctxt_switches:");
        }
        groups
    }

    fn proc(&self) -> PathBuf {
        PathBuf::from(format!("/proc/{}", self.child.id()))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself, and there is nobody to tell.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Usage {
    /// What was used since `before`.
    pub(super) fn since(self, before: Usage) -> Usage {
        Usage {
            cpu: self.cpu.saturating_sub(before.cpu),
            waits: self.waits.saturating_sub(before.waits),
            preemptions: self.preemptions.saturating_sub(before.preemptions),
        }
    }
}

/// The number after `name` at the start of a line; 0 when there is none.
fn number_after(text: &str, name: &str) -> u64 {
    let rest = text.lines().find_map(|line| line.strip_prefix(name));
    rest.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

impl std::ops::AddAssign for Usage {
    fn add_assign(&mut self, other: Usage) {
        self.cpu += other.cpu;
        self.waits += other.waits;
        self.preemptions += other.preemptions;
    }
}
