//! What happens to a plugin in a test, one thing after the other: topics, members, timers, promises, and what the effects of
//! an event do once it is done.
//!
//! The plugin itself is the real one, called through its [`Module`](crate::abi::Module). What is here is no more than what
//! stands between it and a client in the host: no sockets, no threads, no limits.

mod answers;
mod clients;
mod effects;
mod ends;
mod reload;
mod step;

use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::Value;

use self::step::Step;
use super::body::Body;
use super::boundary::{Asked, Event, Outside, Running, Said};
use super::code::Code;
use super::presence::Presence;
use crate::abi::{event, outcome, reason};

pub(super) struct Core {
    pub(super) outside: Arc<Outside>,
    pub(super) generations: Vec<Generation>,
    pub(super) settings: String,
    /// Assigns of the route.
    pub(super) route: Option<Value>,
    pub(super) topics: BTreeMap<u64, Topic>,
    pub(super) members: BTreeMap<u64, Member>,
    pub(super) clients: Vec<ClientInfo>,
    pub(super) replies: BTreeMap<u64, (String, Body)>,
    pub(super) promises: BTreeMap<u64, Promise>,
    pub(super) connects: BTreeMap<u64, Connecting>,
    timers: BTreeMap<u64, Timer>,
    now: Duration,
    queue: VecDeque<Input>,
    last_number: u64,
    pub(super) panic_next: bool,
    /// How long to wait for other threads, where the test says so.
    pub(super) patience: Option<Duration>,
}

/// One load of the plugin. It ends when nothing is left in it.
pub(super) struct Generation {
    pub(super) code: Code,
    pub(super) running: Option<Rc<Running>>,
}

pub(super) struct Topic {
    pub(super) name: String,
    pub(super) generation: usize,
    /// The plugin holds state of it.
    pub(super) live: bool,
    pub(super) presence: Presence,
    pub(super) broadcasts: Vec<Message>,
}

pub(super) struct Member {
    pub(super) topic: u64,
    pub(super) client: usize,
    pub(super) standing: Standing,
    info: String,
    /// What its join was answered.
    pub(super) answer: Option<Result<Body, Body>>,
    /// What its client got, but for replies, and no assertion has taken.
    pub(super) inbox: Vec<Message>,
    /// Events that wait for the join's answer.
    waiting: Vec<Input>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    Pending,
    In,
    Out,
}

#[derive(Clone, Debug)]
pub(super) struct Message {
    pub(super) kind: &'static str,
    pub(super) event: String,
    pub(super) body: Body,
}

#[derive(Default)]
pub(super) struct ClientInfo {
    pub(super) socket_id: Option<String>,
    pub(super) assigns: Option<Value>,
    pub(super) closed: bool,
}

