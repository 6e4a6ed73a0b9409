use crate::architectures::{Activation, Encoder, EncoderSpec, EncoderWorkspace, Pooling, RaggedBatch};
use crate::text::words;

use super::super::Head;
use super::*;

/// A token's vector is made of its id alone, so sentences that share words are close.
struct WordVectors(EncoderSpec);

impl Encoder for WordVectors {
    fn spec(&self) -> &EncoderSpec {
        &self.0
    }

    fn precision(&self) -> &'static str {
        "f32"
    }

    fn workspace(&self) -> EncoderWorkspace {
        Box::new(())
    }

    fn forward(&self, batch: &RaggedBatch, _: &mut EncoderWorkspace, out: &mut Vec<f32>) {
        out.clear();
        for id in &batch.ids {
            let mut state = u64::from(*id) + 1;
            for _ in 0..self.0.hidden_size {
                // Knuth's MMIX generator.
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                out.push((state >> 40) as f32 / (1 << 24) as f32 - 0.5);
            }
        }
    }
}

/// A summarizer whose tokens are words; each character and each of `words` has an id, other words are unknown.
fn summarizer(words: &str, max_tokens: usize, max_sentences: usize) -> Summarizer {
    let mut vocabulary = vec!["[UNK]".to_string()];
    for term in words::terms(words) {
        if !vocabulary.contains(&term) {
            vocabulary.push(term);
        }
    }
    let ids: serde_json::Map<_, _> = vocabulary.into_iter().zip(0..).map(|(word, id)| (word, id.into())).collect();
    let tokenizer = serde_json::json!({
        "version": "1.0",
        "added_tokens": [],
        "normalizer": {"type": "Lowercase"},
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "model": {"type": "WordLevel", "vocab": ids, "unk_token": "[UNK]"},
    });
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tokenizer.json");
    std::fs::write(&path, tokenizer.to_string()).unwrap();
    let spec = EncoderSpec {
        family: "bert".into(),
        vocab_size: 1000,
        hidden_size: 24,
        head_dim: 24,
        layers: Vec::new(),
        max_positions: 512,
        position_offset: 0,
        type_vocab_size: 0,
        activation: Activation::Gelu,
        layer_norm_eps: 1e-12,
    };
    Summarizer {
        model: SequenceModel {
            encoder: Arc::new(WordVectors(spec)),
            head: Arc::new(Head { pooling: Pooling::Mean, layers: Vec::new() }),
        },
        tokenizer: Arc::new(Tokenizer::from_file(&path).unwrap()),
        max_tokens,
        max_sentences,
    }
}

const TEXT: &str = "\
The river flooded the old town after three days of rain. Many families left their houses during the night. \
Dr. Weiß said that the river had never been so high. Nobody was hurt. The town will build a higher wall along the \
river next year. A concert that was planned for Sunday was moved to the next town. 市長は来年までに新しい壁を作ると約束しました。 \
Families who lost their houses in the flood may stay in the school for free.";

fn run(options: &SummaryOptions) -> Summary {
    run_on(TEXT, options).unwrap()
}

fn run_on(text: &str, options: &SummaryOptions) -> Result<Summary, PipelineError> {
    let mut summaries = summarizer(TEXT, 64, 1000).run(vec![text.to_string()], options, 512)?;
    assert_eq!(summaries.len(), 1);
    Ok(summaries.remove(0))
}

/// Offsets, text and joined summary must agree.
fn check_consistent(text: &str, summary: &Summary) {
    let chars: Vec<char> = text.chars().collect();
    for sentence in &summary.sentences {
        let slice: String = chars[sentence.start..sentence.end].iter().collect();
        assert_eq!(slice, sentence.text);
        assert!((0.0..=1.0).contains(&sentence.score));
        assert!(sentence.index < summary.num_sentences);
    }
    let joined: Vec<&str> = summary.sentences.iter().map(|s| s.text.as_str()).collect();
    assert_eq!(summary.summary, joined.join(" "));
    let ratio = summary.summary.chars().count() as f32 / chars.len() as f32;
    assert_eq!(summary.compression_ratio, ratio);
}

#[test]
fn three_sentences_in_document_order_by_default() {
    let summary = run(&SummaryOptions::default());
    check_consistent(TEXT, &summary);
    assert_eq!((summary.sentences.len(), summary.num_sentences, summary.truncated), (3, 8, false));
    assert!(summary.sentences.is_sorted_by(|a, b| a.end <= b.start));
}

#[test]
fn score_order_is_best_first_and_chooses_the_same() {
    let by_score = run(&SummaryOptions { order: SentenceOrder::Score, ..Default::default() });
    check_consistent(TEXT, &by_score);
    assert!(by_score.sentences.is_sorted_by(|a, b| a.score >= b.score));
    let mut sentences = by_score.sentences;
    sentences.sort_by_key(|s| s.start);
    assert_eq!(sentences, run(&SummaryOptions::default()).sentences);
}

