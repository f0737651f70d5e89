//! What other nodes ask this one: each question is a task, until its answer has left or nobody waits for it any more.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_nats::Message;
use bytes::Bytes;

use super::part::{Part, Whole};
use super::{Asker, Asks, Held};
use crate::cluster::answers::NoAnswer;
use crate::runtime::clock;

/// How long the next part of a question may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// A question of which parts are missing.
#[derive(Debug)]
pub(super) struct Partial {
    whole: Whole,
    heard: Instant,
    held: Held,
}

/// A question that is being answered, until it is dropped.
struct Work {
    asks: Arc<Asks>,
    asker: Asker,
    _held: Held,
}

impl Drop for Work {
    fn drop(&mut self) {
        self.asks.at_work().remove(&self.asker);
    }
}

impl Asks {
    /// Takes a part of a question. What no node of this cluster can have sent is counted, and nothing else.
    pub(super) fn take_question(self: &Arc<Self>, message: Message, partial: &mut HashMap<Asker, Partial>) {
        let asker = { message.reply.as_ref() }.and_then(|reply| Asker::read(&self.config.name, reply));
        let (Some(asker), Some(part)) = (asker, Part::read(&message.payload)) else {
            return self.foreign();
        };
        match part {
            Part::Bytes {
                total,
                offset: 0,
                bytes,
            } => match self.room(total) {
                Ok(held) => {
                    let begun = Partial {
                        whole: Whole::new(total),
                        heard: clock::now(),
                        held,
                    };
                    self.go_on(asker, begun, (total, 0, &bytes), partial);
                }
                Err(why) => self.refuse(asker, why),
            },
            Part::Bytes { total, offset, bytes } => {
                // None: it was refused, or one part was lost.
                if let Some(begun) = partial.remove(&asker) {
                    self.go_on(asker, begun, (total, offset, &bytes), partial);
                }
            }
            Part::NeverMind => {
                partial.remove(&asker);
                let work = self.at_work().get(&asker).cloned();
                if let Some(work) = work {
                    work.abort();
                }
            }
            Part::NoAnswer(_) => self.foreign(),
        }
    }

    /// Room for a question of so many bytes.
    fn room(self: &Arc<Self>, total: u32) -> Result<Held, NoAnswer> {
        if total as usize > self.config.max_item_bytes {
            return Err(NoAnswer::TooLarge);
        }
        if self.at_work().len() >= self.config.max_questions {
            return Err(NoAnswer::TooMany);
        }
        self.hold(total as usize).ok_or(NoAnswer::TooMany)
    }

    fn go_on(
        self: &Arc<Self>,
        asker: Asker,
        mut begun: Partial,
        (total, offset, bytes): (u32, u32, &Bytes),
        partial: &mut HashMap<Asker, Partial>,
    ) {
        match begun.whole.add(total, offset, bytes) {
            Ok(Some(question)) => self.begin(asker, question, begun.held),
            Ok(None) => {
                begun.heard = clock::now();
                partial.insert(asker, begun);
            }
            Err(_) => self.foreign(),
        }
    }

    fn begin(self: &Arc<Self>, asker: Asker, question: Bytes, held: Held) {
        self.shared.counts.questions_in.inc();
        let work = Work {
            asks: Arc::clone(self),
            asker,
            _held: held,
        };
        let task = self.handle.spawn(work.carry_out(question));
        // It has not run yet: both are on one thread.
        self.at_work().insert(asker, task.abort_handle());
    }

    /// Tells another node that it gets no answer.
    fn refuse(self: &Arc<Self>, asker: Asker, why: NoAnswer) {
        let asks = Arc::clone(self);
        self.handle
            .spawn(async move { asks.publish(&asks.told(asker), None, &Part::NoAnswer(why)).await });
    }

    /// Forgets questions of which no more parts come.
    pub(super) fn forget_old(&self, partial: &mut HashMap<Asker, Partial>) {
        let now = clock::now();
        partial.retain(|_, begun| now.saturating_duration_since(begun.heard) < PATIENCE);
    }
}

impl Work {
    async fn carry_out(self, question: Bytes) {
        let asks = &self.asks;
        let told = asks.told(self.asker);
        let sent = match asks.answers.answer(question).await {
            Some(answer) => match asks.hold(answer.len()) {
                Some(_held) => asks.send(&told, None, &answer).await,
                None => Err(NoAnswer::TooMany),
            },
            None => {
                asks.foreign();
                Err(NoAnswer::Unknown)
            }
        };
        if let Err(why) = sent {
            if why == NoAnswer::TooLarge {
                tracing::warn!("an answer to another node has more bytes than `[cluster] max_item_bytes` allows");
            }
            // If the broker is away, the other node notices for itself.
            let _ = asks.publish(&told, None, &Part::NoAnswer(why)).await;
        }
    }
}
