//! `kv::…`: values that stay. What a run reads is one snapshot; what it writes is committed with its end, or not at all.

use std::sync::Arc;

use bytes::Bytes;
use rhai::{Dynamic, Map, NativeCallContext};

use super::super::watch::{Stop, Watch};
use super::super::{FaultKind, alloc};
use super::super::{convert, encode};
use super::options::Options;
use super::{Kit, Raised, offer, wrong};
use crate::model::{Invalid, KV_TTL_MAX, KV_VALUE_BYTES_MAX, KvKey, KvPrefix, UnixMs};
use crate::store::kv::{Found, LIST_MAX, Listed, Put, View, ViewError};

/// Keys that a list gives where it is not told.
const LIST_DEFAULT: i64 = 100;

/// The functions.
pub(super) fn kit(watch: &Arc<Watch>) -> Kit {
    let about = "Values that stay, by key, for each app its own: read as of one instant, and committed together with \
                 the end of the run, or not at all.";
    let mut kit = Kit::new("kv", about, watch);
    reading(&mut kit);
    writing(&mut kit);
    counting(&mut kit);
    listing(&mut kit);
    kit
}

fn reading(kit: &mut Kit) {
    let watch = kit.watch();
    offer!(
        kit,
        /// Gives the value of a key, or `()` if there is none.
        ///
        /// All reads of a run are as of one instant, and see what the run itself has set. If somebody changes what was
        /// read before the run ends, and it changes something itself, it is made again from the beginning.
        ///
        /// Limits: a key has 1 to 512 bytes and no control characters.
        ///
        /// ```rhai
        /// kv::set("user/7", #{ name: "Ada" }); kv::get("user/7").name // => "Ada"
        /// ```
        /// ```rhai
        /// kv::get("nobody") // => null
        /// ```
        "kv::get(key)",
        move |ctx: NativeCallContext, key: &str| -> Result<Dynamic, Raised> {
            let found = find(&watch, &ctx, "kv::get", key)?;
            found.map_or(Ok(Dynamic::UNIT), |found| value(&watch, &ctx, "kv::get", found))
        }
    );
    let watch = kit.watch();
    offer!(
        kit,
        /// Gives the value of a key, or `default` if there is none.
        ///
        /// Limits: those of `kv::get`.
        ///
        /// ```rhai
        /// kv::get_or("visits", 0) + 1 // => 1
        /// ```
        "kv::get_or(key, default)",
        move |ctx: NativeCallContext, key: &str, default: Dynamic| -> Result<Dynamic, Raised> {
            let found = find(&watch, &ctx, "kv::get_or", key)?;
            found.map_or(Ok(default), |found| value(&watch, &ctx, "kv::get_or", found))
        }
    );
    let watch = kit.watch();
    offer!(
        kit,
        /// Gives a value with all that is known of it, `#{ key, value, version, expires_at }`, or `()`. `version` is
        /// the number of the commit that wrote it, for `if_version`, and `()` if this run did. `expires_at` is in
        /// milliseconds of Unix time.
        ///
        /// Limits: those of `kv::get`.
        ///
        /// ```rhai
        /// kv::set("a", 1); let entry = kv::entry("a"); [entry.value, entry.version] // => [1, null]
        /// ```
        "kv::entry(key)",
        move |ctx: NativeCallContext, key: &str| -> Result<Dynamic, Raised> {
            let found = find(&watch, &ctx, "kv::entry", key)?;
            found.map_or(Ok(Dynamic::UNIT), |found| entry(&watch, &ctx, "kv::entry", key, found))
        }
    );
}