#[test]
fn budgets_are_hard_bounds_and_sentences_are_whole() {
    let whole: Vec<String> =
        run(&SummaryOptions { ratio: Some(1.0), ..Default::default() }).sentences.into_iter().map(|s| s.text).collect();
    assert!(whole.contains(&"Dr. Weiß said that the river had never been so high.".to_string()), "{whole:?}");
    let none = SummaryOptions::default();
    for n in 1..=60 {
        let by_words = run(&SummaryOptions { max_words: Some(n), ..none.clone() });
        assert!(by_words.truncated || words::size(&by_words.summary).words <= n, "{n}");
        let by_chars = run(&SummaryOptions { max_chars: Some(10 * n), ..none.clone() });
        assert!(by_chars.truncated || by_chars.summary.chars().count() <= 10 * n, "{n}");
        let by_count = run(&SummaryOptions { sentences: Some(n), ..none.clone() });
        assert_eq!(by_count.sentences.len(), n.min(if n > 7 { 8 } else { 7 }));
        let by_all =
            run(&SummaryOptions { sentences: Some(2), max_words: Some(n), max_chars: Some(90), ..none.clone() });
        assert!(by_all.sentences.len() <= 2);
        for summary in [by_words, by_chars, by_count, by_all] {
            check_consistent(TEXT, &summary);
            assert!(!summary.sentences.is_empty());
            assert!(!summary.truncated || summary.sentences.len() == 1);
            assert!(summary.sentences.iter().all(|s| whole.contains(&s.text) || s.text == "Nobody was hurt."));
        }
    }
}

#[test]
fn ratio_counts_sentences_of_the_text_and_gives_at_least_one() {
    for (ratio, sentences) in [(0.01, 1), (0.125, 1), (0.25, 2), (0.49, 3), (0.5, 4), (1.0, 8)] {
        let summary = run(&SummaryOptions { ratio: Some(ratio), ..Default::default() });
        assert_eq!(summary.sentences.len(), sentences, "{ratio}");
    }
    let options = SummaryOptions { ratio: Some(0.7), ..Default::default() };
    assert_eq!(options.budget(10).sentences, 7);
}

#[test]
fn a_budget_too_small_for_any_sentence_returns_the_shortest_good_one() {
    let summary = run(&SummaryOptions { max_chars: Some(5), ..Default::default() });
    assert!(summary.truncated);
    assert_eq!(summary.summary, "市長は来年までに新しい壁を作ると約束しました。");
    // A short sentence is no candidate but fits.
    let summary = run(&SummaryOptions { max_chars: Some(16), ..Default::default() });
    assert_eq!((summary.summary.as_str(), summary.truncated), ("Nobody was hurt.", false));
}

#[test]
fn query_and_lead_change_what_is_chosen() {
    let all = SummaryOptions { sentences: Some(10), lead: 0.0, max_words: Some(1000), ..Default::default() };
    let scores = |options: &SummaryOptions| -> Vec<f32> {
        let summary = run(options);
        assert_eq!(summary.sentences.len(), 8);
        summary.sentences.iter().map(|s| s.score).collect()
    };
    let plain = scores(&all);
    for target in [1, 4, 5, 7] {
        let query = run(&all).sentences[target].text.clone();
        let asked = scores(&SummaryOptions { query: Some(query), ..all.clone() });
        let gain = |i: usize| asked[i] - plain[i];
        assert!((0..8).all(|i| i == target || plain[target] == 1.0 || gain(i) < gain(target)), "{target} {asked:?}");
    }
    let led = scores(&SummaryOptions { lead: 1.0, ..all.clone() });
    assert!(led[0] - led[7] > plain[0] - plain[7] || led[0] == 1.0, "{led:?}");
}

#[test]
fn the_model_reads_the_candidates_and_the_query() {
    let summarizer = summarizer(TEXT, 64, 1000);
    let options = SummaryOptions { query: Some("the river".into()), ..Default::default() };
    let prepared = summarizer.prepare(vec![TEXT.into()], &options, &|| true).unwrap();
    // All but "Nobody was hurt.", and the query.
    assert_eq!(prepared.sequences.len(), 8);
}

#[test]
fn a_summary_does_not_depend_on_other_inputs() {
    let summarizer = summarizer(TEXT, 64, 1000);
    let other = "Something else is said here in many words. And then it is said once more in others.";
    for query in [None, Some("the wall".to_string())] {
        let options = SummaryOptions { query, ..Default::default() };
        let together =
            summarizer.run(vec![other.into(), TEXT.into(), TEXT.into(), other.into()], &options, 64).unwrap();
        let alone = summarizer.run(vec![TEXT.into()], &options, 4096).unwrap();
        assert_eq!(together[1], alone[0]);
        assert_eq!(together[2], alone[0]);
        assert_eq!(together[0], together[3]);
    }
}

