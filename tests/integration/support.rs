//! What the tests over HTTP share: a server in this process on a free port, and a client that sends raw bytes.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use octet::config::Settings;
use octet::engine::{Engine, EngineOptions, Registry};
use octet::kernels::{Isa, Kernels};
use octet::pipelines::Model;
use octet::server::{self, ROUTES, ShutdownReport};
use octet::telemetry::Metrics;
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::sync::oneshot;

/// Longest wait for anything in a test; a test that needs it has failed.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// The kernels that `OCTET_ISA` names, else the best of this CPU; prints which.
///
/// # Panics
/// When the variable names none, or one that this CPU does not have.
pub fn kernels() -> Kernels {
    let named = std::env::var("OCTET_ISA").ok().filter(|name| !["", "auto"].contains(&name.as_str()));
    let kernels = named.map_or_else(Kernels::detect, |name| {
        let isa: Isa = name.parse().unwrap_or_else(|e| panic!("OCTET_ISA: {e}"));
        Kernels::for_isa(isa).unwrap_or_else(|e| panic!("OCTET_ISA: {e}"))
    });
    println!("ran on {}", kernels.gemm_name());
    kernels
}

/// A head that was trained alone (`octet train --freeze-encoder`), with the shipped encoder beside it: `head` in a folder
/// that it makes.
pub fn frozen_head(root: &Path) -> PathBuf {
    let folder = root.join("head");
    std::fs::create_dir(&folder).unwrap();
    for file in ["config.json", "model.safetensors"] {
        std::fs::copy(Path::new("tests/goldens/minilm-head").join(file), folder.join(file)).unwrap();
    }
    let encoder = std::fs::canonicalize("models/all-MiniLM-L6-v2").unwrap();
    std::os::unix::fs::symlink(encoder, root.join("all-MiniLM-L6-v2")).unwrap();
    folder
}

/// A running server. Dropping it stops it.
pub struct TestServer {
    pub address: SocketAddr,
    shutdown: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<ShutdownReport>>,
}

impl TestServer {
    /// Serves `models` on 127.0.0.1, on a free port.
    pub fn start(models: Vec<Arc<Model>>, settings: &Settings) -> Self {
        Self::start_beside(models, Vec::new(), settings)
    }

    /// The same, and compares their answers with those of `originals`.
    pub fn start_beside(models: Vec<Arc<Model>>, originals: Vec<Arc<Model>>, settings: &Settings) -> Self {
        let metrics = Arc::new(Metrics::new(ROUTES));
        let options = EngineOptions {
            threads: settings.engine.threads,
            isa: "scalar",
            batching: settings.batching.clone(),
            shadow: settings.shadow.clone(),
            feedback: settings.feedback.clone(),
        };
        let registry = Registry::new(models).with_originals(originals);
        let engine = Engine::start(registry, options, metrics.clone());
        let (shutdown, stopped) = oneshot::channel();
        let (tell, told) = std::sync::mpsc::channel();
        let settings = settings.clone();
        let thread = std::thread::spawn(move || {
            let runtime =
                tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
            runtime.block_on(async move {
                let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
                tell.send(listener.local_addr().expect("an address")).expect("the test waits for the address");
                let stopped = async { drop(stopped.await) };
                server::run(listener, engine, &settings, metrics, stopped).await.expect("the server runs")
            })
        });
        let address = told.recv().expect("the server starts");
        TestServer { address, shutdown: Some(shutdown), thread: Some(thread) }
    }

    /// Begins the shutdown without waiting for its end.
    pub fn begin_stop(&mut self) {
        if let Some(shutdown) = self.shutdown.take() {
            let _ = shutdown.send(());
        }
    }

    /// Stops the server and tells how it went.
    pub fn stop(mut self) -> ShutdownReport {
        self.begin_stop();
        self.thread.take().expect("the server runs until it is stopped").join().expect("the server does not panic")
    }

    /// A fresh connection.
    pub fn connect(&self) -> Connection {
        Connection::open(self.address).expect("the server accepts")
    }

    /// `GET` on a fresh connection.
    pub fn get(&self, path: &str) -> Response {
        self.connect().request("GET", path, &[], b"")
    }

    /// `POST` of JSON on a fresh connection.
    pub fn post(&self, path: &str, body: &Value) -> Response {
        self.post_bytes(path, body.to_string().as_bytes())
    }

    /// `POST` of any bytes, called JSON, on a fresh connection.
    pub fn post_bytes(&self, path: &str, body: &[u8]) -> Response {
        self.connect().request("POST", path, &[("content-type", "application/json")], body)
    }
}

impl Drop for TestServer {
    fn drop(&mut self) {
        self.begin_stop();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Waits until `condition` holds.
pub fn wait_until(what: &str, condition: impl Fn() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < PATIENCE, "waited in vain: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// One HTTP/1.1 connection.
pub struct Connection {
    stream: TcpStream,
    /// Bytes that were read and belong to the next response.
    unread: Vec<u8>,
}

/// One HTTP response.
#[derive(Clone, Debug)]
pub struct Response {
    pub status: u16,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Response {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }

    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("the body is UTF-8")
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("not JSON ({e}): {:?}", self.text()))
    }
}

impl Connection {
    pub fn open(address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect_timeout(&address, PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        stream.set_nodelay(true)?;
        Ok(Connection { stream, unread: Vec::new() })
    }

    /// How long to wait for a response, or for room to send, from now on.
    pub fn set_patience(&mut self, patience: Duration) {
        self.stream.set_write_timeout(Some(patience)).expect("a socket takes a timeout");
        self.stream.set_read_timeout(Some(patience)).expect("a socket takes a timeout");
    }

    /// Sends bytes as they are.
    pub fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)
    }

