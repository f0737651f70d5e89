//! How a stored topic comes into memory.

use std::sync::Arc;
use std::time::Duration;

use bennu_wire::message::{Payload, reason};
use bytestring::ByteString;

use super::{Durable, Written, is_over};
use crate::runtime::capsule::{Capsule, Fence};
use crate::runtime::channel::{Called, Input, Record, StoredState, Timer, Topic};
use crate::runtime::client_lines::{Source, client_line};
use crate::runtime::clock::unix_ms;
use crate::runtime::plugin::env::Env;
use crate::runtime::plugin::handover::{self, Move};
use crate::runtime::plugin::hub::Hub;
use crate::runtime::plugin::loader::{ShardInstance, said};
use crate::runtime::plugin::shard::{Control, Shard};
use crate::runtime::plugin::slot::PluginSlot;
use crate::runtime::store::{Change, Found, Waking};

/// A stored topic on its way to its shard. Its mailbox is held.
#[derive(Debug)]
pub(crate) struct Woken {
    topic: Arc<Topic>,
    /// What the store has of it, if it has anything.
    capsule: Option<Capsule>,
    fence: Option<Arc<Fence>>,
    _waking: Waking,
}

/// The store has answered: `found` has the capsule, or what clients are told and why it cannot be read. Called on the store's thread.
pub(super) fn found(
    topic: &Arc<Topic>,
    found: Result<Found, (&'static str, String)>,
    waking: Waking,
    slot: &Arc<PluginSlot>,
    hub: &Arc<Hub>,
) {
    let env = Env::without_code(slot, hub);
    let read = found.and_then(|Found { capsule, fence }| {
        let read = capsule.map(|bytes| Capsule::decode(&bytes)).transpose();
        let capsule = read.map_err(|error| (reason::UNREADABLE, error.to_string()))?;
        Ok((capsule, fence))
    });
    match read {
        Ok((mut capsule, fence)) => {
            if let Some(durable) = slot.durable()
                && capsule.take_if(|capsule| is_over(capsule, slot)).is_some()
            {
                let (key, fence) = (durable.key(&topic.name), fence.clone());
                durable.store.write(vec![Change::Remove { key, fence }], |_| ());
            }
            let woken = Woken {
                topic: Arc::clone(topic),
                capsule,
                fence,
                _waking: waking,
            };
            dispatch(woken, &env);
        }
        Err((reason::NODE_UNAVAILABLE, why)) => {
            tracing::debug!(
                topic = &*said(&topic.name),
                why,
                "a topic does not come into memory here"
            );
            refuse(topic, &env, reason::NODE_UNAVAILABLE);
        }
        Err((told, why)) => unreadable(topic, told, &why, &env),
    }
}

/// Gives a topic to the shard that serves it now.
pub(in crate::runtime::plugin) fn dispatch(woken: Woken, env: &Env) {
    let Some(current) = env.slot.current() else {
        return refuse(&woken.topic, env, reason::UNAVAILABLE);
    };
    let shard = env.slot.shard_of(&woken.topic, &current);
    if let Err(Control::Wake(woken)) = shard.control(Control::Wake(Box::new(woken))) {
        refuse(&woken.topic, env, reason::UNAVAILABLE);
    }
}

/// The shard's half: the plugin reads the state, and the topic goes on.
pub(in crate::runtime::plugin) fn wake(shard: &Arc<Shard>, woken: Woken, instance: &mut ShardInstance, env: &Env) {
    if { env.slot.current() }.is_none_or(|current| current.number != env.generation) {
        return dispatch(woken, env);
    }
    let topic = Arc::clone(&woken.topic);
    let fence = woken.fence;
    let Some(capsule) = woken.capsule else {
        let epoch = {
            let mut record = topic.record();
            record.stored = fence.map(|fence| Box::new(StoredState::fenced(fence)));
            record.epoch
        };
        topic.release(&shard.queue, Vec::new());
        // If nobody joins with what has waited, the topic closes behind it.
        return topic.owe(Input::Linger { epoch });
    };
    let (state, reads) = (&capsule.state, &env.code.reads);
    if !reads.contains(&state.version) {
        let why = format!(
            "it has state of version {}, and the code in service reads versions {} to {}",
            state.version,
            reads.start(),
            reads.end()
        );
        return unreadable(&topic, reason::UNREADABLE, &why, env);
    }
    match handover::read_from_store(shard, &topic, state, instance, env) {
        // Another thread has refused what waits.
        None => {}
        Some(Err(why)) => unreadable(&topic, reason::UNREADABLE, &why, env),
        Some(Ok(())) => go_on(&topic, capsule, fence, shard, env),
    }
}

fn go_on(topic: &Arc<Topic>, capsule: Capsule, fence: Option<Arc<Fence>>, shard: &Arc<Shard>, env: &Env) {
    let Some(durable) = env.slot.durable() else { return };
    topic.set_handled(capsule.state.handled);
    let mut first = vec![Input::Restored];
    let mut record = topic.record();
    let Written { hash, version } = durable.known(&capsule);
    record.live = true;
    record.stored = Some(Box::new(StoredState {
        hash: Some(hash),
        version,
        fence,
        ..StoredState::default()
    }));
    for timer in capsule.timers {
        first.extend(set_timer(topic, &mut record, timer, env));
    }
    env.linger(topic, &mut record);
    drop(record);
    env.slot.stats.woken_topics.inc();
    topic.release(&shard.queue, first);
    // Other code may have come into service while this was read.
    if let Some(moving) = Move::late(topic, env) {
        let _ = shard.control(Control::Give(Box::new(moving)));
    }
}

/// Sets a timer of a topic that has come into memory again. Returns its message if it is due already.
pub(in crate::runtime::plugin) fn set_timer(
    topic: &Arc<Topic>,
    record: &mut Record,
    timer: crate::runtime::capsule::Timer,
    env: &Env,
) -> Option<Input> {
    let number = env.hub.timers.number();
    let rest = timer.due_unix_ms.saturating_sub(unix_ms());
    let (name, payload) = (ByteString::from(&*timer.name), timer.payload.clone());
    let payload = if timer.binary {
        Payload::Binary(payload)
    } else {
        Payload::Json(payload)
    };
    let input = Input::Info {
        member: None,
        name,
        payload,
        timer: Some(number),
    };
    let (member, stored) = (None, Some(Box::new(timer)));
    record.timers.insert(number, Timer { member, stored });
    if rest == 0 {
        return Some(input);
    }
    let rest = Duration::from_millis(rest);
    env.hub.timers.set(number, rest, Arc::downgrade(topic), input);
    None
}

/// The stored state cannot be read: nothing is changed, and whoever waits for it is refused.
fn unreadable(topic: &Arc<Topic>, told: &'static str, why: &str, env: &Env) {
    let plugin = &env.slot.name;
    env.slot.stats.unreadable_topics.inc();
    client_line!(
        ERROR,
        env.hub.client_lines,
        "unreadable",
        Source::Plugin(plugin.as_str().into()),
        plugin,
        topic = &*said(&topic.name),
        "stored topic not readable, so its joins are refused: {why}. What is stored stays as it is"
    );
    refuse(topic, env, told);
}

/// Takes a topic out of memory before it has come there. Whoever waits for it is told why.
pub(in crate::runtime::plugin) fn refuse(topic: &Arc<Topic>, env: &Env, why: &'static str) {
    for input in env.slot.withdraw(topic) {
        match input {
            Input::Join { member, .. } => env.refuse(member, Payload::reason(why)),
            Input::In {
                member,
                join_ref,
                msg_ref,
                ..
            } => env.orphan(topic, member, join_ref, msg_ref),
            Input::Call { caller, .. } => caller.answer(Called::Unstored(why)),
            Input::End(ending) => {
                if let Some(leave) = &ending.leave {
                    env.left(topic, ending.member, leave);
                }
                env.farewell(&ending);
            }
            Input::Info { .. } => drop(env.hub.metrics.undelivered.inc()),
            _ => {}
        }
    }
}

impl Durable {
    /// What is known of a state that was stored.
    fn known(&self, capsule: &Capsule) -> Written {
        Written {
            hash: self.hash(&capsule.state, &capsule.timers),
            version: capsule.state.version,
        }
    }
}
