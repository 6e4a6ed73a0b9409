//! A folder, or the id of a model on a hub → a folder on this machine.
//!
//! Hub models are kept in the cache layout of `huggingface_hub`, so that Octet and Python tools share downloads. A
//! cached model is used without asking the hub again; to follow a branch that moved, give a commit or delete the cached
//! reference. Nothing here reads the environment: [`HubSettings::from_lookup`] is told where to look.
//!
//! Start with [`resolve`].

mod cache;
mod client;
mod model_id;

use std::fmt;
use std::path::{Path, PathBuf};

use super::CheckpointError;
use super::file::read_in;
use super::model_dir::{INDEX_FILE, MAX_INDEX_BYTES, WEIGHTS_FILE, shard_names};
use cache::Repository;
use client::Client;
use model_id::ModelId;

/// Files without which a model cannot be opened, besides its weights.
const REQUIRED: [&str; 2] = ["config.json", "tokenizer.json"];
/// Files that are fetched when the repository has them.
const OPTIONAL: [&str; 7] = [
    "modules.json",
    "1_Pooling/config.json",
    "sentence_bert_config.json",
    "config_sentence_transformers.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "quant.json",
];

/// Where models are looked for and fetched from.
#[derive(Clone, PartialEq, Eq)]
pub struct HubSettings {
    /// Root address of the hub.
    pub endpoint: String,
    /// Sent to the hub, and only there, to reach gated and private models.
    pub token: Option<String>,
    /// Folder of the cache; it holds one `models--owner--name` per model.
    pub cache_dir: PathBuf,
    /// Whether to use only what is cached.
    pub offline: bool,
}

impl Default for HubSettings {
    fn default() -> Self {
        Self::from_lookup(|_| None)
    }
}

impl fmt::Debug for HubSettings {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.debug_struct("HubSettings")
            .field("endpoint", &self.endpoint)
            .field("token", &self.token.as_ref().map(|_| "(set)"))
            .field("cache_dir", &self.cache_dir)
            .field("offline", &self.offline)
            .finish()
    }
}

impl HubSettings {
    /// Settings from the variables that `huggingface_hub` knows; `lookup` gives a variable's value. Empty is unset.
    ///
    /// - `HF_ENDPOINT`: root address, `https://huggingface.co` by default;
    /// - `HF_TOKEN`, else the file `HF_TOKEN_PATH`, else `$HF_HOME/token` (written by `hf auth login`);
    /// - `HF_HUB_CACHE` or `HUGGINGFACE_HUB_CACHE`, else `$HF_HOME/hub`;
    /// - `HF_HOME`: `$XDG_CACHE_HOME/huggingface` by default, else `~/.cache/huggingface`;
    /// - `HF_HUB_OFFLINE`, else `TRANSFORMERS_OFFLINE`: `1`, `on`, `yes` or `true`.
    pub fn from_lookup(lookup: impl Fn(&str) -> Option<String>) -> Self {
        let get = |key: &str| lookup(key).map(|v| v.trim().to_string()).filter(|v| !v.is_empty());
        let path = |key: &str| get(key).map(PathBuf::from);
        let cache_home = path("XDG_CACHE_HOME").unwrap_or_else(|| path("HOME").unwrap_or_default().join(".cache"));
        let home = path("HF_HOME").unwrap_or_else(|| cache_home.join("huggingface"));
        let token_file = path("HF_TOKEN_PATH").unwrap_or_else(|| home.join("token"));
        let stored_token = || std::fs::read_to_string(token_file).ok().map(|t| t.trim().to_string());
        let offline = get("HF_HUB_OFFLINE").or_else(|| get("TRANSFORMERS_OFFLINE"));
        let cache_dir = path("HF_HUB_CACHE").or_else(|| path("HUGGINGFACE_HUB_CACHE"));
        HubSettings {
            endpoint: get("HF_ENDPOINT").unwrap_or_else(|| "https://huggingface.co".into()),
            token: get("HF_TOKEN").or_else(stored_token).filter(|t| !t.is_empty()),
            cache_dir: cache_dir.unwrap_or_else(|| home.join("hub")),
            offline: offline.is_some_and(|v| ["1", "on", "yes", "true"].contains(&v.to_ascii_lowercase().as_str())),
        }
    }
}