    /// Sends a request with its length, without waiting for the answer.
    pub fn send_request(&mut self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> io::Result<()> {
        let mut request = format!("{method} {path} HTTP/1.1\r\nhost: test\r\ncontent-length: {}\r\n", body.len());
        for (name, value) in headers {
            request += &format!("{name}: {value}\r\n");
        }
        request += "\r\n";
        self.send(&[request.as_bytes(), body].concat())
    }

    /// Sends a request and waits for its answer.
    pub fn request(&mut self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Response {
        self.send_request(method, path, headers, body).expect("the request is sent");
        self.response().expect("the server answers").expect("the server answers before it closes")
    }

    /// The next response; none when the server closed the connection instead.
    pub fn response(&mut self) -> io::Result<Option<Response>> {
        let head_end = loop {
            if let Some(at) = self.unread.windows(4).position(|w| w == b"\r\n\r\n") {
                break at;
            }
            if self.read_more()? == 0 {
                return if self.unread.is_empty() { Ok(None) } else { Err(io::ErrorKind::UnexpectedEof.into()) };
            }
        };
        let head = String::from_utf8(self.unread[..head_end].to_vec()).expect("a head is ASCII");
        self.unread.drain(..head_end + 4);
        let mut lines = head.split("\r\n");
        let status_line = lines.next().expect("a head has a first line");
        let status = status_line.split(' ').nth(1).and_then(|s| s.parse().ok()).expect("a status");
        let headers: Vec<(String, String)> = lines
            .map(|line| line.split_once(':').expect("a header has a colon"))
            .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
            .collect();
        let mut response = Response { status, headers, body: Vec::new() };
        let length = response.header("content-length").map_or(0, |length| length.parse().expect("a length"));
        while self.unread.len() < length {
            if self.read_more()? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        response.body = self.unread.drain(..length).collect();
        Ok(Some(response))
    }

    fn read_more(&mut self) -> io::Result<usize> {
        let mut piece = [0; 16 * 1024];
        let count = self.stream.read(&mut piece)?;
        self.unread.extend_from_slice(&piece[..count]);
        Ok(count)
    }

    /// Whether the server has closed the connection, by an end or a reset; waits for it.
    pub fn is_closed(&mut self) -> bool {
        matches!(self.read_more(), Ok(0) | Err(_))
    }
}

/// Clients that send one small request after the other, until an answer asks them to leave or the server is gone.
pub struct Load {
    answered: Arc<AtomicUsize>,
    refused: Arc<AtomicUsize>,
    lost: Arc<AtomicUsize>,
    clients: Vec<JoinHandle<()>>,
}

impl Load {
    /// So many clients that keep their connection, and so many that take a new one for each request.
    pub fn start(address: SocketAddr, keeping: usize, reconnecting: usize) -> Self {
        let [answered, refused, lost] = std::array::from_fn(|_| Arc::new(AtomicUsize::new(0)));
        let client = |keeps: bool| {
            let (answered, refused, lost) = (answered.clone(), refused.clone(), lost.clone());
            std::thread::spawn(move || {
                let mut kept = None;
                // A connection that is refused was never accepted: the server is gone.
                while let Ok(mut connection) = kept.take().map_or_else(|| Connection::open(address), Ok) {
                    let headers = [("content-type", "application/json")];
                    let sent = connection.send_request("POST", "/v1/classify", &headers, br#"{"input": "good"}"#);
                    match sent.and_then(|()| connection.response()) {
                        Ok(Some(answer)) if answer.status == 200 => {
                            answered.fetch_add(1, Ordering::Relaxed);
                            if answer.header("connection") == Some("close") {
                                return;
                            }
                            kept = keeps.then_some(connection);
                        }
                        Ok(Some(answer)) if is_proper_refusal(&answer) => {
                            refused.fetch_add(1, Ordering::Relaxed);
                            return;
                        }
                        _ => {
                            lost.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                }
            })
        };
        let clients = (0..keeping + reconnecting).map(|number| client(number < keeping)).collect();
        Load { answered, refused, lost, clients }
    }

    /// Waits until so many requests have been answered.
    pub fn wait_for(&self, answers: usize) {
        wait_until("the load runs", || self.answered.load(Ordering::Relaxed) >= answers);
    }

    /// Waits until the server is gone; fails when a request got neither its answer nor a proper 503. Returns the number
    /// of the latter.
    pub fn assert_nothing_lost(self) -> usize {
        self.clients.into_iter().for_each(|client| client.join().expect("a client does not panic"));
        let (lost, answered) = (self.lost.load(Ordering::Relaxed), self.answered.load(Ordering::Relaxed));
        assert_eq!(lost, 0, "requests got no answer, {answered} did");
        self.refused.load(Ordering::Relaxed)
    }
}

/// A 503 that says when to come back, and to leave.
fn is_proper_refusal(answer: &Response) -> bool {
    answer.status == 503 && answer.header("retry-after").is_some() && answer.header("connection") == Some("close")
}
