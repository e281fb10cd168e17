//! Functions without a namespace: what a run answers, how it ends, and how it waits.

use std::sync::Arc;
use std::time::Duration;

use rhai::{Dynamic, ImmutableString, Map, NativeCallContext};

use super::super::text;
use super::super::watch::{Stop, Watch};
use super::{Kit, Raised, offer, template, wrong};

/// Longest wait that `retry_after` takes, in seconds: a day.
const RETRY_AFTER_SECONDS_MAX: i64 = 86_400;

/// Longest text of a message, in bytes; the log cuts further.
const MESSAGE_BYTES_MAX: usize = 4096;

/// Longest URL of a redirect, in bytes; browsers and proxies take no longer ones.
const URL_BYTES_MAX: usize = 8192;

/// The functions.
pub(super) fn kit(watch: &Arc<Watch>) -> Kit {
    let mut kit =
        Kit::new("", "What a run answers, how it ends, and how it waits; called by their bare names.", watch);
    answers(&mut kit);
    ends(&mut kit);
    waits(&mut kit);
    kit
}

fn ends(kit: &mut Kit) {
    let watch = kit.watch();
    offer!(
        kit,
        /// Ends the run as failed for good: it is not tried again, and no `try` catches it. Use `throw` for what
        /// another attempt may mend.
        ///
        /// Limits: 4 KiB of message are kept.
        ///
        /// ```rhai
        /// fail("there is no order 7") // throws: there is no order 7
        /// ```
        "fail(message)",
        move |ctx: NativeCallContext, why: Dynamic| -> Result<(), Raised> {
            Err(watch.stop(&ctx, Stop::Failed(text::display_cut(&why, MESSAGE_BYTES_MAX))))
        }
    );
    let watch = kit.watch();
    offer!(
        kit,
        /// Says when the run is to be tried again, should it fail: so many seconds later. Only work in the background
        /// is tried again.
        ///
        /// Limits: 0 to 86400 seconds, a day.
        ///
        /// ```rhai
        /// retry_after(30); throw "the printer is busy" // throws: the printer is busy
        /// ```
        /// ```rhai
        /// retry_after(100_000) // throws: retry_after: takes 0 to 86400 seconds, not 100000
        /// ```
        "retry_after(seconds)",
        move |seconds: i64| -> Result<(), Raised> {
            let wish = u64::try_from(seconds).ok().filter(|_| seconds <= RETRY_AFTER_SECONDS_MAX);
            let wish = wish.ok_or_else(|| {
                let why = format!("takes 0 to {RETRY_AFTER_SECONDS_MAX} seconds, not {seconds}");
                wrong("retry_after", why)
            })?;
            watch.set_retry_after(Duration::from_secs(wish));
            Ok(())
        }
    );
}

fn waits(kit: &mut Kit) {
    let watch = kit.watch();
    offer!(
        kit,
        /// Waits so many seconds, also parts of one. The time counts against the run; other runs go on meanwhile.
        ///
        /// Limits: the time limit of the run, at which it ends.
        ///
        /// ```rhai
        /// sleep(0.01) // => null
        /// ```
        "sleep(seconds)",
        move |ctx: NativeCallContext, seconds: i64| -> Result<(), Raised> {
            watch.sleep(&ctx, Duration::from_secs(u64::try_from(seconds).unwrap_or(0)))
        }
    );
    let watch = kit.watch();
    kit.also("sleep", move |ctx: NativeCallContext, seconds: f64| -> Result<(), Raised> {
        // Negative, or no number: no sleep. Too large: until the deadline.
        let longest = if seconds > 0.0 { Duration::MAX } else { Duration::ZERO };
        watch.sleep(&ctx, Duration::try_from_secs_f64(seconds).unwrap_or(longest))
    });
}

