//! The protobuf messages of `onnx.proto`, as far as an encoder needs them. Everything borrows from the file; fields that
//! are not known here are stepped over, as the format asks. The reader keeps at most [`MAX_ITEMS`] messages, so that a
//! file of empty messages does not become a hundred times its size.

/// Nodes, tensors, attributes and names together; BERT-large has 50,000.
const MAX_ITEMS: usize = 1_000_000;
const MAX_NAME_BYTES: usize = 1 << 10;
const MAX_RANK: usize = 8;

/// `ModelProto` and its graph.
#[derive(Debug, Default)]
pub(super) struct Model<'a> {
    pub nodes: Vec<Node<'a>>,
    pub initializers: Vec<Tensor<'a>>,
    pub inputs: Vec<&'a str>,
    pub outputs: Vec<&'a str>,
}

/// `NodeProto`
#[derive(Debug, Default)]
pub(super) struct Node<'a> {
    pub name: &'a str,
    pub op: &'a str,
    pub domain: &'a str,
    pub inputs: Vec<&'a str>,
    pub outputs: Vec<&'a str>,
    pub attributes: Vec<Attribute<'a>>,
}

/// `AttributeProto`
#[derive(Debug, Default)]
pub(super) struct Attribute<'a> {
    pub name: &'a str,
    pub float: f32,
    pub int: i64,
    pub text: &'a [u8],
    pub tensor: Option<Tensor<'a>>,
    pub ints: Vec<i64>,
    pub floats: Vec<f32>,
    /// Whether it holds a graph, as loops and branches do.
    pub is_graph: bool,
}

/// `TensorProto`
#[derive(Debug, Default, Clone)]
pub(super) struct Tensor<'a> {
    pub name: &'a str,
    pub data_type: u64,
    pub dims: Vec<usize>,
    /// `raw_data`: little-endian values.
    pub raw: Option<&'a [u8]>,
    /// `float_data`, packed: little-endian values.
    pub floats: Option<&'a [u8]>,
    /// `int32_data` and `int64_data`.
    pub ints: Vec<i64>,
    /// `external_data`: `location`, `offset`, `length`.
    pub external: Option<External<'a>>,
}

/// Where values lie outside the file.
#[derive(Debug, Default, Clone)]
pub(super) struct External<'a> {
    pub location: &'a str,
    pub offset: u64,
    pub length: Option<u64>,
}

impl<'a> Model<'a> {
    /// Parses a whole file.
    ///
    /// # Errors
    /// Says how the file is damaged, or what a model of this kind does not need.
    pub(super) fn parse(file: &'a [u8]) -> Result<Self, String> {
        let mut reader = Reader { items: 0 };
        let mut model = Model::default();
        let mut graphs = 0;
        let mut fields = Fields(file);
        while let Some((number, field)) = fields.next()? {
            reader.count()?;
            match number {
                7 => {
                    graphs += 1;
                    reader.graph(field.bytes()?, &mut model)?;
                }
                25 => return Err("functions of its own (FunctionProto)".into()),
                _ => {}
            }
        }
        match graphs {
            1 => Ok(model),
            _ => Err("not one graph in the file; is it an ONNX model?".into()),
        }
    }
}

impl<'a> Node<'a> {
    pub(super) fn attribute(&self, name: &str) -> Option<&Attribute<'a>> {
        self.attributes.iter().find(|a| a.name == name)
    }

    /// An integer attribute, or `default`.
    pub(super) fn int(&self, name: &str, default: i64) -> i64 {
        self.attribute(name).map_or(default, |a| a.int)
    }
}

/// Counts what is kept.
struct Reader {
    items: usize,
}

impl Reader {
    fn count(&mut self) -> Result<(), String> {
        self.items += 1;
        match self.items > MAX_ITEMS {
            true => Err(format!("more than {MAX_ITEMS} fields")),
            false => Ok(()),
        }
    }

    fn graph<'a>(&mut self, message: &'a [u8], model: &mut Model<'a>) -> Result<(), String> {
        let mut fields = Fields(message);
        while let Some((number, field)) = fields.next()? {
            self.count()?;
            match number {
                1 => {
                    let node = self.node(field.bytes()?)?;
                    model.nodes.push(node);
                }
                5 => {
                    let tensor = self.tensor(field.bytes()?)?;
                    model.initializers.push(tensor);
                }
                11 => model.inputs.push(value_name(field.bytes()?)?),
                12 => model.outputs.push(value_name(field.bytes()?)?),
                15 => return Err("sparse initializers".into()),
                _ => {}
            }
        }
        Ok(())
    }

    fn node<'a>(&mut self, message: &'a [u8]) -> Result<Node<'a>, String> {
        let mut node = Node::default();
        let mut fields = Fields(message);
        while let Some((number, field)) = fields.next()? {
            self.count()?;
            match number {
                1 => node.inputs.push(field.text()?),
                2 => node.outputs.push(field.text()?),
                3 => node.name = field.text()?,
                4 => node.op = field.text()?,
                5 => {
                    let attribute = self.attribute(field.bytes()?)?;
                    node.attributes.push(attribute);
                }
                7 => node.domain = field.text()?,
                _ => {}
            }
        }
        Ok(node)
    }

    fn attribute<'a>(&mut self, message: &'a [u8]) -> Result<Attribute<'a>, String> {
        let mut attribute = Attribute::default();
        let mut fields = Fields(message);
        while let Some((number, field)) = fields.next()? {
            self.count()?;
            match number {
                1 => attribute.name = field.text()?,
                2 => attribute.float = f32::from_bits(field.fixed32()?),
                3 => attribute.int = field.varint()? as i64,
                4 => attribute.text = field.bytes()?,
                5 => attribute.tensor = Some(self.tensor(field.bytes()?)?),
                6 | 11 => attribute.is_graph = true,
                7 => match field {
                    Field::Bytes(packed) => {
                        attribute.floats.extend(packed.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)));
                    }
                    other => attribute.floats.push(f32::from_bits(other.fixed32()?)),
                },
                8 => integers(field, &mut attribute.ints)?,
                _ => {}
            }
        }
        Ok(attribute)
    }

    fn tensor<'a>(&mut self, message: &'a [u8]) -> Result<Tensor<'a>, String> {
        let mut tensor = Tensor::default();
        let mut dims = Vec::new();
        let mut fields = Fields(message);
        while let Some((number, field)) = fields.next()? {
            self.count()?;
            match number {
                1 => integers(field, &mut dims)?,
                2 => tensor.data_type = field.varint()?,
                3 => return Err("a tensor in segments".into()),
                4 => tensor.floats = Some(field.bytes()?),
                5 | 7 => integers(field, &mut tensor.ints)?,
                8 => tensor.name = field.text()?,
                9 => tensor.raw = Some(field.bytes()?),
                13 => external(field.bytes()?, tensor.external.get_or_insert_default())?,
                _ => {}
            }
        }
        if dims.len() > MAX_RANK {
            return Err(format!(
                "tensor \"{}\" has {} dimensions, at most {MAX_RANK} allowed",
                tensor.name,
                dims.len()
            ));
        }
        for dim in dims {
            tensor.dims.push(
                usize::try_from(dim).map_err(|_| format!("tensor \"{}\" has a dimension of {dim}", tensor.name))?,
            );
        }
        Ok(tensor)
    }
}

