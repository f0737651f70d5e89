//! Effects that wait until the state that they follow from is stored.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use bennu_wire::message::Payload;
use bytestring::ByteString;

use crate::runtime::channel::{Called, Caller};
use crate::runtime::delivery::Delivery;
use crate::runtime::id::MemberId;
use crate::runtime::plugin::env::Env;

/// The effects of one batch, in order, each with the topic that it comes from.
#[derive(Debug, Default)]
pub(crate) struct Held {
    /// The index of the topic at hand.
    topic: AtomicUsize,
    acts: Mutex<Vec<(usize, Act)>>,
}

/// What others see of an event.
#[derive(Debug)]
pub(crate) enum Act {
    /// Something for one client.
    Send(MemberId, Delivery),
    /// A broadcast.
    Broadcast {
        /// The topic itself.
        topic: ByteString,
        /// The event.
        event: ByteString,
        /// Its payload.
        payload: Payload,
        /// The member that does not receive it.
        except: Option<MemberId>,
    },
    /// A broadcast to another topic.
    BroadcastTo {
        /// Which.
        topic: ByteString,
        /// The event.
        event: ByteString,
        /// Its payload.
        payload: Payload,
    },
    /// A message to another topic.
    SendTo {
        /// Which.
        topic: ByteString,
        /// The name of the message.
        name: ByteString,
        /// Its payload.
        payload: Payload,
    },
    /// The answer to a backend.
    Answer(Caller, Called),
}

impl Held {
    /// What follows comes from this topic.
    pub(in crate::runtime::plugin) fn about(&self, topic: usize) {
        self.topic.store(topic, Ordering::Relaxed);
    }

    /// Keeps an effect.
    pub(in crate::runtime::plugin) fn keep(&self, act: Act) {
        let topic = self.topic.load(Ordering::Relaxed);
        self.acts
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push((topic, act));
    }

    /// Takes all of them, by topic.
    pub(super) fn take(&self, topics: usize) -> Vec<Vec<Act>> {
        let mut by_topic: Vec<Vec<Act>> = (0..topics).map(|_| Vec::new()).collect();
        let acts = std::mem::take(&mut *self.acts.lock().unwrap_or_else(PoisonError::into_inner));
        for (topic, act) in acts {
            by_topic[topic].push(act);
        }
        by_topic
    }
}

impl Act {
    /// The effect takes place.
    pub(super) fn take_place(self, env: &Env) {
        match self {
            Self::Send(member, delivery) => env.send(member, delivery),
            Self::Broadcast {
                topic,
                event,
                payload,
                except,
            } => env.broadcast(topic, event, payload, except),
            Self::BroadcastTo { topic, event, payload } => env.broadcast_to(topic, event, payload),
            Self::SendTo { topic, name, payload } => env.send_to(&topic, name, payload),
            Self::Answer(caller, called) => caller.answer(called),
        }
    }

    /// The effect does not take place. Whoever waits for an answer is told why. Returns the member whose join is refused.
    pub(super) fn fail(self, env: &Env, why: &'static str) -> Option<MemberId> {
        match self {
            Self::Send(_, Delivery::Joined { member, .. }) => {
                env.refuse(member, Payload::reason(why));
                return Some(member);
            }
            Self::Send(_, Delivery::Reply { member, msg_ref, .. }) => env.reply_error(member, msg_ref, why),
            // They tell of nothing that could be lost.
            Self::Send(
                member,
                delivery @ (Delivery::Refused { .. }
                | Delivery::Orphan { .. }
                | Delivery::Ended { .. }
                | Delivery::Gone { .. }),
            ) => env.send(member, delivery),
            Self::Answer(caller, _) => caller.answer(Called::Unstored(why)),
            Self::Send(_, Delivery::Push { .. } | Delivery::Broadcast(_))
            | Self::Broadcast { .. }
            | Self::BroadcastTo { .. }
            | Self::SendTo { .. } => {}
        }
        None
    }
}
