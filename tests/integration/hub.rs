//! Models from a hub, played by a server on this machine.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use octet::checkpoint::hub::{HubError, HubSettings, resolve, resolve_with_progress};
use octet::checkpoint::{Existing, ModelDir, ModelFiles, Tensor, write_model};
use serde_json::json;
use sha2::{Digest, Sha256};

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
const TOKEN: &str = "hf_secret";

/// One request as a server saw it.
#[derive(Clone, Debug)]
struct Request {
    method: String,
    path: String,
    token: Option<String>,
}

/// What a server answers: status, headers, body.
struct Reply(u16, Vec<(&'static str, String)>, Vec<u8>);

/// An HTTP server that answers one request per connection.
struct Server {
    address: String,
    stop: Arc<AtomicBool>,
    requests: Arc<Mutex<Vec<Request>>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Server {
    fn start(answer: impl Fn(&Request) -> Reply + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let stop = Arc::new(AtomicBool::new(false));
        let requests = Arc::new(Mutex::new(Vec::new()));
        let (stopped, log) = (stop.clone(), requests.clone());
        let thread = std::thread::spawn(move || {
            for stream in listener.incoming() {
                if stopped.load(Ordering::SeqCst) {
                    return;
                }
                let mut stream = stream.unwrap();
                let request = read_request(&stream);
                log.lock().unwrap().push(request.clone());
                // A client that needs only the headers may be gone already.
                let _ = write_reply(&mut stream, &request, answer(&request));
            }
        });
        Server { address, stop, requests, thread: Some(thread) }
    }

    fn requests(&self) -> Vec<Request> {
        self.requests.lock().unwrap().clone()
    }

    /// Closes the port.
    fn stop(&mut self) {
        let Some(thread) = self.thread.take() else { return };
        self.stop.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.address.trim_start_matches("http://"));
        thread.join().unwrap();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
    }
}

fn read_request(stream: &TcpStream) -> Request {
    let mut lines = BufReader::new(stream).lines().map_while(Result::ok);
    let first = lines.next().unwrap_or_default();
    let mut words = first.split(' ').map(String::from);
    let mut request =
        Request { method: words.next().unwrap_or_default(), path: words.next().unwrap_or_default(), token: None };
    for line in lines.take_while(|line| !line.is_empty()) {
        if let Some((name, value)) = line.split_once(':')
            && name.eq_ignore_ascii_case("authorization")
        {
            request.token = Some(value.trim().to_string());
        }
    }
    request
}

fn write_reply(stream: &mut TcpStream, request: &Request, Reply(status, headers, body): Reply) -> std::io::Result<()> {
    let mut head = format!("HTTP/1.1 {status} x\r\nconnection: close\r\n");
    if !headers.iter().any(|(name, _)| *name == "content-length") {
        head.push_str(&format!("content-length: {}\r\n", body.len()));
    }
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str("\r\n");
    stream.write_all(head.as_bytes())?;
    if request.method != "HEAD" {
        stream.write_all(&body)?;
    }
    stream.flush()
}

fn sha256(content: &[u8]) -> String {
    Sha256::digest(content).iter().map(|b| format!("{b:02x}")).collect()
}

/// The files of a model, by name.
type Files = BTreeMap<String, Vec<u8>>;

/// A small model as `octet quantize` would write it.
fn model_files() -> Files {
    let root = tempfile::tempdir().unwrap();
    let source = root.path().join("source");
    std::fs::create_dir_all(source.join("1_Pooling")).unwrap();
    std::fs::write(source.join("tokenizer.json"), "{\"version\": \"1.0\"}").unwrap();
    let modules = json!([
        {"path": "", "type": "sentence_transformers.models.Transformer"},
        {"path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
    ]);
    std::fs::write(source.join("modules.json"), modules.to_string()).unwrap();
    std::fs::write(source.join("1_Pooling/config.json"), r#"{"pooling_mode_mean_tokens": true}"#).unwrap();
    let config = json!({
        "model_type": "bert", "hidden_size": 4, "num_hidden_layers": 1, "num_attention_heads": 2,
        "intermediate_size": 8, "vocab_size": 3, "max_position_embeddings": 16,
    });
    let tensor = |n: usize| Tensor::F32 { shape: vec![n], data: vec![0.5; n] };
    let files = ModelFiles {
        config: config.as_object().unwrap().clone(),
        tensors: BTreeMap::from([("a".to_string(), tensor(3)), ("b".to_string(), tensor(200_000))]),
        copy_from: Some(&source),
        ..ModelFiles::default()
    };
    let model = root.path().join("model");
    write_model(&model, &files, Existing::Refuse).unwrap();
    ["config.json", "tokenizer.json", "modules.json", "1_Pooling/config.json", "model.safetensors"]
        .map(|name| (name.to_string(), std::fs::read(model.join(name)).unwrap()))
        .into()
}

/// The same model in two shards.
fn sharded_files() -> Files {
    let mut files = model_files();
    let weights = files.remove("model.safetensors").unwrap();
    let index = json!({"weight_map": {"a": "model-1-of-2.safetensors", "b": "model-2-of-2.safetensors"}});
    let weights = safetensors::SafeTensors::deserialize(&weights).unwrap();
    for (name, file) in [("a", "model-1-of-2.safetensors"), ("b", "model-2-of-2.safetensors")] {
        let shard = safetensors::serialize([(name, weights.tensor(name).unwrap())], None).unwrap();
        files.insert(file.into(), shard);
    }
    files.insert("model.safetensors.index.json".into(), index.to_string().into_bytes());
    files
}

/// A hub with the model `acme/tiny`, a second server that stores its large files, and an empty cache.
struct World {
    hub: Server,
    store: Server,
    cache: tempfile::TempDir,
}

impl World {
    fn new(files: Files) -> Self {
        Self::with_answers(files, |_| None)
    }

    /// A hub that gives `special` answers where there are any.
    fn with_answers(files: Files, special: impl Fn(&Request) -> Option<Reply> + Send + 'static) -> Self {
        let blobs: BTreeMap<String, Vec<u8>> = files.values().map(|f| (sha256(f), f.clone())).collect();
        let store = Server::start(move |request| {
            let name = request.path.trim_start_matches("/store/").split('?').next().unwrap_or_default();
            match blobs.get(name) {
                Some(blob) => Reply(200, vec![("etag", "\"of-the-store\"".into())], blob.clone()),
                None => Reply(403, vec![], vec![]),
            }
        });
        let store_address = store.address.clone();
        let hub = Server::start(move |request| {
            special(request).unwrap_or_else(|| answer_as_hub(&files, &store_address, &request.path))
        });
        World { hub, store, cache: tempfile::tempdir().unwrap() }
    }

    fn settings(&self) -> HubSettings {
        HubSettings {
            endpoint: self.hub.address.clone(),
            token: Some(TOKEN.into()),
            cache_dir: self.cache.path().to_path_buf(),
            offline: false,
        }
    }

    fn offline(&self) -> HubSettings {
        HubSettings { offline: true, ..self.settings() }
    }

    fn repository(&self) -> PathBuf {
        self.cache.path().join("models--acme--tiny")
    }

    fn blobs(&self) -> Vec<String> {
        let Ok(blobs) = std::fs::read_dir(self.repository().join("blobs")) else { return Vec::new() };
        let mut names: Vec<String> = blobs.map(|b| b.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

/// What the hub of Hugging Face answers: small files after a redirect on the same host, large ones from a store.
fn answer_as_hub(files: &Files, store: &str, path: &str) -> Reply {
    let commit = || ("x-repo-commit", COMMIT.to_string());
    if let Some(name) = path.strip_prefix("/api/cache/") {
        return Reply(200, vec![("etag", format!("\"{}\"", &sha256(&files[name])[..40]))], files[name].clone());
    }
    let Some(rest) = path.strip_prefix("/acme/tiny/resolve/") else {
        return Reply(404, vec![("x-error-code", "RepoNotFound".into())], b"no such model".to_vec());
    };
    let (revision, name) = rest.split_once('/').unwrap();
    if ![COMMIT, "main", "refs%2Fpr%2F1"].contains(&revision) {
        return Reply(404, vec![("x-error-code", "RevisionNotFound".into())], vec![]);
    }
    let Some(content) = files.get(name) else {
        return Reply(404, vec![commit(), ("x-error-code", "EntryNotFound".into())], b"no such file".to_vec());
    };
    let sha = sha256(content);
    if name.ends_with(".safetensors") {
        let headers = vec![
            commit(),
            ("location", format!("{store}/store/{sha}?signature=s3cret")),
            ("x-linked-etag", format!("\"{sha}\"")),
            ("x-linked-size", content.len().to_string()),
        ];
        return Reply(302, headers, b"Found".to_vec());
    }
    let headers = vec![commit(), ("location", format!("/api/cache/{name}")), ("etag", "W/\"of-the-redirect\"".into())];
    Reply(307, headers, b"Temporary Redirect".to_vec())
}

fn assert_says<T: std::fmt::Debug>(result: Result<T, HubError>, parts: &[&str]) {
    let message = result.unwrap_err().to_string();
    for part in parts {
        assert!(message.contains(part), "{message:?} does not contain {part:?}");
    }
    assert!(!message.contains(TOKEN) && !message.contains("s3cret"), "{message:?} shows a secret");
}

#[test]
fn a_model_is_cached_as_huggingface_hub_does_and_found_again_without_the_hub() {
    let files = model_files();
    let mut world = World::new(files.clone());
    let snapshot = resolve("acme/tiny", &world.settings()).unwrap();

    let repository = world.repository();
    assert_eq!(snapshot, repository.join("snapshots").join(COMMIT));
    assert_eq!(std::fs::read_to_string(repository.join("refs/main")).unwrap(), COMMIT);
    let mut etags: Vec<String> = Vec::new();
    for (name, content) in &files {
        let sha = sha256(content);
        let etag = if name.ends_with(".safetensors") { sha } else { sha[..40].to_string() };
        let up = if name.contains('/') { "../../../blobs" } else { "../../blobs" };
        assert_eq!(std::fs::read_link(snapshot.join(name)).unwrap(), Path::new(up).join(&etag), "{name}");
        assert_eq!(std::fs::read(snapshot.join(name)).unwrap(), *content, "{name}");
        etags.push(etag);
    }
    etags.sort();
    assert_eq!(world.blobs(), etags, "one blob per file, no leftovers");
    assert!(repository.join(".no_exist").join(COMMIT).join("sentence_bert_config.json").is_file());
    assert_eq!(ModelDir::open(&snapshot).unwrap().weights().unwrap().names().count(), 2);

    let asked = world.hub.requests().len();
    assert_eq!(resolve("acme/tiny", &world.settings()).unwrap(), snapshot);
    assert_eq!(world.hub.requests().len(), asked, "a complete snapshot needs no request");
    world.hub.stop();
    world.store.stop();
    for settings in [world.settings(), world.offline()] {
        assert_eq!(resolve("acme/tiny", &settings).unwrap(), snapshot);
        assert_eq!(resolve(&format!("acme/tiny@{COMMIT}"), &settings).unwrap(), snapshot);
    }
}

#[test]
fn the_token_goes_to_the_hub_and_to_no_other_host() {
    let world = World::new(model_files());
    resolve("acme/tiny", &world.settings()).unwrap();
    let hub = world.hub.requests();
    assert!(hub.iter().any(|r| r.path.starts_with("/api/cache/")), "a redirect within the hub was followed");
    assert!(hub.iter().all(|r| r.token.as_deref() == Some("Bearer hf_secret")), "{hub:?}");
    let store = world.store.requests();
    assert!(store.len() == 1 && store[0].token.is_none(), "{store:?}");
}

#[test]
fn a_sharded_model_is_fetched_with_all_shards() {
    let world = World::new(sharded_files());
    let snapshot = resolve("acme/tiny@refs/pr/1", &world.settings()).unwrap();
    let mut weights = ModelDir::open(&snapshot).unwrap().weights().unwrap();
    assert_eq!(weights.take("b", &[200_000]).unwrap().into_f32(), vec![0.5; 200_000]);
    assert!(weights.contains("a"));
    assert_eq!(std::fs::read_to_string(world.repository().join("refs/refs/pr/1")).unwrap(), COMMIT);
    assert_eq!(resolve("acme/tiny@refs/pr/1", &world.offline()).unwrap(), snapshot);
}

#[test]
fn progress_reaches_the_size_of_each_file() {
    let files = model_files();
    let world = World::new(files.clone());
    let mut seen: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    resolve_with_progress("acme/tiny", &world.settings(), &mut |p| {
        assert_eq!(p.total, Some(files[p.file].len() as u64));
        seen.entry(p.file.to_string()).or_default().push(p.received);
    })
    .unwrap();
    assert_eq!(seen.len(), files.len());
    for (name, received) in seen {
        assert!(received.is_sorted() && received[0] == 0, "{name}: {received:?}");
        assert_eq!(*received.last().unwrap(), files[&name].len() as u64, "{name}");
    }
}

#[test]
fn what_the_hub_does_not_have_is_named() {
    let world = World::new(model_files());
    let settings = world.settings();
    assert_says(resolve("acme/other", &settings), &["no model of acme/other", "there is no folder"]);
    assert_says(resolve("acme/tiny@v9", &settings), &["no revision v9 of acme/tiny"]);

    for name in ["config.json", "tokenizer.json"] {
        let mut files = model_files();
        files.remove(name);
        let world = World::new(files);
        assert_says(resolve("acme/tiny", &world.settings()), &[name, "acme/tiny"]);
    }
    let mut pickles = model_files();
    pickles.remove("model.safetensors");
    pickles.insert("pytorch_model.bin".into(), vec![1]);
    let world = World::new(pickles);
    assert_says(resolve("acme/tiny", &world.settings()), &["no model.safetensors", "convert it"]);
    assert!(!world.repository().join("refs/main").exists(), "an incomplete model is not remembered");

    let mut shards = sharded_files();
    shards.remove("model-2-of-2.safetensors");
    let world = World::new(shards);
    assert_says(resolve("acme/tiny", &world.settings()), &["no model-2-of-2.safetensors of acme/tiny"]);
}

#[test]
fn a_refusal_says_what_to_do_about_the_token() {
    let world = World::with_answers(model_files(), |request| {
        let status = if request.token.is_some() { 403 } else { 401 };
        Some(Reply(status, vec![("x-error-code", "GatedRepo".into())], vec![]))
    });
    let without = HubSettings { token: None, ..world.settings() };
    assert_says(resolve("acme/tiny", &without), &["refuses acme/tiny (401)", "set HF_TOKEN"]);
    assert_says(resolve("acme/tiny", &world.settings()), &["refuses acme/tiny (403)", "HF_TOKEN has no access"]);
}

#[test]
fn damaged_downloads_are_refused_and_leave_nothing() {
    let change = |kind: &'static str| {
        World::with_answers(model_files(), move |request| {
            if !request.path.ends_with("/model.safetensors") {
                return None;
            }
            let announced = |etag: &str| ("x-linked-etag", format!("\"{etag}\""));
            Some(match kind {
                "other content" => Reply(200, vec![announced(&"0".repeat(64))], vec![1; 1000]),
                "short" => Reply(200, vec![("x-linked-size", "5000".into())], vec![1; 1000]),
                "broken" => Reply(200, vec![("content-length", "5000".into())], vec![1; 1000]),
                _ => Reply(200, vec![("x-linked-size", (1u64 << 40).to_string())], vec![1; 1000]),
            })
        })
    };
    for (kind, part) in [
        ("other content", "the hub announced 0000"),
        ("short", "1000 of 5000 bytes"),
        ("broken", "after 1000 bytes"),
        ("huge", "longer than the limit"),
    ] {
        let world = change(kind);
        assert_says(resolve("acme/tiny", &world.settings()), &["model.safetensors of acme/tiny", part]);
        assert_eq!(world.blobs().len(), 4, "{kind}: only the small files are kept");
        let snapshot = world.repository().join("snapshots").join(COMMIT);
        assert!(!snapshot.join("model.safetensors").exists() && !world.repository().join("refs/main").exists());

        let healthy = World::new(model_files());
        let settings = HubSettings { cache_dir: world.cache.path().into(), ..healthy.settings() };
        let snapshot = resolve("acme/tiny", &settings).unwrap();
        assert!(ModelDir::open(&snapshot).is_ok(), "{kind}: the next attempt completes the snapshot");
        assert_eq!(healthy.store.requests().len(), 1);
    }
}

#[test]
fn answers_that_are_not_a_hubs_are_refused() {
    let world = World::with_answers(model_files(), |r| Some(Reply(302, vec![("location", r.path.clone())], vec![])));
    assert_says(resolve("acme/tiny", &world.settings()), &["more than 8 redirects"]);
    let world = World::with_answers(model_files(), |_| Some(Reply(200, vec![], b"<html>".to_vec())));
    assert_says(resolve("acme/tiny", &world.settings()), &["x-repo-commit", "HF_ENDPOINT"]);
    let world = World::with_answers(model_files(), |_| Some(Reply(503, vec![], vec![])));
    assert_says(resolve("acme/tiny", &world.settings()), &["answered 503", "try again later"]);
    let nonsense = HubSettings { endpoint: "ftp://hub".into(), ..world.settings() };
    assert_says(resolve("acme/tiny", &nonsense), &["not an http or https address"]);
}

#[test]
fn an_etag_cannot_name_a_file_outside_the_cache() {
    let world = World::with_answers(model_files(), |request| {
        let etag = ("etag", "\"../../../../escaped\"".to_string());
        let is_config = request.path.ends_with(&format!("{COMMIT}/config.json"));
        (is_config && request.method == "GET").then(|| Reply(200, vec![etag], b"{}".to_vec()))
    });
    let snapshot = resolve("acme/tiny", &world.settings()).unwrap();
    let blob = std::fs::read_link(snapshot.join("config.json")).unwrap();
    assert_eq!(blob, Path::new("../../blobs").join(sha256(b"{}")));
}

#[test]
fn an_unreachable_hub_and_an_empty_cache_are_told_apart() {
    let mut world = World::new(model_files());
    world.hub.stop();
    let online = world.settings();
    assert_says(resolve("acme/tiny", &online), &["cannot reach", &online.endpoint, "HF_HUB_OFFLINE=1"]);
    let offline = resolve("acme/tiny", &world.offline());
    assert_says(offline, &["acme/tiny is not in the cache", "revision main is missing", "unset HF_HUB_OFFLINE"]);
}

#[test]
fn a_cache_that_another_program_filled_is_completed_online_and_used_as_it_is_offline() {
    let files = model_files();
    let world = World::new(files.clone());
    let snapshot = world.repository().join("snapshots").join(COMMIT);
    std::fs::create_dir_all(&snapshot).unwrap();
    std::fs::create_dir_all(world.repository().join("refs")).unwrap();
    std::fs::write(world.repository().join("refs/main"), COMMIT).unwrap();
    for name in ["config.json", "model.safetensors"] {
        std::fs::write(snapshot.join(name), &files[name]).unwrap();
    }
    assert_says(resolve("acme/tiny", &world.offline()), &["not in the cache", "tokenizer.json is missing"]);
    std::fs::write(snapshot.join("tokenizer.json"), &files["tokenizer.json"]).unwrap();
    assert_eq!(resolve("acme/tiny", &world.offline()).unwrap(), snapshot);
    assert!(ModelDir::open(&snapshot).unwrap().pooling().is_none());
    assert!(world.hub.requests().is_empty());

    assert_eq!(resolve("acme/tiny", &world.settings()).unwrap(), snapshot);
    assert!(ModelDir::open(&snapshot).unwrap().pooling().is_some());
    assert!(world.store.requests().is_empty(), "weights that are there are not fetched again");
}
