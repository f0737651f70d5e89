//! What a shard keeps, and what each kind of event does to it.
//!
//! A panic goes through here to `glue`, which reports it; it is caught here only where one event visits several members or
//! something must be dropped whatever happens.

use std::collections::{BTreeMap, HashMap};
use std::marker::PhantomData;
use std::rc::Rc;
use std::sync::Arc;

use serde::Serialize;
use serde_json::json;

use crate::abi::{effect, event, flag, reason};
use crate::channel::{Channel, Old, read_member, read_shared};
use crate::connect::{Answer, Connect, ConnectContext, ConnectRequest, Denial, Origin};
use crate::context::Context;
use crate::glue::{Calls, Effect, Generation, Incoming};
use crate::info::Infos;
use crate::log;
use crate::panics::{catch, drop_caught};
use crate::plugin::Plugin;
use crate::reply::{Entry, Join, Joined, Reason, Refusal, Reply};
use crate::wire::MemberInfo;

/// The topics of one shard, and the members in them.
pub(crate) struct Shard<C: Channel<P>, G, P: Plugin> {
    topics: HashMap<u64, Topic<C, C::Shared>>,
    cx: Context<P>,
    connect: ConnectContext<P>,
    infos: Infos,
    gate: PhantomData<fn() -> G>,
}

struct Topic<C, S> {
    name: Rc<str>,
    shared: S,
    /// In the order of joining.
    members: BTreeMap<u64, Member<C>>,
}

struct Member<C> {
    state: C,
    info: Option<Rc<MemberInfo>>,
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

    /// Gives the contexts the host's functions, or takes them back.
    pub(crate) fn lend(&mut self, calls: Option<Calls>) {
        self.cx.calls = calls;
        self.connect.inner.calls = calls;
        log::enter(0, 0);
    }

