//! What the house might ask of the store, by chance: what the dispatcher and the management API would do, with rows
//! that are accepted, claimed, run, tried again, buried and re-driven.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use uuid::Uuid;

use super::chance::Chance;
use super::effects::{Act, Acts, Fate, key};
use super::life::{Plan, Told, name};
use super::setup::Op;
use super::world::{Item, Logged, Shelf, World, stamp_ms};
use crate::model::{
    Access, App, AppLimits, Attempt, Body, BodyMode, DeadLetter, Delivery, DispatchMode, Domain, Durability,
    Egress, Ended, ExecutionRecord, InboxId, Key, Request, Route, Row, Sandbox, Script, UnixMs, testing,
};
use crate::store::apply::Ask;
use crate::store::codec;

/// Older dead letters may be dropped.
pub(super) const LETTERS_AGE_MAX: Duration = Duration::from_secs(3 * 3_600);

/// The instant at which histories begin.
const BEGINNING: i64 = 1_767_225_600_000;

/// The dispatcher's and the operators' side of a history.
#[derive(Clone, Debug)]
pub(super) struct Plans {
    chance: Chance,
    now: UnixMs,
    /// Rows that have not ended, as they stand.
    rows: BTreeMap<u128, Arc<Row>>,
    /// Those of them that are accepted and not claimed.
    ready: Vec<u128>,
    /// Those of them that may run.
    running: Vec<u128>,
}

impl Plans {
    /// A house that begins at `now`, or in the beginning.
    pub(super) fn new(chance: Chance, now: Option<UnixMs>) -> Plans {
        let now = now.unwrap_or(UnixMs(BEGINNING));
        Plans { chance, now, rows: BTreeMap::new(), ready: Vec::new(), running: Vec::new() }
    }

    pub(super) fn now(&self) -> UnixMs {
        self.now
    }

    pub(super) fn wants_compaction(&mut self) -> bool {
        self.chance.percent(4)
    }

    /// The same house after a start that found these rows.
    pub(super) fn found(&mut self, rows: Vec<Arc<Row>>) {
        self.running.clear();
        self.ready = rows.iter().map(|row| row.execution_id.as_u128()).collect();
        self.rows = rows.into_iter().map(|row| (row.execution_id.as_u128(), row)).collect();
    }

    /// The next batch, and what the writer wants of it.
    pub(super) fn batch(&mut self, world: &World) -> (Vec<Plan>, Ask) {
        let hours =
            i64::from(self.chance.percent(2)) * 3_600_000 + i64::from(self.chance.percent(1)) * 90_000_000;
        self.now.0 += hours + i64::try_from(self.chance.below(2_000)).unwrap();
        let mut plans = Vec::new();
        for _ in 0..self.chance.below(6) {
            self.plan(world, &mut plans);
        }
        if self.chance.percent(3) {
            self.burst(world, &mut plans);
        }
        let ask = Ask { flush: self.chance.percent(15), checkpoint: self.chance.percent(5), now: self.now };
        (plans, ask)
    }

    /// Claims all that there is; the second time ends it.
    pub(super) fn draining(&mut self) -> (Vec<Plan>, Ask) {
        let mut plans = Vec::new();
        for id in std::mem::take(&mut self.running) {
            let record = self.record(id, None);
            plans.push(Plan::Done(record));
        }
        if !self.ready.is_empty() {
            plans.push(Plan::Claim(std::mem::take(&mut self.ready)));
        }
        (plans, Ask { flush: true, checkpoint: false, now: self.now })
    }

    /// Takes in what came of a batch.
    pub(super) fn heard(
        &mut self,
        plans: &[Plan],
        told: &[Option<Told>],
        fates: &[Fate],
        enqueued: Vec<Arc<Row>>,
    ) -> Result<(), String> {
        let (mut wanted, mut queued) = (Vec::new(), Vec::new());
        for ((plan, told), fate) in plans.iter().zip(told).zip(fates) {
            let done = matches!(told, Some(Told::Yes(_)));
            match plan {
                Plan::Enqueue { row, claimed } if done => {
                    let id = row.execution_id.as_u128();
                    self.rows.insert(id, row.clone());
                    if *claimed || row.is_sync() { self.running.push(id) } else { self.ready.push(id) }
                }
                Plan::Claim(ids) if done => self.running.extend(ids),
                Plan::Change(Op::Redrive { execution, .. }) if done => wanted.push(*execution),
                Plan::Run { acts, .. } if matches!(fate, Fate::Accepted(_)) => {
                    queued.extend(acts.rows().map(|row| row.execution_id));
                }
                _ => {}
            }
        }
        wanted.append(&mut queued);
        if !enqueued.iter().map(|row| row.execution_id).eq(wanted.iter().copied()) {
            return Err(format!("re-driven or queued were {wanted:?}, heard of were {enqueued:?}"));
        }
        for row in enqueued {
            self.ready.push(row.execution_id.as_u128());
            self.rows.insert(row.execution_id.as_u128(), row);
        }
        Ok(())
    }