/// How far the download of one file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress<'a> {
    /// Name in the repository.
    pub file: &'a str,
    /// Bytes received.
    pub received: u64,
    /// Size of the file, when the hub says so.
    pub total: Option<u64>,
}

/// Why a model is not on this machine; each message says what to do.
#[derive(Debug, thiserror::Error)]
pub enum HubError {
    /// Neither a folder nor an id.
    #[error("there is no folder {0:?}, and it is not a hub id (owner/name or owner/name@revision)")]
    NotAnId(String),
    /// The hub wants a token, or another one.
    #[error("{endpoint} refuses {id} ({status}): {hint}")]
    Denied { endpoint: String, id: String, status: u16, hint: &'static str },
    /// The hub does not have it.
    #[error("{endpoint} has no {what} of {id}, and there is no folder of that name; check the id")]
    NotFound { endpoint: String, id: String, what: String },
    /// The repository has no weights that can be read.
    #[error("{id} has no {WEIGHTS_FILE} and no {INDEX_FILE}; convert it with Transformers: save_pretrained(folder)")]
    NoWeights { id: String },
    /// Offline, and the cache does not have it.
    #[error(
        "{id} is not in the cache {cache_dir} ({missing} is missing), and the hub is switched off; unset HF_HUB_OFFLINE"
    )]
    NotCached { id: String, cache_dir: PathBuf, missing: String },
    /// No answer.
    #[error(
        "cannot reach {url}: {reason}; check the network and HF_ENDPOINT, or set HF_HUB_OFFLINE=1 to use what is cached"
    )]
    Unreachable { url: String, reason: String },
    /// An answer that is not a file.
    #[error("{url}: {reason}")]
    Answer { url: String, reason: String },
    /// The file is not the one that the hub announced.
    #[error("{file} of {id} arrived damaged: {reason}; try again")]
    Damaged { id: String, file: String, reason: String },
    /// The cache or the folder cannot be read or written.
    #[error(transparent)]
    Files(#[from] CheckpointError),
}

/// The folder of a model: `model` itself when it exists, else what the cache or the hub has for the id
/// `owner/name[@revision]`.
///
/// # Errors
/// [`HubError`] saying what is missing and what to do.
pub fn resolve(model: &str, settings: &HubSettings) -> Result<PathBuf, HubError> {
    resolve_with_progress(model, settings, &mut |_| {})
}

/// [`resolve`] that tells `progress` about every piece of a file that arrives.
///
/// # Errors
/// As [`resolve`].
pub fn resolve_with_progress(
    model: &str,
    settings: &HubSettings,
    progress: &mut dyn FnMut(Progress),
) -> Result<PathBuf, HubError> {
    if Path::new(model).exists() {
        return Ok(PathBuf::from(model));
    }
    let id = ModelId::parse(model).ok_or_else(|| HubError::NotAnId(model.into()))?;
    let repository = Repository::new(&settings.cache_dir, &id);
    let cached_commit = repository.commit_of(&id.revision);
    let not_cached = |missing: &str| HubError::NotCached {
        id: id.to_string(),
        cache_dir: settings.cache_dir.clone(),
        missing: missing.into(),
    };
    if let Some(commit) = &cached_commit {
        let snapshot = repository.snapshot(commit);
        let in_cache = |name: &str| match repository.has(commit, name) {
            Some(has) => Ok(has),
            // A cache filled by another program does not tell which optional files the repository lacks.
            None if settings.offline => Ok(false),
            None => Err(not_cached(name)),
        };
        match collect(&id, settings, &snapshot, in_cache) {
            Ok(()) => return Ok(snapshot),
            Err(HubError::NotFound { what, .. }) if settings.offline => return Err(not_cached(&what)),
            Err(HubError::NoWeights { .. }) if settings.offline => return Err(not_cached(WEIGHTS_FILE)),
            Err(HubError::NotCached { .. }) => {}
            Err(other) => return Err(other),
        }
    }
    if settings.offline {
        return Err(not_cached(&format!("revision {}", id.revision)));
    }
    let client = Client::new(settings, &id)?;
    let commit = match cached_commit {
        Some(commit) => commit,
        None => client.commit_of(&id.revision)?,
    };
    let snapshot = repository.snapshot(&commit);
    let from_hub = |name: &str| match repository.has(&commit, name) {
        Some(has) => Ok(has),
        None => client.fetch(&repository, &commit, name, progress),
    };
    collect(&id, settings, &snapshot, from_hub)?;
    repository.set_commit_of(&id.revision, &commit)?;
    Ok(snapshot)
}

