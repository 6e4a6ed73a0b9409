use std::io::Write;
use std::path::{Path, PathBuf};

use crate::interchange::tensors::{Array, Named};

use super::StateDicts;

const STATE_DICT: &str = "tests/goldens/foreign/torch-dynamic-channel.pt";

/// A file as `torch.save` writes it, around any pickle.
fn archive(root: &Path, pickle: &[u8], storages: &[(&str, &[u8])]) -> PathBuf {
    let path = root.join("file.pt");
    let mut zip = zip::ZipWriter::new(std::fs::File::create(&path).unwrap());
    let options = zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
    let entries = [("data.pkl".to_string(), pickle), ("byteorder".into(), b"little")];
    let storages = storages.iter().map(|(key, bytes)| (format!("data/{key}"), *bytes));
    for (name, content) in entries.into_iter().chain(storages) {
        zip.start_file(format!("file/{name}"), options).unwrap();
        zip.write_all(content).unwrap();
    }
    zip.finish().unwrap();
    path
}

fn refused(pickle: &[u8], storages: &[(&str, &[u8])]) -> String {
    let root = tempfile::tempdir().unwrap();
    let path = archive(root.path(), pickle, storages);
    let taken = StateDicts::open(&[path]).and_then(|mut dict| dict.take("w"));
    taken.expect_err("it is refused").to_string()
}

/// `{"w": _rebuild_tensor_v2(storage "0" of `len` floats, offset, shape, stride, False, OrderedDict())}`.
fn one_tensor(len: u8, offset: u8, shape: &[u8], stride: &[u8]) -> Vec<u8> {
    let mut pickle = b"\x80\x02}X\x01\0\0\0wctorch._utils\n_rebuild_tensor_v2\n((X\x07\0\0\0storage".to_vec();
    pickle.extend(b"ctorch\nFloatStorage\nX\x01\0\0\x000X\x03\0\0\0cpuK");
    pickle.extend([len, b't', b'Q', b'K', offset]);
    for numbers in [shape, stride] {
        pickle.push(b'(');
        numbers.iter().for_each(|n| pickle.extend([b'K', *n]));
        pickle.push(b't');
    }
    pickle.extend(b"\x89ccollections\nOrderedDict\n)RtRs.");
    pickle
}

