//! The rules of the house, read from the sources: layers, unsafe code, and promises that must not be left open.

use std::path::{Path, PathBuf};

/// Which folders of `src/` a folder may use. `docs/architecture.md` has the reasons.
const MAY_USE: &[(&str, &[&str])] = &[
    ("kernels", &[]),
    ("text", &[]),
    ("data", &[]),
    ("config", &[]),
    ("telemetry", &[]),
    ("plot", &[]),
    ("checkpoint", &["kernels"]),
    ("architectures", &["checkpoint"]),
    ("nn", &["kernels", "checkpoint", "architectures"]),
    ("runtime", &["kernels", "checkpoint", "architectures"]),
    ("pipelines", &["kernels", "checkpoint", "architectures", "nn", "runtime", "text"]),
    ("engine", &["architectures", "pipelines", "text", "config", "telemetry"]),
    (
        "quantize",
        &["kernels", "checkpoint", "architectures", "nn", "runtime", "pipelines", "text", "data", "config", "plot"],
    ),
    ("train", &["kernels", "checkpoint", "architectures", "nn", "runtime", "pipelines", "text", "data", "config"]),
    ("eval", &["kernels", "checkpoint", "architectures", "nn", "runtime", "pipelines", "text", "data", "config"]),
    ("interchange", &["kernels", "checkpoint", "architectures", "runtime"]),
    ("server", &["engine", "pipelines", "config", "telemetry"]),
];

fn sources() -> Vec<(PathBuf, String)> {
    fn visit(folder: &Path, found: &mut Vec<(PathBuf, String)>) {
        for entry in std::fs::read_dir(folder).unwrap().map(Result::unwrap) {
            let path = entry.path();
            if path.is_dir() {
                visit(&path, found);
            } else if path.extension().is_some_and(|e| e == "rs") {
                let text = std::fs::read_to_string(&path).unwrap();
                found.push((path, text));
            }
        }
    }
    let mut found = Vec::new();
    visit(Path::new("src"), &mut found);
    assert!(found.len() > 50, "the sources were not found");
    found
}

/// The folder (or single file) of `src/` that a source belongs to.
fn layer(path: &Path) -> String {
    let first = path.strip_prefix("src").unwrap().iter().next().unwrap().to_str().unwrap();
    first.trim_end_matches(".rs").to_string()
}

/// The layers that `crate::` paths of a source name, outside comments. An empty name stands for a list in braces, which
/// is not read.
fn used(text: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let code = line.split("//").next().unwrap_or("");
        for rest in code.split("crate::").skip(1) {
            let name: String = rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
            found.push((number + 1, name));
        }
    }
    found
}

#[test]
fn no_folder_uses_one_to_its_right() {
    let mut wrong = Vec::new();
    for (path, text) in sources() {
        let layer = layer(&path);
        if ["main", "lib", "cli"].contains(&layer.as_str()) {
            continue;
        }
        let Some((_, allowed)) = MAY_USE.iter().find(|(name, _)| *name == layer) else {
            panic!("{}: folder {layer} has no rule; add it to MAY_USE and to docs/architecture.md", path.display());
        };
        for (line, name) in used(&text) {
            if name.is_empty() {
                wrong.push(format!("{}:{line}: write one `use crate::...` for each folder", path.display()));
            }
            let is_layer = MAY_USE.iter().any(|(n, _)| *n == name) || name == "cli";
            if is_layer && name != layer && !allowed.contains(&name.as_str()) {
                wrong.push(format!("{}:{line}: {layer} uses {name}", path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "arrows that point the wrong way (docs/architecture.md):\n{}", wrong.join("\n"));
}

#[test]
fn the_rule_reader_sees_arrows() {
    let text = "use crate::server::X; // crate::cli\nlet a = crate::nn::Y;\nuse crate::{\n    engine, server,\n};";
    assert_eq!(used(text), [(1, "server".to_string()), (2, "nn".to_string()), (3, String::new())]);
}

/// `lib.rs` denies unsafe code; only `kernels` may lift that.
#[test]
fn unsafe_code_lives_in_kernels_only() {
    let lifts: Vec<_> = sources().into_iter().filter(|(_, text)| text.contains("allow(unsafe_code)")).collect();
    let lifts: Vec<_> = lifts.iter().map(|(path, _)| path.to_str().unwrap()).collect();
    assert_eq!(lifts, ["src/kernels/mod.rs"]);
    assert!(std::fs::read_to_string("src/lib.rs").unwrap().contains("#![deny(unsafe_code)]"));
}

#[test]
fn only_cli_and_config_read_the_environment_and_only_server_speaks_http() {
    for (path, text) in sources() {
        let layer = layer(&path);
        let code: String = text.lines().map(|l| l.split("//").next().unwrap_or("")).collect();
        let code = code.split("#[cfg(test)]").next().unwrap_or("");
        if !["cli", "config"].contains(&layer.as_str()) {
            assert!(!code.contains("env::var"), "{} reads the environment", path.display());
        }
        if layer != "server" {
            assert!(!code.contains("axum::") && !code.contains("hyper::"), "{} speaks HTTP", path.display());
        }
        if ["engine", "server"].contains(&layer.as_str()) {
            assert!(!code.contains("candle"), "{} knows candle", path.display());
        }
    }
}
