//! A topic leaves for another node: it is held here, and written.
//!
//! [`Departing`] has its shard do that. What comes of it, [`Departed`], keeps the topic held until somebody knows where it lives: it
//! [leaves](Departed::leave), or, if this is dropped, goes on here as if nothing had happened. Its members do not end before it
//! leaves. They go along in the capsule, and the plugin ends them at the new home.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bennu_plugin::abi::event;
use bennu_wire::message::reason;
use bytes::Bytes;
use bytestring::ByteString;

use super::{Move, Written, Wrote, ends_after, plain, with_infos};
use crate::runtime::capsule::{Capsule, MemberState, Snapshot};
use crate::runtime::channel::{Called, Input, Topic};
use crate::runtime::clock::unix_ms;
use crate::runtime::plugin::abandon::{self, Told};
use crate::runtime::plugin::env::Env;
use crate::runtime::plugin::loader::ShardInstance;
use crate::runtime::plugin::shard::{Control, Shard, Work};
use crate::runtime::plugin::slot::PluginSlot;

/// A topic that is asked to leave.
pub(crate) struct Departing {
    topic: Arc<Topic>,
    terms: Terms,
    tell: Box<dyn FnOnce(Answer) + Send>,
}

/// The topic, held, and its capsule.
type Answer = Result<(Departed, Bytes), Stays>;

/// On what terms a topic leaves.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Terms {
    /// How large its capsule may be.
    pub(crate) most_bytes: usize,
    /// It leaves even if it owes somebody an answer, who then gets an error.
    pub(crate) owing: bool,
}

/// Why a topic does not leave.
#[derive(Debug)]
pub(crate) enum Stays {
    /// It has ended.
    Gone,
    /// It may leave later: it owes somebody an answer, or moves to other code.
    Busy,
    /// It cannot be written, for this reason.
    Failed(String),
}

/// A topic that is held, and written.
#[derive(Debug)]
pub(crate) struct Departed {
    topic: Arc<Topic>,
    shard: Arc<Shard>,
    env: Env,
    since: Instant,
    /// It is released, or has ended.
    is_over: bool,
}

impl Departing {
    /// Asks a topic to leave. `tell` is called once, on any thread.
    pub(crate) fn ask(slot: &PluginSlot, topic: Arc<Topic>, terms: Terms, tell: impl FnOnce(Answer) + Send + 'static) {
        let shard = slot.shard_that_owns(&topic);
        let tell = Box::new(tell);
        let departing = Box::new(Self { topic, terms, tell });
        let refused = match shard {
            Some(shard) => shard.control(Control::Depart(departing)),
            None => Err(Control::Depart(departing)),
        };
        if let Err(Control::Depart(departing)) = refused {
            (departing.tell)(Err(Stays::Busy));
        }
    }

    /// Which.
    pub(in crate::runtime::plugin) fn topic(&self) -> &Arc<Topic> {
        &self.topic
    }

    /// It could not be written.
    pub(in crate::runtime::plugin) fn fail(self, why: &str) {
        (self.tell)(Err(Stays::Failed(why.to_owned())));
    }

    /// The shard's part.
    pub(in crate::runtime::plugin) fn write(self, shard: &Arc<Shard>, instance: &mut ShardInstance, env: &Env) {
        let topic = Arc::clone(&self.topic);
        if let Some(durable) = env.slot.durable()
            && durable.is_writing(&topic)
        {
            // What is on its way to the store counts there before the next home writes.
            let shard = Arc::clone(shard);
            return durable.store().write(Vec::new(), move |_| {
                if let Err(Control::Depart(departing)) = shard.control(Control::Depart(Box::new(self))) {
                    (departing.tell)(Err(Stays::Busy));
                }
            });
        }
        if !topic.hold(&shard.queue) {
            let found = env.slot.find(&topic.name);
            let is_there = found.is_some_and(|found| Arc::ptr_eq(&found, &topic));
            return (self.tell)(Err(if is_there { Stays::Busy } else { Stays::Gone }));
        }
        let mut departed = Departed {
            topic: Arc::clone(&topic),
            shard: Arc::clone(shard),
            env: env.clone(),
            since: Instant::now(),
            is_over: false,
        };
        let (live, owes, is_settled) = {
            let record = topic.record();
            let is_settled = record.stored.as_ref().is_none_or(|stored| stored.is_settled());
            (record.live, record.owes_anybody(), is_settled && !record.forgotten)
        };
        // What makes a topic live waits in its mailbox.
        if !live || !is_settled || (owes && !self.terms.owing) {
            drop(departed);
            return (self.tell)(Err(Stays::Busy));
        }
        let mut written = Written::default();
        shard.begin(Work::Depart(self));
        if instance
            .handle(&[plain(event::SNAPSHOT, &topic)], &mut written)
            .is_err()
        {
            // The thread that has abandoned the shard ends the topic, and tells.
            return departed.is_over = true;
        }
        let Some(Work::Depart(departing)) = shard.end() else {
            return departed.is_over = true;
        };
        let (terms, tell) = (departing.terms, departing.tell);
        match written.wrote(env.code.state_version, &topic) {
            Wrote::State(Some(state)) => {
                let capsule = capsule(&topic, state, env).encode();
                let (bytes, most) = (capsule.len(), terms.most_bytes);
                if bytes > most {
                    drop(departed);
                    return tell(Err(Stays::Failed(format!(
                        "it takes {bytes} bytes, and `max_item_bytes` in [cluster] allows {most}"
                    ))));
                }
                tell(Ok((departed, capsule)));
            }
            Wrote::State(None) => {
                drop(departed);
                tell(Err(Stays::Busy));
            }
            Wrote::Failed(why) => {
                drop(departed);
                tell(Err(Stays::Failed(why)));
            }
            Wrote::Panicked(panics) => {
                let ends = ends_after(&panics, &topic, env);
                // Those whose state cannot be written end first. Then it can be asked once more.
                let stays = match ends.is_empty() {
                    true => Stays::Failed(format!("the plugin panicked: {}", panics[0].message)),
                    false => Stays::Busy,
                };
                departed.release(ends);
                tell(Err(stays));
            }
        }
    }
}

