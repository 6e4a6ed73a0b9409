use std::path::Path;

use crate::interchange::mutations;

const GRAPH: &str = "tests/goldens/foreign/onnx-dynamic-channel.onnx";

#[test]
fn damaged_files_are_refused_or_sound_and_never_panic() {
    let original = std::fs::read(GRAPH).unwrap();
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("model.onnx");
    std::fs::write(&path, &original).unwrap();
    super::read(&path).unwrap();
    // Nodes come first in the file, then the initializers.
    let places = [(0, 40_000.min(original.len() / 2))];
    mutations::run(&original, &places, 1_500, |content| {
        std::fs::write(&path, content).unwrap();
        match super::read(&path) {
            Ok(encoder) => encoder.arrays.values().all(|a| !a.shape().contains(&0)),
            Err(_) => false,
        }
    });
}

/// A field of a protobuf message.
fn field(number: u8, content: &[u8]) -> Vec<u8> {
    let mut bytes = vec![number << 3 | 2];
    let mut length = content.len();
    while length >= 0x80 {
        bytes.push(length as u8 | 0x80);
        length >>= 7;
    }
    bytes.push(length as u8);
    bytes.extend(content);
    bytes
}

fn refused(content: &[u8]) -> String {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("model.onnx");
    std::fs::write(&path, content).unwrap();
    super::read(&path).err().expect("it is refused").to_string()
}

fn graph(parts: &[Vec<u8>]) -> Vec<u8> {
    field(7, &parts.concat())
}

/// A node with inputs and one output.
fn node(op: &str, inputs: &[&str], output: &str) -> Vec<u8> {
    let mut fields: Vec<u8> = inputs.iter().flat_map(|i| field(1, i.as_bytes())).collect();
    fields.extend(field(2, output.as_bytes()));
    fields.extend(field(3, b"the node"));
    fields.extend(field(4, op.as_bytes()));
    field(1, &fields)
}

fn input(name: &str) -> Vec<u8> {
    field(11, &field(1, name.as_bytes()))
}

fn output(name: &str) -> Vec<u8> {
    field(12, &field(1, name.as_bytes()))
}

/// A float tensor of these dimensions.
fn weight(name: &str, dims: &[u8], external: Option<&[u8]>) -> Vec<u8> {
    let mut tensor: Vec<u8> = dims.iter().flat_map(|d| [1 << 3, *d]).collect();
    tensor.extend([2 << 3, 1]);
    tensor.extend(field(8, name.as_bytes()));
    match external {
        Some(entry) => tensor.extend(field(13, entry)),
        None => tensor.extend(field(9, &vec![0; 4 * dims.iter().map(|d| usize::from(*d)).product::<usize>()])),
    }
    field(5, &tensor)
}

#[test]
fn graphs_that_are_no_encoders_are_refused_by_node() {
    let table = weight("table", &[4, 2], None);
    let entry = |key: &str, value: &str| [field(1, key.as_bytes()), field(2, value.as_bytes())].concat();
    let cases: Vec<(&str, Vec<u8>, &str)> = vec![
        ("empty", vec![], "not one graph"),
        ("two graphs", [graph(&[]), graph(&[])].concat(), "not one graph"),
        ("cut", graph(&[input("a")])[..4].to_vec(), "cut short"),
        ("wire type", vec![7 << 3 | 3], "wire type 3"),
        ("long number", vec![0xff; 16], "more than 10 bytes"),
        ("no output", graph(&[input("a")]), "a graph without outputs"),
        ("missing value", graph(&[node("Relu", &["b"], "c"), output("c")]), "nothing makes \"b\" before it is used"),
        ("made twice", graph(&[input("a"), node("Relu", &["a"], "a"), output("a")]), "\"a\" is made twice"),
        ("cycle", graph(&[node("Add", &["c", "c"], "c"), output("c")]), "nothing makes \"c\" before"),
        ("tensor twice", graph(&[table.clone(), table.clone()]), "tensor \"table\" twice"),
        (
            "other node",
            graph(&[input("a"), table.clone(), node("LSTM", &["a", "table"], "c"), output("c")]),
            "node \"the node\" (LSTM) is not supported",
        ),
        (
            "lookup only",
            graph(&[input("a"), table.clone(), node("Gather", &["table", "a"], "c"), output("c")]),
            "gives Lookup; expected last hidden states",
        ),
        ("short tensor", field(7, &field(5, &[1 << 3, 4, 2 << 3, 1])), "0 bytes for F32 of shape [4]"),
        ("strings", field(7, &field(5, &[1 << 3, 1, 2 << 3, 8])), "data type 8"),
        (
            "huge tensor",
            field(
                7,
                &field(
                    5,
                    &[&[1 << 3, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f].repeat(2)[..], &[16, 1]].concat(),
                ),
            ),
            "bytes for F32 of shape",
        ),
        (
            "other folder",
            graph(&[weight("w", &[2, 2], Some(&entry("location", "../secret")))]),
            "which is no file beside the model",
        ),
        (
            "absolute",
            graph(&[weight("w", &[2, 2], Some(&entry("location", "/etc/passwd")))]),
            "no file beside the model",
        ),
        ("absent", graph(&[weight("w", &[2, 2], Some(&entry("location", "values")))]), "cannot read"),
    ];
    for (what, content, expected) in cases {
        let message = refused(&content);
        assert!(message.contains(expected) && message.contains("model.onnx"), "{what}: {message}");
    }
}

#[test]
fn values_beside_the_file_are_read_within_their_bounds() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("model.onnx");
    std::fs::write(root.path().join("values"), [0; 16]).unwrap();
    let entry = |key: &str, value: &str| field(13, &[field(1, key.as_bytes()), field(2, value.as_bytes())].concat());
    let read = |offset: &str| {
        let fields = [entry("location", "values"), entry("offset", offset), entry("length", "16")].concat();
        let tensor = [vec![1 << 3, 2, 1 << 3, 2, 2 << 3, 1], field(8, b"w"), fields].concat();
        std::fs::write(&path, graph(&[field(5, &tensor)])).unwrap();
        super::read(Path::new(&path)).err().unwrap().to_string()
    };
    assert!(read("0").contains("a graph without outputs"));
    assert!(read("1").contains("bytes 1 to Some(16)"));
    assert!(read("18446744073709551615").contains("of \"values\", which has 16"));
}