    /// Handles one event. A panic comes through.
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
            event::CONNECT => self.connect(event, |request, _, cx| G::connect(request, cx)),
            event::ORIGIN => self.check_origin(event),
            _ => Err(Fault::Unknown),
        }
    }

    /// Drops everything, as far as panics let it.
    pub(crate) fn close(self) -> Done {
        self.topics.into_values().map(Topic::close).fold(Ok(()), Result::and)
    }

    fn join(&mut self, event: &Incoming<'_>) -> Done {
        let info = self.infos.read(event.info).map_err(Fault::Failed)?;
        let Self { topics, cx, .. } = self;
        let topic = topics
            .entry(event.topic)
            .or_insert_with(|| Topic::new(event.name, C::Shared::default()));
        cx.enter(event, topic, event.member, info);
        let join = C::join(&mut topic.shared, event.payload, cx);
        topic.settle(join, event, cx)
    }

    fn join_answer(&mut self, event: &Incoming<'_>) -> Done {
        let info = self.infos.read(event.info).map_err(Fault::Failed)?;
        let Self { topics, cx, .. } = self;
        let topic = topics.get_mut(&event.topic).ok_or_else(no_topic)?;
        cx.enter(event, topic, event.member, info);
        let join = match event.name {
            // Whoever kept the promise has decided already.
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
        Ok(())
    }

    fn handle_out(&mut self, event: &Incoming<'_>) -> Done {
        let Self { topics, cx, .. } = self;
        let Some(topic) = topics.get_mut(&event.topic) else {
            return Ok(());
        };
        for (&number, member) in topic.members.iter_mut().filter(|(number, _)| **number != event.member) {
            cx.enter_at(event.topic, &topic.name, number, member.info.clone());
            match catch(|| {
                member
                    .state
                    .handle_out(&mut topic.shared, event.name, event.payload, cx)
            }) {
                Ok(()) => cx.emit_stops(),
                // Only this member's channel ends; the event goes on to the others.
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
        cx.enter(event, topic, 0, None);
        C::handle_topic_info(&mut topic.shared, event.name, event.payload, cx);
        cx.emit_stops();
        Ok(())
    }

    fn restored(&mut self, event: &Incoming<'_>) -> Done {
        let Self { topics, cx, .. } = self;
        let topic = topics.get_mut(&event.topic).ok_or_else(no_topic)?;
        cx.enter(event, topic, 0, None);
        C::restored(&mut topic.shared, cx);
        cx.emit_stops();
        Ok(())
    }

    fn terminate(&mut self, event: &Incoming<'_>) -> Done {
        let Self { topics, cx, .. } = self;
        let Some(topic) = topics.get_mut(&event.topic) else {
            return Ok(());
        };
        let Some(mut member) = topic.members.remove(&event.member) else {
            return Ok(());
        };
        cx.enter(event, topic, event.member, member.info.clone());
        let why = Reason::read(event.number, event.name);
        let ended = catch(|| member.state.terminate(&mut topic.shared, why, cx));
        let dropped = drop_caught(member);
        ended.and(dropped).map_err(Fault::Panicked)
    }

    fn snapshot(&mut self, event: &Incoming<'_>) -> Done {
        let Self { topics, cx, .. } = self;
        let topic = topics.get(&event.topic).ok_or_else(no_topic)?;
        cx.enter(event, topic, 0, None);
        let mut bytes = Vec::new();
        write_state(0, &topic.shared, &mut bytes, cx)?;
        for (&number, member) in &topic.members {
            match catch(|| write_state(number, &member.state, &mut bytes, cx)) {
                Ok(written) => written?,
                // Only this member's channel ends; the others go on. A host that does not know that gets none of them.
                Err(panic) if cx.emit_stop(number, reason::PANICKED, &panic) < 0 => return Err(Fault::Panicked(panic)),
                Err(_) => {}
            }
        }
        Ok(())
    }

    fn restore(&mut self, event: &Incoming<'_>) -> Done {
        let shared = read_shared::<C, P>(version(event), Old::new(event.payload.bytes()))
            .map_err(|error| Fault::Failed(format!("the topic's state: {error}")))?;
        self.topics.insert(event.topic, Topic::new(event.name, shared));
        Ok(())
    }

    fn restore_member(&mut self, event: &Incoming<'_>) -> Done {
        let info = self.infos.read(event.info).map_err(Fault::Failed)?;
        let topic = self.topics.get_mut(&event.topic).ok_or_else(no_topic)?;
        let state = read_member::<C, P>(version(event), Old::new(event.payload.bytes()))
            .map_err(|error| Fault::Failed(format!("a member's state: {error}")))?;
        topic.members.insert(event.member, Member { state, info });
        Ok(())
    }

    fn connect_answer(&mut self, event: &Incoming<'_>) -> Done {
        let status = event.name.parse().ok();
        self.connect(event, |request, answer, cx| match status {
            // Whoever kept the promise has decided already.
            Some(status) => Err(Denial::status(status).body(answer)),
            None => G::connect_answer(request, answer, cx),
        })
    }

    fn connect(
        &mut self,
        event: &Incoming<'_>,
        decide: impl FnOnce(&ConnectRequest, crate::Payload<'_>, &mut ConnectContext<P>) -> crate::Connected,
    ) -> Done {
        let request = ConnectRequest::read(event.info).map_err(Fault::Failed)?;
        self.connect.inner.enter_at(0, &"".into(), 0, None);
        let connected = decide(&request, event.payload, &mut self.connect);
        let cx = &self.connect.inner;
        match connected.map(|connection| connection.0) {
            Ok(Answer::Now { id, assigns }) => {
                let (kind, name) = (effect::CONNECT_ACCEPT, id.as_bytes());
                cx.ask(
                    Effect {
                        kind,
                        name,
                        ..Effect::default()
                    },
                    assigns.lend(event.payload),
                );
            }
            Ok(Answer::Later) => cx.check_promised("connect"),
            Err(denial) => {
                let refusal = Effect {
                    kind: effect::CONNECT_REFUSE,
                    number: denial.status.into(),
                    ..Effect::default()
                };
                match denial.body {
                    Some(body) => cx.ask(refusal, body.lend(event.payload)),
                    None => cx.emit(&refusal),
                };
            }
        }
        Ok(())
    }

    fn check_origin(&mut self, event: &Incoming<'_>) -> Done {
        let origin = Origin::read(event.info).map_err(Fault::Failed)?;
        self.connect.inner.enter_at(0, &"".into(), 0, None);
        let answer = if G::check_origin(&origin, self.connect.plugin()) {
            Effect {
                kind: effect::CONNECT_ACCEPT,
                ..Effect::default()
            }
        } else {
            Effect {
                kind: effect::CONNECT_REFUSE,
                number: 403,
                ..Effect::default()
            }
        };
        self.connect.inner.emit(&answer);
        Ok(())
    }

    /// The member that `event` is for, ready for its callback. `None` if it is no more, or has not joined yet.
    fn member(&mut self, event: &Incoming<'_>) -> Option<(&mut Member<C>, &mut C::Shared, &mut Context<P>)> {
        let Self { topics, cx, .. } = self;
        let Topic { name, shared, members } = topics.get_mut(&event.topic)?;
        let member = members.get_mut(&event.member)?;
        cx.enter_at(event.topic, name, event.member, member.info.clone());
        Some((member, shared, cx))
    }
}

impl<C, S> Topic<C, S> {
    fn new(name: &str, shared: S) -> Self {
        Self {
            name: name.into(),
            shared,
            members: BTreeMap::new(),
        }
    }

    /// Tells the host how a join ended, and keeps the member.
    fn settle<P>(&mut self, join: Join<C>, event: &Incoming<'_>, cx: &Context<P>) -> Done {
        let effect = |kind| Effect {
            kind,
            member: event.member,
            ..Effect::default()
        };
        match join.map(|Joined(entry)| entry) {
            Ok(Entry::Now(state, body)) => {
                if cx.ask(effect(effect::ACCEPT), body.lend(event.payload)) >= 0 {
                    self.members.insert(
                        event.member,
                        Member {
                            state,
                            info: cx.info.clone(),
                        },
                    );
                } else {
                    cx.ask(effect(effect::REFUSE), json!({ "reason": "invalid answer" }));
                }
            }
            Ok(Entry::Later) => cx.check_promised("join"),
            Err(refusal) => {
                cx.ask(effect(effect::REFUSE), refusal.into_body().lend(event.payload));
            }
        }
        cx.emit_stops();
        Ok(())
    }

    /// Drops everything, each member by itself: one that panics keeps no other from being dropped.
    fn close(self) -> Done {
        let members = self.members.into_values().map(drop_caught).fold(Ok(()), Result::and);
        members.and(drop_caught(self.shared)).map_err(Fault::Panicked)
    }
}

impl<P> Context<P> {
    fn enter<C, S>(&mut self, event: &Incoming<'_>, topic: &Topic<C, S>, member: u64, info: Option<Rc<MemberInfo>>) {
        self.enter_at(event.topic, &topic.name, member, info);
    }

    /// Gets ready for a callback.
    fn enter_at(&mut self, topic: u64, name: &Rc<str>, member: u64, info: Option<Rc<MemberInfo>>) {
        log::enter(topic, member);
        self.topic = topic;
        self.name = Rc::clone(name);
        self.member = member;
        self.info = info;
        self.replies = false;
        self.promised.set(false);
        self.forget_stops();
    }

    /// # Panics
    ///
    /// If there is no promise: the client would wait for ever.
    fn check_promised(&self, what: &str) {
        assert!(
            self.promised.get(),
            "a {what} that is answered later calls `cx.later()` first"
        );
    }
}

fn write_state<T: Serialize, P>(member: u64, state: &T, bytes: &mut Vec<u8>, cx: &Context<P>) -> Done {
    let whose = if member == 0 {
        "the topic's state"
    } else {
        "a member's state"
    };
    bytes.clear();
    rmp_serde::encode::write_named(bytes, state).map_err(|error| Fault::Failed(format!("{whose}: {error}")))?;
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

fn no_topic() -> Fault {
    Fault::Failed("no such topic on this shard".to_owned())
}
