//! Summaries with the shipped sentence model: quality on ACLSum, large texts, reproducibility.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use octet::architectures::RaggedBatch;
use octet::eval::rouge::rouge;
use octet::kernels::Kernels;
use octet::pipelines::{Loader, Pipeline, Precision, Prepared, Row, Summarizer, Summary, SummaryOptions};
use octet::text::Encoding;
use octet::text::sentences::segment;

use super::process::skipped;
use super::support::kernels;

/// The shipped model on the int8 executor with these kernels.
fn summarizer(kernels: Kernels) -> Arc<Summarizer> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/all-MiniLM-L6-v2");
    let model = Loader::new(kernels, Precision::Int8).load("sentences", &path).unwrap();
    model.summarizer.expect("a model without a head summarizes")
}

/// `run` of the pipeline, with the encoder on every core.
fn run(summarizer: &Summarizer, inputs: Vec<String>, options: &SummaryOptions) -> Vec<Summary> {
    let Prepared { sequences, state } = summarizer.prepare(inputs, options, &|| true).unwrap();
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let parts: Vec<_> = sequences.chunks(sequences.len().div_ceil(threads)).collect();
    let model = summarizer.model();
    let encode = |part: &[Encoding]| -> Vec<Row> {
        let mut workspace = model.encoder.workspace();
        let mut rows = Vec::with_capacity(part.len());
        for some in part.chunks(32) {
            let mut batch = RaggedBatch::new();
            some.iter().for_each(|s| batch.push(&s.ids, &s.type_ids));
            rows.extend(model.rows(&batch, &mut workspace));
        }
        rows
    };
    let rows = std::thread::scope(|scope| {
        let running: Vec<_> = parts.iter().map(|part| scope.spawn(|| encode(part))).collect();
        running.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    summarizer.finish(state, rows, options).unwrap()
}

/// One paper of ACLSum: sentences by section, and a human summary by aspect.
#[derive(serde::Deserialize)]
struct Paper {
    sentences: HashMap<String, Vec<String>>,
    summary: HashMap<String, String>,
}

impl Paper {
    /// Sections as paragraphs.
    fn text(&self, sections: &[&str]) -> String {
        sections.iter().map(|section| self.sentences[*section].join(" ")).collect::<Vec<_>>().join("\n\n")
    }

    /// The three human sentences.
    fn reference(&self) -> String {
        ["challenge", "approach", "outcome"].map(|aspect| self.summary[aspect].as_str()).join(" ")
    }
}

/// Mean F1 against the human sentences, in percent: ROUGE-1, ROUGE-2, ROUGE-L.
fn mean_rouge(papers: &[Paper], summaries: &[String]) -> [f64; 3] {
    let mut sums = [0.0; 3];
    for (paper, summary) in papers.iter().zip(summaries) {
        let scores = rouge(&paper.reference(), summary);
        for (sum, score) in sums.iter_mut().zip([scores.rouge1, scores.rouge2, scores.rouge_l]) {
            *sum += 100.0 * score.f1 / papers.len() as f64;
        }
    }
    sums
}

/// The baseline that is hard to beat on news: the beginning.
fn first_sentences(text: &str, count: usize) -> String {
    let segments = segment(text, usize::MAX, str::len);
    segments.into_iter().take(count).map(|s| &text[s.range]).collect::<Vec<_>>().join(" ")
}

/// Folder of an unpacked `aclsum` wheel (PyPI, MIT; its papers are not ours to ship).
const ACLSUM: &str = "OCTET_TEST_ACLSUM";

#[test]
fn default_summaries_reach_the_stated_rouge_on_aclsum() {
    let Some(folder) = std::env::var_os(ACLSUM).map(PathBuf::from) else {
        let why = format!("{ACLSUM} does not name the folder of an unpacked aclsum wheel");
        skipped("default_summaries_reach_the_stated_rouge_on_aclsum", &why);
        return;
    };
    let path = folder.join("aclsum/dataset/val.jsonl");
    let lines = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let papers: Vec<Paper> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(papers.len(), 50);
    let summarizer = summarizer(kernels());
    let full = ["abstract", "introduction", "conclusion"];
    let options = SummaryOptions { sentences: Some(3), ..SummaryOptions::default() };
    // (sections, least ROUGE-1, least ROUGE-2)
    for (name, sections, least) in [("FULL", &full[..], [35.0, 11.5]), ("NOABS", &full[1..], [30.0, 7.0])] {
        let texts: Vec<String> = papers.iter().map(|paper| paper.text(sections)).collect();
        let lead: Vec<String> = texts.iter().map(|text| first_sentences(text, 3)).collect();
        let [r1, r2, rl] = mean_rouge(&papers, &lead);
        println!("aclsum validation {name}, first three sentences: ROUGE-1 {r1:.2} ROUGE-2 {r2:.2} ROUGE-L {rl:.2}");
        let summaries: Vec<String> = run(&summarizer, texts, &options).into_iter().map(|s| s.summary).collect();
        let [r1, r2, rl] = mean_rouge(&papers, &summaries);
        println!("aclsum validation {name}, default summary: ROUGE-1 {r1:.2} ROUGE-2 {r2:.2} ROUGE-L {rl:.2}");
        assert!(r1 >= least[0] && r2 >= least[1], "{name}: {r1:.2}/{r2:.2} is below {least:?}");
    }
}

/// Made-up prose of at least `bytes` bytes: sentences of 8 to 20 words, a heading before every hundredth.
fn prose(bytes: usize) -> String {
    const WORDS: [&str; 48] = [
        "river",
        "council",
        "engine",
        "weather",
        "market",
        "teacher",
        "signal",
        "garden",
        "doctor",
        "bridge",
        "winter",
        "letter",
        "music",
        "harbor",
        "forest",
        "journal",
        "window",
        "energy",
        "history",
        "machine",
        "village",
        "captain",
        "problem",
        "science",
        "opens",
        "carries",
        "measures",
        "finds",
        "repairs",
        "follows",
        "describes",
        "slowly",
        "often",
        "again",
        "together",
        "small",
        "bright",
        "heavy",
        "quiet",
        "the",
        "a",
        "of",
        "in",
        "with",
        "and",
        "under",
        "between",
        "without",
    ];
    let mut state = 1u64;
    let mut next = |n: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % n
    };
    let mut text = String::new();
    for sentence in 0.. {
        if text.len() >= bytes {
            break;
        }
        if sentence % 100 == 0 {
            text += &format!("\n\n# Chapter {}\n\n", sentence / 100 + 1);
        }
        text += "The";
        for _ in 0..8 + next(13) {
            text += " ";
            text += WORDS[next(WORDS.len())];
        }
        text += ". ";
    }
    text
}

/// Offsets are those of characters, and every sentence is a slice of the text.
fn check_slices(text: &str, summary: &Summary) {
    let chars: Vec<char> = text.chars().collect();
    for sentence in &summary.sentences {
        let slice: String = chars[sentence.start..sentence.end].iter().collect();
        assert_eq!(slice, sentence.text);
    }
}

#[test]
fn a_megabyte_of_text_is_summarized_within_its_budget() {
    let text = prose(1 << 20);
    let options = SummaryOptions { max_words: Some(200), ..SummaryOptions::default() };
    let summary = run(&summarizer(kernels()), vec![text.clone()], &options).remove(0);
    assert!(summary.num_sentences > 5_000, "{}", summary.num_sentences);
    assert!(!summary.truncated && summary.summary.split_whitespace().count() <= 200);
    assert!(summary.sentences.len() >= 8, "{}", summary.sentences.len());
    check_slices(&text, &summary);
}

#[test]
fn a_summary_depends_on_its_text_alone_on_every_instruction_set() {
    let texts = [
        prose(1_500),
        "Dr. Weiß kam am 3. Mai nach Köln. Er blieb dort z. B. drei ganze Tage lang. Das Wetter war schön. \
         今日は朝からとても良い天気なので公園に行きました。 She wrote « a long letter » to her friends in the U.S. about it."
            .to_string(),
        "One sentence only".to_string(),
    ];
    let options = SummaryOptions { query: Some("the weather in the village".into()), ..SummaryOptions::default() };
    let mut expected: Option<Vec<Summary>> = None;
    for kernels in Kernels::available() {
        let summarizer = summarizer(kernels);
        let alone: Vec<Summary> =
            texts.iter().map(|text| summarizer.run(vec![text.clone()], &options, 64).unwrap().remove(0)).collect();
        texts.iter().zip(&alone).for_each(|(text, summary)| check_slices(text, summary));
        for max_batch_tokens in [100, 100_000] {
            let together = summarizer.run(texts.to_vec(), &options, max_batch_tokens).unwrap();
            assert_eq!(together, alone, "{} {max_batch_tokens}", kernels.isa());
        }
        let backwards: Vec<String> = texts.iter().rev().cloned().collect();
        let backwards = summarizer.run(backwards, &options, 500).unwrap();
        assert_eq!(backwards.into_iter().rev().collect::<Vec<_>>(), alone, "{}", kernels.isa());
        let expected = expected.get_or_insert_with(|| alone.clone());
        assert_eq!(&alone, expected, "{}", kernels.isa());
    }
}
