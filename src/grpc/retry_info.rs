//! `google.rpc.RetryInfo`: the wait that a server recommends in the details of its status.

use std::time::Duration;

use base64::Engine as _;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use http::{HeaderMap, HeaderName};
use prost::Message;

const DETAILS: HeaderName = HeaderName::from_static("grpc-status-details-bin");
const RETRY_INFO: &str = "google.rpc.RetryInfo";

/// Longer details are not read: what they hold is for people, and this is read for each failed call.
const LONGEST: usize = 16 * 1024;

/// gRPC sends binary headers without padding, and takes them with it.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// `google.rpc.Status`, as far as it is looked at.
#[derive(Clone, PartialEq, Message)]
struct Status {
    #[prost(message, repeated, tag = "3")]
    details: Vec<Any>,
}

/// `google.protobuf.Any`
#[derive(Clone, PartialEq, Message)]
struct Any {
    #[prost(string, tag = "1")]
    type_url: String,
    #[prost(bytes = "vec", tag = "2")]
    value: Vec<u8>,
}

/// `google.rpc.RetryInfo`
#[derive(Clone, PartialEq, Message)]
struct RetryInfo {
    #[prost(message, optional, tag = "1")]
    retry_delay: Option<Span>,
}

/// `google.protobuf.Duration`
#[derive(Clone, PartialEq, Message)]
struct Span {
    #[prost(int64, tag = "1")]
    seconds: i64,
    #[prost(int32, tag = "2")]
    nanos: i32,
}

/// How long the server recommends to wait; `None` if it says nothing that can be read.
pub(super) fn in_headers(headers: &HeaderMap) -> Option<Duration> {
    let details = headers.get(DETAILS)?.as_bytes();
    if details.len() > LONGEST {
        return None;
    }
    in_details(&BASE64.decode(details).ok()?)
}

/// The same of details that are decoded already, as those of a `tonic::Status` are.
pub(super) fn in_details(details: &[u8]) -> Option<Duration> {
    if details.len() > LONGEST {
        return None;
    }
    let details = Status::decode(details).ok()?.details;
    let is_info = |any: &Any| any.type_url.rsplit('/').next() == Some(RETRY_INFO);
    let info = details.into_iter().find(is_info)?;
    let delay = RetryInfo::decode(&*info.value).ok()?.retry_delay?;
    let nanos = u32::try_from(delay.nanos).ok()?;
    let seconds = u64::try_from(delay.seconds).ok()?;
    (nanos < 1_000_000_000).then(|| Duration::new(seconds, nanos))
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    fn header(type_url: &str, seconds: i64, nanos: i32) -> Vec<u8> {
        let info = RetryInfo {
            retry_delay: Some(Span { seconds, nanos }),
        };
        let any = |type_url: &str, value| Any {
            type_url: type_url.to_owned(),
            value,
        };
        let other = any("type.googleapis.com/google.rpc.ErrorInfo", vec![10, 1, 65]);
        let details = vec![other, any(type_url, info.encode_to_vec())];
        Status { details }.encode_to_vec()
    }

    fn read(text: &str) -> Option<Duration> {
        let value = HeaderValue::from_str(text).unwrap();
        in_headers(&HeaderMap::from_iter([(DETAILS, value)]))
    }

    #[test]
    fn the_wait_is_read_with_and_without_padding_and_whatever_the_host_of_its_type() {
        let millis = Some(Duration::from_millis(1_500));
        for host in ["type.googleapis.com/", "example.org/a/", ""] {
            let bytes = header(&format!("{host}google.rpc.RetryInfo"), 1, 500_000_000);
            let padded = base64::engine::general_purpose::STANDARD.encode(&bytes);
            assert_eq!(read(&padded), millis);
            assert_eq!(read(padded.trim_end_matches('=')), millis);
        }
    }

    #[test]
    fn what_is_no_wait_is_none() {
        let url = "type.googleapis.com/google.rpc.RetryInfo";
        let encode = |bytes: Vec<u8>| BASE64.encode(bytes);
        assert_eq!(read(&encode(header(url, -1, 0))), None);
        assert_eq!(read(&encode(header(url, 1, -1))), None);
        assert_eq!(read(&encode(header(url, 1, 1_000_000_000))), None);
        let other = "type.googleapis.com/google.rpc.Help";
        assert_eq!(read(&encode(header(other, 1, 0))), None);
        assert_eq!(read("!"), None);
        assert_eq!(read(""), None);
        assert_eq!(in_headers(&HeaderMap::new()), None);
        let huge = encode(vec![0; LONGEST]);
        assert_eq!(read(&huge), None);
        let longest = Some(Duration::from_secs(i64::MAX.unsigned_abs()));
        assert_eq!(read(&encode(header(url, i64::MAX, 0))), longest);
    }

    proptest! {
        #[test]
        fn nothing_panics(bytes in prop::collection::vec(any::<u8>(), 0..64), text in "[ -~]{0,64}") {
            let _ = read(&BASE64.encode(bytes));
            let _ = read(&text);
        }
    }
}
