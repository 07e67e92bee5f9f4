//! What an error is: its chain, the type of every link, every predicate that holds.
use std::error::Error as StdError;
use std::io;

type DynErr = dyn StdError + 'static;

#[derive(Clone, Debug)]
pub struct Link {
    /// Its type, `?Name` if only its Debug names it.
    pub ty: String,
    /// What is true of it.
    pub preds: Vec<String>,
    pub display: String,
    /// `>` by source(), `^` only by get_ref()/get_io(): source() skips it.
    pub how: char,
}

fn yes(out: &mut Vec<String>, name: &str, it: bool) {
    if it {
        out.push(name.to_owned());
    }
}

fn io_preds(e: &io::Error) -> Vec<String> {
    let mut p = vec![format!("{:?}", e.kind())];
    if let Some(os) = e.raw_os_error() {
        p.push(format!("os={os}"));
    }
    p
}

pub fn code_name(c: tonic::Code) -> String {
    format!("{c:?}")
}

/// Debug's first word: the only name that an unnameable type has.
fn debug_name(e: &DynErr) -> String {
    let text = format!("{e:?}");
    let name: String = text
        .chars()
        .take_while(|c| c.is_alphanumeric() || matches!(c, ':' | '_'))
        .collect();
    match name.is_empty() {
        // A quoted string: what `Box<dyn Error>::from(&str)` makes.
        true if text.starts_with('"') => "?StringError".into(),
        true => "?".into(),
        false => format!("?{name}"),
    }
}

