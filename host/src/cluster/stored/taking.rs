//! How entries are read, and how a node claims a topic that another one has written.

use std::sync::Arc;
use std::time::Instant;

use async_nats::jetstream::stream::LastRawMessageErrorKind;
use bytes::Bytes;
use futures_util::{StreamExt as _, stream};

use super::entry::{self, Head};
use super::{Inner, writing::Sent};
use crate::cluster::broker::TIMEOUT;
use crate::runtime::capsule::{Fence, Revision, Seen};
use crate::runtime::store::{Found, Key, StoreError, Stored, Taken};

/// How often a topic is read that other nodes write at the same time.
const TRIES: u32 = 5;
/// How many entries of a page are on their way at a time.
const AT_A_TIME: usize = 32;

/// An entry.
#[derive(Debug)]
pub(super) struct Last {
    pub(super) revision: u64,
    pub(super) head: Head,
    pub(super) capsule: Bytes,
}

impl Inner {
    /// The entry under a key, as the leader of the bucket has it: nobody else knows the last one for certain.
    pub(super) async fn last(&self, key: &str) -> Result<Option<Last>, StoreError> {
        let stream = self.context.get_stream_no_info(self.stream()).await;
        let stream = stream.map_err(|error| self.unavailable(error.to_string()))?;
        match stream.get_last_raw_message_by_subject(&self.subject(key)).await {
            Ok(message) => Ok(Some(Last {
                revision: message.sequence,
                head: Head::read(&message.headers),
                capsule: message.payload,
            })),
            Err(error) if error.kind() == LastRawMessageErrorKind::NoMessageFound => Ok(None),
            Err(error) => Err(self.unavailable(error.to_string())),
        }
    }

    /// The capsule of a topic.
    pub(super) async fn read(&self, key: &Key) -> Result<Option<Bytes>, StoreError> {
        self.check_open()?;
        let last = self.last(&entry::topic(key)).await?;
        Ok(last.filter(|last| !last.head.is_mark).map(|last| last.capsule))
    }

    /// Reads a topic that comes into memory here, and claims it if another node, or an earlier run of this one, has written it.
    pub(super) async fn take(&self, key: &Key) -> Taken {
        let (name, began) = (entry::topic(key), Instant::now());
        for _ in 0..TRIES {
            self.check_open()?;
            if !self.shared.table.is_here(&key.topic) {
                // Whoever waits for it asks again, at its home.
                return Err(StoreError::Superseded);
            }
            let last = self.last(&name).await?;
            let is_unsure = self.unsure().contains(key);
            let is_mine = last
                .as_ref()
                .is_none_or(|last| last.head.is_mark || last.head.is_by(&self.me));
            if is_mine && !is_unsure {
                let seen = last.as_ref().map_or_else(|| self.nothing(), |last| self.seen(last));
                return Ok(found(last, seen.revision));
            }
            // What another node, or this one, has on its way is refused once this is made.
            let (over, head, capsule) = match last {
                Some(last) => (last.revision, last.head, last.capsule),
                None => (0, self.mark(), Bytes::new()),
            };
            let claim = Head {
                by: Some((self.me.clone(), self.next_write())),
                ..head
            };
            match self.send(&name, &claim, capsule.clone(), Some(over)).await {
                Sent::Made(revision) => {
                    self.unsure().remove(key);
                    let last = Last {
                        revision,
                        head: claim,
                        capsule,
                    };
                    let revision = self.seen(&last).revision;
                    return Ok(found(Some(last), revision));
                }
                // Read again: it tells.
                Sent::Refused => {}
                Sent::Unsure(why) => {
                    self.unsure().insert(key.clone());
                    // Whoever asks next finds out: clients do not wait for ever.
                    if began.elapsed() >= TIMEOUT {
                        return Err(self.unavailable(why));
                    }
                }
                Sent::Failed(error) => return Err(error),
            }
        }
        Err(self.unavailable("other nodes write this topic at the same time"))
    }

    fn mark(&self) -> Head {
        Head {
            by: None,
            look_unix_ms: None,
            is_mark: true,
        }
    }

    /// There is no entry.
    fn nothing(&self) -> Seen {
        let store = self.store.load(std::sync::atomic::Ordering::Acquire);
        let revision = Revision {
            store,
            ..Revision::default()
        };
        Seen {
            revision,
            is_unsure: false,
        }
    }

    /// A page of the stored topics of a plugin.
    pub(super) async fn page(
        &self,
        plugin: &str,
        prefix: &str,
        after: Option<&str>,
        most: usize,
    ) -> Result<Vec<Stored>, StoreError> {
        self.check_open()?;
        let plugin: Arc<str> = plugin.into();
        let names = self.index.page(&plugin, prefix, after, most);
        let read = names.into_iter().map(|name| {
            let key = Key {
                plugin: Arc::clone(&plugin),
                topic: name.topic.clone(),
            };
            async move {
                let text = match name.aside {
                    Some(version) => entry::aside(&key, Some(version)),
                    None => entry::topic(&key),
                };
                let last = self.last(&text).await?.filter(|last| !last.head.is_mark);
                if last.is_none() {
                    self.index.is_gone(&key, name.aside);
                }
                Ok(last.map(|last| Stored {
                    topic: name.topic,
                    capsule: last.capsule,
                    set_aside: name.aside,
                }))
            }
        });
        let mut read = stream::iter(read).buffered(AT_A_TIME);
        let mut page = Vec::new();
        while let Some(stored) = read.next().await {
            page.extend(stored?);
        }
        Ok(page)
    }
}

fn found(last: Option<Last>, revision: Revision) -> Found {
    Found {
        capsule: last.filter(|last| !last.head.is_mark).map(|last| last.capsule),
        fence: Some(Arc::new(Fence::at(revision))),
    }
}
