//! A topic comes from another node: it is made here, held, and its plugin reads the state.
//!
//! [`Arriving`] has its shard do that. What comes of it, [`Arrived`], waits until this node is the topic's home: it
//! [goes on](Arrived::go_on), or, if this is dropped, is forgotten. The members that it had are members here for a moment, under
//! numbers that reach nobody: the plugin ends them before anything else, as it would have ended them where they were.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bennu_plugin::abi::reason;
use bennu_wire::message;
use bytes::Bytes;
use bytestring::ByteString;

use super::{Move, NOT_ALL_READ, Written, events, forget};
use crate::runtime::capsule::Capsule;
use crate::runtime::channel::{Ending, Input, Member, Notice, Topic};
use crate::runtime::clock;
use crate::runtime::id::MemberId;
use crate::runtime::plugin::abandon::{self, HUNG};
use crate::runtime::plugin::durable;
use crate::runtime::plugin::env::Env;
use crate::runtime::plugin::hub::Hub;
use crate::runtime::plugin::loader::ShardInstance;
use crate::runtime::plugin::shard::{Control, Shard, Work};
use crate::runtime::plugin::slot::{JoinRefused, PluginSlot};

/// How long a topic stays without members if it had some where it was: clients have to connect and to join again, and they wait
/// longer after each failure.
const RETURN: Duration = Duration::from_secs(60);

/// A topic whose state is to be read here.
pub(crate) struct Arriving {
    topic: Arc<Topic>,
    capsule: Capsule,
    tell: Box<dyn FnOnce(Result<Arrived, NotTaken>) + Send>,
}

/// Why a topic is not taken.
#[derive(Debug)]
pub(crate) enum NotTaken {
    /// It may be taken later: an earlier life of it has not ended here.
    Busy,
    /// This node cannot read or hold it, for this reason.
    Refused(String),
}

/// A topic that is held, and read.
#[derive(Debug)]
pub(crate) struct Arrived {
    topic: Arc<Topic>,
    capsule: Capsule,
    members: Vec<(MemberId, Bytes, Bytes)>,
    shard: Arc<Shard>,
    env: Env,
    /// It is released, or has ended.
    is_over: bool,
}

impl Arriving {
    /// Makes the topic of `capsule` here, held, and has its plugin read it. `tell` is called once, on any thread.
    pub(crate) fn begin(
        hub: &Arc<Hub>,
        slot: &Arc<PluginSlot>,
        capsule: Capsule,
        tell: impl FnOnce(Result<Arrived, NotTaken>) + Send + 'static,
    ) {
        let refused = |why: &str| Err(NotTaken::Refused(why.to_owned()));
        let name = ByteString::from(&*capsule.topic);
        match slot.receive(&name, || hub.number()) {
            Ok(Some(topic)) => {
                let tell = Box::new(tell);
                let arriving = Self { topic, capsule, tell };
                arriving.dispatch(&Env::without_code(slot, hub));
            }
            Ok(None) => tell(Err(NotTaken::Busy)),
            Err(JoinRefused::Overloaded) => tell(refused("as many topics are there as `max_topics` allows")),
            Err(JoinRefused::Unavailable | JoinRefused::NoNode) => tell(refused(NO_CODE)),
        }
    }

    /// Which.
    pub(in crate::runtime::plugin) fn topic(&self) -> &Topic {
        &self.topic
    }

    /// Gives it to the shard that serves it now.
    pub(in crate::runtime::plugin) fn dispatch(self, env: &Env) {
        let Some(current) = env.slot.current() else {
            return self.refuse(NO_CODE, env);
        };
        let shard = env.slot.shard_of(&self.topic, &current);
        if let Err(Control::Arrive(arriving)) = shard.control(Control::Arrive(Box::new(self))) {
            arriving.refuse(HUNG, env);
        }
    }

