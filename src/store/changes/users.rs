//! Users, and their sessions.

use std::sync::Arc;

use redb::WriteTransaction;
use uuid::Uuid;

use super::{Changed, Changes, KEYS_MAX, check_room, found, put, remove};
use crate::model::{Email, Key, Name, PasswordHash, Session, UnixMs, User};
use crate::store::catalog::Catalog;
use crate::store::tables::{KEYS, SESSIONS, USERS};
use crate::store::{ChangeError, Error};

const USERS_MAX: usize = 100;
/// Of one user; a further login ends the oldest.
const SESSIONS_MAX: usize = 20;

/// What is changed of a user.
#[derive(Clone, Debug, Default)]
pub struct UserPatch {
    /// Another address.
    pub email: Option<Email>,
    /// Another password: the user's other sessions end.
    pub password: Option<PasswordHash>,
}

impl Changes<'_> {
    /// Stores the first user with a key and a session. The key gets another name if its own is taken.
    pub fn set_up(&mut self, user: User, mut key: Key, session: Session) -> Changed<(Arc<User>, Arc<Key>)> {
        self.check_storage()?;
        if !self.catalog.users.is_empty() {
            return Err(ChangeError::Conflict("this device has a user already: log in".into()));
        }
        check_room(self.catalog.keys.len(), KEYS_MAX, "keys")?;
        key.name = self.free_key_name(key.name)?;
        let user = put(self.txn, &self.kept_bytes, USERS, &mut self.catalog.users, user.id, user)?;
        let key = put(self.txn, &self.kept_bytes, KEYS, &mut self.catalog.keys, key.id, key)?;
        put(self.txn, &self.kept_bytes, SESSIONS, &mut self.catalog.sessions, session.id, session)?;
        Ok((user, key))
    }

    /// This name, or the first with a number behind it that no key has.
    fn free_key_name(&self, name: Name) -> Changed<Name> {
        let is_free = |name: &Name| self.catalog.keys.values().all(|key| key.name != *name);
        if is_free(&name) {
            return Ok(name);
        }
        // More numbers than there can be keys.
        let numbered = (2..=KEYS_MAX + 2).map(|number| format!("key of a user {number}"));
        let free = numbered.filter_map(|text| text.parse().ok()).find(is_free);
        free.ok_or_else(|| ChangeError::Conflict(format!("name: a key \"{name}\" exists")))
    }

    /// Stores a user.
    pub fn create_user(&mut self, user: User) -> Changed<Arc<User>> {
        self.check_storage()?;
        check_room(self.catalog.users.len(), USERS_MAX, "users")?;
        self.check_email(user.id, &user.email)?;
        put(self.txn, &self.kept_bytes, USERS, &mut self.catalog.users, user.id, user)
    }

    /// Changes a user. With another password all sessions of the user end but `own`.
    pub fn update_user(
        &mut self,
        id: Uuid,
        patch: UserPatch,
        own: Option<Uuid>,
        now: UnixMs,
    ) -> Changed<Arc<User>> {
        self.check_storage()?;
        let mut user = found(&self.catalog.users, "user", id)?.as_ref().clone();
        let ends_sessions = patch.password.is_some();
        user.email = patch.email.unwrap_or(user.email);
        user.password = patch.password.unwrap_or(user.password);
        user.updated_at = now;
        self.check_email(id, &user.email)?;
        if ends_sessions {
            self.end_sessions(|session| session.user_id == id && Some(session.id) != own)?;
        }
        put(self.txn, &self.kept_bytes, USERS, &mut self.catalog.users, id, user)
    }

    /// Removes a user, who is logged out everywhere by that. The last one stays.
    pub fn delete_user(&mut self, id: Uuid) -> Changed<()> {
        found(&self.catalog.users, "user", id)?;
        if self.catalog.users.len() == 1 {
            return Err(ChangeError::Conflict("this is the last user; make another one first".into()));
        }
        self.end_sessions(|session| session.user_id == id)?;
        remove(self.txn, USERS, &mut self.catalog.users, id)
    }

    fn check_email(&self, id: Uuid, email: &Email) -> Changed<()> {
        match self.catalog.users.values().find(|other| other.email == *email && other.id != id) {
            Some(_) => Err(ChangeError::Conflict(format!("email: a user \"{email}\" exists"))),
            None => Ok(()),
        }
    }

    /// Begins a session of a user whose password was found to have this hash; it may have changed meanwhile.
    pub fn create_session(&mut self, session: Session, password: &PasswordHash) -> Changed<()> {
        self.check_storage()?;
        let user = found(&self.catalog.users, "user", session.user_id)?;
        if user.password != *password {
            return Err(ChangeError::NotFound { what: "user", id: session.user_id.to_string() });
        }
        let (of, now) = (session.user_id, session.created_at);
        self.end_sessions(|session| session.is_over(now))?;
        let own: Vec<Uuid> = self
            .catalog
            .sessions
            .values()
            .filter(|other| other.user_id == of)
            .map(|other| other.id)
            .collect();
        // Their ids are in the order of their age.
        let too_many = own.len().saturating_sub(SESSIONS_MAX - 1);
        self.end_sessions(|session| own[..too_many].contains(&session.id))?;
        put(self.txn, &self.kept_bytes, SESSIONS, &mut self.catalog.sessions, session.id, session)?;
        Ok(())
    }

    /// Ends a session.
    pub fn delete_session(&mut self, id: Uuid) -> Changed<()> {
        found(&self.catalog.sessions, "session", id)?;
        remove(self.txn, SESSIONS, &mut self.catalog.sessions, id)
    }

    /// Notes that a session is used, if that was not noted a while ago.
    pub fn note_session(&mut self, id: Uuid, now: UnixMs) -> Changed<()> {
        let session = found(&self.catalog.sessions, "session", id)?;
        if !session.wants_note(now) {
            return Err(ChangeError::Conflict("it is noted already".into()));
        }
        let session = Session { used_at: now, ..session.as_ref().clone() };
        self.check_storage()?;
        put(self.txn, &self.kept_bytes, SESSIONS, &mut self.catalog.sessions, id, session)?;
        Ok(())
    }

    fn end_sessions(&mut self, ends: impl Fn(&Session) -> bool) -> Changed<()> {
        Ok(end_sessions(self.txn, self.catalog, ends)?)
    }
}

