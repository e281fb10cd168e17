//! What a script returned, as a response: the rules of section 1.4 and 1.5 of the contract.

use bytes::Bytes;
use rhai::{Dynamic, Map};

use super::encode::{self, EncodeError};
use super::{Fault, FaultKind};

/// A script's answer, its body already encoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    /// Any number the script chose; what HTTP cannot say is for the http room to refuse.
    pub status: u16,
    /// Lower-case names, `content-type` always among them; not checked for what HTTP allows.
    pub headers: Vec<(String, String)>,
    /// The body's bytes.
    pub body: Bytes,
}

impl Response {
    /// Reads a script's value: a map with `status_code` is a response, anything else the body of a 200.
    pub(super) fn read(value: &Dynamic, bytes_max: usize) -> Result<Response, Fault> {
        if let Ok(map) = value.as_map_ref()
            && let Some(status) = map.get("status_code")
        {
            return read_map(&map, status, bytes_max);
        }
        let body = encode_body(value, bytes_max, "the value returned")?;
        Ok(Response { status: 200, headers: vec![json_type()], body })
    }
}

fn json_type() -> (String, String) {
    ("content-type".to_owned(), "application/json".to_owned())
}

fn read_map(map: &Map, status: &Dynamic, bytes_max: usize) -> Result<Response, Fault> {
    let status = status.as_int().ok().and_then(|code| u16::try_from(code).ok()).ok_or_else(|| {
        let shown = super::text::display_cut(status, 100);
        invalid(format!("status_code is {shown}; it must be an integer from 0 to 65535"))
    })?;
    let mut headers = match map.get("headers") {
        None => Vec::new(),
        Some(headers) if headers.is_unit() => Vec::new(),
        Some(headers) => read_headers(headers)?,
    };
    keep_one_type(&mut headers);
    let unit = Dynamic::UNIT;
    let body = map.get("body").unwrap_or(&unit);
    let sent_as_is = match headers.iter().rfind(|(name, _)| name == "content-type") {
        Some((_, kind)) if !is_json(kind) => raw_body(body, bytes_max)?,
        Some(_) => None,
        None => {
            headers.push(json_type());
            None
        }
    };
    let body = match sent_as_is {
        Some(body) => body,
        None => encode_body(body, bytes_max, "the body returned")?,
    };
    headers.shrink_to_fit();
    Ok(Response { status, headers, body })
}

/// Of several content types the last stands; one that is no valid header value is as good as none.
fn keep_one_type(headers: &mut Vec<(String, String)>) {
    let is_type = |name: &str| name == "content-type";
    let valid =
        |value: &str| !value.is_empty() && value.bytes().all(|b| b == b'\t' || (b >= b' ' && b != 0x7f));
    let last = headers.iter().rfind(|(name, value)| is_type(name) && valid(value)).cloned();
    headers.retain(|(name, _)| !is_type(name));
    headers.extend(last);
}

/// `#{ name: value }` as pairs; an array repeats its header, unit leaves it out.
fn read_headers(headers: &Dynamic) -> Result<Vec<(String, String)>, Fault> {
    let map = headers
        .as_map_ref()
        .map_err(|_| invalid(format!("headers is a {}; it must be a map", encode::kind_of(headers))))?;
    let mut pairs = Vec::new();
    for (name, value) in map.iter() {
        let name = name.to_ascii_lowercase();
        if let Ok(values) = value.as_array_ref() {
            for value in values.iter() {
                pairs.extend(header_text(&name, value)?.map(|text| (name.clone(), text)));
            }
        } else {
            pairs.extend(header_text(&name, value)?.map(|text| (name, text)));
        }
    }
    Ok(pairs)
}

fn header_text(name: &str, value: &Dynamic) -> Result<Option<String>, Fault> {
    if value.is_unit() {
        return Ok(None);
    }
    if let Ok(text) = value.as_immutable_string_ref() {
        return Ok(Some(text.to_string()));
    }
    if value.is_int() || value.is_float() || value.is_bool() || value.is_char() {
        return Ok(Some(value.to_string()));
    }
    Err(invalid(format!(
        "header {name} is a {}; it must be a string, a number or a bool",
        encode::kind_of(value)
    )))
}

/// Whether a content type says JSON (RFC 6839 for `+json`).
fn is_json(content_type: &str) -> bool {
    let essence = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    essence == "application/json" || essence == "text/json" || essence.ends_with("+json")
}

/// A string's or a blob's bytes; `None` for what only JSON can carry.
fn raw_body(body: &Dynamic, bytes_max: usize) -> Result<Option<Bytes>, Fault> {
    let bytes = if let Ok(text) = body.as_immutable_string_ref() {
        text.as_bytes().to_vec()
    } else if let Ok(blob) = body.as_blob_ref() {
        blob.clone()
    } else {
        return Ok(None);
    };
    if bytes.len() > bytes_max {
        return Err(invalid(format!("the body returned is longer than {bytes_max} bytes")));
    }
    Ok(Some(boxed(bytes)))
}

