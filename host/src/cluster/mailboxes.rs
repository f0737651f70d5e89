//! The mailboxes of topics that live elsewhere: what I/O threads know of those topics.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};

use bytestring::ByteString;

use super::table::Way;
use crate::runtime::channel::{Input, Refused, Topic};
use crate::runtime::plugin::{Hub, JoinRefused, PluginSlot};

/// The mailboxes of topics that live elsewhere, for I/O threads.
#[derive(Debug, Default)]
pub(super) struct Mailboxes(Mutex<Opened>);

#[derive(Debug, Default)]
struct Opened {
    by_topic: HashMap<(u32, ByteString), Arc<Topic>>,
    slots: HashMap<u64, Arc<PluginSlot>>,
}

impl Mailboxes {
    /// Puts a join into the mailbox of its topic, which is made if there is none.
    ///
    /// # Errors
    ///
    /// If too much waits in it.
    pub(super) fn enter(
        &self,
        hub: &Hub,
        slot: &Arc<PluginSlot>,
        topic: &ByteString,
        way: &Way,
        join: Input,
    ) -> Result<Arc<Topic>, JoinRefused> {
        let refused = |refused| match refused {
            Refused::Overloaded => JoinRefused::Overloaded,
            // It is closed and removed under one lock, so this is never seen.
            Refused::Closed => JoinRefused::NoNode,
        };
        let mut opened = self.lock();
        if let Some(mailbox) = opened.by_topic.get(&(slot.index, topic.clone())) {
            mailbox.push(join).map_err(refused)?;
            return Ok(Arc::clone(mailbox));
        }
        let mailbox = slot.away(topic, hub.number(), &way.queue);
        // First, so that the cluster's thread finds it.
        opened.slots.insert(mailbox.number, Arc::clone(slot));
        if let Err(why) = mailbox.push(join) {
            opened.slots.remove(&mailbox.number);
            return Err(refused(why));
        }
        // Its own name is a copy, and not a slice of a frame.
        let key = (slot.index, mailbox.name.clone());
        opened.by_topic.insert(key, Arc::clone(&mailbox));
        Ok(mailbox)
    }

    /// The plugin of a mailbox, by its number.
    pub(super) fn slot(&self, number: u64) -> Option<Arc<PluginSlot>> {
        self.lock().slots.get(&number).cloned()
    }

    /// Removes a mailbox, if `close` closes it.
    pub(super) fn remove<R>(&self, index: u32, topic: &Topic, close: impl FnOnce() -> Option<R>) -> Option<R> {
        let mut opened = self.lock();
        let closed = close()?;
        opened.by_topic.remove(&(index, topic.name.clone()));
        opened.slots.remove(&topic.number);
        Some(closed)
    }

    /// How many there are.
    pub(super) fn count(&self) -> usize {
        self.lock().by_topic.len()
    }

    fn lock(&self) -> MutexGuard<'_, Opened> {
        self.0.lock().expect("no holder of the mailboxes panics")
    }
}
