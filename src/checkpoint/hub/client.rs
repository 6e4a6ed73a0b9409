//! Files from `{endpoint}/{id}/resolve/{revision}/{file}`, as `huggingface_hub/file_download.py` gets them.

use std::io::{Read, Write};
use std::time::Duration;

use sha2::{Digest, Sha256};
use ureq::Agent;
use ureq::http::{HeaderMap, Response, Uri};

use super::super::CheckpointError;
use super::super::file::hex;
use super::super::temporary::Temporary;
use super::cache::{Repository, is_commit};
use super::model_id::ModelId;
use super::{HubError, HubSettings, Progress};

/// Longest weight file: 16 GiB.
const MAX_WEIGHT_BYTES: u64 = 16 << 30;
/// Longest other file: 256 MiB.
const MAX_OTHER_BYTES: u64 = 256 << 20;
const MAX_REDIRECTS: usize = 8;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest silence of a connected hub.
const SILENCE_TIMEOUT: Duration = Duration::from_secs(60);
const PIECE_BYTES: usize = 1 << 18;

/// Talks to one hub about one model.
pub(super) struct Client<'a> {
    agent: Agent,
    endpoint: Uri,
    settings: &'a HubSettings,
    id: &'a ModelId,
}

/// The last answer of a chain of redirects, and what the hub's own answers in it said about the file.
struct Answer {
    response: Response<ureq::Body>,
    commit: Option<String>,
    /// Of the stored file (`x-linked-etag`) when the hub gives it, else of the hub's last answer.
    etag: Option<String>,
    size: Option<u64>,
}

/// What the hub says about a file.
enum Found {
    Here(Answer),
    /// There is none; `stated` when the hub said so rather than just answering 404.
    Absent {
        stated: bool,
    },
}

impl<'a> Client<'a> {
    /// # Errors
    /// [`HubError::Answer`] when the endpoint is not an address.
    pub fn new(settings: &'a HubSettings, id: &'a ModelId) -> Result<Self, HubError> {
        let endpoint = settings.endpoint.trim_end_matches('/');
        let bad = || HubError::Answer {
            url: settings.endpoint.clone(),
            reason: "not an http or https address; check HF_ENDPOINT".into(),
        };
        let endpoint: Uri = endpoint.parse().map_err(|_| bad())?;
        if !matches!(endpoint.scheme_str(), Some("http" | "https")) || endpoint.host().is_none() {
            return Err(bad());
        }
        let mut config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .user_agent(concat!("octet/", env!("CARGO_PKG_VERSION")))
            .timeout_connect(Some(CONNECT_TIMEOUT))
            .timeout_recv_response(Some(SILENCE_TIMEOUT))
            .timeout_per_read(Some(SILENCE_TIMEOUT));
        if matches!(endpoint.host(), Some("localhost" | "127.0.0.1" | "[::1]")) {
            config = config.proxy(None);
        }
        Ok(Client { agent: config.build().into(), endpoint, settings, id })
    }

    /// The commit that a branch or tag stands for now.
    pub fn commit_of(&self, revision: &str) -> Result<String, HubError> {
        let url = self.url(revision, "config.json");
        let Found::Here(answer) = self.ask("HEAD", &url)? else { return Err(self.not_found("config.json")) };
        answer.commit.ok_or_else(|| HubError::Answer {
            url,
            reason: "the answer has no valid x-repo-commit header; is HF_ENDPOINT a hub?".into(),
        })
    }

