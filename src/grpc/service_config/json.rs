//! From JSON to rules, by gRFC A6 ("Validation of retryPolicy", "Validation of hedgingPolicy") and the JSON
//! form of protobuf. By hand, so that an error says which field is wrong, and why.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Map, Value};

use super::super::by_path::ByPath;
use super::super::code::{Code, Codes};
use super::{
    HedgingConfig, MethodConfig, RetryConfig, RetryThrottling, ServiceConfig, ServiceConfigError,
};

type Read<T> = Result<T, ServiceConfigError>;

/// More attempts than this are this many.
const MOST_ATTEMPTS: u64 = 5;

/// The longest duration that protobuf knows, in seconds: ten thousand years.
const LONGEST: u64 = 315_576_000_000;

pub(super) fn read(json: &str) -> Read<ServiceConfig> {
    let whole = serde_json::from_str(json).map_err(|error| ServiceConfigError {
        field: String::new(),
        problem: error.to_string(),
    })?;
    let config = Field {
        name: String::new(),
        value: &whole,
    }
    .object()?;
    let mut methods = ByPath::new();
    for entry in config.list("methodConfig")? {
        let entry = entry.object()?;
        let method = Arc::new(method(&entry)?);
        for name in entry.list("name")? {
            let path = path(&name)?;
            if !methods.insert(path, Arc::clone(&method)) {
                return Err(name.is("is a name that another entry has already"));
            }
        }
    }
    let throttling = config
        .get("retryThrottling")
        .as_ref()
        .map(throttling)
        .transpose()?;
    Ok(ServiceConfig {
        methods,
        throttling,
    })
}

fn path(name: &Field<'_>) -> Read<String> {
    let object = name.object()?;
    let text = |field| object.get(field).map_or(Ok(""), |field| field.text());
    Ok(match (text("service")?, text("method")?) {
        ("", "") => String::new(),
        ("", _) => return Err(name.is("has a method and no service")),
        (service, method) => format!("/{service}/{method}"),
    })
}

fn method(entry: &Object<'_>) -> Read<MethodConfig> {
    let method = MethodConfig {
        timeout: entry
            .get("timeout")
            .map(|it| it.duration(false))
            .transpose()?,
        retry: entry.get("retryPolicy").as_ref().map(retry).transpose()?,
        hedging: entry
            .get("hedgingPolicy")
            .as_ref()
            .map(hedging)
            .transpose()?,
    };
    match &method {
        MethodConfig {
            retry: Some(_),
            hedging: Some(_),
            ..
        } => Err(entry
            .require("hedgingPolicy")?
            .is("and `retryPolicy` are not for the same method")),
        _ => Ok(method),
    }
}

fn retry(field: &Field<'_>) -> Read<RetryConfig> {
    let policy = field.object()?;
    let codes = policy.require("retryableStatusCodes")?;
    let retry = RetryConfig {
        max_attempts: attempts(&policy)?,
        initial_backoff: policy.require("initialBackoff")?.duration(true)?,
        max_backoff: policy.require("maxBackoff")?.duration(true)?,
        multiplier: policy.require("backoffMultiplier")?.above_zero()?,
        codes: codes.codes()?,
    };
    if retry.codes.is_empty() {
        return Err(codes.is("is empty"));
    }
    Ok(retry)
}

fn hedging(field: &Field<'_>) -> Read<HedgingConfig> {
    let policy = field.object()?;
    let delay = policy.get("hedgingDelay").map(|it| it.duration(false));
    let codes = policy.get("nonFatalStatusCodes").map(|it| it.codes());
    Ok(HedgingConfig {
        max_attempts: attempts(&policy)?,
        delay: delay.transpose()?.unwrap_or_default(),
        non_fatal: codes.transpose()?.unwrap_or_default(),
    })
}

fn attempts(policy: &Object<'_>) -> Read<u32> {
    let field = policy.require("maxAttempts")?;
    match field.value.as_u64() {
        Some(n @ 2..) => Ok(n.min(MOST_ATTEMPTS) as u32),
        _ => Err(field.is("has to be a whole number above 1")),
    }
}

fn throttling(field: &Field<'_>) -> Read<RetryThrottling> {
    let rules = field.object()?;
    let tokens = rules.require("maxTokens")?;
    let max_tokens = match tokens.value.as_u64() {
        Some(n @ 1..=1000) => n as u32,
        _ => return Err(tokens.is("has to be a whole number from 1 to 1000")),
    };
    let ratio = rules.require("tokenRatio")?;
    let token_ratio = three_decimals(ratio.above_zero()?);
    if token_ratio == 0.0 {
        return Err(ratio.is("is nothing: only three decimals count"));
    }
    Ok(RetryThrottling {
        max_tokens,
        token_ratio,
    })
}

