//! A document as a tree that knows where each part of it stands.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;

use serde::de::{self, Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::Number;

/// Which bytes of the text something is; `None` in data without a text.
pub(super) type Span = Option<Range<usize>>;

/// A value, and where it stands.
#[derive(Clone, Debug)]
pub(super) struct Node {
    pub(super) span: Span,
    pub(super) value: Value,
}

#[derive(Clone, Debug)]
pub(super) enum Value {
    Null,
    Bool(bool),
    Number(Number),
    Text(String),
    List(Vec<Node>),
    Table(Table),
    /// Something that no setting can be, and what it is: a date, a number that is none.
    Other(String),
}

/// Keys, where they stand, and their values.
pub(super) type Table = BTreeMap<String, Entry>;

#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) key: Span,
    pub(super) node: Node,
}

impl Node {
    pub(super) fn table(&self) -> Option<&Table> {
        match &self.value {
            Value::Table(table) => Some(table),
            Value::Null
            | Value::Bool(_)
            | Value::Number(_)
            | Value::Text(_)
            | Value::List(_)
            | Value::Other(_) => None,
        }
    }

    /// The same as plain data; or what no setting can be.
    pub(super) fn plain(&self) -> Result<serde_json::Value, &str> {
        use serde_json::Value as Plain;
        Ok(match &self.value {
            Value::Null => Plain::Null,
            Value::Bool(it) => Plain::Bool(*it),
            Value::Number(it) => Plain::Number(it.clone()),
            Value::Text(it) => Plain::String(it.clone()),
            Value::List(list) => {
                Plain::Array(list.iter().map(Self::plain).collect::<Result<_, _>>()?)
            }
            Value::Table(table) => Plain::Object(
                table
                    .iter()
                    .map(|(key, entry)| Ok((key.clone(), entry.node.plain()?)))
                    .collect::<Result<_, &str>>()?,
            ),
            Value::Other(what) => return Err(what),
        })
    }
}

impl fmt::Display for Value {
    /// What it is, for a message: never a whole table.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Null => f.write_str("null"),
            Self::Bool(it) => it.fmt(f),
            Self::Number(it) => it.fmt(f),
            Self::Text(it) => write!(f, "\"{it}\""),
            Self::List(_) => f.write_str("a list"),
            Self::Table(_) => f.write_str("a table"),
            Self::Other(what) => f.write_str(what),
        }
    }
}

/// From any format of serde. There are no places then, only keys.
impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(AnyValue)
            .map(|value| Self { span: None, value })
    }
}

struct AnyValue;

impl<'de> Visitor<'de> for AnyValue {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a table of settings")
    }

    fn visit_unit<E: de::Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E: de::Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, from: D) -> Result<Value, D::Error> {
        from.deserialize_any(self)
    }

    fn visit_bool<E: de::Error>(self, it: bool) -> Result<Value, E> {
        Ok(Value::Bool(it))
    }

    fn visit_i64<E: de::Error>(self, it: i64) -> Result<Value, E> {
        Ok(Value::Number(it.into()))
    }

    fn visit_u64<E: de::Error>(self, it: u64) -> Result<Value, E> {
        Ok(Value::Number(it.into()))
    }

    fn visit_f64<E: de::Error>(self, it: f64) -> Result<Value, E> {
        Ok(Number::from_f64(it).map_or_else(|| Value::Other(it.to_string()), Value::Number))
    }

    fn visit_str<E: de::Error>(self, it: &str) -> Result<Value, E> {
        Ok(Value::Text(it.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut from: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(node) = from.next_element()? {
            list.push(node);
        }
        Ok(Value::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut from: A) -> Result<Value, A::Error> {
        let mut table = Table::new();
        while let Some((key, node)) = from.next_entry::<String, Node>()? {
            let entry = Entry { key: None, node };
            if table.insert(key.clone(), entry).is_some() {
                return Err(de::Error::custom(format!("`{key}` is there twice")));
            }
        }
        Ok(Value::Table(table))
    }
}
