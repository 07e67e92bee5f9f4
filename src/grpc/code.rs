//! The status codes of gRPC, and what becomes one: numbers, names, HTTP statuses, reset streams.

use std::fmt;

use http::{HeaderMap, HeaderName, StatusCode};

const STATUS: HeaderName = HeaderName::from_static("grpc-status");

/// How a gRPC call ended: one of the seventeen [status codes](https://grpc.io/docs/guides/status-codes/).
///
/// `From` leads to and from `tonic::Code`. (feature `tonic`)
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Code {
    /// The call succeeded.
    Ok = 0,
    /// The caller cancelled it, as a rule.
    Cancelled = 1,
    /// An error of which nothing is known; also a status that was missing or could not be read.
    Unknown = 2,
    /// The request is wrong whatever the state of the system.
    InvalidArgument = 3,
    /// The deadline came first.
    DeadlineExceeded = 4,
    /// What was asked for is not there.
    NotFound = 5,
    /// What was to be created is there already.
    AlreadyExists = 6,
    /// The caller may not do this.
    PermissionDenied = 7,
    /// Something is used up: a quota, memory, a slot.
    ResourceExhausted = 8,
    /// The system is not in a state in which this could be done.
    FailedPrecondition = 9,
    /// Given up because of something concurrent: a failed transaction, a deadlock.
    Aborted = 10,
    /// Past the end of what is there.
    OutOfRange = 11,
    /// The service has no such method.
    Unimplemented = 12,
    /// Something is broken.
    Internal = 13,
    /// The service cannot be reached, or does not take calls right now.
    Unavailable = 14,
    /// Data is lost or damaged.
    DataLoss = 15,
    /// It is not known who the caller is.
    Unauthenticated = 16,
}

impl Code {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 17] = [
        Self::Ok,
        Self::Cancelled,
        Self::Unknown,
        Self::InvalidArgument,
        Self::DeadlineExceeded,
        Self::NotFound,
        Self::AlreadyExists,
        Self::PermissionDenied,
        Self::ResourceExhausted,
        Self::FailedPrecondition,
        Self::Aborted,
        Self::OutOfRange,
        Self::Unimplemented,
        Self::Internal,
        Self::Unavailable,
        Self::DataLoss,
        Self::Unauthenticated,
    ];

    /// The number, as it is on the wire.
    #[must_use]
    pub const fn number(self) -> u8 {
        self as u8
    }

    /// The name, as it is in service configs: `UNAVAILABLE`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ok => "OK",
            Self::Cancelled => "CANCELLED",
            Self::Unknown => "UNKNOWN",
            Self::InvalidArgument => "INVALID_ARGUMENT",
            Self::DeadlineExceeded => "DEADLINE_EXCEEDED",
            Self::NotFound => "NOT_FOUND",
            Self::AlreadyExists => "ALREADY_EXISTS",
            Self::PermissionDenied => "PERMISSION_DENIED",
            Self::ResourceExhausted => "RESOURCE_EXHAUSTED",
            Self::FailedPrecondition => "FAILED_PRECONDITION",
            Self::Aborted => "ABORTED",
            Self::OutOfRange => "OUT_OF_RANGE",
            Self::Unimplemented => "UNIMPLEMENTED",
            Self::Internal => "INTERNAL",
            Self::Unavailable => "UNAVAILABLE",
            Self::DataLoss => "DATA_LOSS",
            Self::Unauthenticated => "UNAUTHENTICATED",
        }
    }

    /// The code with this number, if there is one.
    #[must_use]
    pub fn from_number(number: u64) -> Option<Self> {
        Self::ALL.get(usize::try_from(number).ok()?).copied()
    }

    /// The code with this name, in upper or lower case.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|code| code.name().eq_ignore_ascii_case(name))
    }

    /// The `grpc-status` in headers or trailers, if there is one. A value that is no code is
    /// [`Unknown`](Self::Unknown).
    #[must_use]
    pub fn from_headers(headers: &HeaderMap) -> Option<Self> {
        headers
            .get(STATUS)
            .map(|value| Self::from_wire(value.as_bytes()))
    }

    fn from_wire(value: &[u8]) -> Self {
        // Not `parse`, which takes a plus sign.
        let number = match value {
            [] => None,
            digits if digits.iter().all(u8::is_ascii_digit) => {
                digits.iter().try_fold(0_u64, |number, digit| {
                    let digit = u64::from(digit - b'0');
                    number.checked_mul(10)?.checked_add(digit)
                })
            }
            _ => None,
        };
        number.and_then(Self::from_number).unwrap_or(Self::Unknown)
    }

    /// What an HTTP answer without a `grpc-status` means, by
    /// [gRPC's table](https://github.com/grpc/grpc/blob/master/doc/http-grpc-status-mapping.md). Not for
    /// answers that have one. A `200` without one is an error too.
    #[must_use]
    pub fn from_http(status: StatusCode) -> Self {
        match status.as_u16() {
            400 | 431 => Self::Internal,
            401 => Self::Unauthenticated,
            403 => Self::PermissionDenied,
            404 => Self::Unimplemented,
            429 | 502 | 503 | 504 => Self::Unavailable,
            _ => Self::Unknown,
        }
    }

    /// What a reset HTTP/2 stream means, by its error code and
    /// [gRPC's table](https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md#errors).
    #[must_use]
    pub fn from_reset(error_code: u32) -> Self {
        match h2::Reason::from(error_code) {
            h2::Reason::REFUSED_STREAM => Self::Unavailable,
            h2::Reason::CANCEL => Self::Cancelled,
            h2::Reason::ENHANCE_YOUR_CALM => Self::ResourceExhausted,
            h2::Reason::INADEQUATE_SECURITY => Self::PermissionDenied,
            _ => Self::Internal,
        }
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(feature = "tonic")]
#[cfg_attr(docsrs, doc(cfg(feature = "tonic")))]
impl From<tonic::Code> for Code {
    fn from(code: tonic::Code) -> Self {
        let number = u64::try_from(i32::from(code)).ok();
        number.and_then(Self::from_number).unwrap_or(Self::Unknown)
    }
}

