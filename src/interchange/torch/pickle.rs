//! A closed-world unpickler: the stack machine of Python's `pickle.py` and `pickletools.py`, reduced to what a state
//! dict needs. Objects live in one list and name each other by index, so that nothing here recurses and every opcode
//! adds at most one object: a pickle of n bytes takes memory in proportion to n.

use std::collections::HashMap;

/// Index into [`Pickle::objects`].
pub(super) type Id = usize;

/// Objects that one pickle may make; BERT-large needs 20,000.
const MAX_OBJECTS: usize = 1_000_000;
const MAX_ARGUMENTS: usize = 16;

/// Functions and classes that a state dict may name. Everything else is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Global {
    OrderedDict,
    RebuildTensor,
    RebuildParameter,
    RebuildQuantized,
    PerTensorAffine,
    PerChannelAffine,
    Dtype(&'static str),
    Storage(Element),
}

/// Type of the elements of a storage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Element {
    F64,
    F32,
    F16,
    Bf16,
    I64,
    I32,
    I16,
    I8,
    U8,
    Bool,
    QInt8,
}

impl Element {
    /// Size of one element in bytes.
    pub(super) fn bytes(self) -> u64 {
        match self {
            Element::F64 | Element::I64 => 8,
            Element::F32 | Element::I32 => 4,
            Element::F16 | Element::Bf16 | Element::I16 => 2,
            Element::I8 | Element::U8 | Element::Bool | Element::QInt8 => 1,
        }
    }
}

/// The list: module, name, meaning.
const GLOBALS: &[(&str, &str, Global)] = &[
    ("collections", "OrderedDict", Global::OrderedDict),
    ("torch._utils", "_rebuild_tensor_v2", Global::RebuildTensor),
    ("torch._utils", "_rebuild_parameter", Global::RebuildParameter),
    ("torch._utils", "_rebuild_qtensor", Global::RebuildQuantized),
    ("torch", "per_tensor_affine", Global::PerTensorAffine),
    ("torch", "per_channel_affine", Global::PerChannelAffine),
    ("torch", "qint8", Global::Dtype("qint8")),
    ("torch", "float16", Global::Dtype("float16")),
    ("torch", "DoubleStorage", Global::Storage(Element::F64)),
    ("torch", "FloatStorage", Global::Storage(Element::F32)),
    ("torch", "HalfStorage", Global::Storage(Element::F16)),
    ("torch", "BFloat16Storage", Global::Storage(Element::Bf16)),
    ("torch", "LongStorage", Global::Storage(Element::I64)),
    ("torch", "IntStorage", Global::Storage(Element::I32)),
    ("torch", "ShortStorage", Global::Storage(Element::I16)),
    ("torch", "CharStorage", Global::Storage(Element::I8)),
    ("torch", "ByteStorage", Global::Storage(Element::U8)),
    ("torch", "BoolStorage", Global::Storage(Element::Bool)),
    ("torch", "QInt8Storage", Global::Storage(Element::QInt8)),
];

/// One Python object.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Object {
    None,
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(String),
    Tuple(Vec<Id>),
    List(Vec<Id>),
    Dict(Vec<(Id, Id)>),
    Global(Global),
    Storage(Storage),
    Tensor(Tensor),
}

/// Entry `data/{key}` of the archive.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Storage {
    pub element: Element,
    pub key: String,
    /// Number of elements.
    pub len: u64,
}

/// A view of a storage.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Tensor {
    /// An [`Object::Storage`].
    pub storage: Id,
    /// First element.
    pub offset: u64,
    pub shape: Vec<u64>,
    /// Distance between neighbours along each dimension, in elements.
    pub stride: Vec<u64>,
    pub quantizer: Option<Quantizer>,
}

/// How a quantized tensor stands for real numbers.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Quantizer {
    PerTensor {
        scale: f64,
        zero_point: i64,
    },
    /// Tensors of f64 and i64, along `axis`.
    PerChannel {
        scales: Id,
        zero_points: Id,
        axis: i64,
    },
}

/// The objects that a pickle made, and the one it stands for.
#[derive(Debug)]
pub(super) struct Pickle {
    objects: Vec<Object>,
    pub root: Id,
}

impl Pickle {
    /// Runs a pickle.
    ///
    /// # Errors
    /// Says what the pickle asked for that is not on the list, or how it is damaged.
    pub(super) fn parse(content: &[u8]) -> Result<Self, String> {
        let mut machine = Machine { rest: content, ..Machine::default() };
        let root = machine.run()?;
        Ok(Pickle { objects: machine.objects, root })
    }