fn one(e: &DynErr) -> (String, Vec<String>) {
    let mut p = Vec::new();
    macro_rules! plain {
        ($($t:ty => $name:expr),* $(,)?) => {$( if e.is::<$t>() { return ($name.to_owned(), p); } )*};
    }
    if let Some(e) = e.downcast_ref::<reqwest::Error>() {
        yes(&mut p, "is_builder", e.is_builder());
        yes(&mut p, "is_redirect", e.is_redirect());
        yes(&mut p, "is_status", e.is_status());
        yes(&mut p, "is_timeout", e.is_timeout());
        yes(&mut p, "is_request", e.is_request());
        yes(&mut p, "is_connect", e.is_connect());
        yes(&mut p, "is_dns", e.is_dns());
        yes(&mut p, "is_body", e.is_body());
        yes(&mut p, "is_decode", e.is_decode());
        yes(&mut p, "is_upgrade", e.is_upgrade());
        if let Some(s) = e.status() {
            p.push(format!("status={}", s.as_u16()));
        }
        return ("reqwest::Error".into(), p);
    }
    if let Some(e) = e.downcast_ref::<hyper_util::client::legacy::Error>() {
        yes(&mut p, "is_connect", e.is_connect());
        // No predicate tells these apart; only Display does.
        let words = e.to_string();
        let kind = words
            .trim_start_matches("client error (")
            .trim_end_matches(')');
        p.push(format!("[{kind}]"));
        p.push(format!(
            "info={}",
            if e.connect_info().is_some() {
                "Some"
            } else {
                "None"
            }
        ));
        return ("legacy::Error".into(), p);
    }
    if let Some(e) = e.downcast_ref::<hyper::Error>() {
        yes(&mut p, "is_parse", e.is_parse());
        yes(&mut p, "is_parse_too_large", e.is_parse_too_large());
        yes(&mut p, "is_parse_status", e.is_parse_status());
        yes(&mut p, "is_parse_version_h2", e.is_parse_version_h2());
        yes(&mut p, "is_user", e.is_user());
        yes(&mut p, "is_canceled", e.is_canceled());
        yes(&mut p, "is_closed", e.is_closed());
        yes(&mut p, "is_incomplete_message", e.is_incomplete_message());
        yes(&mut p, "is_body_write_aborted", e.is_body_write_aborted());
        yes(&mut p, "is_shutdown", e.is_shutdown());
        yes(&mut p, "is_timeout", e.is_timeout());
        // The kinds that have no predicate at all.
        let text = format!("{e:?}");
        let kind = text
            .trim_start_matches("hyper::Error(")
            .trim_end_matches(')');
        let kind = kind.split(',').next().unwrap_or("?");
        p.push(format!("[{kind}]"));
        return ("hyper::Error".into(), p);
    }
    if let Some(e) = e.downcast_ref::<h2::Error>() {
        yes(&mut p, "is_io", e.is_io());
        yes(&mut p, "is_reset", e.is_reset());
        yes(&mut p, "is_go_away", e.is_go_away());
        yes(&mut p, "is_remote", e.is_remote());
        yes(&mut p, "is_library", e.is_library());
        if let Some(r) = e.reason() {
            p.push(format!("{r:?}"));
        }
        return ("h2::Error".into(), p);
    }
    if let Some(e) = e.downcast_ref::<io::Error>() {
        return ("io::Error".into(), io_preds(e));
    }
    if let Some(e) = e.downcast_ref::<tonic::Status>() {
        p.push(code_name(e.code()));
        return ("tonic::Status".into(), p);
    }
    if let Some(e) = e.downcast_ref::<rustls::Error>() {
        let text = format!("{e:?}");
        // What follows an opening brace is this run's.
        let short = match text.split_once(" {") {
            Some((head, _)) => format!("{head}..)"),
            None => text,
        };
        p.push(short);
        return ("rustls::Error".into(), p);
    }
    if let Some(e) = e.downcast_ref::<tokio::task::JoinError>() {
        yes(&mut p, "is_cancelled", e.is_cancelled());
        yes(&mut p, "is_panic", e.is_panic());
        return ("tokio JoinError".into(), p);
    }
    if let Some(e) = e.downcast_ref::<serde_json::Error>() {
        yes(&mut p, "is_io", e.is_io());
        yes(&mut p, "is_syntax", e.is_syntax());
        yes(&mut p, "is_data", e.is_data());
        yes(&mut p, "is_eof", e.is_eof());
        return ("serde_json::Error".into(), p);
    }
    if let Some(e) = e.downcast_ref::<http::Error>() {
        yes(&mut p, "is::<InvalidUri>", e.is::<http::uri::InvalidUri>());
        yes(
            &mut p,
            "is::<InvalidHeaderValue>",
            e.is::<http::header::InvalidHeaderValue>(),
        );
        return ("http::Error".into(), p);
    }
    plain! {
        tonic::transport::Error => "transport::Error",
        tonic::ConnectError => "tonic::ConnectError",
        tonic::TimeoutExpired => "tonic::TimeoutExpired",
        tower::timeout::error::Elapsed => "tower timeout::Elapsed",
        tower::load_shed::error::Overloaded => "tower load_shed::Overloaded",
        tower::buffer::error::ServiceError => "tower buffer::ServiceError",
        tower::buffer::error::Closed => "tower buffer::Closed",
        tokio::time::error::Elapsed => "tokio time::Elapsed",
        tokio::sync::AcquireError => "tokio AcquireError",
        tokio::sync::oneshot::error::RecvError => "tokio oneshot::RecvError",
        http::uri::InvalidUri => "http InvalidUri",
        http::uri::InvalidUriParts => "http InvalidUriParts",
        http::header::InvalidHeaderValue => "http InvalidHeaderValue",
        http::header::InvalidHeaderName => "http InvalidHeaderName",
        http_body_util::LengthLimitError => "http_body_util LengthLimitError",
        tower_http::timeout::TimeoutError => "tower_http TimeoutError",
        hyper_util::client::legacy::connect::dns::InvalidNameError => "legacy dns::InvalidNameError",
        <reqwest::Url as std::str::FromStr>::Err => "url::ParseError",
        tower_bulwark::Rejection => "bulwark Rejection",
        tower_bulwark::Error<tower_bulwark::Boxed> => "bulwark Error<Boxed>",
        prost::DecodeError => "prost DecodeError",
        crate::Injected => "(ours) Injected",
    }
    (debug_name(e), p)
}

pub fn chain(error: &DynErr) -> Vec<Link> {
    let mut out = Vec::new();
    let mut next: Option<(&DynErr, char)> = Some((error, '>'));
    while let Some((e, how)) = next {
        if out.len() > 16 {
            break;
        }
        let (ty, preds) = one(e);
        out.push(Link {
            ty,
            preds,
            display: e.to_string(),
            how,
        });
        if let Some(h2) = e.downcast_ref::<h2::Error>()
            && let Some(io) = h2.get_io()
        {
            next = Some((io, '^'));
            continue;
        }
        let inner = e.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        next = match inner {
            Some(inner) => Some((inner as &DynErr, '^')),
            None => e.source().map(|e| (e, '>')),
        };
    }
    out
}

/// One line: `reqwest::Error{is_request} > legacy::Error{[SendRequest] info=Some} > ...`.
pub fn signature(links: &[Link]) -> String {
    let mut text = String::new();
    for (i, link) in links.iter().enumerate() {
        if i > 0 {
            text.push_str(if link.how == '^' { " ⊂ " } else { " > " });
        }
        text.push_str(&link.ty);
        if !link.preds.is_empty() {
            text.push_str(&format!("{{{}}}", link.preds.join(" ")));
        }
    }
    text
}
