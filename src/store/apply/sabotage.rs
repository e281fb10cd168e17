//! Ways in which tests break the applier on purpose, to prove that the power-cut simulation would notice. Not part of
//! the program.

use redb::Database;

use super::{Applier, Batch};
use crate::model::UnixMs;
use crate::store::Error;
use crate::store::tables::OUTBOX;

/// What is broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sabotage {
    /// Nothing.
    None,
    /// Rows are acknowledged before the commit that holds them.
    AckBeforeCommit,
    /// An ended row goes in one commit, its record comes in the next.
    SettleInTwoCommits,
    /// Commits that were promised to be durable are not.
    NoSync,
    /// Claims are acknowledged and not written.
    ClaimForgotten,
    /// Records are written, and their rows stay.
    EndForgotten,
    /// A flush leaves the relaxed rows out.
    RelaxedForgotten,
    /// What runs changed goes in one commit, their ends come in the next.
    EffectsInTwoCommits,
    /// Ends go down without what their runs changed, where nobody waits for that.
    EffectsLeftBehind,
    /// What runs changed is acknowledged and not written.
    EffectsForgotten,
}

impl Applier {
    /// Does the damage that comes before a commit; `all` if what waited goes down with it.
    pub(super) fn sabotage(&mut self, db: &Database, batch: &mut Batch, all: bool) -> Result<(), Error> {
        match self.sabotage {
            Sabotage::None | Sabotage::NoSync | Sabotage::EffectsLeftBehind => {}
            Sabotage::AckBeforeCommit => {
                for (_, _, reply) in &mut batch.enqueues {
                    std::mem::replace(reply, Box::new(|_| {}))(Ok(()));
                }
            }
            Sabotage::SettleInTwoCommits if !all => {}
            Sabotage::SettleInTwoCommits => {
                let txn = db.begin_write()?;
                self.remove_ended(&mut txn.open_table(OUTBOX)?)?;
                txn.commit()?;
            }
            Sabotage::ClaimForgotten => self.claimed_changed = false,
            Sabotage::EndForgotten => self.ended.clear(),
            Sabotage::RelaxedForgotten => self.unflushed.clear(),
            Sabotage::EffectsInTwoCommits if !all && !batch.effects => {}
            Sabotage::EffectsInTwoCommits => {
                let (txn, catalog) = (db.begin_write()?, self.catalog.clone());
                let made = self.write_effects(&txn, &catalog, true, UnixMs(0))?;
                self.sabotaged = made;
                txn.commit()?;
            }
            Sabotage::EffectsForgotten => self.desk.lose(),
        }
        Ok(())
    }
}