fn writing(kit: &mut Kit) {
    let watch = kit.watch();
    let set =
        move |ctx: NativeCallContext, key: &str, value: Dynamic, options: &Map| -> Result<bool, Raised> {
            let options = Options::of("kv::set", options, &["ttl", "if_version"])?;
            let ttl = options.seconds("ttl", KV_TTL_MAX)?;
            let if_version = options.int("if_version", (0, i64::MAX))?;
            let json = json(&watch, &ctx, "kv::set", &value)?;
            watch.with_view(&ctx, "kv::set", |view| {
                let key = parse_key(key)?;
                if let Some(version) = if_version
                    && !view.is_version(&key, u64::try_from(version).unwrap_or(0))?
                {
                    return Ok(false);
                }
                let expires_at = ttl.map(|ttl| view.now().plus(ttl));
                view.put(Put { key, value: Bytes::copy_from_slice(&json), expires_at })?;
                Ok(true)
            })
        };
    let plain = set.clone();
    offer!(
        kit,
        /// Sets the value of a key: anything with a JSON form. With `if_version` only if the value has that version,
        /// 0 for none; gives whether it was set. With `ttl` it is gone after so many seconds.
        ///
        /// Limits: 1 MiB of JSON a value; 1000 values and 4 MiB a run; and what the app may keep in all.
        ///
        /// ```rhai
        /// kv::set("job", "open", #{ ttl: 60 }); kv::get("job") // => "open"
        /// ```
        /// ```rhai
        /// [kv::set("lock", 1, #{ if_version: 0 }), kv::set("lock", 2, #{ if_version: 0 })] // => [true, false]
        /// ```
        /// ```rhai
        /// kv::set("a", 1, #{ tll: 60 }) // throws: there is no option "tll"
        /// ```
        "kv::set(key, value[, options])",
        move |ctx: NativeCallContext, key: &str, value: Dynamic, options: Map| set(ctx, key, value, &options)
    );
    kit.also("set", move |ctx: NativeCallContext, key: &str, value: Dynamic| {
        plain(ctx, key, value, &Map::new())
    });
    let watch = kit.watch();
    offer!(
        kit,
        /// Deletes a value; gives whether there was one.
        ///
        /// Limits: 1000 changed values a run, deleted ones included.
        ///
        /// ```rhai
        /// kv::set("a", 1); [kv::delete("a"), kv::delete("a")] // => [true, false]
        /// ```
        "kv::delete(key)",
        move |ctx: NativeCallContext, key: &str| -> Result<bool, Raised> {
            watch.with_view(&ctx, "kv::delete", |view| view.delete(&parse_key(key)?))
        }
    );
}

fn counting(kit: &mut Kit) {
    let watch = kit.watch();
    let incr = move |ctx: NativeCallContext, key: &str, by: i64| -> Result<i64, Raised> {
        watch.with_view(&ctx, "kv::incr", |view| increase(view, parse_key(key)?, by))
    };
    let one = incr.clone();
    offer!(
        kit,
        /// Adds to a whole number, 0 if there is none yet, and gives the sum. However many runs do so at once, none is
        /// lost.
        ///
        /// Limits: the sum fits into 64 bits; the value must be a whole number.
        ///
        /// ```rhai
        /// kv::incr("hits", 2); kv::incr("hits") // => 3
        /// ```
        /// ```rhai
        /// kv::set("name", "Ada"); kv::incr("name", 1) // throws: "name" is no whole number
        /// ```
        "kv::incr(key[, by])",
        incr
    );
    kit.also("incr", move |ctx: NativeCallContext, key: &str| one(ctx, key, 1));
}

fn increase(view: &mut View, key: KvKey, by: i64) -> Result<i64, ViewError> {
    let found = view.get(&key)?;
    let before = match &found {
        None => 0,
        Some(found) => serde_json::from_slice::<i64>(&found.value)
            .map_err(|_| ViewError::Limit(format!("the value of \"{key}\" is no whole number")))?,
    };
    let sum = before.checked_add(by).ok_or_else(|| {
        ViewError::Limit(format!("\"{key}\" is {before}; {by} more does not fit into 64 bits"))
    })?;
    let expires_at = found.and_then(|found| found.expires_at);
    view.put(Put { key, value: sum.to_string().into(), expires_at })?;
    Ok(sum)
}

