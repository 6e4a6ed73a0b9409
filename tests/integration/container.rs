//! The container image, without Docker: what its last stage copies, how large that is, and that it runs as it is
//! meant to: as nobody, on a read-only root, without capabilities and without a shell.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use serde_json::{Value, json};

use super::process::{find_program, octet, serve, skipped, succeed};
use super::support::{Connection, PATIENCE};

/// Folder with the Debian packages of the base image unpacked (`tests/fetch-assets.sh`).
const BASE: &str = "OCTET_TEST_IMAGE_BASE";

/// More than what those packages hold: 23.6 MB in November 2026. The image has their content without dpkg's own files.
const BASE_BYTES: u64 = 25_000_000;

/// Promise about the image without models.
const MOST_BYTES: u64 = 60_000_000;

/// glibc of the base image, Debian 12; a binary that was linked against a newer one does not start there.
const BASE_GLIBC: (u32, u32) = (2, 36);

/// Name and arguments of each instruction of the Dockerfile.
fn dockerfile() -> Vec<(String, String)> {
    let text = fs::read_to_string("Dockerfile").unwrap();
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim_start().starts_with('#')).collect();
    let joined = lines.join("\n").replace("\\\n", " ");
    let instructions = joined.lines().filter_map(|line| line.trim().split_once(' '));
    instructions.map(|(name, rest)| (name.to_string(), rest.trim().to_string())).collect()
}

/// The instructions after the last `FROM`.
struct Stage(Vec<(String, String)>);

/// One `COPY`.
struct Copy {
    /// The stage it copies from; none for the checkout.
    from: Option<String>,
    owner: Option<u32>,
    source: String,
    /// Without the leading slash.
    destination: PathBuf,
}

impl Stage {
    fn last() -> Self {
        let all = dockerfile();
        let start = all.iter().rposition(|(name, _)| name == "FROM").expect("a FROM");
        Stage(all[start..].to_vec())
    }

    fn all(&self, name: &str) -> Vec<&str> {
        self.0.iter().filter(|(n, _)| n == name).map(|(_, rest)| rest.as_str()).collect()
    }

    fn one(&self, name: &str) -> &str {
        let found = self.all(name);
        assert_eq!(found.len(), 1, "{name}: {found:?}");
        found[0]
    }

    /// An instruction in the form that needs no shell.
    fn words(&self, name: &str) -> Vec<String> {
        serde_json::from_str(self.one(name)).unwrap_or_else(|e| panic!("{name} is not a JSON list: {e}"))
    }

    fn environment(&self) -> Vec<String> {
        self.all("ENV").into_iter().flat_map(|rest| rest.split_whitespace().map(str::to_string)).collect()
    }

    fn copies(&self) -> Vec<Copy> {
        let folder = self.one("WORKDIR");
        let copy = |rest: &str| {
            let (flags, paths): (Vec<&str>, Vec<&str>) = rest.split_whitespace().partition(|w| w.starts_with("--"));
            let [source, destination] = paths[..] else { panic!("COPY {rest}: expected one source") };
            let flag = |name: &str| flags.iter().find_map(|f| f.strip_prefix(name)).map(str::to_string);
            Copy {
                from: flag("--from="),
                owner: flag("--chown=").map(|owner| owner.split(':').next().unwrap().parse().expect("a number")),
                source: source.to_string(),
                destination: Path::new(folder).join(destination).strip_prefix("/").unwrap().to_path_buf(),
            }
        };
        self.all("COPY").into_iter().map(copy).collect()
    }

    /// Does the copies into `root`.
    fn lay_out(&self, root: &Path) {
        for copy in self.copies() {
            let target = root.join(&copy.destination);
            match (copy.from.as_deref(), copy.source.as_str()) {
                (Some("build"), "/out/octet") => copy_all(Path::new(env!("CARGO_BIN_EXE_octet")), &target),
                (Some("build"), "/out/cache") => fs::create_dir_all(&target).unwrap(),
                (None, source) => copy_all(Path::new(source), &target),
                (from, source) => panic!("COPY --from={from:?} {source}: this test does not know what that is"),
            }
            if let Some(owner) = copy.owner {
                chown(&target, Some(owner), Some(owner)).unwrap();
            }
        }
    }
}

/// A file to a file, or the files of a folder into a folder, like `COPY`.
fn copy_all(source: &Path, target: &Path) {
    if source.is_file() {
        fs::create_dir_all(target.parent().unwrap()).unwrap();
        fs::copy(source, target).unwrap_or_else(|e| panic!("{}: {e}", source.display()));
        return;
    }
    fs::create_dir_all(target).unwrap();
    for entry in fs::read_dir(source).unwrap_or_else(|e| panic!("{}: {e}", source.display())) {
        let entry = entry.unwrap();
        copy_all(&entry.path(), &target.join(entry.file_name()));
    }
}