fn floats(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

#[test]
fn views_of_a_storage_are_read_in_row_major_order() {
    let root = tempfile::tempdir().unwrap();
    let storage = floats(&[0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
    for (shape, stride, expected) in
        [([2, 3], [3, 1], [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]), ([3, 2], [1, 3], [1.0, 4.0, 2.0, 5.0, 3.0, 6.0])]
    {
        let path = archive(root.path(), &one_tensor(7, 1, &shape, &stride), &[("0", &storage)]);
        let found = StateDicts::open(&[path]).unwrap().take("w").unwrap();
        let shape = shape.iter().map(|d| usize::from(*d)).collect();
        assert_eq!(found, Array::F32 { shape, data: expected.to_vec() });
    }
}

#[test]
fn what_a_state_dict_does_not_need_is_refused_by_name() {
    let storage = floats(&[1.0; 6]);
    let good = |len, offset, shape: &[u8], stride: &[u8]| one_tensor(len, offset, shape, stride);
    let cases: Vec<(&str, Vec<u8>, &str)> = vec![
        ("system", b"\x80\x02cposix\nsystem\nX\x02\0\0\0ls\x85R.".to_vec(), "\"posix\" \"system\""),
        ("eval", b"\x80\x04\x8c\x08builtins\x8c\x04eval\x93\x8c\x011\x85R.".to_vec(), "\"builtins\" \"eval\""),
        ("module", b"\x80\x02ctorch.nn.modules.linear\nLinear\n)\x81.".to_vec(), "save torch.save(model.state_dict()"),
        ("new object", b"\x80\x02ccollections\nOrderedDict\n)\x81.".to_vec(), "NEWOBJ"),
        ("instance", b"\x80\x02(icollections\nOrderedDict\n.".to_vec(), "INST"),
        ("storage called", b"\x80\x02ctorch\nFloatStorage\n)R.".to_vec(), "calls Storage(F32) with 0 arguments"),
        ("list", b"\x80\x02].".to_vec(), "not a state dict"),
        ("number", b"\x80\x02}X\x01\0\0\0wK\x01s.".to_vec(), "\"w\" is no tensor"),
        ("key", b"\x80\x02}K\x01K\x01s.".to_vec(), "a key that is no text"),
        ("protocol", b"\x80\x05.".to_vec(), "protocol 5"),
        ("cut", b"\x80\x02}X\xff\xff\xff\xffw".to_vec(), "cut short"),
        ("no stop", b"\x80\x02}".to_vec(), "cut short"),
        ("empty stack", b"\x80\x02.".to_vec(), "takes more from the stack"),
        ("below a mark", b"\x80\x02}(s.".to_vec(), "takes more from the stack"),
        ("mark", b"\x80\x02}u.".to_vec(), "a mark that is not there"),
        ("memo", b"\x80\x02h\x07.".to_vec(), "recalls 7"),
        ("opcode", b"\x80\x02\xff.".to_vec(), "opcode 0xff"),
        ("big integer", b"\x80\x02\x8a\x09123456789.".to_vec(), "an integer of 9 bytes"),
        ("odd pairs", b"\x80\x02}(K\x01u.".to_vec(), "inserts into an object"),
        ("outside", good(6, 1, &[2, 3], &[3, 1]), "leads out of its storage of 6 elements"),
        ("stride", good(6, 0, &[2, 3], &[4, 1]), "leads out of its storage"),
        ("repeated", good(6, 0, &[7, 1], &[0, 1]), "leads out of its storage"),
        ("empty", good(6, 0, &[0, 3], &[3, 1]), "leads out of its storage"),
        ("rank", good(6, 0, &[1; 5], &[1; 5]), "at most 4 dimensions"),
        ("ranks", good(6, 0, &[6], &[1, 1]), "with strides"),
        ("short storage", good(7, 0, &[7], &[1]), "\"data/0\" has 24 bytes, its storage needs 28"),
        ("long storage", good(5, 0, &[5], &[1]), "more than the 20 bytes"),
    ];
    for (what, pickle, expected) in cases {
        let message = refused(&pickle, &[("0", &storage)]);
        assert!(message.contains(expected) && message.contains("file.pt"), "{what}: {message}");
    }
    assert!(refused(&one_tensor(6, 0, &[6], &[1]), &[]).contains("no \"data/0\" in the archive"));
}

#[test]
fn memory_stays_within_the_size_of_the_pickle() {
    // A tuple of 60,000 numbers, recalled as the shape of tensors again and again.
    let mut pickle = b"\x80\x02(".to_vec();
    pickle.extend(b"K\x01".repeat(60_000));
    pickle.extend(b"tq\x00");
    pickle.extend(b"ctorch._utils\n_rebuild_tensor_v2\n(NK\0h\0h\0tR.");
    assert!(refused(&pickle, &[]).contains("60000 arguments, at most 16"));
    let pickle = [b"\x80\x02".to_vec(), b"N".repeat(1_000_001), b".".to_vec()].concat();
    assert!(refused(&pickle, &[]).contains("more than 1000000 objects"));
    // 100,000 tuples in each other: nothing here recurses.
    let pickle = [b"\x80\x02)".to_vec(), b"\x85".repeat(100_000), b".".to_vec()].concat();
    assert!(refused(&pickle, &[]).contains("not a state dict"));
    let big = [b"\x80\x02".to_vec(), vec![b'('; 5 << 20]].concat();
    assert!(refused(&big, &[]).contains("more than the 4194304 bytes"));
}

#[test]
fn other_files_are_told_apart() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("file.pt");
    std::fs::write(&path, b"\x80\x02}.").unwrap();
    let message = StateDicts::open(std::slice::from_ref(&path)).unwrap_err().to_string();
    assert!(message.contains("before PyTorch 1.6"), "{message}");
    let mut zip = zip::ZipWriter::new(std::fs::File::create(&path).unwrap());
    let options = zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
    for name in ["m/data.pkl", "m/code/model.py", "m/constants.pkl"] {
        zip.start_file(name, options).unwrap();
    }
    zip.finish().unwrap();
    assert!(StateDicts::open(&[path]).unwrap_err().to_string().contains("TorchScript"));
}

/// Opens a file and reads everything that it holds.
fn read_all(path: &Path) -> Result<(), crate::interchange::InterchangeError> {
    let mut dict = StateDicts::open(&[path.to_path_buf()])?;
    for name in dict.names() {
        // Buffers of integers are no weights.
        match dict.take(&name) {
            Ok(array) => assert!(!array.shape().contains(&0)),
            Err(e) if e.to_string().contains("stored as I64") || name.ends_with("scale") => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

#[test]
fn damaged_files_are_refused_or_sound_and_never_panic() {
    let original = std::fs::read(STATE_DICT).unwrap();
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("file.pt");
    std::fs::write(&path, &original).unwrap();
    read_all(&path).unwrap();
    // The pickle lies at the start, the directory of the archive at the end.
    let places = [(64, 16_000), (original.len() - 8_000, original.len())];
    crate::interchange::mutations::run(&original, &places, 1_500, |content| {
        std::fs::write(&path, content).unwrap();
        read_all(&path).is_ok()
    });
}
