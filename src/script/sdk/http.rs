//! `http::…`: requests to others, made by the messenger.

use std::sync::Arc;
use std::time::{Duration, Instant};

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use rhai::{Array, Blob, Dynamic, EvalAltResult, ImmutableString, Map, NativeCallContext};

use super::super::convert::{self, ConvertError};
use super::super::egress::{Answer, Errand, Error, REDIRECTS_MAX};
use super::super::watch::{Stop, Watch};
use super::super::{alloc, encode};
use super::given::shown;
use super::options::Options;
use super::{Kit, Raised, offer, wrong};
use crate::model::{BODY_BYTES_MAX, Chain};

/// What the options of a call may say.
const OPTIONS: &[&str] = &["headers", "query", "body", "timeout", "redirects", "max_bytes", "json"];
/// Longest `timeout`: as long as a run may take.
const TIMEOUT_MAX: Duration = Duration::from_secs(300);
/// A call may outlast its run by this on paper, so that the end of the run's time is what ends it.
const BEYOND: Duration = Duration::from_secs(1);
/// Everything but the unreserved characters of RFC 3986 2.3.
const COMPONENT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// The namespace.
pub(super) fn kit(watch: &Arc<Watch>) -> Kit {
    let about = "Requests to other servers, within what `picloud app update` lets this app's scripts call. A call is \
                 made when it is made: a run that fails afterwards, or that is made again because another one \
                 changed a value that it had read, does not take it back and may make it again. Call from work \
                 that was queued, or read values that others change only after the call.";
    let mut kit = Kit::new("http", about, watch);
    without_body(&mut kit);
    with_body(&mut kit);
    any(&mut kit);
    kit
}

fn without_body(kit: &mut Kit) {
    let get = caller(kit, "http::get", "GET");
    let get_with = get.clone();
    offer!(
        kit,
        /// Gets a URL. Gives `#{ status, ok, headers, body, json }`, whatever the status: `ok` is true from 200 to
        /// 299, names of headers are in lower case, `body` is a string if it is text and else a blob, and `json` is its
        /// value if its content type is JSON. A header that came several times is one string with commas, `set-cookie`
        /// an array. A server that cannot be reached is an error that `try` catches.
        ///
        /// A second argument may say more: `#{ headers: #{}, query: #{}, body, timeout: 10, redirects: 5, max_bytes,
        /// json: true }`. The query is encoded and appended. Redirects are followed, each under the same rules.
        ///
        /// Limits: only http and https; only public addresses, unless `picloud app update --egress-network` names the
        /// network; if `--egress-allow` names hosts, only these. The body may have 1 MiB (`egress.answer_bytes_max`)
        /// and must fit into a string or a blob of this script; it is never unpacked. All of it takes at most
        /// `timeout` seconds, and never longer than the run may.
        ///
        /// ```rhai
        /// let res = http::get("https://api.example.org/users", #{ query: #{ name: "Ada L." } });
        /// if !res.ok { throw `users: ${res.status}`; }
        /// res.json.path // => "/users?name=Ada%20L."
        /// ```
        /// ```rhai
        /// try { http::get("http://169.254.169.254/"); } catch (why) { throw "refused: " + why; } // throws: is a link-local address
        /// ```
        "http::get(url[, options])",
        move |ctx: NativeCallContext, url: ImmutableString| get(&ctx, &url, None, &Map::new())
    );
    kit.also("get", move |ctx: NativeCallContext, url: ImmutableString, options: Map| {
        get_with(&ctx, &url, None, &options)
    });
    let delete = caller(kit, "http::delete", "DELETE");
    let delete_with = delete.clone();
    offer!(
        kit,
        /// Asks a server to delete what a URL names. Takes the options of `http::get`, and gives the same.
        ///
        /// Limits: those of `http::get`.
        ///
        /// ```rhai
        /// http::delete("https://api.example.org/users/7").json.method // => "DELETE"
        /// ```
        "http::delete(url[, options])",
        move |ctx: NativeCallContext, url: ImmutableString| delete(&ctx, &url, None, &Map::new())
    );
    kit.also("delete", move |ctx: NativeCallContext, url: ImmutableString, options: Map| {
        delete_with(&ctx, &url, None, &options)
    });
}

