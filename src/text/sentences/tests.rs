use proptest::prelude::*;

use super::*;

fn chars(s: &str) -> usize {
    s.chars().count()
}

fn sentences(text: &str) -> Vec<&str> {
    segment(text, 10_000, chars).into_iter().map(|s| &text[s.range]).collect()
}

/// Each case is its sentences, joined by one space (or nothing, where the script has none).
#[track_caller]
fn check(separator: &str, cases: &[&[&str]]) {
    for expected in cases {
        let text = expected.join(separator);
        assert_eq!(sentences(&text), *expected, "{text:?}");
    }
}

#[test]
fn stops_end_sentences() {
    check(
        " ",
        &[
            &["One sentence."],
            &["No stop at all"],
            &["It rains.", "We stay."],
            &["Really?", "Yes!", "Good."],
            &["What?!", "No!!!", "Fine."],
            &["He won in 1999.", "The prize was small."],
            &["Tokens are spaced .", "So are stops .", "Even ( these ) ."],
            &["It works!", "😀 Great.", "Next."],
        ],
    );
}

#[test]
fn english_abbreviations_do_not_end_sentences() {
    check(
        " ",
        &[
            &["Mr. Smith met Dr. Jones, e.g. Monday.", "They talked."],
            &["See Fig. 3 and Eq. 4 of Vol. 2.", "It is clear."],
            &["He said no.", "Five people left."],
            &["It is No. 5 on the list."],
            &["Smith et al. 2019 and Jones et al. Report differ."],
            &["Apples, pears, etc. are fruit."],
            &["Apples, pears, etc.", "Buy some."],
            &["Apple Inc. Chief Tim Cook spoke."],
            &["He works for Apple Inc.", "The firm is big."],
            &["He lives in the U.S. Army base.", "It is large."],
            &["He moved to the U.S.", "In 2010 he left."],
            &["At 5 p.m. Eastern time.", "At 6 a.m.", "They woke."],
            &["She has a Ph.D. in physics."],
            &["Cats vs. Dogs is a film."],
            &["Smith et al . ( 2019 ) agree , as Fig . 3 shows .", "Good ."],
        ],
    );
}

#[test]
fn abbreviations_of_other_languages_do_not_end_sentences() {
    check(
        " ",
        &[
            &["Das kostet ca. 50 Euro, z.B. Bücher.", "Das ist viel."],
            &["Das gilt z. B. Montag, d. h. Werktags.", "Es gilt."],
            &["Am 3. Oktober feiern wir.", "Im 19. Jahrhundert nicht."],
            &["Vgl. Abb. 7 auf S. 12.", "Hier steht mehr."],
            &["Äpfel, Birnen usw. sind Obst.", "Alles gut."],
            &["M. Dupont et Mme. Martin sont là.", "Ils parlent, cf. Article 3."],
            &["El Sr. García y la Dra. López llegaron.", "Ellos hablan, p. ej. Español."],
            &["O Exmo. Sr. Silva mora na Av. Paulista.", "Ele fala."],
            &["Il Sig. Rossi e il Dott. Bianchi, p.es. Martedì.", "Il libro è qui."],
        ],
    );
}

#[test]
fn initials_decimals_versions_and_addresses_stay_whole() {
    check(
        " ",
        &[
            &["J. R. R. Tolkien and J.R.R. Tolkien wrote.", "He did."],
            &["George W. Bush won.", "John F. Kennedy too."],
            &["Pi is 3.14159 or 3.14.", "Good."],
            &["Use version 2.0.1 now.", "Then 2.1."],
            &["See https://example.com/a.b?c=d!e#f for more.", "Or example.org.", "Mail a.b@c.de today."],
            &["Open file.txt and Node.js.", "Run it."],
            &["Yahoo! is a site.", "iPhone sales rose.", "eBay too."],
            &["1. Buy milk now.", "Then rest."],
        ],
    );
}

#[test]
fn ellipses_end_sentences_before_capitals_only() {
    check(
        " ",
        &[
            &["Well... maybe not.", "He left..."],
            &["Well...", "Maybe not."],
            &["Hm… ja, gut.", "So…", "Nein."],
            &["And so on . . . until the end."],
        ],
    );
}

#[test]
fn closing_quotes_brackets_and_reference_marks_belong_to_the_sentence() {
    check(
        " ",
        &[
            &["\"It rains.\"", "He stayed."],
            &["“Really?” he said.", "“Yes.”", "She left."],
            &["(It was late.)", "They slept."],
            &["It is known.[12]", "It is new.[3][4]", "Good."],
            &["« Quoi ? » dit-il.", "« Rien. »", "Il part."],
            &["»Nein.«", "Er ging."],
            &["**Bold.**", "Plain."],
            &["It is so.'", "Next one."],
            &["— Привет! — сказал он.", "Она ушла."],
        ],
    );
}

#[test]
fn chinese_and_japanese_need_no_spaces() {
    check(
        "",
        &[
            &["今天天气很好。", "我们去公园！", "你来吗？", "好｡"],
            &["「行きます。」", "彼は笑った。"],
            &["「行きます。」と言った。", "終わり。"],
            &["値は３．５です。", "次。"],
            &["他说：“走吧。”", "然后走了。"],
        ],
    );
}

#[test]
fn stops_of_other_scripts_end_sentences() {
    check(
        " ",
        &[
            &["यह एक वाक्य है।", "यह दूसरा है॥", "ठीक।"],
            &["هل أنت هنا؟", "نعم.", "حسنا!"],
            &["یہ اردو ہے۔", "وہ بھی۔"],
            &["Это предложение.", "Это тоже."],
            &["¿Qué pasa?", "¡Nada!", "Bien."],
        ],
    );
}

