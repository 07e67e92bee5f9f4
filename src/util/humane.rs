//! How settings are written in data: durations as "200ms" or "1m30s", and what is switched off as "none".

use std::fmt;
use std::marker::PhantomData;
use std::time::Duration;

use serde::de::value::MapAccessDeserializer;
use serde::de::{
    Deserialize, Deserializer, Error, IntoDeserializer, MapAccess, Unexpected, Visitor,
};
use serde::ser::{Serialize, Serializer};

/// What is off. TOML has no null, and a setting that is left out is the default.
const NONE: &str = "none";

/// A duration as people write it: `"200ms"`, `"1m30s"`, `"2h"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Humane(pub(crate) Duration);

impl Humane {
    fn parse(text: &str) -> Result<Duration, String> {
        humantime::parse_duration(text).map_err(|error| {
            format!(
                "`{text}` is no duration ({error}): write it as \"200ms\", \"30s\" or \"1m30s\""
            )
        })
    }
}

impl fmt::Display for Humane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = humantime::format_duration(self.0).to_string();
        f.write_str(&text.replace(' ', ""))
    }
}

impl Serialize for Humane {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Humane {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;

        impl Visitor<'_> for Text {
            type Value = Humane;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a duration with its unit, such as \"200ms\", \"30s\" or \"1m30s\"")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Humane, E> {
                Humane::parse(text).map(Humane).map_err(E::custom)
            }
        }

        // A number shall say "give the unit", and not be taken for seconds.
        deserializer.deserialize_any(Text)
    }
}

#[cfg(feature = "config")]
impl schemars::JsonSchema for Humane {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Duration".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "type": "string",
            "description": "A duration with its unit.",
            "examples": ["200ms", "30s", "1m30s", "2h"],
        })
    }
}

/// For `#[serde(with)]` of a `Duration`.
pub(crate) fn serialize<S: Serializer>(it: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    Humane(*it).serialize(serializer)
}

/// For `#[serde(with)]` of a `Duration`.
pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
    Humane::deserialize(from).map(|it| it.0)
}

/// What a setting is in data.
pub(crate) trait Written: Sized {
    /// The same, as it is written.
    type As: Serialize + for<'de> Deserialize<'de>;

    fn written(&self) -> Self::As;
    fn read(from: Self::As) -> Self;
}

impl Written for Duration {
    type As = Humane;

    fn written(&self) -> Humane {
        Humane(*self)
    }

    fn read(from: Humane) -> Self {
        from.0
    }
}

macro_rules! written_as_it_is {
    ($($type:ty),*) => {
        $(impl $crate::util::humane::Written for $type {
            type As = Self;

            fn written(&self) -> Self {
                self.clone()
            }

            fn read(from: Self) -> Self {
                from
            }
        })*
    };
}

written_as_it_is!(bool, u32, usize, f64);
pub(crate) use written_as_it_is;

/// A short form and a long one: `"30s"`, or a table.
pub(crate) fn text_or_table<'de, D, S, L, T>(
    from: D,
    short: fn(S) -> T,
    long: fn(L) -> T,
) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    S: Deserialize<'de>,
    L: Deserialize<'de>,
{
    struct Either<S, L, T>(fn(S) -> T, fn(L) -> T);

    impl<'de, S: Deserialize<'de>, L: Deserialize<'de>, T> Visitor<'de> for Either<S, L, T> {
        type Value = T;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a text, such as \"30s\", or a table")
        }

        fn visit_str<E: Error>(self, text: &str) -> Result<T, E> {
            S::deserialize(text.into_deserializer()).map(self.0)
        }

        fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<T, A::Error> {
            L::deserialize(MapAccessDeserializer::new(map)).map(self.1)
        }
    }

    from.deserialize_any(Either(short, long))
}

/// The schema of a setting that may be `"none"`.
#[cfg(feature = "config")]
pub(crate) struct OrNone<T>(PhantomData<T>);

#[cfg(feature = "config")]
impl<T: schemars::JsonSchema> schemars::JsonSchema for OrNone<T> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        format!("{}OrNone", T::schema_name()).into()
    }

    fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
        let some = generator.subschema_for::<T>();
        schemars::json_schema!({ "anyOf": [some, { "const": NONE }] })
    }
}