/// Registers `$name(url, body)` and the same with options.
macro_rules! offer_with_body {
    ($kit:expr, $name:literal, $method:literal, $(#[doc = $line:literal])+ $signature:literal) => {
        let send = caller($kit, concat!("http::", $name), $method);
        let send_with = send.clone();
        offer!(
            $kit,
            $(#[doc = $line])+
            $signature,
            move |ctx: NativeCallContext, url: ImmutableString, body: Dynamic| {
                send(&ctx, &url, Some(&body), &Map::new())
            }
        );
        $kit.also($name, move |ctx: NativeCallContext, url: ImmutableString, body: Dynamic, options: Map| {
            send_with(&ctx, &url, Some(&body), &options)
        });
    };
}

fn with_body(kit: &mut Kit) {
    offer_with_body!(
        kit,
        "post",
        "POST",
        /// Sends a body to a URL. A map, an array, a number or a truth value is sent as JSON, a string as text, a blob
        /// as bytes, `()` as nothing; a header `content-type` says otherwise. A third argument takes the options of
        /// `http::get`, and it gives the same.
        ///
        /// Limits: those of `http::get`; 10 MiB of body.
        ///
        /// ```rhai
        /// let res = http::post("https://api.example.org/users", #{ name: "Ada" }, #{ timeout: 2.5 });
        /// [res.status, res.json.type, res.json.body] // => [200, "application/json", "{\"name\":\"Ada\"}"]
        /// ```
        "http::post(url, body[, options])"
    );
    offer_with_body!(
        kit,
        "put",
        "PUT",
        /// Puts a body to a URL, as `http::post` sends it.
        ///
        /// Limits: those of `http::post`.
        ///
        /// ```rhai
        /// http::put("https://api.example.org/notes/7", "buy milk").json.type // => "text/plain;charset=UTF-8"
        /// ```
        "http::put(url, body[, options])"
    );
    offer_with_body!(
        kit,
        "patch",
        "PATCH",
        /// Changes what a URL names, as `http::post` sends it.
        ///
        /// Limits: those of `http::post`.
        ///
        /// ```rhai
        /// http::patch("https://api.example.org/users/7", #{ age: 36 }).json.body // => "{\"age\":36}"
        /// ```
        "http::patch(url, body[, options])"
    );
}

fn any(kit: &mut Kit) {
    let watch = kit.watch();
    let send = move |ctx: &NativeCallContext, method: &str, url: &str, options: &Map| {
        Call { watch: &watch, ctx, name: "http::request" }.make(method, url, None, options)
    };
    let send_with = send.clone();
    offer!(
        kit,
        /// Makes a request of any method. Takes the options of `http::get`, `body` among them, and gives the same.
        ///
        /// Limits: those of `http::post`; neither CONNECT nor TRACE. Headers that belong to the connection, like
        /// `host` and `content-length`, cannot be set; 64 headers of 32 KiB in all.
        ///
        /// ```rhai
        /// http::request("OPTIONS", "https://api.example.org/").status // => 200
        /// ```
        /// ```rhai
        /// http::request("GET", "https://api.example.org/", #{ headers: #{ host: "b.org" } }) // throws: header "host" cannot be set
        /// ```
        "http::request(method, url[, options])",
        move |ctx: NativeCallContext, method: ImmutableString, url: ImmutableString| {
            send(&ctx, &method, &url, &Map::new())
        }
    );
    kit.also(
        "request",
        move |ctx: NativeCallContext, method: ImmutableString, url: ImmutableString, options: Map| {
            send_with(&ctx, &method, &url, &options)
        },
    );
}

/// A function that makes requests of one method.
fn caller(
    kit: &Kit,
    name: &'static str,
    method: &'static str,
) -> impl Fn(&NativeCallContext<'_>, &str, Option<&Dynamic>, &Map) -> Result<Dynamic, Raised>
+ Clone
+ Send
+ Sync
+ 'static {
    let watch = kit.watch();
    move |ctx, url, body, options| Call { watch: &watch, ctx, name }.make(method, url, body, options)
}

/// One call of a script.
struct Call<'a> {
    watch: &'a Watch,
    ctx: &'a NativeCallContext<'a>,
    name: &'static str,
}

/// What the options ask for, but for what is sent.
struct Wishes {
    deadline: Instant,
    redirects: Option<i64>,
    bytes_max: usize,
    json: bool,
}

impl Call<'_> {
    fn make(
        &self,
        method: &str,
        url: &str,
        body: Option<&Dynamic>,
        options: &Map,
    ) -> Result<Dynamic, Raised> {
        let (Some(messenger), Some(row)) = (self.watch.messenger(), self.watch.row()) else {
            return Err(wrong(self.name, "there is no network here"));
        };
        let wishes = self.wishes(options, messenger.answer_bytes_max())?;
        // What another thread holds and frees is not booked to this one; its limits bound it.
        let sent = alloc::outside(|| {
            let body = body.or_else(|| options.get("body"));
            let errand = errand(row.chain(), method, url, body, options, &wishes)?;
            self.watch.aside(|| messenger.send(row.app_id, errand, || self.watch.is_over()))
        });
        let made = match &sent {
            Ok(answer) => self.value(answer, wishes.json),
            Err(Error::Over) => self.watch.check(self.ctx).and_then(|()| Err(wrong(self.name, Error::Over))),
            Err(error) => Err(wrong(self.name, error)),
        };
        alloc::outside(|| drop(sent));
        made
    }

    fn wishes(&self, options: &Map, bytes_default: usize) -> Result<Wishes, Raised> {
        let options = Options::of(self.name, options, OPTIONS)?;
        let end = self.watch.deadline() + BEYOND;
        let timeout = options.seconds("timeout", TIMEOUT_MAX)?;
        let bytes = options.int("max_bytes", (1, i64::MAX))?;
        let bytes = bytes.map_or(bytes_default, |wish| usize::try_from(wish).unwrap_or(usize::MAX));
        let (string, blob) = self.room();
        Ok(Wishes {
            deadline: timeout.map_or(end, |timeout| end.min(Instant::now() + timeout)),
            redirects: options.int("redirects", (0, REDIRECTS_MAX))?,
            bytes_max: bytes.min(string.max(blob)),
            json: options.flag("json")?.unwrap_or(true),
        })
    }

    /// The longest string and the longest blob of this run, in bytes.
    fn room(&self) -> (usize, usize) {
        let engine = self.ctx.engine();
        (engine.max_string_size(), engine.max_array_size())
    }

    fn value(&self, answer: &Answer, wants_json: bool) -> Result<Dynamic, Raised> {
        let content_type = answer.header("content-type").unwrap_or_default().to_ascii_lowercase();
        let essence = content_type.split(';').next().unwrap_or_default().trim();
        let is_packed = answer.header("content-encoding").is_some_and(|coding| coding != "identity");
        let as_text =
            if is_packed || !is_text(essence) { None } else { std::str::from_utf8(&answer.body).ok() };
        let mut json = Dynamic::UNIT;
        if wants_json && as_text.is_some() && is_json(essence) {
            json = match convert::from_json(&answer.body) {
                Ok(value) => value,
                // It says that it is JSON and is not; the script has the text.
                Err(ConvertError::Json(_)) => Dynamic::UNIT,
                Err(why @ ConvertError::Memory) => return Err(self.full(&why)),
            };
        }
        let mut map = Map::new();
        map.insert("status".into(), i64::from(answer.status).into());
        map.insert("ok".into(), (200..300).contains(&answer.status).into());
        map.insert("headers".into(), headers(answer).into());
        map.insert("body".into(), self.body(&answer.body, as_text)?);
        if wants_json {
            map.insert("json".into(), json);
        }
        self.fits(map.into())
    }

    /// What is larger than a script's values may be would end the run; said here, the script can catch it.
    fn fits(&self, answer: Dynamic) -> Result<Dynamic, Raised> {
        let Err(why) = self.ctx.engine().ensure_data_size_within_limits(&answer) else { return Ok(answer) };
        let why = match why.unwrap_inner() {
            EvalAltResult::ErrorDataTooLarge(what, _) => what.to_lowercase(),
            other => other.to_string(),
        };
        let advice = "leave its JSON out with the option json: false, or raise the script's max_array_items, \
                      max_map_entries and max_string_bytes";
        Err(wrong(
            self.name,
            format!("the answer is larger than values of this script may be ({why}): {advice}"),
        ))
    }

    fn body(&self, bytes: &[u8], as_text: Option<&str>) -> Result<Dynamic, Raised> {
        let (string, blob) = self.room();
        let (what, most, limit) = match as_text {
            Some(_) => ("string", string, "max_string_bytes"),
            None => ("blob", blob, "max_array_items"),
        };
        if bytes.len() > most {
            let why = format!(
                "the body has {} bytes, and a {what} of this script at most {most}: raise the script's {limit}",
                bytes.len()
            );
            return Err(wrong(self.name, why));
        }
        if bytes.len() > alloc::room() {
            return Err(self.full(&ConvertError::Memory));
        }
        Ok(as_text.map_or_else(|| Dynamic::from_blob(Blob::from(bytes)), |text| text.to_owned().into()))
    }

    fn full(&self, why: &ConvertError) -> Raised {
        self.watch.stop(self.ctx, Stop::Full(format!("the answer of {}: {why}", self.name)))
    }
}

