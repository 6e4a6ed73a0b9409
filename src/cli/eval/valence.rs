//! The table of the human-rated corpora: models, another program's scores and single people by one rule, beside what
//! was published.

use anyhow::{Context, ensure};
use serde_json::json;

use crate::cli::section::Section;
use crate::cli::table::Table;
use crate::eval::valence::{self, Agreement, CORPORA, LARGEST_RATING, PUBLISHED};

use super::Arena;

/// Judges the scores of the contestants, -1..1 by contestant and example, by the ratings; and the numbers that they
/// give beside their classes, by name.
pub(super) fn section(
    arena: &Arena<'_>,
    scores: Option<Vec<&[f64]>>,
    numbers: &[(String, &[f64])],
) -> anyhow::Result<Section> {
    let scores =
        scores.context("--valence: the models' labels must be negative and positive, with or without neutral")?;
    let in_range = scores.iter().copied().flatten().all(|x| (-1.0..=1.0).contains(x));
    ensure!(in_range, "--valence: the models' labels must lie between negative and positive");
    let mut sources: Vec<&str> = arena.examples.iter().filter_map(|e| e.source.as_deref()).collect();
    sources
        .sort_by_key(|source| (CORPORA.iter().position(|corpus| corpus == source).unwrap_or(CORPORA.len()), *source));
    sources.dedup();
    if sources.is_empty() {
        sources.push("");
    }
    let rated = |source: &str| {
        let of_source = move |i: &usize| arena.examples[*i].source.as_deref().unwrap_or("") == source;
        let rated = (0..arena.examples.len()).filter(|i| arena.examples[*i].rating.is_some());
        rated.filter(of_source).collect::<Vec<usize>>()
    };
    let texts: Vec<Vec<usize>> = sources.iter().map(|source| rated(source)).collect();
    ensure!(texts.iter().any(|t| !t.is_empty()), "--valence: no example has a rating (--rating-column)");
    let rating = |i: usize| arena.examples[i].rating.unwrap_or_default();
    let judge = |scores: &dyn Fn(usize) -> f64, texts: &[usize]| {
        let (scores, ratings): (Vec<f64>, Vec<f64>) = texts.iter().map(|i| (scores(*i), rating(*i))).unzip();
        Figures::from(valence::of_scores(&scores, &ratings))
    };
    let mut board = Vec::new();
    for (index, own) in scores.iter().enumerate() {
        let figures = texts.iter().map(|texts| judge(&|i| own[i], texts)).collect();
        board.push(Row { who: arena.name(index), from: "measured", figures });
    }
    for (name, own) in numbers {
        let figures = texts.iter().map(|texts| judge(&|i| own[i] / LARGEST_RATING, texts)).collect();
        board.push(Row { who: name, from: "measured", figures });
    }
    for (column, name) in arena.args.score_column.iter().enumerate() {
        let figures = texts.iter().map(|texts| judge(&|i| arena.examples[i].scores[column], texts)).collect();
        board.push(Row { who: name, from: "measured", figures });
    }
    if arena.examples.iter().any(|e| !e.ratings.is_empty()) {
        let single = |texts: &Vec<usize>| {
            let raters = valence::of_raters(texts.iter().map(|i| arena.examples[*i].ratings.as_slice()));
            Figures::from(raters)
        };
        board.push(Row { who: "individual humans", from: "measured", figures: texts.iter().map(single).collect() });
    }
    let corpora: Vec<Option<usize>> = sources.iter().map(|s| CORPORA.iter().position(|corpus| corpus == s)).collect();
    for row in PUBLISHED.iter().filter(|_| corpora.iter().any(Option::is_some)) {
        let figures = corpora.iter().map(|c| c.map_or(Figures::default(), |c| Figures { f1: row.f1[c], r: row.r[c] }));
        board.push(Row { who: row.name, from: "published", figures: figures.collect() });
    }
    let counts: Vec<String> = sources.iter().zip(&texts).map(|(source, t)| format!("{} {source}", t.len())).collect();
    let notes = vec![
        "F1 (averaged with the frequencies of the classes) and Pearson's r. Truth: the sign of the mean rating, \
         exactly 0 being neutral. A score, the probability of positive minus that of negative, is positive from 0.05 \
         on and negative from -0.05 down; a number that a model gives beside its classes counts as a quarter, as \
         ratings go to 4."
            .into(),
        format!(
            "Measured: on the texts of this file ({}). Published: by Hutto & Gilbert (VADER, ICWSM 2014, tables 4 and \
             5), on the whole corpora. Individual humans: every single rating against the mean of the ratings of its \
             text.",
            counts.join(", ")
        ),
    ];
    Ok(Section {
        key: "valence",
        title: "Human-rated sentences",
        table: table(&sources, &board),
        rows: rows(&sources, &texts, &board),
        figures: Vec::new(),
        notes,
    })
}

/// Somebody's figures, by source.
struct Row<'a> {
    who: &'a str,
    /// `measured` or `published`.
    from: &'static str,
    figures: Vec<Figures>,
}

#[derive(Clone, Copy, Default)]
struct Figures {
    f1: Option<f64>,
    r: Option<f64>,
}

impl From<Agreement> for Figures {
    fn from(found: Agreement) -> Self {
        Figures { f1: Some(found.confusion.weighted_f1()), r: found.r }
    }
}

fn table(sources: &[&str], board: &[Row<'_>]) -> Table {
    let columns = |figure: &str| sources.iter().map(|source| format!("{figure} {source}")).collect::<Vec<_>>();
    let mut table =
        Table::with_header([vec!["who".to_string(), "from".to_string()], columns("F1"), columns("r")].concat());
    let cell = |x: Option<f64>, digits: usize| x.map_or("-".to_string(), |x| format!("{x:.digits$}"));
    for row in board {
        let cells = [row.who.to_string(), row.from.to_string()].into_iter();
        // The paper prints two digits of F1.
        let digits = if row.from == "published" { 2 } else { 3 };
        let f1 = row.figures.iter().map(|figures| cell(figures.f1, digits));
        table.row(cells.chain(f1).chain(row.figures.iter().map(|figures| cell(figures.r, 3))));
    }
    table
}

fn rows(sources: &[&str], texts: &[Vec<usize>], board: &[Row<'_>]) -> Vec<serde_json::Value> {
    let of_row = |row: &Row<'_>| {
        let by_source = sources.iter().zip(texts).zip(&row.figures);
        let one = |((source, texts), figures): ((&&str, &Vec<usize>), &Figures)| {
            let n = (row.from == "measured").then_some(texts.len());
            json!({
                "who": row.who,
                "source": source,
                "n": n,
                "f1_weighted": figures.f1,
                "pearson": figures.r,
                "from": row.from,
            })
        };
        by_source.map(one).collect::<Vec<_>>()
    };
    board.iter().flat_map(of_row).collect()
}
