//! Bytes → JSON tree → request type, with errors that name the field and never quote the client.
//!
//! serde_json's own messages quote what they found (`invalid type: string "…"`), and it keeps the last of two equal
//! keys. So a body is read in two steps: [`parse`] gives a tree (syntax, encoding, depth, equal keys), and [`read`]
//! turns the tree into a type that derives `Deserialize`, through a small deserializer whose errors carry a path.

use std::fmt;

use serde::Deserialize;
use serde::de::value::StringDeserializer;
use serde::de::{
    self, DeserializeOwned, DeserializeSeed, Deserializer, Expected, IntoDeserializer, MapAccess, SeqAccess,
    Unexpected, Visitor,
};
use serde_json::{Map, Value};

use super::error::{ApiError, Kind};

/// Body → tree.
///
/// # Errors
/// 400 when the bytes are not UTF-8 or not JSON, nest deeper than 128, hold a lone surrogate or a key twice.
pub(crate) fn parse(body: &[u8]) -> Result<Value, ApiError> {
    let invalid = |message: String| ApiError::new(Kind::InvalidJson, message);
    if body.is_empty() {
        return Err(invalid("the body is empty; expected a JSON object".into()));
    }
    let text = std::str::from_utf8(body).map_err(|e| {
        invalid(format!("the body is not UTF-8: the byte at offset {} does not belong to a character", e.valid_up_to()))
    })?;
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let tree = Tree::deserialize(&mut deserializer).and_then(|tree| deserializer.end().map(|()| tree.0));
    tree.map_err(|e| invalid(format!("the body is not valid JSON: {e}")))
}

/// Tree → request type. In strict mode a field that the type does not have is an error.
///
/// # Errors
/// 400 or 422 (by dialect) naming the field, what was found and what is allowed.
pub(crate) fn read<T: DeserializeOwned>(tree: Value, strict: bool) -> Result<T, ApiError> {
    T::deserialize(Node { value: tree, strict }).map_err(|e| {
        let index = e.path.iter().rev().find_map(|step| match step {
            Step::Item(index) => Some(*index),
            Step::Field(_) => None,
        });
        match e.path() {
            path if path.is_empty() => ApiError::new(Kind::InvalidValue, e.message),
            path => ApiError::invalid(path, e.message).index(index),
        }
    })
}

/// A [`Value`] in which no object has a key twice.
struct Tree(Value);

impl<'de> Deserialize<'de> for Tree {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TreeVisitor)
    }
}

struct TreeVisitor;

impl<'de> Visitor<'de> for TreeVisitor {
    type Value = Tree;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Tree, E> {
        Ok(Tree(Value::Null))
    }

    fn visit_bool<E>(self, x: bool) -> Result<Tree, E> {
        Ok(Tree(x.into()))
    }

    fn visit_u64<E>(self, x: u64) -> Result<Tree, E> {
        Ok(Tree(x.into()))
    }

    fn visit_i64<E>(self, x: i64) -> Result<Tree, E> {
        Ok(Tree(x.into()))
    }

    fn visit_f64<E>(self, x: f64) -> Result<Tree, E> {
        Ok(Tree(x.into()))
    }

    fn visit_str<E>(self, x: &str) -> Result<Tree, E> {
        Ok(Tree(x.into()))
    }

    fn visit_string<E>(self, x: String) -> Result<Tree, E> {
        Ok(Tree(x.into()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Tree, A::Error> {
        let mut values = Vec::new();
        while let Some(Tree(value)) = list.next_element()? {
            values.push(value);
        }
        Ok(Tree(Value::Array(values)))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Tree, A::Error> {
        let mut object = Map::new();
        while let Some(key) = map.next_key::<String>()? {
            let Tree(value) = map.next_value()?;
            if object.insert(key, value).is_some() {
                return Err(de::Error::custom("an object has the same key twice"));
            }
        }
        Ok(Tree(Value::Object(object)))
    }
}

/// Where in the request something is wrong.
#[derive(Debug)]
enum Step {
    Field(String),
    Item(usize),
}

/// A field that cannot be read.
#[derive(Debug)]
pub(crate) struct FieldError {
    /// Innermost step first.
    path: Vec<Step>,
    message: String,
}

impl FieldError {
    fn new(message: String) -> Self {
        FieldError { path: Vec::new(), message }
    }

    fn under(mut self, step: Step) -> Self {
        self.path.push(step);
        self
    }

    /// Such as `input[3].text`.
    fn path(&self) -> String {
        let mut path = String::new();
        for step in self.path.iter().rev() {
            match step {
                Step::Field(name) if path.is_empty() => path.push_str(name),
                Step::Field(name) => path.extend([".", name]),
                Step::Item(index) => path.push_str(&format!("[{index}]")),
            }
        }
        path
    }
}

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{}: {}", self.path(), self.message)
    }
}

impl std::error::Error for FieldError {}

impl de::Error for FieldError {
    fn custom<T: fmt::Display>(message: T) -> Self {
        FieldError::new(message.to_string())
    }

    fn invalid_type(found: Unexpected, expected: &dyn Expected) -> Self {
        FieldError::new(format!("found {}, expected {}", kind_of(found), in_words(&expected.to_string())))
    }

    fn invalid_value(found: Unexpected, expected: &dyn Expected) -> Self {
        FieldError::invalid_type(found, expected)
    }

    fn unknown_variant(_: &str, expected: &'static [&'static str]) -> Self {
        let names: Vec<String> = expected.iter().map(|name| format!("\"{name}\"")).collect();
        FieldError::new(format!("not a known value, expected one of {}", names.join(", ")))
    }

    fn missing_field(field: &'static str) -> Self {
        FieldError::new("this field is required".into()).under(Step::Field(field.into()))
    }
}

/// What was found, without quoting it.
fn kind_of(found: Unexpected) -> &'static str {
    match found {
        Unexpected::Bool(_) => "a boolean",
        Unexpected::Unsigned(_) => "an integer",
        Unexpected::Signed(_) => "a negative integer",
        Unexpected::Float(_) => "a number with a fraction",
        Unexpected::Str(_) => "a string",
        Unexpected::Unit | Unexpected::Option => "null",
        Unexpected::Seq => "a list",
        Unexpected::Map => "an object",
        _ => "something else",
    }
}