/// The request, checked.
fn errand(
    chain: Chain,
    method: &str,
    url: &str,
    body: Option<&Dynamic>,
    options: &Map,
    wishes: &Wishes,
) -> Result<Errand, Error> {
    let url = with_query(url, options)?;
    let mut errand = Errand::new(method, &url, chain, wishes.bytes_max, wishes.deadline)?;
    if let Some(wish) = wishes.redirects {
        errand.redirects(wish)?;
    }
    for (name, value) in &map(options, "headers")? {
        errand.header(name, &text(&format!("header {}", shown(name)), value)?)?;
    }
    if let Some(value) = body.filter(|value| !value.is_unit()) {
        let (bytes, content_type) = sent(value)?;
        errand.body(bytes, content_type)?;
    }
    Ok(errand)
}

/// The URL with the option `query` appended.
fn with_query(url: &str, options: &Map) -> Result<String, Error> {
    let query = map(options, "query")?;
    let mut url = url.split('#').next().unwrap_or_default().to_owned();
    for (name, value) in &query {
        let value = text(&format!("query {}", shown(name)), value)?;
        url.push(if url.contains('?') { '&' } else { '?' });
        url.extend(utf8_percent_encode(name, COMPONENT));
        url.push('=');
        url.extend(utf8_percent_encode(&value, COMPONENT));
    }
    Ok(url)
}