pub(super) struct Promise {
    pub(super) to: To,
    /// The generation that answers for it; `None`: whoever reads it.
    by: Option<usize>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum To {
    Push { member: u64, push: u64 },
    Join { member: u64 },
    Connect { number: u64 },
}

/// Socket id and assigns, or status and body.
pub(super) type ConnectAnswer = Result<(String, Body), (u16, Option<Body>)>;

/// A client that wants to connect.
#[derive(Default)]
pub(super) struct Connecting {
    pub(super) info: String,
    pub(super) answer: Option<ConnectAnswer>,
}

struct Timer {
    due: Duration,
    topic: u64,
    member: u64,
    name: String,
    body: Body,
}

enum Input {
    Join {
        member: u64,
        params: Body,
    },
    In {
        member: u64,
        push: u64,
        event: String,
        body: Body,
    },
    Out {
        topic: u64,
        event: String,
        body: Body,
        except: u64,
    },
    Info {
        topic: u64,
        member: u64,
        name: String,
        body: Body,
    },
    Timer(u64),
    Complete {
        serial: u64,
        status: String,
        body: Body,
    },
    End {
        member: u64,
        reason: u32,
        text: String,
        kind: Option<&'static str>,
        leave: Option<u64>,
    },
    Connect {
        number: u64,
    },
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
            now: Duration::ZERO,
            queue: VecDeque::new(),
            last_number: 0,
            panic_next: false,
            patience: None,
        };
        core.load(code)?;
        Ok(core)
    }

    /// Starts another generation; what joins from now on joins that.
    pub(super) fn load(&mut self, code: Code) -> Result<(), String> {
        let running = Some(Rc::new(Running::start(code.module, &self.settings, &self.outside)?));
        self.generations.push(Generation { code, running });
        Ok(())
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

    /// Turns the clock; timers that are due on the way arrive, each at its time.
    pub(super) fn advance(&mut self, by: Duration) {
        self.settle();
        let end = self.now + by;
        loop {
            let next = self.timers.iter().map(|(&number, timer)| (timer.due, number)).min();
            let Some((due, number)) = next.filter(|(due, _)| *due <= end) else {
                break;
            };
            self.now = self.now.max(due);
            self.queue.push_back(Input::Timer(number));
            self.settle();
        }
        self.now = end;
    }

    /// Handles all that is to be handled now.
    pub(super) fn settle(&mut self) {
        loop {
            for said in self.outside.take() {
                self.queue.push_back(match said {
                    Said::Complete { serial, status, body } => Input::Complete { serial, status, body },
                    Said::Send {
                        topic,
                        member,
                        name,
                        body,
                    } => Input::Info {
                        topic,
                        member,
                        name,
                        body,
                    },
                });
            }
            let Some(input) = self.queue.pop_front() else {
                return;
            };
            self.dispatch(input);
            self.announce_presence();
        }
    }

    /// Waits for what other threads have to say until `done`, as long as there is patience.
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

    fn dispatch(&mut self, input: Input) {
        match input {
            Input::Join { member, params } => {
                let topic = self.members[&member].topic;
                if !self.topics[&topic].live {
                    // A topic comes into being in the code of the day.
                    let newest = self.generations.len() - 1;
                    self.topic_mut(topic, |topic| (topic.live, topic.generation) = (true, newest));
                }
                self.join_event(event::JOIN, member, 0, "", &params);
            }
            Input::In {
                member,
                push,
                event,
                body,
            } => self.pushed(member, push, event, body),
            Input::Out {
                topic,
                event: name,
                body,
                except,
            } => {
                let anybody = self.members.values().any(|member| member.topic == topic);
                if anybody && self.topics[&topic].live {
                    self.event(event::OUT, topic, except, &name, &body);
                }
            }
            Input::Timer(number) => {
                if let Some(Timer {
                    topic,
                    member,
                    name,
                    body,
                    ..
                }) = self.timers.remove(&number)
                {
                    self.dispatch(Input::Info {
                        topic,
                        member,
                        name,
                        body,
                    });
                }
            }
            Input::Info {
                topic,
                member,
                name,
                body,
            } => {
                let there = match member {
                    0 => self.topics.get(&topic).is_some_and(|topic| topic.live),
                    member => self.standing(member) == Standing::In,
                };
                if there {
                    self.event(event::INFO, topic, member, &name, &body);
                }
            }
            Input::Complete { serial, status, body } => self.keep_promise(serial, status, body),
            Input::End {
                member,
                reason,
                text,
                kind,
                leave,
            } => self.ended(member, reason, &text, kind, leave),
            Input::Connect { number } => self.connect_event(event::CONNECT, number, 0, "", &Body::json(&Value::Null)),
        }
    }

    fn home(&self, topic: u64) -> Option<usize> {
        self.topics.get(&topic).map(|topic| topic.generation)
    }

    pub(super) fn standing(&self, member: u64) -> Standing {
        self.members
            .get(&member)
            .map_or(Standing::Out, |member| member.standing)
    }

    pub(super) fn topic_mut<T>(&mut self, topic: u64, change: impl FnOnce(&mut Topic) -> T) -> Option<T> {
        self.topics.get_mut(&topic).map(change)
    }

    fn member_mut<T>(&mut self, member: u64, change: impl FnOnce(&mut Member) -> T) -> Option<T> {
        self.members.get_mut(&member).map(change)
    }

    /// Hands an event to the plugin; what it asked for takes effect, but for answers, which are returned.
    fn event(&mut self, kind: u32, topic: u64, member: u64, name: &str, body: &Body) -> Vec<(Asked, i64)> {
        let event = Event {
            kind,
            topic,
            member,
            name,
            payload: &body.bytes,
            binary: body.binary,
            ..Event::default()
        };
        match self.handle(&event) {
            Ok(asked) => self.apply(topic, asked),
            Err(panic) => {
                let ends = member != 0 && matches!(kind, event::IN | event::INFO);
                if ends {
                    self.end_next(member, reason::PANICKED, panic);
                }
                Vec::new()
            }
        }
    }

    /// Has the plugin handle an event, and says what it asked for; nothing if it panicked.
    pub(super) fn handle(&mut self, event: &Event<'_>) -> Result<Vec<(Asked, i64)>, String> {
        let generation = match event.topic {
            0 => self.generations.len() - 1,
            topic => self.topics[&topic].generation,
        };
        self.handle_in(generation, event)
    }

    pub(super) fn handle_in(&mut self, generation: usize, event: &Event<'_>) -> Result<Vec<(Asked, i64)>, String> {
        let Some(running) = self.generations[generation].running.clone() else {
            return Err("its generation has ended".to_owned());
        };
        let presence = self.topics.get(&event.topic).map(|topic| topic.presence.clone());
        let mut step = Step {
            core: self,
            kind: event.kind,
            topic: event.topic,
            member: event.member,
            asked: Vec::new(),
            outcome: outcome::FAILED,
            message: "the plugin did not say that it was done".to_owned(),
        };
        running.handle(event, &mut step);
        let Step {
            asked,
            outcome,
            message,
            ..
        } = step;
        let injected = std::mem::take(&mut self.panic_next) && outcome == outcome::OK;
        if outcome == outcome::OK && !injected {
            return Ok(asked);
        }
        if let Some(presence) = presence {
            self.topic_mut(event.topic, |topic| topic.presence = presence);
        }
        let message = if injected {
            "a panic that the test injected".to_owned()
        } else {
            message
        };
        let failed = if outcome == outcome::FAILED {
            "failed"
        } else {
            "panicked"
        };
        self.outside.note(format!("{} {failed}: {message}", callback(event)));
        Err(message)
    }

    /// What the host knows of the member's client, as it is sent to a plugin.
    pub(super) fn info_of(&self, member: u64) -> String {
        self.members
            .get(&member)
            .map_or_else(String::new, |member| member.info.clone())
    }
}

/// The author's name for what is called.
fn callback(event: &Event<'_>) -> &'static str {
    match event.kind {
        event::JOIN => "join",
        event::ANSWER if event.topic == 0 => "connect_answer",
        event::ANSWER => "join_answer",
        event::IN => "handle_in",
        event::OUT => "handle_out",
        event::INFO if event.member == 0 => "handle_topic_info",
        event::INFO => "handle_info",
        event::TERMINATE => "terminate",
        event::RESTORED => "restored",
        event::CONNECT => "connect",
        event::SNAPSHOT => "writing state",
        event::RESTORE => "migrate_shared",
        event::RESTORE_MEMBER => "migrate",
        _ => "drop",
    }
}