    fn plan(&mut self, world: &World, plans: &mut Vec<Plan>) {
        match self.chance.below(100) {
            0..18 => {
                let (row, claimed) = (self.row(None), self.chance.percent(50));
                plans.push(Plan::Enqueue { row, claimed });
            }
            18..28 => {
                let row = self.row(Some(InboxId(self.now.0.unsigned_abs())));
                plans.push(Plan::Enqueue { row, claimed: false });
            }
            28..42 => self.relaxed(world, plans),
            42..46 => {
                // Run directly: it never was a row.
                let row = self.row(Some(InboxId(7)));
                let id = self.hold(row);
                plans.push(self.done(id, world));
            }
            46..58 => {
                let ids: Vec<u128> =
                    (0..=self.chance.below(3)).filter_map(|_| self.take(|plans| &mut plans.ready)).collect();
                plans.extend((!ids.is_empty()).then_some(Plan::Claim(ids)));
            }
            58..82 => plans.extend(self.end(world)),
            82..84 => {
                // An operator cancels what waits.
                let waiting = self.take(|plans| &mut plans.ready);
                plans.extend(waiting.map(|id| Plan::Done(self.record(id, None))));
            }
            84..86 => plans.push(Plan::Settled),
            86..87 => plans.push(Plan::Probe),
            87..89 => {
                // An operator changes values.
                plans.extend(self.acts(world).map(|acts| Plan::Run { run: None, acts, told: true }));
            }
            _ => plans.push(Plan::Change(self.op(world))),
        }
    }

    fn relaxed(&mut self, world: &World, plans: &mut Vec<Plan>) {
        let row = self.row(Some(InboxId(1)));
        plans.push(Plan::Relaxed(row.clone()));
        let id = self.hold(row);
        if self.chance.percent(50) {
            plans.push(self.done(id, world));
        } else {
            self.running.push(id);
        }
    }

    /// Many at once: a wave of requests, or of new sources.
    fn burst(&mut self, world: &World, plans: &mut Vec<Plan>) {
        if self.chance.percent(50) {
            (0..12).for_each(|_| self.relaxed(world, plans));
        } else if let Some(id) = self.some(&world.setup.scripts) {
            for number in 0..45 {
                let source = format!("{number}").parse().unwrap();
                plans.push(Plan::Change(Op::Source { id: name(id), source, now: self.now }));
            }
        }
    }

    /// The end of a run that did well; half of them change something.
    fn done(&mut self, id: u128, world: &World) -> Plan {
        let row = self.rows[&id].clone();
        let record = self.record(id, None);
        match self.acts(world).filter(|_| self.chance.percent(60)) {
            Some(acts) => Plan::Run { run: Some((row, record)), acts, told: self.chance.percent(60) },
            None => Plan::Done(record),
        }
    }

    /// What a run does with the values of an app, if there is one.
    fn acts(&mut self, world: &World) -> Option<Arc<Acts>> {
        let app = name(self.some(&world.setup.apps)?);
        let mut acts = Vec::new();
        for _ in 0..=self.chance.below(4) {
            acts.push(self.act());
        }
        Some(Arc::new(Acts { app, now: self.now, acts }))
    }

    fn act(&mut self) -> Act {
        let some = |chance: &mut Chance| key(&format!("k/{}", chance.below(8)));
        match self.chance.below(20) {
            0..7 => Act::Count,
            7..12 => {
                let value = format!("{:?}", self.chance.next().to_string().repeat(1 + self.chance.below(6)));
                let wait = i64::try_from(self.chance.below(9_000)).unwrap();
                let expires_at = self.chance.percent(40).then_some(UnixMs(self.now.0 + wait));
                Act::Set { key: some(&mut self.chance), value: value.into(), expires_at }
            }
            12..14 => Act::Copy { from: some(&mut self.chance), to: some(&mut self.chance) },
            14..16 => Act::Delete(some(&mut self.chance)),
            16..18 => Act::Tally(key("tally")),
            _ => Act::Queue(self.row(None)),
        }
    }