/// A body on the wire, and what it is.
fn sent(value: &Dynamic) -> Result<(Vec<u8>, &'static str), Error> {
    if let Ok(text) = value.as_immutable_string_ref() {
        return Ok((text.as_bytes().to_vec(), "text/plain;charset=UTF-8"));
    }
    if let Ok(blob) = value.as_blob_ref() {
        return Ok((blob.clone(), "application/octet-stream"));
    }
    let json =
        encode::to_json(value, BODY_BYTES_MAX).map_err(|why| Error::Invalid(format!("the body {why}")))?;
    Ok((json, "application/json"))
}

/// A copy of an option that is a map; an empty one if it is not there.
fn map(options: &Map, name: &str) -> Result<Map, Error> {
    let Some(value) = options.get(name).filter(|value| !value.is_unit()) else { return Ok(Map::new()) };
    let map = value.as_map_ref().map(|map| map.clone());
    map.map_err(|kind| Error::Invalid(format!("{name} must be a map, not {kind}")))
}

/// A value that has one obvious text.
fn text(what: &str, value: &Dynamic) -> Result<String, Error> {
    if value.is_string() || value.is_int() || value.is_bool() || value.is_float() || value.is_char() {
        return Ok(value.to_string());
    }
    Err(Error::Invalid(format!(
        "{what} must be a string, a number or a truth value, not {}",
        value.type_name()
    )))
}

fn headers(answer: &Answer) -> Map {
    let mut map = Map::new();
    for (name, value) in &answer.headers {
        if name == "set-cookie" {
            let all = map.entry(name.as_str().into()).or_insert_with(|| Array::new().into());
            if let Ok(mut all) = all.as_array_mut() {
                all.push(value.as_str().into());
            }
            continue;
        }
        let before = map.get(name.as_str()).map(Dynamic::to_string);
        let value = before.map_or_else(|| value.clone(), |before| format!("{before}, {value}"));
        map.insert(name.as_str().into(), value.into());
    }
    map
}

fn is_json(essence: &str) -> bool {
    essence == "application/json" || essence == "text/json" || essence.ends_with("+json")
}

fn is_text(essence: &str) -> bool {
    let known = [
        "",
        "application/javascript",
        "application/x-www-form-urlencoded",
        "application/xml",
        "application/x-ndjson",
    ];
    is_json(essence) || essence.starts_with("text/") || essence.ends_with("+xml") || known.contains(&essence)
}