    /// Brings one file into the cache; `false` when the repository does not have it.
    pub fn fetch(
        &self,
        repository: &Repository,
        commit: &str,
        name: &str,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<bool, HubError> {
        let answer = match self.ask("GET", &self.url(commit, name))? {
            Found::Here(answer) => answer,
            Found::Absent { stated } => {
                if stated {
                    repository.mark_absent(commit, name)?;
                }
                return Ok(false);
            }
        };
        let known = answer.etag.clone().filter(|etag| {
            let blob = repository.blob(etag).ok().and_then(|path| std::fs::metadata(path).ok());
            blob.is_some_and(|m| m.is_file() && answer.size.is_none_or(|size| size == m.len()))
        });
        let etag = match known {
            Some(etag) => etag,
            None => self.receive(answer, repository, name, progress)?,
        };
        repository.link(commit, name, &etag)?;
        Ok(true)
    }

    /// Writes the body to a blob, checked, and returns the blob's name.
    fn receive(
        &self,
        answer: Answer,
        repository: &Repository,
        name: &str,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<String, HubError> {
        let limit = if name.ends_with(".safetensors") { MAX_WEIGHT_BYTES } else { MAX_OTHER_BYTES };
        let too_long = || self.damaged(name, format!("longer than the limit of {limit} bytes"));
        if answer.size.is_some_and(|size| size > limit) {
            return Err(too_long());
        }
        let path = repository.blob("download")?;
        let mut temporary = Temporary::file(&path).map_err(CheckpointError::io("create", &path))?;
        let mut body = answer.response.into_body().into_reader();
        let (mut hasher, mut received, mut piece) = (Sha256::new(), 0u64, vec![0u8; PIECE_BYTES]);
        progress(Progress { file: name, received, total: answer.size });
        loop {
            let n = match body.read(&mut piece) {
                Ok(0) => break,
                Ok(n) => n,
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(e) => return Err(self.damaged(name, format!("the connection broke after {received} bytes ({e})"))),
            };
            received += n as u64;
            if received > limit {
                return Err(too_long());
            }
            hasher.update(&piece[..n]);
            temporary.file.write_all(&piece[..n]).map_err(CheckpointError::io("write", &path))?;
            progress(Progress { file: name, received, total: answer.size });
        }
        if let Some(size) = answer.size.filter(|size| *size != received) {
            return Err(self.damaged(name, format!("{received} of {size} bytes")));
        }
        let sha256 = hex(&hasher.finalize());
        // The etag of a large file is its SHA-256; that of a small one is its git hash (SHA-1), which is not checked.
        let is_sha256 = |etag: &str| etag.len() == 64 && etag.bytes().all(|b| b.is_ascii_hexdigit());
        if let Some(expected) = answer.etag.as_ref().filter(|etag| is_sha256(etag) && **etag != sha256) {
            return Err(self.damaged(name, format!("its sha256 is {sha256}, the hub announced {expected}")));
        }
        temporary.file.sync_all().map_err(CheckpointError::io("write", &path))?;
        let etag = answer.etag.unwrap_or(sha256);
        let blob = repository.blob(&etag)?;
        temporary.rename(&blob).map_err(CheckpointError::io("write", &blob))?;
        Ok(etag)
    }

    fn url(&self, revision: &str, name: &str) -> String {
        let endpoint = self.settings.endpoint.trim_end_matches('/');
        format!("{endpoint}/{}/resolve/{}/{name}", self.id, revision.replace('/', "%2F"))
    }

    /// Sends a request and follows redirects. The token goes to the
    /// hub only: a redirect may lead to a store of another company.
    fn ask(&self, method: &str, url: &str) -> Result<Found, HubError> {
        let (mut commit, mut linked_etag, mut etag, mut size) = (None, None, None, None);
        let mut url = url.to_string();
        for _ in 0..=MAX_REDIRECTS {
            let answer_error = |reason: String| HubError::Answer { url: without_query(&url), reason };
            let uri: Uri = url.parse().map_err(|_| answer_error("not an address".into()))?;
            let is_hub = same_origin(&uri, &self.endpoint);
            let mut request = if method == "HEAD" { self.agent.head(&url) } else { self.agent.get(&url) };
            if let Some(token) = self.settings.token.as_ref().filter(|_| is_hub) {
                request = request.header("authorization", format!("Bearer {token}"));
            }
            let response = request.call().map_err(|e| request_error(&url, &e))?;
            let status = response.status().as_u16();
            let headers = response.headers();
            if is_hub {
                let said = |name: &str| header(headers, name);
                commit = said("x-repo-commit").filter(|c| is_commit(c)).map(String::from).or(commit);
                linked_etag = said("x-linked-etag").and_then(blob_name).or(linked_etag);
                etag = said("etag").and_then(blob_name).or(etag);
                size = said("x-linked-size").and_then(|v| v.parse().ok()).or(size);
            }
            match status {
                200 => {
                    let size = size.or_else(|| header(headers, "content-length").and_then(|v| v.parse().ok()));
                    return Ok(Found::Here(Answer { commit, etag: linked_etag.or(etag), size, response }));
                }
                301 | 302 | 303 | 307 | 308 => {
                    let location = header(headers, "location");
                    let location = location.ok_or_else(|| answer_error(format!("{status} without a location")))?;
                    let next = join(&uri, location);
                    if uri.scheme_str() == Some("https") && !next.starts_with("https://") {
                        return Err(answer_error("a redirect from https to http, which is not followed".into()));
                    }
                    url = next;
                }
                _ => return self.refusal(status, header(headers, "x-error-code"), &url),
            }
        }
        Err(HubError::Answer { url: without_query(&url), reason: format!("more than {MAX_REDIRECTS} redirects") })
    }

    /// What an answer other than a file means.
    fn refusal(&self, status: u16, code: Option<&str>, url: &str) -> Result<Found, HubError> {
        match (status, code) {
            (404, Some("RepoNotFound")) => Err(self.not_found("model")),
            (404, Some("RevisionNotFound")) => Err(self.not_found(&format!("revision {}", self.id.revision))),
            (404, _) => Ok(Found::Absent { stated: code == Some("EntryNotFound") }),
            (401 | 403, _) => Err(HubError::Denied {
                endpoint: self.settings.endpoint.clone(),
                id: self.id.to_string(),
                status,
                hint: match self.settings.token {
                    None => "it is gated, private or unknown; check the id, accept its terms on its page, set HF_TOKEN",
                    Some(_) => "HF_TOKEN has no access to it; check the id, accept its terms on its page",
                },
            }),
            _ => {
                Err(HubError::Answer { url: without_query(url), reason: format!("answered {status}; try again later") })
            }
        }
    }

    fn not_found(&self, what: &str) -> HubError {
        HubError::NotFound { endpoint: self.settings.endpoint.clone(), id: self.id.to_string(), what: what.into() }
    }

    fn damaged(&self, name: &str, reason: String) -> HubError {
        HubError::Damaged { id: self.id.to_string(), file: name.into(), reason }
    }
}

fn request_error(url: &str, error: &ureq::Error) -> HubError {
    let url = without_query(url);
    match error {
        ureq::Error::Protocol(_) | ureq::Error::Http(_) | ureq::Error::LargeResponseHeader(..) => {
            HubError::Answer { url, reason: format!("not an answer of a hub: {error}") }
        }
        _ => HubError::Unreachable { url, reason: error.to_string() },
    }
}

fn header<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h str> {
    headers.get(name).and_then(|v| v.to_str().ok())
}

/// An etag as the cache names blobs, without quotes; `None` when it could not be a file name.
fn blob_name(etag: &str) -> Option<String> {
    let etag = etag.trim_start_matches("W/").trim_matches('"');
    let is_plain = (1..=128).contains(&etag.len()) && etag.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    is_plain.then(|| etag.to_string())
}

fn same_origin(a: &Uri, b: &Uri) -> bool {
    let port = |u: &Uri| u.port_u16().or(if u.scheme_str() == Some("https") { Some(443) } else { Some(80) });
    let host = |u: &Uri| u.host().map(str::to_ascii_lowercase);
    a.scheme() == b.scheme() && host(a) == host(b) && port(a) == port(b)
}

/// A `location` header, which may be relative, as an address (RFC 3986, section 5.2).
fn join(base: &Uri, location: &str) -> String {
    let location = location.split('#').next().unwrap_or_default();
    let scheme = base.scheme_str().unwrap_or("https");
    if location.starts_with("http://") || location.starts_with("https://") {
        return location.to_string();
    }
    if let Some(rest) = location.strip_prefix("//") {
        return format!("{scheme}://{rest}");
    }
    let authority = base.authority().map_or("", |a| a.as_str());
    if location.starts_with('/') {
        return format!("{scheme}://{authority}{location}");
    }
    let folder = base.path().rsplit_once('/').map_or("", |(folder, _)| folder);
    format!("{scheme}://{authority}{folder}/{location}")
}

/// An address as it may be shown: the query of a redirect can hold a signature.
fn without_query(url: &str) -> String {
    url.split('?').next().unwrap_or_default().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locations_are_joined_as_browsers_do() {
        let base: Uri = "https://hub.example:8443/a/b/resolve/main/config.json?x=1".parse().unwrap();
        let cases = [
            ("https://cdn.example/f?sig=1#part", "https://cdn.example/f?sig=1"),
            ("//cdn.example/f", "https://cdn.example/f"),
            ("/api/f", "https://hub.example:8443/api/f"),
            ("other.json", "https://hub.example:8443/a/b/resolve/main/other.json"),
        ];
        for (location, expected) in cases {
            assert_eq!(join(&base, location), expected);
        }
    }

    #[test]
    fn the_token_is_for_one_origin() {
        let hub: Uri = "https://hub.example".parse().unwrap();
        for (url, same) in [
            ("https://hub.example/x", true),
            ("https://HUB.example:443/x", true),
            ("http://hub.example/x", false),
            ("https://hub.example:444/x", false),
            ("https://hub.example.evil/x", false),
            ("https://cdn.hub.example/x", false),
        ] {
            assert_eq!(same_origin(&url.parse().unwrap(), &hub), same, "{url}");
        }
    }

    #[test]
    fn etags_that_are_not_file_names_are_not_used() {
        assert_eq!(blob_name("\"abc123\"").as_deref(), Some("abc123"));
        assert_eq!(blob_name("W/\"abc-1\"").as_deref(), Some("abc-1"));
        for bad in ["\"../../etc/passwd\"", "\"\"", "\"a/b\"", "\".hidden\""] {
            assert_eq!(blob_name(bad), None, "{bad}");
        }
    }
}
