//! How changes are written: each by compare-and-set on the revision that its topic knows, many at a time.

use std::collections::HashMap;
use std::error::Error as _;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use async_nats::jetstream::ErrorCode;
use async_nats::jetstream::context::{PublishError, PublishErrorKind};
use async_nats::jetstream::message::PublishMessage;
use bytes::Bytes;
use futures_util::future::join_all;

use super::entry::{self, Head};
use super::{Inner, taking::Last};
use crate::cluster::fault;
use crate::runtime::capsule::{Fence, Revision, Seen};
use crate::runtime::store::{Change, Done, Key, StoreError};

/// How often a write is tried whose revision was found out meanwhile.
const TRIES: u32 = 3;
/// The longest subject, in bytes. The server closes the connection on lines of more than 4,096.
const MOST_SUBJECT: usize = 3_072;

/// What became of a message.
#[derive(Debug)]
pub(super) enum Sent {
    /// It is stored under this revision.
    Made(u64),
    /// The entry has another revision.
    Refused,
    /// Nobody has said.
    Unsure(String),
    /// It was not sent, or is refused for good.
    Failed(StoreError),
}

impl Inner {
    /// Makes changes: all at a time, but for those of the same topic, which follow each other.
    pub(super) async fn write(&self, changes: &[Change]) -> Vec<Done> {
        let mut waves: Vec<Vec<usize>> = Vec::new();
        let mut counts: HashMap<&Key, usize> = HashMap::new();
        for (at, change) in changes.iter().enumerate() {
            let count = counts.entry(change.key()).or_default();
            if *count == waves.len() {
                waves.push(Vec::new());
            }
            waves[*count].push(at);
            *count += 1;
        }
        let mut done = vec![Ok(()); changes.len()];
        for wave in waves {
            let made = join_all(wave.iter().map(|at| self.make(&changes[*at]))).await;
            for (at, made) in wave.into_iter().zip(made) {
                done[at] = made.map_err(Arc::new);
            }
        }
        done
    }

    async fn make(&self, change: &Change) -> Result<(), StoreError> {
        self.check_open()?;
        // Whoever has not taken a topic has nothing to say about it.
        let fence = change.fence().ok_or(StoreError::Superseded)?;
        let key = change.key();
        let mut seen = self.current(fence.seen());
        let (capsule, look_unix_ms, is_mark) = match change {
            Change::Put {
                capsule,
                look_unix_ms,
                set_aside,
                ..
            } => {
                if let Some(version) = set_aside {
                    self.set_aside(key, *version).await?;
                }
                (capsule.clone(), *look_unix_ms, false)
            }
            Change::Remove { .. } => {
                let is_nothing = !seen.is_unsure && (seen.revision.number == 0 || seen.revision.is_mark);
                if is_nothing {
                    return self.clear_aside(key).await;
                }
                (Bytes::new(), None, true)
            }
        };
        let name = entry::topic(key);
        for _ in 0..TRIES {
            let number = self.next_write();
            let by = Some((self.me.clone(), number));
            let head = Head {
                by,
                look_unix_ms,
                is_mark,
            };
            let sent = self
                .send(&name, &head, capsule.clone(), Some(seen.revision.number))
                .await;
            let why = match sent {
                Sent::Made(revision) => return self.made(key, fence, revision, &head).await,
                Sent::Failed(error) => return Err(error),
                Sent::Refused => None,
                Sent::Unsure(why) => Some(why),
            };
            match (self.last(&name).await, why) {
                (Ok(Some(last)), _) if last.head.by == head.by => {
                    return self.made(key, fence, last.revision, &head).await;
                }
                // An earlier write of this node, of which nobody knew, was made after all. So this one is not.
                (Ok(Some(last)), _)
                    if seen.is_unsure && last.head.is_by(&self.me) && last.revision != seen.revision.number =>
                {
                    seen = self.seen(&last);
                }
                // The mark of a forgotten topic was cleared.
                (Ok(None), None) if seen.revision.is_mark => seen = Seen::default(),
                (Ok(last), Some(why)) if last.as_ref().is_none_or(|last| last.revision == seen.revision.number) => {
                    return Err(self.is_unsure(key, fence, seen, why));
                }
                (Err(error), Some(_)) => return Err(self.is_unsure(key, fence, seen, error.to_string())),
                (Err(error), None) => return Err(error),
                (Ok(_), _) => return Err(StoreError::Superseded),
            }
        }
        Err(StoreError::Superseded)
    }

    /// What is known of an entry, if it is in the store that there is now.
    fn current(&self, seen: Seen) -> Seen {
        match seen.revision.store == self.store.load(Ordering::Acquire) {
            true => seen,
            // NATS has lost what was stored, and the topic with it, but for what is in memory here.
            false => Seen::default(),
        }
    }