    /// It is not taken: nothing of it stays here.
    pub(in crate::runtime::plugin) fn refuse(self, why: &str, env: &Env) {
        durable::refuse(&self.topic, env, message::reason::NODE_UNAVAILABLE);
        (self.tell)(Err(NotTaken::Refused(why.to_owned())));
    }

    /// The shard's part.
    pub(in crate::runtime::plugin) fn read(self, shard: &Arc<Shard>, instance: &mut ShardInstance, env: &Env) {
        if { env.slot.current() }.is_none_or(|current| current.number != env.generation) {
            return self.dispatch(env);
        }
        let topic = Arc::clone(&self.topic);
        let (version, reads) = (self.capsule.state.version, &env.code.reads);
        if !reads.contains(&version) {
            let (from, to) = (reads.start(), reads.end());
            let why = format!(
                "it has state of version {version}, and the code in service there reads versions {from} to {to}"
            );
            return self.refuse(&why, env);
        }
        let nobody = env.hub.pubsub.nodes();
        let states = self.capsule.state.members.iter();
        let members: Vec<(MemberId, Bytes, Bytes)> = (1..)
            .zip(states)
            .map(|(serial, known)| {
                // No link has the session 0, so what is sent there reaches nobody.
                let member = MemberId::new(nobody, 0, serial);
                (member, known.info.clone(), known.state.clone())
            })
            .collect();
        // The plugin borrows these, so they stay here, even if another thread takes the rest.
        let shared = self.capsule.state.shared.clone();
        let events = events(&topic, version, &shared, &members);
        let mut read = Written::default();
        shard.begin(Work::Arrive(self));
        if instance.handle(&events, &mut read).is_err() {
            return;
        }
        let Some(Work::Arrive(arriving)) = shard.end() else {
            return;
        };
        let why = { read.failure() }.or_else(|| (read.done < events.len()).then(|| NOT_ALL_READ.to_owned()));
        if let Some(why) = why {
            forget(shard, &topic, instance, env);
            return arriving.refuse(&why, env);
        }
        (arriving.tell)(Ok(Arrived {
            topic,
            capsule: arriving.capsule,
            members,
            shard: Arc::clone(shard),
            env: env.clone(),
            is_over: false,
        }));
    }
}

/// Why it cannot be read.
const NO_CODE: &str = "its plugin is not in service there";

impl fmt::Debug for Arriving {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("Arriving");
        shown.field("topic", &self.topic.name).finish_non_exhaustive()
    }
}

impl Arrived {
    /// This node is its home: it handles its timers that are due, and whatever has come for it.
    pub(crate) fn go_on(mut self) {
        self.is_over = true;
        let Self { topic, shard, env, .. } = &self;
        let state = &self.capsule.state;
        topic.set_handled(state.handled);
        let mut record = topic.record();
        record.live = true;
        record.stays_until = self.capsule.in_use.then(|| clock::now() + RETURN);
        let mut first = Vec::new();
        for (member, info, _) in &self.members {
            record.members.insert(*member, Member::Joined(info.clone()));
            first.push(Input::End(Ending::new(*member, reason::CLOSED, Notice::None)));
        }
        first.push(Input::Restored);
        for timer in self.capsule.timers.clone() {
            first.extend(durable::set_timer(topic, &mut record, timer, env));
        }
        if let Some(durable) = env.slot.durable() {
            first.push(durable.arrived(&self.capsule, &mut record));
        }
        env.linger(topic, &mut record);
        drop(record);
        topic.release(&shard.queue, first);
        if shard.is_closed() {
            return abandon::sweep(shard, env);
        }
        // Other code may have come into service meanwhile.
        if let Some(moving) = Move::late(topic, env) {
            let _ = shard.control(Control::Give(Box::new(moving)));
        }
    }
}

impl Drop for Arrived {
    fn drop(&mut self) {
        if self.is_over {
            return;
        }
        durable::refuse(&self.topic, &self.env, message::reason::NODE_UNAVAILABLE);
        // A shard that is closed has forgotten everything.
        let _ = self.shard.control(Control::Forget(Arc::clone(&self.topic)));
    }
}