#[cfg(feature = "tonic")]
#[cfg_attr(docsrs, doc(cfg(feature = "tonic")))]
impl From<Code> for tonic::Code {
    fn from(code: Code) -> Self {
        Self::from_i32(i32::from(code.number()))
    }
}

/// A set of [`Code`]s.
///
/// ```
/// use tower_bulwark::grpc::{Code, Codes};
///
/// let codes = Codes::of(&[Code::Unavailable, Code::Aborted]);
/// assert!(codes.contains(Code::Aborted));
/// assert_eq!(format!("{codes:?}"), "{Aborted, Unavailable}");
/// ```
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Codes(u32);

impl Codes {
    /// None.
    pub const NONE: Self = Self(0);

    /// These.
    #[must_use]
    pub const fn of(codes: &[Code]) -> Self {
        let mut set = Self::NONE;
        let mut i = 0;
        while i < codes.len() {
            set = set.with(codes[i]);
            i += 1;
        }
        set
    }

    /// These and `code`.
    #[must_use]
    pub const fn with(self, code: Code) -> Self {
        Self(self.0 | 1 << code.number())
    }

    /// These without `code`.
    #[must_use]
    pub const fn without(self, code: Code) -> Self {
        Self(self.0 & !(1 << code.number()))
    }

    /// Whether `code` is among them.
    #[must_use]
    pub const fn contains(self, code: Code) -> bool {
        self.0 & (1 << code.number()) != 0
    }

    /// Whether there are none.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Each of them, in the order of their numbers.
    pub fn iter(self) -> impl Iterator<Item = Code> {
        Code::ALL
            .into_iter()
            .filter(move |code| self.contains(*code))
    }
}

impl FromIterator<Code> for Codes {
    fn from_iter<I: IntoIterator<Item = Code>>(codes: I) -> Self {
        codes.into_iter().fold(Self::NONE, Self::with)
    }
}

impl fmt::Debug for Codes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}
