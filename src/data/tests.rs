//! What is read, and what is said about what cannot be.

use super::*;

fn write(name: &str, content: &[u8]) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(name);
    std::fs::write(&path, content).unwrap();
    (dir, path)
}

fn read_columns(name: &str, content: &str, columns: &Columns) -> Result<Vec<Example>, DataError> {
    let (_dir, path) = write(name, content.as_bytes());
    read_with(&path, columns, usize::MAX)
}

fn read(name: &str, content: &str) -> Result<Vec<Example>, DataError> {
    read_columns(name, content, &Columns::default())
}

fn refused(name: &str, content: &str) -> String {
    read(name, content).unwrap_err().to_string()
}

#[test]
fn three_formats_give_the_same_examples() {
    let jsonl = read("a.jsonl", "{\"text\":\"a, b\",\"label\":\"x\",\"rating\":1.5}\n\n{\"text\":\"c\",\"label\":2}\n");
    let csv = read("a.csv", "text,label,rating\n\"a, b\",x,1.5\nc,2,\n").unwrap();
    let tsv = read("a.tsv", "label\ttext\trating\nx\ta, b\t1.5\n2\tc\t\n").unwrap();
    let jsonl: Vec<_> = jsonl.unwrap();
    assert_eq!([jsonl[0].line, jsonl[1].line], [1, 3]);
    assert_eq!([csv[0].line, csv[1].line], [2, 3]);
    let plain = |examples: Vec<Example>| -> Vec<Example> {
        let name = |l: Label| Label::Name(l.to_string());
        examples.into_iter().map(|e| Example { label: e.label.map(name), line: 0, ..e }).collect()
    };
    let (jsonl, csv, tsv) = (plain(jsonl), plain(csv), plain(tsv));
    assert_eq!(jsonl, csv);
    assert_eq!(csv, tsv);
    assert_eq!(csv[0].text, "a, b");
    assert_eq!(csv[0].rating, Some(1.5));
}

#[test]
fn lines_are_counted_whatever_ends_them() {
    let lines = |content: &str| {
        let (_dir, path) = write("a.csv", content.as_bytes());
        read_examples(&path).unwrap().iter().map(|example| example.line).collect::<Vec<_>>()
    };
    for (content, expected) in [
        ("text,label\na,b\nc,d\n", [2, 3]),
        ("text,label\r\na,b\r\nc,d\r\n", [2, 3]),
        ("\u{feff}text,label\r\n\r\n\r\na,b\r\n\r\nc,d", [4, 6]),
        ("text,label\n\n\na,b\n\nc,d", [4, 6]),
        ("text,label\r\n\"a\r\n\r\na\",b\r\nc,d\r\n", [2, 5]),
    ] {
        assert_eq!(lines(content), expected, "{content:?}");
    }
}

#[test]
fn every_bad_line_is_named_with_its_number() {
    let error = refused("a.jsonl", "{\"text\":\"a\"}\n{\"txt\":\"b\"}\nnot json\n[1]\n{\"text\":3}\n");
    for part in ["4 bad lines", "line 2: no field \"text\"", "found txt", "--text-column", "line 3", "line 4"] {
        assert!(error.contains(part), "{part}: {error}");
    }
    assert!(error.contains("line 5: \"text\" is 3, expected a string"), "{error}");
    let error = refused("a.csv", "text,rating\na,much\nb,NaN\n");
    assert!(error.contains("line 2: \"rating\" is \"much\"") && error.contains("line 3"), "{error}");
    let many: String = (0..25).map(|_| "{}\n").collect();
    let error = refused("a.jsonl", &many);
    assert!(error.contains("25 bad lines") && error.contains("line 10:") && !error.contains("line 11:"), "{error}");
}

#[test]
fn a_line_that_is_not_utf_8_is_named_and_the_next_ones_are_read() {
    for (name, content, line) in [
        ("a.jsonl", b"{\"text\":\"a\"}\n\xff\n{\"text\":\"b\"}\n".as_slice(), 2),
        ("a.csv", b"text\na\n\xff\nb\n".as_slice(), 3),
    ] {
        let (_dir, path) = write(name, content);
        let found: Vec<_> = open(&path, &Columns::default()).unwrap().collect();
        assert_eq!(found.len(), 3, "{name}: {found:?}");
        assert_eq!(found[1].as_ref().unwrap_err().line, line, "{name}");
        assert_eq!(found[2].as_ref().unwrap().text, "b", "{name}");
    }
}