impl fmt::Debug for Departing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("Departing");
        shown.field("topic", &self.topic.name).field("terms", &self.terms);
        shown.finish_non_exhaustive()
    }
}

/// A topic as it is now, with its members.
fn capsule(topic: &Topic, state: Snapshot, env: &Env) -> Capsule {
    let members = with_infos(topic, &state.members)
        .into_iter()
        .map(|(member, info, state)| MemberState { member, state, info });
    let members = members.collect();
    let record = topic.record();
    let fence = record.stored.as_ref().and_then(|stored| stored.fence.as_ref());
    Capsule {
        plugin: env.slot.name.clone(),
        topic: topic.name.to_string(),
        written_unix_ms: unix_ms(),
        in_use: !record.members.is_empty(),
        state: Snapshot { members, ..state },
        timers: record.own_timers(),
        revision: fence.map(|fence| fence.seen().revision),
    }
}

impl Departed {
    /// For how long it has been held.
    #[must_use]
    pub(crate) fn held(&self) -> Duration {
        self.since.elapsed()
    }

    /// Its name.
    #[must_use]
    pub(crate) fn name(&self) -> &ByteString {
        &self.topic.name
    }

    /// Its number in the ABI.
    #[must_use]
    pub(crate) fn number(&self) -> u64 {
        self.topic.number
    }

    /// The plugin that serves it.
    #[must_use]
    pub(crate) fn plugin(&self) -> &str {
        &self.env.slot.name
    }

    /// It lives elsewhere now, or nowhere: its members are told why, and what has waited for it is answered. Returns what plugins and
    /// backends had for it, which its new home may handle. The plugin only drops its copy.
    pub(crate) fn leave(mut self, why: &'static str) -> Vec<Input> {
        self.is_over = true;
        let waited = self.env.slot.withdraw(&self.topic);
        let (onward, waited): (VecDeque<_>, VecDeque<_>) = waited.into_iter().partition(goes_along);
        let told = Told {
            ended: why,
            refused: reason::NODE_UNAVAILABLE,
            called: Called::Unstored(why),
        };
        abandon::end_without_state(&self.topic, &waited, &told, &self.env);
        // A shard that is closed has forgotten everything.
        let _ = self.shard.control(Control::Forget(Arc::clone(&self.topic)));
        onward.into()
    }

    fn release(&mut self, first: Vec<Input>) {
        self.is_over = true;
        self.topic.release(&self.shard.queue, first);
        if self.shard.is_closed() {
            return abandon::sweep(&self.shard, &self.env);
        }
        // Other code may have come into service while it was held.
        if let Some(moving) = Move::late(&self.topic, &self.env) {
            let _ = self.shard.control(Control::Give(Box::new(moving)));
        }
    }
}

impl Drop for Departed {
    fn drop(&mut self) {
        if !self.is_over {
            self.release(Vec::new());
        }
    }
}

/// Whether an input has nothing to do with the members that end here. Timers are in the capsule.
fn goes_along(input: &Input) -> bool {
    match input {
        Input::Call { .. } => true,
        Input::Info { member, timer, .. } => member.is_none() && timer.is_none(),
        _ => false,
    }
}
