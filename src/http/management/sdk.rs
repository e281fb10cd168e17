//! `GET /api/v1/sdk`: what scripts can call, as JSON or as a Markdown page.

use hyper::header::{HeaderValue, VARY};
use hyper::{Method, StatusCode};

use super::input::{Call, List};
use super::{Outcome, blocking, not_allowed};
use crate::http::reply;
use crate::script;

/// The reference, in the first of the two forms that the caller names in `Accept`; JSON if it names none.
pub(super) async fn reference(call: &Call) -> Outcome {
    if call.method != Method::GET {
        return not_allowed("GET");
    }
    let as_page = prefers_markdown(&call.accept);
    let mut reply = blocking(move || {
        let items = script::reference();
        if as_page {
            reply::text("text/markdown; charset=utf-8", script::markdown(&items))
        } else {
            reply::json(StatusCode::OK, &List { items, next_cursor: None })
        }
    })
    .await?;
    reply.headers_mut().insert(VARY, HeaderValue::from_static("accept"));
    Ok(reply)
}

fn prefers_markdown(accept: &str) -> bool {
    let kinds = accept.split(',').map(|range| range.split(';').next().unwrap_or(range).trim());
    let mut known = kinds.filter(|kind| ["application/json", "text/markdown"].contains(kind));
    known.next() == Some("text/markdown")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_of_both_forms_is_taken() {
        for (accept, page) in [
            ("", false),
            ("*/*", false),
            ("text/html, */*", false),
            ("text/markdown", true),
            ("text/html, text/markdown;q=0.9", true),
            ("application/json, text/markdown", false),
            ("text/markdown; charset=utf-8,application/json", true),
        ] {
            assert_eq!(prefers_markdown(accept), page, "{accept}");
        }
    }
}
