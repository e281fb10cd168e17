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