fn answers(kit: &mut Kit) {
    offer!(
        kit,
        /// The response with this status and this body, and with headers if they are given, as the map
        /// `#{ status_code, headers, body }` that may also be made by hand. A run answers with it by having it as its
        /// value. The body is sent as JSON, but if `content-type` is something else and it is a text or a blob, as it
        /// is.
        ///
        /// Limits: statuses 100 to 999; a header that HTTP does not allow is left out.
        ///
        /// ```rhai
        /// respond(201, #{ id: 7 }) // answers: 201 {"id":7}
        /// ```
        /// ```rhai
        /// respond(200, "a,b", #{ "content-type": "text/csv" }) // answers: 200 a,b
        /// ```
        /// ```rhai
        /// respond(99, ()) // throws: respond: takes a status from 100 to 999, not 99
        /// ```
        "respond(status, body[, headers])",
        |status: i64, body: Dynamic| respond(status, body, Map::new())
    );
    kit.also("respond", respond);
    offer!(
        kit,
        /// The response that sends the client elsewhere, with 302 or the status given.
        ///
        /// Limits: statuses 301, 302, 303, 307 and 308; 1 to 8192 visible ASCII letters of URL, so that it can end no
        /// header. Write `enc::url` around its parts.
        ///
        /// ```rhai
        /// redirect("/search?q=" + enc::url("a b")).headers // => {"location":"/search?q=a%20b"}
        /// ```
        /// ```rhai
        /// redirect("https://example.org/", 301) // answers: 301 null
        /// ```
        /// ```rhai
        /// redirect("/a\r\nset-cookie: b") // throws: redirect: the URL has a letter that is not visible ASCII
        /// ```
        "redirect(url[, status])",
        |url: &str| redirect(url, 302)
    );
    kit.also("redirect", redirect);
    pages(kit);
}

fn pages(kit: &mut Kit) {
    let watch = kit.watch();
    offer!(
        kit,
        /// The response that shows a page: the text as it is, or a template filled in with `data`, as
        /// `template::render` does. What strangers wrote belongs into `data`, where it is escaped.
        ///
        /// Limits: those of texts, and of `template::render`.
        ///
        /// ```rhai
        /// html("<h1>Hello</h1>") // answers: 200 <h1>Hello</h1>
        /// ```
        /// ```rhai
        /// let page = html("<h1>{{title}}</h1>", #{ title: "A & B" });
        /// page.status_code = 404;
        /// page // answers: 404 <h1>A &amp; B</h1>
        /// ```
        "html(text[, data])",
        |text: ImmutableString| page(text)
    );
    kit.also("html", move |ctx: NativeCallContext, text: &str, data: Dynamic| -> Result<Map, Raised> {
        Ok(page(template::render(&ctx, &watch, text, &data)?.into()))
    });
}

fn respond(status: i64, body: Dynamic, headers: Map) -> Result<Map, Raised> {
    if !(100..=999).contains(&status) {
        return Err(wrong("respond", format!("takes a status from 100 to 999, not {status}")));
    }
    Ok(response(status, headers, body))
}

fn redirect(url: &str, status: i64) -> Result<Map, Raised> {
    const NAME: &str = "redirect";
    if ![301, 302, 303, 307, 308].contains(&status) {
        return Err(wrong(NAME, format!("takes the status 301, 302, 303, 307 or 308, not {status}")));
    }
    if url.is_empty() || url.len() > URL_BYTES_MAX {
        let why = format!("takes a URL of 1 to {URL_BYTES_MAX} bytes, not {}", url.len());
        return Err(wrong(NAME, why));
    }
    if !url.bytes().all(|letter| letter.is_ascii_graphic()) {
        return Err(wrong(
            NAME,
            "the URL has a letter that is not visible ASCII; write enc::url around its parts",
        ));
    }
    Ok(response(status, [("location".into(), url.into())].into_iter().collect(), Dynamic::UNIT))
}

fn page(text: ImmutableString) -> Map {
    let headers = [("content-type".into(), "text/html; charset=utf-8".into())];
    response(200, headers.into_iter().collect(), text.into())
}

/// The map that the contract has for responses.
fn response(status: i64, headers: Map, body: Dynamic) -> Map {
    let headers = Dynamic::from_map(headers);
    [("status_code".into(), status.into()), ("headers".into(), headers), ("body".into(), body)]
        .into_iter()
        .collect()
}
