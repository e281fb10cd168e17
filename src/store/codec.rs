//! Rows as bytes: a version byte, then postcard.
//!
//! Decoding is total: whatever the bytes, the answer is a value or an error. Written bytes never change their
//! meaning: a new shape gets a new version byte, and the old one stays readable.

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{Error, kv, old};
use crate::model::{
    App, DeadLetter, Domain, ExecutionRecord, Key, Route, Row, Script, Secret, Session, Tick, Trigger, User,
    Version,
};

/// A type that is stored.
pub(crate) trait Stored: Serialize + DeserializeOwned {
    /// The version byte of what is written today.
    const VERSION: u8;
    /// The noun, for errors.
    const WHAT: &'static str;

    /// Reads what an earlier release wrote under `version`; `None` if none did.
    fn decode_old(_version: u8, _body: &[u8]) -> Option<postcard::Result<(Self, &[u8])>> {
        None
    }
}

macro_rules! stored {
    ($($type:ty = $version:literal $what:literal),* $(,)?) => {
        $(impl Stored for $type {
            const VERSION: u8 = $version;
            const WHAT: &'static str = $what;
        })*
    };
}
stored!(
    kv::Entry = 1 "kv value",
    kv::Usage = 1 "kv usage",
    Script = 1 "script",
    Version = 1 "script version",
    Route = 1 "route",
    Key = 1 "key",
    Trigger = 1 "trigger",
    Secret = 1 "secret",
    Tick = 1 "tick",
    User = 1 "user",
    Session = 1 "session",
    ExecutionRecord<'static> = 1 "execution record",
);

impl Stored for App {
    const VERSION: u8 = 2;
    const WHAT: &'static str = "app";

    fn decode_old(version: u8, body: &[u8]) -> Option<postcard::Result<(App, &[u8])>> {
        (version == 1).then(|| take_old::<old::AppV1, App>(body))
    }
}

impl Stored for Domain {
    const VERSION: u8 = 2;
    const WHAT: &'static str = "domain";

    fn decode_old(version: u8, body: &[u8]) -> Option<postcard::Result<(Domain, &[u8])>> {
        (version == 1).then(|| take_old::<old::DomainV1, Domain>(body))
    }
}

impl Stored for Row {
    const VERSION: u8 = 4;
    const WHAT: &'static str = "outbox row";

    fn decode_old(version: u8, body: &[u8]) -> Option<postcard::Result<(Row, &[u8])>> {
        match version {
            1 => Some(take_old::<old::RowV1, Row>(body)),
            2 => Some(take_old::<old::RowV2, Row>(body)),
            3 => Some(take_old::<old::RowV3, Row>(body)),
            _ => None,
        }
    }
}

impl Stored for DeadLetter {
    const VERSION: u8 = 4;
    const WHAT: &'static str = "dead letter";

    fn decode_old(version: u8, body: &[u8]) -> Option<postcard::Result<(DeadLetter, &[u8])>> {
        match version {
            1 => Some(take_old::<old::DeadLetterOf<old::RowV1>, DeadLetter>(body)),
            2 => Some(take_old::<old::DeadLetterOf<old::RowV2>, DeadLetter>(body)),
            3 => Some(take_old::<old::DeadLetterOf<old::RowV3>, DeadLetter>(body)),
            _ => None,
        }
    }
}

/// Reads a shape of an earlier release.
fn take_old<Old: DeserializeOwned, New: From<Old>>(body: &[u8]) -> postcard::Result<(New, &[u8])> {
    postcard::take_from_bytes::<Old>(body).map(|(old, rest)| (old.into(), rest))
}

/// Writes `value` as it is stored today.
pub(crate) fn encode<T: Stored>(value: &T) -> Vec<u8> {
    let start = vec![T::VERSION];
    postcard::to_extend(value, start)
        .expect("writing to memory does not fail, and no stored type refuses to be written")
}