fn end_sessions(
    txn: &WriteTransaction,
    catalog: &mut Catalog,
    ends: impl Fn(&Session) -> bool,
) -> Result<(), Error> {
    let ended: Vec<Uuid> =
        catalog.sessions.values().filter(|session| ends(session)).map(|session| session.id).collect();
    let mut table = txn.open_table(SESSIONS)?;
    for id in ended {
        table.remove(id.as_u128())?;
        Arc::make_mut(&mut catalog.sessions).remove(&id);
    }
    Ok(())
}

/// Removes what opens nothing any more: a look now and then, beside those of each login.
pub(in crate::store) fn drop_sessions_that_are_over(
    txn: &WriteTransaction,
    catalog: &mut Catalog,
    now: UnixMs,
) -> Result<(), Error> {
    end_sessions(txn, catalog, |session| session.is_over(now))
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;
    use crate::model::{App, AppLimits, Egress, Sandbox, Script};
    use crate::store::testing;
    use crate::store::{Changes, Store};

    const HOUR: i64 = 3_600_000;

    fn user(id: u128) -> User {
        User {
            id: Uuid::from_u128(id),
            email: format!("{id}@example.org").parse().unwrap(),
            password: PasswordHash(format!("hash {id}")),
            created_at: UnixMs(0),
            updated_at: UnixMs(0),
        }
    }

    fn session(id: u128, of: u128, began: UnixMs) -> Session {
        let hash = [u8::try_from(id % 256).unwrap(); 32];
        let (id, user_id) = (Uuid::from_u128(id), Uuid::from_u128(of));
        Session { id, user_id, hash, created_at: began, used_at: began }
    }

    fn store() -> Store {
        testing::store(&testing::settings(), Vec::new(), |changes| {
            for id in [1, 2] {
                changes.create_user(user(id)).unwrap();
            }
        })
    }

    #[track_caller]
    fn change<T: Send + 'static>(
        store: &Store,
        make: impl FnOnce(&mut Changes<'_>) -> Changed<T> + Send + 'static,
    ) -> Result<T, String> {
        let (tell, told) = mpsc::channel();
        store.change(make, move |changed| tell.send(changed).unwrap());
        told.recv().unwrap().map_err(|error| error.to_string())
    }

    fn begin(store: &Store, session: Session) -> Result<(), String> {
        let password = user(session.user_id.as_u128()).password;
        change(store, move |changes| changes.create_session(session, &password))
    }

    fn left(store: &Store) -> Vec<u128> {
        store.catalog().sessions.keys().map(|id| id.as_u128()).collect()
    }

    #[test]
    fn a_login_ends_what_is_over_and_the_oldest_over_the_bound() {
        let (store, now) = (store(), UnixMs::now());
        let old = UnixMs(now.0 - 8 * 24 * HOUR);
        begin(&store, session(10, 1, old)).unwrap();
        begin(&store, session(11, 2, now)).unwrap();
        assert_eq!(left(&store), [11], "ten was idle for too long");
        for id in 20..40 {
            begin(&store, session(id, 1, now)).unwrap();
        }
        assert_eq!(left(&store).len(), 21);
        begin(&store, session(40, 1, now)).unwrap();
        let wanted: Vec<u128> = [11].into_iter().chain(21..=40).collect();
        assert_eq!(left(&store), wanted, "one of the other user stays");
        store.close();
    }

    /// The password that was checked may be another one by now.
    #[test]
    fn a_session_begins_only_with_the_password_of_today() {
        let (store, now) = (store(), UnixMs::now());
        let patch = UserPatch { password: Some(PasswordHash("new".into())), ..UserPatch::default() };
        change(&store, move |changes| changes.update_user(Uuid::from_u128(1), patch, None, now)).unwrap();
        assert_eq!(
            begin(&store, session(10, 1, now)).unwrap_err(),
            format!("user not found: {}", user(1).id)
        );
        assert!(begin(&store, session(11, 3, now)).is_err(), "there is no such user");
        assert!(left(&store).is_empty());
        store.close();
    }

    #[test]
    fn the_use_of_a_session_is_noted_once_an_hour() {
        let (store, now) = (store(), UnixMs::now());
        begin(&store, session(10, 1, now)).unwrap();
        let note = |hours: i64| {
            let at = UnixMs(now.0 + hours * HOUR);
            change(&store, move |changes| changes.note_session(Uuid::from_u128(10), at)).is_ok()
        };
        assert!(!note(0) && note(1) && !note(1) && note(2));
        assert_eq!(store.catalog().sessions[&Uuid::from_u128(10)].used_at, UnixMs(now.0 + 2 * HOUR));
        store.close();
    }

    #[test]
    fn a_look_at_what_is_old_ends_sessions_too() {
        let (store, now) = (store(), UnixMs::now());
        begin(&store, session(10, 1, now)).unwrap();
        begin(&store, session(11, 2, UnixMs(now.0 - 8 * 24 * HOUR))).unwrap();
        let app = App {
            id: Uuid::from_u128(1),
            slug: "a".parse().unwrap(),
            name: "a".parse().unwrap(),
            egress: Egress::default(),
            limits: AppLimits::default(),
            created_at: now,
            updated_at: now,
        };
        let script = Script {
            id: Uuid::from_u128(2),
            app_id: app.id,
            name: "s".parse().unwrap(),
            active_version: 1,
            latest_version: 1,
            timeout_seconds: None,
            sandbox: Sandbox::default(),
            access: crate::model::Access::Public,
            created_at: now,
            updated_at: now,
        };
        change(&store, move |changes| {
            changes.create_app(app)?;
            changes.create_script(script, "1".parse().unwrap())
        })
        .unwrap();
        assert_eq!(left(&store), [10]);
        store.close();
    }

    #[test]
    fn there_is_one_setup() {
        let now = UnixMs::now();
        let key = |id: u128| Key {
            id: Uuid::from_u128(id),
            name: "1@example.org".parse().unwrap(),
            hash: [u8::try_from(id).unwrap(); 32],
            hint: String::new(),
            expires_at: None,
            created_at: now,
            updated_at: now,
        };
        let taken = key(7);
        let store = testing::store(&testing::settings(), Vec::new(), move |changes| {
            changes.create_key(taken).unwrap();
        });
        let (first, second) = (key(8), key(9));
        let made =
            change(&store, move |changes| changes.set_up(user(1), first, session(10, 1, now))).unwrap();
        assert_eq!(made.1.name.as_str(), "key of a user 2", "its own name was taken");
        let again = change(&store, move |changes| changes.set_up(user(2), second, session(11, 2, now)));
        assert!(again.unwrap_err().contains("has a user already"));
        let catalog = store.catalog();
        assert_eq!((catalog.users.len(), catalog.keys.len(), left(&store)), (1, 2, vec![10]));
        store.close();
    }
}