/// The number without what comes behind the third decimal, as it is written: 0.57 is no 0.569.
fn three_decimals(number: f64) -> f64 {
    let text = number.to_string(); // Never with an exponent.
    let end = text
        .find('.')
        .map_or(text.len(), |dot| text.len().min(dot + 4));
    text[..end].parse().unwrap_or(0.0)
}

/// A value, and what it is called in an error.
struct Field<'a> {
    name: String,
    value: &'a Value,
}

struct Object<'a> {
    name: String,
    fields: &'a Map<String, Value>,
}

impl<'a> Object<'a> {
    fn name_of(&self, field: &str) -> String {
        match &*self.name {
            "" => field.to_owned(),
            name => format!("{name}.{field}"),
        }
    }

    /// A field that is `null` is not there.
    fn get(&self, field: &str) -> Option<Field<'a>> {
        let value = self.fields.get(field).filter(|value| !value.is_null())?;
        Some(Field {
            name: self.name_of(field),
            value,
        })
    }

    fn require(&self, field: &str) -> Read<Field<'a>> {
        self.get(field).ok_or_else(|| ServiceConfigError {
            field: self.name_of(field),
            problem: "is missing".to_owned(),
        })
    }

    /// The values of a list; none, if it is not there.
    fn list(&self, field: &str) -> Read<Vec<Field<'a>>> {
        self.get(field).map_or(Ok(Vec::new()), |field| field.list())
    }
}

impl<'a> Field<'a> {
    fn is(&self, problem: &str) -> ServiceConfigError {
        ServiceConfigError {
            field: self.name.clone(),
            problem: problem.to_owned(),
        }
    }

    fn object(&self) -> Read<Object<'a>> {
        match self.value {
            Value::Object(fields) => Ok(Object {
                name: self.name.clone(),
                fields,
            }),
            _ => Err(self.is("has to be an object")),
        }
    }

    fn list(&self) -> Read<Vec<Self>> {
        let Value::Array(values) = self.value else {
            return Err(self.is("has to be a list"));
        };
        let numbered = values.iter().enumerate().map(|(i, value)| Self {
            name: format!("{}[{i}]", self.name),
            value,
        });
        Ok(numbered.collect())
    }

    fn text(&self) -> Read<&'a str> {
        let text = self.value.as_str();
        text.ok_or_else(|| self.is("has to be a string"))
    }

    fn above_zero(&self) -> Read<f64> {
        match self.value.as_f64() {
            Some(number) if number > 0.0 && number.is_finite() => Ok(number),
            _ => Err(self.is("has to be a number above 0")),
        }
    }

    fn duration(&self, above_zero: bool) -> Read<Duration> {
        match duration(self.text()?) {
            Some(Duration::ZERO) if above_zero => Err(self.is("has to be longer than nothing")),
            Some(duration) => Ok(duration),
            None => Err(self.is("has to be a number of seconds with an `s`, such as \"0.1s\"")),
        }
    }

    fn codes(&self) -> Read<Codes> {
        self.list()?.iter().map(Self::code).collect()
    }

    fn code(&self) -> Read<Code> {
        let code = match self.value {
            Value::String(name) => Code::from_name(name),
            number => number.as_u64().and_then(Code::from_number),
        };
        code.ok_or_else(|| self.is("is no status code"))
    }
}

/// A duration as JSON has it: seconds with up to nine decimals, and an `s`. Without digits before the point
/// too, which other clients take.
fn duration(text: &str) -> Option<Duration> {
    let number = text.strip_suffix('s')?;
    let (whole, decimals) = match number.split_once('.') {
        Some((whole, decimals)) if (1..=9).contains(&decimals.len()) => (whole, decimals),
        Some(_) => return None,
        None if number.is_empty() => return None,
        None => (number, ""),
    };
    if !(whole.bytes().chain(decimals.bytes())).all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let seconds = if whole.is_empty() {
        0
    } else {
        whole.parse().ok()?
    };
    let nanos = format!("{decimals:0<9}").parse().ok()?;
    let duration = Duration::new(seconds, nanos);
    (duration <= Duration::from_secs(LONGEST)).then_some(duration)
}
