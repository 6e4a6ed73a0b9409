//! How one setting is read, checked and written; and the macros that turn a list of settings into a struct.

/// The values a setting may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Allowed {
    /// A whole number in this range, both ends included.
    Between(u64, u64),
    /// One of these words.
    OneOf(&'static [&'static str]),
    /// A share from 0 to 1, both included.
    Share,
    /// `true` or `false`.
    Bool,
    /// Any text.
    Text,
}

/// A whole number from `low` to `high`, both included.
pub(super) const fn between(low: u64, high: u64) -> Allowed {
    Allowed::Between(low, high)
}

impl std::fmt::Display for Allowed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Allowed::Between(low, high) => write!(f, "{low} to {high}"),
            Allowed::OneOf(names) => f.write_str(&names.join(", ")),
            Allowed::Share => f.write_str("0 to 1"),
            Allowed::Bool => f.write_str("true, false"),
            Allowed::Text => f.write_str("text"),
        }
    }
}

/// What is known about one setting besides its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    /// `section.name`.
    pub key: String,
    /// The default, as it stands in a TOML file.
    pub default: String,
    /// The values it may have.
    pub allowed: Allowed,
    /// What it does.
    pub doc: String,
}

impl Setting {
    /// Unit of the value, from the end of the name; empty when it has none.
    pub fn unit(&self) -> &'static str {
        const UNITS: [(&str, &str); 4] =
            [("_ms", "milliseconds"), ("_us", "microseconds"), ("_bytes", "bytes"), ("_tokens", "tokens")];
        UNITS.iter().find(|(end, _)| self.key.ends_with(end)).map_or("", |(_, unit)| unit)
    }
}

/// A type that a setting can have.
pub(super) trait Value: Sized {
    /// From the text of an environment variable or flag.
    fn from_text(text: &str) -> Option<Self>;
    /// From a TOML file.
    fn from_toml(value: &toml::Value) -> Option<Self>;
    /// As it stands in a TOML file.
    fn to_toml(&self) -> String;
    /// Whether `allowed` covers it.
    fn is_allowed(&self, allowed: Allowed) -> bool;
}

impl Value for bool {
    fn from_text(text: &str) -> Option<Self> {
        match text {
            "true" | "1" => Some(true),
            "false" | "0" => Some(false),
            _ => None,
        }
    }

    fn from_toml(value: &toml::Value) -> Option<Self> {
        value.as_bool()
    }

    fn to_toml(&self) -> String {
        self.to_string()
    }

    fn is_allowed(&self, allowed: Allowed) -> bool {
        allowed == Allowed::Bool
    }
}

impl Value for String {
    fn from_text(text: &str) -> Option<Self> {
        Some(text.to_string())
    }

    fn from_toml(value: &toml::Value) -> Option<Self> {
        value.as_str().map(str::to_string)
    }

    fn to_toml(&self) -> String {
        toml::Value::from(self.as_str()).to_string()
    }

    fn is_allowed(&self, allowed: Allowed) -> bool {
        allowed == Allowed::Text
    }
}

macro_rules! number {
    ($($type:ty),*) => {$(
        impl Value for $type {
            fn from_text(text: &str) -> Option<Self> {
                text.replace('_', "").parse().ok()
            }

            fn from_toml(value: &toml::Value) -> Option<Self> {
                value.as_integer().and_then(|n| n.try_into().ok())
            }

            fn to_toml(&self) -> String {
                self.to_string()
            }

            fn is_allowed(&self, allowed: Allowed) -> bool {
                matches!(allowed, Allowed::Between(low, high) if (low..=high).contains(&(*self as u64)))
            }
        }
    )*};
}
number!(u16, u64, usize);

/// A share of a whole, 0 to 1, in millionths.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share(u32);

const MILLION: f64 = 1e6;

impl Share {
    /// So many percent, at most 100.
    pub(super) const fn percent(percent: u32) -> Self {
        Share(percent * 10_000)
    }

    /// As a number, 0 to 1.
    pub fn value(self) -> f64 {
        f64::from(self.0) / MILLION
    }

    fn of(value: f64) -> Option<Self> {
        (0.0..=1.0).contains(&value).then(|| Share((value * MILLION).round() as u32))
    }
}

impl Value for Share {
    fn from_text(text: &str) -> Option<Self> {
        Share::of(text.parse().ok()?)
    }

    fn from_toml(value: &toml::Value) -> Option<Self> {
        Share::of(value.as_float().or(value.as_integer().map(|n| n as f64))?)
    }

    fn to_toml(&self) -> String {
        format!("{:?}", self.value())
    }