#[test]
fn utf_16_is_named_with_what_to_do() {
    let encoded = |content: &str, bytes: fn(u16) -> [u8; 2]| -> Vec<u8> {
        format!("\u{feff}{content}").encode_utf16().flat_map(bytes).collect()
    };
    for (name, content) in [("a.csv", "text,label\na,b\n"), ("a.tsv", "text\tlabel\n"), ("a.jsonl", "{\"text\":\"a\"}")]
    {
        for bytes in [u16::to_le_bytes, u16::to_be_bytes] {
            let (_dir, path) = write(name, &encoded(content, bytes));
            let error = read_examples(&path).unwrap_err().to_string();
            assert!(error.contains("UTF-16") && error.contains("iconv -f UTF-16 -t UTF-8"), "{error}");
        }
    }
    assert_eq!(read("a.jsonl", "\u{feff}{\"text\":\"a\"}").unwrap()[0].text, "a", "UTF-8 may have a mark");
}

#[test]
fn the_names_of_columns_and_fields_are_told() {
    for (name, content) in [
        ("a.csv", "\u{feff}text,stars\na,1\n"),
        ("a.tsv", "text\tstars\n"),
        ("a.jsonl", "\n{\"text\":\"a\",\"stars\":1}\n{\"other\":1}\n"),
    ] {
        let (_dir, path) = write(name, content.as_bytes());
        assert_eq!(column_names(&path, &Columns::default()).unwrap(), ["text", "stars"], "{name}");
    }
    let (_dir, path) = write("a.jsonl", b"[1]\n");
    assert!(column_names(&path, &Columns::default()).unwrap().is_empty());
}

#[test]
fn a_folder_in_place_of_a_file_is_an_error_and_ends() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.jsonl");
    std::fs::create_dir(&path).unwrap();
    assert!(matches!(read_examples(&path), Err(DataError::Lines { count: 1, .. } | DataError::Read { .. })));
}

#[test]
fn missing_columns_unknown_formats_and_empty_files_are_refused() {
    assert!(refused("a.csv", "txt,label\na,b\n").contains("found txt, label"));
    for (name, content, told) in [
        ("a.csv", "text;label\na, b;c\n", "found text;label; that is separated by \";\"; save it with commas as .csv"),
        ("a.csv", "text\tlabel\na\tb\n", "must end in .tsv"),
        ("a.tsv", "text,label\na,b\n", "must end in .csv"),
        ("a.csv", "review\na\n", "--text-column"),
    ] {
        let error = refused(name, content);
        assert!(error.contains(told), "{error}");
    }
    assert!(refused("a.parquet", "").contains(".jsonl, .csv or .tsv"));
    assert!(matches!(read("a.jsonl", "\n"), Err(DataError::NoExamples { .. })));
    assert!(matches!(read("a.csv", ""), Err(DataError::NoExamples { .. })));
    assert!(refused("a.jsonl", "{\"text\":\" \"}\n").contains("empty"));
}

#[test]
fn columns_can_have_other_names() {
    let columns = || {
        let mut columns = Columns::default().name(Field::Text, "review").name(Field::Label, "stars");
        columns.scores = vec!["vader".into()];
        columns
    };
    let jsonl = "{\"review\":\"good\",\"stars\":5,\"text\":\"id\",\"vader\":0.5}\n";
    for (name, content) in [("a.jsonl", jsonl), ("a.csv", "review,stars,text,vader\ngood,5,id,0.5\n")] {
        let found = read_columns(name, content, &columns()).unwrap();
        assert_eq!((found[0].text.as_str(), found[0].scores.as_slice()), ("good", [0.5].as_slice()));
        assert_eq!(found[0].label.as_ref().unwrap().to_string(), "5");
    }
    let columns_of_ratings = Columns::default().name(Field::Rating, "label");
    let found = read_columns("a.jsonl", "{\"text\":\"a\",\"label\":3.2}\n", &columns_of_ratings).unwrap();
    assert_eq!((found[0].rating, found[0].label.clone()), (Some(3.2), None), "a column is one thing only");
    for (name, content) in [("a.jsonl", "{\"review\":\"a\",\"stars\":1}\n"), ("a.csv", "review,stars\na,1\n")] {
        let error = read_columns(name, content, &columns()).unwrap_err().to_string();
        assert!(error.contains("\"vader\"; found review, stars"), "{error}");
    }
}

