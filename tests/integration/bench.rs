//! `octet bench`: what it measures, as JSON and as tables. Nothing here depends on how fast anything is.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use octet::text::Tokenizer;
use serde_json::Value;
use sha2::{Digest, Sha256};

const MODEL: &str = "tests/goldens/bert";

fn bench(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_octet"))
        .args(["bench", MODEL])
        .args(args)
        .env_remove("OCTET_ISA")
        .output()
        .expect("octet runs")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("output is UTF-8")
}

fn json(args: &[&str]) -> Value {
    let output = bench(&[args, &["--seconds", "0", "--json"]].concat());
    assert!(output.status.success(), "{}", text(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("the output is JSON")
}

/// 100 texts of the goldens in a file of their own.
fn texts(folder: &Path) -> (PathBuf, Vec<String>) {
    let lines = std::fs::read_to_string("tests/goldens/sentences.jsonl").unwrap();
    let lines: Vec<_> = lines.lines().take(100).collect();
    let file = folder.join("texts.jsonl");
    std::fs::write(&file, lines.join("\n")).unwrap();
    let text = |line: &&str| serde_json::from_str::<Value>(line).unwrap()["text"].as_str().unwrap().to_owned();
    (file, lines.iter().map(text).collect())
}

fn sha256(ids: impl Iterator<Item = u32>) -> String {
    let bytes: Vec<u8> = ids.flat_map(u32::to_le_bytes).collect();
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn rows<'a>(report: &'a Value, section: &str) -> &'a [Value] {
    report[section].as_array().unwrap_or_else(|| panic!("no section {section}"))
}

fn assert_figures(row: &Value) {
    for name in ["median_seconds", "p10_seconds", "p90_seconds", "sequences_per_second", "tokens_per_second"] {
        assert!(row[name].as_f64().is_some_and(|x| x > 0.0), "{name} of {row}");
    }
    assert!(row["p10_seconds"].as_f64() <= row["median_seconds"].as_f64(), "{row}");
    assert!(row["median_seconds"].as_f64() <= row["p90_seconds"].as_f64(), "{row}");
    assert!(row["runs"].as_u64().is_some_and(|runs| runs >= 3), "{row}");
    assert!(row["threads"].is_u64(), "{row}");
}

#[test]
fn all_sections_are_measured_on_the_ids_of_the_texts() {
    let folder = tempfile::tempdir().unwrap();
    let (file, texts) = texts(folder.path());
    let report = json(&["--texts", file.to_str().unwrap(), "--threads", "1,2", "--cells", "1x16,3x50"]);

    let tokenizer = Tokenizer::from_file(&Path::new(MODEL).join("tokenizer.json")).unwrap();
    // The model has 64 positions.
    let ids: Vec<u32> = texts.iter().flat_map(|text| tokenizer.encode(text, None, 64).unwrap().ids).collect();
    let digest_of_all = sha256(ids.iter().copied());

    let cells: Vec<_> = rows(&report, "grid").iter().map(|r| (r["sequences"].clone(), r["tokens"].clone())).collect();
    assert_eq!(cells, [(1, 16), (1, 16), (3, 50), (3, 50)].map(|(b, t)| (Value::from(b), Value::from(t))));
    for row in rows(&report, "grid") {
        assert_figures(row);
        assert!(row["independent_tokens_per_second"].as_f64().is_some_and(|x| x > 0.0), "{row}");
        let count = (row["sequences"].as_u64().unwrap() * row["tokens"].as_u64().unwrap()) as usize;
        assert_eq!(row["ids_sha256"], sha256(ids.iter().copied().cycle().take(count)));
    }
    for section in ["stream", "tokenizer"] {
        let threads: Vec<_> = rows(&report, section).iter().map(|row| row["threads"].as_u64()).collect();
        assert_eq!(threads, [Some(1), Some(2)]);
        for row in rows(&report, section) {
            assert_figures(row);
            assert_eq!((row["texts"].as_u64(), row["tokens"].as_u64()), (Some(100), Some(ids.len() as u64)));
            assert_eq!(row["ids_sha256"], digest_of_all);
        }
    }
    assert!(rows(&report, "stream").iter().all(|row| row["twice_over_once"].as_f64().is_some_and(|x| x > 0.0)));
    assert!(rows(&report, "tokenizer").iter().all(|row| row["times_the_encoder"].as_f64().is_some_and(|x| x > 0.0)));
    for field in ["octet", "model", "version", "precision", "isa", "machine", "date", "command"] {
        assert!(report[field].as_str().is_some_and(|s| !s.is_empty()), "{field} of {report}");
    }
}

#[test]
fn what_other_programs_took_is_told_by_section() {
    let report = json(&["--threads", "1", "--only", "grid,peak", "--cells", "2x8"]);
    let sections: Vec<_> = report["others_percent"].as_object().unwrap().keys().collect();
    assert_eq!(sections, ["peak", "grid"]);
}

#[test]
fn the_peak_of_the_forced_kernels_is_what_percentages_are_of() {
    for kernels in octet::kernels::Kernels::available() {
        let setting = format!("engine.isa={}", kernels.isa());
        let report = json(&["--set", &setting, "--threads", "1", "--only", "grid,peak", "--cells", "2x8"]);
        assert_eq!(report["isa"], kernels.isa().name());
        let used: Vec<_> = rows(&report, "peak").iter().filter(|row| row["used"] == true).collect();
        assert!(used.iter().all(|row| row["isa"] == kernels.isa().name()), "{report}");
        assert_eq!(
            used.len(),
            usize::from(kernels.multiply_instruction().is_some()),
            "the scalar kernels have no peak"
        );
        let percent = &rows(&report, "grid")[0]["percent_of_peak"];
        assert_eq!(percent.is_f64(), !used.is_empty(), "{report}");
        assert!(report["stream"].is_null() && report["tokenizer"].is_null(), "{report}");
    }
}

#[test]
fn products_of_the_first_layer_are_measured_beside_the_peak() {
    for kernels in octet::kernels::Kernels::available() {
        let setting = format!("engine.isa={}", kernels.isa());
        let report = json(&["--set", &setting, "--threads", "1", "--only", "products"]);
        let found = rows(&report, "products");
        if kernels.multiply_instruction().is_none() {
            assert!(found.is_empty(), "the scalar kernels have no peak: {report}");
            continue;
        }
        let sizes: Vec<_> =
            found.iter().map(|row| ["outputs", "inputs", "rows"].map(|name| row[name].as_u64())).collect();
        let expected = [[32, 32], [32, 64], [64, 32], [96, 32]];
        let expected = expected.iter().flat_map(|[n, k]| [16, 32, 48, 128, 256, 512].map(|m| [*n, *k, m].map(Some)));
        assert_eq!(sizes, expected.collect::<Vec<_>>());
        for figures in found.iter().flat_map(|row| [&row["repeated"], &row["in_turn"]]) {
            let percent = |name: &str| figures[name].as_f64().unwrap_or_else(|| panic!("{name} of {figures}"));
            assert!(percent("macs_per_second") > 0.0 && percent("p10_percent") > 0.0, "{figures}");
            assert!(percent("p10_percent") <= percent("percent_of_peak"), "{figures}");
            assert!(percent("percent_of_peak") <= percent("p90_percent"), "{figures}");
        }
    }
}

#[test]
fn the_page_shows_every_section_and_needs_no_other_file() {
    let folder = tempfile::tempdir().unwrap();
    let (file, _) = texts(folder.path());
    let page = folder.path().join("speed.html");
    let options = ["--texts", file.to_str().unwrap(), "--html", page.to_str().unwrap(), "--seconds", "0"];
    let output = bench(&[&options[..], &["--threads", "1,2", "--cells", "1x16,2x8"]].concat());
    assert!(output.status.success(), "{}", text(&output.stderr));
    let html = std::fs::read_to_string(page).unwrap();
    for part in [
        "<h2>Peak",
        "<h2>Products",
        "<h2>Grid",
        "<h2>Stream",
        "<h2>Tokenizer",
        "<h2>HTTP",
        "<td>1x16</td>",
        "2x8, 2 threads, a batch each: ",
    ] {
        assert!(html.contains(part), "no {part} in {html}");
    }
    assert_eq!(html.matches("<svg").count(), 8, "{html}");
    assert_eq!(html.matches("<svg").count(), html.matches("</svg>").count(), "{html}");
    for reference in ["<script", "<link", "<img", "src=", "href=", "url(", "@import", "http://", "https://"] {
        assert!(!html.contains(reference), "the page refers to another file: {reference}");
    }
    assert!(!html.contains("NaN") && !html.contains("inf\""), "{html}");
}

#[test]
fn tables_say_what_was_left_out() {
    let output = bench(&["--threads", "1", "--seconds", "0"]);
    let shown = text(&output.stdout);
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert!(shown.contains("Peak") && shown.contains("8x32"), "{shown}");
    assert!(shown.contains("1x128, 1x512, 8x128, 32x128, 32x512; the model takes at most 64 tokens"), "{shown}");
    assert!(shown.contains("not measured: stream, tokenizer and http, which need --texts FILE"), "{shown}");
}

#[test]
fn what_cannot_be_measured_is_refused_with_what_to_do() {
    for (args, said) in [
        (vec!["--only", "stream"], "add --texts FILE"),
        (vec!["--float", "--only", "products"], "need int8; remove --float"),
        (vec!["--cells", "1x65"], "at most 64 tokens"),
        (vec!["--cells", "1-65"], "found \"1-65\", expected sequences x tokens"),
        (vec!["--threads", "0"], "expected 1 to 1024 threads"),
        (vec!["--seconds", "nan"], "expected 0 to 3600 seconds"),
        (vec!["--texts", "Cargo.toml"], "must end in .jsonl, .csv or .tsv"),
        (vec!["--html", "no/such/folder/speed.html"], "--html: cannot write no/such/folder/speed.html"),
    ] {
        let output = bench(&args);
        assert!(!output.status.success(), "{args:?} was accepted");
        assert!(text(&output.stderr).contains(said), "{args:?}: {}", text(&output.stderr));
    }
}
