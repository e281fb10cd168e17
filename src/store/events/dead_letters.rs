//! What the handlers of a dead letter are told.

use serde_json::{Value, json};

use super::Clerk;
use crate::model::{Body, DeadLetter, Kind, Row, Trigger, TriggerOn};
use crate::store::Catalog;

/// The largest payload that handlers are shown; a larger one is read over the management API.
const PAYLOAD_SHOWN_BYTES_MAX: usize = 256 * 1024;

impl Clerk<'_> {
    /// The rows that handle a dead letter: one for each trigger of the app that asks for it. A handler's own end is
    /// handled by nobody.
    pub(crate) fn dead_letter(&self, catalog: &Catalog, letter: &DeadLetter) -> Vec<Row> {
        if letter.row.kind == Kind::DeadLetter {
            return Vec::new();
        }
        let asking = catalog.triggers.values().filter(|trigger| asks_for(trigger, letter));
        let mut event = None;
        let rows = asking.filter_map(|trigger| {
            let event = event.get_or_insert_with(|| told(letter));
            self.row(trigger, catalog, Some(letter.row.chain()), event, &letter.id.to_string())
        });
        rows.collect()
    }
}

fn asks_for(trigger: &Trigger, letter: &DeadLetter) -> bool {
    let TriggerOn::DeadLetter { of_script } = &trigger.on else { return false };
    trigger.enabled
        && trigger.app_id == letter.row.app_id
        && of_script.is_none_or(|script| script == letter.row.script_id)
}

fn told(letter: &DeadLetter) -> Value {
    let row = &letter.row;
    let payload = match &row.request.body {
        Body::Json(json) if json.len() <= PAYLOAD_SHOWN_BYTES_MAX => read(json),
        Body::Empty | Body::Json(_) | Body::Form(_) | Body::Text(_) | Body::Raw(_) => Value::Null,
    };
    json!({
        "kind": "dead_letter",
        "dead_letter_id": letter.id,
        "execution_id": row.execution_id,
        "script_id": row.script_id,
        "script_name": row.script_name,
        "reason": letter.reason,
        "error": row.history.last().map(|attempt| attempt.error.as_str()),
        "attempts": row.attempts,
        "died_at": letter.died_at,
        "origin": row.kind.as_str(),
        "event": row.event.as_ref().map_or(Value::Null, |event| read(event)),
        "payload": payload,
        "payload_bytes": row.request.body.bytes().len(),
    })
}

/// What was found to be JSON when it came in.
fn read(json: &[u8]) -> Value {
    serde_json::from_slice(json).unwrap_or(Value::Null)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;
    use std::time::Duration;

    use bytes::Bytes;
    use uuid::Uuid;

    use super::*;
    use crate::model::{UnixMs, testing};
    use crate::store::Ids;

    const NOW: UnixMs = UnixMs(1_790_000_000_000);

    fn dead(kind: Kind, body: Body) -> DeadLetter {
        let mut row = testing::row();
        (row.kind, row.request.body, row.trigger_depth) = (kind, body, 2);
        row.root_execution_id = Uuid::from_u128(77);
        DeadLetter { id: Uuid::from_u128(9), row, script_version: 1, reason: "attempts".into(), died_at: NOW }
    }

    fn handlers(on: &[TriggerOn]) -> Catalog {
        let triggers = (1..).zip(on).map(|(id, on)| {
            let id = Uuid::from_u128(id);
            (id, Arc::new(Trigger { id, on: on.clone(), ..testing::trigger() }))
        });
        let scripts = BTreeMap::from([(Uuid::nil(), Arc::new(testing::script()))]);
        Catalog { triggers: Arc::new(triggers.collect()), scripts: Arc::new(scripts), ..Catalog::default() }
    }

    fn rows(catalog: &Catalog, letter: &DeadLetter) -> Vec<Row> {
        let ids = Ids::after(Uuid::nil());
        Clerk { ids: &ids, timeout: Duration::from_secs(30), now: NOW }.dead_letter(catalog, letter)
    }

    #[test]
    fn it_is_handled_by_who_asks_for_it() {
        let of = |of_script| TriggerOn::DeadLetter { of_script };
        let (this, other) = (Some(Uuid::nil()), Some(Uuid::from_u128(5)));
        let letter = dead(Kind::Http, Body::Empty);
        for (on, count) in [
            (vec![], 0),
            (vec![of(None)], 1),
            (vec![of(this)], 1),
            (vec![of(other)], 0),
            (vec![of(None), of(this), of(other), TriggerOn::Startup], 2),
        ] {
            assert_eq!(rows(&handlers(&on), &letter).len(), count, "{on:?}");
        }
        let catalog = handlers(&[of(None)]);
        assert_eq!(rows(&catalog, &dead(Kind::DeadLetter, Body::Empty)), vec![]);
        assert_eq!(rows(&Catalog { scripts: Arc::default(), ..catalog }, &letter), vec![]);
    }

    #[test]
    fn its_event_tells_what_died() {
        let large = format!("\"{}\"", "x".repeat(PAYLOAD_SHOWN_BYTES_MAX));
        for (body, payload) in [
            (Body::Empty, Value::Null),
            (Body::Json(Bytes::from_static(b"{\"a\":1}")), json!({ "a": 1 })),
            (Body::Text(Bytes::from_static(b"{\"a\":1}")), Value::Null),
            (Body::Json(large.into()), Value::Null),
        ] {
            let letter = dead(Kind::Cron, body);
            let row = rows(&handlers(&[TriggerOn::DeadLetter { of_script: None }]), &letter).remove(0);
            let event: Value = serde_json::from_slice(row.event.as_ref().unwrap()).unwrap();
            assert_eq!(event["payload"], payload);
            assert_eq!(event["payload_bytes"], letter.row.request.body.bytes().len());
            assert_eq!(
                (event["origin"].as_str(), event["reason"].as_str()),
                (Some("cron"), Some("attempts"))
            );
            assert_eq!((row.trigger_depth, row.root_execution_id), (3, Uuid::from_u128(77)));
        }
    }
}
