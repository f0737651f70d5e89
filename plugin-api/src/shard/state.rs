//! How a shard writes a topic's state and reads it.

use super::members::Members;
use super::{Done, Fault, Member, Shard, Topic, no_topic};
use crate::abi::{effect, flag, reason};
use crate::channel::{Channel, MigrateError, read_member, read_shared, write_member, write_shared};
use crate::connect::Connect;
use crate::context::Context;
use crate::glue::{Effect, Incoming};
use crate::panics::catch;
use crate::plugin::Plugin;

impl<C: Channel<P>, G: Connect<P>, P: Plugin> Shard<C, G, P> {
    pub(super) fn snapshot(&mut self, event: &Incoming<'_>) -> Done {
        let Self { topics, cx, .. } = self;
        let topic = topics.get(&event.topic).ok_or_else(no_topic)?;
        cx.enter(event.topic, &topic.name, 0, None);
        let mut bytes = Vec::new();
        write_state(0, |bytes| write_shared::<C, P>(&topic.shared, bytes), &mut bytes, cx)?;
        let members = (event.number != ONLY_SHARED).then_some(&topic.members);
        for (number, member) in members.into_iter().flat_map(Members::iter) {
            match catch(|| {
                write_state(
                    number,
                    |bytes| write_member::<C, P>(&member.state, bytes),
                    &mut bytes,
                    cx,
                )
            }) {
                Ok(written) => written?,
                // Only this member's channel ends; the others go on. An older host refuses that, and gets no state at all.
                Err(panic) if cx.emit_stop(number, reason::PANICKED, &panic) < 0 => return Err(Fault::Panicked(panic)),
                Err(_) => {}
            }
        }
        Ok(())
    }

    pub(super) fn restore(&mut self, event: &Incoming<'_>) -> Done {
        let shared = read_shared::<C, P>(version(event), event.payload.bytes())
            .map_err(|error| Fault::Failed(format!("the topic's state: {error}")))?;
        self.topics.insert(event.topic, Topic::new(event.name, shared));
        Ok(())
    }

    pub(super) fn restore_member(&mut self, event: &Incoming<'_>) -> Done {
        let info = self.infos.read(event.info).map_err(Fault::Failed)?;
        let topic = self.topics.get_mut(&event.topic).ok_or_else(no_topic)?;
        let state = read_member::<C, P>(version(event), event.payload.bytes())
            .map_err(|error| Fault::Failed(format!("a member's state: {error}")))?;
        topic.members.insert(event.member, Member { state, info });
        Ok(())
    }

    pub(super) fn restored(&mut self, event: &Incoming<'_>) -> Done {
        let Self { topics, cx, .. } = self;
        let topic = topics.get_mut(&event.topic).ok_or_else(no_topic)?;
        cx.enter(event.topic, &topic.name, 0, None);
        C::restored(&mut topic.shared, cx);
        cx.emit_stops();
        Ok(())
    }

    pub(super) fn closing(&mut self, event: &Incoming<'_>) -> Done {
        let Self { topics, cx, .. } = self;
        let topic = topics.get_mut(&event.topic).ok_or_else(no_topic)?;
        cx.enter(event.topic, &topic.name, 0, None);
        cx.last_word = true;
        C::closing(&mut topic.shared, cx);
        cx.emit_stops();
        Ok(())
    }
}

/// The `number` of a `SNAPSHOT` without members.
const ONLY_SHARED: u64 = 1;

fn write_state<P>(
    member: u64,
    write: impl FnOnce(&mut Vec<u8>) -> Result<(), MigrateError>,
    bytes: &mut Vec<u8>,
    cx: &Context<P>,
) -> Done {
    let whose = if member == 0 {
        "the topic's state"
    } else {
        "a member's state"
    };
    bytes.clear();
    write(bytes).map_err(|error| Fault::Failed(format!("{whose}: {error}")))?;
    let effect = Effect {
        kind: effect::STATE,
        flags: flag::BINARY,
        member,
        payload: bytes,
        ..Effect::default()
    };
    if cx.emit(&effect) < 0 {
        return Err(Fault::Failed(format!(
            "{whose}: refused by the host, {} bytes",
            bytes.len()
        )));
    }
    Ok(())
}

fn version(event: &Incoming<'_>) -> u32 {
    u32::try_from(event.number).unwrap_or(u32::MAX)
}
