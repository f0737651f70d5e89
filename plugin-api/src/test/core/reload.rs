//! How a topic's state is written, and read by other code.

use serde::de::DeserializeOwned;

use super::{Core, Generation, Standing};
use crate::abi::{effect, event, reason};
use crate::channel::Old;
use crate::test::boundary::Event;
use crate::test::code::Code;

/// What a topic's state is when it is written: the topic's, and that of each member.
type Written = (Vec<u8>, Vec<(u64, Vec<u8>)>);

impl Core {
    /// What belongs behind a failure: what the plugin has logged.
    pub(in crate::test) fn logged(&self) -> String {
        let lines = self.outside.log();
        if lines.is_empty() {
            return String::new();
        }
        format!("\nthe plugin has logged:\n    {}", lines.join("\n    "))
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
        Old::new(&bytes).read().map_err(|error| error.to_string())
    }

    fn write_state(&mut self, topic: u64) -> Result<Written, String> {
        if !self.topics[&topic].live {
            return Err("nobody has joined it".to_owned());
        }
        let (mut shared, mut members) = (Vec::new(), Vec::new());
        let kind = event::SNAPSHOT;
        for (asked, _) in self.handle(&Event {
            kind,
            topic,
            ..Event::default()
        })? {
            match (asked.kind, asked.member) {
                (effect::STATE, 0) => shared = asked.payload,
                (effect::STATE, member) => members.push((member, asked.payload)),
                // Its state cannot be written: it does not come over.
                (effect::STOP, member) => self.end_unwritten(member, asked.name),
                _ => {}
            }
        }
        Ok((shared, members))
    }

    pub(in crate::test) fn reload(&mut self, code: Code) -> Result<(), String> {
        self.settle();
        let (old, reads) = (self.generations.len() - 1, code.reads());
        let written = self.generations[old].code.manifest.state_version;
        if !reads.contains(&written) {
            let (from, to) = reads.into_inner();
            return Err(format!(
                "the state is of version {written}, the new code reads {from} to {to} (READS_FROM, READS_TO)"
            ));
        }
        self.load(code)
            .map_err(|why| format!("the new code does not start: {why}"))?;
        let topics = self
            .topics
            .iter()
            .filter(|(_, topic)| topic.live && topic.generation == old);
        let topics: Vec<u64> = topics.map(|(&number, _)| number).collect();
        let failures: Vec<String> = topics
            .into_iter()
            .filter_map(|topic| {
                let why = self.carry(topic, old).err()?;
                Some(format!(
                    "`{}` stays on the code before: {why}",
                    self.topics[&topic].name
                ))
            })
            .collect();
        if !self.topics.values().any(|topic| topic.live && topic.generation == old) {
            self.retire(old);
        }
        self.settle();
        if failures.is_empty() {
            Ok(())
        } else {
            Err(failures.join("; "))
        }
    }

    /// Carries a topic's state from the generation `old` to the newest.
    fn carry(&mut self, topic: u64, old: usize) -> Result<(), String> {
        let version = self.generations[old].code.manifest.state_version.into();
        let (shared, members) = self.write_state(topic)?;
        let (new, name) = (self.generations.len() - 1, self.topics[&topic].name.clone());
        let close = Event {
            kind: event::CLOSE,
            topic,
            ..Event::default()
        };
        let topic_state = Event {
            kind: event::RESTORE,
            topic,
            number: version,
            name: &name,
            payload: &shared,
            ..Event::default()
        };
        let infos: Vec<String> = members.iter().map(|(member, _)| self.info_of(*member)).collect();
        let states = members.iter().zip(&infos).map(|((member, state), info)| Event {
            kind: event::RESTORE_MEMBER,
            topic,
            member: *member,
            number: version,
            payload: state,
            info,
            ..Event::default()
        });
        let mut read = Vec::new();
        for event in std::iter::once(topic_state).chain(states) {
            match self.handle_in(new, &event) {
                Ok(asked) => read.extend(asked),
                Err(why) => {
                    let _ = self.handle_in(new, &close);
                    return Err(why);
                }
            }
        }
        let _ = self.handle_in(old, &close);
        self.topic_mut(topic, |topic| topic.generation = new);
        self.apply(topic, read);
        let kind = event::RESTORED;
        if let Ok(asked) = self.handle(&Event {
            kind,
            topic,
            ..Event::default()
        }) {
            self.apply(topic, asked);
        }
        Ok(())
    }

    /// Ends a generation whose topics have all gone elsewhere.
    fn retire(&mut self, old: usize) {
        let Generation { running, .. } = &mut self.generations[old];
        // Its threads end here, and may keep promises until then.
        drop(running.take());
        self.settle();
        self.break_promises(old);
    }

    fn end_unwritten(&mut self, member: u64, why: String) {
        if self.standing(member) == Standing::In {
            self.outside.note(format!("writing state panicked: {why}"));
            self.end_untold(member, reason::PANICKED);
        }
    }
}
