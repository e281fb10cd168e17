//! A request as a script will see it.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// Largest accepted request body, in bytes.
pub const BODY_BYTES_MAX: usize = 10 * 1024 * 1024;

/// A body that has been checked for what it claims to be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Body {
    /// No bytes: `null` where JSON is expected, unit to the script.
    Empty,
    /// Well-formed JSON of bounded depth.
    Json(Bytes),
    /// `application/x-www-form-urlencoded`, undecoded: a map to the script.
    Form(Bytes),
    /// UTF-8 text: a string to the script.
    Text(Bytes),
    /// Anything: a blob to the script.
    Raw(Bytes),
}

impl Body {
    /// The bytes as they came.
    pub fn bytes(&self) -> &[u8] {
        match self {
            Body::Empty => &[],
            Body::Json(bytes) | Body::Form(bytes) | Body::Text(bytes) | Body::Raw(bytes) => bytes,
        }
    }
}

/// What came in, kept as it came: the script's maps are made only if the script asks for them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// Upper case.
    pub method: String,
    /// Undecoded, without the query.
    pub path: String,
    /// Lower-case names, each once; visible ASCII values.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Body,
    /// Undecoded, without the `?`.
    pub query: String,
    /// Decoded path parameters in the pattern's order.
    pub params: Vec<(String, String)>,
    /// What `{*rest}` matched, decoded; else empty.
    pub rest: String,
}

impl Request {
    /// About how many bytes this holds.
    pub fn weight(&self) -> usize {
        let pairs =
            self.headers.iter().chain(&self.params).map(|(name, value)| name.len() + value.len() + 48);
        256 + self.path.len()
            + self.query.len()
            + self.rest.len()
            + self.body.bytes().len()
            + pairs.sum::<usize>()
    }
}
