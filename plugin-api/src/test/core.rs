//! What happens to a plugin in a test, one thing after the other, and what comes of it.
//!
//! The plugin is the real one, called through its [`Module`](crate::abi::Module). What stands here is what the host has between
//! a plugin and a client, and no more: no sockets, no threads, no limits. Where host and test kit differ in what a plugin or
//! its client can see, the test kit is wrong: the transcripts of the host's tests run against both.

mod answers;
mod effects;
mod ends;
mod input;
mod members;
mod reload;
mod step;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::Value;

pub(super) use self::answers::{Connecting, Promise, To};
use self::effects::Timer;
use self::input::Input;
pub(super) use self::members::{ClientInfo, Member, Standing};
pub(super) use self::reload::Generation;
use super::boundary::Outside;
use super::code::Code;
use super::inbox::Message;
use super::presence::Presence;

pub(super) struct Core {
    pub(super) outside: Arc<Outside>,
    pub(super) generations: Vec<Generation>,
    pub(super) settings: String,
    /// Assigns of the route.
    pub(super) route: Option<Value>,
    pub(super) topics: BTreeMap<u64, Topic>,
    pub(super) members: BTreeMap<u64, Member>,
    pub(super) clients: Vec<ClientInfo>,
    pub(super) replies: BTreeMap<u64, (String, super::body::Body)>,
    pub(super) promises: BTreeMap<u64, Promise>,
    pub(super) connects: BTreeMap<u64, Connecting>,
    timers: BTreeMap<u64, Timer>,
    /// Topics without members, and when they end.
    lingering: BTreeMap<u64, Duration>,
    now: Duration,
    queue: VecDeque<Input>,
    last_number: u64,
    /// The next callback panics: see [`Server::inject_panic`](super::Server::inject_panic).
    pub(super) panic_next: bool,
    /// How long to wait for other threads, where the test says so.
    pub(super) patience: Option<Duration>,
}

pub(super) struct Topic {
    pub(super) name: String,
    pub(super) generation: usize,
    /// The plugin holds state of it.
    pub(super) live: bool,
    pub(super) presence: Presence,
    pub(super) broadcasts: Vec<Message>,
}

impl Core {
    pub(super) fn new(code: Code, settings: &str) -> Result<Self, String> {
        let mut core = Self {
            outside: Arc::default(),
            generations: Vec::new(),
            settings: settings.to_owned(),
            route: None,
            topics: BTreeMap::new(),
            members: BTreeMap::new(),
            clients: Vec::new(),
            replies: BTreeMap::new(),
            promises: BTreeMap::new(),
            connects: BTreeMap::new(),
            timers: BTreeMap::new(),
            lingering: BTreeMap::new(),
            now: Duration::ZERO,
            queue: VecDeque::new(),
            last_number: 0,
            panic_next: false,
            patience: None,
        };
        core.load(code)?;
        Ok(core)
    }

    pub(super) fn number(&mut self) -> u64 {
        self.last_number += 1;
        self.last_number
    }

    /// The topic of this name, there or not.
    pub(super) fn topic_number(&mut self, name: &str) -> u64 {
        if let Some((number, _)) = self.topics.iter().find(|(_, topic)| topic.name == name) {
            return *number;
        }
        let (number, generation) = (self.number(), self.generations.len() - 1);
        let topic = Topic {
            name: name.to_owned(),
            generation,
            live: false,
            presence: Presence::default(),
            broadcasts: Vec::new(),
        };
        self.topics.insert(number, topic);
        number
    }

    /// Turns the clock. Timers that become due on the way fire, each at its time.
    pub(super) fn advance(&mut self, by: Duration) {
        self.settle();
        let end = self.now + by;
        loop {
            let timer = self.timers.iter().map(|(&number, timer)| (timer.due, number)).min();
            let topic = self.lingering.iter().map(|(&topic, &due)| (due, topic)).min();
            let (due, input) = match (timer, topic) {
                (Some((due, number)), topic) if topic.is_none_or(|(end, _)| due <= end) => (due, Input::Timer(number)),
                (_, Some((due, topic))) => (due, Input::Linger(topic)),
                _ => break,
            };
            if due > end {
                break;
            }
            self.now = self.now.max(due);
            self.queue.push_back(input);
            self.settle();
        }
        self.now = end;
    }

    /// Handles all that is to be handled now.
    pub(super) fn settle(&mut self) {
        loop {
            let said = self.outside.take();
            self.queue.extend(said.into_iter().map(Input::from));
            let Some(input) = self.queue.pop_front() else {
                return;
            };
            self.dispatch(input);
            self.announce_presence();
        }
    }

    /// Waits for other threads until `done` finds something, or the patience is over.
    pub(super) fn wait_until<T>(&mut self, mut done: impl FnMut(&mut Self) -> Option<T>) -> Option<T> {
        let begin = Instant::now();
        loop {
            self.settle();
            if let Some(found) = done(self) {
                return Some(found);
            }
            let usual = Duration::from_secs(if self.promises.is_empty() { 1 } else { 5 });
            let left = self.patience.unwrap_or(usual).checked_sub(begin.elapsed())?;
            self.outside.wait(left);
        }
    }

    /// The generation that a topic is in.
    fn home(&self, topic: u64) -> Option<usize> {
        self.topics.get(&topic).map(|topic| topic.generation)
    }

    /// The generation that new topics are in.
    fn newest(&self) -> usize {
        self.generations.len() - 1
    }

    pub(super) fn standing(&self, member: u64) -> Standing {
        self.members
            .get(&member)
            .map_or(Standing::Out, |member| member.standing)
    }

    fn topic_mut<T>(&mut self, topic: u64, change: impl FnOnce(&mut Topic) -> T) -> Option<T> {
        self.topics.get_mut(&topic).map(change)
    }

    fn member_mut<T>(&mut self, member: u64, change: impl FnOnce(&mut Member) -> T) -> Option<T> {
        self.members.get_mut(&member).map(change)
    }

    /// What the host knows of the member's client, as a plugin gets it.
    fn info_of(&self, member: u64) -> String {
        self.members
            .get(&member)
            .map_or_else(String::new, |member| member.info.clone())
    }

    /// What goes behind a failure: what the plugin has logged.
    pub(super) fn logged(&self) -> String {
        let log = self.outside.log();
        let lines: String = log.iter().map(|line| format!("\n    {line}")).collect();
        if lines.is_empty() {
            return lines;
        }
        format!("\nthe plugin has logged:{lines}")
    }
}