/// Writes a record that still borrows what it tells of: the bytes are those of an owned one.
pub(crate) fn encode_borrowed(record: &ExecutionRecord<'_>) -> Vec<u8> {
    let start = vec![<ExecutionRecord<'static>>::VERSION];
    postcard::to_extend(record, start)
        .expect("writing to memory does not fail, and no record refuses to be written")
}

/// Reads what [`encode`] wrote, or says why it cannot be that.
pub(crate) fn decode<T: Stored>(bytes: &[u8]) -> Result<T, Error> {
    let damaged = |why: String| Error::Damaged { what: T::WHAT, why };
    let (version, body) = bytes.split_first().ok_or_else(|| damaged("it is empty".into()))?;
    let taken = if *version == T::VERSION {
        postcard::take_from_bytes::<T>(body)
    } else {
        T::decode_old(*version, body).ok_or_else(|| damaged(format!("unknown version {version}")))?
    };
    let (value, rest) = taken.map_err(|error| damaged(error.to_string()))?;
    if rest.is_empty() { Ok(value) } else { Err(damaged(format!("{} bytes too many", rest.len()))) }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;
    use uuid::Uuid;

    use super::*;
    use crate::model::{
        AppLimits, Attempt, Body, Egress, Ended, InboxId, Kind, Principal, Request, TlsSource, UnixMs,
    };

    prop_compose! {
        fn request()(
            method in "[A-Z]{1,7}", path in "/[a-z/]{0,20}", query in ".{0,20}", rest in ".{0,9}",
            headers in prop::collection::vec(("[a-z-]{1,9}", "[ -~]{0,20}"), 0..5),
            body in prop::collection::vec(any::<u8>(), 0..200), kind in 0..5,
        ) -> Request {
            let bytes = Bytes::from(body);
            let body = match kind { 0 => Body::Empty, 1 => Body::Json(bytes), 2 => Body::Form(bytes), 3 => Body::Text(bytes), _ => Body::Raw(bytes) };
            Request { method, path, headers, body, query, params: vec![("a".into(), "b".into())], rest }
        }
    }

    prop_compose! {
        pub(crate) fn row()(
            id in any::<u128>(), request in request(), reply in any::<Option<u64>>(), at in any::<i64>(),
            attempts in any::<u16>(), error in ".{0,30}", pinned in any::<Option<u32>>(), key in any::<Option<u128>>(),
        ) -> Row {
            Row {
                execution_id: Uuid::from_u128(id), request_id: "r".into(), kind: Kind::Http, app_id: Uuid::from_u128(1),
                route_id: key.map(Uuid::from_u128), script_id: Uuid::from_u128(2), script_name: "s".into(), timeout_ms: 5000,
                reply_to: reply.map(InboxId), request, principal: key.map(|key| Principal { key_id: Uuid::from_u128(key), name: "k".into() }),
                trigger_depth: 0, root_execution_id: Uuid::from_u128(id), attempts, crashes: 0, due_at: UnixMs(at), accepted_at: UnixMs(at),
                pinned_version: pinned, history: vec![Attempt { at: UnixMs(at), status: Ended::Timeout, error }], redriven_from: None,
                age_ms: 7, wait_ms: 9, trigger_id: key.map(Uuid::from_u128), event: None, attempts_max: None, unique: None, client: pinned.map(|bits| std::net::Ipv4Addr::from_bits(bits).into()),
            }
        }
    }

    proptest! {
        #[test]
        fn rows_come_back_as_they_went(row in row()) {
            prop_assert_eq!(decode::<Row>(&encode(&row)).unwrap(), row);
        }

        #[test]
        fn apps_of_the_first_release_are_read(id in any::<u128>(), at in any::<i64>()) {
            let (id, at) = (Uuid::from_u128(id), UnixMs(at));
            let (limits, egress) = (AppLimits::default(), Egress::default());
            let app = App { id, slug: "boat".parse().unwrap(), name: "A boat".parse().unwrap(), egress, limits, created_at: at, updated_at: at };
            prop_assert_eq!(&decode::<App>(&encode(&app)).unwrap(), &app);
            let old = postcard::to_extend(&(id, "boat", "A boat", at, at), vec![1]).unwrap();
            prop_assert_eq!(&decode::<App>(&old).unwrap(), &app);
        }

        #[test]
        fn domains_of_earlier_releases_are_read(id in any::<u128>(), at in any::<i64>()) {
            let (id, at) = (Uuid::from_u128(id), UnixMs(at));
            let pattern = "*.boat.example".parse().unwrap();
            let domain = Domain { id, app_id: id, pattern, tls: TlsSource::Auto, created_at: at, updated_at: at };
            prop_assert_eq!(&decode::<Domain>(&encode(&domain)).unwrap(), &domain);
            let old = postcard::to_extend(&(id, id, "*.boat.example", at, at), vec![1]).unwrap();
            prop_assert_eq!(&decode::<Domain>(&old).unwrap(), &domain);
        }

        #[test]
        fn rows_of_earlier_releases_are_read(row in row()) {
            let row = Row { client: None, ..row };
            let mut bytes = encode(&row);
            // Where the request came from is last: an empty option, one byte.
            bytes.pop();
            bytes[0] = 3;
            prop_assert_eq!(&decode::<Row>(&bytes).unwrap(), &row);
            let row = Row { trigger_id: None, ..row };
            let mut bytes = encode(&row);
            bytes.pop();
            // What triggers brought came last: four empty options, one byte each.
            bytes.truncate(bytes.len() - 4);
            bytes[0] = 2;
            prop_assert_eq!(&decode::<Row>(&bytes).unwrap(), &row);
            // The age and the wait, one byte each, came before.
            bytes.truncate(bytes.len() - 2);
            bytes[0] = 1;
            let old = decode::<Row>(&bytes).unwrap();
            prop_assert_eq!(Row { age_ms: old.age_ms, wait_ms: old.wait_ms, ..row }, old);
        }

        #[test]
        fn a_cut_or_lengthened_row_is_an_error(row in row(), at in any::<prop::sample::Index>()) {
            let mut bytes = encode(&row);
            bytes.push(0);
            prop_assert!(decode::<Row>(&bytes).is_err());
            bytes.pop();
            prop_assert!(decode::<Row>(&bytes[..at.index(bytes.len())]).is_err());
        }

        #[test]
        fn any_bytes_decode_without_panic(mut bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            if let Some(first) = bytes.first_mut() { *first = 1 + *first % 4; }
            let _ = decode::<Row>(&bytes);
            let _ = decode::<App>(&bytes);
            let _ = decode::<Domain>(&bytes);
            let _ = decode::<Script>(&bytes);
            let _ = decode::<Version>(&bytes);
            let _ = decode::<Route>(&bytes);
            let _ = decode::<Key>(&bytes);
            let _ = decode::<Trigger>(&bytes);
            let _ = decode::<Secret>(&bytes);
            let _ = decode::<Tick>(&bytes);
            let _ = decode::<ExecutionRecord<'static>>(&bytes);
            let _ = decode::<DeadLetter>(&bytes);
            let _ = decode::<super::super::wear::Wear>(&bytes);
        }

        #[test]
        fn a_flipped_bit_is_an_error_or_another_row(row in row(), at in any::<prop::sample::Index>(), bit in 0..8u8) {
            let mut bytes = encode(&row);
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
            if let Ok(other) = decode::<Row>(&bytes) {
                prop_assert_ne!(other, row);
            }
        }
    }
}
