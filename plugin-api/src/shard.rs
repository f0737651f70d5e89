//! The topics of a shard, and what each kind of event does to them.
//!
//! A panic passes through to `glue`, which reports it. The shard catches one itself only where one event visits several
//! members, or where a value has to be dropped in any case.

mod connect;
mod members;
mod state;
mod topic;

use std::collections::HashMap;
use std::marker::PhantomData;
use std::sync::Arc;

use self::topic::{Member, Topic};
use crate::abi::{effect, event, reason};
use crate::channel::Channel;
use crate::connect::{Connect, ConnectContext};
use crate::context::Context;
use crate::glue::{Calls, Effect, Generation, Incoming};
use crate::info::Infos;
use crate::log;
use crate::panics::{catch, drop_caught};
use crate::plugin::Plugin;
use crate::reply::{Handled, Reason, Refusal, Reply};

/// The topics of one shard, and the members in them.
pub(crate) struct Shard<C: Channel<P>, G, P: Plugin> {
    topics: HashMap<u64, Topic<C, C::Shared>>,
    cx: Context<P>,
    connect: ConnectContext<P>,
    infos: Infos,
    gate: PhantomData<fn() -> G>,
}

/// How the handling of an event failed.
#[derive(Debug)]
pub(crate) enum Fault {
    Panicked(String),
    Failed(String),
    Unknown,
}

impl Fault {
    pub(crate) fn message(&self) -> &str {
        match self {
            Self::Panicked(message) | Self::Failed(message) => message,
            Self::Unknown => "unknown event",
        }
    }
}

type Done = Result<(), Fault>;

impl<C: Channel<P>, G: Connect<P>, P: Plugin> Shard<C, G, P> {
    pub(crate) fn new(generation: Arc<Generation<P>>) -> Self {
        let connect = ConnectContext {
            inner: Context::new(Arc::clone(&generation)),
        };
        Self {
            topics: HashMap::new(),
            cx: Context::new(generation),
            connect,
            infos: Infos::default(),
            gate: PhantomData,
        }
    }

    /// Lends the host's functions to the contexts, or takes them back.
    pub(crate) fn lend(&mut self, calls: Option<Calls>) {
        self.cx.calls = calls;
        self.connect.inner.calls = calls;
        log::enter(0, 0);
    }

    /// Handles one event. A panic passes through.
    pub(crate) fn handle(&mut self, event: &Incoming<'_>) -> Done {
        match event.kind {
            event::JOIN => self.join(event),
            event::IN => self.handle_in(event),
            event::OUT => self.handle_out(event),
            event::INFO if event.member == 0 => self.handle_topic_info(event),
            event::INFO => self.handle_info(event),
            event::ANSWER if event.topic == 0 => self.connect_answer(event),
            event::ANSWER => self.join_answer(event),
            event::TERMINATE => self.terminate(event),
            event::CLOSE => self.topics.remove(&event.topic).map_or(Ok(()), Topic::close),
            event::SNAPSHOT => self.snapshot(event),
            event::RESTORE => self.restore(event),
            event::RESTORE_MEMBER => self.restore_member(event),
            event::RESTORED => self.restored(event),
            event::CLAIMS => self.claims(event),
            event::CONNECT => self.connect(event, |request, _, cx| G::connect(request, cx)),
            event::ORIGIN => self.check_origin(event),
            event::CALL => self.handle_call(event),
            event::CLOSING => self.closing(event),
            _ => Err(Fault::Unknown),
        }
    }

    /// Drops everything. A panic in one drop does not stop the others.
    pub(crate) fn close(self) -> Done {
        self.topics.into_values().map(Topic::close).fold(Ok(()), Result::and)
    }

    fn join(&mut self, event: &Incoming<'_>) -> Done {
        let info = self.infos.read(event.info).map_err(Fault::Failed)?;
        let Self { topics, cx, .. } = self;
        let topic = topics
            .entry(event.topic)
            .or_insert_with(|| Topic::new(event.name, C::Shared::default()));
        cx.enter(event.topic, &topic.name, event.member, info);
        let join = C::join(&mut topic.shared, event.payload, cx);
        topic.settle(join, event, cx)
    }

    fn join_answer(&mut self, event: &Incoming<'_>) -> Done {
        let info = self.infos.read(event.info).map_err(Fault::Failed)?;
        let Self { topics, cx, .. } = self;
        let topic = topics.get_mut(&event.topic).ok_or_else(no_topic)?;
        cx.enter(event.topic, &topic.name, event.member, info);
        let join = match event.name {
            // Whoever kept the promise has already refused the join.
            "error" => Err(Refusal::new(event.payload)),
            _ => C::join_answer(&mut topic.shared, event.payload, cx),
        };
        topic.settle(join, event, cx)
    }