/// Asks `get` for every file of a model; it answers whether the repository has the file, which is then in `snapshot`.
fn collect(
    id: &ModelId,
    settings: &HubSettings,
    snapshot: &Path,
    mut get: impl FnMut(&str) -> Result<bool, HubError>,
) -> Result<(), HubError> {
    let not_found =
        |what: &str| HubError::NotFound { endpoint: settings.endpoint.clone(), id: id.to_string(), what: what.into() };
    for name in REQUIRED {
        if !get(name)? {
            return Err(not_found(name));
        }
    }
    for name in OPTIONAL {
        get(name)?;
    }
    if get(WEIGHTS_FILE)? {
        return Ok(());
    }
    if !get(INDEX_FILE)? {
        return Err(HubError::NoWeights { id: id.to_string() });
    }
    let index = read_in(snapshot, INDEX_FILE, MAX_INDEX_BYTES)?.unwrap_or_default();
    for shard in shard_names(&index, &snapshot.join(INDEX_FILE), ".safetensors")? {
        if !get(&shard)? {
            return Err(not_found(&shard));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(variables: &[(&str, &str)]) -> HubSettings {
        HubSettings::from_lookup(|key| variables.iter().find(|(k, _)| *k == key).map(|(_, v)| v.to_string()))
    }

    #[test]
    fn settings_follow_the_variables_of_huggingface_hub() {
        let found = settings(&[("HOME", "/home/me")]);
        assert_eq!(found.cache_dir, Path::new("/home/me/.cache/huggingface/hub"));
        assert_eq!((found.endpoint.as_str(), found.token, found.offline), ("https://huggingface.co", None, false));
        assert_eq!(settings(&[("XDG_CACHE_HOME", "/c")]).cache_dir, Path::new("/c/huggingface/hub"));
        assert_eq!(settings(&[("HF_HOME", "/h"), ("HOME", "/x")]).cache_dir, Path::new("/h/hub"));
        assert_eq!(settings(&[("HF_HOME", "/h"), ("HF_HUB_CACHE", "/d")]).cache_dir, Path::new("/d"));
        for (value, offline) in [("1", true), ("TRUE", true), ("Yes", true), ("0", false), ("", false), ("no", false)] {
            assert_eq!(settings(&[("HF_HUB_OFFLINE", value)]).offline, offline, "{value}");
        }
    }

    #[test]
    fn token_comes_from_the_variable_or_the_file_of_a_login() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().to_str().unwrap();
        assert_eq!(settings(&[("HF_HOME", path)]).token, None);
        std::fs::write(home.path().join("token"), "stored\n").unwrap();
        assert_eq!(settings(&[("HF_HOME", path)]).token.as_deref(), Some("stored"));
        assert_eq!(settings(&[("HF_HOME", path), ("HF_TOKEN", "given")]).token.as_deref(), Some("given"));
    }

    #[test]
    fn token_is_not_shown_in_debug_output() {
        let text = format!("{:?}", settings(&[("HF_TOKEN", "secret-token")]));
        assert!(!text.contains("secret-token") && text.contains("(set)"), "{text}");
    }

    #[test]
    fn what_is_neither_a_folder_nor_an_id_is_refused() {
        for model in
            ["", "name", "./models/x", "/models/x", "a/b/c", "a/..", "../b", "a/b@", "a/b@../c", "a b/c", "a//b"]
        {
            let result = resolve(model, &HubSettings { offline: true, ..HubSettings::default() });
            assert!(matches!(result, Err(HubError::NotAnId(_))), "{model}: {result:?}");
        }
    }

    #[test]
    fn a_folder_is_itself() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().to_str().unwrap();
        assert_eq!(resolve(path, &HubSettings::default()).unwrap(), folder.path());
    }
}
