//! The effects that a plugin asks for during an event. They are checked at once, and carried out when the event is done.

use std::collections::HashMap;

use bennu_plugin::abi::{effect, error, event, reason};
use bennu_wire::message::{self, Payload};
use bytes::Bytes;
use bytestring::ByteString;
use serde::de::IgnoredAny;

use super::batch::Step;
use super::env::Env;
use super::loader::Effect;
use crate::runtime::channel::{PresenceError, Record, Topic};
use crate::runtime::id::MemberId;

/// One effect, checked.
#[derive(Debug)]
pub(super) enum Fx {
    /// The join is accepted.
    Accept(Payload),
    /// The join is refused.
    Refuse(Payload),
    /// The plugin answers later.
    Later(u64),
    /// A reply, to the current event (token 0) or to an earlier one.
    Reply {
        token: u64,
        status: ByteString,
        payload: Payload,
    },
    /// To one member's client.
    Push {
        member: MemberId,
        event: ByteString,
        payload: Payload,
    },
    /// To all of a topic.
    Broadcast {
        topic: Option<ByteString>,
        event: ByteString,
        payload: Payload,
        except: Option<MemberId>,
    },
    /// The presence of this member has changed.
    Tracked(MemberId),
    /// Sends the presence list to the member.
    PresenceState(MemberId),
    /// The member ends.
    Stop {
        member: MemberId,
        reason: u32,
        text: ByteString,
    },
    /// A message to itself.
    Send {
        number: u64,
        member: Option<MemberId>,
        delay_ms: u64,
        name: ByteString,
        payload: Payload,
    },
    /// A message to another topic.
    SendTo {
        topic: ByteString,
        name: ByteString,
        payload: Payload,
    },
    /// A timer is stopped.
    Cancel(u64),
    /// The topic ends for good.
    Forget,
    /// This generation owes the answer to a promise; 0: the generation that reads it does.
    Answerable { serial: u64, by: u64 },
}

impl Fx {
    /// Whether it tells a client of an error.
    pub(super) fn is_error(&self) -> bool {
        matches!(self, Self::Reply { status, .. } if &**status == "error")
    }

    /// The one member that it concerns, if it concerns only one.
    pub(super) fn concerns(&self) -> Option<MemberId> {
        match self {
            Self::Push { member, .. }
            | Self::Tracked(member)
            | Self::PresenceState(member)
            | Self::Stop { member, .. } => Some(*member),
            Self::Send { member, .. } => *member,
            _ => None,
        }
    }
}

type Noted = Result<(i64, Option<Fx>), i64>;

/// Checks an effect. It changes presence at once, because later reads of the same event have to see that.
pub(super) fn note(
    effect: &Effect<'_>,
    step: &Step,
    topic: &Topic,
    record: &mut Record,
    noted: &[Fx],
    env: &Env,
) -> Noted {
    if effect.binary && is_too_long(effect, topic) {
        return Err(error::FIELD);
    }
    match effect.kind {
        effect::ACCEPT | effect::REFUSE | effect::LATER | effect::REPLY => answer(effect, step, record, noted, env),
        effect::TRACK | effect::UPDATE | effect::UNTRACK | effect::DESCRIBE => {
            presence(effect, step, record, topic, env.slot.config().max_presence_bytes)
        }
        effect::PUSH => {
            let member = present(effect, step, record)?;
            Ok((
                0,
                Some(Fx::Push {
                    member,
                    event: effect.name.into(),
                    payload: object(effect, step)?,
                }),
            ))
        }
        effect::BROADCAST => {
            let topic = (!effect.topic.is_empty()).then(|| effect.topic.into());
            let (event, payload) = (effect.name.into(), object(effect, step)?);
            Ok((
                0,
                Some(Fx::Broadcast {
                    topic,
                    event,
                    payload,
                    except: MemberId::from_number(effect.member),
                }),
            ))
        }
        effect::PRESENCE => Ok((0, Some(Fx::PresenceState(present(effect, step, record)?)))),
        effect::STOP => {
            let member = present(effect, step, record)?;
            let reason = u32::try_from(effect.number)
                .ok()
                .filter(|reason| is_stop(*reason))
                .ok_or(error::INVALID)?;
            Ok((
                0,
                Some(Fx::Stop {
                    member,
                    reason,
                    text: effect.name.into(),
                }),
            ))
        }
        effect::SEND => {
            let member = if effect.member == 0 {
                None
            } else {
                Some(present(effect, step, record)?)
            };
            let waiting = record.timers.len() + noted.iter().filter(|fx| matches!(fx, Fx::Send { .. })).count();
            if waiting >= env.slot.config().max_timers_per_topic {
                return Err(error::LIMIT);
            }
            let number = env.hub.timers.number();
            let (name, payload) = (effect.name.into(), payload(effect, step)?);
            let fx = Fx::Send {
                number,
                member,
                delay_ms: effect.number,
                name,
                payload,
            };
            Ok((i64::try_from(number).map_err(|_| error::LIMIT)?, Some(fx)))
        }
        effect::SEND_TO if effect.topic.is_empty() => Err(error::INVALID),
        effect::SEND_TO => {
            let (topic, name) = (effect.topic.into(), effect.name.into());
            let payload = payload(effect, step)?;
            Ok((0, Some(Fx::SendTo { topic, name, payload })))
        }
        effect::CANCEL => {
            let known = record.timers.contains_key(&effect.number)
                || noted
                    .iter()
                    .any(|fx| matches!(fx, Fx::Send { number, .. } if *number == effect.number));
            if known {
                Ok((0, Some(Fx::Cancel(effect.number))))
            } else {
                Err(error::GONE)
            }
        }
        effect::FORGET => Ok((0, Some(Fx::Forget))),
        effect::PROMISE_READ => Ok((0, Some(answerable(effect, env.generation)))),
        effect::PROMISE_WRITTEN => Ok((0, Some(answerable(effect, 0)))),
        effect::STATE | effect::CONNECT_ACCEPT | effect::CONNECT_REFUSE => Err(error::MISPLACED),
        _ => Err(error::UNKNOWN),
    }
}