fn listing(kit: &mut Kit) {
    let watch = kit.watch();
    let list = move |ctx: NativeCallContext, prefix: &str, options: &Map| -> Result<Map, Raised> {
        let options = Options::of("kv::list", options, &["limit", "cursor"])?;
        let most = i64::try_from(LIST_MAX).unwrap_or(i64::MAX);
        let limit = options.int("limit", (1, most))?.unwrap_or(LIST_DEFAULT);
        let cursor = options.short_text("cursor", crate::model::KV_KEY_BYTES_MAX)?;
        let listed = watch.with_view(&ctx, "kv::list", |view| {
            let prefix: KvPrefix = prefix.parse().map_err(|why| invalid("prefix", prefix, &why))?;
            let after = cursor.as_deref().map(parse_key).transpose()?;
            view.list(&prefix, after.as_ref(), usize::try_from(limit).unwrap_or(0))
        })?;
        let given = given(&watch, &ctx, &listed);
        alloc::outside(|| drop(listed));
        given
    };
    let plain = list.clone();
    offer!(
        kit,
        /// Gives the values whose keys begin with `prefix`, in the order of their keys: `#{ items, cursor }`, each item
        /// as `kv::entry` gives it. `cursor` is `()` at the end; else pass it back for what follows.
        ///
        /// Keys that begin alike are a collection: `user/7`, `user/8` ...
        ///
        /// Limits: 1 to 1000 items, 100 where `limit` does not say; all of them must fit into the memory of the run.
        ///
        /// ```rhai
        /// for n in 1..4 { kv::set(`user/${n}`, n * n); } kv::list("user/", #{ limit: 2 }).items.map(|i| i.value) // => [1, 4]
        /// ```
        /// ```rhai
        /// for n in 1..4 { kv::set(`user/${n}`, n); }
        /// let first = kv::list("user/", #{ limit: 2 });
        /// kv::list("user/", #{ cursor: first.cursor }).items.map(|i| i.key) // => ["user/3"]
        /// ```
        "kv::list(prefix[, options])",
        move |ctx: NativeCallContext, prefix: &str, options: Map| list(ctx, prefix, &options)
    );
    kit.also("list", move |ctx: NativeCallContext, prefix: &str| plain(ctx, prefix, &Map::new()));
}

/// A list as a script sees it.
fn given(watch: &Watch, ctx: &NativeCallContext, listed: &Listed) -> Result<Map, Raised> {
    let mut items = rhai::Array::with_capacity(listed.items.len().min(64));
    for (key, found) in &listed.items {
        watch.check(ctx)?;
        items.push(described(watch, ctx, "kv::list", key.as_str(), found)?);
    }
    let cursor = listed.next.as_ref().map_or(Dynamic::UNIT, |key| key.as_str().into());
    Ok(Map::from([("items".into(), items.into()), ("cursor".into(), cursor)]))
}

fn parse_key(key: &str) -> Result<KvKey, ViewError> {
    key.parse().map_err(|why| invalid("key", key, &why))
}

fn invalid(what: &str, text: &str, why: &Invalid) -> ViewError {
    let shown = super::super::logs::cut(text, 64);
    ViewError::Limit(format!("the {what} {shown:?} {why}"))
}

fn find(watch: &Watch, ctx: &NativeCallContext, function: &str, key: &str) -> Result<Option<Found>, Raised> {
    watch.with_view(ctx, function, |view| view.get(&parse_key(key)?))
}

/// What was found, as the script's own value.
fn value(watch: &Watch, ctx: &NativeCallContext, function: &str, found: Found) -> Result<Dynamic, Raised> {
    let read = parsed(watch, ctx, function, &found);
    alloc::outside(|| drop(found));
    read
}

fn entry(
    watch: &Watch,
    ctx: &NativeCallContext,
    function: &str,
    key: &str,
    found: Found,
) -> Result<Dynamic, Raised> {
    let read = described(watch, ctx, function, key, &found);
    alloc::outside(|| drop(found));
    read
}

fn described(
    watch: &Watch,
    ctx: &NativeCallContext,
    function: &str,
    key: &str,
    found: &Found,
) -> Result<Dynamic, Raised> {
    let version =
        found.version.map_or(Dynamic::UNIT, |version| i64::try_from(version).unwrap_or(i64::MAX).into());
    let expires_at = found.expires_at.map_or(Dynamic::UNIT, |UnixMs(at)| at.into());
    Ok(Map::from([
        ("key".into(), key.into()),
        ("value".into(), parsed(watch, ctx, function, found)?),
        ("version".into(), version),
        ("expires_at".into(), expires_at),
    ])
    .into())
}

fn parsed(watch: &Watch, ctx: &NativeCallContext, function: &str, found: &Found) -> Result<Dynamic, Raised> {
    convert::from_json(&found.value).map_err(|why| match why {
        convert::ConvertError::Memory => watch.stop(ctx, Stop::Fault(FaultKind::Memory)),
        convert::ConvertError::Json(why) => wrong(function, why),
    })
}

/// A script's value as it is kept.
pub(super) fn json(
    watch: &Watch,
    ctx: &NativeCallContext,
    function: &str,
    value: &Dynamic,
) -> Result<Vec<u8>, Raised> {
    encode::to_json(value, KV_VALUE_BYTES_MAX).map_err(|why| match why {
        encode::EncodeError::Memory => watch.stop(ctx, Stop::Fault(FaultKind::Memory)),
        encode::EncodeError::Depth | encode::EncodeError::Size(_) | encode::EncodeError::Kind(_) => {
            wrong(function, format!("the value {why}"))
        }
    })
}
