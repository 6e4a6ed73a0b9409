//! Builds an ONNX graph: nodes and constants in the order they are asked for, encoded as protobuf (`onnx.proto`).

use std::collections::HashMap;

/// The version of ONNX's nodes that is written: the first with LayerNormalization.
const OPSET: u64 = 17;
/// The version of the file format that goes with it.
const IR_VERSION: u64 = 8;

/// `TensorProto.DataType`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum DataType {
    Float = 1,
    Uint8 = 2,
    Int8 = 3,
    Int32 = 6,
    Int64 = 7,
}

/// An attribute of a node.
#[derive(Clone, Copy, Debug)]
pub(super) enum Attribute<'a> {
    Int(i64),
    Ints(&'a [i64]),
    Float(f32),
}

/// The size of a dimension: a number, or a name where it varies.
#[derive(Clone, Copy, Debug)]
pub(super) enum Dim<'a> {
    Fixed(usize),
    Named(&'a str),
}

/// A graph in the making. Values are known by their names.
#[derive(Default)]
pub(super) struct Graph {
    nodes: Vec<u8>,
    initializers: Vec<u8>,
    inputs: Vec<u8>,
    outputs: Vec<u8>,
    /// Constants that become part of the graph when a node first uses them.
    shared: HashMap<String, (DataType, Vec<usize>, Vec<u8>)>,
    count: usize,
}

impl Graph {
    /// Appends a node with one output, and gives the output's name.
    pub(super) fn node(&mut self, op: &str, inputs: &[&str], attributes: &[(&str, Attribute)]) -> String {
        let output = format!("{op}_{}", self.count);
        self.node_named(op, inputs, attributes, &output);
        output
    }

    /// Appends a node whose output has this name.
    pub(super) fn node_named(&mut self, op: &str, inputs: &[&str], attributes: &[(&str, Attribute)], output: &str) {
        for input in inputs {
            if let Some((data_type, dims, bytes)) = self.shared.remove(*input) {
                self.constant(input, data_type, &dims, &bytes);
            }
        }
        let mut node = Vec::new();
        inputs.iter().for_each(|input| put_bytes(&mut node, 1, input.as_bytes()));
        put_bytes(&mut node, 2, output.as_bytes());
        put_bytes(&mut node, 3, format!("{op}_{}", self.count).as_bytes());
        put_bytes(&mut node, 4, op.as_bytes());
        for (name, value) in attributes {
            let mut attribute = Vec::new();
            put_bytes(&mut attribute, 1, name.as_bytes());
            let kind = match value {
                Attribute::Float(value) => {
                    put_varint(&mut attribute, 2 << 3 | 5);
                    attribute.extend(value.to_le_bytes());
                    1
                }
                Attribute::Int(value) => {
                    put_number(&mut attribute, 3, *value as u64);
                    2
                }
                Attribute::Ints(values) => {
                    values.iter().for_each(|value| put_number(&mut attribute, 8, *value as u64));
                    7
                }
            };
            put_number(&mut attribute, 20, kind);
            put_bytes(&mut node, 5, &attribute);
        }
        put_bytes(&mut self.nodes, 1, &node);
        self.count += 1;
    }

    /// Registers numbers of this name for the nodes that may use them.
    pub(super) fn share_float(&mut self, name: &str, value: f32) {
        self.shared.insert(name.into(), (DataType::Float, vec![], value.to_le_bytes().to_vec()));
    }

    pub(super) fn share_int64s(&mut self, name: &str, dims: &[usize], values: &[i64]) {
        let bytes = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        self.shared.insert(name.into(), (DataType::Int64, dims.to_vec(), bytes));
    }

    /// Adds a constant of this name.
    pub(super) fn constant(&mut self, name: &str, data_type: DataType, dims: &[usize], bytes: &[u8]) -> String {
        let mut tensor = Vec::with_capacity(bytes.len() + 128);
        dims.iter().for_each(|dim| put_number(&mut tensor, 1, *dim as u64));
        put_number(&mut tensor, 2, data_type as u64);
        put_bytes(&mut tensor, 8, name.as_bytes());
        put_bytes(&mut tensor, 9, bytes);
        put_bytes(&mut self.initializers, 5, &tensor);
        name.to_string()
    }

    pub(super) fn floats(&mut self, name: &str, dims: &[usize], values: &[f32]) -> String {
        let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        self.constant(name, DataType::Float, dims, &bytes)
    }

    pub(super) fn int8s(&mut self, name: &str, dims: &[usize], values: &[i8]) -> String {
        let bytes: Vec<u8> = values.iter().map(|v| *v as u8).collect();
        self.constant(name, DataType::Int8, dims, &bytes)
    }

    pub(super) fn int32s(&mut self, name: &str, dims: &[usize], values: &[i32]) -> String {
        let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        self.constant(name, DataType::Int32, dims, &bytes)
    }

    pub(super) fn input(&mut self, name: &str, data_type: DataType, dims: &[Dim]) {
        put_bytes(&mut self.inputs, 11, &value_info(name, data_type, dims));
    }

    pub(super) fn output(&mut self, name: &str, data_type: DataType, dims: &[Dim]) {
        put_bytes(&mut self.outputs, 12, &value_info(name, data_type, dims));
    }

    /// The file; `metadata` are its `metadata_props`.
    pub(super) fn into_model(self, metadata: &[(&str, String)]) -> Vec<u8> {
        let mut graph = self.nodes;
        put_bytes(&mut graph, 2, b"octet");
        graph.extend(self.initializers);
        graph.extend(self.inputs);
        graph.extend(self.outputs);
        let mut model = Vec::with_capacity(graph.len() + 4096);
        put_number(&mut model, 1, IR_VERSION);
        put_bytes(&mut model, 2, b"octet");
        put_bytes(&mut model, 3, env!("CARGO_PKG_VERSION").as_bytes());
        put_bytes(&mut model, 7, &graph);
        let mut opset = Vec::new();
        put_number(&mut opset, 2, OPSET);
        put_bytes(&mut model, 8, &opset);
        for (key, value) in metadata {
            let mut entry = Vec::new();
            put_bytes(&mut entry, 1, key.as_bytes());
            put_bytes(&mut entry, 2, value.as_bytes());
            put_bytes(&mut model, 14, &entry);
        }
        model
    }
}

/// `ValueInfoProto`
fn value_info(name: &str, data_type: DataType, dims: &[Dim]) -> Vec<u8> {
    let mut shape = Vec::new();
    for dim in dims {
        let mut field = Vec::new();
        match dim {
            Dim::Fixed(size) => put_number(&mut field, 1, *size as u64),
            Dim::Named(name) => put_bytes(&mut field, 2, name.as_bytes()),
        }
        put_bytes(&mut shape, 1, &field);
    }
    let mut tensor = Vec::new();
    put_number(&mut tensor, 1, data_type as u64);
    put_bytes(&mut tensor, 2, &shape);
    let mut kind = Vec::new();
    put_bytes(&mut kind, 1, &tensor);
    let mut info = Vec::new();
    put_bytes(&mut info, 1, name.as_bytes());
    put_bytes(&mut info, 2, &kind);
    info
}

fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn put_number(out: &mut Vec<u8>, field: u64, value: u64) {
    put_varint(out, field << 3);
    put_varint(out, value);
}

fn put_bytes(out: &mut Vec<u8>, field: u64, bytes: &[u8]) {
    put_varint(out, field << 3 | 2);
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}