fn kind_of_value(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

/// serde's names of Rust types → words.
fn in_words(expected: &str) -> &str {
    match expected {
        "usize" | "u64" | "u32" => "an integer that is not negative",
        "f32" | "f64" => "a number",
        "a sequence" => "a list",
        name if name.starts_with("struct ") => "an object",
        name if name.starts_with("enum ") || name == "variant identifier" => "a string",
        other => other,
    }
}

/// Name to give to `deserialize_struct` for a type that is read from an object with these fields, or from something
/// else than an object.
pub(super) const OBJECT_OR_ELSE: &str = "an object or something else";

/// One value of the tree as a deserializer.
struct Node {
    value: Value,
    strict: bool,
}

impl<'de> Deserializer<'de> for Node {
    type Error = FieldError;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, FieldError> {
        let strict = self.strict;
        match self.value {
            Value::Null => visitor.visit_unit(),
            Value::Bool(x) => visitor.visit_bool(x),
            Value::Number(x) => match (x.as_u64(), x.as_i64(), x.as_f64()) {
                (Some(x), _, _) => visitor.visit_u64(x),
                (_, Some(x), _) => visitor.visit_i64(x),
                (_, _, x) => visitor.visit_f64(x.unwrap_or(f64::NAN)),
            },
            Value::String(x) => visitor.visit_string(x),
            Value::Array(values) => visitor.visit_seq(Items { values: values.into_iter().enumerate(), strict }),
            Value::Object(map) => visitor.visit_map(Fields { entries: map.into_iter(), value: None, strict }),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, FieldError> {
        if self.value.is_null() { visitor.visit_none() } else { visitor.visit_some(self) }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, FieldError> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, FieldError> {
        // serde would fill the fields of a struct from a list too, by position.
        if name != OBJECT_OR_ELSE && !self.value.is_object() {
            return Err(de::Error::custom(format!("found {}, expected an object", kind_of_value(&self.value))));
        }
        if let (true, Value::Object(map)) = (self.strict, &self.value)
            && let Some(key) = map.keys().find(|key| !fields.contains(&key.as_str()))
        {
            let unknown = format!("unknown field, expected one of {}", fields.join(", "));
            return Err(FieldError::new(unknown).under(Step::Field(printable(key))));
        }
        self.deserialize_any(visitor)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, FieldError> {
        match self.value {
            Value::String(name) => {
                let name: StringDeserializer<FieldError> = name.into_deserializer();
                visitor.visit_enum(name)
            }
            _ => self.deserialize_any(visitor),
        }
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 u8 u16 u32 u64 f32 f64 char str string bytes byte_buf unit unit_struct seq tuple
        tuple_struct map identifier ignored_any
    }
}

/// An unknown key as it may be shown: a key could hold anything.
fn printable(key: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '_';
    if key.len() <= 64 && key.chars().all(plain) { key.to_owned() } else { "(unprintable)".to_owned() }
}

/// The elements of a list.
struct Items {
    values: std::iter::Enumerate<std::vec::IntoIter<Value>>,
    strict: bool,
}

impl<'de> SeqAccess<'de> for Items {
    type Error = FieldError;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, FieldError> {
        let Some((index, value)) = self.values.next() else { return Ok(None) };
        let node = Node { value, strict: self.strict };
        seed.deserialize(node).map(Some).map_err(|e| e.under(Step::Item(index)))
    }
}

/// The fields of an object.
struct Fields {
    entries: serde_json::map::IntoIter,
    value: Option<(String, Value)>,
    strict: bool,
}

impl<'de> MapAccess<'de> for Fields {
    type Error = FieldError;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, FieldError> {
        let Some((key, value)) = self.entries.next() else { return Ok(None) };
        self.value = Some((key.clone(), value));
        let key: StringDeserializer<FieldError> = key.into_deserializer();
        seed.deserialize(key).map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, FieldError> {
        let (key, value) = self.value.take().expect("serde asks for a key before its value");
        seed.deserialize(Node { value, strict: self.strict }).map_err(|e| e.under(Step::Field(key)))
    }
}

#[cfg(test)]
mod tests {
    use crate::server::error::Dialect;

    use super::*;

    #[derive(Debug, Deserialize, PartialEq)]
    struct Outer {
        name: String,
        count: Option<usize>,
        share: Option<f32>,
        kind: Option<Color>,
        inner: Option<Vec<Inner>>,
    }

    #[derive(Debug, Deserialize, PartialEq)]
    struct Inner {
        flag: bool,
    }

    #[derive(Debug, Deserialize, PartialEq)]
    #[serde(rename_all = "lowercase")]
    enum Color {
        Red,
        Blue,
    }

    fn message(error: &ApiError) -> String {
        let body: Value = serde_json::from_slice(&error.body(Dialect::Native, "id")).expect("JSON");
        body["error"].as_str().expect("a message").to_owned()
    }

    #[test]
    fn errors_name_the_field_and_never_quote_the_client() {
        #[rustfmt::skip]
        let cases = [
            (r#"{"name": 5}"#, "name: found an integer, expected a string"),
            (r#"{"name": null}"#, "name: found null, expected a string"),
            (r#"{}"#, "name: this field is required"),
            (r#"{"name": "secret", "count": "secret"}"#, "count: found a string, expected an integer that is not negative"),
            (r#"{"name": "secret", "count": -3}"#, "count: found a negative integer, expected an integer that is not negative"),
            (r#"{"name": "secret", "count": 1.5}"#, "count: found a number with a fraction, expected an integer that is not negative"),
            (r#"{"name": "secret", "share": true}"#, "share: found a boolean, expected a number"),
            (r#"{"name": "secret", "kind": "secret"}"#, "kind: not a known value, expected one of \"red\", \"blue\""),
            (r#"{"name": "secret", "kind": 1}"#, "kind: found an integer, expected a string"),
            (r#"{"name": "secret", "kind": {"red": 1}}"#, "kind: found an object, expected a string"),
            (r#"{"name": "secret", "inner": {}}"#, "inner: found an object, expected a list"),
            (r#"{"name": "secret", "inner": [{"flag": true}, {"flag": "secret"}]}"#, "inner[1].flag: found a string, expected a boolean"),
            (r#"{"name": "secret", "inner": [{}]}"#, "inner[0].flag: this field is required"),
            (r#"["secret"]"#, "found a list, expected an object"),
            (r#"["secret", 1, 0.5, "red", []]"#, "found a list, expected an object"),
            (r#"{"name": "secret", "inner": [[true]]}"#, "inner[0]: found a list, expected an object"),
            (r#""secret""#, "found a string, expected an object"),
        ];
        for (body, expected) in cases {
            let error = read::<Outer>(parse(body.as_bytes()).expect("JSON"), false).expect_err(body);
            assert_eq!(message(&error), expected, "{body}");
        }
    }

    #[test]
    fn what_is_well_formed_is_read() {
        let body = r#"{"name": "\ud83d\ude00 \u0000", "count": 3, "share": 1, "kind": "blue", "inner": [{"flag": true}], "x": {}}"#;
        let read = read::<Outer>(parse(body.as_bytes()).expect("JSON"), false).expect("well formed");
        let inner = Some(vec![Inner { flag: true }]);
        let name = "\u{1f600} \0".to_owned();
        assert_eq!(read, Outer { name, count: Some(3), share: Some(1.0), kind: Some(Color::Blue), inner });
    }

    #[test]
    fn strict_mode_names_the_unknown_field_at_any_depth() {
        let strict = |body: &str| read::<Outer>(parse(body.as_bytes()).expect("JSON"), true).map_err(|e| message(&e));
        let error = strict(r#"{"name": "a", "nmae": 1}"#).expect_err("unknown");
        assert_eq!(error, "nmae: unknown field, expected one of name, count, share, kind, inner");
        let error = strict(r#"{"name": "a", "inner": [{"flag": true, "flog": 1}]}"#).expect_err("unknown");
        assert_eq!(error, "inner[0].flog: unknown field, expected one of flag");
        let error = strict(r#"{"name": "a", "<script>": 1}"#).expect_err("unknown");
        assert!(error.starts_with("(unprintable): unknown field"), "{error}");
    }

    #[test]
    fn nesting_is_read_to_a_depth_of_127() {
        let nested = |depth: usize| format!("{}1{}", "[".repeat(depth), "]".repeat(depth));
        assert!(parse(nested(127).as_bytes()).is_ok());
        assert!(parse(nested(128).as_bytes()).is_err());
    }
}