/// A repeated integer, packed or one by one. It takes at most eight times its bytes in the file.
fn integers(field: Field<'_>, out: &mut Vec<i64>) -> Result<(), String> {
    match field {
        Field::Bytes(mut packed) => {
            while !packed.is_empty() {
                out.push(varint(&mut packed)? as i64);
            }
        }
        other => out.push(other.varint()? as i64),
    }
    Ok(())
}

/// Name of a `ValueInfoProto`.
fn value_name(message: &[u8]) -> Result<&str, String> {
    let mut name = "";
    let mut fields = Fields(message);
    while let Some((number, field)) = fields.next()? {
        if number == 1 {
            name = field.text()?;
        }
    }
    Ok(name)
}

/// One `StringStringEntryProto` of `external_data`.
fn external<'a>(message: &'a [u8], external: &mut External<'a>) -> Result<(), String> {
    let (mut key, mut value) = ("", "");
    let mut fields = Fields(message);
    while let Some((number, field)) = fields.next()? {
        match number {
            1 => key = field.text()?,
            2 => value = field.text()?,
            _ => {}
        }
    }
    let number = || value.parse().map_err(|_| format!("external data with {key} {value:?}"));
    match key {
        "location" => external.location = value,
        "offset" => external.offset = number()?,
        "length" => external.length = Some(number()?),
        _ => {}
    }
    Ok(())
}

/// The value of a field, by its wire type (protobuf, "Encoding").
#[derive(Clone, Copy)]
enum Field<'a> {
    Varint(u64),
    Fixed64,
    Bytes(&'a [u8]),
    Fixed32(u32),
}

impl<'a> Field<'a> {
    fn varint(self) -> Result<u64, String> {
        match self {
            Field::Varint(value) => Ok(value),
            _ => Err(wrong_type()),
        }
    }

    fn fixed32(self) -> Result<u32, String> {
        match self {
            Field::Fixed32(value) => Ok(value),
            _ => Err(wrong_type()),
        }
    }

    fn bytes(self) -> Result<&'a [u8], String> {
        match self {
            Field::Bytes(bytes) => Ok(bytes),
            _ => Err(wrong_type()),
        }
    }

    fn text(self) -> Result<&'a str, String> {
        let bytes = self.bytes()?;
        if bytes.len() > MAX_NAME_BYTES {
            return Err(format!("a name of {} bytes, at most {MAX_NAME_BYTES} allowed", bytes.len()));
        }
        std::str::from_utf8(bytes).map_err(|_| "a name that is not UTF-8".into())
    }
}

fn wrong_type() -> String {
    "a field of another type than onnx.proto has; is it an ONNX model?".into()
}

/// The fields of one message.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn next(&mut self) -> Result<Option<(u64, Field<'a>)>, String> {
        if self.0.is_empty() {
            return Ok(None);
        }
        let key = varint(&mut self.0)?;
        let field = match key & 7 {
            0 => Field::Varint(varint(&mut self.0)?),
            1 => {
                self.take(8)?;
                Field::Fixed64
            }
            2 => {
                let length = varint(&mut self.0)?;
                Field::Bytes(self.take(usize::try_from(length).map_err(|_| cut())?)?)
            }
            5 => Field::Fixed32(u32::from_le_bytes(self.take(4)?.try_into().expect("4 bytes were taken"))),
            other => return Err(format!("wire type {other}; is it an ONNX model?")),
        };
        Ok(Some((key >> 3, field)))
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8], String> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or_else(cut)?;
        self.0 = rest;
        Ok(taken)
    }
}

fn cut() -> String {
    "the file is cut short, or no ONNX model".into()
}

/// A base-128 number, lowest bits first, of at most 10 bytes.
fn varint(bytes: &mut &[u8]) -> Result<u64, String> {
    let mut value = 0;
    for shift in (0..70).step_by(7) {
        let (&byte, rest) = bytes.split_first().ok_or_else(cut)?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f).checked_shl(shift).unwrap_or(0);
        if byte & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err("a number of more than 10 bytes; is it an ONNX model?".into())
}