fn encode_body(body: &Dynamic, bytes_max: usize, what: &str) -> Result<Bytes, Fault> {
    encode::to_json(body, bytes_max).map(boxed).map_err(|why| match why {
        EncodeError::Memory => Fault::new(FaultKind::Memory, format!("{what} {why}")),
        EncodeError::Depth | EncodeError::Size(_) | EncodeError::Kind(_) => invalid(format!("{what} {why}")),
    })
}

/// Without spare capacity, so that the bytes held are the bytes counted.
fn boxed(bytes: Vec<u8>) -> Bytes {
    Bytes::from(bytes.into_boxed_slice())
}

fn invalid(message: String) -> Fault {
    Fault::new(FaultKind::Validation, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn evaluated(source: &str) -> Dynamic {
        rhai::Engine::new().eval::<Dynamic>(source).unwrap()
    }

    #[track_caller]
    fn check(source: &str, status: u16, headers: &[(&str, &str)], body: &str) {
        let response = Response::read(&evaluated(source), 1000).unwrap();
        let seen: Vec<(&str, &str)> =
            response.headers.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
        assert_eq!((response.status, &seen[..]), (status, headers));
        assert_eq!(String::from_utf8_lossy(&response.body), body);
    }

    #[track_caller]
    fn refused(source: &str, why: &str) {
        let fault = Response::read(&evaluated(source), 1000).unwrap_err();
        assert_eq!((fault.kind, fault.message.as_str(), fault.permanent), (FaultKind::Validation, why, true));
    }

    const JSON: (&str, &str) = ("content-type", "application/json");

    #[test]
    fn any_value_is_the_body_of_a_200() {
        check("", 200, &[JSON], "null");
        check("42", 200, &[JSON], "42");
        check("#{ a: [1, \"x\"] }", 200, &[JSON], r#"{"a":[1,"x"]}"#);
        check("#{ body: 1, headers: 2 }", 200, &[JSON], r#"{"body":1,"headers":2}"#);
    }

    #[test]
    fn a_map_with_status_code_is_a_response() {
        check("#{ status_code: 201 }", 201, &[JSON], "null");
        check("#{ status_code: 65535, body: \"x\", headers: () }", 65535, &[JSON], "\"x\"");
        let source = r#"#{ status_code: 200, headers: #{ "X-N": 1, "x-b": true, "set-cookie": ["a", "b"], "x-u": () } }"#;
        check(
            source,
            200,
            &[("x-n", "1"), ("set-cookie", "a"), ("set-cookie", "b"), ("x-b", "true"), JSON],
            "null",
        );
    }

    #[test]
    fn other_content_types_send_strings_and_blobs_as_they_are() {
        let html = ("content-type", "text/html; charset=utf-8");
        let with = |kind: &str, body: &str| {
            format!("#{{ status_code: 200, headers: #{{ \"Content-Type\": \"{kind}\" }}, body: {body} }}")
        };
        check(&with(html.1, "\"<b>\""), 200, &[html], "<b>");
        check(&with("image/png", "blob(3, 65)"), 200, &[("content-type", "image/png")], "AAA");
        check(&with(html.1, "[1]"), 200, &[html], "[1]");
        check(
            &with("application/problem+json", "\"x\""),
            200,
            &[("content-type", "application/problem+json")],
            "\"x\"",
        );
        check(
            &with("Application/JSON; charset=utf-8", "blob(3, 65)"),
            200,
            &[("content-type", "Application/JSON; charset=utf-8")],
            "\"QUFB\"",
        );
    }

    #[test]
    fn what_is_no_response_is_refused() {
        refused("#{ status_code: \"200\" }", "status_code is 200; it must be an integer from 0 to 65535");
        refused("#{ status_code: 65536 }", "status_code is 65536; it must be an integer from 0 to 65535");
        refused("#{ status_code: -1 }", "status_code is -1; it must be an integer from 0 to 65535");
        refused("#{ status_code: 200.0 }", "status_code is 200.0; it must be an integer from 0 to 65535");
        refused("#{ status_code: 200, headers: [1] }", "headers is a array; it must be a map");
        refused(
            "#{ status_code: 200, headers: #{ a: #{} } }",
            "header a is a map; it must be a string, a number or a bool",
        );
        refused("|| 1", "the value returned holds a closure, which has no JSON form");
        refused(
            "#{ status_code: 200, body: [timestamp()] }",
            "the body returned holds a timestamp, which has no JSON form",
        );
        refused(
            "let s = \"x\"; s.pad(2000, 'x'); s",
            "the value returned has a JSON form longer than 1000 bytes",
        );
        refused(
            "let a = []; for i in 0..70 { a = [a]; } a",
            "the value returned is nested deeper than 64 levels",
        );
    }
}