    fn is_allowed(&self, allowed: Allowed) -> bool {
        allowed == Allowed::Share
    }
}

/// A value as its source gives it.
#[derive(Clone, Copy)]
pub(super) enum Raw<'a> {
    /// Environment variable or flag.
    Text(&'a str),
    /// Settings file.
    Toml(&'a toml::Value),
}

impl Raw<'_> {
    /// The value, when it has the right type and is allowed.
    pub(super) fn read<T: Value>(self, allowed: Allowed) -> Option<T> {
        let value = match self {
            Raw::Text(text) => T::from_text(text.trim()),
            Raw::Toml(value) => T::from_toml(value),
        };
        value.filter(|v| v.is_allowed(allowed))
    }
}

impl std::fmt::Display for Raw<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Raw::Text(text) => write!(f, "{text:?}"),
            Raw::Toml(value) => write!(f, "{value}"),
        }
    }
}

/// A group of settings under one name.
pub(super) trait Section {
    /// Name of the TOML table.
    fn name(&self) -> &'static str;

    /// What the group is about.
    fn doc(&self) -> String;

    /// Its settings, in order.
    fn settings(&self) -> Vec<Setting>;

    /// Sets `field`; false when the value has the wrong type or is not allowed.
    fn set(&mut self, field: &str, raw: Raw<'_>) -> bool;

    /// `field` as it stands in a TOML file.
    fn get(&self, field: &str) -> Option<String>;
}

/// Lines of a doc comment → one paragraph.
pub(super) fn paragraph(lines: &[&str]) -> String {
    lines.iter().map(|l| l.trim()).collect::<Vec<_>>().join(" ")
}

/// A struct of settings from a list of `/// doc`, `name: type = default, allowed;`.
macro_rules! section {
    (
        $(#[doc = $section_doc:literal])+
        pub struct $name:ident = $section:literal {
            $( $(#[doc = $doc:literal])+ $field:ident: $type:ty = $default:expr, $allowed:expr; )+
        }
    ) => {
        $(#[doc = $section_doc])+
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub struct $name {
            $( $(#[doc = $doc])+ pub $field: $type, )+
        }

        impl Default for $name {
            fn default() -> Self {
                $name { $( $field: $default, )+ }
            }
        }

        impl $crate::config::value::Section for $name {
            fn name(&self) -> &'static str {
                $section
            }

            fn doc(&self) -> String {
                $crate::config::value::paragraph(&[$($section_doc),+])
            }

            fn settings(&self) -> Vec<$crate::config::value::Setting> {
                use $crate::config::value::{Setting, Value, paragraph};
                let default = Self::default();
                vec![$( Setting {
                    key: concat!($section, ".", stringify!($field)).to_string(),
                    default: default.$field.to_toml(),
                    allowed: $allowed,
                    doc: paragraph(&[$($doc),+]),
                }, )+]
            }

            fn set(&mut self, field: &str, raw: $crate::config::value::Raw<'_>) -> bool {
                match field {
                    $( stringify!($field) => raw.read($allowed).map(|value| self.$field = value).is_some(), )+
                    _ => false,
                }
            }

            fn get(&self, field: &str) -> Option<String> {
                use $crate::config::value::Value;
                match field {
                    $( stringify!($field) => Some(self.$field.to_toml()), )+
                    _ => None,
                }
            }
        }
    };
}
pub(super) use section;

/// An enum whose variants have a name in settings.
macro_rules! choice {
    (
        #[doc = $enum_doc:literal]
        pub enum $name:ident { $( #[doc = $doc:literal] $variant:ident = $text:literal, )+ }
    ) => {
        #[doc = $enum_doc]
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $name { $( #[doc = $doc] $variant, )+ }

        impl $name {
            /// The names of all variants.
            pub const NAMES: &'static [&'static str] = &[$($text),+];

            /// Name in settings.
            pub fn name(self) -> &'static str {
                match self { $( $name::$variant => $text, )+ }
            }
        }

        impl $crate::config::value::Value for $name {
            fn from_text(text: &str) -> Option<Self> {
                match text { $( $text => Some($name::$variant), )+ _ => None }
            }

            fn from_toml(value: &toml::Value) -> Option<Self> {
                Self::from_text(value.as_str()?)
            }

            fn to_toml(&self) -> String {
                format!("\"{}\"", self.name())
            }

            fn is_allowed(&self, allowed: $crate::config::value::Allowed) -> bool {
                allowed == $crate::config::value::Allowed::OneOf(Self::NAMES)
            }
        }
    };
}
pub(super) use choice;