#[test]
fn lists_are_read_from_json_and_from_cells() {
    let jsonl = [
        "{\"text\":\"a\",\"labels\":[\"x\",2],\"ratings\":[1,-2.5]}",
        "{\"text\":\"b\",\"labels\":[]}",
        "{\"text\":\"c\",\"label\":[\"x\"]}",
        "{\"text\":\"d\"}",
    ];
    let found = read("a.jsonl", &jsonl.join("\n")).unwrap();
    let labels: Vec<_> = found.iter().map(|e| e.labels.clone()).collect();
    let some = |names: &[&str]| Some(names.iter().map(|n| n.to_string()).collect::<Vec<_>>());
    assert_eq!(labels, [some(&["x", "2"]), some(&[]), some(&["x"]), None]);
    assert_eq!(found[0].ratings, [1.0, -2.5]);
    let found = read("a.csv", "text,labels,ratings\na,x|2,1|-2.5\nb,,\n").unwrap();
    assert_eq!((found[0].labels.clone(), found[1].labels.clone()), (some(&["x", "2"]), some(&[])));
    assert_eq!((found[0].ratings.as_slice(), found[1].ratings.len()), ([1.0, -2.5].as_slice(), 0));
}

#[test]
fn probabilities_add_up_to_one() {
    let json = r#"{"text": "a", "label": "x", "probabilities": {"x": 0.75, "y": 0.25}}"#;
    let expected = vec![("x".to_string(), 0.75), ("y".to_string(), 0.25)];
    assert_eq!(read("a.jsonl", json).unwrap()[0].probabilities, expected);
    let csv = "text,probabilities\na,\"{\"\"x\"\": 0.75, \"\"y\"\": 0.25}\"\nb,\n";
    let found = read("a.csv", csv).unwrap();
    assert_eq!((&found[0].probabilities, found[1].probabilities.len()), (&expected, 0));
    for wrong in [r#"{"x": 0.5, "y": 0.25}"#, r#"{"x": 1.5, "y": -0.5}"#, "[1]", "0.5"] {
        let error = refused("a.jsonl", &format!(r#"{{"text": "a", "probabilities": {wrong}}}"#));
        assert!(error.contains("line 1") && error.contains("add up to 1"), "{error}");
    }
}

#[test]
fn the_first_examples_are_enough_when_asked_so() {
    let (_dir, path) = write("a.jsonl", b"{\"text\":\"a\"}\n{\"text\":\"b\"}\nbroken\n");
    assert_eq!(read_with(&path, &Columns::default(), 2).unwrap().len(), 2);
}

#[test]
fn quotes_in_a_tsv_are_ordinary_characters_and_a_byte_order_mark_is_none() {
    assert_eq!(read("a.tsv", "text\tlabel\nsay \"hi\tx\n").unwrap()[0].text, "say \"hi");
    assert_eq!(read("a.csv", "\u{feff}text\na\n").unwrap()[0].text, "a");
    assert_eq!(read("a.jsonl", "\u{feff}{\"text\":\"a\"}\n").unwrap()[0].text, "a");
}

#[test]
fn a_sample_is_evenly_spaced_and_whole_files_are_looked_at() {
    let lines: Vec<String> = (0..10).map(|i| format!("{{\"text\":\"{i}\"}}")).collect();
    let (_dir, path) = write("a.jsonl", lines.join("\n").as_bytes());
    let sampled = |count: usize| {
        let mut texts = Vec::new();
        sample_with(&path, &Columns::default(), count, |example| texts.push(example.text)).unwrap();
        texts.concat()
    };
    assert_eq!(
        [sampled(1), sampled(3), sampled(5), sampled(10), sampled(99)],
        ["0", "036", "02468", "0123456789", "0123456789"]
    );
    let (_dir, path) = write("a.jsonl", b"{\"text\":\"a\"}\nbroken\n");
    let error = sample_with(&path, &Columns::default(), 1, |_| {}).unwrap_err().to_string();
    assert!(error.contains("line 2"), "{error}");
}
