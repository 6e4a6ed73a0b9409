//! Settings: their sources, their order, and everything that can be wrong with them.

use std::path::{Path, PathBuf};

use octet::config::{IsaChoice, Origin, Problem, Settings, reference_page, template_file};

/// A file that is written from the code. `OCTET_BLESS=1` writes it.
pub fn check_generated(path: &str, expected: &str) {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    if std::env::var_os("OCTET_BLESS").is_some_and(|v| v == "1") {
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(&file, expected).unwrap();
    }
    let found = std::fs::read_to_string(&file).unwrap_or_default();
    assert!(found == expected, "{path} is not what the code says; run the tests with OCTET_BLESS=1 to rewrite it");
}

fn variables(list: &[(&str, &str)]) -> Vec<(String, String)> {
    list.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect()
}

struct File {
    _folder: tempfile::TempDir,
    path: PathBuf,
}

fn file(text: &str) -> File {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("octet.toml");
    std::fs::write(&path, text).unwrap();
    File { path, _folder: folder }
}

/// Loads from an empty file, so that no default file is read.
fn load(environment: &[(&str, &str)], flags: &[(&str, &str)]) -> Result<Settings, Vec<Problem>> {
    Settings::load(Some(&file("").path), variables(environment), &variables(flags))
}

fn messages(problems: Vec<Problem>) -> Vec<String> {
    problems.iter().map(ToString::to_string).collect()
}

#[test]
fn the_generated_files_are_current() {
    check_generated("config/octet.toml", &template_file());
    check_generated("docs/configuration.md", &reference_page());
}

#[test]
fn the_template_with_every_line_switched_on_gives_the_defaults() {
    let text = template_file();
    let (sections, _) = text.split_once("\n# The models to serve").unwrap();
    let switched_on: Vec<_> =
        sections.lines().map(|l| l.strip_prefix('#').filter(|l| !l.starts_with(' ')).unwrap_or(l)).collect();
    let file = file(&switched_on.join("\n"));
    let settings = Settings::load(Some(&file.path), [], &[]).unwrap();
    for setting in Settings::all() {
        assert_eq!(settings.get(&setting.key).as_deref(), Some(setting.default.as_str()), "{}", setting.key);
        assert_eq!(settings.origin(&setting.key), &Origin::File(file.path.clone()), "{}", setting.key);
    }
}

#[test]
fn every_setting_is_documented_within_its_range_and_can_be_set() {
    for setting in Settings::all() {
        let key = &setting.key;
        assert!(setting.doc.ends_with('.'), "{key}: its documentation is a sentence");
        let default = setting.default.trim_matches('"');
        let variable = format!("OCTET_{}", key.replace('.', "_").to_uppercase());
        let by_variable = load(&[(&variable, default)], &[]).unwrap();
        assert_eq!(by_variable.origin(key), &Origin::Environment(variable.clone()), "{key}");
        let by_flag = load(&[], &[(key, default)]).unwrap();
        assert_eq!(by_flag.get(key), Some(setting.default), "{key}");
    }
}

#[test]
fn later_sources_win() {
    let file = file("[server]\nport = 1\nhost = \"file\"\nmax_inputs = 7\n[engine]\nisa = \"avx2\"\n");
    let environment = variables(&[("OCTET_PORT", "2"), ("OCTET_SERVER_HOST", "env"), ("PATH", "/bin")]);
    let settings = Settings::load(Some(&file.path), environment, &variables(&[("server.port", "3")])).unwrap();
    assert_eq!(settings.server.port, 3);
    assert_eq!(settings.server.host, "env");
    assert_eq!(settings.server.max_inputs, 7);
    assert_eq!(settings.engine.isa, IsaChoice::Avx2);
    assert_eq!(settings.server.strict, Settings::default().server.strict);
    let origin = |key: &str| settings.origin(key).to_string();
    assert_eq!(origin("server.port"), "flag server.port");
    assert_eq!(origin("server.host"), "environment variable OCTET_SERVER_HOST");
    assert_eq!(origin("server.max_inputs"), file.path.display().to_string());
    assert_eq!(origin("server.strict"), "default");
}

#[test]
fn everything_wrong_is_reported_at_once_with_key_value_range_and_source() {
    let file = file("top = 1\n[server]\nport = 70000\nhost = 5\nprot = 1\n[telemetry]\nlog_format = \"xml\"\n");
    let environment = variables(&[("OCTET_ENGINE_THREADS", "many"), ("OCTET_SERVER_PORTS", "1")]);
    let flags = variables(&[("batching.max_batch_tokens", "0"), ("server.strict", "maybe")]);
    let found = messages(Settings::load(Some(&file.path), environment, &flags).unwrap_err());
    let path = file.path.display();
    let expected = [
        format!("server.port: found 70000, allowed: a whole number, 0 to 65535 ({path})"),
        format!("server.host: found 5, allowed: text ({path})"),
        format!("server.prot: unknown setting, did you mean server.port? ({path})"),
        format!("telemetry.log_format: found \"xml\", allowed: text, json ({path})"),
        format!("top: unknown setting ({path})"),
        "engine.threads: found \"many\", allowed: a whole number, 0 to 1024 (environment variable OCTET_ENGINE_THREADS)"
            .to_string(),
        "OCTET_SERVER_PORTS: unknown setting, did you mean OCTET_SERVER_PORT? (environment variable OCTET_SERVER_PORTS)"
            .to_string(),
        "batching.max_batch_tokens: found \"0\", allowed: a whole number, 1 to 1048576 (flag batching.max_batch_tokens)"
            .to_string(),
        "server.strict: found \"maybe\", allowed: true, false (flag server.strict)".to_string(),
    ];
    for message in &expected {
        assert!(found.contains(message), "{message}\nis missing in\n{}", found.join("\n"));
    }
    assert_eq!(found.len(), expected.len(), "{}", found.join("\n"));
}

