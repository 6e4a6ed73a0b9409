//! A light HTTP client that puts load on a server: blocking sockets, one thread for each connection, requests made before.
//!
//! Closed loop: each connection sends its next request when it has its answer. Open loop: requests are due at given
//! times whatever the server does, and latency counts from then, so that a slow server cannot hide in a client that
//! waits for it.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};

use crate::telemetry::Stage;

/// Longest wait for an answer: a server that takes longer has lost the request.
const PATIENCE: Duration = Duration::from_secs(30);
/// Longest answer that is read.
const MAX_ANSWER_BYTES: usize = 64 << 20;

/// One request, ready to send.
#[derive(Debug)]
pub(super) struct Request {
    bytes: Vec<u8>,
}

impl Request {
    /// `POST path` of a JSON body. `deadline` tells the server how long this client waits.
    pub(super) fn post(path: &str, body: &serde_json::Value, deadline: Option<Duration>) -> Self {
        let body = body.to_string();
        let deadline = deadline.map_or(String::new(), |d| format!("x-request-timeout-ms: {}\r\n", d.as_millis()));
        let head = format!(
            "POST {path} HTTP/1.1\r\nhost: bench\r\ncontent-type: application/json\r\n{deadline}content-length: {}\r\n\r\n",
            body.len()
        );
        Request { bytes: [head, body].concat().into_bytes() }
    }

    /// `GET path`.
    pub(super) fn get(path: &str) -> Self {
        Request { bytes: format!("GET {path} HTTP/1.1\r\nhost: bench\r\n\r\n").into_bytes() }
    }
}

/// When requests are sent.
#[derive(Clone, Copy, Debug)]
pub(super) enum Arrivals<'a> {
    /// Every connection sends as soon as it has its answer; so many requests in all.
    Closed(usize),
    /// The same, until this time after the start; one request in any case.
    ClosedFor(Duration),
    /// At these times after the start, in rising order, if a connection is free; else as soon as one is.
    Open(&'a [Duration]),
}

impl Arrivals<'_> {
    /// When request `index` is due; none when there is no such request any more. Times count from the start.
    fn due(&self, index: usize, now: Duration) -> Option<Duration> {
        match self {
            Arrivals::Closed(count) => (index < *count).then_some(now),
            Arrivals::ClosedFor(end) => (index == 0 || now < *end).then_some(now),
            Arrivals::Open(times) => times.get(index).copied(),
        }
    }
}

/// What became of one request. Times count from the start of the load.
#[derive(Clone, Debug)]
pub(super) struct Sample {
    /// Which request of the list.
    pub request: usize,
    /// When it should have been sent.
    pub due: Duration,
    /// When it was sent.
    pub sent: Duration,
    /// When its answer was complete.
    pub done: Duration,
    /// Of the answer.
    pub status: u16,
    /// What the server says of each of [`Stage::ALL`]; zero when it says nothing, as in refusals.
    pub stages: [Duration; Stage::ALL.len()],
    /// Sequences in the largest batch that it was part of.
    pub batch: usize,
}

/// What became of all requests.
#[derive(Debug)]
pub(super) struct Outcome {
    /// In no order.
    pub samples: Vec<Sample>,
    /// From the start to the last answer.
    pub elapsed: Duration,
    /// CPU time of this client's threads.
    pub client_cpu: Duration,
}

/// Sends `requests` in turn over `connections` connections until all of `arrivals` are answered.
///
/// # Errors
/// When a connection fails or an answer cannot be read: a request without an answer is a fault of the server.
pub(super) fn run(
    address: SocketAddr,
    requests: &[Request],
    connections: usize,
    arrivals: Arrivals,
) -> anyhow::Result<Outcome> {
    let open = |_| Connection::open(address);
    let opened = (0..connections).map(open).collect::<Result<Vec<_>, _>>().context("connecting to the server")?;
    let next = AtomicUsize::new(0);
    let client_cpu = Mutex::new(Duration::ZERO);
    let began = Instant::now();
    let client = |mut connection: Connection| -> anyhow::Result<Vec<Sample>> {
        let mut samples = Vec::new();
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            let Some(due) = arrivals.due(index, began.elapsed()) else { break };
            if let Some(early) = due.checked_sub(began.elapsed()) {
                std::thread::sleep(early);
            }
            let request = index % requests.len();
            let sent = began.elapsed();
            let answer = connection.exchange(&requests[request]).with_context(|| format!("request {index}"))?;
            let done = began.elapsed();
            samples.push(Sample { request, due, sent, done, ..answer });
        }
        *client_cpu.lock().expect("no client panics with the sum") += own_cpu_time();
        Ok(samples)
    };
    let samples = std::thread::scope(|scope| {
        let client = &client;
        let clients: Vec<_> = opened.into_iter().map(|c| scope.spawn(move || client(c))).collect();
        clients.into_iter().map(|c| c.join().expect("a client does not panic")).collect::<anyhow::Result<Vec<_>>>()
    })?;
    let samples = samples.concat();
    let elapsed = samples.iter().map(|s| s.done).max().unwrap_or_default();
    Ok(Outcome { samples, elapsed, client_cpu: client_cpu.into_inner().expect("no client panicked") })
}

/// CPU time of the calling thread; zero where the system does not tell.
fn own_cpu_time() -> Duration {
    cpu_time(&std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default())
}

/// CPU time in a `schedstat` file of `/proc`: its first field, nanoseconds.
pub(super) fn cpu_time(schedstat: &str) -> Duration {
    Duration::from_nanos(schedstat.split_whitespace().next().and_then(|n| n.parse().ok()).unwrap_or(0))
}