#[test]
fn long_sentences_are_split_so_that_none_is_cut() {
    let text = "word ".repeat(500);
    let summarizer = summarizer("word", 16, 1000);
    let prepared = summarizer.prepare(vec![text], &SummaryOptions::default(), &|| true).unwrap();
    assert!(prepared.sequences.iter().all(|s| !s.truncated && s.len() <= 16));
    assert!(prepared.state.texts[0].num_sentences >= 500 / 16);
}

#[test]
fn long_texts_are_scored_by_sections() {
    let topics = ["river flood water", "town wall stone", "school free house"];
    let words = topics.join(" ") + " this sentence is about";
    let text: String = (0..450)
        .map(|i| {
            let heading = if i % 150 == 0 { format!("\n\n# Part {}\n\n", i / 150) } else { String::new() };
            format!("{heading}This sentence {i} is about {} and so on. ", topics[i / 150])
        })
        .collect();
    let summarizer = summarizer(&words, 64, 1000);
    let options = SummaryOptions { sentences: Some(20), lead: 1.0, ..Default::default() };
    let prepared = summarizer.prepare(vec![text.clone()], &options, &|| true).unwrap();
    assert_eq!(prepared.state.texts[0].section_bounds, [0, 150, 300, 450]);
    let summary = summarizer.run(vec![text.clone()], &options, 4096).unwrap().remove(0);
    check_consistent(&text, &summary);
    assert!(!summary.sentences.is_empty() && summary.sentences.len() <= 20);
}

#[test]
fn bad_inputs_are_named() {
    let summarizer = summarizer("a", 64, 3);
    let run = |inputs: &[&str]| {
        let inputs = inputs.iter().map(|s| s.to_string()).collect();
        summarizer.run(inputs, &SummaryOptions::default(), 512).unwrap_err()
    };
    assert_eq!(run(&[]), PipelineError::NoInput);
    assert_eq!(run(&["a", " \n"]), PipelineError::Empty { index: 1 });
    let expected = PipelineError::TooManySentences { index: 1, sentences: 4, limit: 3 };
    assert_eq!(run(&["A. B", "One. Two. Three. Four."]), expected);
}

#[test]
fn options_out_of_range_are_refused() {
    let good = SummaryOptions::default;
    let cases = [
        ("sentences", SummaryOptions { sentences: Some(0), ..good() }),
        ("max_words", SummaryOptions { max_words: Some(0), ..good() }),
        ("max_chars", SummaryOptions { max_chars: Some(0), ..good() }),
        ("ratio", SummaryOptions { ratio: Some(0.0), ..good() }),
        ("ratio", SummaryOptions { ratio: Some(1.1), ..good() }),
        ("ratio", SummaryOptions { ratio: Some(f32::NAN), ..good() }),
        ("diversity", SummaryOptions { diversity: -0.1, ..good() }),
        ("diversity", SummaryOptions { diversity: f32::NAN, ..good() }),
        ("lead", SummaryOptions { lead: 1.5, ..good() }),
        ("lead", SummaryOptions { lead: f32::NAN, ..good() }),
        ("query", SummaryOptions { query: Some(" ".into()), ..good() }),
    ];
    for (expected, options) in cases {
        match run_on(TEXT, &options) {
            Err(PipelineError::InvalidOption { param, .. }) => assert_eq!(param, expected),
            other => panic!("{expected}: {other:?}"),
        }
    }
}

#[test]
fn values_that_are_not_finite_are_refused() {
    let summarizer = summarizer(TEXT, 64, 1000);
    let prepared = summarizer.prepare(vec![TEXT.into(), TEXT.into()], &SummaryOptions::default(), &|| true).unwrap();
    let n = prepared.sequences.len();
    let mut rows = vec![vec![1.0; 24]; n];
    rows[n - 1][3] = f32::NAN;
    let refused = summarizer.finish(prepared.state, rows, &SummaryOptions::default());
    assert_eq!(refused.unwrap_err(), PipelineError::NotFinite { index: 1 });
}

#[test]
fn a_request_that_nobody_waits_for_is_given_up() {
    let asked = std::cell::Cell::new(0);
    let until_third = || {
        asked.set(asked.get() + 1);
        asked.get() < 3
    };
    let prepared = summarizer(TEXT, 64, 1000).prepare(vec![TEXT.into()], &SummaryOptions::default(), &until_third);
    assert_eq!(prepared.err(), Some(PipelineError::Unwanted));
}