/// Bytes of all files under `path`; links count nothing.
fn bytes_under(path: &Path) -> u64 {
    let meta = fs::symlink_metadata(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    if !meta.is_dir() {
        return if meta.is_file() { meta.len() } else { 0 };
    }
    fs::read_dir(path).unwrap().map(|entry| bytes_under(&entry.unwrap().path())).sum()
}

#[test]
fn image_copies_only_what_is_there_and_what_the_builder_is_sent() {
    let sent = fs::read_to_string(".dockerignore").unwrap();
    let sent: Vec<&str> = sent.lines().filter_map(|line| line.strip_prefix('!')).collect();
    let mut copied = Vec::new();
    for (_, rest) in dockerfile().iter().filter(|(name, rest)| name == "COPY" && !rest.contains("--from=")) {
        let words: Vec<&str> = rest.split_whitespace().filter(|word| !word.starts_with("--")).collect();
        copied.extend(words[..words.len() - 1].iter().map(|w| w.to_string()));
    }
    copied.sort();
    let mut expected = sent.clone();
    expected.sort();
    assert_eq!(copied, expected, "sources of COPY, and the exceptions of .dockerignore");
    for source in sent {
        assert!(Path::new(source).exists(), "{source} is not there");
    }
}

#[test]
fn image_without_models_is_under_60_mb() {
    let base = match std::env::var_os(BASE) {
        Some(base) => {
            let bytes = bytes_under(Path::new(&base));
            assert!(bytes < BASE_BYTES, "the base has {bytes} bytes, {BASE_BYTES} are stated");
            bytes
        }
        None => BASE_BYTES,
    };
    let mut own = 0;
    for copy in Stage::last().copies().iter().filter(|copy| !copy.destination.starts_with("octet/models")) {
        own += match (copy.from.as_deref(), copy.source.as_str()) {
            (Some("build"), "/out/octet") => bytes_under(Path::new(env!("CARGO_BIN_EXE_octet"))),
            (Some("build"), _) => 0,
            (_, source) => bytes_under(Path::new(source)),
        };
    }
    let models = bytes_under(Path::new("models/all-MiniLM-L6-v2")) + bytes_under(Path::new("models/sentiment"));
    println!("image: base {base}, octet and its files {own}, models {models} bytes");
    assert!(own > 5_000_000, "{own} bytes are too few to hold the program");
    assert!(base + own < MOST_BYTES, "base {base} + own {own} bytes");
}

#[test]
fn image_runs_as_nobody_on_a_read_only_root_without_a_shell() {
    const TEST: &str = "the container's contents under runc";
    let Some(runc) = find_program("runc", "OCTET_TEST_RUNC") else {
        return skipped(TEST, "runc is neither on PATH nor in OCTET_TEST_RUNC (Debian: apt-get install runc)");
    };
    let Some(base) = std::env::var_os(BASE) else {
        return skipped(TEST, &format!("{BASE} does not name a folder (tests/fetch-assets.sh brings it)"));
    };
    if succeed(Command::new("id").arg("-u")).trim() != "0" {
        return skipped(TEST, "runc needs root here");
    }
    if glibc() > BASE_GLIBC {
        return skipped(TEST, &format!("this machine's glibc {:?} is newer than the image's {BASE_GLIBC:?}", glibc()));
    }

    let stage = Stage::last();
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("rootfs");
    succeed(Command::new("cp").arg("-a").arg(&base).arg(&root));
    stage.lay_out(&root);
    assert!(!root.join("bin/sh").exists() && !root.join("usr/bin/sh").exists(), "the image has a shell");
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    fs::write(folder.path().join("config.json"), bundle(&stage, port).to_string()).unwrap();

    let container = Container { runc, state: folder.path().join("state"), name: format!("octet-{port}") };
    let (mut process, address) = serve(container.command("run").current_dir(folder.path()));
    assert_eq!(address.port(), port);

    let state: Value = serde_json::from_str(&succeed(&mut container.command("state"))).unwrap();
    let proc = PathBuf::from(format!("/proc/{}", state["pid"]));
    let status = fs::read_to_string(proc.join("status")).unwrap();
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_else(|| panic!("{name}"));
        line.split_whitespace().map(str::to_string).collect::<Vec<_>>()
    };
    assert_eq!(field("Uid:"), ["65532"; 4]);
    assert_eq!(field("CapEff:"), ["0000000000000000"]);
    assert_eq!(field("CapBnd:"), ["0000000000000000"]);
    assert_eq!(field("NoNewPrivs:"), ["1"]);
    let mounts = fs::read_to_string(proc.join("mountinfo")).unwrap();
    let root_mount = mounts.lines().map(|l| l.split(' ').collect::<Vec<_>>()).find(|m| m[4] == "/").expect("a root");
    assert!(root_mount[5].split(',').any(|option| option == "ro"), "{root_mount:?}");

    let post = |path, body: Value| {
        let headers = [("content-type", "application/json")];
        Connection::open(address).unwrap().request("POST", path, &headers, body.to_string().as_bytes())
    };
    let answer = post("/v1/classify", json!({"input": "I love it."}));
    assert_eq!((answer.status, answer.text().contains("positive")), (200, true), "{}", answer.text());
    let text = "It rained for a week. The river rose. The old bridge fell on Sunday.";
    assert_eq!(post("/v1/summarize", json!({"input": text, "sentences": 1})).status, 200);

    // The health check of the Dockerfile, in the container; and it can fail.
    let check = stage.one("HEALTHCHECK").split_once("CMD ").expect("a command").1;
    let check: Vec<String> = serde_json::from_str(check).expect("a JSON list");
    succeed(container.command("exec").args(&check));
    let elsewhere = container.command("exec").args(&check).args(["--port", "1"]).output().unwrap();
    assert_eq!(elsewhere.status.code(), Some(1), "{elsewhere:?}");

    assert_eq!(stage.one("STOPSIGNAL"), "SIGTERM");
    succeed(container.command("kill").arg("TERM"));
    let start = Instant::now();
    let exit = loop {
        if let Some(exit) = process.0.try_wait().unwrap() {
            break exit;
        }
        assert!(start.elapsed() < PATIENCE, "the container ignores SIGTERM");
        std::thread::sleep(std::time::Duration::from_millis(20));
    };
    assert_eq!(exit.code(), Some(0));
}