    fn handle_in(&mut self, event: &Incoming<'_>) -> Done {
        let Some((member, shared, cx)) = self.member(event) else {
            return Ok(());
        };
        cx.replies = true;
        let handled = member.state.handle_in(shared, event.name, event.payload, cx);
        reply(handled, event, cx);
        Ok(())
    }

    fn handle_call(&mut self, event: &Incoming<'_>) -> Done {
        let name = str::from_utf8(event.info).unwrap_or_default();
        let Self { topics, cx, .. } = self;
        let topic = topics
            .entry(event.topic)
            .or_insert_with(|| Topic::new(name, C::Shared::default()));
        cx.enter(event.topic, &topic.name, 0, None);
        cx.replies = true;
        let handled = C::handle_call(&mut topic.shared, event.name, event.payload, cx);
        reply(handled, event, cx);
        Ok(())
    }

    fn handle_out(&mut self, event: &Incoming<'_>) -> Done {
        let Self { topics, cx, .. } = self;
        let Some(topic) = topics.get_mut(&event.topic) else {
            return Ok(());
        };
        for (number, member) in topic.members.iter_mut().filter(|(number, _)| *number != event.member) {
            cx.enter(event.topic, &topic.name, number, member.info.clone());
            match catch(|| {
                member
                    .state
                    .handle_out(&mut topic.shared, event.name, event.payload, cx)
            }) {
                Ok(()) => cx.emit_stops(),
                // Only this member's channel ends; the others still get the event.
                Err(panic) => drop(cx.emit_stop(number, reason::PANICKED, &panic)),
            }
        }
        Ok(())
    }

    fn handle_info(&mut self, event: &Incoming<'_>) -> Done {
        let Some((member, shared, cx)) = self.member(event) else {
            return Ok(());
        };
        member.state.handle_info(shared, event.name, event.payload, cx);
        cx.emit_stops();
        Ok(())
    }

    fn handle_topic_info(&mut self, event: &Incoming<'_>) -> Done {
        let Self { topics, cx, .. } = self;
        let Some(topic) = topics.get_mut(&event.topic) else {
            return Ok(());
        };
        cx.enter(event.topic, &topic.name, 0, None);
        C::handle_topic_info(&mut topic.shared, event.name, event.payload, cx);
        cx.emit_stops();
        Ok(())
    }

    fn terminate(&mut self, event: &Incoming<'_>) -> Done {
        let Self { topics, cx, .. } = self;
        let Some(topic) = topics.get_mut(&event.topic) else {
            return Ok(());
        };
        let Some(mut member) = topic.members.remove(event.member) else {
            return Ok(());
        };
        cx.enter(event.topic, &topic.name, event.member, member.info.clone());
        let why = Reason::read(event.number, event.name);
        let ended = catch(|| member.state.terminate(&mut topic.shared, why, cx));
        let dropped = drop_caught(member);
        ended.and(dropped).map_err(Fault::Panicked)
    }

    fn claims(&mut self, event: &Incoming<'_>) -> Done {
        let info = self.infos.read(event.info).map_err(Fault::Failed)?;
        let Self { topics, cx, .. } = self;
        let Some(topic) = topics.get_mut(&event.topic) else {
            return Ok(());
        };
        let Some(member) = topic.members.get_mut(event.member) else {
            return Ok(());
        };
        member.info.clone_from(&info);
        cx.enter(event.topic, &topic.name, event.member, info);
        member.state.claims_changed(&mut topic.shared, cx);
        cx.emit_stops();
        Ok(())
    }

    /// The member that `event` is for, with a context for its callback. `None` if it has ended, or has not joined yet.
    fn member(&mut self, event: &Incoming<'_>) -> Option<(&mut Member<C>, &mut C::Shared, &mut Context<P>)> {
        let Self { topics, cx, .. } = self;
        let Topic { name, shared, members } = topics.get_mut(&event.topic)?;
        let member = members.get_mut(event.member)?;
        cx.enter(event.topic, name, event.member, member.info.clone());
        Some((member, shared, cx))
    }
}

/// Sends the answer to an event, and what comes after it.
fn reply<P>(handled: Handled, event: &Incoming<'_>, cx: &mut Context<P>) {
    let Reply { status, body } = handled.unwrap_or_else(Reply::from);
    if let Some(body) = body {
        let (kind, member, name) = (effect::REPLY, event.member, status.as_bytes());
        cx.ask(
            Effect {
                kind,
                member,
                name,
                ..Effect::default()
            },
            body.lend(event.payload),
        );
    }
    cx.emit_stops();
}

fn no_topic() -> Fault {
    Fault::Failed("no such topic on this shard".to_owned())
}