    /// An object by its index.
    pub(super) fn get(&self, id: Id) -> &Object {
        &self.objects[id]
    }
}

#[derive(Default)]
struct Machine<'a> {
    rest: &'a [u8],
    objects: Vec<Object>,
    stack: Vec<Id>,
    /// Heights of the stack.
    marks: Vec<usize>,
    memo: HashMap<u64, Id>,
}

impl Machine<'_> {
    fn run(&mut self) -> Result<Id, String> {
        loop {
            let opcode = self.byte()?;
            match opcode {
                0x80 => match self.byte()? {
                    2..=4 => {}
                    other => return Err(format!("pickle protocol {other}, supported are 2 to 4")),
                },
                // A frame only says how much to read at once.
                0x95 => drop(self.number(8)?),
                b'.' => return self.pop(),
                b'(' => self.marks.push(self.stack.len()),
                b'N' => self.push(Object::None)?,
                0x88 => self.push(Object::Bool(true))?,
                0x89 => self.push(Object::Bool(false))?,
                b'J' => {
                    let value = self.number(4)? as u32 as i32;
                    self.push(Object::Int(value.into()))?;
                }
                b'K' => self.integer(1)?,
                b'M' => self.integer(2)?,
                0x8a => {
                    let length = self.byte()?;
                    let value = self.long(length)?;
                    self.push(Object::Int(value))?;
                }
                b'G' => {
                    let bytes = self.take(8)?;
                    let value = f64::from_be_bytes(bytes.try_into().expect("8 bytes were taken"));
                    self.push(Object::Float(value))?;
                }
                b'X' => self.text(4)?,
                0x8c => self.text(1)?,
                b')' => self.push(Object::Tuple(Vec::new()))?,
                0x85..=0x87 => {
                    let items = self.pop_many(usize::from(opcode - 0x84))?;
                    self.push(Object::Tuple(items))?;
                }
                b't' => {
                    let items = self.pop_to_mark()?;
                    self.push(Object::Tuple(items))?;
                }
                b']' => self.push(Object::List(Vec::new()))?,
                b'}' => self.push(Object::Dict(Vec::new()))?,
                b'a' => {
                    let item = self.pop()?;
                    self.append(vec![item])?;
                }
                b'e' => {
                    let items = self.pop_to_mark()?;
                    self.append(items)?;
                }
                b's' => {
                    let pair = self.pop_many(2)?;
                    self.insert(pair)?;
                }
                b'u' => {
                    let pairs = self.pop_to_mark()?;
                    self.insert(pairs)?;
                }
                b'q' => self.memoize(1)?,
                b'r' => self.memoize(4)?,
                0x94 => {
                    let top = self.top()?;
                    self.memo.insert(self.memo.len() as u64, top);
                }
                b'h' => self.recall(1)?,
                b'j' => self.recall(4)?,
                b'c' => {
                    let (module, name) = (self.line()?, self.line()?);
                    self.global(&module, &name)?;
                }
                0x93 => {
                    let names = self.pop_many(2)?;
                    match (self.objects[names[0]].clone(), self.objects[names[1]].clone()) {
                        (Object::Text(module), Object::Text(name)) => self.global(&module, &name)?,
                        _ => return Err("a global whose name is no text".into()),
                    }
                }
                b'Q' => self.storage()?,
                b'R' => self.reduce()?,
                b'b' => {
                    // The state of an OrderedDict is its attributes, such as the versions of torch's modules.
                    self.pop()?;
                    let target = self.top()?;
                    if !matches!(self.objects[target], Object::Dict(_)) {
                        return Err("sets the state of an object that is no dictionary".into());
                    }
                }
                other => return Err(unknown(other)),
            }
        }
    }

    fn take(&mut self, count: usize) -> Result<&[u8], String> {
        let (taken, rest) = self.rest.split_at_checked(count).ok_or("the pickle is cut short")?;
        self.rest = rest;
        Ok(taken)
    }

    fn byte(&mut self) -> Result<u8, String> {
        Ok(self.take(1)?[0])
    }

    /// An unsigned little-endian number of up to 8 bytes.
    fn number(&mut self, bytes: usize) -> Result<u64, String> {
        Ok(self.take(bytes)?.iter().rev().fold(0, |n, b| n << 8 | u64::from(*b)))
    }

    /// A signed little-endian number of up to 8 bytes.
    fn long(&mut self, bytes: u8) -> Result<i64, String> {
        if bytes > 8 {
            return Err(format!("an integer of {bytes} bytes, at most 8 allowed"));
        }
        let taken = self.take(bytes.into())?;
        let sign = if taken.last().is_some_and(|b| b & 0x80 != 0) { -1 } else { 0 };
        Ok(taken.iter().rev().fold(sign, |n, b| n << 8 | i64::from(*b)))
    }

    fn line(&mut self) -> Result<String, String> {
        let end = self.rest.iter().position(|b| *b == b'\n').ok_or("the pickle is cut short")?;
        let line = utf8(self.take(end + 1)?)?;
        Ok(line.trim_end_matches('\n').to_string())
    }

    fn push(&mut self, object: Object) -> Result<(), String> {
        if self.objects.len() == MAX_OBJECTS {
            return Err(format!("makes more than {MAX_OBJECTS} objects"));
        }
        self.stack.push(self.objects.len());
        self.objects.push(object);
        Ok(())
    }

    fn integer(&mut self, bytes: usize) -> Result<(), String> {
        let value = self.number(bytes)? as i64;
        self.push(Object::Int(value))
    }

    fn text(&mut self, length_bytes: usize) -> Result<(), String> {
        let length = self.number(length_bytes)? as usize;
        let text = utf8(self.take(length)?)?;
        self.push(Object::Text(text))
    }

    /// The stack above the last mark.
    fn floor(&self) -> usize {
        self.marks.last().copied().unwrap_or(0)
    }

    fn top(&self) -> Result<Id, String> {
        self.stack[self.floor()..].last().copied().ok_or_else(|| "takes more from the stack than is there".into())
    }

    fn pop(&mut self) -> Result<Id, String> {
        let top = self.top()?;
        self.stack.pop();
        Ok(top)
    }

    fn pop_many(&mut self, count: usize) -> Result<Vec<Id>, String> {
        let at = self.stack.len().checked_sub(count).filter(|at| *at >= self.floor());
        Ok(self.stack.split_off(at.ok_or("takes more from the stack than is there")?))
    }

    fn pop_to_mark(&mut self) -> Result<Vec<Id>, String> {
        let at = self.marks.pop().ok_or("goes back to a mark that is not there")?;
        Ok(self.stack.split_off(at))
    }

    fn append(&mut self, items: Vec<Id>) -> Result<(), String> {
        let target = self.top()?;
        match &mut self.objects[target] {
            Object::List(list) => list.extend(items),
            _ => return Err("appends to an object that is no list".into()),
        }
        Ok(())
    }

    fn insert(&mut self, pairs: Vec<Id>) -> Result<(), String> {
        let target = self.top()?;
        match &mut self.objects[target] {
            Object::Dict(dict) if pairs.len().is_multiple_of(2) => {
                dict.extend(pairs.chunks_exact(2).map(|p| (p[0], p[1])));
            }
            _ => return Err("inserts into an object that is no dictionary".into()),
        }
        Ok(())
    }

    fn memoize(&mut self, bytes: usize) -> Result<(), String> {
        let (index, top) = (self.number(bytes)?, self.top()?);
        self.memo.insert(index, top);
        Ok(())
    }

    fn recall(&mut self, bytes: usize) -> Result<(), String> {
        let index = self.number(bytes)?;
        let id = self.memo.get(&index).ok_or_else(|| format!("recalls {index}, which was never stored"))?;
        self.stack.push(*id);
        Ok(())
    }

    fn global(&mut self, module: &str, name: &str) -> Result<(), String> {
        let known = GLOBALS.iter().find(|(m, n, _)| *m == module && *n == name);
        let (_, _, global) = known.ok_or_else(|| {
            format!(
                "asks for {module:?} {name:?}, which no state dict needs, so nothing of it is run; if the file holds a \
                 whole model, load it with PyTorch and save torch.save(model.state_dict(), file)"
            )
        })?;
        self.push(Object::Global(*global))
    }

    /// `('storage', FloatStorage, key, location, elements)`, what torch puts in place of a storage.
    fn storage(&mut self) -> Result<(), String> {
        let id = self.pop()?;
        let fields = self.fields(id)?;
        let [Object::Text(kind), Object::Global(Global::Storage(element)), Object::Text(key), _, Object::Int(len)] =
            fields[..]
        else {
            return Err("a persistent id that is no storage".into());
        };
        let plain = !key.is_empty() && key.len() <= 20 && key.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
        if kind != "storage" || !plain || *len < 0 {
            return Err(format!("a persistent id that is no storage: {kind:?} {key:?}"));
        }
        let storage = Storage { element: *element, key: key.clone(), len: *len as u64 };
        self.push(Object::Storage(storage))
    }

    /// The items of a short tuple; nothing that a state dict calls takes a long one.
    fn items(&self, tuple: Id) -> Result<&[Id], String> {
        match &self.objects[tuple] {
            Object::Tuple(items) if items.len() <= MAX_ARGUMENTS => Ok(items),
            Object::Tuple(items) => Err(format!("{} arguments, at most {MAX_ARGUMENTS} allowed", items.len())),
            _ => Err("arguments that are no tuple".into()),
        }
    }

    fn fields(&self, tuple: Id) -> Result<Vec<&Object>, String> {
        Ok(self.items(tuple)?.iter().map(|i| &self.objects[*i]).collect())
    }

    /// Calls one of the functions on the list.
    fn reduce(&mut self) -> Result<(), String> {
        let arguments = self.pop()?;
        let callee = self.pop()?;
        let Object::Global(function) = self.objects[callee] else {
            return Err("calls an object that is no function".into());
        };
        let arguments = self.items(arguments)?.to_vec();
        match (function, arguments.as_slice()) {
            (Global::OrderedDict, []) => self.push(Object::Dict(Vec::new())),
            (Global::RebuildTensor, [storage, offset, shape, stride, ..]) => {
                let tensor = self.tensor(*storage, *offset, *shape, *stride, None)?;
                self.push(Object::Tensor(tensor))
            }
            (Global::RebuildQuantized, [storage, offset, shape, stride, quantizer, ..]) => {
                let quantizer = self.quantizer(*quantizer)?;
                let tensor = self.tensor(*storage, *offset, *shape, *stride, Some(quantizer))?;
                self.push(Object::Tensor(tensor))
            }
            (Global::RebuildParameter, [data, ..]) => {
                self.stack.push(*data);
                Ok(())
            }
            _ => Err(format!("calls {function:?} with {} arguments", arguments.len())),
        }
    }

    fn tensor(
        &self,
        storage: Id,
        offset: Id,
        shape: Id,
        stride: Id,
        quantizer: Option<Quantizer>,
    ) -> Result<Tensor, String> {
        let count = |id: Id| match self.objects[id] {
            Object::Int(n) => u64::try_from(n).map_err(|_| format!("a tensor with the size {n}")),
            _ => Err("a tensor whose sizes are no integers".into()),
        };
        let counts = |id: Id| self.items(id)?.iter().map(|i| count(*i)).collect::<Result<Vec<u64>, String>>();
        let (offset, shape, stride) = (count(offset)?, counts(shape)?, counts(stride)?);
        match self.objects[storage] {
            Object::Storage(_) => Ok(Tensor { storage, offset, shape, stride, quantizer }),
            _ => Err("a tensor without a storage".into()),
        }
    }

    fn quantizer(&self, id: Id) -> Result<Quantizer, String> {
        let items = self.items(id)?;
        match self.fields(id)?[..] {
            [Object::Global(Global::PerTensorAffine), Object::Float(scale), Object::Int(zero_point)] => {
                Ok(Quantizer::PerTensor { scale: *scale, zero_point: *zero_point })
            }
            [Object::Global(Global::PerChannelAffine), Object::Tensor(_), Object::Tensor(_), Object::Int(axis)] => {
                Ok(Quantizer::PerChannel { scales: items[1], zero_points: items[2], axis: *axis })
            }
            _ => Err("a quantized tensor that is neither per_tensor_affine nor per_channel_affine".into()),
        }
    }
}

fn utf8(bytes: &[u8]) -> Result<String, String> {
    String::from_utf8(bytes.to_vec()).map_err(|_| "a text that is not UTF-8".into())
}

/// Opcodes that make objects of the file's own choosing are named, as they are what an attack is made of.
fn unknown(opcode: u8) -> String {
    let name = match opcode {
        b'i' => "INST",
        b'o' => "OBJ",
        0x81 => "NEWOBJ",
        0x92 => "NEWOBJ_EX",
        0x82..=0x84 => "EXT",
        _ => return format!("opcode {opcode:#04x}, which no state dict needs; is the file damaged?"),
    };
    format!(
        "opcode {name}, which makes an object of any class, so nothing of it is run; save a state dict instead: \
         torch.save(model.state_dict(), file)"
    )
}