/// Whether a header field of a binary message would be too long: each has one byte for its length.
fn is_too_long(effect: &Effect<'_>, topic: &Topic) -> bool {
    let most = usize::from(u8::MAX);
    let topic = if effect.topic.is_empty() {
        &*topic.name
    } else {
        effect.topic
    };
    match effect.kind {
        effect::REPLY | effect::PUSH | effect::BROADCAST => effect.name.len() > most || topic.len() > most,
        effect::ACCEPT | effect::REFUSE => topic.len() > most,
        _ => false,
    }
}

fn answerable(effect: &Effect<'_>, by: u64) -> Fx {
    let serial = effect.token;
    Fx::Answerable { serial, by }
}

/// Reasons that a callback may stop with.
fn is_stop(reason: u32) -> bool {
    matches!(
        reason,
        reason::NORMAL | reason::SHUTDOWN | reason::OTHER | reason::PANICKED
    )
}

fn answer(effect: &Effect<'_>, step: &Step, record: &mut Record, noted: &[Fx], env: &Env) -> Noted {
    let is_join = matches!(step.kind, event::JOIN | event::ANSWER);
    let is_asked = matches!(step.kind, event::IN | event::CALL);
    let answered = noted.iter().any(|fx| {
        matches!(
            fx,
            Fx::Accept(_) | Fx::Refuse(_) | Fx::Later(_) | Fx::Reply { token: 0, .. }
        )
    });
    match effect.kind {
        effect::REPLY if effect.token != 0 => {
            let promised = noted
                .iter()
                .any(|fx| matches!(fx, Fx::Later(serial) if *serial == effect.token));
            let kept = noted
                .iter()
                .any(|fx| matches!(fx, Fx::Reply { token, .. } if *token == effect.token));
            if kept || (!promised && !record.awaited.contains(&effect.token)) {
                return Err(error::GONE);
            }
            let (status, payload) = (effect.name.into(), payload(effect, step)?);
            Ok((
                0,
                Some(Fx::Reply {
                    token: effect.token,
                    status,
                    payload,
                }),
            ))
        }
        _ if answered => Err(error::MISPLACED),
        effect::REPLY if is_asked => {
            let (status, payload) = (effect.name.into(), payload(effect, step)?);
            Ok((
                0,
                Some(Fx::Reply {
                    token: 0,
                    status,
                    payload,
                }),
            ))
        }
        effect::LATER if is_join || is_asked => {
            if record.promises.len() >= env.slot.config().max_promises_per_topic {
                // The client is told in any case.
                let payload = Payload::reason(message::reason::OVERLOADED);
                let status = ByteString::from_static("error");
                let fx = if is_join {
                    Fx::Refuse(payload)
                } else {
                    Fx::Reply {
                        token: 0,
                        status,
                        payload,
                    }
                };
                return Ok((error::LIMIT, Some(fx)));
            }
            let serial = env.hub.number();
            record.awaited.insert(serial);
            Ok((
                i64::try_from(serial).map_err(|_| error::LIMIT)?,
                Some(Fx::Later(serial)),
            ))
        }
        effect::ACCEPT if is_join => Ok((0, Some(Fx::Accept(payload(effect, step)?)))),
        effect::REFUSE if is_join => Ok((0, Some(Fx::Refuse(payload(effect, step)?)))),
        _ => Err(error::MISPLACED),
    }
}