    /// The end of an attempt.
    fn end(&mut self, world: &World) -> Option<Plan> {
        let id = self.take(|plans| &mut plans.running)?;
        let row = self.rows[&id].clone();
        let roll = self.chance.below(100);
        if row.is_sync() {
            // One that is released waits for the next start.
            return Some(if roll < 92 { self.done(id, world) } else { Plan::Release(id) });
        }
        match roll {
            0..50 => Some(self.done(id, world)),
            50..72 => {
                let again = Arc::new(self.failed(&row));
                self.rows.insert(id, again.clone());
                self.ready.push(id);
                Some(Plan::Retry(again))
            }
            72..90 => {
                let (letter_id, died_at) = (self.id(), self.now);
                let letter = DeadLetter {
                    id: name(letter_id),
                    row: self.failed(&row),
                    script_version: 1,
                    reason: "attempts".into(),
                    died_at,
                };
                Some(Plan::Dead(Box::new(letter), self.record(id, Some(letter_id))))
            }
            _ => {
                self.ready.push(id);
                Some(Plan::Release(id))
            }
        }
    }

    fn failed(&mut self, row: &Row) -> Row {
        let mut again = row.clone();
        again.attempts = row.attempt();
        again.due_at = UnixMs(self.now.0 + 2_000);
        again.wait_ms = 2_000;
        again.history.push(Attempt { at: self.now, status: Ended::Timeout, error: "too slow".into() });
        again
    }

    fn hold(&mut self, row: Arc<Row>) -> u128 {
        let id = row.execution_id.as_u128();
        self.rows.insert(id, row);
        id
    }

    fn take(&mut self, list: impl Fn(&mut Plans) -> &mut Vec<u128>) -> Option<u128> {
        let length = list(self).len();
        let at = self.chance.below(length);
        (length > 0).then(|| list(self).swap_remove(at))
    }

    /// Ids carry their time, as those of the house do (RFC 9562 5.7).
    fn id(&mut self) -> u128 {
        let chance = self.chance.id() & 0x0fff_3fff_ffff_ffff_ffff;
        u128::from(self.now.0.unsigned_abs()) << 80 | 0x7000_8000_0000_0000_0000 | chance
    }

    fn text(&mut self) -> Vec<u8> {
        let length = match self.chance.below(100) {
            0..70 => self.chance.below(200),
            70..97 => self.chance.below(1_500),
            _ => 9_000,
        };
        self.chance.bytes(length)
    }

    pub(super) fn row(&mut self, reply_to: Option<InboxId>) -> Arc<Row> {
        let id = name(self.id());
        let body = Body::Raw(Bytes::from(self.text()));
        let plain = testing::row();
        Arc::new(Row {
            execution_id: id,
            request_id: "r".into(),
            app_id: name(1),
            script_id: name(2),
            timeout_ms: 5_000,
            reply_to,
            request: Request { headers: vec![("a".into(), "b".into())], body, ..plain.request },
            root_execution_id: id,
            due_at: self.now,
            accepted_at: self.now,
            ..plain
        })
    }

    /// The record of a row that ends now.
    fn record(&mut self, id: u128, dead_letter: Option<u128>) -> Arc<Logged> {
        let row = self.rows.remove(&id).unwrap();
        let answer: String = self.text().iter().map(|byte| char::from(byte % 64 + 32)).collect();
        Arc::new(Logged::of(&codec::encode_borrowed(&ExecutionRecord {
            id: row.execution_id,
            app_id: row.app_id,
            script_id: row.script_id,
            script_name: "s".into(),
            script_version: 1,
            route_id: None,
            request_id: "r".into(),
            request_method: "POST".into(),
            request_path: "/x".into(),
            request_headers: vec![],
            request_body: "".into(),
            response_code: Some(200),
            response_body: Some(answer.into()),
            script_logs: vec![].into(),
            duration_us: 1,
            status: if dead_letter.is_some() { Ended::Timeout } else { Ended::Success },
            error: None,
            created_at: row.accepted_at,
            finished_at: self.now,
            attempt: row.attempt(),
            kind: row.kind,
            sync: row.is_sync(),
            queue_wait_us: 0,
            operations: 1,
            peak_bytes: 1,
            delivery: Delivery::None,
            dead_letter_id: dead_letter.map(name),
            trigger_depth: 0,
            root_execution_id: row.root_execution_id,
        })))
    }

    /// One of a shelf, at times one that is not there.
    fn some<T>(&mut self, shelf: &Shelf<T>) -> Option<u128> {
        let ids: Vec<u128> = shelf.keys().copied().collect();
        self.chance.pick(&ids)
    }