#[test]
fn health_check_fails_when_nothing_listens() {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port().to_string();
    let output = octet().args(["healthcheck", "--port", &port]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("/readyz"), "{output:?}");
}

/// What `docker run --read-only --cap-drop ALL --security-opt no-new-privileges --tmpfs /tmp` asks runc for, on the
/// network of this machine, listening on loopback.
fn bundle(stage: &Stage, port: u16) -> Value {
    let mut environment = vec!["PATH=/usr/local/bin:/usr/bin:/bin".to_string()];
    environment.extend(stage.environment());
    assert!(environment.contains(&"OCTET_SERVER_HOST=0.0.0.0".to_string()), "{environment:?}");
    environment.retain(|variable| !variable.starts_with("OCTET_SERVER_HOST="));
    let ours = ["OCTET_SERVER_HOST=127.0.0.1", &format!("OCTET_SERVER_PORT={port}"), "OCTET_TELEMETRY_LOG_LEVEL=error"];
    environment.extend(ours.map(str::to_string));
    let (user, group) = stage.one("USER").split_once(':').expect("user:group");
    let id = |text: &str| text.parse::<u32>().expect("a number, which a cluster can tell from root");
    let arguments = [stage.words("ENTRYPOINT"), stage.words("CMD")].concat();
    let none: [&str; 0] = [];
    json!({
        "ociVersion": "1.0.2",
        "process": {
            "user": {"uid": id(user), "gid": id(group)},
            "args": arguments,
            "env": environment,
            "cwd": stage.one("WORKDIR"),
            "capabilities": {"bounding": none, "effective": none, "permitted": none, "inheritable": none},
            "noNewPrivileges": true,
        },
        "root": {"path": "rootfs", "readonly": true},
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755", "size=64k"]},
            {"destination": "/tmp", "type": "tmpfs", "source": "tmpfs",
             "options": ["nosuid", "nodev", "noexec", "mode=1777", "size=16m"]},
        ],
        "linux": {"namespaces": [{"type": "pid"}, {"type": "mount"}, {"type": "ipc"}, {"type": "uts"}]},
    })
}

/// A container of `runc`. Dropping it ends it.
struct Container {
    runc: PathBuf,
    state: PathBuf,
    name: String,
}

impl Container {
    /// `runc VERB NAME`; what the caller adds follows the name.
    fn command(&self, verb: &str) -> Command {
        let mut command = Command::new(&self.runc);
        command.arg("--root").arg(&self.state).arg(verb).arg(&self.name);
        command
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        let _ =
            Command::new(&self.runc).arg("--root").arg(&self.state).args(["delete", "--force", &self.name]).output();
    }
}

/// Version of this machine's glibc; the newest there can be when it cannot be told.
fn glibc() -> (u32, u32) {
    let printed = Command::new("getconf").arg("GNU_LIBC_VERSION").output().map(|o| o.stdout).unwrap_or_default();
    let printed = String::from_utf8_lossy(&printed).into_owned();
    let version = printed.trim().strip_prefix("glibc ").and_then(|v| v.split_once('.'));
    let number = |text: &str| text.parse().unwrap_or(u32::MAX);
    version.map_or((u32::MAX, u32::MAX), |(major, minor)| (number(major), number(minor)))
}