/// Changes the presence of the event's own topic, whose list may take `most` bytes. Other topics keep their lists on other shards.
fn presence(effect: &Effect<'_>, step: &Step, record: &mut Record, topic: &Topic, most: usize) -> Noted {
    if !effect.topic.is_empty() && *effect.topic != *topic.name {
        return Err(error::MISPLACED);
    }
    let key = ByteString::from(effect.name);
    let has_room = |(now, then): (usize, usize)| match then <= most.max(now) {
        true => Ok(()),
        false => Err(error::LIMIT),
    };
    let (done, fx) = match effect.kind {
        effect::DESCRIBE => {
            let extra = json_object(effect, step)?;
            has_room(record.presence_mut().bytes_with_extra(&key, extra.bytes().len()))?;
            if has_key(extra.bytes(), "metas") {
                return Err(error::INVALID);
            }
            (record.presence_mut().describe(&key, extra.bytes()), None)
        }
        kind => {
            let member = present(effect, step, record)?;
            let done = match kind {
                effect::TRACK => {
                    let meta = json_object(effect, step)?;
                    has_room(record.presence_mut().bytes_with(member, &key, meta.bytes().len()))?;
                    record.presence_mut().track(member, &key, meta.bytes())
                }
                effect::UPDATE => {
                    let meta = json_object(effect, step)?;
                    has_room(record.presence_mut().bytes_with(member, &key, meta.bytes().len()))?;
                    record.presence_mut().update(member, &key, meta.bytes())
                }
                _ => record.presence_mut().untrack(member, &key),
            };
            (done, Some(Fx::Tracked(member)))
        }
    };
    match done {
        Ok(()) => Ok((0, fx)),
        Err(PresenceError::Tracked) => Err(error::TRACKED),
        Err(PresenceError::Untracked) => Err(error::UNTRACKED),
    }
}

/// The payload of an effect that must be a JSON object.
fn json_object(effect: &Effect<'_>, step: &Step) -> Result<Payload, i64> {
    object(effect, step).and_then(|payload| {
        if payload.is_binary() {
            Err(error::INVALID)
        } else {
            Ok(payload)
        }
    })
}

/// Whether a JSON object has this key, however it is written.
fn has_key(object: &[u8], key: &str) -> bool {
    serde_json::from_slice::<HashMap<String, IgnoredAny>>(object).is_ok_and(|object| object.contains_key(key))
}

/// The member that an effect names: one that is in, or the one that is joining.
fn present(effect: &Effect<'_>, step: &Step, record: &Record) -> Result<MemberId, i64> {
    let member = MemberId::from_number(effect.member).ok_or(error::GONE)?;
    let joining = matches!(step.kind, event::JOIN | event::ANSWER) && step.member == Some(member);
    if joining || record.is_in(member) {
        Ok(member)
    } else {
        Err(error::GONE)
    }
}

/// A payload that is binary or a JSON object: all that a push or a broadcast may carry.
fn object(effect: &Effect<'_>, step: &Step) -> Result<Payload, i64> {
    let payload = payload(effect, step)?;
    if payload.is_binary() || payload.bytes().trim_ascii_start().first() == Some(&b'{') {
        Ok(payload)
    } else {
        Err(error::INVALID)
    }
}

/// The payload of an effect. If the plugin passes on what it has borrowed, the host neither checks nor copies it.
pub(super) fn payload(effect: &Effect<'_>, step: &Step) -> Result<Payload, i64> {
    if let Some(lent) = step
        .payload()
        .filter(|lent| lent.is_binary() == effect.binary && !effect.payload.is_empty())
        && lent.bytes().as_ptr_range().start == effect.payload.as_ptr()
        && lent.bytes().len() == effect.payload.len()
        && step.input.is_mostly(lent)
    {
        return Ok(lent.clone());
    }
    if effect.binary {
        return Ok(Payload::Binary(Bytes::copy_from_slice(effect.payload)));
    }
    json(effect.payload).map(Payload::Json)
}

/// JSON text of a plugin. Checked once, because text that is not JSON would break every client that gets it.
pub(super) fn json(text: &[u8]) -> Result<Bytes, i64> {
    match serde_json::from_slice::<IgnoredAny>(text) {
        Ok(_) if std::str::from_utf8(text).is_ok() => Ok(Bytes::copy_from_slice(text)),
        _ => Err(error::INVALID),
    }
}