#[test]
fn text_without_capitals_is_cut_too() {
    check(" ", &[&["it rains today.", "we stay at home, e.g. inside.", "good!", "fine."]]);
}

#[test]
fn blank_lines_bullets_and_headings_are_hard_breaks() {
    let cases: [(&str, &[&str]); 8] = [
        ("First part\n\nsecond part", &["First part", "second part"]),
        ("One line\nwrapped here. Next\nline.", &["One line\nwrapped here.", "Next\nline."]),
        ("A list:\n- one\n- two\n  more\n* three", &["A list:", "- one", "- two\n  more", "* three"]),
        ("Steps\n1. open it\n2. close it\n10) done", &["Steps", "1. open it", "2. close it", "10) done"]),
        ("# Title\ntext goes on\n## Sub\nmore", &["# Title", "text goes on", "## Sub", "more"]),
        ("INTRODUCTION\nWe begin.", &["INTRODUCTION", "We begin."]),
        ("Text\r\n\r\nMore\r\nand more", &["Text", "More\r\nand more"]),
        ("Above\n-----\nbelow", &["Above", "-----", "below"]),
    ];
    for (text, expected) in cases {
        assert_eq!(sentences(text), expected, "{text:?}");
    }
}

#[test]
fn headings_are_told_from_sentences() {
    let headings = |text: &str| -> Vec<String> {
        let segments = segment(text, 10_000, chars);
        let headings = segments.into_iter().filter(|s| s.kind == SegmentKind::Heading);
        headings.map(|s| text[s.range].to_string()).collect()
    };
    assert_eq!(headings("# A title\ntext"), ["# A title"]);
    assert_eq!(headings("RESULTS\nWe found it.\n\nDISCUSSION\nWe talk."), ["RESULTS", "DISCUSSION"]);
    assert_eq!(
        headings("2.1 Methods\n\nWe did it.\n\nResults and more\n\nIt worked."),
        ["2.1 Methods", "Results and more"]
    );
    assert!(headings("THIS WHOLE TEXT IS\nWRITTEN IN CAPITALS\nAND WRAPPED").is_empty());
    assert!(headings("A sentence.\n\nAnother one.\n\nlast words").is_empty());
    assert!(headings("The last line is no heading\n\nReally not").len() == 1);
}

#[test]
fn over_long_sentences_are_cut_at_the_strongest_place_that_suffices() {
    let cases: [(&str, usize, &[&str]); 7] = [
        ("aaa bbb\nccc ddd", 10, &["aaa bbb", "ccc ddd"]),
        ("aa, bb; cc, dd; ee", 9, &["aa, bb;", "cc, dd;", "ee"]),
        ("aa, bb, cc, dd", 8, &["aa, bb,", "cc, dd"]),
        ("aaaa bbbb cccc dddd", 10, &["aaaa bbbb", "cccc dddd"]),
        ("aaaaaaaaaaaa", 5, &["aaaaa", "aaaaa", "aa"]),
        ("日本語、日本語、日本語", 8, &["日本語、日本語、", "日本語"]),
        ("short one. Also this", 11, &["short one.", "Also this"]),
    ];
    for (text, max, expected) in cases {
        let found: Vec<&str> = segment(text, max, chars).into_iter().map(|s| &text[s.range]).collect();
        assert_eq!(found, expected, "{text:?}");
    }
}

#[test]
fn no_text_has_no_sentences() {
    assert!(sentences("").is_empty());
    assert!(sentences(" \n\t\u{3000}\n").is_empty());
}

/// A quadratic scan of any of these would take minutes.
#[test]
fn a_megabyte_of_anything_is_cut() {
    for unit in [
        ".",
        "a",
        " ",
        "\n",
        ". ",
        "a. ",
        "A. ",
        "...\"",
        ".)",
        "Dr. ",
        "[1]",
        ".[1",
        "e.g",
        "。",
        "「",
        "1. ",
        "\n\n",
        "#",
        "# ",
        "- ",
        "\n-",
        "A B. C",
        ",",
        "; ",
        " »",
        ". »",
        "? - ",
        "Word. Next ",
        "CAPS\n",
        "\u{301}",
        "'",
        ".'",
        "\r",
    ] {
        let text = unit.repeat((1 << 20) / unit.len());
        check_partition(&text, 500);
    }
}

/// Segments are in order, trimmed, not empty, short enough; gaps are white space.
fn check_partition(text: &str, max: usize) {
    let mut at = 0;
    for Segment { range, .. } in segment(text, max, chars) {
        assert!(at <= range.start && range.start < range.end, "{at} {range:?}");
        let (gap, part) = (&text[at..range.start], &text[range.clone()]);
        assert!(gap.trim().is_empty(), "lost {gap:?}");
        assert_eq!(part, part.trim());
        assert!(chars(part) <= max, "{} characters of {max}", chars(part));
        at = range.end;
    }
    assert!(text[at..].trim().is_empty(), "lost {:?}", &text[at..]);
}

proptest! {
    #[test]
    fn any_text_is_partitioned(text in any::<String>(), max in 1usize..50) {
        check_partition(&text, max);
    }

    #[test]
    fn text_full_of_stops_is_partitioned(
        text in "([A-Za-z]{1,3}|[0-9]|[.!?…。！？।؟;,]|[\"'”»«)(\\[\\]「」]|[ \n\t\u{a0}\r#-]|é|字|Dr\\.|e\\.g\\.){0,80}",
        max in 1usize..40,
    ) {
        check_partition(&text, max);
    }
}