    /// A change is made.
    async fn made(&self, key: &Key, fence: &Fence, number: u64, head: &Head) -> Result<(), StoreError> {
        let revision = Revision {
            number,
            is_mark: head.is_mark,
            store: self.store.load(Ordering::Acquire),
        };
        fence.set(Seen {
            revision,
            is_unsure: false,
        });
        self.unsure().remove(key);
        if head.is_mark {
            self.clear_aside(key).await?;
            self.index.forget(key.clone(), number, false);
        } else {
            self.index.put(key.clone(), number, head.look_unix_ms);
        }
        Ok(())
    }

    async fn clear_aside(&self, key: &Key) -> Result<(), StoreError> {
        if !self.index.has_aside(key) {
            return Ok(());
        }
        let cleared = self.clear(&entry::aside(key, None), None).await;
        cleared.map_err(|why| self.unavailable(format!("what was set aside stays: {why}")))?;
        self.index.clear_aside(key);
        Ok(())
    }

    /// Nobody knows whether a change is made. Whoever writes or takes the topic next finds out.
    fn is_unsure(&self, key: &Key, fence: &Fence, seen: Seen, why: String) -> StoreError {
        fence.set(Seen {
            is_unsure: true,
            ..seen
        });
        self.unsure().insert(key.clone());
        self.unavailable(why)
    }

    /// What is known after this entry was read.
    pub(super) fn seen(&self, last: &Last) -> Seen {
        let revision = Revision {
            number: last.revision,
            is_mark: last.head.is_mark,
            store: self.store.load(Ordering::Acquire),
        };
        Seen {
            revision,
            is_unsure: false,
        }
    }

    pub(super) fn next_write(&self) -> u64 {
        self.last_write.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Keeps a copy of what is stored of a topic.
    async fn set_aside(&self, key: &Key, version: u32) -> Result<(), StoreError> {
        let Some(last) = self.last(&entry::topic(key)).await?.filter(|last| !last.head.is_mark) else {
            return Ok(());
        };
        let head = Head {
            by: Some((self.me.clone(), self.next_write())),
            look_unix_ms: None,
            is_mark: false,
        };
        match self
            .send(&entry::aside(key, Some(version)), &head, last.capsule, None)
            .await
        {
            Sent::Made(_) => {
                self.index.put_aside(key.clone(), version);
                Ok(())
            }
            Sent::Failed(error) => Err(error),
            // The next try writes the same.
            Sent::Unsure(why) => Err(self.unavailable(why)),
            Sent::Refused => Err(StoreError::Superseded),
        }
    }

    /// Sends an entry, in the place of the one with the revision `over`.
    pub(super) async fn send(&self, key: &str, head: &Head, capsule: Bytes, over: Option<u64>) -> Sent {
        let subject = self.subject(key);
        if subject.len() > MOST_SUBJECT {
            return Sent::Failed(self.unavailable("the name of this topic is too long for a subject of NATS"));
        }
        if self.client.connection_state() != async_nats::connection::State::Connected {
            return Sent::Failed(self.unavailable("NATS cannot be reached"));
        }
        let bytes = capsule.len();
        let message = PublishMessage::build().payload(capsule).headers(head.headers());
        let message = match over {
            Some(over) => message.expected_last_subject_sequence(over),
            None => message,
        };
        let sent = match self.context.send_publish(subject, message).await {
            Ok(sent) => sent.await,
            Err(error) if error.kind() == PublishErrorKind::TimedOut => Err(error),
            Err(error) => return Sent::Failed(self.failed(&error, bytes)),
        };
        match sent {
            Ok(_) if fault::loses_ack() => Sent::Unsure("lost on purpose".to_owned()),
            Ok(ack) => Sent::Made(ack.sequence),
            Err(error) => match error.kind() {
                PublishErrorKind::WrongLastSequence => Sent::Refused,
                PublishErrorKind::TimedOut | PublishErrorKind::BrokenPipe => {
                    Sent::Unsure("NATS does not say whether it is stored".to_owned())
                }
                PublishErrorKind::StreamNotFound => {
                    self.again.notify_one();
                    Sent::Failed(self.unavailable("there is no such bucket any more"))
                }
                _ => Sent::Failed(self.failed(&error, bytes)),
            },
        }
    }

    fn failed(&self, error: &PublishError, bytes: usize) -> StoreError {
        if error.kind() == PublishErrorKind::MaxPayloadExceeded {
            let most = self.client.max_payload();
            return StoreError::TooLarge { bytes, most };
        }
        let said = error
            .source()
            .and_then(|source| source.downcast_ref::<async_nats::jetstream::Error>());
        match said {
            Some(said)
                if said.error_code() == ErrorCode::STREAM_STORE_FAILED
                    && said.to_string().contains("maximum bytes") =>
            {
                StoreError::Full {
                    place: self.place(),
                    bytes: self.bytes.load(Ordering::Relaxed),
                    max_bytes: self.max_bytes,
                }
            }
            _ => self.unavailable(error.to_string()),
        }
    }
}