    fn some_id<T>(&mut self, shelf: &Shelf<T>) -> Uuid {
        let missing = self.chance.percent(4);
        name(self.some(shelf).filter(|_| !missing).unwrap_or(404))
    }

    fn some_app(&mut self, world: &World) -> Uuid {
        self.some_id(&world.setup.apps)
    }

    fn op(&mut self, world: &World) -> Op {
        let setup = &world.setup;
        let (id, now) = (name(self.id()), self.now);
        let number = self.chance.below(9);
        match self.chance.below(34) {
            0..3 => Op::CreateApp(App {
                id,
                slug: format!("app-{number}").parse().unwrap(),
                name: "An app".parse().unwrap(),
                egress: Egress::default(),
                limits: AppLimits::default(),
                created_at: now,
                updated_at: now,
            }),
            3 => {
                let (id, slug) = (self.some_app(world), format!("app-{number}").parse().unwrap());
                Op::RenameApp { id, slug, name: "Another".parse().unwrap(), now }
            }
            4 => Op::DeleteApp(self.some_app(world)),
            5..7 => {
                let (app_id, pattern) = (self.some_app(world), format!("{number}.example").parse().unwrap());
                Op::CreateDomain(Domain {
                    id,
                    app_id,
                    pattern,
                    tls: Default::default(),
                    created_at: now,
                    updated_at: now,
                })
            }
            7 => {
                let pattern = format!("{number}.example").parse().unwrap();
                Op::MoveDomain { id: self.some_id(&setup.domains), pattern, now }
            }
            8 => Op::DeleteDomain(self.some_id(&setup.domains)),
            9..12 => Op::CreateScript(self.script(id, world), "1".parse().unwrap()),
            12..15 => {
                let source = format!("{number} + 1").parse().unwrap();
                Op::Source { id: self.some_id(&setup.scripts), source, now }
            }
            15..17 => {
                let version = u32::try_from(number).unwrap();
                Op::Rollback { id: self.some_id(&setup.scripts), version, now }
            }
            17 => Op::DeleteScript(self.some_id(&setup.scripts)),
            18..20 => Op::CreateRoute(self.route(id, world)),
            20 => {
                let path = format!("/{number}").parse().unwrap();
                Op::MoveRoute { id: self.some_id(&setup.routes), path, now }
            }
            21 => Op::DeleteRoute(self.some_id(&setup.routes)),
            22..24 => Op::CreateKey(Key {
                id,
                name: format!("key {number}").parse().unwrap(),
                hash: [7; 32],
                hint: "pk".into(),
                expires_at: None,
                created_at: now,
                updated_at: now,
            }),
            24 => {
                let name = format!("key {number}").parse().unwrap();
                Op::RenameKey { id: self.some_id(&setup.keys), name, now }
            }
            25 => Op::DeleteKey(self.some_id(&setup.keys)),
            26..32 => Op::Redrive { letter: self.letter(world), execution: id, now },
            _ => Op::Purge(self.letter(world)),
        }
    }

    /// One that is sure to be there still.
    fn letter(&mut self, world: &World) -> Uuid {
        let young = |id: &u128| self.now.since(UnixMs(stamp_ms(*id))) <= LETTERS_AGE_MAX;
        let letters: Shelf<DeadLetter> =
            world.letters.iter().filter(|(id, _)| young(id)).map(|(id, item)| (*id, item.clone())).collect();
        self.some_id(&letters)
    }

    fn script(&mut self, id: Uuid, world: &World) -> Script {
        Script {
            id,
            app_id: self.some_app(world),
            name: format!("script {}", self.chance.below(9)).parse().unwrap(),
            active_version: 1,
            latest_version: 1,
            timeout_seconds: None,
            sandbox: Sandbox::default(),
            access: Access::Public,
            created_at: self.now,
            updated_at: self.now,
        }
    }

    fn route(&mut self, id: Uuid, world: &World) -> Route {
        let script = self.some(&world.setup.scripts).map(|script| &world.setup.scripts[&script]);
        let (app_id, script_id) = script
            .map_or((name(404), name(404)), |item: &Arc<Item<Script>>| (item.value.app_id, item.value.id));
        let paths = ["/1", "/2", "/3", "/4", "/5", "/api/6"];
        Route {
            id,
            app_id,
            script_id,
            host: None,
            method: "GET".parse().unwrap(),
            path: self.chance.pick(&paths).unwrap().parse().unwrap(),
            dispatch_mode: DispatchMode::Sync,
            durability: Durability::Auto,
            body: BodyMode::Json,
            access: Access::Public,
            created_at: self.now,
            updated_at: self.now,
        }
    }
}