#[test]
fn a_variable_names_the_file_unless_a_flag_does() {
    let (by_variable, by_flag) = (file("[server]\nport = 1"), file("[server]\nport = 2"));
    let environment = variables(&[("OCTET_CONFIG", by_variable.path.to_str().unwrap())]);
    let port = |file: Option<&Path>| Settings::load(file, environment.clone(), &[]).unwrap().server.port;
    assert_eq!((port(None), port(Some(&by_flag.path))), (1, 2));
    let missing = Settings::load(None, variables(&[("OCTET_CONFIG", "no/such/file.toml")]), &[]).unwrap_err();
    assert!(messages(missing)[0].starts_with("cannot read settings file no/such/file.toml: "));
}

#[test]
fn a_named_file_must_exist_and_be_toml() {
    let missing = Settings::load(Some(Path::new("no/such/file.toml")), [], &[]).unwrap_err();
    assert!(messages(missing)[0].starts_with("cannot read settings file no/such/file.toml: "));
    let broken = file("[server\nport = 1");
    assert!(matches!(Settings::load(Some(&broken.path), [], &[]).unwrap_err()[..], [Problem::File { .. }]));
}

#[test]
fn service_links_of_kubernetes_are_not_settings() {
    let links = [
        ("OCTET_PORT", "tcp://10.0.0.7:8080"),
        ("OCTET_SERVICE_HOST", "10.0.0.7"),
        ("OCTET_SERVICE_PORT_HTTP", "8080"),
        ("OCTET_PORT_8080_TCP_ADDR", "10.0.0.7"),
        ("OCTET_BLESS", "1"),
        ("OCTET_CONFIG", "octet.toml"),
        ("OCTET_COMMIT", "0123abc"),
        ("OCTET_TEST_F32", "minilm"),
    ];
    assert_eq!(load(&links, &[]).unwrap().server.port, 8080);
}

#[test]
fn models_come_from_the_strongest_source_and_bare_names_from_the_models_folder() {
    let models =
        |settings: &Settings| settings.models.iter().map(|m| format!("{}={}", m.id, m.path)).collect::<Vec<_>>();
    let shipped = load(&[("OCTET_MODELS_DIR", "/srv")], &[]).unwrap();
    assert_eq!(models(&shipped), ["all-MiniLM-L6-v2=/srv/all-MiniLM-L6-v2", "sentiment=/srv/sentiment"]);

    let file = file("[[models]]\nid = \"a\"\npath = \"org/name\"\n[[models]]\npath = \"./x/b\"\n");
    let from_file = Settings::load(Some(&file.path), [], &[]).unwrap();
    assert_eq!(models(&from_file), ["a=org/name", "b=./x/b"]);

    let environment = variables(&[("OCTET_MODELS", "one, two=org/two")]);
    let from_environment = Settings::load(Some(&file.path), environment.clone(), &[]).unwrap();
    assert_eq!(models(&from_environment), ["one=models/one", "two=org/two"]);

    let flags = variables(&[("models", "org/x"), ("models", "y=z")]);
    let from_flags = Settings::load(Some(&file.path), environment, &flags).unwrap();
    assert_eq!(models(&from_flags), ["x=org/x", "y=models/z"]);

    let twice = messages(load(&[], &[("models", "a/x"), ("models", "b/x")]).unwrap_err());
    assert!(twice[0].starts_with("models: found x=b/x, allowed: "), "{twice:?}");
}

#[test]
fn the_hub_token_is_not_a_setting() {
    assert!(load(&[("HF_TOKEN", "hf_secret")], &[]).is_ok_and(|s| !format!("{s:?}").contains("hf_secret")));
    assert!(load(&[], &[("hub.token", "x")]).is_err(), "a token would be shown by `inspect config` and in `ps`");
}

#[test]
fn a_bound_for_all_bodies_below_that_for_one_is_refused() {
    let flags = [("server.max_body_bytes", "2000000"), ("server.max_total_body_bytes", "1500000")];
    let found = messages(load(&[], &flags).unwrap_err());
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].contains("server.max_total_body_bytes") && found[0].contains("2000000"), "{found:?}");
}
