//! How code is loaded, and how a topic's state goes from one generation to the next.

use std::rc::Rc;

use serde::de::DeserializeOwned;

use super::step::Noted;
use super::{Core, Standing};
use crate::abi::{effect, event};
use crate::state;
use crate::test::boundary::{Event, Running};
use crate::test::code::Code;

/// One load of the plugin. It ends when no topic is left in it.
pub(in crate::test) struct Generation {
    pub(in crate::test) code: Code,
    pub(in crate::test) running: Option<Rc<Running>>,
}

/// A topic's state, and that of each member.
type Written = (Vec<u8>, Vec<(u64, Vec<u8>)>);

impl Core {
    /// Starts another generation: topics that come into being from now on are in that one.
    pub(super) fn load(&mut self, code: Code) -> Result<(), String> {
        Running::check(code.module, &self.settings)?;
        let running = Running::start(code.module, &self.settings, &self.outside)?;
        let running = Some(Rc::new(running));
        self.generations.push(Generation { code, running });
        Ok(())
    }

    /// The state of a topic (member 0) or of a member.
    pub(in crate::test) fn state_of<T: DeserializeOwned>(&mut self, topic: u64, member: u64) -> Result<T, String> {
        self.settle();
        let (shared, members) = self.write_state(topic)?;
        let bytes = match member {
            0 => Some(shared),
            member => members
                .into_iter()
                .find(|(of, _)| *of == member)
                .map(|(_, bytes)| bytes),
        };
        let bytes = bytes.ok_or("there is none")?;
        state::read(&bytes).map_err(|error| error.to_string())
    }

    fn write_state(&mut self, topic: u64) -> Result<Written, String> {
        if !self.topics[&topic].live {
            return Err("nobody has joined it".to_owned());
        }
        let (mut shared, mut members) = (Vec::new(), Vec::new());
        let kind = event::SNAPSHOT;
        let noted = self.handle(&Event {
            kind,
            topic,
            ..Event::default()
        })?;
        for Noted { asked, .. } in noted {
            match (asked.kind, asked.member) {
                (effect::STATE, 0) => shared = asked.body.bytes,
                (effect::STATE, member) => members.push((member, asked.body.bytes)),
                // The plugin cannot write this member: it does not move.
                (effect::STOP, member) => self.end_unwritten(member, asked.name),
                _ => {}
            }
        }
        Ok((shared, members))
    }

    pub(in crate::test) fn reload(&mut self, code: Code) -> Result<(), String> {
        self.settle();
        let old = self.newest();
        code.check_reads(self.generations[old].code.manifest.state_version)?;
        self.load(code)
            .map_err(|why| format!("cannot start the new code: {why}"))?;
        let topics = self
            .topics
            .iter()
            .filter(|(_, topic)| topic.live && topic.generation == old);
        let topics: Vec<u64> = topics.map(|(&number, _)| number).collect();
        let failures: Vec<String> = topics
            .into_iter()
            .filter_map(|topic| {
                let why = self.carry(topic, old).err()?;
                Some(format!("`{}` stays with the old code: {why}", self.topics[&topic].name))
            })
            .collect();
        self.retire_empty(old);
        self.settle();
        if failures.is_empty() {
            Ok(())
        } else {
            Err(failures.join("; "))
        }
    }

    /// Carries a topic's state from the generation `old` to the newest.
    fn carry(&mut self, topic: u64, old: usize) -> Result<(), String> {
        let version = self.generations[old].code.manifest.state_version;
        let state = self.write_state(topic)?;
        let new = self.newest();
        try_migration(&self.generations[new].code, version, &state)?;
        let read = self.read_state(new, topic, version, &state)?;
        let _ = self.handle_in(old, &close(topic));
        self.topic_mut(topic, |topic| topic.generation = new);
        self.taken_over(topic, read);
        Ok(())
    }

    /// Makes a topic from state of this version. Each of its members has a client of its own.
    pub(in crate::test) fn restore(
        &mut self,
        name: &str,
        version: u32,
        shared: Vec<u8>,
        members: Vec<Vec<u8>>,
    ) -> Result<Vec<u64>, String> {
        let newest = self.newest();
        self.generations[newest].code.check_reads(version)?;
        let topic = self.topic_number(name);
        if self.topics[&topic].live {
            return Err("somebody has already joined it".to_owned());
        }
        let members: Vec<_> = members
            .into_iter()
            .map(|state| (self.restored_member(topic), state))
            .collect();
        let numbers = members.iter().map(|(number, _)| *number).collect();
        let state = (shared, members);
        try_migration(&self.generations[newest].code, version, &state)?;
        let read = self.read_state(newest, topic, version, &state)?;
        self.topic_mut(topic, |topic| (topic.live, topic.generation) = (true, newest));
        self.taken_over(topic, read);
        self.settle();
        Ok(numbers)
    }

    /// Has a generation read a topic's state. If it fails, it drops what it has read.
    fn read_state(
        &mut self,
        generation: usize,
        topic: u64,
        version: u32,
        (shared, members): &Written,
    ) -> Result<Vec<Noted>, String> {
        let (name, number) = (self.topics[&topic].name.clone(), version.into());
        let infos: Vec<String> = members.iter().map(|(member, _)| self.info_of(*member)).collect();
        let topic_state = Event {
            kind: event::RESTORE,
            topic,
            number,
            name: &name,
            payload: shared,
            ..Event::default()
        };
        let states = members.iter().zip(&infos).map(|((member, state), info)| Event {
            kind: event::RESTORE_MEMBER,
            topic,
            member: *member,
            number,
            payload: state,
            info,
            ..Event::default()
        });
        let mut read = Vec::new();
        for event in std::iter::once(topic_state).chain(states) {
            match self.handle_in(generation, &event) {
                Ok(asked) => read.extend(asked),
                Err(why) => {
                    let _ = self.handle_in(generation, &close(topic));
                    return Err(why);
                }
            }
        }
        Ok(read)
    }

    /// Another generation serves the topic from now on.
    fn taken_over(&mut self, topic: u64, read: Vec<Noted>) {
        self.apply(topic, read);
        let kind = event::RESTORED;
        if let Ok(asked) = self.handle(&Event {
            kind,
            topic,
            ..Event::default()
        }) {
            self.apply(topic, asked);
        }
    }

    /// Ends a generation if no topic is left in it.
    pub(super) fn retire_empty(&mut self, old: usize) {
        if self.topics.values().any(|topic| topic.live && topic.generation == old) {
            return;
        }
        let Generation { running, .. } = &mut self.generations[old];
        // Its threads end here; they may keep promises until then.
        drop(running.take());
        self.settle();
        self.break_promises(old);
    }

    fn end_unwritten(&mut self, member: u64, why: String) {
        if self.standing(member) == Standing::In {
            self.outside.note(format!("snapshot panicked: {why}"));
            self.end_untold(member);
        }
    }
}

/// Checks that what a migration makes can be read again. The host does so in its probe.
fn try_migration(code: &Code, version: u32, (shared, members): &Written) -> Result<(), String> {
    if version == code.manifest.state_version {
        return Ok(());
    }
    Running::try_restore(code.module, event::RESTORE, version, shared)
        .map_err(|why| format!("the topic's state: {why}"))?;
    members.iter().try_for_each(|(_, member)| {
        Running::try_restore(code.module, event::RESTORE_MEMBER, version, member)
            .map_err(|why| format!("a member's state: {why}"))
    })
}

/// The end of a topic, for which no callback runs.
fn close(topic: u64) -> Event<'static> {
    Event {
        kind: event::CLOSE,
        topic,
        ..Event::default()
    }
}