/// One keep-alive connection.
struct Connection {
    stream: TcpStream,
    /// Reused for every answer.
    answer: Vec<u8>,
}

impl Connection {
    fn open(address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(Connection { stream, answer: vec![0; 16 << 10] })
    }

    /// Sends one request and reads its whole answer; the times of the sample are left at zero.
    fn exchange(&mut self, request: &Request) -> anyhow::Result<Sample> {
        self.stream.write_all(&request.bytes).context("sending a request")?;
        let mut filled = 0;
        let head = loop {
            filled += self.read(filled)?;
            if let Some(at) = self.answer[..filled].windows(4).position(|w| w == b"\r\n\r\n") {
                break at + 4;
            }
        };
        let text = std::str::from_utf8(&self.answer[..head]).context("the head of an answer is not text")?;
        let Head { length, sample } = read_head(text)?;
        ensure!(length <= MAX_ANSWER_BYTES, "an answer of {length} bytes, at most {MAX_ANSWER_BYTES} are read");
        while filled < head + length {
            filled += self.read(filled)?;
        }
        ensure!(filled == head + length, "{} bytes after the end of an answer", filled - head - length);
        Ok(sample)
    }

    /// Reads what is there behind the first `filled` bytes.
    fn read(&mut self, filled: usize) -> anyhow::Result<usize> {
        if filled == self.answer.len() {
            self.answer.resize(2 * filled, 0);
        }
        match self.stream.read(&mut self.answer[filled..]).context("waiting for an answer")? {
            0 => bail!("the server closed the connection before its answer was complete"),
            n => Ok(n),
        }
    }
}

/// What the head of an answer says.
struct Head {
    length: usize,
    sample: Sample,
}

fn read_head(head: &str) -> anyhow::Result<Head> {
    let mut lines = head.lines();
    let status = lines.next().unwrap_or_default();
    let status = status.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3)?.parse().ok());
    let status = status.context("the answer is not HTTP/1.1")?;
    let zero = Duration::ZERO;
    let mut sample =
        Sample { request: 0, due: zero, sent: zero, done: zero, status, stages: [zero; Stage::ALL.len()], batch: 0 };
    let mut length = None;
    for (name, value) in lines.filter_map(|line| line.split_once(": ")) {
        match name {
            "content-length" => length = value.parse().ok(),
            "server-timing" => sample.stages = Stage::ALL.map(|stage| stage_time(value, stage.name())),
            "x-batch-size" => sample.batch = value.parse().unwrap_or(0),
            _ => {}
        }
    }
    Ok(Head { length: length.context("the answer does not tell its length")?, sample })
}

/// The time of stage `name` in a `server-timing` header, such as `tokenize;dur=0.125, queue;dur=0.020`.
fn stage_time(header: &str, name: &str) -> Duration {
    let entry = |e: &str| e.trim().strip_prefix(name)?.strip_prefix(";dur=")?.parse::<f64>().ok();
    let millis = header.split(',').find_map(entry).unwrap_or(0.0);
    Duration::from_secs_f64(millis.max(0.0) / 1e3)
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    /// A server that answers every request of one connection after `pause`, in two pieces.
    fn server(pause: Duration) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            let (mut client, _) = listener.accept().unwrap();
            let mut request = [0; 4096];
            while client.read(&mut request).is_ok_and(|read| read > 0) {
                std::thread::sleep(pause);
                let head = "HTTP/1.1 200 OK\r\nserver-timing: tokenize;dur=0.500, queue;dur=0.250\r\n\
                            x-batch-size: 3\r\ncontent-length: 2\r\n\r\n";
                client.write_all(head.as_bytes()).unwrap();
                client.write_all(b"{}").unwrap();
            }
        });
        address
    }

    #[test]
    fn every_request_has_one_answer_with_the_servers_stages() {
        let requests = [Request::get("/a"), Request::post("/b", &serde_json::json!({"x": 1}), None)];
        let outcome = run(server(Duration::ZERO), &requests, 1, Arrivals::Closed(5)).unwrap();
        let sent: Vec<_> = outcome.samples.iter().map(|s| s.request).collect();
        assert_eq!(sent, [0, 1, 0, 1, 0]);
        for sample in &outcome.samples {
            assert_eq!((sample.status, sample.batch), (200, 3));
            let micros = |us| Duration::from_micros(us);
            assert_eq!(sample.stages, [micros(500), micros(250), Duration::ZERO, Duration::ZERO]);
            assert!(sample.due <= sample.sent && sample.sent < sample.done && sample.done <= outcome.elapsed);
        }
    }

    #[test]
    fn latency_counts_from_when_a_request_was_due_however_late_it_was_sent() {
        let due = [Duration::ZERO; 3];
        let pause = Duration::from_millis(20);
        let outcome = run(server(pause), &[Request::get("/")], 1, Arrivals::Open(&due)).unwrap();
        let latencies: Vec<_> = outcome.samples.iter().map(|s| s.done - s.due).collect();
        assert!(latencies[2] >= 3 * pause, "the third request waited for two answers: {latencies:?}");
    }

    #[test]
    fn answers_that_are_no_http_are_refused() {
        for head in ["", "HTTP/2 200\r\n", "HTTP/1.1 200 OK\r\ncontent-type: x\r\n"] {
            assert!(read_head(head).is_err(), "{head:?}");
        }
    }

    #[test]
    fn cpu_time_is_the_first_field() {
        assert_eq!(cpu_time("1500 20 3\n"), Duration::from_nanos(1500));
        assert_eq!(cpu_time(""), Duration::ZERO);
    }
}