/// For `#[serde(with)]` of an `Option`: `"none"` is nothing, and so is null.
pub(crate) mod option {
    use super::*;

    pub(crate) fn serialize<T: Written, S: Serializer>(
        it: &Option<T>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        match it {
            None => serializer.serialize_str(NONE),
            Some(it) => it.written().serialize(serializer),
        }
    }

    pub(crate) fn deserialize<'de, T: Written, D: Deserializer<'de>>(
        from: D,
    ) -> Result<Option<T>, D::Error> {
        let read = from.deserialize_any(ReadOrNone(PhantomData))?;
        Ok(read.map(T::read))
    }

    struct ReadOrNone<T>(PhantomData<T>);

    impl<'de, T: Deserialize<'de>> ReadOrNone<T> {
        fn some<E: Error>(from: impl IntoDeserializer<'de, E>) -> Result<Option<T>, E> {
            T::deserialize(from.into_deserializer()).map(Some)
        }
    }

    impl<'de, T: Deserialize<'de>> Visitor<'de> for ReadOrNone<T> {
        type Value = Option<T>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a value, or \"none\"")
        }

        fn visit_str<E: Error>(self, text: &str) -> Result<Self::Value, E> {
            if text == NONE {
                return Ok(None);
            }
            T::deserialize(text.into_deserializer())
                .map(Some)
                .map_err(
                    |error: E| match std::any::type_name::<T>().ends_with("Humane") {
                        true => error,
                        false => E::invalid_value(Unexpected::Str(text), &"a value, or \"none\""),
                    },
                )
        }

        fn visit_unit<E: Error>(self) -> Result<Self::Value, E> {
            Ok(None)
        }

        fn visit_none<E: Error>(self) -> Result<Self::Value, E> {
            Ok(None)
        }

        fn visit_some<D: Deserializer<'de>>(self, from: D) -> Result<Self::Value, D::Error> {
            from.deserialize_any(self)
        }

        fn visit_bool<E: Error>(self, it: bool) -> Result<Self::Value, E> {
            Self::some(it)
        }

        fn visit_u64<E: Error>(self, it: u64) -> Result<Self::Value, E> {
            Self::some(it)
        }

        fn visit_i64<E: Error>(self, it: i64) -> Result<Self::Value, E> {
            Self::some(it)
        }

        fn visit_f64<E: Error>(self, it: f64) -> Result<Self::Value, E> {
            Self::some(it)
        }

        fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
            T::deserialize(MapAccessDeserializer::new(map)).map(Some)
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_duration_that_was_written_is_read_again(secs in 0..=u64::from(u32::MAX), nanos in 0..1_000_000_000_u32) {
            let it = Duration::new(secs, nanos);
            prop_assert_eq!(Humane::parse(&Humane(it).to_string()), Ok(it));
        }
    }

    #[test]
    fn the_longest_duration_is_read_again() {
        let it = Duration::MAX;
        assert_eq!(Humane::parse(&Humane(it).to_string()), Ok(it));
    }

    #[test]
    fn a_number_without_a_unit_says_what_to_write() {
        let error = serde_json::from_str::<Humane>("30")
            .unwrap_err()
            .to_string();
        assert!(error.contains("\"30s\""), "{error}");
        let error = serde_json::from_str::<Humane>("\"30\"")
            .unwrap_err()
            .to_string();
        assert!(error.contains("\"30s\""), "{error}");
    }

    #[test]
    fn none_and_null_are_nothing_and_the_rest_is_something() {
        let read = |text: &str| {
            option::deserialize::<u32, _>(&mut serde_json::Deserializer::from_str(text))
        };
        assert_eq!(read("\"none\"").unwrap(), None);
        assert_eq!(read("null").unwrap(), None);
        assert_eq!(read("3").unwrap(), Some(3));
        assert!(read("\"many\"").is_err());
        assert!(read("-1").is_err());
        let read = |text: &str| {
            option::deserialize::<Duration, _>(&mut serde_json::Deserializer::from_str(text))
        };
        assert_eq!(read("\"1.5s\"").unwrap(), Some(Duration::from_millis(1500)));
        assert_eq!(read("\"none\"").unwrap(), None);
    }
}
